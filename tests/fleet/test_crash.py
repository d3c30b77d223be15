"""The supervisor's own SIGKILL: its agents end with it, and the next one knows what became of everything."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from cms.session.model import LIVE, InteractionState, Outcome, SessionStatus
from cms.testing.script import prompt, say
from fleet import kit
from fleet.kit import ask, assert_nothing_left, consistent, make_settings, marked, supervising

#: What the next supervisor says of the message that was in flight.
TOLD = {
    "tool": (InteractionState.INTERRUPTED, "while claude was working on this message"),
    "reply": (InteractionState.INTERRUPTED, "while claude was working on this message"),
}


def begin(folder: Path, stage: str) -> subprocess.Popen[bytes]:
    tests = Path(kit.__file__).parent.parent
    return subprocess.Popen(
        [sys.executable, str(tests / "fleet" / "doomed.py"), str(folder), stage],
        env={**os.environ, "PYTHONPATH": str(tests)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
    )


@pytest.mark.parametrize("stage", ["idle", "tool", "reply"])
async def test_a_supervisor_that_is_killed(tmp_path: Path, stage: str) -> None:
    settings = make_settings(tmp_path)
    with trio.fail_after(30):
        with begin(tmp_path, stage) as doomed:
            assert doomed.stdout is not None
            said = await trio.to_thread.run_sync(doomed.stdout.readline)
            assert said == b"ready\n"
            agents = marked(settings)
            assert len(agents) >= (2 if stage == "tool" else 1)
            descriptors = [os.pidfd_open(pid) for pid in agents]
            doomed.kill()
        for descriptor in descriptors:
            await trio.lowlevel.wait_readable(descriptor)
            os.close(descriptor)
        # One that was just being started has no descriptor here.
        while marked(settings):  # noqa: ASYNC110 - it is no child of ours
            await trio.sleep(0.01)
    assert_nothing_left(settings)

    async with supervising(settings) as supervisor:
        assert [record.name for record in supervisor.recovery.sessions] == ["one"]
        record = await supervisor.get("one")
        assert record.status is SessionStatus.STOPPED
        first, *rest = await supervisor.interactions("one")
        assert (first.response, first.state) == ("first", InteractionState.DONE)
        if stage == "idle":
            assert not rest
            assert record.cost_exact
        else:
            cut, unsent = rest
            state, words = TOLD[stage]
            assert cut.state is state
            assert words in cut.error
            assert not cut.cost_exact
            assert not record.cost_exact
            assert unsent.outcome is Outcome.INTERRUPTED
            assert "safe to send again" in unsent.error
        again = await ask(supervisor, "one", prompt("Go on", say("here", cost_usd=0.01, model="sonnet")))
        assert again.text == "here"
        assert again.total_cost_usd == pytest.approx(0.06, abs=0.001)
    await consistent(settings)


async def test_a_neighbour_that_is_killed_is_noticed_by_who_is_asked(tmp_path: Path) -> None:
    """A `--foreground` beside the daemon, which may live for days before another one looks."""
    settings = make_settings(tmp_path)
    with trio.fail_after(30):
        async with supervising(settings) as supervisor:
            with begin(tmp_path, "check") as doomed:
                assert doomed.stdout is not None
                assert await trio.to_thread.run_sync(doomed.stdout.readline) == b"ready\n"
                assert (await supervisor.get("one")).status in LIVE
                (work,) = await supervisor.interactions("one")
                doomed.kill()
            record = await supervisor.get("one")
            assert record.status is SessionStatus.STOPPED
            assert "checks did not finish" in record.error
            assert (await supervisor.wait(work)).outcome is Outcome.INTERRUPTED
            assert (await ask(supervisor, "one", prompt("Go on", say("here")))).text == "here"
    await consistent(settings)
