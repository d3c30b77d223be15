"""Records to lines, literally."""

from __future__ import annotations

from datetime import UTC

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli.making import NOW, RECEIPT, UNPROVED, interaction, reply, result, session
from cms.batch.model import BatchOptions, BatchRecord, BatchStatus, TaskStatus
from cms.cli import batch_render, end_lines, render
from cms.cli.ends import cleanup_lines
from cms.cli.progress import progress_line
from cms.cli.status import list_table, short_folder
from cms.cli.terminal import Style
from cms.rpc.sessions import CleanupResult, KeptSession
from cms.session.model import (
    Denial,
    InteractionState,
    Limits,
    Outcome,
    Progress,
    Question,
    Safety,
    SessionStatus,
    Step,
    Violation,
)
from cms.units import ago, clock

PIPE = Style(zone=UTC)
TERMINAL = Style(icons="unicode", colour=False, width=80, tty=True, zone=UTC)
ASCII = Style(icons="ascii", colour=False, width=80, tty=True, zone=UTC)
UNPROVED_LINE = "kill: kill did not end it in 2.0s, 2 alive when force was used, STILL ALIVE: 41 python"
COLOUR = Style(icons="unicode", colour=True, width=80, tty=True, zone=UTC)


def test_list_as_a_table() -> None:
    sessions = [
        session("docs", status=SessionStatus.BUSY, model="haiku", created=NOW - 20, cost=0.002),
        session("fix-auth"),
        session("old", status=SessionStatus.KILLED, created=NOW - 3 * 86400, turns=41, cost=1.5),
    ]
    assert list_table(sessions, 1.6254, NOW, TERMINAL) == [
        "NAME      STATUS    MODEL   TURNS     COST  MSGS  AGE       FOLDER",
        "docs      ⟳ busy    haiku       3  $0.0020     2  just now  /srv/app",
        "fix-auth  ● ready   sonnet      3  $0.1234     2  3m ago    /srv/app",
        "old       ⊘ killed  sonnet     41  $1.5000     2  3d ago    /srv/app",
        "",
        "total: 3 sessions, 6 interactions, 47 turns, $1.6254",
    ]
    assert list_table(sessions, 1.6254, NOW, ASCII)[1:4] == [
        "docs      > busy    haiku       3  $0.0020     2  just now  /srv/app",
        "fix-auth  * ready   sonnet      3  $0.1234     2  3m ago    /srv/app",
        "old       / killed  sonnet     41  $1.5000     2  3d ago    /srv/app",
    ]
    assert list_table(sessions, 1.6254, NOW, PIPE)[1].startswith("docs      busy    haiku")
    active = list_table(sessions, 1.6254, NOW, TERMINAL, order="active")
    assert (active[0].split()[6], active[3].split()[-2]) == ("ACTIVE", "now"), "when it last changed"


def test_list_says_how_what_rests_has_ended() -> None:
    rests = session("spent", status=SessionStatus.STOPPED)
    lives = msgspec.structs.replace(session("lives"), id="2")
    outcomes = {rests.id: Outcome.COST_EXCEEDED, lives.id: Outcome.NEEDS_INPUT}
    lines = list_table([rests, lives], 0.2, NOW, TERMINAL, outcomes=outcomes)
    assert lines[1].startswith("spent  $ cost_exceeded  sonnet")
    assert lines[2].startswith("lives  ● ready ")
    fine = list_table([rests], 0.2, NOW, TERMINAL, outcomes={rests.id: Outcome.COMPLETED})
    assert fine[1].startswith("spent  □ stopped")


def test_a_folder_gives_way_from_its_beginning() -> None:
    record = session("a-name-of-some-length", status=SessionStatus.STOPPED)
    options = msgspec.structs.replace(record.options, work_dir="/home/ann/src/clients/big/api")
    record = msgspec.structs.replace(record, options=options)
    outcomes = {record.id: Outcome.VERIFICATION_FAILED}
    line = list_table([record], 0.2, NOW, TERMINAL, outcomes=outcomes, home="/home/ann")[1]
    assert "…" in line
    assert line.endswith("api")
    wide = msgspec.structs.replace(TERMINAL, width=140)
    line = list_table([record], 0.2, NOW, wide, outcomes=outcomes, home="/home/ann")[1]
    assert line.endswith("  ~/src/clients/big/api")
    assert short_folder("/home/annex/x", "/home/ann") == "/home/annex/x"


