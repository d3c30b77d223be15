"""config.toml: settings and where they come from, defaults, profiles, and what is refused."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli.shell import Shell, shell
from cms.config import load_settings_and_file
from cms.config_edit import change, place_of
from cms.config_file import ConfigFile, read_config
from cms.errors import UsageError
from cms.options import Layer
from cms.testing.script import call, prompt, say

__all__ = ["shell"]

FILE = """
[settings]
grace = "3s"
idle-exit = "never"
max-depth = 4
trust = ["~/mine/**"]

[defaults]
model = "opus"
protect = ["deploy/**"]
max-turns = 9

[profiles.night]
preset = "full"
max-cost = 5
max-time = "2h"
max-memory = "2G"
allow = ["Bash(pytest *)"]
protect = ["notes/**"]
verify = ["test -e made"]
ask-timeout = "10m"
"""


@pytest.fixture
def file(shell: Shell) -> Iterator[Path]:
    path = shell.home / "config.toml"
    shell.home.mkdir(exist_ok=True)
    path.write_text(FILE)
    yield path
    path.unlink()


def test_each_value_with_its_source(shell: Shell, file: Path) -> None:
    view = shell.cms("config", "--json", env={"CMS_GRACE": "7", "CMS_MAX_DEPTH": ""}).json()
    assert (view["path"], view["exists"]) == (str(file), True)
    rows = view["settings"]
    assert isinstance(rows, list)
    found = {row["name"]: (row["value"], row["source"]) for row in rows}
    assert found["grace"] == (7.0, "environment")
    assert found["idle-exit"] == ("never", "file")
    assert found["max-depth"] == (4, "file")
    assert found["start-timeout"] == (60.0, "default")
    assert found["trust"] == ("~/mine/**", "file")
    assert found["claude"] == (shell.env["CMS_CLAUDE"], "environment")
    text = shell.ok("config").out
    assert re.search(r"^grace +file +3$", text, re.MULTILINE)
    assert "[profiles.night]\n  preset       full\n" in text
    assert "  allow        Bash(pytest *)\n" in text


def test_a_profile_fills_what_no_flag_says(shell: Shell, file: Path) -> None:
    script = prompt("go", call("Bash", command="touch made"), say("done"))
    ran = shell.ok("delegate", "by-profile", script, "--profile", "night", "--max-cost", "1", "--json")
    assert ran.json()["status"] == "completed"
    found = shell.status("by-profile")
    assert (found["preset"], found["model"]) == ("full", "opus")
    limits = found["limits"]
    assert isinstance(limits, dict)
    assert (limits["maxCost"], limits["maxTurns"], limits["maxTime"], limits["maxMemory"]) == (
        1.0,
        9,
        7200.0,
        2 * 1024**3,
    )


def test_a_typed_flag_narrows_a_profile(shell: Shell, file: Path) -> None:
    """Even where what is typed is what would hold without a profile."""
    shell.ok("spawn", "narrow", prompt("go", say("x")), "--profile", "night", "--preset", "edit")
    assert shell.status("narrow")["preset"] == "edit"
    shell.ok("spawn", "plain", prompt("go", say("x")), "--model", "sonnet")
    assert (shell.status("plain")["model"], shell.status("plain")["preset"]) == ("sonnet", "edit")


def test_a_profile_that_is_not_there(shell: Shell, file: Path) -> None:
    ran = shell.cms("spawn", "x", "y", "--profile", "nigth")
    assert (ran.code, "did you mean 'night'?" in ran.err) == (2, True)
    file.write_text("")
    ran = shell.cms("spawn", "x", "y", "--profile", "night")
    assert (ran.code, "there is no profile 'night'" in ran.err) == (2, True)


def test_a_file_to_begin_with(shell: Shell) -> None:
    path = shell.home / "config.toml"
    path.unlink(missing_ok=True)
    assert f"wrote {path}" in shell.ok("config", "--init").out
    assert "no profiles" in shell.ok("config").out
    assert read_config(shell.home) == ConfigFile()
    kept = path.read_text()
    # Every line that is commented out would hold as it stands.
    path.write_text("\n".join(line.removeprefix("# ") for line in kept.splitlines()[3:]))
    assert read_config(shell.home).profiles["night"].max_cost == 5
    refused = shell.cms("config", "--init")
    assert (refused.code, "it was not changed" in refused.err) == (2, True)
    path.unlink()


KEPT = """\
# mine
[settings]  # of this machine
grace = "3s"  # short

