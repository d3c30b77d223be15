"""No process of a container can speak for another one, or read and write its memory."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import msgspec
import pytest
import trio

import cms.testing.tampering
from cms.containment import Container, Mechanism, Spec
from cms.containment._seccomp import seccomp_filter
from containment.children import python, read_all, read_until, shell
from containment.conftest import on_linux

PROGRAM = cms.testing.tampering.__file__
#: An agent whose shell wants to speak for it: the attacks' own words come by stderr.
AGENT = """
import os, subprocess, sys
print("ready", flush=True)
program = [sys.executable, "-I", "-S", sys.argv[1], str(os.getpid())]
subprocess.run(program, stdin=subprocess.DEVNULL, stdout=2, check=False)
print("true", flush=True)
print("heard", sys.stdin.readline(), flush=True)
"""
needs_filter = pytest.mark.skipif(not seccomp_filter(), reason="no filter is known for this machine")


def agent(place: Path, *, sockets: bool) -> Spec:
    spec = python(AGENT, place, PROGRAM)
    return msgspec.structs.replace(spec, sockets=sockets)


async def attacked(container: Container) -> tuple[str, str]:
    """What came out of its stdout, and how the attacks went."""
    said = ["", ""]
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:

            async def read(index: int, stream: trio.abc.ReceiveStream) -> None:
                said[index] = (await read_all(stream)).decode()

            nursery.start_soon(read, 0, container.stdout)
            nursery.start_soon(read, 1, container.stderr)
            await container.stdin.send_all(b"mine\n")
            await container.stdin.aclose()
    return said[0], said[1]


@on_linux
@needs_filter
async def test_no_way_into_another_process(mechanism: Mechanism, tmp_path: Path) -> None:
    async with await mechanism.start(agent(tmp_path, sockets=True)) as container:
        out, how = await attacked(container)
    assert out == "ready\ntrue\nheard mine\n\n", how
    through = [line.partition(":")[0] for line in how.splitlines() if line.endswith("went through")]
    assert how.endswith("done\n"), how
    # A file, so no filter can refuse it: a read-only /proc does, in a sandbox (below).
    assert through == ["memory_file"], how


async def test_the_attacks_are_attacks(mechanism: Mechanism, tmp_path: Path) -> None:
    """Over pipes the forged lines arrive."""
    async with await mechanism.start(agent(tmp_path, sockets=False)) as container:
        out, how = await attacked(container)
    assert "open_fd_1: went through" in how
    assert "forged\n" in out


@needs_filter
async def test_a_sandbox_closes_the_memory_file(walled: Mechanism, tmp_path: Path) -> None:
    spec = msgspec.structs.replace(agent(tmp_path, sockets=True), writable=(tmp_path,), sandbox=True)
    spec = msgspec.structs.replace(spec, shown=(Path(PROGRAM).parent,))
    async with await walled.start(spec) as container:
        out, how = await attacked(container)
    assert out == "ready\ntrue\nheard mine\n\n", how
    assert how.endswith("done\n"), how
    assert "went through" not in how
    assert "memory_file: Read-only file system" in how


@on_linux
async def test_nothing_of_ours_is_left_open(mechanism: Mechanism, tmp_path: Path) -> None:
    """Neither the filter's descriptor nor the control socket gets through to the command."""
    spec = python("import os; print(sorted(map(int, os.listdir('/proc/self/fd'))))", tmp_path)
    async with await mechanism.start(msgspec.structs.replace(spec, sockets=True)) as container:
        assert await read_all(container.stdout) == b"[0, 1, 2, 3]\n"  # the last is the listing's own


# --- streams that are sockets -------------------------------------------------------------------------


@pytest.mark.parametrize("sockets", [False, True], ids=["pipes", "sockets"])
async def test_end_of_file_goes_both_ways(mechanism: Mechanism, tmp_path: Path, sockets: bool) -> None:
    spec = msgspec.structs.replace(shell("cat; echo end; exec >&-; read x <&2", tmp_path), sockets=sockets)
    with trio.fail_after(20):
        async with await mechanism.start(spec) as container:
            await container.stdin.send_all(b"one\n")
            assert await read_until(container, b"one\n") == b"one\n"
            await container.stdin.aclose()
            assert await read_all(container.stdout) == b"end\n"


