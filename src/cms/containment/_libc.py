"""The system calls that Python 3.11 does not wrap, for the shim.

A module of its own to be read by itself. Like the shim (see there) it runs where nothing of the project can
be imported, so it imports what it needs only when it is needed: ctypes costs 3 ms.
"""

from __future__ import annotations

import os

PR_SET_PDEATHSIG = 1
PR_SET_SECCOMP = 22
PR_CAPBSET_DROP = 24
PR_SET_CHILD_SUBREAPER = 36
PR_SET_NO_NEW_PRIVS = 38
SECCOMP_MODE_FILTER = 2
CLONE_NEWNS = 0x00020000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
MS_NOSUID = 0x2
MS_NODEV = 0x4
MS_NOEXEC = 0x8
MS_REC = 0x4000
MS_SLAVE = 0x80000
AT_FDCWD = -100
AT_EMPTY_PATH = 0x1000
AT_RECURSIVE = 0x8000
OPEN_TREE_CLONE = 1
MOVE_MOUNT_F_EMPTY_PATH = 4
MOUNT_ATTR_RDONLY = 1
# System calls newer than 2019 have the same number on every architecture.
SYS_OPEN_TREE = 428
SYS_MOVE_MOUNT = 429
SYS_MOUNT_SETATTR = 442
SYS_LANDLOCK_CREATE_RULESET = 444
SYS_LANDLOCK_ADD_RULE = 445
SYS_LANDLOCK_RESTRICT_SELF = 446
LANDLOCK_RULE_PATH_BENEATH = 1
LANDLOCK_ACCESS_FS_WRITE_FILE = 2
LANDLOCK_SCOPE_SIGNAL = 2
KEPT_CAPABILITIES = (0, 1, 3, 4, 5)  # chown, dac_override, fowner, fsetid, kill


