"""cost and wait: through the real command line, and their parts."""

from __future__ import annotations

import json
import os
import signal
import time
from datetime import datetime

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli.making import interaction, session
from cli.shell import Shell, own_shell, shell
from cms.cli import sessions
from cms.cli.cost import lines, tokens
from cms.cli.flags import parse_since
from cms.cli.render import bar, display_width
from cms.cli.terminal import Style
from cms.errors import ExitCode
from cms.rpc.money import CostResult, CostRow
from cms.rpc.sessions import Waited, WaitResult
from cms.session.model import Interaction, Outcome, TokenUsage
from cms.testing.script import call, prompt, say

__all__ = ["own_shell", "shell"]

TOIL = call("Bash", command="sleep 600")


# --- cost -----------------------------------------------------------------------------------------


def test_the_ledger_by_session_model_and_day(own_shell: Shell) -> None:
    assert own_shell.ok("cost").out == "nothing was spent\n"
    for name, model, cost in (("dear", "opus", 0.5), ("cheap", "haiku", 0.05)):
        own_shell.ok("spawn", name, prompt("go", say("x", cost_usd=cost)), "--model", model, "--stop")
    by_session = own_shell.ok("cost", "--json").json()
    rows = own_shell.ok("cost", "--json").list("rows")
    assert [row["name"] for row in rows] == ["dear", "cheap"]
    assert by_session["by"] == "session"
    total = sum(float(str(row["cost"])) for row in rows)
    assert by_session["totalCostUsd"] == pytest.approx(total)
    assert by_session["exact"] is True
    models = own_shell.ok("cost", "--by", "model", "--json").list("rows")
    assert len(models) == 2
    assert "opus" in str(models[0]["key"])
    today = datetime.now().strftime("%Y-%m-%d")
    (day,) = own_shell.ok("cost", "--by", "day", "--json").list("rows")
    assert day["key"] == today
    assert own_shell.ok("cost", "--since", "2999-01-01", "--json").list("rows") == []
    assert own_shell.ok("cost", "--since", "today", "--json").json()["totalCostUsd"] == pytest.approx(total)
    text = own_shell.ok("cost").out
    assert text.splitlines()[0].split() == ["SESSION", "COST", "SHARE", "IN", "OUT"]
    assert "#" not in text
    for words, said in (
        (("--by", "weak"), "--by cannot be 'weak'"),
        (("--since", "soon"), "is not a time"),
        (("--since", "2026-13-01"), "is not a time"),
    ):
        ran = own_shell.cms("cost", *words)
        assert (ran.code, said in ran.err) == (2, True), ran


def test_times() -> None:
    now = datetime(2026, 11, 22, 12, 0).timestamp()
    assert parse_since("today", now) == datetime(2026, 11, 22).timestamp()
    assert parse_since("24h", now) == now - 86400
    assert parse_since("2026-11-20", now) == datetime(2026, 11, 20).timestamp()
    assert parse_since("2026-11-20T08:30", now) == datetime(2026, 11, 20, 8, 30).timestamp()


@given(st.text(max_size=12))
def test_no_text_raises_anything_else(text: str) -> None:
    try:
        parse_since(text, 1e9)
    except ValueError:
        pass


@given(st.floats(0, 100), st.floats(0.01, 100), st.integers(1, 40), st.sampled_from(["unicode", "ascii"]))
def test_a_bar_fits_and_grows(value: float, most: float, width: int, icons: str) -> None:
    style = Style(icons="unicode" if icons == "unicode" else "ascii", width=80)
    drawn = bar(value, most, width, style)
    assert display_width(drawn) <= width
    assert (drawn == "") is (value == 0)
    if value >= most:
        assert display_width(drawn) == width
    assert len(bar(value / 2, most, width, style)) <= len(drawn) or value == 0
    assert bar(value, most, width, Style()) == ""


@pytest.mark.parametrize(("number", "text"), [(0, "0"), (999, "999"), (12_345, "12.3k"), (4_500_000, "4.5M")])
def test_tokens(number: int, text: str) -> None:
    assert tokens(number) == text