@pytest.mark.parametrize("sockets", [False, True], ids=["pipes", "sockets"])
async def test_a_child_that_reads_nothing_loses_nothing_it_said(
    mechanism: Mechanism, tmp_path: Path, sockets: bool
) -> None:
    """With input unread a socket's end is an error, and what was said before must still arrive."""
    spec = msgspec.structs.replace(
        shell("head -c 1 >/dev/null; head -c 100000 /dev/zero; kill -9 $$", tmp_path), sockets=sockets
    )
    with trio.fail_after(20):
        async with await mechanism.start(spec) as container:
            await container.stdin.send_all(b"unread" * 1000)
            assert len(await read_all(container.stdout)) == 100000
            assert await container.wait() == -9
            with pytest.raises(trio.BrokenResourceError):
                await container.stdin.send_all(b"x" * 1000000)


async def test_big_lines_and_a_slow_reader(mechanism: Mechanism, tmp_path: Path) -> None:
    """More than any buffer holds, in both directions at once."""
    block = os.urandom(1 << 20) * 8
    spec = msgspec.structs.replace(shell("exec cat", tmp_path), sockets=True)
    heard = bytearray()
    with trio.fail_after(30):
        async with await mechanism.start(spec) as container, trio.open_nursery() as nursery:

            async def write() -> None:
                await container.stdin.send_all(block)
                await container.stdin.aclose()

            nursery.start_soon(write)
            while chunk := await container.stdout.receive_some(65536):
                heard += chunk
    assert bytes(heard) == block


async def test_a_child_cannot_write_into_its_input(mechanism: Mechanism, tmp_path: Path) -> None:
    """A socket has two directions; each of ours has one."""
    source = (
        "import os, sys\n"
        "for fd, act in ((0, lambda: os.write(0, b'x')), (1, lambda: os.read(1, 1))):\n"
        "    try: print(fd, act())\n"
        "    except OSError as error: print(fd, error.strerror)\n"
    )
    spec = msgspec.structs.replace(python(source, tmp_path), sockets=True)
    with trio.fail_after(20):
        async with await mechanism.start(spec) as container:
            assert await read_all(container.stdout) == b"0 Broken pipe\n1 b''\n"


# --- the filter ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_the_filter_by_hand(machine: str) -> None:
    """Run the program as the kernel would: each refused number in each ABI, its neighbours, odd ABIs."""
    program = seccomp_filter(machine)
    refused = {
        "x86_64": {0xC000003E: {101, 310, 311, 438}, 0x40000003: {26, 347, 348, 438}},
        "aarch64": {0xC00000B7: {117, 270, 271, 438}, 0x40000028: {26, 376, 377, 438}},
    }[machine]
    ioctls = {0xC000003E: 16, 0x40000003: 54, 0xC00000B7: 29, 0x40000028: 54}
    for architecture, numbers in refused.items():
        for number in range(500):
            assert run(program, architecture, number) == (number not in numbers)
            types = number == ioctls[architecture]
            assert run(program, architecture, number, 0x5412) == (number not in numbers and not types)
    assert not run(program, 0x1234, 1)
    if machine == "x86_64":
        assert not run(program, 0xC000003E, 0x40000000 | 1)


def test_a_machine_without_a_filter() -> None:
    assert seccomp_filter("sparc64") == b""


def run(program: bytes, architecture: int, number: int, argument: int = 0x5413) -> bool:
    """Whether the call is let through; `argument`: its second one, TIOCGWINSZ to an ioctl."""
    words = {0: number, 4: architecture, 24: argument}
    instructions = list(struct.iter_unpack("=HBBI", program))
    position = accumulator = 0
    while True:
        code, if_true, if_false, value = instructions[position]
        position += 1
        if code == 0x20:
            accumulator = words[value]
        elif code in (0x15, 0x45):
            holds = accumulator == value if code == 0x15 else accumulator & value
            position += if_true if holds else if_false
        else:
            assert code == 0x06
            return bool(value == 0x7FFF0000)
