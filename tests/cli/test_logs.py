"""logs: past and present, many watchers, slow ones; through the real command line."""

from __future__ import annotations

import io
import os
import re
import select
import signal
import subprocess
import time
from itertools import pairwise
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli import making
from cli.shell import Shell, shell
from cli.terminal import OnTerminal
from cms.cli.keys import take_key
from cms.cli.log_lines import Flow, JsonTeller, LineTeller, join_pieces, moment_lines, verdict_lines
from cms.cli.logs import Log, Sieve
from cms.cli.render import display_width
from cms.cli.terminal import Style
from cms.session.model import Outcome
from cms.session.transcript import Moment, Transcript, without_tags
from cms.store.rawlog import Entry, RawLog
from cms.testing.script import call, prompt, say

__all__ = ["shell"]


class Following:
    """A `cms logs -f` whose output is read as it comes."""

    def __init__(self, child: subprocess.Popen[str]) -> None:
        assert child.stdout is not None
        self.child = child
        self._fd = child.stdout.fileno()
        self.seen = ""

    def wait_for(self, text: str) -> str:
        end = time.monotonic() + 20
        while text not in self.seen:
            ready = select.select([self._fd], [], [], max(0.0, end - time.monotonic()))[0]
            assert ready, (text, self.seen)
            data = os.read(self._fd, 65536)
            assert data, (text, self.seen)
            self.seen += data.decode()
        return self.seen

    def finish(self) -> int:
        out, err = self.child.communicate(timeout=20)
        self.seen += out
        assert not err
        return self.child.returncode


def test_a_session_as_a_person_reads_it(shell: Shell) -> None:
    (shell.work_dir / "notes.txt").write_text("text\n")
    notes = str(shell.work_dir / "notes.txt")
    told = shell.cms(
        *("spawn", "story", "--on-violation", "deny"),
        prompt(
            "tell it",
            call("Read", file_path=notes).saying("First I look."),
            call("Write", file_path=str(shell.work_dir / ".env"), content="x"),
            call("Read", file_path="/nowhere/at/all"),
            say("That was it.\nThe end.", cost_usd=0.05),
        ),
    )
    assert told.code == 3  # what it wanted to write was refused
    shell.ok("send", "story", prompt("and then?", say("Nothing.")))
    out = shell.ok("logs", "story").out
    said = [line[9:17].strip() if line[2:3] == ":" else line for line in out.splitlines() if line]
    assert [word for word in said if word in ("start", "prompt", "tool", "refused", "failed", "done")] == [
        *("start", "prompt", "tool", "tool", "refused", "tool", "failed", "done"),
        *("prompt", "done"),
    ]
    assert f"tool     Read {notes}\n" in out
    assert " answer   First I look.\n" in out
    assert f" answer   That was it.\n{' ' * 18}The end.\n" in out
    assert ".env" in next(line for line in out.splitlines() if " refused " in line)
    assert out.splitlines()[-1][9:].startswith("verdict  ")
    assert "completed  $0.0000  1 turn  " in out.splitlines()[-1]
    last = shell.ok("logs", "story", "--last", "1").out
    assert "and then?" in last
    assert "tell it" not in last
    found = shell.ok("logs", "story", "--json").json()
    assert found["path"] == str(shell.home / "raw" / f"{shell.status('story')['id']}.log")
    moments = shell.ok("logs", "story", "--json").list("moments")
    assert [one["text"] for one in moments if one["kind"] == "text"] == [
        "First I look.",
        "That was it.\nThe end.",
        "Nothing.",
    ]
    cost = next(one["cost"] for one in moments if one["kind"] == "done")
    interactions = shell.ok("history", "story", "--json").list("interactions")
    assert cost == pytest.approx(interactions[0]["cost"])


def test_raw_is_exactly_what_claude_wrote(shell: Shell) -> None:
    shell.ok("spawn", "plain", prompt("hello", say("naïve ✓")))
    out = shell.ok("logs", "plain", "--raw").out
    kinds = [msgspec.json.decode(line, type=dict[str, object])["type"] for line in out.splitlines()]
    assert kinds.count("result") == 1
    assert "naïve ✓" in out
    assert "control_request" not in kinds or "user" not in kinds[:1]
    refused = shell.cms("logs", "plain", "--raw", "--json")
    assert (refused.code, "--raw excludes" in refused.err) == (2, True)


