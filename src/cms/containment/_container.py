"""A running container: the command's pipes, its end, and the end of everything below it.

`Container` holds what all mechanisms share. A mechanism's own container says three things: how to strike
once, how to know from the kernel that nothing is left, and where to look for members.

What a kill rests on: never on a walk that found nobody, always on an object of the kernel that cannot be
outrun - the pidfd of a namespace's init (readable only when the namespace is empty), `populated 0` of a
cgroup, or the shim's "no child left" as a subreaper.
"""

from __future__ import annotations

import abc
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Literal

import msgspec
import trio

from cms.containment import _mounts, _proc
from cms.containment._cgroup import Leaf
from cms.containment._from_outside import Whereabouts
from cms.containment._model import LimitsHit, LostMount, Member, Proof, Spec, Statistics
from cms.containment._strays import identity
from cms.disk import ask_disk
from cms.errors import DiskTimeout

_FIRST_WAIT = 0.015
_WAIT_FOR_EACH = 0.0005  # a process that is to end; to strike again means to look at all of them again
_LONGEST_WAIT = 0.1
_POLL = 0.001
_FREEZE_ROUNDS = 50
_NEARLY = 2
MARKER = "CMS_CONTAINER"
"""The variable by which a stray process can be told as a container's where nothing better is to be had."""


class Streams:
    """The three pipes of the command, and nothing else's: at EOF of stdout every writer is gone."""

    def __init__(
        self, stdin: trio.abc.SendStream, stdout: trio.abc.ReceiveStream, stderr: trio.abc.ReceiveStream
    ) -> None:
        self.stdin = stdin
        self.stdout = stdout
        self.stderr = stderr


class Control:
    """Our end of the socket to the shim: lines in, lines out, and a lifeline.

    Any number of tasks may wait for news; one of them reads at a time, and when that one is cancelled another
    takes over. What comes in after the command has started is not trusted: an unknown line is ignored.
    """

    _MOST = 4096

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._lock = trio.Lock()
        self._rest = b""
        self.ended = False
        self.exit_status: int | None = None
        self.empty = False
        self.failed: str | None = None
        self.running = False
        self.pids: dict[str, int] = {}

    def send(self, line: str) -> None:
        """Short lines only; a shim that is gone is no error here."""
        try:
            self._socket.send(line.encode() + b"\n")
        except OSError:
            pass

    async def hear(self, until: Callable[[], bool]) -> None:
        """Return when `until()` holds, or when the shim is gone."""
        while not until() and not self.ended:
            async with self._lock:
                if until() or self.ended:
                    break
                await trio.lowlevel.wait_readable(self._socket)
                self._receive()

    def _receive(self) -> None:
        """One message at a time: the kernel does not join those of different senders."""
        try:
            data, ancillary, _, _ = self._socket.recvmsg(self._MOST, 256)
        except BlockingIOError:
            return
        except OSError:
            data, ancillary = b"", []
        if not data:
            self.ended = True
            return
        *lines, self._rest = (self._rest + data).split(b"\n")
        self._rest = self._rest[-self._MOST :]
        sender = _sender(ancillary)
        for line in lines:
            self._understand(line.decode(errors="replace"), sender)

    def _understand(self, line: str, sender: int) -> None:
        word, _, rest = line.partition(" ")
        if word in ("init", "command") and not self.running:
            self.pids.setdefault(word, sender or int(rest))
        elif word == "failed" and not self.running:
            self.failed = rest
        elif word == "running":
            self.running = True
        elif word == "empty":
            self.empty = True
        elif word == "exit" and self.exit_status is None and rest.isdigit():
            self.exit_status = os.waitstatus_to_exitcode(int(rest))

    def close(self) -> None:
        """Ends the lifeline: a shim that is still there ends its tree."""
        if self._socket.fileno() >= 0:
            trio.lowlevel.notify_closing(self._socket)
            self._socket.close()
        self.ended = True