def test_list_shows_tags_where_there_are_some() -> None:
    plain, tagged = session("a"), session("b")
    options = msgspec.structs.replace(tagged.options, tags=("release-2", "urg\x1bent"))
    tagged = msgspec.structs.replace(tagged, options=options)
    assert "TAGS" not in list_table([plain], 0.0, NOW, PIPE)[0]
    heads, first, second, *_ = list_table([plain, tagged], 0.0, NOW, TERMINAL)
    assert heads.endswith("TAGS")
    assert not first.endswith(" ")
    assert second.endswith("release-2, urg?e…")
    wide = list_table([tagged], 0.0, NOW, PIPE, beyond=3, only=" --tag 'a b'")
    assert wide[1].endswith("release-2, urg\x1bent")
    assert wide[-1].endswith("the next: cms list --tag 'a b' --after b")
    for width in (20, 40, 60, 80, 100):
        narrow = msgspec.structs.replace(TERMINAL, width=width)
        lines = list_table([plain, tagged], 0.0, NOW, narrow)[:3]
        assert max(map(render.display_width, lines)) <= max(width, 60)


def test_list_of_nothing_says_how_to_begin() -> None:
    assert list_table([], 0.0, NOW, TERMINAL) == ["no sessions yet; start one: cms spawn NAME PROMPT"]


@given(
    name=st.text("abcdefgh-", min_size=1, max_size=64),
    model=st.text("abcdefgh-", min_size=1, max_size=40),
    status=st.sampled_from(list(SessionStatus)),
    cost=st.floats(0, 99999),
    turns=st.integers(0, 99999),
    age=st.floats(0, 5000 * 86400),
    style=st.sampled_from([TERMINAL, ASCII]),
)
def test_the_table_fits_80_columns_whatever_is_in_it(
    name: str, model: str, status: SessionStatus, cost: float, turns: int, age: float, style: Style
) -> None:
    record = session(name, model=model, status=status, cost=cost, turns=turns, created=NOW - age)
    for line in list_table([record], cost, NOW, style):
        assert render.display_width(line) <= 80


def test_nothing_is_cut_in_a_pipe() -> None:
    name = "n" * 64
    assert name in list_table([session(name)], 0.0, NOW, PIPE)[1]


@pytest.mark.parametrize("status", SessionStatus)
def test_every_status_has_an_icon_and_its_ascii_stand_in(status: SessionStatus) -> None:
    unicode, ascii_only = render.status_word(status, TERMINAL), render.status_word(status, ASCII)
    assert unicode.split() == [render.STATUS_ICONS[status][0], status.value]
    assert ascii_only.isascii()
    assert len(ascii_only) == len(status.value) + 2
    assert render.status_word(status, PIPE) == status.value


def test_the_icons_are_the_originals() -> None:
    icons = {status.value: render.STATUS_ICONS[status][0] for status in SessionStatus}
    assert icons == {
        "created": "○",
        "starting": "◐",
        "ready": "●",
        "busy": "⟳",
        "paused": "⏸",
        "attached": "⌨",  # ours: the original could not
        "stopped": "□",
        "killed": "⊘",
        "failed": "✗",
        "error": "✗",
        "completed": "✓",
    }
    original = ("completed", "needs_input", "failed", "cost_exceeded", "turns_exceeded", "protected_path")
    assert "".join(render.OUTCOME_ICONS[Outcome(outcome)][0] for outcome in original) == "✓?✗$#!"
    assert set(render.OUTCOME_ICONS) == set(Outcome)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "just now"), (59, "just now"), (60, "1m ago"), (3599, "59m ago"), (3600, "1h ago"),
     (86399, "23h ago"), (86400, "1d ago"), (40 * 86400, "40d ago"), (-5, "just now")],
)  # fmt: skip
def test_ages(seconds: float, words: str) -> None:
    assert ago(NOW - seconds, NOW) == words


