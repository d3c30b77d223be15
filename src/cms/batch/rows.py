"""A table whose rows become tasks (`--data`): how it is read, and which of its rows are taken.

- CSV (and TSV): the first line names the fields. All values are texts.
- JSON Lines: an object a line. A value that is no text is put in as JSON writes it; null as nothing.
- Parquet: read by whoever may do I/O, and given here as objects.

Which rows are taken, in this order: `--filter` (all of them must hold), `--shuffle`, `--slice`, `--limit`.
A filter is a field, a comparison and a value, and nothing of it is ever run:

| filter | holds where |
| --- | --- |
| `field=value`, `field!=value` | the text is that value, or is not |
| `field~regex`, `field!~regex` | the regular expression is found in the text, or is not |
| `field<1`, `field<=1`, `field>1`, `field>=1` | the value is a number, and smaller ... than that |

Pure: it is given lines or objects.
"""

from __future__ import annotations

import csv
import itertools
import random
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final, Literal

import msgspec

from cms.batch.model import BatchOptions
from cms.session.model import Record
from cms.units import BadValue, meant, shown

TableFormat = Literal["csv", "tsv", "jsonl", "parquet"]
#: What the end of a name says of the format.
TABLE_FORMATS: Final[Mapping[str, TableFormat]] = {
    "csv": "csv",
    "tsv": "tsv",
    "jsonl": "jsonl",
    "ndjson": "jsonl",
    "parquet": "parquet",
}
#: Characters of one value.
_LONGEST: Final = 16 * 1024 * 1024


class Row(msgspec.Struct, frozen=True):
    """One row. `number`: its place in the table, from 1 on, whatever is taken of it; `line`: of the file."""

    number: int
    line: int
    fields: dict[str, str]


