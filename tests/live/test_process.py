"""`claude` as a pair of streams, and the ladder to its end, without a session around it."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from cms.containment import Proof, find_mechanism
from cms.errors import AgentDied, ContainmentError, ProtocolError, StoreError, WorkDirError
from cms.live.process import AgentProcess, check_work_dir
from cms.live.stop_ladder import Ladder
from cms.protocol.connection import Closed
from cms.protocol.messages import Event, GetUsage, HookMatcher, Initialize
from cms.session.model import Rung
from fleet.kit import assert_nothing_left, awkward, make_settings

ECHO = "import sys\nfor line in sys.stdin: sys.stdout.write(line); sys.stdout.flush()"


class Lines:
    """A raw log in memory."""

    def __init__(self, *, full: str = "") -> None:
        self.kept: list[tuple[str, bytes]] = []
        self._full = full

    def extend(self, direction: str, lines: Iterable[bytes], now: float) -> None:
        assert now == 7.0
        if direction == self._full:
            raise StoreError("no space left")
        self.kept += [(direction, bytes(line)) for line in lines]


@asynccontextmanager
async def running(
    place: Path, argv: tuple[str, ...], log: Lines | None = None
) -> AsyncIterator[AgentProcess]:
    """One process, whose container is empty afterwards."""
    settings = make_settings(place)
    with trio.fail_after(20):
        process = await AgentProcess.start(
            await find_mechanism(),
            settings,
            argv=list(argv),
            env=dict(settings.environ),
            work_dir=str(place / "work"),
            log=log if log is not None else Lines(),
            label="test",
            now=lambda: 7.0,
        )
        try:
            yield process
        finally:
            await process.container.aclose()
    assert_nothing_left(settings)


def python(source: str) -> tuple[str, ...]:
    return (sys.executable, "-c", source)


async def collect(process: AgentProcess) -> list[Event]:
    return [event async for event in process.events()]


# --- lines ------------------------------------------------------------------------------------------


async def test_lines_go_both_ways_in_order_and_into_the_log(tmp_path: Path) -> None:
    log = Lines()
    async with running(tmp_path, python(ECHO), log) as process, trio.open_nursery() as nursery:
        nursery.start_soon(process.write_out)
        for number in range(1000):
            process.send(b'{"type":"odd","n":%d}\n' % number)
        process.close_stdin()
        process.send(b"too late, and no error\n")
        events = await collect(process)
        assert len(events) == 1001
        assert isinstance(events[-1], Closed)
        assert process.connection.unknown == 1000
        assert await process.container.wait() == 0
    written = [line for direction, line in log.kept if direction == "in"]
    read = [line for direction, line in log.kept if direction == "out"]
    assert len(written) == len(read) == 1000
    assert [line + b"\n" for line in read] == written


async def test_the_tail_of_stderr_is_kept(tmp_path: Path) -> None:
    log = Lines()
    source = "import sys; sys.stderr.write('x' * 100000 + 'the end')"
    async with running(tmp_path, python(source), log) as process:
        await process.read_errors()
        assert process.stderr_tail.endswith("xthe end")
        assert len(process.stderr_tail) == 8192
    assert sum(len(line) for direction, line in log.kept if direction == "err") == 100_007


async def test_a_question_is_answered_or_its_asker_told_why_not(tmp_path: Path) -> None:
    async with running(tmp_path, awkward("dies_before_usage")) as process, trio.open_nursery() as nursery:
        nursery.start_soon(process.write_out)
        nursery.start_soon(process.read_errors)

        async def read() -> None:
            await collect(process)
            await process.container.wait()
            process.abandon()

        nursery.start_soon(read)
        answer = await process.request(Initialize({"PreToolUse": (HookMatcher(("pre",), timeout=1),)}))
        assert not answer.error
        with pytest.raises(AgentDied, match="exited with 7 before it answered"):
            await process.request(GetUsage())
        nursery.cancel_scope.cancel()


async def test_a_question_given_up_is_forgotten(tmp_path: Path) -> None:
    async with running(tmp_path, awkward("never_reads")) as process:
        with trio.move_on_after(0.01) as scope:
            await process.request(GetUsage())
        assert scope.cancelled_caught
        assert "asked=0" in repr(process.connection)


async def test_one_that_never_reads_is_not_written_to_for_ever(tmp_path: Path) -> None:
    async with running(tmp_path, awkward("never_reads")) as process:
        sent, refusal = 0, ""
        try:
            while sent < 100_000:
                process.send(b"{}\n")
                sent += 1
        except ProtocolError as error:
            refusal = str(error)
        assert refusal == "claude no longer reads its input"
        assert 1000 < sent < 10_000


@pytest.mark.parametrize("direction", ["out", "in", "err"])
async def test_a_log_that_is_full_is_told_by_whoever_needs_it(tmp_path: Path, direction: str) -> None:
    source = "import sys; print('{}', flush=True); print('oh', file=sys.stderr, flush=True); sys.stdin.read()"
    async with running(tmp_path, python(source), Lines(full=direction)) as process:
        process.send(b"{}\n")
        tasks: dict[str, Callable[[], Awaitable[object]]] = {
            "out": lambda: collect(process),
            "in": process.write_out,
            "err": process.read_errors,
        }
        with pytest.raises(StoreError):
            await tasks[direction]()


async def test_one_that_leaves_breaks_nothing(tmp_path: Path) -> None:
    """Writing to a process that is gone is no error: the end of its stdout tells."""
    async with running(tmp_path, python("")) as process:
        assert await process.container.wait() == 0
        process.send(b"x" * 1_000_000)
        await process.write_out()
        assert [type(event) for event in await collect(process)] == [Closed]


# --- starting ---------------------------------------------------------------------------------------


async def test_what_cannot_be_started(tmp_path: Path) -> None:
    with pytest.raises(ContainmentError):
        async with running(tmp_path, ("/no/such/claude",)):
            pass
    assert_nothing_left(make_settings(tmp_path))


async def test_work_dirs(tmp_path: Path) -> None:
    assert await check_work_dir(str(tmp_path)) == tmp_path
    (tmp_path / "file").touch()
    with pytest.raises(WorkDirError, match="is not a directory"):
        await check_work_dir(str(tmp_path / "file"))
    with pytest.raises(WorkDirError, match="does not exist"):
        await check_work_dir(str(tmp_path / "gone"))
    if os.geteuid() != 0:  # root may enter anything
        (tmp_path / "locked").mkdir(mode=0)
        with pytest.raises(WorkDirError, match="Permission denied"):
            await check_work_dir(str(tmp_path / "locked"))


# --- the ladder -------------------------------------------------------------------------------------


async def descend(process: AgentProcess, ladder: Ladder) -> list[tuple[Rung, bool]]:
    """Down, with somebody who reads and writes meanwhile, as the runner has."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(process.write_out)
        nursery.start_soon(process.read_errors)
        nursery.start_soon(collect, process)
        receipt = await ladder.descend("test", interrupt=None, at=5.0)
        assert receipt.empty
        assert receipt.reason == "test"
        assert receipt.at == 5.0
        assert receipt.returncode is not None
        nursery.cancel_scope.cancel()
    return [(step.name, step.worked) for step in receipt.steps]


