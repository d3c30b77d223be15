"""`cms setup` through the command line, with a `claude` that does as the real one was seen to do.

The stand-in writes its files anew in its own format, adds what it adds on a first start, and connects to
nothing. The real one is run by tests/real.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import cyclopts
import msgspec
import pytest

from cli.terminal import OnTerminal
from cms.cli.app import main
from cms.setup.install import guide_text

# Before the commands, as in tests/cli.
assert cyclopts.__name__ in sys.modules

#: Odd on purpose: four spaces, escapes, a number that JavaScript cannot hold, a comment-like key.
HAND_MADE = (
    '{\n    "mcpServers": {\n        "other": {"command": "x", "args": ["\\u00e9", "é"], "n": 1.0,'
    ' "big": 12345678901234567890}\n    },\n\t"//": [1,2,   3]\n}\n'
)

STAND_IN = """\
import json, os, sys
from pathlib import Path

words = sys.argv[1:]
home = Path(os.environ["HOME"])
config = Path(os.environ.get("CLAUDE_CONFIG_DIR") or home)
own, project = config / ".claude.json", Path(".mcp.json")
(home / "calls").open("a").write(json.dumps(words) + "\\n")
if os.environ.get("FAKE_FAILS") == words[1]:
    sys.exit("error: unknown command " + words[1])

def load(path):
    return json.loads(path.read_text()) if path.exists() else {}

def save(path, value):
    text = json.dumps(value, indent=2, ensure_ascii=False)
    path.write_text(text.replace("12345678901234567890", "12345678901234567000"))

def own_file():
    if not own.exists():
        backups = (config if os.environ.get("CLAUDE_CONFIG_DIR") else home / ".claude") / "backups"
        backups.mkdir(parents=True)
        (backups / ".claude.json.backup.1").write_text("{}")
    save(own, {"firstStartTime": "now", **load(own)})

own_file()
name = "cms"
if words[:2] == ["mcp", "add"]:
    path = own if words[words.index("--scope") + 1] == "user" else project
    found = load(path)
    if name in found.setdefault("mcpServers", {}):
        sys.exit("MCP server cms already exists")
    rest = words[words.index("--") + 1:]
    env = dict(word.split("=", 1) for word in words[:words.index("--")] if "=" in word)
    found["mcpServers"][name] = {"type": "stdio", "command": rest[0], "args": rest[1:], "env": env}
    save(path, found)
elif words[:2] == ["mcp", "remove"]:
    path = own if words[words.index("--scope") + 1] == "user" else project
    found = load(path)
    del found["mcpServers"][name]
    save(path, found)
elif words[:2] == ["mcp", "get"]:
    save(own, {**load(own), "userID": "u"})
    if name in load(own).get("mcpServers", {}):
        print("cms:\\n  Scope: User config\\n  Status: " + os.environ.get("FAKE_STATUS", "✔ Connected"))
    elif name in load(project).get("mcpServers", {}):
        print("cms:\\n  Scope: Project config\\n  Status: ⏸ Pending approval")
    else:
        sys.exit('No MCP server named "cms"')
