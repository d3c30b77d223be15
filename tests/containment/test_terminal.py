"""A command on a terminal: it is the command's own, and ends with it."""

from __future__ import annotations

import os
import pty
import signal
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import trio

from cms.containment import Mechanism
from cms.containment._seccomp import seccomp_filter
from cms.errors import ContainmentError
from containment.children import python, shell
from containment.conftest import on_linux


@pytest.fixture
def terminal() -> Iterator[tuple[int, Path]]:
    master, slave = pty.openpty()
    os.set_blocking(master, False)
    yield master, Path(os.ttyname(slave))
    os.close(slave)
    os.close(master)


async def read_until(master: int, word: bytes) -> bytes:
    got = b""
    with trio.fail_after(10):
        while word not in got:
            await trio.lowlevel.wait_readable(master)
            got += os.read(master, 65536)
    return got


@on_linux
async def test_it_is_the_controlling_terminal(
    mechanism: Mechanism, terminal: tuple[int, Path], tmp_path: Path
) -> None:
    """Ctrl-C is a signal, and /dev/tty is there: both need a terminal that controls."""
    master, path = terminal
    spec = msgspec.structs.replace(
        shell("trap 'echo caught; exit 3' INT; echo up >/dev/tty; while :; do sleep 0.05; done", tmp_path),
        terminal=path,
    )
    with trio.fail_after(10):
        async with await mechanism.start(spec) as container:
            await read_until(master, b"up\r\n")
            os.write(master, b"\x03")
            await read_until(master, b"caught\r\n")
            assert await container.wait() == 3
            assert await container.stdout.receive_some() == b""


TYPE = """
import errno, fcntl, termios
try:
    fcntl.ioctl(0, termios.TIOCSTI, b"y")
    print("typed")
except OSError as error:
    print("refused", errno.errorcode[error.errno])
"""


@on_linux
@pytest.mark.skipif(not seccomp_filter(), reason="no filter is known for this machine")
async def test_nothing_in_it_types_in_the_persons_place(
    mechanism: Mechanism, terminal: tuple[int, Path], tmp_path: Path
) -> None:
    master, path = terminal
    async with await mechanism.start(msgspec.structs.replace(python(TYPE, tmp_path), terminal=path)):
        assert b"refused EPERM" in await read_until(master, b"\r\n")


@on_linux
async def test_a_terminal_that_is_gone_hangs_up(mechanism: Mechanism, tmp_path: Path) -> None:
    master, slave = pty.openpty()
    spec = msgspec.structs.replace(shell("sleep 60", tmp_path), terminal=Path(os.ttyname(slave)))
    with trio.fail_after(10):
        async with await mechanism.start(spec) as container:
            os.close(slave)
            os.close(master)
            assert await container.wait() == -signal.SIGHUP


@pytest.mark.parametrize("what", ["file", "link", "missing"])
@on_linux
async def test_what_is_no_terminal_is_refused(
    mechanism: Mechanism, what: str, terminal: tuple[int, Path], tmp_path: Path
) -> None:
    path = tmp_path / what
    if what == "file":
        path.touch()
    elif what == "link":
        path.symlink_to(terminal[1])
    with pytest.raises(ContainmentError, match=str(path)):
        await mechanism.start(msgspec.structs.replace(shell("true", tmp_path), terminal=path))