def test_a_cost_table_fits_and_tells_what_is_not_exact() -> None:
    rows = tuple(
        CostRow("id", name, TokenUsage(10**6, 10**5, 0, 0, usd), exact)
        for name, usd, exact in (("n" * 64, 12.5, True), ("ü" * 40, 0.5, False))
    )
    reply = CostResult(rows, TokenUsage(cost_usd=13.0), False)
    for width in (50, 60, 80, 120):
        for style in (Style(icons="unicode", width=width), Style(icons="ascii", width=width)):
            assert max(display_width(line) for line in lines(reply, "session", style)) <= width
    table = lines(reply, "session", Style())
    assert table[-1] == "total: >=$13.0000"
    assert any(">=$0.5000" in line for line in table)


# --- wait -----------------------------------------------------------------------------------------


def test_wait_for_all_and_for_the_first(shell: Shell) -> None:
    gate = shell.work_dir / "gate"
    held = call("Bash", command=f"until test -e {gate}; do sleep 0.01; done")
    shell.ok("spawn", "slow", "--detach", "--preset", "full", prompt("go", held, say("slow")))
    shell.ok("spawn", "quick", "--detach", prompt("go", say("quick")))
    first = shell.ok("wait", "--any", "slow", "quick", "--json").json()
    assert first["waiting"] == ["slow"]
    both = shell.start("wait", "slow", "quick", "--json")
    assert both.poll() is None
    gate.touch()
    out, err = both.communicate(timeout=20)
    assert (both.returncode, err) == (0, "")
    assert out.index('"name":"slow"') < out.index('"name":"quick"')
    # What is through already is not waited for; a name may be given by flag, and twice.
    assert shell.ok("wait", "--name", "slow").out.startswith("slow  ✓ completed  $0.0000")
    assert shell.ok("wait", "slow", "slow", "--json").json()["waiting"] == []


def test_wait_has_the_exit_code_of_the_work(shell: Shell) -> None:
    shell.cms("delegate", "failing", prompt("go", say("done")), "--verify", "false", "--detach")
    shell.ok("spawn", "fine", prompt("go", say("x")))
    ran = shell.cms("wait", "fine", "failing", "--json")
    assert ran.code == ExitCode.VERIFICATION_FAILED
    assert shell.cms("wait", "--any", "fine", "failing").code in (0, ExitCode.VERIFICATION_FAILED)


def test_a_daemon_killed_during_a_check_leaves_no_verdict(shell: Shell) -> None:
    """What would have been a failure must not read as success, whoever asks."""
    check = "touch checking; sleep 600; false"
    (shell.work_dir / "checking").unlink(missing_ok=True)
    shell.ok("delegate", "cut", prompt("go", say("done")), "--verify", check, "--detach")
    shell.wait_for(shell.work_dir / "checking")
    os.kill(int(str(shell.ok("daemon", "status", "--json").json()["pid"])), signal.SIGKILL)
    ran = shell.cms("wait", "cut")
    assert ran.code == ExitCode.INTERRUPTED, ran
    assert "its checks did not finish" in ran.out
    assert shell.status("cut")["status"] == "stopped"
    assert "answered, not checked" in shell.ok("output", "cut").err + shell.ok("status", "cut").out


def test_ctrl_c_during_a_check_leaves_no_verdict(shell: Shell) -> None:
    check = "touch checking; sleep 600; false"
    for name, flags in (("attached", ()), ("fore", ("--foreground",))):
        (shell.work_dir / "checking").unlink(missing_ok=True)
        command = shell.start(
            "delegate", name, prompt("go", say("done")), "--verify", check, "--json", *flags
        )
        shell.wait_for(shell.work_dir / "checking")
        command.send_signal(signal.SIGINT)
        out, _ = command.communicate(timeout=20)
        assert command.returncode == ExitCode.INTERRUPTED, out
        told = json.loads(out)
        assert (told["status"], told["response"], told["canContinue"]) == ("interrupted", "done", True)
        assert "its checks did not finish" in told["error"]
        assert shell.cms("wait", name).code == ExitCode.INTERRUPTED


