"""A command in a container: its pipes, its exit, its signals; and that starting leaves all or nothing."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import msgspec
import pytest
import trio

from cms.containment import LostMount, Mechanism, Spec, _launch, _proc
from cms.errors import ContainmentError, WorkDirError
from containment.children import PYTHON, open_descriptors, python, read_all, read_until, shell
from containment.conftest import on_linux


async def test_pipes_carry_bytes_both_ways(mechanism: Mechanism, tmp_path: Path) -> None:
    payload = os.urandom(1 << 20)
    with trio.fail_after(10):
        async with await mechanism.start(shell("cat; echo done >&2", tmp_path)) as container:
            async with trio.open_nursery() as nursery:

                async def feed() -> None:
                    await container.stdin.send_all(payload)
                    await container.stdin.aclose()

                nursery.start_soon(feed)
                assert await read_all(container.stdout) == payload
            assert await read_all(container.stderr) == b"done\n"
            assert await container.wait() == 0


@pytest.mark.parametrize(
    ("script", "status"),
    [("exit 0", 0), ("exit 143", 143), ("kill -TERM $$", -15)],
)
async def test_exit_status_is_the_commands_own(
    mechanism: Mechanism, tmp_path: Path, script: str, status: int
) -> None:
    with trio.fail_after(10):
        async with await mechanism.start(shell(script, tmp_path)) as container:
            assert await container.wait() == status
            assert container.returncode == status
            proof = await container.kill(deadline=5)
            assert proof.empty
            assert await container.wait() == status


async def test_stdout_ends_when_the_command_does(mechanism: Mechanism, tmp_path: Path) -> None:
    """No helper of ours may hold the pipe, or a reader would wait for ever."""
    with trio.fail_after(10):
        async with await mechanism.start(shell("echo out", tmp_path)) as container:
            assert await read_all(container.stdout) == b"out\n"
            assert await container.wait() == 0


async def test_many_wait_and_one_is_cancelled(mechanism: Mechanism, tmp_path: Path) -> None:
    seen: list[int] = []
    with trio.fail_after(10):
        async with await mechanism.start(shell("read line; exit 7", tmp_path)) as container:
            async with trio.open_nursery() as nursery:
                scopes = [trio.CancelScope() for _ in range(4)]

                async def waiter(scope: trio.CancelScope) -> None:
                    with scope:
                        seen.append(await container.wait())

                for scope in scopes:
                    nursery.start_soon(waiter, scope)
                await trio.testing.wait_all_tasks_blocked()
                scopes[0].cancel()  # the one that reads for all
                await trio.testing.wait_all_tasks_blocked()
                await container.stdin.send_all(b"go\n")
            assert seen == [7, 7, 7]


async def test_the_command_gets_what_the_spec_says_and_nothing_else(
    mechanism: Mechanism, tmp_path: Path
) -> None:
    source = (
        "import os; print(os.getcwd()); print(sorted(os.environ));"
        "print(sorted(int(fd) for fd in os.listdir('/proc/self/fd'))[:4]);"
        "print(os.getsid(0) == os.getpid());"
        "print([line.split()[1] for line in open('/proc/self/status') if line[:6] in ('SigBlk', 'SigIgn')])"
    )
    spec = msgspec.structs.replace(python(source, tmp_path), env={"ONE": "1"})
    with trio.fail_after(10):
        async with await mechanism.start(spec) as container:
            lines = (await read_all(container.stdout)).decode().splitlines()
    assert lines[0] == str(tmp_path)
    names = set(msgspec.json.decode(lines[1].replace("'", '"'), type=list[str]))
    assert names - {"LC_CTYPE", "CMS_CONTAINER"} == {"ONE"}
    assert lines[2] == "[0, 1, 2, 3]"  # 3 is the listing itself: no pipe, socket or letter leaks in
    assert lines[3] == "True"
    assert lines[4] == "['0000000000000000', '0000000001001000']"  # Python itself ignores SIGPIPE and SIGXFSZ


async def test_terminate_reaches_the_command(mechanism: Mechanism, tmp_path: Path) -> None:
    with trio.fail_after(10):
        async with await mechanism.start(
            shell("trap 'exit 5' TERM; echo ready; while :; do sleep 0.01; done", tmp_path)
        ) as container:
            await read_until(container, b"ready\n")
            container.terminate()
            assert await container.wait() == 5
            container.terminate()  # gone: nobody else is hit, nothing raised
            await container.kill(deadline=5)
            container.terminate()


async def test_pid_is_the_commands_as_the_host_counts(
    mechanism: Mechanism, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    read_stat = _proc.read_stat

    def noting(pid: int) -> _proc.Stat | None:
        read.append(pid)
        return read_stat(pid)

    monkeypatch.setattr(_proc, "read_stat", noting)
    with trio.fail_after(10):
        async with await mechanism.start(shell("echo ready; exec cat", tmp_path)) as container:
            await read_until(container, b"ready\n")
            await container.stdin.send_all(b"now it is cat\n")
            await read_until(container, b"cat\n")
            assert Path(f"/proc/{container.pid}/comm").read_bytes() == b"cat\n"  # noqa: ASYNC240
            read.clear()
            members = await container.members()
            assert read.count(container.pid) <= 1, "each is looked at once: a tree may have a thousand"
            assert [member.pid for member in members] == [container.pid]
            assert members[0].rss > 0
            assert container.statistics().processes == 1


async def test_a_command_that_is_not_there(mechanism: Mechanism, tmp_path: Path) -> None:
    with trio.fail_after(10), pytest.raises(ContainmentError, match=os.strerror(errno.ENOENT)):
        await mechanism.start(Spec(argv=("no-such-command",), env={}, cwd=tmp_path))


async def test_a_work_dir_that_is_not_there(mechanism: Mechanism, tmp_path: Path) -> None:
    with trio.fail_after(10), pytest.raises(WorkDirError):
        await mechanism.start(Spec(argv=("/bin/true",), env={}, cwd=tmp_path / "gone"))


async def test_a_start_that_is_cancelled_leaves_nothing(mechanism: Mechanism, tmp_path: Path) -> None:
    """Cancelled at each instant in turn; the fixture looks for what is left."""
    started = 0
    step = 0
    descriptors = open_descriptors()
    with trio.fail_after(30):
        while not started:
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as nursery:

                    async def cancel_after(checkpoints: int, scope: trio.CancelScope = scope) -> None:
                        for _ in range(checkpoints):
                            await trio.sleep(0.002)
                        scope.cancel()

                    nursery.start_soon(cancel_after, step)
                    container = await mechanism.start(shell("exec sleep 100", tmp_path))
                    started += 1
                    with trio.CancelScope(shield=True):
                        await container.aclose()
            step += 1
    assert open_descriptors() == descriptors


async def test_a_start_that_fails_at_the_last_moment_leaves_nothing(
    mechanism: Mechanism, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command is there, and waits for leave to exec: it must not mistake the kill for that."""
    descriptors = open_descriptors()

    def broken(*_: object) -> tuple[LostMount, ...]:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(_launch, "verify", broken)
    with trio.fail_after(10), pytest.raises(ContainmentError, match="Input/output"):
        await mechanism.start(shell("exec sleep 100", tmp_path))
    assert open_descriptors() == descriptors


@on_linux
async def test_many_at_once(mechanism: Mechanism, tmp_path: Path) -> None:
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:

            async def one(number: int) -> None:
                async with await mechanism.start(shell(f"sleep 100 & echo {number}", tmp_path)) as container:
                    assert await read_until(container, b"\n") == b"%d\n" % number
                    assert await container.wait() == 0
                    proof = await container.kill(deadline=5)
                    assert proof.empty
                    assert len(proof.alive) == 1

            for number in range(12):
                nursery.start_soon(one, number)


async def test_idle_longer_than_trios_worker_threads(mechanism: Mechanism, tmp_path: Path) -> None:
    """A child forked in a worker thread would get its parent-death signal when that thread ends.

    The wait for ten idle seconds is not repeated here; it is enough that the forking thread is ours.
    """
    import threading

    with trio.fail_after(10):
        await trio.to_thread.run_sync(threading.get_ident)
        before = {thread.name for thread in threading.enumerate()}
        async with await mechanism.start(shell("cat", tmp_path)) as container:
            assert {thread.name for thread in threading.enumerate()} == before
            await container.stdin.send_all(b"still here\n")
            await read_until(container, b"still here\n")


def test_python_is_reachable() -> None:
    assert os.access(PYTHON, os.X_OK)
