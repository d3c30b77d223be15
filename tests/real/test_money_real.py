"""Shared caps on the real binary: each reply costs five cents, and the cap is passed by at most one each."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time

import msgspec
import pytest

from cli.shell import Ran
from cms.testing.script import call, prompt, say
from real.conftest import World

pytestmark = [pytest.mark.real, pytest.mark.own_daemon]

CALL = 0.05
#: A script whose every reply costs five cents and asks for one more tool call.
LONG = [call("Read", file_path="note.txt").costing(CALL, "sonnet") for _ in range(12)]
WORK = prompt("Work", *LONG, say("done"))


class Scope(msgspec.Struct, rename="camel"):
    scope: str
    cap: float
    spent: float
    unknown: float
    reserved: float
    at_work: int
    left: float


class Budget(msgspec.Struct, rename="camel"):
    spent_today: float
    scopes: list[Scope]


def budget(world: World) -> Budget:
    return msgspec.json.decode(world.cms("budget", "show", "--json").out, type=Budget)


def finish(child: subprocess.Popen[str]) -> Ran:
    out, err = child.communicate(timeout=60)
    return Ran(child.returncode, out, err)


def test_two_sessions_together_hold_a_daily_cap(world: World) -> None:
    (world.work_dir / "note.txt").write_text("hello\n")
    cap = 0.42
    shown = world.cms("budget", "set", "--daily", str(cap))
    assert "$0.0000 of $0.4200 used" in shown.out
    both = [world.start("delegate", name, WORK, "--max-cost", "5", "--json") for name in ("one", "two")]
    ended = [finish(child) for child in both]
    assert [ran.code for ran in ended] == [4, 4], ended
    for ran in ended:
        assert ran.json()["status"] == "cost_exceeded"
        assert str(ran.json()["error"]).startswith("today's budget is ")
    after = budget(world)
    assert cap <= after.spent_today + 1e-9
    assert after.spent_today <= cap + 2 * CALL + 1e-9
    (day,) = after.scopes
    assert (day.reserved, day.at_work, day.unknown) == (0, 0, 0)

    refused = world.cms("delegate", "three", WORK)
    assert refused.code == 4
    assert re.search(r"today's budget is used up: \$0\.\d{4} of \$0\.4200 spent", refused.out + refused.err)
    assert "cms budget set --daily" in refused.out + refused.err
    assert budget(world).spent_today == after.spent_today

    assert world.cms("budget", "clear").code == 0
    assert world.cms("delegate", "four", prompt("Hello", say("hi"))).code == 0


@pytest.mark.parametrize("background", [False, True])
def test_a_subagents_money_counts_against_a_shared_cap(world: World, background: bool) -> None:
    (world.work_dir / "note.txt").write_text("hello\n")
    cap = 0.22
    assert world.cms("budget", "set", "--total", str(cap)).code == 0
    child = prompt("Look", *LONG, say("seen"))
    agent = call(
        "Agent",
        description="look",
        prompt=child,
        subagent_type="general-purpose",
        run_in_background=background,
    )
    ran = world.cms("delegate", "one", prompt("Ask", agent, say("waiting"), say("done")), "--json")
    assert ran.code == 4, ran
    spent = budget(world).spent_today
    # One call of the subagent, whose newest reply the meter may not hold yet, and one of the main one.
    assert cap <= spent + 1e-9
    assert spent <= cap + 2 * CALL + 1e-9, spent


def test_a_daemon_that_is_killed_gives_nothing_back_that_may_be_spent(world: World) -> None:
    assert world.cms("budget", "set", "--total", "5").code == 0
    wait = call("Bash", command='python3 -c "import time; time.sleep(600)"').costing(CALL, "sonnet")
    task = prompt("Work", wait, say("done"))
    assert world.cms("delegate", "one", task, "--preset", "full", "--detach").code == 0
    while budget(world).scopes[0].spent < CALL - 1e-9:
        assert world.cms("status", "one", "--json").json()["status"] in ("starting", "ready", "busy")
    (before,) = budget(world).scopes
    assert (before.at_work, before.unknown) == (1, 0)
    assert before.reserved > 0
    os.kill(world.daemon_pid(), signal.SIGKILL)
    (after,) = budget(world).scopes
    assert (after.at_work, after.reserved) == (0, 0)
    assert after.spent == pytest.approx(before.spent)
    assert after.unknown == pytest.approx(before.reserved)


def test_turns_that_begin_by_themselves_end_at_a_shared_cap(world: World) -> None:
    """A shell's end begins a turn. The one that passes the cap is the last that reaches the API."""
    assert world.cms("budget", "set", "--daily", "0.03").code == 0
    lasts = [f"while [ ! -e end{n} ]; do sleep 0.05; done" for n in range(3)]
    shells = [call("Bash", command=line, run_in_background=True) for line in lasts]
    launch = msgspec.structs.replace(shells[0], calls=tuple(one.calls[0] for one in shells))
    task = prompt("Work", launch, say("started"), *LONG)
    assert world.cms("spawn", "one", task, "--preset", "full", "--json").code == 0
    for number in range(3):
        (world.work_dir / f"end{number}").touch()
        wait_for_unasked(world, number + 1)
    assert CALL <= budget(world).spent_today + 1e-9 <= CALL + 0.01
    log = world.cms("audit", "one").out
    assert log.count("ended a turn that nobody asked for: today's budget is used up") == 2, log
    again = world.cms("send", "one", prompt("More", say("never")))
    assert again.code == 4, again


def unasked_turns(world: World) -> int:
    """How many turns have begun and ended after the message was answered."""
    (raw,) = (world.cms_home / "raw").glob("*.log")
    return (
        sum(b'"session_state_changed","state":"idle"' in line for line in raw.read_bytes().splitlines()) - 1
    )


def wait_for_unasked(world: World, turns: int) -> None:
    deadline = time.monotonic() + 20
    while unasked_turns(world) < turns:
        assert time.monotonic() < deadline
        time.sleep(0.05)
