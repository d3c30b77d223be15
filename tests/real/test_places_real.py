"""Protected paths on the real binary: what its shells try, the operating system refuses; honest work goes on.

Preset `full`: the gate lets every shell command pass, so that what is seen here is the container alone.
"""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from cli.shell import Ran
from cms.testing.script import call, prompt, say
from real.conftest import World

pytestmark = pytest.mark.real

SECRET = "TOKEN=hunter2\n"
HOOK = "#!/bin/sh\nexit 0\n"


def git(folder: Path, *words: str) -> str:
    environ = {"PATH": "/usr/bin:/bin", "HOME": str(folder)}
    identity = ("-c", "user.name=t", "-c", "user.email=t@example.org")
    done = subprocess.run(
        ["git", *identity, *words], cwd=folder, env=environ, capture_output=True, text=True, check=True
    )
    return done.stdout


@pytest.fixture
def repository(world: World) -> Path:
    """A repository with an identity, a hook and a secret, and a home with Claude's settings and a key."""
    here = world.work_dir
    git(here, "init", "-q", "-b", "main")
    git(here, "config", "user.name", "t")
    git(here, "config", "user.email", "t@example.org")
    (here / "a.txt").write_text("one\n")
    (here / ".gitignore").write_text(".env\n")
    (here / ".env").write_text(SECRET)
    (here / "sub").mkdir()
    (here / "sub" / ".env").write_text(SECRET)
    (here / ".git/hooks/pre-commit").write_text(HOOK)
    (here / ".git/hooks/pre-commit").chmod(0o755)
    (here / "ordinary").write_text("free\n")
    git(here, "add", "a.txt", ".gitignore")
    git(here, "commit", "-q", "-m", "first")
    (world.home / ".ssh").mkdir()
    (world.home / ".ssh/id_ed25519").write_text("key\n")
    (world.home / ".bashrc").write_text("# mine\n")
    (world.home / ".claude").mkdir()
    (world.home / ".claude/settings.json").write_text("{}\n")
    return here


#: Each a shell line, tried for itself. What it must not change is checked by the caller.
ATTACKS = (
    "echo evil > .git/hooks/pre-commit",
    "echo evil > .git/hooks/post-commit",
    "rm -f .git/hooks/pre-commit",
    "chmod -x .git/hooks/pre-commit",
    "mv .git g && mkdir .git",
    "mv .git/hooks .git/h",
    "rm -rf .git/hooks",
    "git config core.fsmonitor evil",
    "echo '[core] fsmonitor = evil' >> .git/config",
    "ln -sf /tmp/evil .git/hooks/pre-push",
    "ln .env linked && echo evil > linked",
    "ln .git/hooks/pre-commit linked2 && echo evil > linked2",
    "ln -s .env soft && echo evil > soft",
    "sed -i s/hunter2/evil/ .env",
    "echo evil > sub/.env",
    "rm -f .env; echo evil > .env",
    "mv sub s && mkdir sub && echo evil > sub/.env",
    "cp a.txt new && mv new .env",
    "truncate -s 0 .env",
    "python3 -c \"open('.env', 'w').write('evil')\"",
    "python3 -c \"import os; os.replace('a.txt', '.env')\"",
    "bash -c 'exec 3<>.env; echo evil >&3'",
    "(cd /proc/self/cwd && echo evil > .env)",
    "echo evil > /proc/self/root$PWD/.env",
    "echo evil >> ~/.bashrc",
    "echo evil >> ~/.ssh/authorized_keys",
    "mv ~/.ssh ~/s",
    "echo '{\"hooks\":{}}' > ~/.claude/settings.json",
    "mount -o remount,rw,bind .env .env; echo evil > .env",
    "umount .env; echo evil > .env",
    "unshare -rm sh -c 'umount .env; echo evil > .env'",
    "touch /etc/evil /usr/evil",
)


def content(*roots: Path) -> dict[str, bytes]:
    """Every protected file by its name: none may be changed, gone, or new."""
    found = {}
    for root in roots:
        for path in sorted(root.rglob("*") if root.is_dir() else [root]):
            if path.is_file():
                found[str(path)] = path.read_bytes() + bytes([path.stat().st_mode & 0o7, path.is_symlink()])
    return found


