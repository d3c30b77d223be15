"""A program that tries to speak for another: every way known by which one process reaches into a second one.

    python -I -S tampering.py PID LINE

It wants LINE to come out of that process's stdout (or into its stdin), or to read and write its memory. It
says for each way `NAME: went through` or why not, then `done`. It runs from this file, so it imports only the
standard library.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import platform
import signal
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Final

_SEIZE, _DETACH = 0x4206, 17
_SYS_PIDFD_GETFD = 438
_X32 = 0x40000000
_X32_PTRACE = 521
# push rbx; mov eax, 26 (ptrace); xor ebx, ebx (of ourselves); xor ecx, ecx; xor edx, edx; xor esi, esi;
# int 0x80; pop rbx; ret
_I386_TRACEME: Final = bytes.fromhex("53b81a00000031db31c931d231f6cd805bc3")
_LINE = b"forged\n"


class Tampering:
    """What can be tried on one process."""

    def __init__(self, pid: int, line: bytes) -> None:
        self.pid = pid
        self.line = line
        self._libc = ctypes.CDLL(None, use_errno=True)

    def all(self) -> Iterator[tuple[str, Callable[[], None]]]:
        """Every way by name; each raises OSError if it did not go through."""
        for number in (0, 1):
            yield f"open_fd_{number}", partial(self.open_descriptor, number)
            yield f"take_fd_{number}", partial(self.take_descriptor, number)
        yield "trace", self.trace
        yield "read_memory", partial(self.copy_memory, "process_vm_readv")
        yield "write_memory", partial(self.copy_memory, "process_vm_writev")
        yield "memory_file", self.memory_file
        if platform.machine() == "x86_64":
            yield "trace_as_i386", partial(self.in_child, self.trace_as_i386)
            yield "trace_as_x32", partial(self.in_child, self.trace_as_x32)

    def open_descriptor(self, number: int) -> None:
        """A pipe opens by its name in /proc, a socket does not."""
        fd = os.open(f"/proc/{self.pid}/fd/{number}", os.O_WRONLY)
        try:
            os.write(fd, self.line)
        finally:
            os.close(fd)

    def take_descriptor(self, number: int) -> None:
        """pidfd_getfd(2) takes any kind of descriptor."""
        held = os.pidfd_open(self.pid)
        fd = self._call(self._libc.syscall(ctypes.c_long(_SYS_PIDFD_GETFD), held, number, 0))
        try:
            os.write(fd, self.line)
        finally:
            os.close(fd)
            os.close(held)

    def trace(self) -> None:
        """ptrace(2): everything else follows from it."""
        null = ctypes.c_void_p(None)
        ptrace = self._libc.ptrace
        self._call(ptrace(ctypes.c_long(_SEIZE), ctypes.c_int(self.pid), null, null))
        ptrace(ctypes.c_long(_DETACH), ctypes.c_int(self.pid), null, null)

    def copy_memory(self, name: str) -> None:
        """Its memory, read or written. At an address where nothing is: EFAULT comes after the permission."""
        word = ctypes.create_string_buffer(8)
        here = (ctypes.c_uint64 * 2)(ctypes.addressof(word), 8)
        there = (ctypes.c_uint64 * 2)(8, 8)
        copy = getattr(self._libc, name)
        one = ctypes.c_ulong(1)
        try:
            self._call(copy(ctypes.c_int(self.pid), here, one, there, one, ctypes.c_ulong(0)))
        except OSError as error:
            if error.errno != errno.EFAULT:
                raise

    def memory_file(self) -> None:
        """/proc/PID/mem opens like a file: no system call of its own to refuse."""
        start = self._writable()
        fd = os.open(f"/proc/{self.pid}/mem", os.O_RDWR)
        try:
            os.pwrite(fd, os.pread(fd, 8, start), start)
        finally:
            os.close(fd)

    def trace_as_i386(self) -> None:
        """The same call by the number that 32-bit programs have for it."""
        code = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
        code.write(_I386_TRACEME)
        call = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(code)))
        self._answer(call())

    def trace_as_x32(self) -> None:
        """And in the ABI with 64-bit registers and 32-bit pointers."""
        self._call(self._libc.syscall(ctypes.c_long(_X32 | _X32_PTRACE), 0, 0, 0, 0))

    def in_child(self, attack: Callable[[], None]) -> None:
        """To be traced is for good, and a machine without the ABI ends who uses it."""
        pid = os.fork()
        if pid == 0:
            try:
                attack()
            except OSError as error:
                os._exit(error.errno or 1)
            os._exit(0)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if status:
            number = status if status > 0 else errno.ENOSYS
            raise OSError(number, os.strerror(number) if status > 0 else signal.strsignal(-status))

    def _writable(self) -> int:
        for line in Path(f"/proc/{self.pid}/maps").read_text().splitlines():
            span, mode, *_ = line.split()
            if mode.startswith("rw"):
                return int(span.partition("-")[0], 16)
        raise OSError(errno.ENOMEM, "no writable memory was found")

    def _call(self, result: int) -> int:
        if result < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        return result

    def _answer(self, result: int) -> None:
        """Of a system call that was not made through libc."""
        if result < 0:
            raise OSError(-result, os.strerror(-result))


def main() -> None:
    if len(sys.argv) < 2:
        sys.exit("usage: tampering PID [LINE]")
    line = os.fsencode(sys.argv[2]) + b"\n" if len(sys.argv) > 2 else _LINE
    for name, attack in Tampering(int(sys.argv[1]), line).all():
        try:
            attack()
        except OSError as error:
            say(f"{name}: {error.strerror}")
        else:
            say(f"{name}: went through")
    say("done")


def say(line: str) -> None:
    os.write(1, line.encode() + b"\n")


if __name__ == "__main__":
    main()