class BadTable(BadValue):
    """A table, or one row of it, that cannot be read. `line`: 0 if it is about no one line."""

    def __init__(self, message: str, *, line: int = 0, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.line = line


def table_format(name: str) -> TableFormat:
    """The format of a table, by its name; stdin is CSV.

    Raises:
        BadTable: none that is read.
    """
    suffix = name.lower().rpartition(".")[2]
    if name == "-":
        return "csv"
    if suffix not in TABLE_FORMATS:
        raise BadTable(
            f"{name} cannot be read as a table",
            hint=f"use a file named {', '.join(f'.{one}' for one in TABLE_FORMATS)}",
        )
    return TABLE_FORMATS[suffix]


def read_rows(kind: TableFormat, lines: Iterable[bytes]) -> Iterator[Row]:
    """The rows of a table, one after the other. (Not of Parquet: `rows_of` takes its objects.)

    Raises:
        BadTable: what is wrong with the row that would be next.
    """
    if kind == "jsonl":
        return _json_lines(lines)
    return _csv(lines, "\t" if kind == "tsv" else ",")


def rows_of(objects: Iterable[tuple[int, object]]) -> Iterator[Row]:
    """Rows from objects, each with its line.

    Raises:
        BadTable: one is none.
    """
    for number, (line, one) in enumerate(objects, 1):
        if not isinstance(one, dict):
            raise BadTable(f"a row must be an object with fields, not {shown(one)}", line=line)
        yield Row(number, line, {str(key): _text(value) for key, value in one.items()})


def _text(value: object) -> str:
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    if isinstance(value, bool | int | float | list | tuple | dict):
        return msgspec.json.encode(value, enc_hook=str).decode()
    return str(value)  # of Parquet: a time, a decimal


def _json_lines(lines: Iterable[bytes]) -> Iterator[Row]:
    def objects() -> Iterator[tuple[int, object]]:
        for number, line in enumerate(lines, 1):
            text = line.removeprefix(b"\xef\xbb\xbf").strip() if number == 1 else line.strip()
            if not text:
                continue
            try:
                yield number, msgspec.json.decode(text)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
                raise BadTable(
                    f"not JSON: {error}", line=number, hint="each line must be an object"
                ) from None

    return rows_of(objects())


def _csv(lines: Iterable[bytes], delimiter: str) -> Iterator[Row]:
    csv.field_size_limit(_LONGEST)
    place = 0

    def texts() -> Iterator[str]:
        nonlocal place
        for place, line in enumerate(lines, 1):
            try:
                yield line.decode("utf-8-sig" if place == 1 else "utf-8")
            except UnicodeDecodeError:
                raise BadTable("it is not valid UTF-8 text", line=place) from None

    reader = csv.reader(texts(), delimiter=delimiter, strict=True)
    try:
        names = [name.strip() for name in next(reader, [])]
        if not any(names):
            raise BadTable("it has no header line", line=1)
        twice = [name for place, name in enumerate(names) if not name or name in names[:place]]
        if twice:
            what = f"names the field {twice[0]!r} twice" if twice[0] else "has a field without a name"
            raise BadTable(f"the first line {what}", line=1)
        number = 0
        begins = place + 1
        for values in reader:
            line, begins = begins, place + 1
            if not values:
                continue
            number += 1
            if len(values) != len(names):
                raise BadTable(f"{len(values)} values for {len(names)} fields", line=line)
            yield Row(number, line, dict(zip(names, values, strict=True)))
    except csv.Error as error:
        raise BadTable(f"not CSV: {error}", line=place) from None


# --- which of them ------------------------------------------------------------------------------------

_COMPARED: Final = re.compile(r"\s*([^=!~<>]+?)\s*(!=|!~|<=|>=|=|~|<|>)(.*)", re.DOTALL)
_NUMBERS: Final[Mapping[str, Callable[[float, float], bool]]] = {
    "<": lambda one, other: one < other,
    "<=": lambda one, other: one <= other,
    ">": lambda one, other: one > other,
    ">=": lambda one, other: one >= other,
}


class Condition(msgspec.Struct, frozen=True):
    """One filter."""

    field: str
    how: str
    value: str

    def holds(self, row: Row) -> bool:
        """Raises BadTable: the row has no such field."""
        text = field_of(row, self.field, "--filter")
        match self.how:
            case "=":
                return text == self.value
            case "!=":
                return text != self.value
            case "~":
                return re.search(self.value, text) is not None
            case "!~":
                return re.search(self.value, text) is None
            case how:
                number = _number(text)
                return number is not None and _NUMBERS[how](number, float(self.value))


def field_of(row: Row, field: str, who: str) -> str:
    """A value of a row. `who` wants it.

    Raises:
        BadTable: the row has no such field.
    """
    try:
        return row.fields[field]
    except KeyError:
        message = f"{who} uses the field {field!r}, which the table does not have"
        raise BadTable(message, line=row.line, hint=meant(field, list(row.fields)[:20])) from None


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def parse_filter(text: str) -> Condition:
    """One filter.

    Raises:
        BadValue: it is none.
    """
    found = _COMPARED.fullmatch(text)
    if found is None:
        raise BadValue(
            f"{shown(text)} is not a filter", hint="field=value, field!=value, field~regex, field<10"
        )
    field, how, value = found.groups()
    value = value.strip()
    if how in ("~", "!~"):
        try:
            re.compile(value)
        except re.error as error:
            raise BadValue(f"{value!r} is not a regular expression: {error}") from None
    elif how in _NUMBERS and _number(value) is None:
        raise BadValue(f"{field}{how}{value}: {value!r} is not a number")
    return Condition(field, how, value)


def parse_slice(text: str) -> tuple[int | None, int | None]:
    """`10:20`, `:20`, `-5:` as Python has them: from, and up to but without.

    Raises:
        BadValue: it is none.
    """
    found = re.fullmatch(r"\s*(-?\d+)?\s*:\s*(-?\d+)?\s*", text)
    if found is None:
        raise BadValue(
            f"{shown(text)} is not a slice", hint="write A:B for the rows A to B-1, counted from 0"
        )
    start, end = (None if one is None else int(one) for one in found.groups())
    return start, end


class Selection(Record, frozen=True):
    """Which rows are taken. None: no wish."""

    filter: tuple[str, ...] = ()
    shuffle: int | None = None
    slice: str = ""
    limit: int | None = None

    def taken(self, rows: Iterable[Row]) -> Iterator[Row]:
        """Those rows, in the order in which they become tasks. Only shuffled, all are kept in memory.

        Raises:
            BadTable: a filter wants a field that a row does not have.
        """
        conditions = [parse_filter(one) for one in self.filter]
        chosen: Iterable[Row] = (row for row in rows if all(one.holds(row) for one in conditions))
        start, stop = parse_slice(self.slice) if self.slice else (None, None)
        if self.shuffle is not None:
            chosen = list(chosen)
            random.Random(self.shuffle).shuffle(chosen)  # noqa: S311 - the same order for the same seed
        if (start or 0) < 0 or (stop or 0) < 0:
            chosen = list(chosen)[start:stop]
        else:
            chosen = itertools.islice(chosen, start, stop)
        return itertools.islice(chosen, self.limit)


def selection_of(options: BatchOptions) -> Selection:
    """Which rows a batch takes."""
    return Selection(options.filter, options.shuffle, options.slice, options.limit)