def test_wait_gives_up_in_time_and_on_ctrl_c_and_stops_nothing(shell: Shell) -> None:
    shell.ok("spawn", "long", "--detach", "--preset", "full", prompt("go", TOIL))
    shell.wait_until("long", lambda found: str(found["activity"]).startswith("Bash"))
    shell.ok("spawn", "there", prompt("go", say("x")))
    ran = shell.cms("wait", "long", "there", "--timeout", "0.3s")
    assert (ran.code, "still at work: long" in ran.out) == (ExitCode.TIME_EXCEEDED, True), ran
    waiter = shell.start("wait", "long", "--json")
    time.sleep(0.5)  # until it waits, which nobody announces; earlier is exit code 130, too
    os.kill(waiter.pid, signal.SIGINT)
    waiter.communicate(timeout=20)
    assert waiter.returncode == ExitCode.INTERRUPTED
    assert shell.status("long")["status"] == "busy"
    shell.ok("kill", "long")
    assert shell.cms("wait", "long").code == ExitCode.INTERRUPTED  # how its last message ended


def test_waits_that_cannot_be(shell: Shell) -> None:
    shell.ok("spawn", "awaited", prompt("go", say("x")), "--stop")
    for words, code, said in (
        (("wait",), 2, "wait needs the name of a session"),
        (("wait", "--any", "--all", "x"), 2, "--any and --all at once"),
        (("wait", "awaitde"), 10, "did you mean 'awaited'?"),
    ):
        ran = shell.cms(*words)
        assert (ran.code, said in ran.err) == (code, True), ran


def ended(name: str, outcome: Outcome | None) -> Waited:
    last: Interaction | None = None if outcome is None else interaction()
    if last is not None:
        last = msgspec.structs.replace(last, outcome=outcome)
    return Waited(session(name), last)


def unknown() -> Interaction:
    return msgspec.structs.replace(interaction(), outcome=None)


@pytest.mark.parametrize(
    ("reply", "first", "code"),
    [
        (WaitResult((ended("a", Outcome.COMPLETED), ended("b", None))), False, 0),
        # It has a last message, and nothing is known of that: no success.
        (WaitResult((ended("a", Outcome.COMPLETED), Waited(session("b"), unknown()))), False, 1),
        (WaitResult((ended("a", Outcome.COMPLETED), ended("b", Outcome.COST_EXCEEDED))), False, 4),
        (WaitResult((ended("a", Outcome.FAILED), ended("b", Outcome.COST_EXCEEDED))), False, 1),
        (WaitResult((ended("a", Outcome.COMPLETED),), ("b",), timed_out=True), False, 6),
        (WaitResult((ended("a", Outcome.COMPLETED),), ("b",)), False, 130),
        (WaitResult((ended("a", Outcome.COMPLETED),), ("b",)), True, 0),
        (WaitResult((), ("b",), timed_out=True), True, 6),
    ],
)
def test_exit_codes_of_waiting(reply: WaitResult, first: bool, code: int) -> None:
    assert sessions.wait_exit(reply, first=first) == code


# --- usage ----------------------------------------------------------------------------------------


def test_what_a_session_heard_of_the_plan_is_told_wherever_it_is_looked_for(shell: Shell) -> None:
    work = prompt("go", say("x").limited("allowed_warning", utilization=0.92, resets_in=7200))
    shell.ok("spawn", "planned", work)
    (window,) = shell.ok("usage", "--json").list("windows")
    assert (window["name"], window["used"], window["status"]) == ("five_hour", 0.92, "allowed_warning")
    assert (window["heardFrom"], window["heardBy"]) == ("planned", "rate_limit_event")
    assert abs(datetime.fromisoformat(str(window["heard"])).timestamp() - time.time()) < 60
    assert "5 hours  92%" in shell.ok("usage").out
    assert "92% until" in shell.ok("status", "planned").out
    assert "plan 92% of 5 hours" in shell.ok("top", "--once").out
    assert 'cms_plan_used_ratio{window="five_hour"} 0.92' in shell.ok("metrics").out
    tasks = shell.work_dir / "planned.jsonl"
    tasks.write_text(json.dumps({"name": "t", "prompt": "go"}) + "\n")
    assert "limits   5 hours 92%" in shell.ok("batch", "--file", str(tasks), "--plan").out
    shell.ok("kill", "planned")