[profiles.night]
max-cost = 5
allow = [
  "Bash(make *)",
]

# the end
"""


@pytest.mark.parametrize(
    ("key", "values", "before", "after"),
    [
        ("grace", ["10s"], 'grace = "3s"  # short', 'grace = "10s"  # short'),
        ("idle-exit", ["never"], "# short\n", '# short\nidle-exit = "never"\n'),
        ("profiles.night.max-cost", ["7.5"], "max-cost = 5\n", "max-cost = 7.5\n"),
        ("profiles.night.max-cost", [], "max-cost = 5\n", ""),
        ("profiles.night.preset", ["full"], '",\n]\n', '",\n]\npreset = "full"\n'),
        ("defaults.model", ["opus"], "# the end\n", '# the end\n\n[defaults]\nmodel = "opus"\n'),
        ("model", ["opus"], "# the end\n", '# the end\n\n[defaults]\nmodel = "opus"\n'),
        ("profiles.day.max-turns", ["9"], "end\n", "end\n\n[profiles.day]\nmax-turns = 9\n"),
        ("trust", ["~/a/**", "~/b/**"], "# short\n", '# short\ntrust = ["~/a/**", "~/b/**"]\n'),
    ],
)
def test_setting_a_key_changes_its_line_alone(
    tmp_path: Path, key: str, values: list[str], before: str, after: str
) -> None:
    (tmp_path / "config.toml").write_text(KEPT)
    change(tmp_path, place_of(key), values)
    assert (tmp_path / "config.toml").read_text() == KEPT.replace(before, after, 1)
    assert [one.name for one in tmp_path.iterdir()] == ["config.toml"]


@pytest.mark.parametrize(
    ("key", "values", "said"),
    [
        ("profiles.night.max-cost", ["-1"], "max-cost: '-1' is not a positive amount"),
        ("profiles.night.allow", ["Read"], "cannot change allow in"),
        ("defaults.max-kost", ["1"], "there is no setting 'max-kost' (did you mean 'max-cost'?)"),
        ("grase", ["1"], "there is no setting 'grase' (did you mean 'grace'?)"),
        ("defaults.no-safety", ["true"], "no-safety' (it has to be given as a flag"),
        ("profile.night.model", ["opus"], "there is no table [profile.night]"),
        ("grace", ["soon"], "'soon' is not a duration"),
        ("model", ["a", "b"], "model takes one value"),
        ("model", [], "model is not set in [defaults]"),
    ],
)
def test_a_key_that_cannot_be_set_leaves_the_file_alone(
    tmp_path: Path, key: str, values: list[str], said: str
) -> None:
    (tmp_path / "config.toml").write_text(KEPT)
    with pytest.raises(UsageError) as caught:
        change(tmp_path, place_of(key), values)
    assert said in str(caught.value)
    assert (tmp_path / "config.toml").read_text() == KEPT


def test_a_file_behind_a_link_is_changed_there(tmp_path: Path) -> None:
    kept = tmp_path / "dotfiles.toml"
    kept.write_text("[settings]\ngrace = 3\n")
    kept.chmod(0o640)
    (tmp_path / "config.toml").symlink_to(kept)
    change(tmp_path, place_of("grace"), ["5"])
    assert (tmp_path / "config.toml").is_symlink()
    assert (kept.read_text(), kept.stat().st_mode & 0o777) == ("[settings]\ngrace = 5\n", 0o640)


def test_set_get_and_unset(shell: Shell) -> None:
    told = shell.ok("config", "set", "profiles.night.max-cost", "5").out
    assert told == f"set max-cost in [profiles.night] of {shell.home / 'config.toml'}\n"
    assert shell.ok("config", "get", "profiles.night.max-cost").out == "5\n"
    assert read_config(shell.home).profiles["night"].max_cost == 5
    assert shell.ok("config", "get", "grace", "--json").json()["value"] == 5.0
    shell.ok("config", "unset", "profiles.night.max-cost")
    refused = shell.cms("config", "get", "profiles.night.max-cost")
    assert (refused.code, "is not set" in refused.err) == (1, True)


def test_a_daemon_reads_the_file_and_says_what_is_wrong_with_it(tmp_path: Path) -> None:
    here = Shell(tmp_path)
    here.home.mkdir()
    (here.home / "config.toml").write_text("[settings]\ngrase = 1\n")
    ran = here.cms("list", "--json")
    assert ran.code == 2
    assert "[settings] has no key 'grase'" in ran.err
    assert "did you mean 'grace'?" in ran.err
    (here.home / "config.toml").write_text('[settings]\nidle-exit = "7m"\n')
    assert here.ok("list", "--json").json()["total"] == 0
    assert here.ok("daemon", "status", "--json").json()["idleExit"] == 420.0
    here.ok("daemon", "stop")
    assert not here.survivors()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x = [", "invalid value"),
        ("[profile.x]\nmodel = 'opus'", "there is no table [profile] (did you mean 'profiles'?)"),
        ("[profiles.n]\nmax-kost = 1", "[profiles.n] has no key 'max-kost' (did you mean 'max-cost'?)"),
        ("[profiles.n]\nmax_cost = 1", "(did you mean 'max-cost'?)"),
        ("[profiles.n]\nno-safety = true", "(it has to be given as a flag each time)"),
        ("[defaults]\nsafety = false", "(it has to be given as a flag each time)"),
        ("[defaults]\nallow = ['a']\nallowed-tools = ['b']", "[defaults] sets allowed-tools twice"),
        ("[profiles.n]\npreset = 'fulll'", "[profiles.n] preset: cannot be 'fulll' (did you mean 'full'?)"),
        ("[profiles.n]\nmax-cost = -1", "[profiles.n] max-cost: '-1' is not a positive amount"),
        ("[profiles.n]\nmax-cost = nan", "max-cost: 'nan' is not a positive amount"),
        ("[profiles.n]\nmax-time = 'soon'", "'soon' is not a duration"),
        ("[defaults]\nmax-turns = 1.5", "[defaults] max-turns: 1.5 is not a whole number"),
        ("[settings]\nmax-line = 'much'", "[settings] 'much' is not a size"),
        ("profiles = 3", "expected `object`"),
    ],
)
def test_what_is_refused(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "config.toml").write_text(text)
    with pytest.raises(UsageError) as caught:
        read_config(tmp_path)
    assert said in str(caught.value)
    assert str(tmp_path / "config.toml") in str(caught.value)


@given(st.binary(max_size=200))
def test_no_file_raises_anything_else(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    home = tmp_path_factory.getbasetemp() / "fuzzed"
    home.mkdir(exist_ok=True)
    (home / "config.toml").write_bytes(data)
    try:
        read_config(home)
    except UsageError:
        pass


def test_layers() -> None:
    below = Layer(model="opus", max_turns=9, protect=("a",))
    above = Layer(max_turns=3, protect=("b",))
    both = Layer(model="opus", max_turns=3, protect=("b", "a"))
    assert ConfigFile(defaults=below, profiles={"n": above}).profile("n") == both
    assert ConfigFile(defaults=below).profile("") == below


def test_the_environment_stands_over_the_file(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text('[settings]\ngrace = 3\nstart-timeout = "1m"\nclaude = "/x"\n')
    settings = load_settings_and_file({"CMS_HOME": str(tmp_path), "CMS_GRACE": "9"})
    assert (settings.grace, settings.start_timeout, settings.claude_named) == (9.0, 60.0, "/x")
    assert settings.environ == {"CMS_HOME": str(tmp_path), "CMS_GRACE": "9"}
