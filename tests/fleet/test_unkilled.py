"""A session whose processes will not end: its folder is nobody else's until a kill is proved.

What cannot be killed is played: a process in uninterruptible sleep cannot be made on purpose. The container's
kill is told to fail, and everything above it is real.
"""

from __future__ import annotations

import signal
import subprocess
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest
import trio

from cms.config import Settings
from cms.containment import Container, Member, Proof, end_strays, identity, still_alive
from cms.errors import ContainmentError, WrongStatus
from cms.fleet import unkilled as module
from cms.fleet.supervisor import Supervisor, open_supervisor
from cms.protection import rules
from cms.session.model import Receipt, SessionOptions, SessionRecord, SessionStatus
from cms.store import sessions
from cms.store.store import open_store
from cms.testing.script import prompt, say
from fleet.kit import ask, at_work, make_settings, start, supervising, toil, until

HELLO = prompt("hello", say("x"))


class Stubborn:
    """While `refuses`, no container is ended."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.refuses = True
        kill = Container.kill

        async def refuse(container: Container, *, deadline: float) -> Proof:
            if not self.refuses or container.spec.label == "probe":
                return await kill(container, deadline=deadline)
            left = await container.members()
            return Proof(container.mechanism, left, 3, 2.0, empty=False, left=left, how=("SIGKILL",))

        monkeypatch.setattr(Container, "kill", refuse)


@pytest.fixture
def stubborn(monkeypatch: pytest.MonkeyPatch) -> Stubborn:
    return Stubborn(monkeypatch)


async def unkilled(supervisor: Supervisor, name: str = "one", **changes: object) -> SessionRecord:
    """A session that was killed in vain."""
    await start(supervisor, name, **changes)
    await supervisor.submit(name, prompt("go", toil(name)), type="send")
    await at_work(supervisor, name)
    record, receipt = await supervisor.kill(name)
    assert receipt is not None
    assert not receipt.empty
    assert receipt.left_ids
    assert record.status is SessionStatus.ERROR
    return record


async def test_a_folder_that_hangs_holds_up_the_start_of_no_other(
    tmp_path: Path, stubborn: Stubborn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be why the process could not be killed."""
    (tmp_path / "elsewhere").mkdir()
    back = threading.Event()

    def real_folders(options: SessionOptions) -> tuple[str, ...]:
        if options.work_dir == str(tmp_path / "work"):
            back.wait()
        return rules.real_folders(options)

    try:
        async with supervising(make_settings(tmp_path, grace=0.2)) as supervisor:
            await unkilled(supervisor)
            monkeypatch.setattr(module, "real_folders", real_folders)
            monkeypatch.setattr(module, "_PATIENCE", 0.1)
            await start(supervisor, "two", work_dir=str(tmp_path / "elsewhere"))
            with pytest.raises(ContainmentError, match="could not be killed"):
                await start(supervisor, "three")
            stubborn.refuses = False
    finally:
        back.set()


async def test_its_folder_is_given_to_nobody_until_a_kill_is_proved(
    tmp_path: Path, stubborn: Stubborn
) -> None:
    settings = make_settings(tmp_path, grace=0.2)
    work = tmp_path / "work"
    (work / "below").mkdir()
    (tmp_path / "link").symlink_to(work)
    async with supervising(settings) as supervisor:
        await start(supervisor, "before")
        await unkilled(supervisor)
        for place in (work, work / "below", tmp_path, tmp_path / "link"):
            with pytest.raises(
                ContainmentError, match="processes of session 'one' could not be killed"
            ) as told:
                await start(supervisor, "two", work_dir=str(place))
            assert told.value.hint == "`cms kill one` tries again"
        with pytest.raises(ContainmentError, match="may still write"):
            await start(supervisor, "two", work_dir=str(tmp_path / "home"), add_dirs=(str(work),))
        for name in ("before", "one"):
            with pytest.raises(ContainmentError, match="may still write"):
                await ask(supervisor, name, HELLO)
        await start(supervisor, "elsewhere", work_dir=str(tmp_path / "home"))

        record, receipt = await supervisor.kill("one")
        assert (record.status, receipt and receipt.empty) == (SessionStatus.ERROR, False)
        with pytest.raises(WrongStatus):
            await supervisor.delete("one", force=True)

        stubborn.refuses = False
        record, receipt = await supervisor.kill("one")
        assert receipt is not None
        assert receipt.empty
        assert (record.status, record.error) == (SessionStatus.KILLED, "")
        assert (await ask(supervisor, "before", HELLO)).text == "x"
        assert (await ask(supervisor, "one", HELLO)).text == "x"