"""


class Ran(msgspec.Struct, frozen=True):
    code: int
    out: str
    err: str


class Report(msgspec.Struct, rename="camel"):
    changed: bool
    steps: list[str]
    health: str | None
    command: list[str]
    guide: str | None = None


class Machine:
    """A HOME with a stand-in for `claude`, and a project."""

    def __init__(self, root: Path, capture: pytest.CaptureFixture[bytes]) -> None:
        self._capture = capture
        self.home, self.project = root / "home", root / "project"
        for folder in (self.home, self.project):
            folder.mkdir()
        claude = root / "claude"
        claude.write_text(f"#!{sys.executable} -I\n{textwrap.dedent(STAND_IN)}")
        claude.chmod(0o755)
        self.env = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry),
            "HOME": str(self.home),
            "CMS_CLAUDE": str(claude),
            "LANG": "C.UTF-8",
        }
        self.own, self.shared = self.home / ".claude.json", self.project / ".mcp.json"

    def setup(self, *words: str, env: dict[str, str] | None = None) -> Ran:
        return self.run("setup", *words, env=env)

    def run(self, *words: str, env: dict[str, str] | None = None) -> Ran:
        # In this process: most of what these tests take would be the start of another.
        with pytest.MonkeyPatch.context() as patch:
            for name in os.environ:
                patch.delenv(name)
            for name, value in {**self.env, **(env or {})}.items():
                patch.setenv(name, value)
            patch.chdir(self.project)
            code = main(words)
        out, err = self._capture.readouterr()
        return Ran(code, out.decode(), err.decode())

    def run_apart(self, *words: str) -> Ran:
        """In a process of its own."""
        done = subprocess.run(
            [sys.executable, "-m", "cms", *words],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            env=self.env,
            cwd=self.project,
            timeout=30,
            check=False,
        )
        return Ran(done.returncode, done.stdout, done.stderr)

    def report(self, *words: str) -> Report:
        ran = self.setup(*words, "--json")
        assert ran.code == 0, ran
        return msgspec.json.decode(ran.out, type=Report)

    def changes_asked(self) -> list[list[str]]:
        """The commands to `claude` that change something, so far."""
        lines = (self.home / "calls").read_text().splitlines() if (self.home / "calls").exists() else []
        calls = [msgspec.json.decode(line, type=list[str]) for line in lines]
        return [words for words in calls if words[1] != "get"]

    def everything(self) -> dict[str, str]:
        """Each file and folder below HOME and the project, by digest; our own notes left out."""
        found = {}
        for root in (self.home, self.project):
            for path in sorted(root.rglob("*")):
                inside = path.relative_to(root)
                if inside.parts[0] in (".claude-multi-session", "calls"):
                    continue
                data = path.read_bytes() if path.is_file() else b""
                found[f"{root.name}/{inside}"] = hashlib.sha256(data).hexdigest()
        return found


@pytest.fixture
def machine(tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> Machine:
    return Machine(tmp_path, capfdbinary)


SCOPES = pytest.mark.parametrize("scope", ["--global", "--local"])
STARTS = pytest.mark.parametrize("start", ["fresh", "used", "hand-made"])


def make(machine: Machine, start: str) -> None:
    if start == "fresh":
        return
    text = HAND_MADE if start == "hand-made" else '{\n  "mcpServers": {\n    "other": {}\n  }\n}'
    machine.own.write_text(text)
    machine.own.chmod(0o600)
    machine.shared.write_text(text)
    (machine.home / ".claude" / "skills" / "mine").mkdir(parents=True)
    (machine.home / ".claude" / "skills" / "mine" / "SKILL.md").write_text("mine")


@SCOPES
@STARTS
def test_setup_then_uninstall_leaves_everything_byte_for_byte(
    machine: Machine, scope: str, start: str
) -> None:
    make(machine, start)
    before = machine.everything()
    report = machine.report(scope, "--guide")
    assert report.changed
    assert report.health == ("connected" if scope == "--global" else "pending approval")
    assert machine.everything() != before
    again = machine.everything()
    second = machine.report(scope, "--guide")
    assert not second.changed
    assert machine.everything() == again
    assert machine.setup("--uninstall").code == 0
    assert machine.everything() == before
    if start != "fresh":
        assert machine.own.stat().st_mode & 0o777 == 0o600
    assert machine.setup("--uninstall").code == 0  # nothing there is nothing wrong
    assert machine.everything() == before


def test_the_text_around_a_project_s_entry_is_left_as_it_is(machine: Machine) -> None:
    make(machine, "hand-made")
    machine.report("--local")
    text = machine.shared.read_text()
    at = text.index(',\n        "cms"')
    assert HAND_MADE.startswith(text[:at])
    assert HAND_MADE.endswith(text[text.index("\n    },\n\t") :])
    # Somebody adds a server meanwhile: only our entry goes.
    changed = text.replace('"n": 1.0', '"n": 2.00')
    machine.shared.write_text(changed)
    machine.setup("--uninstall", "--local")
    assert machine.shared.read_text() == HAND_MADE.replace('"n": 1.0', '"n": 2.00')


def test_a_pipe_or_a_device_in_the_place_of_the_projects_file_holds_nobody_up(machine: Machine) -> None:
    for make_one in (os.mkfifo, lambda path: Path(path).symlink_to("/dev/zero")):
        make_one(machine.shared)
        ran = machine.setup("--local")
        assert (ran.code, "not a regular file" in ran.err) == (1, True), ran
        machine.shared.unlink()


def test_what_claude_wrote_into_its_own_file_since_is_kept(machine: Machine) -> None:
    machine.report("--global")
    found = msgspec.json.decode(machine.own.read_bytes(), type=dict[str, object])
    machine.own.write_bytes(msgspec.json.encode({**found, "login": "secret"}))
    assert machine.setup("--uninstall").code == 0
    left = msgspec.json.decode(machine.own.read_bytes(), type=dict[str, object])
    assert left["login"] == "secret"
    assert left["mcpServers"] == {}
    assert (machine.home / ".claude").is_dir()


def test_there_is_a_backup_before_any_change(machine: Machine) -> None:
    make(machine, "hand-made")
    machine.report("--local")
    folder = machine.home / ".claude-multi-session" / "setup" / "backups"
    backups = {path.read_text() for path in folder.iterdir()}
    assert backups == {HAND_MADE}
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in folder.iterdir())


def test_nothing_is_left_of_both_scopes_once_they_are_taken_back(machine: Machine) -> None:
    make(machine, "used")
    machine.report("--global")
    machine.report("--local")
    assert machine.setup("--uninstall").code == 0
    assert not (machine.home / ".claude-multi-session").exists()


def test_what_is_registered_is_what_was_looked_at(machine: Machine) -> None:
    """While a project's server is not approved, Claude Code speaks of the user's one of the same name."""
    assert machine.report("--global").health == "connected"
    assert machine.report("--local").health == "pending approval"


def test_our_folder_is_for_the_user_alone(machine: Machine) -> None:
    make(machine, "used")
    machine.report("--global")
    home = machine.home / ".claude-multi-session"
    assert {folder.stat().st_mode & 0o777 for folder in (home, home / "setup")} == {0o700}


def test_another_command_takes_the_place_of_an_older_one_of_ours(machine: Machine) -> None:
    entry = {"mcpServers": {"cms": {"type": "stdio", "command": "/old/bin/cms", "args": ["mcp"], "env": {}}}}
    machine.own.write_bytes(msgspec.json.encode(entry))
    assert machine.report("--global").changed
    assert [words[1] for words in machine.changes_asked()] == ["remove", "add"]
    assert "/old/bin/cms" not in machine.own.read_text()
    machine.setup("--uninstall")
    assert "cms" not in machine.own.read_text()


def test_a_server_of_that_name_that_is_not_ours_is_left_alone(machine: Machine) -> None:
    machine.own.write_text('{"mcpServers": {"cms": {"command": "content-management", "args": []}}}')
    before = machine.everything()
    ran = machine.setup("--global")
    assert (ran.code, "another server named cms" in ran.err) == (2, True)
    assert machine.setup("--uninstall").code == 0
    assert machine.everything() == before
    assert not machine.changes_asked()


@SCOPES
def test_a_dry_run_tells_and_does_nothing(machine: Machine, scope: str) -> None:
    make(machine, "used")
    before = machine.everything()
    ran = machine.setup(scope, "--guide", "--dry-run")
    assert ran.code == 0
    assert ran.out.startswith("Would do:")
    assert "claude mcp add --scope" in ran.out
    assert "write the guide" in ran.out
    assert machine.everything() == before
    assert not (machine.home / "calls").exists()
    assert not (machine.home / ".claude-multi-session").exists()
    machine.report(scope, "--guide")
    before = machine.everything()
    assert "claude mcp remove" in machine.setup("--uninstall", "--dry-run").out
    assert machine.everything() == before


def test_the_guide_comes_goes_and_is_not_taken_from_whoever_changed_it(machine: Machine) -> None:
    file = machine.home / ".claude" / "skills" / "delegate-with-cms" / "SKILL.md"
    machine.report("--global")
    assert not file.exists()
    assert machine.report("--global", "--guide").guide == str(file)
    assert file.read_text() == guide_text()
    assert file.read_text().startswith("---\nname: delegate-with-cms\ndescription: ")
    machine.report("--global")
    assert file.exists()  # not asked about: left as it is
    machine.report("--global", "--no-guide")
    assert not file.parent.exists()
    machine.report("--global", "--guide")
    file.write_text(file.read_text() + "and mine\n")
    ran = machine.setup("--global", "--guide")
    assert (ran.code, "has been changed" in ran.err) == (2, True)
    assert machine.setup("--uninstall").code == 0
    assert file.read_text().endswith("and mine\n")


def test_the_entry_names_what_was_chosen_for_this_user(machine: Machine, tmp_path: Path) -> None:
    env = {"CMS_HOME": str(tmp_path / "elsewhere"), "CLAUDE_CONFIG_DIR": str(tmp_path / "config")}
    (tmp_path / "config").mkdir()
    ran = machine.setup("--global", "--guide", "--json", env=env)
    assert ran.code == 0, ran
    (add,) = machine.changes_asked()
    assert f"CMS_HOME={tmp_path / 'elsewhere'}" in add
    assert f"CMS_CLAUDE={machine.env['CMS_CLAUDE']}" in add
    assert Path(add[add.index("--") + 1]).is_absolute()
    assert (tmp_path / "config" / "skills" / "delegate-with-cms" / "SKILL.md").exists()
    assert not machine.own.exists()


@pytest.mark.parametrize(
    ("words", "env", "code", "told"),
    [
        ((), {}, 2, "setup cannot ask here"),
        (("--json",), {}, 2, "setup cannot ask here"),
        (("--guide",), {}, 2, "setup cannot ask here"),
        (("--global", "--local"), {}, 2, "exclude each other"),
        (("--uninstall", "--guide"), {}, 2, "also removes the guide"),
        (("--global",), {"FAKE_FAILS": "add"}, 1, "`claude mcp add --scope user"),
        (("--global",), {"CMS_CLAUDE": "/nowhere"}, 1, "CMS_CLAUDE names"),
        (("--global",), {"FAKE_STATUS": "✘ Failed to connect"}, 1, "does not connect"),
        (("--global",), {"CMS_HOME": "/proc/no"}, 1, "cannot use /proc/no"),
    ],
)
def test_what_goes_wrong_is_told(
    machine: Machine, words: tuple[str, ...], env: dict[str, str], code: int, told: str
) -> None:
    ran = machine.setup(*words, env=env)
    assert ran.code == code, ran
    assert told in ran.out + ran.err


@pytest.mark.parametrize(("gone", "told"), [("mcp", "needs the package mcp"), ("mcp_types", "an older one")])
@pytest.mark.parametrize("words", [("setup", "--global"), ("mcp",)])
def test_without_the_sdk_or_with_an_older_one_it_says_what_to_install(
    machine: Machine, tmp_path: Path, words: tuple[str, ...], gone: str, told: str
) -> None:
    """The older one is there with no mistake of the user's: other packages are content with it."""
    (tmp_path / "sitecustomize.py").write_text(f"import sys; sys.modules[{gone!r}] = None\n")
    machine.env["PYTHONPATH"] = os.pathsep.join((str(tmp_path), machine.env["PYTHONPATH"]))
    before = machine.everything()
    done = machine.run_apart(*words)
    assert (done.code, done.out) == (1, "")
    assert told in done.err
    assert "pip install 'claude-multi-session[mcp]'" in done.err
    assert machine.everything() == before


@pytest.mark.parametrize("file", ["own", "shared"])
def test_a_broken_file_is_told_and_left_alone(machine: Machine, file: str) -> None:
    path = machine.own if file == "own" else machine.shared
    path.write_text('{"mcpServers": {')
    ran = machine.setup("--global" if file == "own" else "--local")
    assert (ran.code, f"{path} cannot be read" in ran.err) == (1, True)
    assert path.read_text() == '{"mcpServers": {'
    assert not machine.changes_asked()


def test_on_a_terminal_it_asks(machine: Machine) -> None:
    env = {**machine.env, "CMS_HOME": str(machine.home / "state")}
    shown = OnTerminal("setup", env=env, cwd=machine.project)
    shown.wait_for(lambda raw: "[A/t]" in raw)
    shown.type("t\n")
    shown.wait_for(lambda raw: "[Y/n]" in raw)
    shown.type("\n")
    assert shown.finish() == 0
    assert machine.shared.exists()
    assert (machine.project / ".claude" / "skills" / "delegate-with-cms" / "SKILL.md").exists()
