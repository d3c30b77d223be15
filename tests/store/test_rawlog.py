"""The raw log gives back each byte, and knows what is torn."""

from __future__ import annotations

import re
import stat
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cms.errors import StoreError
from cms.session.transcript import Direction
from cms.store.rawlog import RawLog, raw_log_path, read_entries
from store.reading import read_lines

directions: list[Direction] = ["in", "out", "err", "note"]
written = st.lists(
    st.tuples(
        st.sampled_from(directions), st.binary(max_size=40).map(lambda line: line.replace(b"\n", b"\r"))
    ),
    max_size=20,
)


@given(written)
def test_each_line_comes_back_as_it_was(lines: list[tuple[Direction, bytes]]) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "a.log"
        with RawLog(path) as log:
            for number, (direction, line) in enumerate(lines):
                log.append(direction, line, float(number))
            assert log.size == path.stat().st_size
        entries = list(read_entries(path))
        assert [(entry.direction, entry.line) for entry in entries] == lines
        assert [entry.at for entry in entries] == list(range(len(lines)))
        for direction in directions:
            assert list(read_lines(path, direction)) == [line for d, line in lines if d == direction]


@given(written, st.data())
def test_cut_anywhere_the_whole_records_before_are_read(
    lines: list[tuple[Direction, bytes]], data: st.DataObject
) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "a.log"
        with RawLog(path) as log:
            for direction, line in lines:
                log.append(direction, line, 1.0)
        ends = [entry.end for entry in read_entries(path)]
        cut = data.draw(st.integers(0, path.stat().st_size))
        with path.open("r+b") as file:
            file.truncate(cut)
        whole = sum(end <= cut for end in ends)
        assert [(e.direction, e.line) for e in read_entries(path)] == lines[:whole]
        # The next writer starts a line of its own, which also ends a record that lacked its line feed alone.
        whole = sum(end - 1 <= cut for end in ends)
        with RawLog(path) as log:
            log.append("note", b"back", 2.0)
        assert [(e.direction, e.line) for e in read_entries(path)] == [*lines[:whole], ("note", b"back")]


def test_following(tmp_path: Path) -> None:
    path = raw_log_path(tmp_path / "raw", "id")
    assert list(read_entries(path)) == []
    with RawLog(path) as log:
        log.extend("out", [b"a\n", b"b"], 1.0)
        entries = list(read_entries(path))
        assert [entry.line for entry in entries] == [b"a", b"b"]
        end = entries[-1].end
        assert list(read_entries(path, end)) == []
        with path.open("ab") as file:
            file.write(b"2.0 out 4 ab")
        assert list(read_entries(path, end)) == []
        with path.open("ab") as file:
            file.write(b"cd\n")
        assert [entry.line for entry in read_entries(path, end)] == [b"abcd"]


def test_lines_within_a_line_are_lines(tmp_path: Path) -> None:
    with RawLog(tmp_path / "a.log") as log:
        log.append("err", b"Traceback:\n  here\n", 1.0)
        log.extend("out", [], 1.0)
    assert list(read_lines(tmp_path / "a.log", "err")) == [b"Traceback:", b"  here"]


def test_many_lines_at_once(tmp_path: Path) -> None:
    lines = [b"%d" % number for number in range(5000)]
    with RawLog(tmp_path / "a.log") as log:
        log.extend("out", lines, 1.0)
    assert list(read_lines(tmp_path / "a.log", "out")) == lines


def test_only_the_user_may_read(tmp_path: Path) -> None:
    path = tmp_path / "raw" / "a.log"
    RawLog(path).close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_a_write_that_fails_halfway_leaves_nothing(
    tmp_path: Path, file_size_limit: Callable[[int], AbstractContextManager[None]]
) -> None:
    path = tmp_path / "a.log"
    with RawLog(path) as log:
        log.append("out", b"first", 1.0)
        size = log.size
        with file_size_limit(size + 1000), pytest.raises(StoreError, match="File too large"):
            log.append("out", b"x" * 5000, 1.0)
        assert log.size == size == path.stat().st_size
        log.append("out", b"third", 1.0)
    assert list(read_lines(path, "out")) == [b"first", b"third"]


def test_at_its_cap_it_says_so_and_takes_nothing_more(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    with RawLog(path, 1000) as log:
        log.extend("out", [b"first", b"second"], 1.0)
        log.extend("out", [b"small", b"x" * 2000], 2.0)
        assert log.full
        log.append("out", b"small enough", 3.0)
        log.append("err", b"a\nb", 4.0)
    entries = list(read_entries(path))
    assert [entry.line for entry in entries if entry.direction != "note"] == [b"first", b"second"]
    (full, left_out) = [entry.line for entry in entries if entry.direction == "note"]
    assert full == b"full: this log has reached its cap of 1000 bytes"
    assert re.fullmatch(rb"full: 5 lines \(2\d\d\d bytes\) were left out", left_out)
    assert path.stat().st_size < 1000
    with RawLog(path, 1000) as log:
        assert log.full, "the next process's lines would leave a gap that nobody sees"
        log.append("out", b"third", 5.0)
    assert list(read_lines(path, "out")) == [b"first", b"second"]


def test_what_claude_writes_does_not_make_it_full(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    said = b"1.000000 note 8 full: x"
    with RawLog(path) as log:
        log.append("out", b"x" * (512 - len(said) - 1) + said, 1.0)
        log.append("out", b"x" * 5000 + said, 1.0)
        log.append("out", said, 1.0)
    with RawLog(path) as log:
        assert not log.full


def test_a_full_disk(small_disk: Path) -> None:
    path = small_disk / "a.log"
    kept: list[bytes] = []

    def fill(log: RawLog) -> None:
        for number in range(100):
            line = b"%d " % number + b"x" * 50_000
            log.append("out", line, 1.0)
            kept.append(line)

    with RawLog(path) as log:
        with pytest.raises(StoreError, match=r"no space left.*free some disk space"):
            fill(log)
        assert log.size == path.stat().st_size
    assert len(kept) > 10
    assert list(read_lines(path, "out")) == kept


def test_what_cannot_be_opened_or_is_closed(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="directory"):
        RawLog(tmp_path)
    with pytest.raises(StoreError, match="directory"):
        list(read_entries(tmp_path))
    log = RawLog(tmp_path / "a.log")
    log.close()
    log.close()
    with pytest.raises(StoreError, match="closed"):
        log.append("out", b"x", 1.0)
