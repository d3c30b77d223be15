"""Programs that try to outlive a kill, one for each way that is known: what containers are tested with.

`command` makes the argv of a case, which runs from a compiled copy beside the file BEAT: that folder is there
in any container, while the one that we are installed in may be hidden. When a case stands it writes `ready`
to stdout. From then on every process of it keeps writing the time into BEAT (shared memory), so that anybody
can see whether one still runs, even without any pipe.

Each case bounds itself, for `cms drill` runs them on people's machines: after 8 s every process ends by
itself, and there are never more than 400. A case that the machine does not allow (no nested namespaces, say)
says `refused` before `ready` and stays alive like any other process.
"""

from __future__ import annotations

import ctypes
import functools
import marshal
import mmap
import os
import signal
import stat
import struct
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

SECONDS = 8.0
MOST_PROCESSES = 400
BEAT_BYTES = 4096

_CLONE_NEWNS = 0x00020000
_CLONE_NEWUSER = 0x10000000
_CLONE_NEWPID = 0x20000000
_PTRACE_SEIZE = 0x4206
_PTRACE_INTERRUPT = 0x4207
_PR_SET_DUMPABLE = 4
_PR_SET_NAME = 15
_PR_SET_CHILD_SUBREAPER = 36
_CLOCK_MONOTONIC = 1
_SYS_EXIT = {"x86_64": 60, "aarch64": 93, "riscv64": 93}


def command(case: str, beat: Path, argument: str = "") -> tuple[str, ...]:
    """The argv that runs a case; `beat`, and the program beside it, are made if they are not there."""
    if not beat.exists():
        beat.write_bytes(bytes(BEAT_BYTES))
    program = beat.with_suffix(".pyc")
    if not program.exists():
        program.write_bytes(_compiled())
    return (os.path.realpath(sys.executable), "-I", "-S", str(program), case, str(beat), argument)


@functools.cache
def _compiled() -> bytes:
    """This file as a .pyc: compiling it again for each start would take longer than most cases do."""
    from importlib.util import MAGIC_NUMBER

    code = compile(Path(__file__).read_bytes(), __file__, "exec", dont_inherit=True)
    return MAGIC_NUMBER + bytes(12) + marshal.dumps(code)


def last_beat(beat: Path) -> int:
    """Nanoseconds (monotonic clock) at which the latest process of a case was seen to run; 0 for never."""
    raw = beat.read_bytes()[:8]
    return int(struct.unpack("=q", raw)[0])


