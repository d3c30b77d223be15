"""`claude` as a pair of streams in a container: lines in, lines out, and the way to its end.

An `AgentProcess` owns one container and the pipes to it. It knows nothing of sessions: what a line means and
when to end are the runner's business. Raw lines go to the log before they are parsed, both ways.

Three tasks of the owner's nursery carry it: `events` (reads stdout), `write_out` (writes stdin, so that a
child that does not read never holds up the reader) and `read_errors` (keeps the tail of stderr).
"""

from __future__ import annotations

import errno
import secrets
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from pathlib import Path
from typing import Literal, Protocol

import trio

from cms.config import Settings
from cms.containment import Container, Mechanism, Spec
from cms.disk import ask_disk
from cms.errors import AgentDied, ContainmentError, ProtocolError, WorkDirError
from cms.live.login import VARIABLE, Login
from cms.protection.protected_paths import NO_PATHS, ProtectedPaths, walled
from cms.protection.scratch import hidden_scratch
from cms.protocol.connection import Answered, Connection
from cms.protocol.messages import Answer, Ask, Event

_READ = 256 * 1024
_STDERR_TAIL = 8 * 1024
#: Lines that wait for a child that does not read its stdin. More means that it never will.
_OUTBOX = 4096


async def check_work_dir(work_dir: str) -> Path:
    """The work dir, if a session can live in it.

    Raises:
        WorkDirError: it is gone, is no directory, or cannot be entered.
        DiskTimeout: it does not answer.
    """
    return await ask_disk(lambda: _usable(work_dir), f"work dir {work_dir}")


def _usable(work_dir: str) -> Path:
    path = Path(work_dir)
    try:
        with_entries = path.is_dir()
        if with_entries:
            next(path.iterdir(), None)
    except OSError as error:
        raise WorkDirError(
            f"work dir {work_dir}: {error.strerror}", hint="choose another with --work-dir"
        ) from error
    if not with_entries:
        what = "is not a directory" if path.exists() else "does not exist"
        raise WorkDirError(f"work dir {work_dir} {what}", hint="create it, or choose another with --work-dir")
    return path


class LineLog(Protocol):
    """Where raw lines go before anybody interprets them (the store's raw log)."""

    def extend(self, direction: Literal["in", "out", "err"], lines: Iterable[bytes], now: float) -> None:
        """Keep these lines. Raises StoreError if they cannot be kept."""