def test_many_watchers_see_the_text_as_it_streams(shell: Shell) -> None:
    gate = shell.work_dir / "stream"
    words = prompt(
        "go",
        call("Bash", command=f"until test -e {gate}; do sleep 0.01; done").saying("Before."),
        say("One. Two. Three."),
    )
    shell.ok("spawn", "stage", "--detach", "--preset", "full", words)
    watchers = [Following(shell.start("logs", "stage", "-f")) for _ in range(3)]
    for watcher in watchers:
        watcher.wait_for("Before.")
        watcher.wait_for("tool     Bash until test -e")
        assert "answer   One." not in watcher.seen
    gate.touch()
    for watcher in watchers:
        watcher.wait_for("answer   One. Two. Three.\n")
        watcher.wait_for(" done ")
    shell.ok("send", "stage", prompt("more", say("Four.")))
    for watcher in watchers:
        watcher.wait_for("prompt   more\n")
        watcher.wait_for("Four.\n")
    shell.ok("stop", "stage")
    assert [watcher.finish() for watcher in watchers] == [0, 0, 0]
    # What comes after the end is the past.
    ended = shell.cms("logs", "stage", "-f")
    assert (ended.code, ended.err) == (0, "cms: stage is stopped: nothing more comes\n")
    assert ended.out == watchers[0].seen


def test_ctrl_c_ends_the_watching_and_nothing_else(shell: Shell) -> None:
    shell.ok("spawn", "watched", prompt("hello", say("Here.")))
    watcher = Following(shell.start("logs", "watched", "-f", "--json"))
    watcher.wait_for('"kind":"done"')
    watcher.child.send_signal(signal.SIGINT)
    assert watcher.finish() == 0
    for line in watcher.seen.splitlines():
        assert msgspec.json.decode(line, type=dict[str, object])["at"]
    assert shell.ok("send", "watched", prompt("still?", say("Still.")), "--json").json()["text"] == "Still."


def test_a_watcher_that_does_not_read_slows_nothing(shell: Shell) -> None:
    """Each answer is many times what its pipe holds; the session answers all the same."""
    shell.ok("spawn", "flood", prompt("hello", say("Here.")))
    stuck = shell.start("logs", "flood", "-f")
    text = "word " * 60_000
    for number in range(3):
        words = prompt(f"go {number}", say(text).chunked(2000))
        answer = shell.ok("send", "flood", "-", "--json", stdin=words).json()
        assert answer["text"] == text
    # And it has lost nothing by that.
    watcher = Following(stuck)
    watcher.wait_for("prompt   go 2")
    shell.ok("stop", "flood")
    assert watcher.finish() == 0
    said = [line for line in watcher.seen.splitlines() if line[9:15] == "answer"]
    assert [line[18:].split() for line in said[-3:]] == [["word"] * 60_000] * 3


def test_words_that_cannot_be(shell: Shell) -> None:
    cases = (
        (("logs",), 2, "logs needs the name of a session"),
        (("logs", "nobody-at-all"), 10, "no session named"),
        (("logs", "x", "--last", "0"), 2, "at least 1"),
        (("logs", "x", "--folow"), 2, "did you mean '--follow'?"),
        (("logs", "x", "--grep", "("), 2, "is not a regular expression"),
        (("logs", "x", "--since", "noon"), 2, "'noon' is not a time"),
        (("logs", "x", "--raw", "--grep", "y"), 2, "--raw excludes"),
    )
    for words, code, said in cases:
        ran = shell.cms(*words)
        assert (ran.code, said in ran.err) == (code, True), ran


# --- the parts ------------------------------------------------------------------------------------


def user(text: str) -> bytes:
    return msgspec.json.encode({"type": "user", "uuid": "u", "message": {"role": "user", "content": text}})


def test_who_falls_far_behind_skips_to_the_present(tmp_path: Path) -> None:
    with RawLog(tmp_path / "log") as raw:
        raw.append("in", user("first"), 1.0)
        log = Log(tmp_path / "log")
        assert [one.text for _, found in log.news() for one in found] == ["first"]
        assert log.catch_up(1000) == 0
        for number in range(100):
            raw.append("in", user(f"lost {number}"), 2.0)
        behind = raw.size - log.offset
        assert log.catch_up(1000) == behind
        assert list(log.news()) == []
        raw.append("in", user("now"), 3.0)
        assert [one.text for _, found in log.news() for one in found] == ["now"]
    assert Log(tmp_path / "none").catch_up(0) == 0


