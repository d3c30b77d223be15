"""Completion: what could stand next, and the scripts in the shells that this machine has."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cli.shell import Shell, shell
from cms.cli.complete import candidates
from cms.testing.script import prompt, say

__all__ = ["shell"]


@pytest.fixture(scope="module")
def sessions(shell: Shell) -> Shell:
    """A live session and one that has ended."""
    shell.ok("spawn", "fix-auth", prompt("hello", say("x")), "--tag", "urgent", "--tag", "upstream")
    shell.ok("spawn", "fix-docs", prompt("hello", say("x")), "--stop")
    (shell.work_dir / "task.md").write_text("x")
    (shell.work_dir / "tasks").mkdir()
    return shell


def offered(shell: Shell, *words: str) -> list[str]:
    return [line.split("\t")[0] for line in shell.ok("__complete", *words).out.splitlines()]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("status", ""), ["fix-docs", "fix-auth"]),
        (("status", "fix-a"), ["fix-auth"]),
        (("status", "x"), []),
        (("kill", ""), ["fix-auth"]),
        (("wait", "fix-auth", ""), ["fix-docs"]),
        (("delete", "fix-auth", "fix-docs", ""), []),
        (("send", "--name", ""), ["fix-docs", "fix-auth"]),
        (("search", "x", "--session", ""), ["fix-docs", "fix-auth"]),
        (("list", "--tag", "u"), ["upstream", "urgent"]),
        (("delegate", "x", "--tag", "ur"), ["urgent"]),
        (("tag", "fix-a"), ["fix-auth"]),
        (("tag", "fix-docs", "urgent", ""), ["upstream"]),
        (("tag", "fix-auth", "--remove", ""), ["upstream", "urgent"]),
        (("tag", "fix-auth", "--rem"), ["--remove"]),
        (("send", "fix-auth", ""), []),
        (("send", "fix-auth", "--", ""), []),
        (("spawn", ""), []),
        (("sp",), ["spawn"]),
        (("budget", "s"), ["set", "show"]),
        (("daemon", "lo"), ["logs"]),
        (("spawn", "x", "--pres"), ["--preset"]),
        (("spawn", "x", "--preset", "re"), ["read-only", "review"]),
        (("spawn", "x", "--preset=re"), ["--preset=read-only", "--preset=review"]),
        (("spawn", "x", "--preset", "=", "re"), ["read-only", "review"]),
        (("spawn", "x", "--model", ""), ["sonnet", "opus", "haiku"]),
        (("spawn", "--prompt-file", "ta"), ["@files"]),
        (("delegate", "--work-dir", ""), ["@dirs"]),
        (("list", "--status", "re"), ["ready"]),
        (("spawn", "x", "--max-cost", ""), []),
        (("completion", ""), ["bash", "zsh", "fish"]),
        (("help", "dem"), ["demo"]),
        (("no-such-command", ""), []),
        (("cost", "--by", ""), ["session", "model", "tag", "day", "week"]),
        (("logs", "-f", "fix-"), ["fix-docs", "fix-auth"]),
        (("logs", "--last", "3", "fix-a"), ["fix-auth"]),
        (("logs", "-f", "fix-auth", ""), []),
        (("wait", "--any", "fix-auth", ""), ["fix-docs"]),
        (("wait", "--timeout", "5m", "fix-a"), ["fix-auth"]),
        (("send", "--name", "fix-auth", "fi"), []),
        (("send", "--stop", "fi"), ["fix-docs", "fix-auth"]),
        (("batch", "sho"), ["show"]),
        (("batch", "--fi"), ["--file", "--filter"]),
        (("batch", "--file", ""), ["@files"]),
        (("batch", "--file", "x.json", "--pl"), ["--plan"]),
        (("batch", "show", "ta"), ["tasks-1"]),
        (("batch", "show", "--fa"), ["--failed"]),
        (("batch", "--resume", ""), ["tasks-1"]),
    ],
    ids=str,
)
def test_what_could_stand_next(
    sessions: Shell, words: tuple[str, ...], expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CMS_HOME", str(sessions.home))
    monkeypatch.setattr("cms.store.read_only.batches", lambda _: [("tasks-1", "stopped")])
    assert [value for value, _ in candidates(words)] == expected


def test_commands_and_flags_come_with_their_first_line(sessions: Shell) -> None:
    commands = sessions.ok("__complete", "").out
    assert "cleanup\tDelete sessions that have not changed for days.\n" in commands
    assert "--json\tPrint one JSON object on stdout" in sessions.ok("__complete", "list", "--").out
    assert "fix-docs\tstopped\n" in sessions.ok("__complete", "status", "").out


def test_no_daemon_is_started_and_nothing_is_made(tmp_path: Path) -> None:
    here = Shell(tmp_path)
    assert offered(here, "status", "") == []
    assert not here.home.exists()
    assert not here.survivors()
    here.home.mkdir()
    (here.home / "cms.db").write_bytes(b"not a database" * 100)
    assert offered(here, "status", "") == []


@settings(deadline=None)
@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8), max_size=5))
def test_whatever_is_typed_nothing_breaks(words: list[str]) -> None:
    for value, _ in candidates(words):
        assert "\n" not in value


def test_a_name_is_found_without_loading_the_command_line(sessions: Shell) -> None:
    probe = "import sys; from cms.cli.complete import main; main(sys.argv[1:]); "
    probe += "print(*sys.modules, file=sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-c", probe, "status", ""],
        capture_output=True,
        text=True,
        env=sessions.env,
        check=True,
        timeout=30,
    )
    assert done.stdout.startswith("fix-docs")
    assert not {"cyclopts", "msgspec", "trio", "rich", "socket"} & set(done.stderr.split())


# --- the scripts ----------------------------------------------------------------------------------


def on_path(shell: Shell, folder: Path) -> dict[str, str]:
    """An environment in which `cms` is this one."""
    folder.mkdir(exist_ok=True)
    launcher = folder / "cms"
    launcher.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m cms "$@"\n')
    launcher.chmod(0o755)
    return {**shell.env, "PATH": f"{folder}{os.pathsep}{shell.env['PATH']}"}


def run_in(shell: Shell, tmp_path: Path, *argv: str) -> list[str]:
    done = subprocess.run(
        argv,
        capture_output=True,
        text=True,
        env=on_path(shell, tmp_path / "bin"),
        cwd=shell.work_dir,
        timeout=30,
        check=True,
    )
    return done.stdout.splitlines()


BASH = """
complete() { :; }
compopt() { :; }
source <(cms completion bash)
try() { COMP_WORDS=(cms "$@"); COMP_CWORD=$#; _cms; echo "${COMPREPLY[*]}"; }
try status fix-
try spawn x --model = o
try spawn --prompt-file ta
try spawn --work-dir ta
try budget ""
try send "no such" ""
"""


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash here")
def test_bash(sessions: Shell, tmp_path: Path) -> None:
    names, model, files, *others = run_in(sessions, tmp_path, "bash", "-c", BASH)
    assert sorted(files.split()) == ["task.md", "tasks"]
    assert [names, model, *others] == [
        "fix-docs fix-auth",
        "opus",
        "tasks",
        "clear set show",
        "",
    ]


FISH = """
cms completion fish | source
complete -C 'cms kill '
complete -C 'cms spawn x --preset re'
complete -C 'cms spawn --prompt-file ta'
"""


@pytest.mark.skipif(shutil.which("fish") is None, reason="no fish here")
def test_fish(sessions: Shell, tmp_path: Path) -> None:
    assert run_in(sessions, tmp_path, "fish", "-N", "-c", FISH) == [
        "fix-auth\tready",
        "read-only",
        "review",
        "task.md",
        "tasks/",
    ]


@pytest.mark.skipif(shutil.which("zsh") is None, reason="no zsh here")
def test_zsh(sessions: Shell, tmp_path: Path) -> None:
    script = """
    compdef() { :; }
    source <(cms completion zsh)
    _describe() { print -l -- "${(@P)2}"; }
    words=(cms kill ''); CURRENT=3; _cms
    words=(cms spawn x --preset re); CURRENT=5; _cms
    """
    assert run_in(sessions, tmp_path, "zsh", "-f", "-c", script) == ["fix-auth:ready", "read-only", "review"]


def test_install_writes_to_where_the_shell_looks(shell: Shell) -> None:
    home = Path(shell.env["HOME"])
    places = {
        "bash": ".local/share/bash-completion/completions/cms",
        "zsh": ".zfunc/_cms",
        "fish": ".config/fish/completions/cms.fish",
    }
    for name, place in places.items():
        script = shell.ok("completion", name).out
        assert f"Made by `cms completion {name}`" in script
        written = shell.ok("completion", name, "--install", "--json").json()
        assert written["path"] == str(home / place)
        assert (home / place).read_text() == script
    assert "fpath=(" in shell.ok("completion", "zsh", "--install").out
    ran = shell.cms("completion", "bash", "--install", env={"XDG_DATA_HOME": "/proc/nowhere"})
    assert (ran.code, "cannot write" in ran.err) == (1, True)


def test_shells_that_are_none(shell: Shell) -> None:
    for words, said in (
        (("completion",), "completion needs a shell"),
        (("completion", "fsh"), "did you mean 'fish'?"),
    ):
        ran = shell.cms(*words)
        assert (ran.code, said in ran.err) == (2, True), ran