class AgentProcess:
    """One running `claude`.

    Attributes:
        container: what its whole tree lives in.
        connection: the protocol's state.
        started: trio time of the start.
    """

    def __init__(
        self, container: Container, connection: Connection, log: LineLog, now: Callable[[], float]
    ) -> None:
        self.container = container
        self.connection = connection
        self.started = trio.current_time()
        self._log = log
        self._now = now
        self._outbox_in, self._outbox = trio.open_memory_channel[tuple[bytes, bytes]](_OUTBOX)
        self._stderr = b""
        self._answers: dict[str, tuple[trio.Event, list[Answered]]] = {}

    def __repr__(self) -> str:
        return f"<AgentProcess {self.container!r} {self.connection!r}>"

    @classmethod
    async def start(
        cls,
        mechanism: Mechanism,
        settings: Settings,
        *,
        argv: Sequence[str],
        env: dict[str, str],
        work_dir: str,
        log: LineLog,
        label: str,
        now: Callable[[], float],
        child_socket: Path | None = None,
        scratch: Path | None = None,
        configuration: Path | None = None,
        login: Login | None = None,
        terminal: Path | None = None,
        paths: ProtectedPaths = NO_PATHS,
        max_memory: int | None = None,
        max_procs: int | None = None,
    ) -> AgentProcess:
        """Start it in a container of its own.

        Args:
            child_socket: the one socket of ours that it may reach.
            scratch: its scratch folder; it does not see those of others.
            configuration: a folder that it reads and does not write.
            login: its login, where it is not to see the user's own: a folder in `configuration`.
            terminal: what it is on, instead of the streams of a protocol.
            paths: what it must not write, or not even read.

        Raises:
            WorkDirError: the work dir cannot be used.
            ContainmentError: the container could not be made.
        """
        cwd = await check_work_dir(work_dir)
        spec = Spec(
            argv=tuple(argv),
            env=env if login is None else {**env, VARIABLE: str(login.folder)},
            cwd=cwd,
            # Our socket, store and logs. No session works in there: `Children.check_folders`.
            hidden=(settings.home, *hidden_scratch(), *(() if login is None else login.hidden)),
            shown=tuple(folder for folder in (child_socket and child_socket.parent, configuration) if folder),
            own=() if scratch is None else (scratch,),
            max_memory=max_memory,
            max_procs=max_procs,
            label=label,
            umask=settings.umask,
            open_files=settings.open_files,
            sockets=True,
            terminal=terminal,
        )
        try:
            container = await mechanism.start(walled(spec, paths, agent=True))
        except OSError as error:
            long = "put long permission rules in a file: --settings FILE"
            hint = long if error.errno == errno.E2BIG else ""
            raise ContainmentError(f"cannot start {argv[0]}: {error}", hint=hint) from error
        return cls(container, Connection(settings.max_line, secrets.token_bytes(32)), log, now)

    @property
    def pid(self) -> int:
        """The host pid of `claude` itself."""
        return self.container.pid

    @property
    def stderr_tail(self) -> str:
        """The last of what it wrote to stderr."""
        return self._stderr.decode("utf-8", "replace")

    @property
    def last_words(self) -> str:
        """The last line that it wrote beside the protocol, on stderr and on stdout: mostly why it failed."""
        tails = (self.stderr_tail, self.connection.noise_tail)
        return "; ".join(line.strip()[:300] for tail in tails for line in tail.strip().splitlines()[-1:])

    # --- in ---

    async def events(self) -> AsyncGenerator[Event, None]:
        """Every line as an event, until its stdout ends (`Closed` is the last). For one reader.

        Raises:
            LineTooLong: a line passed the limit.
            StoreError: the raw log cannot be written: nothing more is read.
        """
        connection, stdout = self.connection, self.container.stdout
        closed = False
        while not closed:
            try:
                data = await stdout.receive_some(_READ)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                data = b""
            closed = not data
            lines = connection.receive_data(bytes(data))
            if lines:
                self._log.extend("out", lines, self._now())
            while (event := connection.next_event()) is not None:
                if isinstance(event, Answered) and (waiting := self._answers.pop(event.request_id, None)):
                    waiting[1].append(event)
                    waiting[0].set()
                yield event

    async def read_errors(self) -> None:
        """Keep stderr drained, its tail remembered, and all of it in the raw log."""
        stderr = self.container.stderr
        while True:
            try:
                data = await stderr.receive_some(_READ)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                return
            if not data:
                return
            self._stderr = (self._stderr + bytes(data))[-_STDERR_TAIL:]
            self._log.extend("err", (bytes(data),), self._now())

    # --- out ---

    async def write_out(self) -> None:
        """Write what was sent, in order; at the end of it, close stdin."""
        stdin = self.container.stdin
        async with self._outbox:
            try:
                async for data, logged in self._outbox:
                    self._log.extend("in", (logged,), self._now())
                    await stdin.send_all(data)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                pass  # it is gone; the reader will see the end of its stdout
            finally:
                # Closing a pipe does not block; the shield is for trio's checkpoint alone.
                with trio.CancelScope(shield=True):
                    await stdin.aclose()

    def send(self, data: bytes, logged: bytes = b"") -> None:
        """Hand over bytes to be written. `logged`: for the raw log, if not the same.

        Raises:
            ProtocolError: the child has not read its stdin for thousands of lines.
        """
        try:
            self._outbox_in.send_nowait((data, logged or data))
        except trio.WouldBlock:
            raise ProtocolError("claude no longer reads its input") from None
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass

    def close_stdin(self) -> None:
        """End of file for the child, after everything that was sent."""
        self._outbox_in.close()

    def ask(self, ask: Ask) -> str:
        """Send a control request; its answer will come out of `events` under the id returned."""
        request_id, data = self.connection.ask(ask)
        self.send(data)
        return request_id

    async def request(self, ask: Ask) -> Answered:
        """Send a control request and wait for its answer. The time-out is the caller's.

        Raises:
            AgentDied: it ended instead of answering (told by whoever reads `events`, see `abandon`).
        """
        request_id = self.ask(ask)
        waiting = (trio.Event(), list[Answered]())
        self._answers[request_id] = waiting
        try:
            await waiting[0].wait()
        finally:
            if self._answers.pop(request_id, None) is not None:
                self.connection.forget(request_id)
        if not waiting[1]:
            raise AgentDied("before it answered", self.container.returncode, self.stderr_tail)
        return waiting[1][0]

    def abandon(self) -> None:
        """Its stdout has ended: whoever waits in `request` is told so."""
        for event, _answers in self._answers.values():
            event.set()
        self._answers.clear()

    def answer(self, request_id: str, answer: Answer) -> None:
        """Answer a request of claude's, if it still waits for it."""
        if self.connection.owes(request_id):
            self.send(self.connection.answer(request_id, answer))

    def refuse(self, request_id: str, error: str) -> None:
        """Answer a request of claude's that we do not know."""
        if self.connection.owes(request_id):
            self.send(self.connection.refuse(request_id, error))