def test_tags_of_claudes_are_not_shown() -> None:
    result = {
        "type": "tool_result",
        "tool_use_id": "t",
        "is_error": True,
        "content": "<tool_use_error>No such file.</tool_use_error><system-reminder>Hush.\n</system-reminder>",
    }
    failed = {
        "type": "user",
        "message": {"role": "user", "content": [result]},
        "session_id": "s",
        "uuid": "u",
    }
    text = {"type": "text", "text": "<local-command-stdout>Set model to opus</local-command-stdout>"}
    said = {"type": "assistant", "message": {"id": "m", "content": [text]}, "session_id": "s", "uuid": "u"}
    mentioned = {"type": "text", "text": "claude writes <command-name> there"}
    quoting = {**said, "message": {"id": "n", "content": [mentioned]}}
    transcript = Transcript()
    lines = [msgspec.json.encode(one) for one in (failed, said, quoting)]
    moments = [one for line in lines for one in transcript.read(1.0, "out", line)]
    assert [one.text for one in moments] == [
        *("No such file.", "Set model to opus", "claude writes <command-name> there"),
    ]
    assert without_tags("[structured-output-enforce] Call it <command-args>x</command-args>") == "Call it x"


def test_a_record_that_is_being_written_is_read_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "log"
    record = b"1.000000 in %d %b\n" % (len(user("hello")), user("hello"))
    log = Log(path)
    assert list(log.news()) == []
    with path.open("wb", buffering=0) as file:
        for position in range(0, len(record), 7):
            assert list(log.news()) == []
            file.write(record[position : position + 7])
    assert [one.text for _, found in log.news() for one in found] == ["hello"]


def piece(text: str) -> Moment:
    return Moment(0.0, "text", text, piece=True)


def test_pieces_are_joined() -> None:
    done = Moment(0.0, "done")
    assert [one.text for one in join_pieces([piece("a"), piece("b"), done, piece("c")])] == ["ab", "", "c"]
    another = msgspec.structs.replace(piece("b"), begins=True)
    assert [one.text for one in join_pieces([piece("a"), another, piece("c")])] == ["a", "bc"]


def lines_of(*moments: Moment, style: Style | None = None, capfd: pytest.CaptureFixture[str]) -> str:
    teller = LineTeller(style or Style())
    teller.tell([(Entry(0.0, "out", b"", 0), (one,)) for one in moments])
    teller.close()
    return capfd.readouterr().out


def test_a_line_of_its_own_after_streamed_text(capfd: pytest.CaptureFixture[str]) -> None:
    tool = Moment(0.0, "tool", "ls", "Bash")
    out = lines_of(piece("a"), piece("b"), tool, piece("c\n"), tool, piece("end"), capfd=capfd)
    assert [line if line[2:3] != ":" else line[9:] for line in out.split("\n")] == [
        *("answer   ab", "tool     Bash ls", "answer   c", "tool     Bash ls", "answer   end", ""),
    ]


def test_a_terminal_gets_lines_that_fit_and_no_escapes(
    capfd: pytest.CaptureFixture[str],
) -> None:
    style = Style(icons="unicode", width=60, tty=True)
    tool = Moment(0.0, "tool", "x\x1b[2J" + "y" * 200, "Bash")
    (line,) = moment_lines(tool, style)
    assert len(line) == 60
    assert "\x1b" not in line
    assert "\x1b" not in lines_of(piece("a\x1b[2Jb"), style=style, capfd=capfd)
    assert "\x1b[36m" in moment_lines(tool, msgspec.structs.replace(style, colour=True))[0]


def test_a_subagent_stands_apart(capfd: pytest.CaptureFixture[str]) -> None:
    said = Moment(0.0, "text", "two\nlines", subagent=True)
    told = lines_of(said, piece("main"), capfd=capfd).splitlines()
    assert [line[9:] for line in told] == ["answer   | two", "         | lines", "answer   main"]
    assert (
        moment_lines(Moment(0.0, "tool", "ls", "Bash", subagent=True), Style())[0][9:] == "tool     | Bash ls"
    )


WORDS = st.text("abc 日本\n\t👍é", max_size=200)