def run_all(world: World, lines: tuple[str, ...], name: str = "one", *flags: str) -> Ran:
    """One delegation that tries every line in a shell of its own, whatever came of the one before."""
    out = world.root / "out"
    out.mkdir(exist_ok=True)
    script = out / "attacks.py"
    script.write_text(
        "import json, subprocess, sys\n"
        f"for line in json.loads({json.dumps(json.dumps(lines))}):\n"
        "    done = subprocess.run(['bash', '-c', line], capture_output=True, text=True)\n"
        "    print(done.returncode, line, done.stderr.strip()[-100:])\n"
    )
    task = prompt("Try", call("Bash", command=f"{sys.executable} {script} > {out}/tried"), say("done"))
    # Whatever else a session writes outside of its work dir is a copy, and gone.
    opened = ("--allow-write", str(out))
    return world.cms("delegate", name, task, "--preset", "full", "--json", *opened, *flags)


def test_no_shell_changes_a_protected_path(world: World, repository: Path) -> None:
    protected = (
        *(repository / one for one in (".git/hooks", ".git/config", ".env", "sub/.env")),
        *(world.home / one for one in (".ssh", ".bashrc", ".claude/settings.json")),
    )
    before = content(*protected)
    ran = run_all(world, ATTACKS)
    tried = (world.root / "out" / "tried").read_text()
    assert len(tried.splitlines()) >= len(ATTACKS), tried
    assert content(*protected) == before, tried
    assert not Path("/etc/evil").exists()
    assert not Path("/usr/evil").exists()
    assert ran.code == 0, ran
    reply = ran.json()
    assert reply["status"] == "completed"
    assert "changed" not in str(reply["reasons"]), reply["reasons"]


def test_honest_work_in_a_repository_goes_on(world: World, repository: Path) -> None:
    lines = (
        "echo two >> a.txt && git commit -qam second",
        "git checkout -q -b topic && echo three >> a.txt && git commit -qam third && git checkout -q main",
        "git merge -q topic && git tag v1 && git gc -q && git stash list && git status --short",
        "git worktree add -q ../tree && rm -rf ../tree && git worktree prune",
        "echo free > ordinary && mkdir -p deep/er && touch deep/er/x && mv deep shallow",
        "cp .env.example x 2>/dev/null; touch .env.example",
        "pip --version && python3 -m venv --without-pip v && rm -r v",
    )
    ran = run_all(world, lines)
    tried = (world.root / "out" / "tried").read_text()
    assert [line.split()[0] for line in tried.splitlines()] == ["0"] * len(lines), tried
    assert ran.json()["status"] == "completed", ran
    assert ran.json()["reasons"] == [], ran
    assert git(repository, "log", "--format=%s").split() == ["third", "second", "first"]
    # The conversation was saved, so that it can be gone on with: claude could write what it must.
    again = world.cms("continue", "one", prompt("More", say("still here")), "--json")
    assert again.json()["response"] == "still here"
    assert not (world.home / ".claude/settings.json").read_text().strip("{}\n")


def test_the_tripwire_names_what_nobody_could_hold(world: World, repository: Path) -> None:
    ran = run_all(world, ("mkdir -p new && echo KEY=1 > new/.env",))
    assert ran.code == 7, ran
    reply = ran.json()
    assert reply["status"] == "protected_path"
    assert f"{repository}/new/.env was created" in str(reply["error"])
    assert f"tripwire: {repository}/new/.env was created" in str(reply["safety"])
    denied = run_all(
        world, ("echo KEY=2 > new/.env; echo KEY=3 > .env.local",), "two", "--on-violation", "deny"
    )
    assert denied.json()["status"] == "completed"
    # It exists by now, so it is held; the other one does not.
    assert (repository / "new/.env").read_text() == "KEY=1\n"
    assert ".env.local was created" in str(denied.json()["safety"])


def test_a_change_from_outside_is_named_as_such(world: World, repository: Path) -> None:
    (repository / "wait.py").write_text("import os, time\nwhile not os.path.exists('go'): time.sleep(.05)\n")
    task = prompt("Wait", call("Bash", command=f"{sys.executable} wait.py"), say("done"))
    child = world.start("delegate", "one", task, "--preset", "full", "--json")
    while '"activity":"Bash' not in world.cms("status", "one", "--json").out.replace(" ", ""):
        assert child.poll() is None, child.communicate()
    (repository / ".git/hooks/pre-commit").write_text("#!/bin/sh\nexit 1\n")
    (repository / "go").touch()
    out, err = child.communicate(timeout=60)
    reply = Ran(child.returncode, out, err).json()
    assert reply["status"] == "completed", reply
    assert ".git/hooks/pre-commit was changed" in str(reply["reasons"])
    assert "from outside" in str(reply["reasons"])