def test_status_of_a_live_session() -> None:
    record = session(
        limits=Limits(max_cost=2.0, max_turns=50, max_time=900.0), unknown_lines=1, noise_lines=3
    )
    assert render.status_lines(record, "Edit src/app.py", interaction(), NOW, TERMINAL) == [
        "fix-auth  ● ready",
        "  model           sonnet",
        "  session id      22222222-2222-4222-8222-222222222222",
        "  work dir        /srv/app",
        "  preset          edit",
        "  cost            $0.1234 of $2.0000",
        "  turns           3 of 50",
        "  limits          time 15m",
        "  interactions    2",
        "  pid             4242",
        "  created         2026-11-22 11:27:00 (3m ago)",
        "  last saved      2026-11-22 11:29:57 (just now)",
        "  now             Edit src/app.py",
        "  last message    #2 send, answered",
        "  not understood  1 unknown line, 3 noise lines",
    ]


def test_status_tells_what_became_of_an_interrupted_turn_and_how_it_ended() -> None:
    record = session(status=SessionStatus.STOPPED, pid=None, receipt=RECEIPT)
    last = interaction(state=InteractionState.INTERRUPTED, error="the daemon was killed")
    lines = render.status_lines(record, "", last, NOW, TERMINAL)
    fate = "#2 send, interrupted: the daemon was killed; what it did before stands"
    assert f"  last message  {fate}" in lines
    assert "  last end      stop, nothing left running" in lines
    assert not any(line.startswith("  pid") for line in lines)


def test_the_broom_after_a_gentle_end_is_not_told() -> None:
    swept = msgspec.structs.replace(RECEIPT, steps=(Step("eof", 0.06, True), Step("kill", 0.002, True)))
    assert render.receipt_line(swept) == "stop: eof ended it in 300 ms, proved empty (pidns)"
    left_behind = msgspec.structs.replace(swept, alive=("41 sh",))
    assert render.receipt_line(left_behind) == (
        "stop: eof, then kill ended it in 300 ms, 1 alive when force was used, proved empty (pidns)"
    )


def test_the_receipt_of_a_kill() -> None:
    dead = session(status=SessionStatus.KILLED, pid=None)
    receipt = msgspec.structs.replace(
        RECEIPT,
        steps=(Step("kill", 0.004, True),),
        alive=("41 claude -p", "42 sh\x1b[2J -c x"),
        how=("cgroup.kill", "SIGKILL to the namespace's init", "the namespace's init has ended"),
    )
    assert end_lines.killed_lines(dead, receipt, TERMINAL) == [
        "fix-auth  ⊘ killed",
        "  was alive  2 processes",
        "    41 claude -p",
        "    42 sh?[2J -c x",
        "  done       cgroup.kill; SIGKILL to the namespace's init",
        "  took       4 ms (pidns)",
        "  left       nothing: the namespace's init has ended",
    ]
    many = msgspec.structs.replace(receipt, alive=tuple(f"{pid} sh" for pid in range(100, 150)))
    assert end_lines.killed_lines(dead, many, TERMINAL)[21:23] == ["    119 sh", "    and 30 more"]
    assert end_lines.killed_lines(dead, UNPROVED, TERMINAL)[-2:] == [
        "  STILL ALIVE  1 process",
        "    41 python",
    ]
    assert end_lines.killed_lines(dead, None, TERMINAL)[1:] == ["  nothing was alive"]
    assert end_lines.end_line(dead, receipt) == "fix-auth: killed, nothing left running"
    assert end_lines.end_line(dead, None) == "fix-auth: was not running"
    ended = msgspec.structs.replace(dead, receipt=msgspec.structs.replace(RECEIPT, at=NOW - 60))
    was = f"nothing was alive: it had ended at {clock(NOW - 60, TERMINAL.zone)}"
    for lines in (
        end_lines.killed_lines(ended, None, TERMINAL),
        end_lines.stopped_lines(ended, None, TERMINAL),
    ):
        assert lines == ["fix-auth  ⊘ killed", f"  {was}"], "its last end is no news"


def test_an_unproved_end_is_loud() -> None:
    assert render.receipt_line(UNPROVED) == UNPROVED_LINE


def test_output() -> None:
    last = interaction(prompt="p" * 120)
    assert render.output_lines(last, PIPE, full=False) == [
        f"prompt:  {'p' * 100}...",
        "time:    2026-11-22 11:28:30",
        "",
        "Done.",
        "Two tests added.",
    ]
    assert render.output_lines(last, PIPE, full=True) == ["Done.", "Two tests added."]


