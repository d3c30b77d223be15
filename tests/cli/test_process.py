"""Commands as processes: terminals, locales, pipes, signals."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from cli.conftest import Cms
from cli.making import NOW, interaction, reply, result, session
from cli.scripted import ScriptedDaemon, serve
from cli.terminal import OnTerminal
from cli.test_commands import ACCEPTED, SCRIPT, always
from cms.errors import ExitCode, Interrupted
from cms.rpc.sessions import InteractionsResult, SessionsResult
from cms.session.model import Outcome, Progress, ProgressKind, Record, SessionStatus

SESSIONS = SessionsResult((session(), session("docs", status=SessionStatus.BUSY)), 0.2468, 2)
LIST = {"session.list": always(SESSIONS)}


def test_a_terminal_gets_icons_and_colour(home: Path) -> None:
    with serve(home, LIST):
        shown = OnTerminal("list")
        assert shown.finish() == 0
    assert "● ready" in shown.text
    assert "\x1b[32m● ready\x1b[0m" in shown.raw


@pytest.mark.parametrize("env", [{"NO_COLOR": "1"}, {"NO_COLOR": ""}, {"TERM": "dumb"}], ids=str)
def test_no_colour_where_it_is_not_wanted(home: Path, env: dict[str, str]) -> None:
    with serve(home, LIST):
        shown = OnTerminal("list", env=env)
        assert shown.finish() == 0
    assert "● ready" in shown.raw
    assert "\x1b" not in shown.raw


@pytest.mark.parametrize(
    "env",
    [{"LANG": "C"}, {"LC_ALL": "C"}, {"LC_ALL": "POSIX"}, {"PYTHONIOENCODING": "ascii"}],
    ids=str,
)
def test_ascii_where_the_locale_or_the_stream_is(home: Path, env: dict[str, str]) -> None:
    with serve(home, LIST):
        shown = OnTerminal("list", env={**env, "NO_COLOR": "1"})
        assert shown.finish() == 0
    assert shown.raw.isascii()
    assert "* ready" in shown.raw
    assert "> busy" in shown.raw


def test_a_pipe_gets_icons_where_it_can_and_never_cuts(cms_process: Cms, home: Path) -> None:
    long = session("n" * 64, model="claude-sonnet-4-5-20250929")
    with serve(home, {"session.list": always(SessionsResult((long,), 0.0, 1))}):
        ran = cms_process("list", env={"COLUMNS": "40", "LC_ALL": "C.UTF-8"})
        plain = cms_process("list", env={"LC_ALL": "C"})
    assert f"{'n' * 64}  ● ready  claude-sonnet-4-5-20250929" in ran.out
    assert "\x1b" not in ran.out
    assert f"{'n' * 64}  ready   claude-sonnet-4-5-20250929" in plain.out
    assert plain.out.isascii()


def test_an_answer_that_the_stream_cannot_carry(cms_process: Cms, home: Path) -> None:
    answer = InteractionsResult(session(), (interaction(response="naïve ✓"),))
    with serve(home, {"session.interactions": always(answer)}):
        ran = cms_process("output", "fix-auth", "--full", env={"PYTHONIOENCODING": "ascii"})
        as_json = cms_process("output", "fix-auth", "--json", env={"PYTHONIOENCODING": "ascii"})
    assert ran.out == "na?ve ?\n"
    assert as_json.json()["response"] == "naïve ✓"


def test_progress_is_one_line_that_leaves_no_trace(home: Path) -> None:
    note = Progress(
        name="fix-auth",
        kind="tool",
        tool="Edit",
        text="src/app.py " * 20,
        cost=0.25,
        max_cost=2.0,
        turns=3,
        max_turns=50,
        at=NOW,
    )
    script = {**SCRIPT, "session.delegate": always(None)}
    with serve(home, script, cancelled=result(outcome=Outcome.INTERRUPTED), progress=(note,)) as daemon:
        shown = OnTerminal("delegate", "fix-auth", "go")
        shown.wait_for(lambda raw: "3/50 turns  $0.2500/$2.00" in raw)
        assert daemon.waiting.wait(30)
        os.kill(shown.process.pid, signal.SIGINT)
        assert shown.finish() == ExitCode.INTERRUPTED
    assert "\n" not in shown.raw[: shown.raw.index("3/50 turns")]
    assert "3/50 turns" not in shown.text
    assert shown.text.startswith("⊘ interrupted  fix-auth  $0.2500  5 turns")


def test_progress_stays_out_of_dumb_terminals_and_json(home: Path) -> None:
    note = Progress(name="fix-auth", kind="tool", tool="Edit")
    for words, env in ((("--json",), {}), ((), {"TERM": "dumb"})):
        with serve(home, SCRIPT, progress=(note,)):
            shown = OnTerminal("delegate", "fix-auth", "go", *words, env=env)
            assert shown.finish() == 0
        assert "Edit " not in shown.raw
        assert "\x1b[2K" not in shown.raw


def told(*pieces: str | tuple[ProgressKind, str, str], message: str = "m1") -> tuple[Progress, ...]:
    """Notes about a message: texts, and (kind, tool, text) of others."""
    found: list[tuple[ProgressKind, str, str]] = [
        ("text", "", one) if isinstance(one, str) else one for one in pieces
    ]
    return tuple(
        Progress(name="fix-auth", kind=kind, text=text, tool=tool, interaction=message)
        for kind, tool, text in found
    )


def test_the_answer_comes_as_it_is_written_and_once(home: Path) -> None:
    notes = (
        *told("of another message", ("turn", "", ""), message="m0"),
        *told(
            "First I \x1b[2Jlook.", ("tool", "Bash", "ls \x07"), ("note", "", "no"), ("denied", "Write", "no")
        ),
        *told("It is ", "done.\n\nThe end."),
    )
    for verb, words in (("delegate", ("delegate", "fix-auth", "go")), ("send", ("send", "fix-auth", "go"))):
        answers: dict[str, Record] = {
            "delegate": msgspec.structs.replace(result(), response="It is done.\n\nThe end."),
            "send": reply(text="It is done.\n\nThe end.\n"),
        }
        script = {f"session.{verb}": always(answers[verb])}
        with serve(home, script, progress=notes, accepted="m1"):
            shown = OnTerminal(*words)
            assert shown.finish() == 0
        text, _, rest = shown.text.partition("\nThe end.\n\n")
        assert text == "First I ?[2Jlook.\n\n  Bash ls ?\n  no\n\nIt is done.\n"
        assert "fix-auth" in rest.splitlines()[0]
        assert "The end." not in rest
        assert "another" not in shown.raw


def test_what_did_not_come_whole_is_printed_at_the_end(home: Path) -> None:
    script = {"session.send": always(reply(text="one two three"))}
    with serve(home, script, progress=told("one", " three"), accepted="m1"):
        shown = OnTerminal("send", "fix-auth", "go", env={"TERM": "dumb"})
        assert shown.finish() == 0
    assert shown.text.startswith("one three\n\nfix-auth ")
    assert shown.text.endswith("\none two three\n")
    assert "\x1b[2K" not in shown.raw


def test_a_pipe_gets_the_answer_at_the_end(cms_process: Cms, home: Path) -> None:
    script = {"session.send": always(reply(text="one two"))}
    with serve(home, script, progress=told("one", " two"), accepted="m1"):
        ran = cms_process("send", "fix-auth", "go")
    assert ran.out.count("one two") == 1
    assert (ran.out.endswith("\n\none two\n"), ran.err) == (True, "")


def test_ctrl_c_on_a_message_leaves_the_session_at_work(home: Path) -> None:
    with serve(home, {"session.send": always(None)}, cancelled=ACCEPTED) as daemon:
        shown = OnTerminal("send", "fix-auth", "go")
        assert daemon.waiting.wait(30)
        os.kill(shown.process.pid, signal.SIGINT)
        assert shown.finish() == ExitCode.INTERRUPTED
    assert "cms: no longer waiting; fix-auth works on\n     `cms interrupt fix-auth` stops it" in shown.text


def interrupted(daemon: ScriptedDaemon, *words: str) -> tuple[str, str]:
    """What a command says to a Ctrl-C that comes while it waits for the daemon."""
    process = subprocess.Popen(
        [sys.executable, "-m", "cms", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert daemon.waiting.wait(30)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert process.returncode == ExitCode.INTERRUPTED
    return out, err


def test_ctrl_c_before_anything_was_accepted(home: Path) -> None:
    """There is no result to print, and the exit code says the same as with one."""
    script = {**SCRIPT, "session.delegate": always(None)}
    never = Interrupted("cancelled before anything was accepted")
    with serve(home, script, cancelled=never) as daemon:
        out, err = interrupted(daemon, "delegate", "fix-auth", "go", "--json")
    assert '"code":"interrupted"' in out
    assert err == "cms: cancelled before anything was accepted\n"


def test_ctrl_c_while_nothing_is_under_way(home: Path) -> None:
    with serve(home, {"session.list": always(None)}, cancelled=SESSIONS) as daemon:
        out, err = interrupted(daemon, "list", "--json")
    assert out == '{"error":{"code":"interrupted","message":"interrupted","hint":""}}\n'
    assert err == "cms: interrupted\n"


def test_a_reader_that_leaves_early_is_no_drama(home: Path) -> None:
    many = tuple(session(f"s{number}") for number in range(3000))
    with serve(home, {"session.list": always(SessionsResult(many, 0.0, len(many)))}):
        process = subprocess.Popen(
            [sys.executable, "-m", "cms", "list"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline().startswith(b"NAME")
        process.stdout.close()
        err = process.stderr.read()
        process.stderr.close()
        process.wait(30)
    assert err == b""


def test_a_full_disk_is_told(cms_process: Cms, home: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("/dev/full is Linux's")
    with serve(home, LIST), Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "cms", "list"],
            stdout=full,
            stderr=subprocess.PIPE,
            timeout=60,
            check=False,
        )
    assert done.returncode == ExitCode.FAILED
    assert done.stderr.startswith(b"cms: cannot write the answer: No space left on device\n")


def test_the_script_and_the_module_are_the_same_command(cms_process: Cms) -> None:
    ran = cms_process("--version")
    script = subprocess.run(
        [Path(sys.executable).parent / "cms", "--version"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert ran.out == script.stdout
    assert ran.code == 0


def test_no_daemon_can_be_started_in_a_home_that_cannot_be_made(cms_process: Cms, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    ran = cms_process("list", env={"CMS_HOME": str(tmp_path / "file" / "home")})
    assert ran.code == ExitCode.FAILED
    assert ran.err.startswith(f"cms: cannot use {tmp_path / 'file' / 'home'}: Not a directory\n")
    assert ran.err.count("\n") == 2


def test_a_daemon_in_a_terminal_of_its_own(cms_process: Cms, home: Path) -> None:
    daemon = subprocess.Popen(
        [sys.executable, "-m", "cms", "daemon", "run"],
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
    )
    assert daemon.stderr is not None
    for line in daemon.stderr:
        if "serving at" in line:
            break
    status = cms_process("daemon", "status", "--json").json()
    assert (status["running"], status["pid"], status["live"]) == (True, daemon.pid, 0)
    assert cms_process("list").out == "no sessions yet; start one: cms spawn NAME PROMPT\n"
    second = cms_process("daemon", "run")
    assert second.code == ExitCode.USAGE
    assert f"another daemon (pid {daemon.pid}" in second.err
    assert cms_process("daemon", "stop").out == f"daemon stopped (pid {daemon.pid})\n"
    assert daemon.wait(30) == 0
    daemon.stderr.close()
    assert cms_process("daemon", "status").code == ExitCode.DAEMON_UNAVAILABLE
