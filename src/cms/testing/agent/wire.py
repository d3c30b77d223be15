"""Lines in and out of the simulated agent, and its questions to the host."""

from __future__ import annotations

import os
import select
import threading
import time
from collections.abc import Iterator
from typing import Final

import msgspec

Line = dict[str, object]

_RECEIVE: Final = 65536


class NotJSON(Exception):
    """A line of stdin is not a JSON object; the real one exits with 1 on it."""


def new_uuid() -> str:
    """A random UUID (version 4), without the import that the standard one costs."""
    raw = bytearray(os.urandom(16))
    raw[6], raw[8] = raw[6] & 0x0F | 0x40, raw[8] & 0x3F | 0x80
    text = raw.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def timestamp() -> str:
    now = time.time()
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)) + f".{int(now * 1000) % 1000:03}Z"


class Wire:
    """Both directions. `write` and `ask` may be called from any thread, `lines` from one."""

    def __init__(self, receive_fd: int = 0, send_fd: int = 1) -> None:
        self._receive_fd = receive_fd
        self._send_fd = send_fd
        self._sending = threading.Lock()
        self._questions: dict[str, Question] = {}
        self._closed = False

    def write(self, line: Line) -> None:
        """One line, whole."""
        self.write_raw(msgspec.json.encode(line) + b"\n")

    def write_raw(self, data: bytes) -> None:
        """These bytes, whatever they are; the process ends if nobody is left to read, like the real one."""
        view = memoryview(data)
        with self._sending:
            try:
                while view:
                    view = view[os.write(self._send_fd, view) :]
            except BrokenPipeError:
                os._exit(1)

    def lines(self, wakeup_fd: int) -> Iterator[Line]:
        """What the host says, until it closes.

        Args:
            wakeup_fd: readable when a signal has come. One that comes just before a plain read would not
                interrupt it, and its handler would not run until the host says something.

        Raises:
            NotJSON: a line is not a JSON object.
        """
        poller = select.poll()
        for fd in (self._receive_fd, wakeup_fd):
            poller.register(fd, select.POLLIN)
        held = b""
        while data := self._receive(poller, wakeup_fd):
            *whole, held = (held + data).split(b"\n")
            for raw in whole:
                if raw.strip():
                    yield _decode(raw)
        if held.strip():
            yield _decode(held)

    def _receive(self, poller: select.poll, wakeup_fd: int) -> bytes:
        while True:
            ready = [fd for fd, _ in poller.poll()]
            if wakeup_fd in ready:
                os.read(wakeup_fd, _RECEIVE)  # the handler runs before the next line of this
            if self._receive_fd in ready:
                return os.read(self._receive_fd, _RECEIVE)

    def ask(self, request: Line) -> Question:
        """A control request to the host; its answer is to be waited for with `Question.wait`."""
        question = Question(new_uuid(), request)
        self._questions[question.id] = question
        if self._closed:
            question.settle(None)
        self.write({"type": "control_request", "request_id": question.id, "request": request})
        return question

    def answered(self, response: Line) -> None:
        """The host's `control_response`; an answer to nothing is ignored."""
        question = self._questions.pop(str(response.get("request_id")), None)
        if question is not None:
            question.settle(response)

    def withdraw(self, question: Question) -> None:
        """Its answer is not waited for any longer."""
        self._questions.pop(question.id, None)
        self.write({"type": "control_cancel_request", "request_id": question.id})

    def close_questions(self) -> None:
        """Nobody is there any more to answer: all that is asked, and will be, gets None."""
        self._closed = True
        for question in list(self._questions.values()):
            question.settle(None)


class Question:
    """A control request under way."""

    def __init__(self, id_: str, request: Line) -> None:
        self.id = id_
        self.request = request
        self.response: Line | None = None
        self._settled = threading.Event()

    def settle(self, response: Line | None) -> None:
        self.response = response
        self._settled.set()

    def wait(self, seconds: float | None = None) -> bool:
        """Until answered, or until it is certain that no answer comes; False when the time ran out."""
        return self._settled.wait(seconds)


def _decode(raw: bytes) -> Line:
    try:
        return msgspec.json.decode(raw, type=Line)
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise NotJSON(f"Error parsing streaming input line ({len(raw)} chars): {exc}") from exc