class Hostile:
    """One case, in the process it was started as and in all that it forks."""

    def __init__(self, case: str, beat: str, argument: str, end: float) -> None:
        self.case = case
        self.beat_path = beat
        self.argument = argument
        self.end = end
        with open(beat, "r+b") as file:  # noqa: PTH123 (started a thousand times; pathlib costs its import)
            self._memory = mmap.mmap(file.fileno(), BEAT_BYTES)
        self._libc = ctypes.CDLL(None, use_errno=True)

    # --- tools ------------------------------------------------------------------------------------------

    def beat(self) -> bool:
        """Say that this process runs. False when the time is up."""
        struct.pack_into("=q", self._memory, 0, time.monotonic_ns())
        return time.monotonic() < self.end

    def live(self) -> None:
        """Run until the time is up."""
        while self.beat():
            time.sleep(0.002)

    def spin(self) -> None:
        """The same, and burn the processor."""
        while self.beat():
            pass

    def fork(self, body: Callable[[], None]) -> int:
        """Fork a child that does `body` and ends; never more lenient than a plain fork."""
        pid = os.fork()
        if pid == 0:
            try:
                body()
            finally:
                os._exit(0)
        return pid

    def daemon(self, body: Callable[[], None]) -> None:
        """Double fork and setsid: the grandchild is nobody's child."""

        def middle() -> None:
            os.setsid()
            self.fork(body)

        os.waitpid(self.fork(middle), 0)

    def ready(self, word: str = "ready") -> None:
        os.write(1, word.encode() + b"\n")

    def refused(self, why: object) -> None:
        """The machine does not allow it: stay a plain process."""
        self.ready(f"refused: {why}")
        self.ready()
        self.live()

    def end_main_thread(self) -> NoReturn:
        """Only this thread; the leader becomes a zombie whose other threads run on."""
        self._libc.syscall(ctypes.c_long(_SYS_EXIT[os.uname().machine]), ctypes.c_int(0))
        raise AssertionError("exit(2) returned")

    # --- the cases ----------------------------------------------------------------------------------------

    def plain(self) -> None:
        """No tricks: a tree of a hundred, to time things with; ARGUMENT is how many."""
        for _ in range(int(self.argument or "100") - 1):
            self.fork(self.live)
        self.ready()
        self.live()

    def setsid(self) -> None:
        """A child in a session of its own, out of reach of killpg."""

        def child() -> None:
            os.setsid()
            self.ready()
            self.live()

        self.fork(child)
        self.live()

    def orphan(self) -> None:
        """A daemon, its leader gone at once."""
        self.daemon(self.live)
        self.ready()

    def deaf(self) -> None:
        """Every signal that can be ignored is."""
        for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD}:
            signal.signal(number, signal.SIG_IGN)
        for _ in range(3):
            self.fork(self.live)
        self.ready()
        self.live()

    def stopped(self) -> None:
        """A child that stopped itself: it will not run to see a signal."""

        def child() -> None:
            os.kill(os.getpid(), signal.SIGSTOP)
            self.live()

        pid = self.fork(child)
        os.waitpid(pid, os.WUNTRACED)

        def sitter() -> None:
            self.live()
            os.kill(pid, signal.SIGKILL)

        self.fork(sitter)
        self.ready()
        self.live()

    def _comet(self, *, new_session: bool) -> None:
        while self.beat():
            if new_session:
                os.setsid()
            if os.fork():
                os._exit(0)

    def comet(self) -> None:
        """Fork and exit, for ever: a pid is gone before it can be signalled."""
        self.fork(lambda: self._comet(new_session=False))
        self.ready()

    def comets(self) -> None:
        """ARGUMENT (50) of them, each hop in a session of its own."""
        for _ in range(int(self.argument or "50")):
            self.fork(lambda: self._comet(new_session=True))
        self.ready()
        self.live()

    def bomb(self) -> None:
        """ARGUMENT (400) processes, and each that dies is replaced."""
        rows = 19
        columns = int(self.argument or MOST_PROCESSES) // rows - 2

        def refill(how_many: int, body: Callable[[], None]) -> None:
            count = 0
            while self.beat():
                while count < how_many:
                    self.fork(body)
                    count += 1
                if count == how_many and how_many == rows:
                    self._once()
                pid, _ = os.waitpid(-1, os.WNOHANG)
                if pid:
                    count -= 1
                else:
                    time.sleep(0.002)

        refill(rows, lambda: refill(columns, self.live))

    _said = False

    def _once(self) -> None:
        if not self._said:
            self._said = True
            self.ready()

    def phoenix(self) -> None:
        """Two processes, each of which creates the other anew."""

        def watch() -> None:
            parent = os.getppid()
            child = 0
            while self.beat():
                if child == 0:
                    child = self.fork(lambda: self._child_of_phoenix(watch))
                try:
                    if os.waitpid(child, os.WNOHANG)[0]:
                        child = 0
                except ChildProcessError:
                    child = 0
                if os.getppid() != parent:
                    parent = os.getppid()
                time.sleep(0.001)

        self.daemon(watch)
        self.ready()

    def _child_of_phoenix(self, watch: Callable[[], None]) -> None:
        parent = os.getppid()
        while self.beat() and os.getppid() == parent:
            time.sleep(0.001)
        watch()

    def headless(self) -> None:
        """The main thread exits, another runs on: the process looks like a zombie and is none."""

        def child() -> None:
            threading.Thread(target=self.live).start()
            self.end_main_thread()

        pid = self.fork(child)
        while _state(pid) != "Z" and self.beat():
            time.sleep(0.001)
        self.ready()
        self.live()

    def headless_comets(self) -> None:
        """Comets whose hops are made by a thread that is not the leader's."""

        def hop() -> None:
            if not self.beat():
                os._exit(0)
            if os.fork():
                os._exit(0)
            threading.Thread(target=hop).start()
            self.end_main_thread()

        for _ in range(10):
            self.fork(hop)
        self.ready()
        self.live()

    def traced(self) -> None:
        """A tracee that its tracer has stopped and will never continue."""
        tracee = self.fork(self.live)
        ptrace = self._libc.ptrace
        null = ctypes.c_void_p(None)
        for request in (_PTRACE_SEIZE, _PTRACE_INTERRUPT):
            if ptrace(ctypes.c_long(request), ctypes.c_int(tracee), null, null) < 0:
                return self.refused(os.strerror(ctypes.get_errno()))
        self.ready()
        self.live()
        return None

    def subreaper(self) -> None:
        """The agent adopts its own orphans, so they do not become ours."""
        self._libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        self.daemon(self.live)
        self.ready()
        self.live()

    def nested(self) -> None:
        """User and pid namespaces of its own inside ours."""
        if self._libc.unshare(_CLONE_NEWUSER | _CLONE_NEWPID | _CLONE_NEWNS) < 0:
            return self.refused(os.strerror(ctypes.get_errno()))

        def init() -> None:
            self.daemon(self.live)
            self.ready()
            self.live()

        self.fork(init)
        self.live()
        return None

    def vfork(self) -> None:
        """A parent that vfork has put to sleep in the kernel until its child execs, which it does not."""
        fifo = f"{self.beat_path}.fifo"
        os.mkfifo(fifo)

        def parent() -> None:
            actions = [(os.POSIX_SPAWN_OPEN, 9, fifo, os.O_RDONLY, 0)]
            os.posix_spawn("/bin/true", ["true"], {}, file_actions=actions)

        def sitter() -> None:
            self.live()
            os.close(os.open(fifo, os.O_RDWR))

        pid = self.fork(parent)
        self.fork(sitter)
        while _state(pid) not in "DS" and self.beat():
            time.sleep(0.001)
        self.ready()
        self.live()

    def stealth(self) -> None:
        """No descriptor, no environment, another name, not to be looked into, nobody's child."""

        def child() -> None:
            argv = command("stealth_child", Path(self.beat_path), str(self.end))
            os.execve(argv[0], ["[kworker/0:1]", *argv[1:]], {})  # noqa: S606 (that is the case)

        self.daemon(child)
        while last_beat(Path(self.beat_path)) == 0:
            time.sleep(0.001)
        self.ready()

    def stealth_child(self) -> None:
        """Part of `stealth`."""
        self.end = float(self.argument)
        self._libc.prctl(_PR_SET_NAME, b"kworker/0:1", 0, 0, 0)
        self._libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
        os.closerange(0, 1024)
        self.live()

    def spinners(self) -> None:
        """ARGUMENT (100) processes that leave the processor to nobody."""
        for _ in range(int(self.argument or "100")):
            self.fork(self.spin)
        self.ready()
        self.spin()

    def large(self) -> None:
        """One process of ARGUMENT (512) MiB: its memory takes time to tear down."""
        size = int(self.argument or "512") << 20
        block = mmap.mmap(-1, size)
        for offset in range(0, size, mmap.PAGESIZE):
            block[offset] = 1
        self.ready()
        self.live()

    def assassin(self) -> None:
        """A daemon that stops, traces and kills the process of pid ARGUMENT, if it can."""
        target = int(self.argument)

        def strike() -> None:
            for number in (signal.SIGSTOP, signal.SIGKILL):
                try:
                    os.kill(target, number)
                except OSError as error:
                    self.ready(f"{number.name}: {error.strerror}")
                else:
                    self.ready(f"{number.name}: sent")
            null = ctypes.c_void_p(None)
            done = self._libc.ptrace(ctypes.c_long(_PTRACE_SEIZE), ctypes.c_int(target), null, null)
            self.ready(f"PTRACE_SEIZE: {'done' if done == 0 else os.strerror(ctypes.get_errno())}")
            self.ready()
            self.live()

        self.daemon(strike)

    def regicide(self) -> None:
        """Kill the parent of orphans, whoever that is: the container's guardian, if it can be reached."""

        def strike() -> None:
            for _ in range(3):
                try:
                    os.kill(os.getppid(), signal.SIGKILL)
                except OSError:
                    break
                time.sleep(0.005)
            self.live()

        self.daemon(strike)
        self.ready()
        self.live()

    def cgroup_escape(self) -> None:
        """Write itself into every cgroup that it may, the siblings' and the root's."""

        def escape() -> None:
            for line in Path("/proc/self/mountinfo").read_text().splitlines():
                left, _, right = line.partition(" - ")
                if right.startswith("cgroup2 "):
                    for folder in (Path(left.split()[4]), *Path(left.split()[4]).glob("*/")):
                        try:
                            (folder / "cgroup.procs").write_text(str(os.getpid()))
                        except OSError:
                            continue
                        break
            self.ready()
            self.live()

        self.daemon(escape)
        self.live()

    def waker(self) -> None:
        """A timer that sends SIGCONT every few milliseconds, to wake itself from a SIGSTOP."""
        event = struct.pack("=qii48x", 0, signal.SIGCONT, 0)
        timer = ctypes.c_void_p()
        made = self._libc.timer_create(_CLOCK_MONOTONIC, ctypes.c_char_p(event), ctypes.byref(timer))
        if made < 0:
            return self.refused(os.strerror(ctypes.get_errno()))
        period = (ctypes.c_long * 4)(0, 5_000_000, 0, 5_000_000)
        self._libc.timer_settime(timer, 0, ctypes.byref(period), None)
        self.ready()
        self.live()
        return None

    def still(self) -> None:
        """No trick at all: what a freeze must stop."""
        self.ready()
        self.live()

    def walls(self) -> None:
        """Every way known to change the protected file ARGUMENT; says how each went."""
        for name, attack in Attacks(Path(self.argument), self._libc).all():
            try:
                attack()
            except OSError as error:
                self.ready(f"{name}: {error.strerror}")
            else:
                self.ready(f"{name}: went through")
        self.ready()
        self.live()

    def flood(self) -> None:
        """Writes faster than anybody reads."""
        self.ready()
        block = b"x" * 65536
        while self.beat():
            os.write(1, block)


