"""Cancelled at each of its steps, a supervisor leaves no process, no open message, and no error but its own.

A step is one run of some task, as trio's instruments count them; a delegation is cut short at the k-th one,
for a sample of k over all of its life (REHEARSAL_SCALE takes more; all of them take minutes). What is
cut is the program around the supervisor, or one caller of it, or the agent (which is killed).
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import trio

from cms.config import Settings
from cms.fleet.supervisor import Supervisor, open_supervisor
from cms.session.model import DELEGATED, Outcome, SessionStatus
from cms.store import sessions
from cms.store.store import open_store
from cms.testing.script import call, prompt, say
from fleet.kit import assert_nothing_left, consistent, make_options, make_settings
from sampling import sized

TASK = prompt(
    "Work",
    call("Write", file_path="first", content="x").costing(0.01, "sonnet"),
    call("Bash", command="sleep 0.02").costing(0.01, "sonnet"),
    say("done", cost_usd=0.01, model="sonnet"),
)


class AtStep(trio.abc.Instrument):
    """Calls `act` before the k-th step after `begin`."""

    def __init__(self, step: int, act: Callable[[], None]) -> None:
        self._left = step
        self._act = act
        self._on = False

    def begin(self) -> None:
        self._on = True

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        if self._on and self._left >= 0:
            self._left -= 1
            if self._left < 0:
                self._act()


@contextmanager
def at_step(step: int, act: Callable[[], None]) -> Iterator[AtStep]:
    instrument = AtStep(step, act)
    trio.lowlevel.add_instrument(instrument)
    try:
        yield instrument
    finally:
        trio.lowlevel.remove_instrument(instrument)


async def whole_life(supervisor: Supervisor) -> None:
    """A delegation with a check, and a follow-up to it."""
    options = make_options(supervisor.settings, verify=("true",))
    await supervisor.delegate(options, TASK)
    await supervisor.continue_("one", prompt("And", say("that")))


_steps: list[int] = []


async def steps_of(settings: Settings) -> int:
    """How many steps a whole life takes. It is lived once for all tests."""
    if not _steps:
        with at_step(10**9, lambda: None) as counter:
            async with open_supervisor(settings) as supervisor:
                counter.begin()
                await whole_life(supervisor)
        _steps.append(10**9 - counter._left)
    return _steps[0]


def places(folder: Path, number: int) -> Settings:
    place = folder / str(number)
    place.mkdir()
    return make_settings(place)


async def checked(settings: Settings) -> None:
    """What must hold after any end: nothing lives, nothing is open; and the session can be used again."""
    assert_nothing_left(settings)
    records = await consistent(settings)
    for record in records:
        assert record.status is not SessionStatus.ERROR
        assert record.receipt is None or record.receipt.empty
    await judged(settings)
    ran = {path.name for path in (settings.home.parent / "work").iterdir()}
    assert ran <= {"first"}


async def judged(settings: Settings) -> None:
    """Nothing is completed that was not judged: such a delegation's session says so, too."""
    async with open_store(settings) as store:
        for record in await store.read(sessions.page):
            found = await store.read(sessions.interactions, record.id)
            delegated = [one for one in found if one.type in DELEGATED]
            if delegated and delegated[-1] is found[-1]:
                completed = delegated[-1].outcome is Outcome.COMPLETED
                assert completed == (record.status is SessionStatus.COMPLETED), (record, found)


SAMPLES = sized(4)
WITHIN = 28 + 2 * SAMPLES


def sample(steps: int) -> range:
    return range(0, steps, -(-steps // SAMPLES))


async def test_the_program_is_cancelled_at_each_step(tmp_path: Path) -> None:
    with trio.fail_after(WITHIN):
        for number, k in enumerate(sample(await steps_of(places(tmp_path, -1)))):
            settings = places(tmp_path, number)
            # Any other exception would come out here.
            with trio.CancelScope() as scope, at_step(k, scope.cancel) as cut:
                async with open_supervisor(settings) as supervisor:
                    cut.begin()
                    await whole_life(supervisor)
            await checked(settings)


async def test_a_caller_is_cancelled_at_each_step(tmp_path: Path) -> None:
    """The delegation is stopped before the cancellation goes on; the supervisor serves the next caller."""
    with trio.fail_after(WITHIN):
        for number, k in enumerate(sample(await steps_of(places(tmp_path, -1)))):
            settings = places(tmp_path, number)
            async with open_supervisor(settings) as supervisor:
                with trio.CancelScope() as scope, at_step(k, scope.cancel) as cut:
                    cut.begin()
                    await whole_life(supervisor)
                assert supervisor.live_count() == 0
                assert_nothing_left(settings)
                for record in await supervisor.sessions():
                    again = await supervisor.continue_(record.name, prompt("Again", say("here")))
                    assert again.response == "here", again
            await checked(settings)


async def test_the_agent_is_killed_at_each_step(tmp_path: Path) -> None:
    """From outside, and at any moment: the delegation says so and the next message goes on."""
    with trio.fail_after(WITHIN):
        for number, k in enumerate(sample(await steps_of(places(tmp_path, -1)))):
            settings = places(tmp_path, number)
            async with open_supervisor(settings) as supervisor:

                def kill(supervisor: Supervisor = supervisor) -> None:
                    for runner in supervisor._runners.values():
                        process = runner._process
                        if process is not None and not runner._gone.is_set():
                            try:
                                os.kill(process.pid, signal.SIGKILL)
                            except ProcessLookupError:
                                pass

                with at_step(k, kill) as cut:
                    cut.begin()
                    result = await supervisor.delegate(make_options(settings), TASK)
                assert result.status in (Outcome.COMPLETED, Outcome.FAILED)
                assert result.receipt is not None
                assert result.receipt.empty
                if result.status is Outcome.FAILED:
                    assert "signal 9" in (result.error or "")
                again = await supervisor.continue_("one", prompt("Again", say("here")))
                assert again.response == "here", (k, again, result)
                assert supervisor.live_count() == 0
            await checked(settings)


async def test_a_caller_that_only_waits_is_cancelled(tmp_path: Path) -> None:
    """The work is the supervisor's: whoever stops listening stops nothing."""
    settings = make_settings(tmp_path)
    async with open_supervisor(settings) as supervisor:
        with trio.fail_after(20):
            await supervisor.create(make_options(settings))
            sent = await supervisor.submit("one", TASK, type="send")
            with trio.move_on_after(0) as scope:
                await supervisor.wait(sent)
            assert scope.cancelled_caught
            assert (await supervisor.wait(sent)).text == "done"
    await checked(msgspec.structs.replace(settings))
