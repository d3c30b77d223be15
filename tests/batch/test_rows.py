"""Tables: every format gives the same rows, every mistake its line, and each wish takes what it says."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cms.batch.rows import (
    BadTable,
    Row,
    Selection,
    TableFormat,
    parse_filter,
    parse_slice,
    read_rows,
    table_format,
)
from cms.units import BadValue

CSV = b'\xef\xbb\xbfid,title,n\n1,"a, b",3\n2,"two\nlines",x\n\n3,,7\n'


def read(kind: TableFormat, data: bytes) -> list[Row]:
    return list(read_rows(kind, data.splitlines(keepends=True)))


def test_csv_and_json_lines_give_the_same_rows() -> None:
    rows = read("csv", CSV)
    assert rows == [
        Row(1, 2, {"id": "1", "title": "a, b", "n": "3"}),
        Row(2, 3, {"id": "2", "title": "two\nlines", "n": "x"}),
        Row(3, 6, {"id": "3", "title": "", "n": "7"}),
    ]
    lines = b'{"id": "1", "title": "a, b", "n": 3}\n\n{"id": 2, "title": null, "n": ["x", true]}\n'
    assert read("jsonl", lines) == [
        Row(1, 1, {"id": "1", "title": "a, b", "n": "3"}),
        Row(2, 3, {"id": "2", "title": "", "n": '["x",true]'}),
    ]
    assert read("tsv", b"a\tb\n1\t2,3\n") == [Row(1, 2, {"a": "1", "b": "2,3"})]


@pytest.mark.parametrize(
    ("kind", "data", "line", "message"),
    [
        ("csv", b"", 1, "no header line"),
        ("csv", b"a,b,a\n1,2,3\n", 1, "names the field 'a' twice"),
        ("csv", b"a,,c\n1,2,3\n", 1, "a field without a name"),
        ("csv", b"a,b\n1,2\n1,2,3\n", 3, "3 values for 2 fields"),
        ("csv", b'a,b\n1,"2\n', 2, "not CSV"),
        ("csv", b"a,b\n1,\xff\n", 2, "not valid UTF-8"),
        ("jsonl", b'{"a": 1}\n[1]\n', 2, "a row must be an object"),
        ("jsonl", b'{"a": 1}\n{"a": \n', 2, "not JSON"),
    ],
)
def test_what_is_wrong_is_told_with_its_line(kind: TableFormat, data: bytes, line: int, message: str) -> None:
    with pytest.raises(BadTable, match=message) as told:
        read(kind, data)
    assert told.value.line == line


def test_a_name_that_says_no_format_is_refused_with_those_that_are_read() -> None:
    assert table_format("a/b.CSV") == table_format("-") == "csv"
    with pytest.raises(BadTable) as told:
        table_format("a.xlsx")
    assert ".parquet" in told.value.hint


@pytest.mark.parametrize(
    ("text", "taken"),
    [
        ("id=2", [2]),
        ("id!=2", [1, 3]),
        ("title~^a", [1]),
        ("title!~a", [2, 3]),
        ("n<5", [1]),
        ("n>=3", [1, 3]),
        ("n > 6.5", [3]),
        ("title=", [3]),
        ("title=a, b", [1]),
    ],
)
def test_filters(text: str, taken: list[int]) -> None:
    assert [row.number for row in Selection((text,)).taken(read("csv", CSV))] == taken


@pytest.mark.parametrize("text", ["", "id", "=3", "n<many", "title~(", "__import__('os')"])
def test_what_is_no_filter_is_refused(text: str) -> None:
    with pytest.raises(BadValue):
        parse_filter(text)


def test_a_filter_on_a_field_that_is_not_there_is_an_error_and_not_an_empty_table() -> None:
    with pytest.raises(BadTable, match="'titel'") as told:
        list(Selection(("titel=x",)).taken(read("csv", CSV)))
    assert told.value.hint == "did you mean 'title'?"


@given(
    st.integers(0, 12),
    st.one_of(st.none(), st.integers(0, 3)),
    st.one_of(st.none(), st.tuples(st.none() | st.integers(-15, 15), st.none() | st.integers(-15, 15))),
    st.one_of(st.none(), st.integers(1, 15)),
)
def test_which_rows_are_taken_is_what_lists_do(
    count: int, seed: int | None, piece: tuple[int | None, int | None] | None, limit: int | None
) -> None:
    rows = [Row(number, number + 1, {"n": str(number)}) for number in range(1, count + 1)]
    expected = [row for row in rows if row.number != 3]
    if seed is not None:
        random.Random(seed).shuffle(expected)  # noqa: S311 - a test's luck
    text = ""
    if piece is not None:
        text = ":".join("" if one is None else str(one) for one in piece)
        assert parse_slice(text) == piece
        expected = expected[slice(*piece)]
    selection = Selection(("n!=3",), seed, text, limit)
    assert list(selection.taken(iter(rows))) == expected[:limit]


@pytest.mark.parametrize("text", ["", "3", "1:2:3", "a:b"])
def test_what_is_no_slice_is_refused(text: str) -> None:
    with pytest.raises(BadValue):
        parse_slice(text)