class Container(abc.ABC):
    """One process tree, from its command down.

    Attributes:
        spec: what was asked for.
        mechanism: the name of what holds it.
        pid: the host pid of the command itself.
        stdin, stdout, stderr: the command's pipes. Closing them is the owner's business; `aclose` does it.
    """

    _is_namespace = False

    def __init__(
        self,
        *,
        spec: Spec,
        mechanism: str,
        child: subprocess.Popen[bytes],
        control: Control,
        streams: Streams,
        leaf: Leaf | None,
        plan: _mounts.Plan,
    ) -> None:
        self.spec = spec
        self.mechanism = mechanism
        self.pid = control.pids["command"]
        self.stdin = streams.stdin
        self.stdout = streams.stdout
        self.stderr = streams.stderr
        self._child = child
        self._control = control
        self._leaf = leaf
        self._plan = plan
        self._shim = control.pids["init"]
        self._hold()
        self._end_lock = trio.Lock()
        self._proof: Proof | None = None
        self._returncode: int | None = None
        self._frozen = False
        self._limits = LimitsHit()
        self._full = False
        self._closed = False

    def __repr__(self) -> str:
        if self._proof is not None:
            state = "empty" if self._proof.empty else "unkilled"
        else:
            state = "frozen" if self._frozen else "open"
        return f"<Container {self.spec.label or self.spec.argv[0]!r} {self.mechanism} pid={self.pid} {state}>"

    # --- the command --------------------------------------------------------------------------------

    @property
    def returncode(self) -> int | None:
        """The command's exit status, negative for a signal; None while it runs (or nobody has asked yet)."""
        return self._returncode

    async def wait(self) -> int:
        """Wait for the command itself; its descendants may live on. Any number of tasks may wait.

        Returns:
            Its exit status, or the negative number of the signal that ended it. If the container was struck
            down before the status could be told, that is -SIGKILL.
        """
        await trio.lowlevel.checkpoint()
        if self._returncode is None:
            await self._control.hear(lambda: self._control.exit_status is not None)
            status = self._control.exit_status
            self._returncode = -signal.SIGKILL if status is None else status
        return self._returncode

    def terminate(self) -> None:
        """SIGTERM to the command, if it is still there. Never to a process that got its pid later."""
        if not self._closed:
            self._terminate()

    # --- the tree -----------------------------------------------------------------------------------

    def whereabouts(self) -> Whereabouts:
        """Where its processes are, for whoever must end them without us (`end_tree`)."""
        root = _proc.member_of(_proc.read_stat(self._shim))
        return Whereabouts(
            mechanism=self.mechanism,
            root="0@0@" if root is None else identity(root),
            namespace=self._is_namespace,
            leaf="" if self._leaf is None else str(self._leaf.path),
            marker="" if self._is_namespace else self._marker().decode(),
        )

    async def members(self) -> tuple[Member, ...]:
        """Everything alive in the container just now, ours (bwrap, the shim) not counted."""
        await trio.lowlevel.checkpoint()
        return self._members()

    def statistics(self) -> Statistics:
        """Reads /proc for each member: some 50 microseconds a process."""
        members = self._members()
        return Statistics(
            processes=len(members),
            rss=sum(member.rss for member in members),
            memory=self._leaf.memory() if self._leaf else None,
            frozen=self._frozen,
            threads=sum(member.threads for member in members),
        )

    def limits_hit(self) -> LimitsHit:
        """How often the kernel refused memory or a fork; still right after `kill`."""
        if self._leaf is not None and self._leaf.path.exists():
            self._limits = self._leaf.limits_hit()
        return msgspec.structs.replace(self._limits, full=self._full)

    async def watch_limits(self, *, every: float = 0.5) -> Literal["memory", "processes"]:
        """Return when the tree has passed a cap of its spec; else never. What to do then is up to the caller.

        Where the kernel holds the tree to a cap it cannot be passed, and this only costs a look at /proc each
        time; where it does not, this is all there is. Shared pages count for each process that has them.

        Args:
            every: seconds between two looks.
        """
        memory, processes = self.spec.max_memory, self.spec.max_procs
        if memory is None and processes is None:
            await trio.sleep_forever()
        while True:
            now = self.statistics()
            if memory is not None and (now.memory or now.rss + await self._copied()) > memory:
                return "memory"
            if processes is not None:
                if now.processes > processes:
                    return "processes"
                self._full = self._full or now.threads >= max(processes - _NEARLY, 1)
            await trio.sleep(every)

    async def _copied(self) -> int:
        """Bytes of what the tree has written as copies, which are in memory."""
        in_one = self.mechanism.startswith("bwrap")
        with suppress(DiskTimeout):
            return await ask_disk(
                lambda: _mounts.bytes_in_copies(self._plan, self.pid, in_one=in_one), "copies"
            )
        return 0

    @property
    def unenforced(self) -> tuple[LostMount, ...]:
        """The protected and hidden paths that this container cannot hold, and why: for the verdict."""
        return self._plan.unenforced

    @property
    def sandboxed(self) -> bool:
        """Whether the tree writes only where its spec lets it."""
        return self._plan.sandbox

    async def verify_mounts(self) -> tuple[LostMount, ...]:
        """Look again at what protects the paths: a rename from outside (an editor's save) drops a bind.

        Returns:
            Each path whose protection is lost, or that was created since though it had to stay missing.
        """
        await trio.lowlevel.checkpoint()
        if self._proof is not None and self._proof.empty:
            return ()
        return (*_mounts.verify(self._plan, self._shim), *await _mounts.find_created(self._plan))

    @contextmanager
    def watch_mounts(self) -> Iterator[Callable[[], Awaitable[None]]]:
        """For the length of the block a function that returns when the mounts of the tree have changed.

        Where the kernel does not tell it never returns, so put a time-out around it. mountinfo itself can
        always be read, so that nobody can wait for it; what the kernel adds when it changes (EPOLLPRI) wakes
        an epoll of its own, and that can be waited for.
        """
        try:
            info = os.open(f"/proc/{self._shim}/mountinfo", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            yield trio.sleep_forever
            return
        try:
            with select.epoll() as watch:
                watch.register(info, select.EPOLLPRI)

                async def changed() -> None:
                    # To begin to wait takes the word away that came before: so that is asked for first.
                    if not watch.poll(0):
                        await trio.lowlevel.wait_readable(watch.fileno())

                yield changed
        finally:
            # Who lets go of the tree's mounts last waits for the kernel to take them down: a hundred take
            # milliseconds, in which no other session would be heard.
            trio.lowlevel.start_thread_soon(lambda: os.close(info), lambda _: None)

    async def freeze(self) -> None:
        """Stop every process of the tree. Returns when none runs any more (with a cgroup: proved).

        Raises:
            trio.TooSlowError: never of itself; put a time-out around it.
        """
        await trio.lowlevel.checkpoint()
        if self._closed:
            return
        self._frozen = True
        if self._leaf is not None:
            self._leaf.freeze(True)
            await until(self._leaf.is_frozen)
        await self._stop_each()

    async def thaw(self) -> None:
        """Let a frozen tree run on."""
        await trio.lowlevel.checkpoint()
        if self._closed:
            return
        for member in reversed(self._members()):
            if member.state == "T":
                self._signal(member, signal.SIGCONT)
        if self._leaf is not None:
            self._leaf.freeze(False)
        self._frozen = False

    async def _stop_each(self) -> None:
        """SIGSTOP to whatever the cgroup does not hold, until a look finds none that runs.

        Weak on its own: a timer set before can wake a process up again, and a fork loop can stay ahead.
        """
        inside = set(self._leaf.procs()) if self._leaf is not None else set()
        for _ in range(_FREEZE_ROUNDS):
            running = [m for m in self._members() if m.pid not in inside and m.state not in "TtZ"]
            if not running:
                return
            for member in running:
                self._signal(member, signal.SIGSTOP)
            await trio.sleep(_POLL)

    async def kill(self, *, deadline: float) -> Proof:
        """End every process of the tree and prove it.

        Shielded against cancellation, for it is the last door; it takes at most about `deadline`. May be
        called twice, at once by several tasks, and after the command has ended (its daemons may live on).

        Args:
            deadline: seconds from now after which to give up and say `empty=False`.
        """
        with trio.CancelScope(shield=True):
            async with self._end_lock:
                if self._proof is None or not self._proof.empty:
                    self._proof = await self._kill(deadline)
                return self._proof
        raise AssertionError("nobody cancels this scope")

    async def _kill(self, deadline: float) -> Proof:
        begun = trio.current_time()
        if self._leaf is not None:
            # To look at hundreds of processes takes a while, in which they shall do no more.
            try:
                self._leaf.freeze(True)
            except OSError:
                pass  # it is struck all the same
        alive = self._members()
        self.limits_hit()
        how: list[str] = []
        rounds = 0
        wait = _FIRST_WAIT + _WAIT_FOR_EACH * len(alive)
        empty = False
        give_up = trio.current_time() + deadline
        while not empty:
            left = give_up - trio.current_time()
            if rounds and left <= 0:
                break
            rounds += 1
            self._strike(rounds, how)
            with trio.move_on_after(max(_POLL, min(wait, left))):
                empty = await self._wait_empty()
            wait = min(wait * 2, _LONGEST_WAIT)
        seconds = trio.current_time() - begun
        if empty:
            how.append(self._evidence())
            await self._dismiss()
        return Proof(
            mechanism=self.mechanism,
            alive=alive,
            rounds=rounds,
            seconds=seconds,
            empty=empty,
            left=() if empty else self._members(),
            how=tuple(dict.fromkeys(how)),
        )

    async def _dismiss(self) -> None:
        """The tree is proved empty: collect our own helpers, and read what the shim still had to say."""
        await self._reap()
        await self._control.hear(lambda: False)
        if self._returncode is None:
            status = self._control.exit_status
            self._returncode = -signal.SIGKILL if status is None else status
        self._control.close()
        if self._leaf is not None:
            self._leaf.remove()
        _mounts.remove_placeholders(self._plan)
        self._closed = True
        self._let_go()

    async def aclose(self, *, deadline: float = 5.0) -> None:
        """`kill`, then close the pipes."""
        await self.kill(deadline=deadline)
        with trio.CancelScope(shield=True):
            for stream in (self.stdin, self.stdout, self.stderr):
                await stream.aclose()

    async def __aenter__(self) -> Container:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    # --- how a process is held, so that no signal goes to a stranger ---------------------------------

    def _hold(self) -> None:
        """Called while all three are known to be there: the command still waits for leave to exec."""
        self._command_fd = os.pidfd_open(self.pid)
        self._shim_fd = os.pidfd_open(self._shim)
        self._child_fd = os.pidfd_open(self._child.pid)

    def _let_go(self) -> None:
        for fd in (self._command_fd, self._shim_fd, self._child_fd):
            os.close(fd)

    def _terminate(self) -> None:
        _proc.send(self._command_fd, signal.SIGTERM)

    def _signal(self, member: Member, number: signal.Signals) -> None:
        """A member that changed its user may be beyond us; the proof will say that it is left."""
        try:
            _proc.signal_member(member, number)
        except PermissionError:
            pass

    async def _reap(self) -> None:
        """Collect our direct child (bwrap, or the shim), which has nothing left to do."""
        _proc.send(self._child_fd, signal.SIGKILL)
        await trio.lowlevel.wait_readable(self._child_fd)
        self._child.wait()

    # --- what a mechanism says ----------------------------------------------------------------------

    @abc.abstractmethod
    def _strike(self, rounds: int, how: list[str]) -> None:
        """Send what kills, once; note in `how` what it was."""

    @abc.abstractmethod
    async def _wait_empty(self) -> bool:
        """Return when the kernel says that nobody is left; may be cancelled."""

    @abc.abstractmethod
    def _evidence(self) -> str:
        """What the proof rests on, in words."""

    def _marker(self) -> bytes:
        return f"{MARKER}={self._plan.token}".encode()

    def _members(self) -> tuple[Member, ...]:
        if self._closed:
            return ()
        found = _proc.tree(self._shim)
        if _proc.has_ended(self._shim_fd):
            found = {}  # its pid may have been somebody else's for a while
        if self._leaf is not None:
            for pid in self._leaf.procs():
                if pid not in found and (stat := _proc.read_stat(pid)) is not None:
                    found[pid] = stat
        members = map(_proc.member_of, found.values())
        return tuple(member for member in members if member is not None)

    async def _wait_leaf_empty(self) -> None:
        if self._leaf is not None:
            leaf = self._leaf
            await until(lambda: not leaf.populated())

    def _strike_leaf(self, rounds: int, how: list[str]) -> None:
        if self._leaf is not None:
            self._leaf.kill()
            if rounds > 1:
                self._leaf.kill_each()
            how.append("cgroup.kill")


class NamespaceContainer(Container):
    """In a pid namespace of its own: killing its init makes the kernel kill all, and wait for all."""

    _is_namespace = True

    def _strike(self, rounds: int, how: list[str]) -> None:
        self._strike_leaf(rounds, how)
        _proc.send(self._shim_fd, signal.SIGKILL)
        how.append("SIGKILL to the namespace's init")
        if rounds > 1:
            for member in self._members():
                self._signal(member, signal.SIGKILL)
            how.append("SIGKILL to each member")

    async def _wait_empty(self) -> bool:
        # The kernel lets an init end only when it has reaped everybody in its namespace.
        await trio.lowlevel.wait_readable(self._shim_fd)
        await self._wait_leaf_empty()
        return True

    def _evidence(self) -> str:
        leaf = ", its cgroup is not populated" if self._leaf is not None else ""
        return f"the namespace's init has ended{leaf}"


class GuardContainer(Container):
    """Without namespaces: the shim is a subreaper, kills its children until it has none, and says so."""

    def _strike(self, rounds: int, how: list[str]) -> None:
        self._strike_leaf(rounds, how)
        if not self._control.ended:
            # Each time: a command that still waits for leave to exec takes the first one for a refusal.
            self._control.send("kill")
            how.append("SIGKILL to the guardian's children until it had none")
        if self._control.ended or rounds > 1:
            for member in self._members():
                self._signal(member, signal.SIGKILL)
            how.append("SIGKILL to each member found by walking")

    async def _wait_empty(self) -> bool:
        await self._control.hear(lambda: self._control.empty)
        await self._wait_leaf_empty()
        if not self._control.empty:
            # Somebody killed the guardian: only a walk is left to go by.
            await until(lambda: not self._members())
        return True

    def _evidence(self) -> str:
        leaf = ", its cgroup is not populated" if self._leaf is not None else ""
        if self._control.empty:
            return f"the guardian has no descendant left{leaf}"
        return f"the guardian was killed; a walk over all processes found no member{leaf}"

    def _members(self) -> tuple[Member, ...]:
        found = {member.pid: member for member in super()._members()}
        if self._control.ended and not self._closed:
            marker = self._marker()
            for stat in _proc.all_stats():
                if stat.pid not in found and stat.alive and _proc.has_in_environment(stat.pid, marker):
                    for each in (stat, *_proc.tree(stat.pid).values()):
                        member = _proc.member_of(each)
                        if member is not None:
                            found[each.pid] = member
        return tuple(found.values())


async def until(condition: Callable[[], bool]) -> None:
    """Look again each millisecond, for what is asked here wakes nobody (cgroup.events: EPOLLPRI only)."""
    while not condition():  # noqa: ASYNC110 (there is no event to wait for)
        await trio.sleep(_POLL)


def _sender(ancillary: list[tuple[int, int, bytes]]) -> int:
    """The pid that the kernel vouches for, as this process counts; 0 where it does not (no Linux)."""
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == getattr(socket, "SCM_CREDENTIALS", -1):
            return int.from_bytes(data[:4], sys.byteorder)
    return 0
