"""logs: past and present, many watchers, slow ones; through the real command line."""

from __future__ import annotations

import io
import os
import select
import signal
import subprocess
import time
from pathlib import Path

import msgspec
import pytest

from cli.shell import Shell, shell
from cms.cli.logs import JsonTeller, LineTeller, Log, join_pieces, moment_lines
from cms.cli.terminal import Style
from cms.session.transcript import Moment
from cms.store.rawlog import RawLog
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
    assert "First I look.\n" in out
    assert "That was it.\nThe end.\n" in out
    assert ".env" in next(line for line in out.splitlines() if " refused " in line)
    assert all(ord(letter) < 128 for letter in out)
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
    assert (refused.code, "give it without" in refused.err) == (2, True)


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
        assert "\nOne." not in watcher.seen
    gate.touch()
    for watcher in watchers:
        watcher.wait_for("\nOne. Two. Three.\n")
        watcher.wait_for(" done ")
    shell.ok("send", "stage", prompt("more", say("Four.")))
    for watcher in watchers:
        watcher.wait_for("prompt   more ")
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
    said = [line for line in watcher.seen.splitlines() if line[9:15] != "prompt"]
    assert sum(line.count("word ") for line in said) == 180_000


def test_words_that_cannot_be(shell: Shell) -> None:
    cases = (
        (("logs",), 2, "logs needs the name of a session"),
        (("logs", "nobody-at-all"), 10, "no session named"),
        (("logs", "x", "--last", "0"), 2, "the least is 1"),
        (("logs", "x", "--folow"), 2, "did you mean '--follow'?"),
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


def lines_of(*moments: Moment, style: Style | None = None, capfd: pytest.CaptureFixture[str]) -> str:
    teller = LineTeller(style or Style())
    from cms.store.rawlog import Entry

    teller.tell([(Entry(0.0, "out", b"", 0), (one,)) for one in moments])
    teller.close()
    return capfd.readouterr().out


def test_a_line_of_its_own_after_streamed_text(capfd: pytest.CaptureFixture[str]) -> None:
    tool = Moment(0.0, "tool", "ls", "Bash")
    out = lines_of(piece("a"), piece("b"), tool, piece("c\n"), tool, piece("end"), capfd=capfd)
    assert [line if line[2:3] != ":" else line[9:] for line in out.split("\n")] == [
        *("ab", "tool     Bash ls", "c", "tool     Bash ls", "end", ""),
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
    assert lines_of(said, piece("main"), capfd=capfd) == "  | two\n  | lines\nmain\n"
    assert (
        moment_lines(Moment(0.0, "tool", "ls", "Bash", subagent=True), Style())[0][9:] == "tool     | Bash ls"
    )


def test_one_object_a_line() -> None:
    stream = io.BytesIO()
    from cms.store.rawlog import Entry

    JsonTeller(stream).tell([(Entry(0.0, "out", b"", 0), (piece("ä"), Moment(0.0, "done", cost=0.5)))])
    first, second = stream.getvalue().splitlines()
    assert msgspec.json.decode(first)["text"] == "ä"
    assert msgspec.json.decode(second)["cost"] == 0.5
