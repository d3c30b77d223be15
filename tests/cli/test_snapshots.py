"""What programs and people rely on, as it stands: the help of every command, and the shape of its JSON."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator

import msgspec
import pytest

from cli import snapshot
from cli.conftest import Cms
from cli.shell import Shell, own_shell, shell
from cli.test_top import ESCAPES
from cms._version import __version__
from cms.cli.commands import COMMANDS, FAMILIES
from cms.cli.help import Page, lines, page_of
from cms.cli.terminal import Style
from cms.testing.script import call, prompt, say

__all__ = ["own_shell", "shell"]

PATHS = [
    *((names[0],) for names, *_ in COMMANDS),
    *((children, name) for children, (_, _, commands) in FAMILIES.items() for name, *_ in commands),
]
#: Commands with so many flags that the short help has the common ones alone.
LONG = (("delegate",), ("spawn",), ("batch",))


@pytest.mark.parametrize(
    "words",
    [("delegate", "fix"), ("batch", "show", "tasks-1"), ("send", "fix", "hello", "--json")],
    ids=" ".join,
)
def test_help_may_be_asked_for_after_the_arguments(words: tuple[str, ...], cms: Cms) -> None:
    ran = cms(*words, "--help")
    of = words[:2] if words[0] == "batch" else words[:1]
    flags = [word for word in words if word.startswith("--")]
    assert (ran.code, ran.out) == (0, cms(*of, *flags, "--help").out)
    assert cms("batch", "shwo", "--help").code == 2


@pytest.mark.parametrize("path", [*PATHS, ("batch",)], ids=" ".join)
def test_the_help_of_a_command(path: tuple[str, ...], cms: Cms, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    ran = cms(*path, "--help")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.isascii()
    assert max(len(line) for line in ran.out.splitlines()) <= 80
    assert f"\nUsage: cms {' '.join(path)}" in ran.out
    assert "\nExamples:\n  " in ran.out
    assert "--json" in ran.out
    snapshot.check(f"help/{'-'.join(path)}.txt", ran.out)
    monkeypatch.setenv("COLUMNS", "100")
    assert cms(*path, "--help").out.count("\n") <= 45, "it is to fit a screen"


@pytest.mark.parametrize("path", LONG, ids=" ".join)
def test_the_whole_help_has_every_flag(
    path: tuple[str, ...], cms: Cms, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    short, whole = cms(*path, "--help").out, cms(*path, "--help-all").out
    assert "--add-dir" not in short
    assert "\n  --add-dir DIR " in whole
    assert cms("help", *path, "--help-all").out == whole
    assert max(len(line) for line in whole.splitlines()) <= 80
    assert [name for flag in page_of(path).flags for name in flag.names if name not in whole] == []
    snapshot.check(f"help/{'-'.join(path)}-all.txt", whole)


def test_the_help_of_batch_is_that_of_the_command_and_of_the_family(
    cms: Cms, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    ran = cms("help", "batch")
    assert ran.out == cms("batch", "--help").out
    assert "--file FILE" in ran.out
    assert cms("help", "batch", "show").out == cms("batch", "show", "--help").out
    assert cms("help", "batch", "shwo").err.startswith(
        "cms: unknown command 'shwo'\n     did you mean 'show'?"
    )
    assert "\nCommands: show, pause," in ran.out
    assert "\n  cancel " in cms("batch", "--help-all").out


def test_the_overview(cms: Cms, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    ran = cms("help")
    assert ran.out == cms("--help").out == cms("-h").out == cms().out
    whole = cms("--help-all").out
    for text in (ran.out, whole):
        assert text.isascii()
        assert max(len(line) for line in text.splitlines()) <= 80
    for path in PATHS:
        assert re.search(rf"\n  (also: .*)?\b{path[0]}\b", ran.out), f"{path} is not in the overview"
        assert f"\n  {path[0]} " in whole
    assert ran.out.count("\n") <= 50, "it is to fit a screen"
    snapshot.check("help/overview.txt", ran.out)
    snapshot.check("help/overview-all.txt", whole)


def test_help_and_version_as_json(cms: Cms) -> None:
    ran = cms("delegate", "--help", "--json")
    assert ran.out == cms("help", "delegate", "--json").out
    page = msgspec.json.decode(ran.out, type=Page)
    assert page == page_of(["delegate"])
    assert page.usage[0] == "cms delegate NAME TASK [flags]"
    (cost,) = (flag for flag in page.flags if flag.names == ("--max-cost",))
    assert (cost.default, cost.value, cost.group, cost.common) == ("2.00", "USD", "Limits", True)
    root = msgspec.json.decode(cms("--json").out, type=Page)
    assert {one.name for one in root.commands} >= {"delegate", "batch", "doctor"}
    assert cms("--version", "--json").json() == {"version": __version__}


def test_help_has_colour_on_a_terminal_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    page = page_of(["status"])
    plain = lines(page, Style(), 80)
    coloured = lines(page, Style(colour=True, tty=True), 80)
    assert "\x1b" not in "".join(plain)
    assert [ESCAPES.sub("", line) for line in coloured] == plain
    assert "\x1b[1;32mUsage:\x1b[0m cms status NAME [flags]" in coloured


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


def test_the_shape_of_what_each_command_prints(own_shell: Shell) -> None:
    """In one story, so that there is something to print; each object is the only thing on stdout."""
    question = {"question": "Which?", "header": "h", "multiSelect": False, "options": [{"label": "A"}]}
    ask = call("AskUserQuestion", questions=[question])
    read = call("Read", file_path=str(own_shell.work_dir / "a.txt"))
    (own_shell.work_dir / "a.txt").write_text("text\n")
    tasks = [{"name": "task", "prompt": prompt("go", say("done"))}]
    (own_shell.work_dir / "tasks.json").write_bytes(msgspec.json.encode(tasks))
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
        (0, ("tag", "other", "mine")),
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
        (0, ("search", "done")),
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
        ran = own_shell.cms(*words, "--json")
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
        ("cost", "--by", "tag"),
        ("tag", "plain", "mine"),
        ("search", "answer"),
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
    for words in (("status",), ("fork", "a"), ("cost", "--by", "weak"), ("nonsense",), ("wait", "--any")):
        ran = shell.cms(*words, "--json")
        assert ran.code == 2
        error = msgspec.json.decode(ran.out, type=dict[str, dict[str, str]])["error"]
        assert error["code"] == "usage"
        assert error["message"] in ran.err
