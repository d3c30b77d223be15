"""What programs and people rely on, as it stands: the help of every command, and the shape of its JSON."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import msgspec
import pytest

from cli import snapshot
from cli.conftest import Cms
from cli.shell import Shell, shell
from cli.test_top import ESCAPES
from cms.cli.commands import COMMANDS, FAMILIES
from cms.testing.script import call, prompt, say

__all__ = ["shell"]

PATHS = [
    *((names[0],) for names, *_ in COMMANDS),
    *((children, name) for children, (_, _, commands) in FAMILIES.items() for name, *_ in commands),
]
#: Commands that take over the terminal or the process: they have no one object to print.
WITHOUT_JSON = {("mcp",), ("help",), ("daemon", "run")}


@pytest.mark.parametrize("path", PATHS, ids=" ".join)
def test_the_help_of_a_command(path: tuple[str, ...], cms: Cms, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    ran = cms(*path, "--help")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.isascii()
    assert max(len(line) for line in ran.out.splitlines()) <= 80
    assert ran.out.startswith(f"usage: cms {' '.join(path)}")
    assert "Example" in ran.out
    assert ("--json" in ran.out) is (path not in WITHOUT_JSON)
    snapshot.check(f"help/{'-'.join(path)}.txt", ran.out)


def test_the_help_of_batch_is_that_of_the_command_and_of_the_family(
    cms: Cms, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    ran = cms("help", "batch")
    assert ran.out == cms("batch", "--help").out
    assert "--file FILE" in ran.out
    assert cms("help", "batch", "show").out == cms("batch", "show", "--help").out
    assert cms("help", "batch", "shwo").err.startswith(
        "cms: there is no command 'shwo'\n     did you mean 'show'?"
    )
    assert "  cancel " in ran.out
    snapshot.check("help/batch.txt", ran.out)


def test_the_overview(cms: Cms, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    ran = cms("help")
    assert ran.out == cms("--help").out == cms().out
    assert ran.out.isascii()
    assert max(len(line) for line in ran.out.splitlines()) <= 80
    for path in PATHS:
        assert f"\n  {path[0]}" in ran.out, f"{path} is not in the overview"
    snapshot.check("help/overview.txt", ran.out)


# --- JSON -----------------------------------------------------------------------------------------


def shape(value: object) -> object:
    """The keys and kinds of a value. Numbers are numbers: 1.0 and 1 are the same to a reader."""
    match value:
        case dict():
            return {str(key): shape(value[key]) for key in value}
        case list():
            merged: object = None
            for one in value:
                merged = _merge(merged, shape(one))
            return [] if merged is None else [merged]
        case bool():
            return "bool"
        case int() | float():
            return "number"
        case str():
            return "str"
        case _:
            return "null"


def _merge(one: object, other: object) -> object:
    """The shape of both: the members of a list may differ in what is null and what is empty."""
    if isinstance(one, dict) and isinstance(other, dict):
        return {key: _merge(one.get(key), other.get(key)) for key in {**one, **other}}
    return other if one in (None, "null", []) else one


def written(value: object, indent: str = "") -> Iterator[str]:
    match value:
        case dict():
            for key, one in value.items():
                if isinstance(one, str) or one == []:
                    yield f"{indent}{key}: {one if isinstance(one, str) else 'list'}"
                elif isinstance(one, list):
                    yield f"{indent}{key}: list of"
                    yield from written(one[0], indent + "  ")
                else:
                    yield f"{indent}{key}:"
                    yield from written(one, indent + "  ")
        case _:
            yield f"{indent}{value}"


def test_the_shape_of_what_each_command_prints(shell: Shell) -> None:
    """In one story, so that there is something to print; each object is the only thing on stdout."""
    question = {"question": "Which?", "header": "h", "multiSelect": False, "options": [{"label": "A"}]}
    ask = call("AskUserQuestion", questions=[question])
    read = call("Read", file_path=str(shell.work_dir / "a.txt"))
    (shell.work_dir / "a.txt").write_text("text\n")
    tasks = [{"name": "task", "prompt": prompt("go", say("done"))}]
    (shell.work_dir / "tasks.json").write_bytes(msgspec.json.encode(tasks))
    story: tuple[tuple[int, tuple[str, ...]], ...] = (
        (0, ("spawn", "one", prompt("hello", read, say("x", cost_usd=0.5)))),
        (0, ("send", "one", prompt("more", say("y")))),
        (0, ("send", "one", "--detach", "later")),
        (0, ("wait", "one")),
        (0, ("status", "one")),
        (0, ("output", "one")),
        (0, ("history", "one")),
        (0, ("list",)),
        (0, ("top",)),
        (0, ("logs", "one")),
        (0, ("fork", "one", "two", prompt("go", say("z")))),
        (0, ("pause", "one")),
        (0, ("resume", "one")),
        (2, ("interrupt", "one")),
        (0, ("rename", "two", "other")),
        (0, ("stop", "one")),
        (0, ("kill", "other")),
        (3, ("delegate", "three", prompt("go", ask))),
        (0, ("ask",)),
        (0, ("answer", "three", "1")),
        (0, ("continue", "three", prompt("go", say("done")))),
        (0, ("cost",)),
        (0, ("delete", "one")),
        (0, ("cleanup", "--days", "0", "--dry-run")),
        (0, ("config",)),
        (0, ("completion", "bash", "--install")),
        (0, ("audit", "three")),
        (0, ("batch", "--file", "tasks.json")),
        (0, ("batch", "show", "tasks")),
        (0, ("batches",)),
        (0, ("budget", "set", "--daily", "20")),
        (0, ("budget", "show")),
        (0, ("budget", "clear")),
        (0, ("setup", "--local", "--dry-run")),
        (10, ("status", "nobody")),
        (0, ("daemon", "status")),
        (0, ("daemon", "logs")),
        (0, ("daemon", "stop")),
    )
    text = []
    for code, words in story:
        ran = shell.cms(*words, "--json")
        assert ran.code == code, (words, ran)
        assert ran.out.count("\n") == 1, words
        name = " ".join(word for word in words[:2] if words[0] in FAMILIES or word == words[0])
        text += [
            f"cms {name}{' (refused)' if code in (2, 10) else ''}",
            *written(shape(ran.json()), "  "),
            "",
        ]
    snapshot.check("json_shapes.txt", "\n".join(text))


# --- terminals ------------------------------------------------------------------------------------


def on_dumb_terminal(shell: Shell, *words: str) -> str:
    """What a screen reader gets: a terminal of 80 columns, the C locale, no colour."""
    import pty

    leader, follower = pty.openpty()
    env = {**shell.env, "LANG": "C", "LC_ALL": "C", "NO_COLOR": "1", "TERM": "dumb", "COLUMNS": "80"}
    child = subprocess.Popen(
        [sys.executable, "-m", "cms", *words],
        stdin=subprocess.DEVNULL,
        stdout=follower,
        stderr=follower,
        env=env,
        cwd=shell.work_dir,
    )
    os.close(follower)
    raw = b""
    while True:
        try:
            data = os.read(leader, 65536)
        except OSError:
            break
        if not data:
            break
        raw += data
    os.close(leader)
    assert child.wait(20) == 0, raw
    return raw.decode().replace("\r\n", "\n")


def test_every_answer_reads_well_without_colour_and_icons(shell: Shell) -> None:
    shell.ok("spawn", "plain", prompt("naïve ✓ prompt", say("ünïcode ✓ answer " * 8)), "--max-cost", "2")
    commands: tuple[tuple[str, ...], ...] = (
        ("list",),
        ("status", "plain"),
        ("output", "plain"),
        ("history", "plain"),
        ("logs", "plain"),
        ("top",),
        ("wait", "plain"),
        ("ask",),
        ("cost",),
        ("cost", "--by", "day"),
        ("cleanup", "--dry-run", "--days", "0"),
        ("pause", "plain"),
        ("resume", "plain"),
        ("help",),
    )
    said = "ünïcode ✓ answer ".encode("ascii", "replace").decode()
    for words in commands:
        text = on_dumb_terminal(shell, *words)
        assert text.isascii(), words
        assert not ESCAPES.search(text), words
        for line in text.splitlines():
            # What the model said, prompts in a log, and paths are not ours to cut.
            ours = not line.startswith(
                (said[:8], "  prompt:", "  response:", "prompt:", "  work dir", "  last end")
            )
            assert not ours or len(line) <= 80, (words, line)


def test_json_is_the_only_thing_on_stdout_when_a_command_fails(shell: Shell) -> None:
    for words in (("status",), ("fork", "a"), ("cost", "--by", "week"), ("nonsense",), ("wait", "--any")):
        ran = shell.cms(*words, "--json")
        assert ran.code == 2
        error = msgspec.json.decode(ran.out, type=dict[str, dict[str, str]])["error"]
        assert error["code"] == "usage"
        assert error["message"] in ran.err