def test_history_cuts_and_does_not_with_full() -> None:
    item = interaction(prompt="p" * 250, response="r" * 350 + "\nend")
    assert render.history_lines(session(), [item], PIPE, full=False) == [
        "#2 send  2026-11-22 11:28:30  $0.0500  12.3s",
        f"  prompt: {'p' * 200}...",
        f"  response: {'r' * 300}...",
        "",
        "total: 1 interaction, $0.0500",
    ]
    full = render.history_lines(session(), [item], PIPE, full=True)
    assert full[1:6] == ["  prompt:", f"    {'p' * 250}", "  response:", f"    {'r' * 350}", "    end"]


def test_a_reply() -> None:
    assert render.reply_lines(reply(), TERMINAL) == [
        "fix-auth  ● ready  $0.0500  2 turns  12.3s",
        "",
        "Done.",
    ]


def test_a_delegate_result() -> None:
    assert render.delegate_lines(result(), TERMINAL) == [
        "✓ completed  fix-auth  $0.2500  5 turns  65.4s",
        "tools: Read, Edit",
        "",
        "All tests pass.",
    ]


def test_an_end_names_the_next_step_and_says_nothing_twice() -> None:
    limit = "$0.2500 spent of $0.1000"
    spent = msgspec.structs.replace(
        result(outcome=Outcome.COST_EXCEEDED),
        error=limit,
        reasons=(limit, "1 tool call refused"),
        safety=Safety(denials=(Denial("Read", "/etc/hosts", limit),)),
        response="",
        next_step='cms continue fix-auth "go on" --max-cost 0.35',
    )
    assert render.delegate_lines(spent, TERMINAL)[1:] == [
        "error: $0.2500 spent of $0.1000",
        "tools: Read, Edit",
        "refused: Read /etc/hosts",
        "",
        'next: cms continue fix-auth "go on" --max-cost 0.35',
    ]
    asks = msgspec.structs.replace(
        result(outcome=Outcome.NEEDS_INPUT),
        error="Which one?",
        questions=(Question("Which one?", options=("a", "b")),),
        response="",
        next_step="cms answer fix-auth ANSWER",
    )
    assert render.delegate_lines(asks, TERMINAL)[1:] == [
        "tools: Read, Edit",
        "asks: Which one?",
        "  - a",
        "  - b",
        "",
        "next: cms answer fix-auth ANSWER",
    ]
    answer = msgspec.structs.replace(
        reply(outcome=Outcome.NEEDS_INPUT, text=""),
        error="Which one?",
        questions=asks.questions,
        next_step=asks.next_step,
    )
    assert render.reply_lines(answer, TERMINAL)[1:] == [
        "? needs_input",
        "asks: Which one?",
        "  - a",
        "  - b",
        "",
        "next: cms answer fix-auth ANSWER",
    ]


def test_status_says_how_the_last_message_ended() -> None:
    record = session(status=SessionStatus.COMPLETED, pid=None, receipt=RECEIPT)
    options = msgspec.structs.replace(record.options, verify=("make test",), delegated=True)
    record = msgspec.structs.replace(record, options=options)
    good = msgspec.structs.replace(interaction(), outcome=Outcome.COMPLETED)
    lines = render.status_lines(record, "", good, NOW, TERMINAL, next_step="cms continue fix-auth MESSAGE")
    assert "  last message  #2 send: ✓ completed" in lines
    assert "  check passed  make test" in lines
    assert lines[-1].split(maxsplit=1) == ["next", "cms continue fix-auth MESSAGE"]
    error = "$0.2 spent of $0.1"
    spent = msgspec.structs.replace(
        interaction(state=InteractionState.INTERRUPTED, error=error), outcome=Outcome.COST_EXCEEDED
    )
    record = msgspec.structs.replace(record, status=SessionStatus.STOPPED, error=error)
    lines = render.status_lines(record, "", spent, NOW, TERMINAL)
    assert f"  last message  #2 send: $ cost_exceeded: {error}" in lines
    assert not [line for line in lines if "check" in line or line.startswith("  error")]


def test_a_good_ends_notes_are_notes_and_its_checks_are_told() -> None:
    good = msgspec.structs.replace(
        result(), reasons=("still running: a server",), verified=("make test", "ruff")
    )
    assert render.delegate_lines(good, TERMINAL)[1:4] == [
        "note: still running: a server",
        "check passed: make test",
        "check passed: ruff",
    ]