@given(WORDS, st.lists(st.integers(0, 200), max_size=5), st.integers(24, 60))
def test_a_text_is_wrapped_in_its_column_however_it_comes(text: str, cuts: list[int], width: int) -> None:
    whole = Flow(width, " " * 10)
    expected = whole.feed(text) + whole.close()
    flow, places = Flow(width, " " * 10), [0, *sorted(cuts), len(text)]
    out = "".join(flow.feed(text[start:end]) for start, end in pairwise(places)) + flow.close()
    assert out == expected
    first, *rest = out.split("\n")
    assert all(display_width(line) <= width - 10 for line in (first, *(line[10:] for line in rest)))
    assert all(not line.strip() or line.startswith(" " * 10) for line in rest)
    assert "".join(out.split()) == "".join(text.split())


def test_long_lines_are_wrapped_between_words_and_code_keeps_its_shape() -> None:
    flow = Flow(30, " " * 10)
    out = flow.feed("one two three four five six\n\n  if x:\n      y()\n") + flow.close()
    assert out.split("\n") == [
        *("one two three four", "          five six", "", "            if x:", "                y()"),
    ]


def told_of(*moments: Moment) -> list[tuple[Entry, tuple[Moment, ...]]]:
    return [(Entry(one.at, "out", b"", 0), (one,)) for one in moments]


def test_what_is_let_through() -> None:
    done = Moment(30.0, "done")
    told = told_of(
        Moment(10.0, "tool", "ls", "Bash"), Moment(20.0, "text", "He", piece=True, begins=True),
        Moment(21.0, "text", "llo", piece=True), done,
    )  # fmt: skip

    def through(since: float | None, pattern: str) -> list[str]:
        sieve = Sieve(since, re.compile(pattern) if pattern else None)
        found = [*sieve.of(told), *sieve.rest()]
        return [one.kind + one.text for _, moments in found for one in moments]

    assert through(None, "") == ["toolls", "textHe", "textllo", "done"]
    assert through(15.0, "") == ["textHe", "textllo", "done"]
    assert through(None, "Hello$") == ["textHello"]
    assert through(None, "^Bash ls") == ["toolls"]
    assert through(15.0, "l") == ["textHello"]


def test_how_it_ended_and_why_stands_at_the_end() -> None:
    end = making.interaction()
    assert verdict_lines(msgspec.structs.replace(end, outcome=None), None, Style()) == []
    refused = msgspec.structs.replace(
        end, outcome=Outcome.COST_EXCEEDED, error="over $1", reasons=("over $1", "a\x1b[2J second one")
    )
    style = Style(icons="ascii", width=60, tty=True)
    _, first, *rest = verdict_lines(refused, "cms send x y", style)
    assert first[9:].startswith("verdict  $ cost_exceeded  $")
    assert [line[18:] for line in rest] == ["over $1", "a?[2J second one", "next: cms send x y"]


def test_keys() -> None:
    typed = "q\x1b[A\x1bOB\x1b[1;5C\x1b[5~\x7f\r\x01é\x1b"
    keys = []
    while typed:
        key, typed = take_key(typed)
        keys.append(key)
    assert keys == ["q", "up", "down", "", "page up", "backspace", "enter", "", "é", "escape"]


def test_q_leaves_and_the_session_works_on(shell: Shell) -> None:
    shell.ok("spawn", "seen", prompt("hello", say("Here.")))
    shown = OnTerminal("logs", "seen", "-f", env=shell.env)
    shown.wait_for(lambda raw: " done " in raw)
    shell.ok("send", "seen", prompt("more", say("There.")))
    shown.wait_for(lambda raw: "There." in raw)
    shown.type("q")
    assert shown.finish() == 0
    assert "verdict" not in shown.text
    assert shell.status("seen")["status"] == "ready"
    said = shell.ok("logs", "seen", "--grep", "There|Here").out
    assert [line[9:] for line in said.splitlines() if "answer" in line] == [
        "answer   Here.",
        "answer   There.",
    ]
    assert "verdict" not in said
    assert shell.ok("logs", "seen", "--since", "2020-01-01").out == shell.ok("logs", "seen").out
    assert shell.ok("logs", "seen", "--json", "--grep", "nowhere").json()["moments"] == []


def test_one_object_a_line() -> None:
    stream = io.BytesIO()
    JsonTeller(stream).tell([(Entry(0.0, "out", b"", 0), (piece("ä"), Moment(0.0, "done", cost=0.5)))])
    first, second = stream.getvalue().splitlines()
    assert msgspec.json.decode(first)["text"] == "ä"
    assert msgspec.json.decode(second)["cost"] == 0.5
