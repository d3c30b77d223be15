"""The load of the benchmarks: what does not fit waits in order, what is missing counts as lost."""

from __future__ import annotations

import socket
from pathlib import Path

from benchmarks.many import Stream, _delays

from cms.protocol.framing import LineBuffer
from cms.store.rawlog import RawLog


def test_a_line_that_does_not_fit_is_written_when_there_is_room_again(tmp_path: Path) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, RawLog(tmp_path / "log") as log:
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        stream, buffer, lines = Stream(ours), LineBuffer(), list[bytes]()
        for _ in range(100):
            stream.write()
        assert stream.waiting
        while len(lines) < stream.sent:
            lines += buffer.receive(theirs.recv(1000))
            stream.flush()
        log.extend("out", lines, 2e9)
    delays = _delays(tmp_path / "log", 0)
    assert len(delays) == 100
    assert delays == sorted(delays, reverse=True), "in the order in which they were written"


def test_a_line_that_is_not_in_the_log_is_not_counted(tmp_path: Path) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, RawLog(tmp_path / "log") as log:
        stream = Stream(ours)
        for _ in range(3):
            stream.write()
        first, _, last = theirs.recv(10_000).splitlines()
        log.extend("out", [first, last, last], 2e9)
    assert stream.sent - len(_delays(tmp_path / "log", 0)) == 1
