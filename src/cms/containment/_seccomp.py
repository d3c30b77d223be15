"""The system calls by which one process reaches into another: refused to everything in a container.

All that runs in a container has one user, and claude is part of it. A shell that it started could write its
memory or take its descriptors, and so speak for it. The filter answers EPERM to `ptrace`,
`process_vm_readv`, `process_vm_writev` and `pidfd_getfd`, in each ABI in which the kernel would take them.
What is left is `/proc/PID/mem`, which opens like a file: `_mounts` makes /proc read-only for that.

Refused, too, is `ioctl(TIOCSTI)`, which types into a terminal: claude may be on one (`Spec.terminal`).

The price: strace, gdb, LeakSanitizer and py-spy do not work inside.

The program is classic BPF, as `seccomp(2)` and bwrap's `--seccomp` take it.
"""

from __future__ import annotations

import errno
import functools
import os
import struct

_LOAD = 0x20  # a 32-bit word of `struct seccomp_data`
_JUMP_IF_EQUAL = 0x15
_JUMP_IF_ANY_BIT = 0x45
_RETURN = 0x06
_NUMBER, _ARCHITECTURE, _SECOND_ARGUMENT = 0, 4, 24  # offsets in it; the lower half of the argument
_ALLOW = 0x7FFF0000
_REFUSE = 0x00050000 | errno.EPERM
_X32 = 0x40000000  # marks the system calls of x86-64's third ABI
_TIOCSTI = 0x5412  # in all of these

# By audit architecture: ptrace, process_vm_readv, process_vm_writev, pidfd_getfd; and ioctl. A 64-bit kernel
# also runs the programs of its 32-bit predecessor, which have numbers of their own.
_X86_64 = (0xC000003E, (101, 310, 311, 438), 16)
_I386 = (0x40000003, (26, 347, 348, 438), 54)
_AARCH64 = (0xC00000B7, (117, 270, 271, 438), 29)
_ARM = (0x40000028, (26, 376, 377, 438), 54)
_ABIS = {"x86_64": (_X86_64, _I386), "aarch64": (_AARCH64, _ARM)}


@functools.cache
def seccomp_filter(machine: str = "") -> bytes:
    """The program for that machine (ours), or nothing where its numbers are not known.

    A call by an ABI that the machine should not have, x32 included, is refused whatever it is.
    """
    abis = _ABIS.get(machine or os.uname().machine)
    if abis is None:
        return b""
    blocks = [_block(*abi) for abi in abis]
    program = [_instruction(_LOAD, _ARCHITECTURE)]
    for (architecture, *_), block in zip(abis, blocks, strict=True):
        program.append(_instruction(_JUMP_IF_EQUAL, architecture, 0, len(block)))
        program += block
    program.append(_instruction(_RETURN, _REFUSE))
    return b"".join(program)


def _block(architecture: int, numbers: tuple[int, ...], ioctl: int) -> list[bytes]:
    tests = [(_JUMP_IF_EQUAL, number) for number in numbers]
    if architecture == _X86_64[0]:
        tests.insert(0, (_JUMP_IF_ANY_BIT, _X32))
    ends = [
        _instruction(_JUMP_IF_EQUAL, ioctl, 0, 2),
        _instruction(_LOAD, _SECOND_ARGUMENT),
        _instruction(_JUMP_IF_EQUAL, _TIOCSTI, 1, 0),
        _instruction(_RETURN, _ALLOW),
        _instruction(_RETURN, _REFUSE),
    ]
    to_refusal = len(tests) + len(ends) - 2
    jumps = [
        _instruction(code, value, to_refusal - position, 0) for position, (code, value) in enumerate(tests)
    ]
    return [_instruction(_LOAD, _NUMBER), *jumps, *ends]


def _instruction(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, if_true, if_false, value)
