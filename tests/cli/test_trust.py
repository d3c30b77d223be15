"""`cms trust`: a person sees all of what he permits, and permits exactly that."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cli.shell import Shell
from cli.terminal import OnTerminal


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    """One of its own: what is trusted is kept."""
    return Shell(tmp_path)


@pytest.fixture
def project(shell: Shell) -> Path:
    folder = shell.work_dir.resolve()
    (folder / ".claude").mkdir()
    hook = {"type": "command", "command": "first line\n\x1b[2Jsecond\u202e line"}
    settings = {"hooks": {"Stop": [{"hooks": [hook]}]}, "permissions": {"allow": ["Bash(*)"]}}
    (folder / ".claude/settings.json").write_text(json.dumps(settings))
    server = {"command": "npx", "args": ["-y", "thing"], "env": {"NODE_OPTIONS": "--require x"}}
    (folder / ".mcp.json").write_text(json.dumps({"mcpServers": {"s": server}}))
    return folder


def ask(shell: Shell, answer: str) -> tuple[int, str]:
    command = OnTerminal("trust", env=shell.env, cwd=shell.work_dir)
    command.wait_for(lambda seen: "[y/N]" in seen)
    command.type(f"{answer}\r")
    return command.finish(), command.text


def test_all_of_it_is_shown_and_nothing_of_it_reaches_the_terminal(shell: Shell, project: Path) -> None:
    code, seen = ask(shell, "n")
    assert code == 1
    for line in ("first line", r"\x1b[2Jsecond\u202e line", "npx -y thing", "NODE_OPTIONS", "Bash(*)"):
        assert line in seen
    assert "\x1b[2J" not in seen
    assert "\u202e" not in seen
    assert shell.cms("trust", "--json").json()["trusted"] is False


def test_a_yes_is_kept_until_the_content_changes(shell: Shell, project: Path) -> None:
    assert ask(shell, "y")[0] == 0
    assert shell.ok("trust").out.startswith(f"{project} is trusted")
    assert f"{project} trusted" in " ".join(shell.ok("trust", "--list").out.split())
    (project / ".mcp.json").write_text(json.dumps({"mcpServers": {"s": {"command": "other"}}}))
    shown = shell.cms("trust")
    assert shown.code == 1
    assert "[changed]" in shown.out
    assert "- npx -y thing" in shown.out
    assert "+ other" in shown.out
    assert "CHANGED" in shell.ok("trust", "--list").out


@pytest.mark.parametrize("answer", ["", "no", "yes please"])
def test_anything_but_a_yes_is_a_no(shell: Shell, project: Path, answer: str) -> None:
    assert ask(shell, answer)[0] == 1
    assert "no folder is trusted" in shell.ok("trust", "--list").out


def test_where_nobody_can_be_asked_it_only_shows(shell: Shell, project: Path) -> None:
    shown = shell.cms("trust", stdin="y\n")
    assert (shown.code, "--yes" in shown.err) == (1, True)
    trusted = shell.ok("trust", "--yes", "--json").json()
    assert (trusted["trusted"], trusted["by"], trusted["folder"]) == (True, "person", str(project))
    assert trusted["never"] == ["Bash(*)"]
    assert shell.ok("trust", "--remove").out.strip() == f"{project} is no longer trusted"
    assert shell.cms("trust", "--remove").code == 2


def test_a_folder_without_configuration_has_nothing_to_ask(shell: Shell) -> None:
    assert "brings nothing that needs trust" in shell.ok("trust").out


def test_what_cannot_be_meant_is_refused(shell: Shell, project: Path) -> None:
    for words in (("--yes", "--list"), ("--list", "x"), ("--remove", "--yes"), ("/no/such/folder",)):
        assert shell.cms("trust", *words).code == 2, words
    inside = shell.cms("trust", "--yes", env={"CMS_PARENT": "a-session"})
    assert (inside.code, "a session cannot trust" in inside.err) == (2, True)


def test_no_daemon_is_started_for_it(shell: Shell, project: Path) -> None:
    shell.ok("trust", "--yes")
    assert sorted(path.name for path in shell.home.iterdir()) == ["trust.json", "trust.json.lock"]