SLEEP = "import time; print('ready', flush=True); time.sleep(600)"


@pytest.mark.parametrize(
    ("source", "steps"),
    [
        (ECHO, [("eof", True), ("kill", True)]),
        (SLEEP, [("eof", False), ("terminate", True), ("kill", True)]),
        (
            f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {SLEEP}",
            [("eof", False), ("terminate", False), ("kill", True)],
        ),
        ("", [("eof", True), ("kill", True)]),
    ],
    ids=["hears eof", "hears SIGTERM", "hears nothing", "gone already"],
)
async def test_each_rung(tmp_path: Path, source: str, steps: list[tuple[Rung, bool]]) -> None:
    async with running(tmp_path, python(source)) as process:
        if "ready" in source:
            await process.container.stdout.receive_some()
        assert await descend(process, Ladder(process, grace=0.3)) == steps


async def test_what_a_process_left_behind_is_ended_too(tmp_path: Path) -> None:
    source = "import subprocess; subprocess.Popen(['sleep', '600'], start_new_session=True)"
    async with running(tmp_path, python(source)) as process:
        assert await process.container.wait() == 0
        receipt = await Ladder(process, grace=0.3).descend("test", interrupt=None, at=0.0)
        assert [step.name for step in receipt.steps] == ["eof", "kill"]
        assert ["sleep 600" in member for member in receipt.alive] == [True]


@pytest.mark.parametrize("when", ["before", "meanwhile", "within"])
async def test_a_ladder_in_a_hurry(tmp_path: Path, when: str) -> None:
    async with running(tmp_path, python(SLEEP)) as process:
        ladder = Ladder(process, grace=60.0)
        begun = trio.current_time()
        async with trio.open_nursery() as nursery:
            if when == "before":
                ladder.hurry()
            nursery.start_soon(descend, process, ladder)
            await trio.testing.wait_all_tasks_blocked()
            if when == "meanwhile":
                ladder.hurry()
            elif when == "within":
                ladder.hurry_within(0.2)
                ladder.hurry_within(60.0)  # a later wish for more time is not granted
        assert trio.current_time() - begun < 2


async def test_force_does_not_close_the_input_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever heard that would be gone, or not, by the time that the receipt says who was alive."""
    async with running(tmp_path, python(ECHO)) as process:
        kill = process.container.kill

        async def strike(*, deadline: float) -> Proof:
            await trio.testing.wait_all_tasks_blocked()
            await process.container.stdin.send_all(b"it is open\n")
            return await kill(deadline=deadline)

        ladder = Ladder(process, grace=60.0)
        ladder.hurry()
        with monkeypatch.context() as patch:
            patch.setattr(process.container, "kill", strike)
            assert await descend(process, ladder) == [("kill", True)]


async def test_a_ladder_that_was_broken_off_still_strikes(tmp_path: Path) -> None:
    async with running(tmp_path, python(SLEEP)) as process:
        ladder = Ladder(process, grace=60.0)
        with trio.move_on_after(0.1):
            await ladder.descend("test", interrupt=None, at=0.0)
        receipt = await ladder.kill("test", at=0.0)
        assert receipt.empty
        assert [(step.name, step.worked) for step in receipt.steps] == [("eof", False), ("kill", True)]


async def test_an_interrupt_that_does_not_come_to_its_end(tmp_path: Path) -> None:
    async with running(tmp_path, python(ECHO)) as process:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(process.write_out)
            receipt = await Ladder(process, grace=0.1).descend("test", interrupt=trio.sleep_forever, at=0.0)
        assert [(step.name, step.worked) for step in receipt.steps] == [
            ("interrupt", False),
            ("eof", True),
            ("kill", True),
        ]


async def test_stopped_ones_are_ended_too(tmp_path: Path) -> None:
    async with running(tmp_path, python(SLEEP)) as process:
        await process.container.stdout.receive_some()
        os.kill(process.pid, signal.SIGSTOP)
        steps = await descend(process, Ladder(process, grace=0.2))
        assert steps == [("eof", False), ("terminate", False), ("kill", True)]