class Libc:
    """The system calls that Python 3.11 does not wrap. Loaded only where needed: ctypes costs 3 ms."""

    def __init__(self) -> None:
        import ctypes

        self._ctypes = ctypes
        self._libc = ctypes.CDLL(None, use_errno=True)

    def _check(self, result: int, what: str) -> int:
        if result < 0:
            code = self._ctypes.get_errno()
            raise OSError(code, os.strerror(code), what)
        return result

    def prctl(self, option: int, value: int, more: int = 0) -> None:
        ulong = self._ctypes.c_ulong
        self._check(self._libc.prctl(option, ulong(value), ulong(more), ulong(0), ulong(0)), "prctl")

    def filter_calls(self, program: bytes) -> None:
        """From here on, and in all that is started, what the program refuses is refused (see `_seccomp`)."""
        ctypes = self._ctypes
        instructions = ctypes.create_string_buffer(program, len(program))
        # struct sock_fprog: a short and, aligned, a pointer. Machines with a filter are little-endian.
        described = (ctypes.c_uint64 * 2)(len(program) // 8, ctypes.addressof(instructions))
        self.prctl(PR_SET_NO_NEW_PRIVS, 1)
        self.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.addressof(described))

    def unshare(self, flags: int) -> None:
        self._check(self._libc.unshare(flags), "unshare")

    def mount(
        self, source: bytes, target: bytes, kind: bytes | None, flags: int, data: bytes | None = None
    ) -> None:
        self._check(
            self._libc.mount(source, target, kind, self._ctypes.c_ulong(flags), data),
            f"mount {os.fsdecode(target)}",
        )

    def mount_overlay(self, path: bytes, lowers: tuple[int, ...], upper: int, work: int) -> None:
        """At that path the folders `lowers`, the topmost first, with what is written going to `upper`.

        By descriptors, for a path with a comma or a colon would have to be quoted.
        """
        below = ":".join(f"/proc/self/fd/{lower}" for lower in lowers)
        data = f"userxattr,lowerdir={below},upperdir=/proc/self/fd/{upper},workdir=/proc/self/fd/{work}"
        self.mount(b"overlay", path, b"overlay", MS_NOSUID | MS_NODEV, data.encode())
        for fd in (*lowers, upper, work):
            os.close(fd)

    def copy_tree(self, path: bytes) -> int:
        """open_tree(2): a detached copy of what is mounted at `path` and below."""
        flags = OPEN_TREE_CLONE | AT_RECURSIVE | os.O_CLOEXEC
        result = self._libc.syscall(
            self._ctypes.c_long(SYS_OPEN_TREE),
            self._ctypes.c_int(AT_FDCWD),
            path,
            self._ctypes.c_uint(flags),
        )
        return self._check(result, f"copy {os.fsdecode(path)}")

    def place_tree(self, fd: int, path: bytes) -> None:
        """move_mount(2): attach such a copy at `path`."""
        result = self._libc.syscall(
            self._ctypes.c_long(SYS_MOVE_MOUNT),
            self._ctypes.c_int(fd),
            b"",
            self._ctypes.c_int(AT_FDCWD),
            path,
            self._ctypes.c_uint(MOVE_MOUNT_F_EMPTY_PATH),
        )
        self._check(result, f"mount {os.fsdecode(path)}")

    def make_read_only(self, fd: int, path: bytes, *, recursive: bool = True) -> None:
        """mount_setattr(2), which unlike a remount leaves every other flag as it is (Linux 5.12)."""
        ctypes = self._ctypes
        attributes = (ctypes.c_uint64 * 4)(MOUNT_ATTR_RDONLY, 0, 0, 0)
        flags = (AT_RECURSIVE if recursive else 0) | (0 if path else AT_EMPTY_PATH)
        result = self._libc.syscall(
            ctypes.c_long(SYS_MOUNT_SETATTR),
            ctypes.c_int(fd),
            path,
            ctypes.c_uint(flags),
            ctypes.byref(attributes),
            ctypes.c_size_t(ctypes.sizeof(attributes)),
        )
        self._check(result, f"read-only {os.fsdecode(path)}")

    def cage(self, closed: bytes) -> None:
        """Landlock, ABI 6: signals reach only who is caged, too; nothing below /`closed` can be written.

        The second is there for cgroups: a process that can write them can leave its own. A Landlock rule can
        only allow, so every other top folder is allowed by name.
        """
        ctypes = self._ctypes
        syscall = self._libc.syscall
        handled = LANDLOCK_ACCESS_FS_WRITE_FILE if closed else 0
        attributes = (ctypes.c_uint64 * 3)(handled, 0, LANDLOCK_SCOPE_SIGNAL)
        ruleset = self._check(
            syscall(
                ctypes.c_long(SYS_LANDLOCK_CREATE_RULESET),
                ctypes.byref(attributes),
                ctypes.c_size_t(ctypes.sizeof(attributes)),
                ctypes.c_uint32(0),
            ),
            "landlock",
        )
        for entry in os.scandir(b"/") if closed else ():
            if entry.name != closed:
                try:
                    fd = os.open(entry.path, os.O_PATH | os.O_CLOEXEC)
                except OSError:
                    continue  # a dangling link
                rule = (ctypes.c_uint32 * 3)(LANDLOCK_ACCESS_FS_WRITE_FILE, 0, fd)  # u64 and s32
                self._check(
                    syscall(
                        ctypes.c_long(SYS_LANDLOCK_ADD_RULE),
                        ctypes.c_int(ruleset),
                        ctypes.c_int(LANDLOCK_RULE_PATH_BENEATH),
                        ctypes.byref(rule),
                        ctypes.c_uint32(0),
                    ),
                    "landlock",
                )
                os.close(fd)
        self.prctl(PR_SET_NO_NEW_PRIVS, 1)
        self._check(
            syscall(ctypes.c_long(SYS_LANDLOCK_RESTRICT_SELF), ctypes.c_int(ruleset), ctypes.c_uint32(0)),
            "landlock",
        )
        os.close(ruleset)