def test_a_delegate_result_that_did_not_complete() -> None:
    refused = Denial("Bash", "rm -rf /", "not permitted by preset edit")
    touched = Denial("Write", ".env", "protected", violation=True)
    bad = msgspec.structs.replace(
        result(outcome=Outcome.PROTECTED_PATH),
        safety=Safety(
            enabled=False,
            total_violations=1,
            violations=(Violation("Write to .env"),),
            denials=(refused, touched),
        ),
        questions=(Question("Which one?", options=("a", "b")),),
        reasons=("a write to .env was tried",),
        receipt=UNPROVED,
        cost_exact=False,
        response="",
        can_continue=False,
    )
    assert render.delegate_lines(bad, TERMINAL) == [
        "! protected_path  fix-auth  >=$0.2500  5 turns  65.4s",
        "error: it ended as protected_path",
        "because: a write to .env was tried",
        "tools: Read, Edit",
        "safety: OFF (--no-safety)",
        "safety: 1 violation",
        "  Write to .env",
        "refused: Bash rm -rf /: not permitted by preset edit",
        "asks: Which one?",
        "  - a",
        "  - b",
        f"end: {UNPROVED_LINE}",
    ]


def test_progress_in_one_line() -> None:
    note = Progress(
        name="fix-auth",
        kind="tool",
        tool="Edit",
        text="src/app.py",
        cost=0.1234,
        max_cost=2.0,
        turns=3,
        max_turns=50,
    )
    assert (
        progress_line(note, 12.4, TERMINAL) == "⟳ fix-auth  Edit src/app.py  3/50 turns  $0.1234/$2.00  12s"
    )
    assert progress_line(note, 12.4, ASCII).startswith("> fix-auth")


@given(text=st.text(max_size=200), tool=st.text(max_size=30), width=st.integers(20, 120))
def test_progress_never_wraps(text: str, tool: str, width: int) -> None:
    style = Style(icons="unicode", colour=True, width=width, tty=True)
    line = progress_line(Progress(name="fix-auth", kind="tool", tool=tool, text=text), 3.0, style)
    assert render.display_width(line) < width
    assert "\n" not in line
    assert "\x1b" not in line


@given(st.text())
def test_an_agents_text_cannot_steer_the_terminal(text: str) -> None:
    shown = render.safe(text, TERMINAL)
    assert not any(letter < " " and letter not in "\n\t" for letter in shown)
    assert not any("\x7f" <= letter <= "\x9f" for letter in shown)
    assert render.safe(text, PIPE) == text


def test_colour_is_only_colour() -> None:
    plain = render.delegate_lines(result(), TERMINAL)
    coloured = render.delegate_lines(result(), COLOUR)
    assert coloured[0].startswith("\x1b[32m✓ completed\x1b[0m")
    assert [line.replace("\x1b[32m", "").replace("\x1b[0m", "") for line in coloured] == plain


@pytest.mark.parametrize("width", [60, 80, 120])
def test_a_batchs_line_loses_its_bar_before_its_words(width: int) -> None:
    counts = {TaskStatus.COMPLETED: 9_419, TaskStatus.FAILED: 12, TaskStatus.RUNNING: 200}
    batch = BatchRecord(
        "b",
        0.0,
        BatchStatus.RUNNING,
        BatchOptions(work_dir="/", max_cost=1000),
        10_000,
        counts,
        123.4567,
        eta=4800,
    )
    line = batch_render.progress_line(batch, msgspec.structs.replace(TERMINAL, width=width))
    assert len(line) < width
    words = "9431/10000  200 running  12 failed  $123.4567 of $1000.0000  1h 20m left"
    assert (words if width >= 80 else words[:50]) in line
    assert "█" in line


def test_an_old_session_that_is_left_alone_says_what_would_be_lost() -> None:
    lost = "what it changed cannot be read: [Errno 5] Input/output error (deleted: no)"
    kept = KeptSession(
        "one", f"session 'one' is stopped: cannot be deleted: {lost} (cms diff one, ...)", lost
    )
    told = cleanup_lines(CleanupResult((), (), kept=(kept,)), 7, dry_run=True)
    assert told[0] == f"one: left alone, {lost} (cms diff one)"