async def test_what_ends_late_by_itself_is_noticed_when_somebody_wants_the_folder(
    tmp_path: Path, stubborn: Stubborn
) -> None:
    async with supervising(make_settings(tmp_path, grace=0.2)) as supervisor:
        await unkilled(supervisor)
        stubborn.refuses = False
        await start(supervisor, "two")
        assert (await supervisor.get("one")).status is SessionStatus.KILLED


async def test_what_was_deleted_stays_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever may be left of it is still struck at the end, but not entered in the store again."""
    settings = make_settings(tmp_path, grace=0.2)
    kill, strikes = Container.kill, 0

    async def unsure(container: Container, *, deadline: float) -> Proof:
        nonlocal strikes
        proof = await kill(container, deadline=deadline)
        if container.spec.label == "probe":
            return proof
        strikes += 1
        return msgspec.structs.replace(proof, empty=False)

    monkeypatch.setattr(Container, "kill", unsure)
    async with supervising(settings) as supervisor:
        await start(supervisor)
        await supervisor.resume("one")
        _, receipt = await supervisor.kill("one")
        assert receipt is not None
        assert not receipt.empty
        with pytest.raises(WrongStatus):
            await supervisor.delete("one")
        await supervisor.delete("one", force=True)
        before = strikes
    assert strikes == before + 1
    async with open_store(settings) as store:
        assert await store.read(sessions.page) == []


@pytest.fixture
def stray() -> Iterator[subprocess.Popen[bytes]]:
    child = subprocess.Popen(["sleep", "100"])
    yield child
    child.kill()
    child.wait()


@asynccontextmanager
async def supervising_strays(settings: Settings) -> AsyncIterator[Supervisor]:
    """As `supervising`, but our stray child may be there at the end."""
    with trio.fail_after(20):
        async with open_supervisor(settings) as supervisor:
            yield supervisor


def member_of(pid: int) -> Member:
    started = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    return Member(pid, started, "sleep 100", "S", 0)


async def leave_behind(settings: Settings, stray: int) -> SessionRecord:
    """A session in the store as a supervisor that died since left it: `stray` may still be there."""
    async with supervising_strays(settings) as supervisor:
        record = await start(supervisor, "old")
        receipt = Receipt(
            "killed", left=(f"{stray} sleep 100",), left_ids=(identity(member_of(stray)),), mechanism="bwrap"
        )
        record = msgspec.structs.replace(record, status=SessionStatus.ERROR, receipt=receipt, error="left")
        await supervisor.store.write(sessions.save, record)
    return record


async def test_after_a_restart_what_was_left_is_still_known(
    tmp_path: Path, stray: subprocess.Popen[bytes]
) -> None:
    settings = make_settings(tmp_path, grace=0.2)
    await leave_behind(settings, stray.pid)
    async with supervising_strays(settings) as supervisor:
        with pytest.raises(ContainmentError, match=f"{stray.pid} sleep 100"):
            await start(supervisor, "new")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(until, lambda: stray.poll() is not None)  # somebody has to reap it
            record, receipt = await supervisor.kill("old")
        assert receipt is not None
        assert receipt.empty
        assert stray.returncode == -signal.SIGKILL
        assert record.status is SessionStatus.KILLED
        await start(supervisor, "new")


async def test_a_pid_that_is_somebody_elses_by_now_is_left_alone(
    tmp_path: Path, stray: subprocess.Popen[bytes]
) -> None:
    mine = member_of(stray.pid)
    other = msgspec.structs.replace(mine, started=mine.started - 1)
    assert still_alive([identity(mine)]) == (identity(mine),)
    before = identity(mine).rpartition("@")[0] + "@before"  # another boot
    assert still_alive([identity(other), before]) == ()
    assert await end_strays([identity(other), before], deadline=1) == ()
    assert stray.poll() is None


async def test_what_is_left_is_told_with_its_reason(tmp_path: Path, stubborn: Stubborn) -> None:
    """A session that was at work: its message ends, and says why its session is no longer trusted."""
    async with supervising(make_settings(tmp_path, grace=0.2)) as supervisor:
        await start(supervisor)
        sent = await supervisor.submit("one", prompt("go", toil()), type="send")
        await until((tmp_path / "work" / "at-work-one").exists)
        await supervisor.kill("one")
        await supervisor.finished(sent)
        record = await supervisor.get("one")
        assert record.error.startswith("its end is not proved, processes may be left: ")
        assert record.receipt is not None
        assert record.receipt.left
        stubborn.refuses = False
        await supervisor.kill("one")