class Attacks:
    """On one protected file, in a folder that may be written."""

    def __init__(self, target: Path, libc: ctypes.CDLL) -> None:
        self.target = target
        self.folder = target.parent
        self._libc = libc

    def all(self) -> list[tuple[str, Callable[[], None]]]:
        """In order; the last ones would destroy what the earlier ones need."""
        names = (
            "write truncate chmod symlink hard_link proc_root init_root proc_fd remount unmount "
            "nested_namespace device rename_over exchange temporary_file unlink_and_create "
            "move_folder remove_folder"
        )
        return [(name, getattr(self, name)) for name in names.split()]

    def _strike(self, path: Path) -> None:
        path.write_text("owned")

    def _call(self, result: int) -> None:
        if result < 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))

    def write(self) -> None:
        self._strike(self.target)

    def truncate(self) -> None:
        os.truncate(self.target, 0)

    def chmod(self) -> None:
        self.target.chmod(0o777)

    def symlink(self) -> None:
        link = self.folder / "link"
        link.symlink_to(self.target)
        self._strike(link)

    def hard_link(self) -> None:
        link = self.folder / "hard"
        link.hardlink_to(self.target)
        self._strike(link)

    def proc_root(self) -> None:
        self._strike(Path(f"/proc/self/root{self.target}"))

    def init_root(self) -> None:
        self._strike(Path(f"/proc/1/root{self.target}"))

    def proc_fd(self) -> None:
        fd = os.open(self.target, os.O_RDONLY)
        try:
            self._strike(Path(f"/proc/self/fd/{fd}"))
        finally:
            os.close(fd)

    def remount(self) -> None:
        remount_bind = 0x20 | 0x1000
        self._call(self._libc.mount(b"none", os.fsencode(self.target), None, remount_bind, None))
        self._strike(self.target)

    def unmount(self) -> None:
        detach = 2
        self._call(self._libc.umount2(os.fsencode(self.target), detach))
        self._strike(self.target)

    def nested_namespace(self) -> None:
        reading, writing = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                self._call(self._libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNS))
                for attack in (self.remount, self.unmount, self.write):
                    try:
                        attack()
                        os.write(writing, b"!")
                    except OSError:
                        continue
            finally:
                os._exit(0)
        os.waitpid(pid, 0)
        os.close(writing)
        got = os.read(reading, 3)
        os.close(reading)
        if not got:
            raise PermissionError(1, "no way through there either")

    def device(self) -> None:
        """Only opens the disk below: the point is made without writing to it."""
        node = self.folder / "disk"
        os.mknod(node, 0o600 | stat.S_IFBLK, self.target.stat().st_dev)
        try:
            os.close(os.open(node, os.O_RDWR))
        finally:
            node.unlink()

    def rename_over(self) -> None:
        fresh = self.folder / "fresh"
        self._strike(fresh)
        fresh.rename(self.target)

    def exchange(self) -> None:
        fresh = self.folder / "fresh"
        self._strike(fresh)
        at_cwd, exchange = -100, 2
        paths = os.fsencode(fresh), os.fsencode(self.target)
        self._call(self._libc.renameat2(at_cwd, paths[0], at_cwd, paths[1], exchange))

    def temporary_file(self) -> None:
        fd = os.open(self.folder, os.O_TMPFILE | os.O_RDWR)
        try:
            os.write(fd, b"owned")
            self.target.unlink()
            at_cwd, follow = -100, 0x400
            source = os.fsencode(f"/proc/self/fd/{fd}")
            self._call(self._libc.linkat(at_cwd, source, at_cwd, os.fsencode(self.target), follow))
        finally:
            os.close(fd)

    def unlink_and_create(self) -> None:
        self.target.unlink()
        self._strike(self.target)

    def move_folder(self) -> None:
        self.folder.rename(self.folder.with_name("moved"))
        self.folder.mkdir()
        self._strike(self.target)

    def remove_folder(self) -> None:
        def empty(folder: Path) -> None:
            for path in folder.iterdir():
                if path.is_dir() and not path.is_symlink():
                    empty(path)
                    path.rmdir()
                else:
                    try:
                        path.unlink()
                    except OSError:
                        continue

        empty(self.folder)
        self.folder.rmdir()
        self.folder.mkdir()
        self._strike(self.target)


CASES = (
    "setsid",
    "orphan",
    "deaf",
    "stopped",
    "comet",
    "comets",
    "bomb",
    "phoenix",
    "headless",
    "headless_comets",
    "traced",
    "subreaper",
    "nested",
    "vfork",
    "stealth",
    "spinners",
    "large",
    "regicide",
    "cgroup_escape",
    "waker",
    "flood",
)


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "X"


def main() -> None:
    if len(sys.argv) < 3:
        sys.exit(f"usage: hostile CASE BEAT [ARGUMENT]; cases: {' '.join(CASES)}")
    case, beat, argument = (*sys.argv[1:], "")[:3]
    hostile = Hostile(case, beat, argument, time.monotonic() + SECONDS)
    body = getattr(hostile, case)
    body()


if __name__ == "__main__":
    main()