def test_what_may_not_be_read_is_not_there(world: World, repository: Path) -> None:
    (repository / "keys").mkdir()
    (repository / "keys/a").write_text("secret")
    look = "cat .env sub/.env keys/a; ls keys; python3 -c \"print(open('.env').read())\""
    task = prompt("Read", call("Bash", command=f"({look}) > seen 2>&1; true"), say("done"))
    ran = world.cms(
        "delegate",
        "one",
        task,
        "--preset",
        "full",
        "--protect-read",
        ".env",
        "--protect-read",
        "keys",
        "--json",
    )
    assert ran.json()["status"] == "completed", ran
    seen = (repository / "seen").read_text()
    assert "hunter2" not in seen
    assert "secret" not in seen
    assert (repository / ".env").read_text() == SECRET


@pytest.mark.own_daemon
def test_what_may_not_be_read_comes_in_by_no_other_way(world: World, repository: Path) -> None:
    """Without walls: what Grep finds, what CLAUDE.md brings along, what a link leads to."""
    (repository / "keys").mkdir()
    (repository / "keys" / "a (1).py").write_text("hunter2 = 1")
    (repository / "keys" / "CLAUDE.md").write_text("hunter2 nested")
    (repository / "link").symlink_to("keys")  # (which claude's search does not follow)
    (repository / "CLAUDE.md").write_text("@.env @keys/CLAUDE.md")
    (repository / "open.txt").write_text("hunter2? not here")
    find = call("Grep", pattern="hunter2", output_mode="content")
    task = prompt("Look", find, call("Glob", pattern="**/*.py"), say("done"))
    hide = ("--protect-read", ".env", "--protect-read", "./keys", "--preset", "read-only")
    env = {"CMS_CONTAINMENT": "portable"}
    ran = world.cms("delegate", "one", task, *hide, "--json", env=env)
    assert ran.json()["status"] == "completed", ran
    told = world.cms("logs", "one", "--raw").out
    assert "open.txt:1:hunter2?" in told
    for secret in ("hunter2 = 1", "hunter2 nested", SECRET.strip(), "a (1).py"):
        assert secret not in told
    sent = "".join(path.read_text() for path in (world.home / ".claude").rglob("*.jsonl"))
    assert SECRET.strip() not in sent
    for name, where in (("two", "keys/a (1).py"), ("three", "link/CLAUDE.md")):
        again = prompt("Read", call("Read", file_path=str(repository / where)), say("done"))
        ran = world.cms("delegate", name, again, *hide, "--json", env=env)
        assert ran.json()["status"] == "protected_path", ran
        assert '"totalViolations":1' in ran.out


def test_without_safety_everything_is_written_and_told(world: World, repository: Path) -> None:
    ran = run_all(world, ("echo KEY=1 > .env",), "one", "--no-safety")
    assert (repository / ".env").read_text() == "KEY=1\n"
    assert "safety is OFF" in ran.err
    reply = ran.json()
    assert reply["status"] == "completed"
    assert "safety was off" in str(reply["reasons"])
    assert "'enabled': False" in str(reply["safety"])
    assert "'safety': False" in str(reply["receipt"])
    assert "SAFETY OFF" in world.cms("status", "one").out
    assert "safety: off" in world.cms("audit", "one").out


class Row(msgspec.Struct):
    kind: str
    verdict: str
    tool: str
    reason: str


class Log(msgspec.Struct):
    ok: bool
    rows: list[Row]


@pytest.mark.own_daemon
def test_every_decision_is_in_the_audit_log(world: World, repository: Path) -> None:
    task = prompt(
        "Work",
        call("Read", file_path="a.txt"),
        call("Write", file_path=".git/hooks/pre-commit", content="evil"),
        say("done"),
    )
    ran = world.cms("delegate", "one", task, "--json")
    assert ran.code == 7, ran
    read = world.cms("audit", "one", "--json")
    assert read.code == 0, read
    log = msgspec.json.decode(read.out, type=Log)
    assert log.ok
    assert [(row.kind, row.verdict, row.tool) for row in log.rows] == [
        ("start", "started", ""),
        ("message", "sent", ""),
        ("call", "allowed", "Read"),
        ("limit", "protected_path", ""),
        ("call", "refused", "Write"),
        ("end", "proved", ""),
    ]
    assert "all seals intact" in world.cms("audit", "one", "--verify").out
    world.cms("daemon", "stop")
    db = sqlite3.connect(world.cms_home / "cms.db")
    db.execute("DROP TRIGGER decisions_no_update")
    db.execute("UPDATE decisions SET verdict = 'allowed' WHERE number = 5")
    db.commit()
    db.close()
    broken = world.cms("audit", "one", "--verify")
    assert broken.code == 1
    assert broken.out == "BROKEN: row 5: it was changed, or the row before it was\n"
