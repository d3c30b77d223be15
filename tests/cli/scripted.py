"""A daemon that answers from a script: a thread with a Unix socket that speaks `cms.rpc.wire`.

Each method has a function from the raw params to a result, a `CmsError` to be raised at the other end, or
None: no answer before a `cancel` comes. What was asked is kept in `received`.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import msgspec

from cms.errors import CmsError
from cms.rpc.daemon import HelloResult
from cms.rpc.verbs import all_verbs
from cms.rpc.wire import (
    PROTOCOL,
    SERVER_ERROR,
    Accepted,
    ProgressNote,
    Request,
    Response,
    RpcError,
    error_data,
    notification,
)
from cms.session.model import Progress, Record

Answer = Record | CmsError | None
Script = Mapping[str, Callable[[Record], Answer]]

VERBS = all_verbs()
#: The pid of a daemon whose process is gone already: above every pid that Linux gives.
GONE = 2**22 + 1


class ScriptedDaemon:
    """Made by `serve`."""

    def __init__(
        self, script: Script, *, cancelled: Answer, progress: tuple[Progress, ...], accepted: str
    ) -> None:
        self.script = dict(script)
        self.cancelled = cancelled
        self.progress = progress
        self.accepted = accepted
        self.received: list[Record] = []
        self.waiting = threading.Event()  # a request is held back until it is cancelled

    def of(self, kind: type[Record]) -> list[Record]:
        return [params for params in self.received if isinstance(params, kind)]

    def _converse(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rwb") as stream:
            held = 0
            for line in stream:
                request = msgspec.json.decode(line, type=Request)
                if request.method == "cancel":
                    assert self.cancelled is not None
                    self._answer(stream.write, held, self.cancelled)
                    stream.flush()
                    held = 0
                    continue
                assert request.id is not None
                params = msgspec.json.decode(request.params, type=VERBS[request.method].params)
                if request.method == "hello":
                    answer: Answer = HelloResult("test", PROTOCOL, GONE, "/home")
                else:
                    self.received.append(params)
                    if self.accepted:
                        stream.write(
                            notification("accepted", Accepted(request.id, "id", self.accepted, "name"))
                        )
                    for progress in self.progress:
                        note = msgspec.json.encode(ProgressNote(request.id, progress))
                        stream.write(msgspec.json.encode(Request("progress", msgspec.Raw(note))) + b"\n")
                    answer = self.script[request.method](params)
                if answer is None:
                    held = request.id
                    stream.flush()
                    self.waiting.set()
                    continue
                self._answer(stream.write, request.id, answer)
                stream.flush()
                if request.method == "daemon.stop":
                    return  # as a daemon that leaves
                held = 0
            if held and self.cancelled is not None:  # it says no more, which is the other way to cancel
                self._answer(stream.write, held, self.cancelled)

    @staticmethod
    def _answer(write: Callable[[bytes], object], request_id: int, answer: Record | CmsError) -> None:
        if isinstance(answer, CmsError):
            error = RpcError(SERVER_ERROR, answer.message, error_data(answer))
            response = Response(request_id, error=error)
        else:
            raw = msgspec.Raw(msgspec.json.encode(answer))
            response = Response(request_id, result=raw, kind=type(answer).__name__)
        write(msgspec.json.encode(response) + b"\n")


@contextmanager
def serve(
    home: Path,
    script: Script,
    *,
    cancelled: Answer = None,
    progress: tuple[Progress, ...] = (),
    accepted: str = "",
) -> Iterator[ScriptedDaemon]:
    """A daemon for this home, until the block ends.

    Args:
        cancelled: what it answers to a `cancel`.
        progress: what it tells of each request.
        accepted: the message that it says to have accepted before that; "": it says nothing.
    """
    daemon = ScriptedDaemon(script, cancelled=cancelled, progress=progress, accepted=accepted)
    home.mkdir(mode=0o700, exist_ok=True)
    path = home / "daemon.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        threads: list[threading.Thread] = []

        def accept() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                thread = threading.Thread(target=_survive, args=(daemon._converse, connection))
                thread.start()
                threads.append(thread)

        acceptor = threading.Thread(target=accept)
        acceptor.start()
        try:
            yield daemon
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            acceptor.join()
            for thread in threads:
                thread.join()
            path.unlink()


def _survive(converse: Callable[[socket.socket], None], connection: socket.socket) -> None:
    try:
        converse(connection)
    except (BrokenPipeError, ConnectionResetError, ValueError):
        pass  # the client left in the middle, which is one of the things under test
