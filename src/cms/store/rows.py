"""Records to rows and back.

What queries need are columns; the rest of a record is one JSON object in `rest`. A field added to a record
later needs no migration: old rows get its default.

Each row is read back before it is written. That costs microseconds beside the disk, and makes it certain that
what was acknowledged can be read again: JSON turns an infinite number into null without a word.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, Generic, TypeVar

import msgspec

from cms.errors import StoreError
from cms.session.model import Interaction, Record, SessionRecord

R = TypeVar("R", bound=Record)
Value = str | int | float | None

_rest_decoder = msgspec.json.Decoder(dict[str, object])


def to_json(value: object) -> str:
    """What a column of JSON holds."""
    return msgspec.json.encode(value).decode()


class Table(Generic[R]):
    """The statements and the conversions of one table whose rows are one kind of record.

    Attributes:
        insert: adds a row; a conflict is an error.
        upsert: adds a row, or replaces the one with that id.
        select: all columns, to be followed by WHERE or ORDER BY.
    """

    def __init__(self, record: type[R], name: str, columns: Sequence[str]) -> None:
        self._record = record
        self._columns = tuple(columns)
        outside = dict(zip(record.__struct_fields__, record.__struct_encode_fields__, strict=True))
        self._keys = tuple(outside[column] for column in columns)
        names = (*columns, "rest")
        # Names of tables and columns are this program's own, never input.
        self.insert = f"INSERT INTO {name} ({', '.join(names)}) VALUES ({', '.join('?' * len(names))})"  # noqa: S608
        self.upsert = (
            f"{self.insert} ON CONFLICT (id) DO UPDATE SET"
            f" {', '.join(f'{n} = excluded.{n}' for n in names if n != 'id')}"
        )
        self.select = f"SELECT {', '.join(names)} FROM {name}"  # noqa: S608

    def to_row(self, record: R) -> tuple[Value, ...]:
        """The values of `insert` and `upsert`.

        Raises:
            StoreError: the record holds what would not come back the same (an infinite number, broken text).
        """
        try:
            whole: dict[str, Value] = msgspec.to_builtins(record)
            columns = [whole.pop(key) for key in self._keys]
            row = (*columns, to_json(whole))
            for value in columns:
                if isinstance(value, str):
                    value.encode()  # a lone surrogate, from a file name that is not UTF-8
                elif isinstance(value, float) and not math.isfinite(value):
                    raise StoreError(f"{value} is no amount and no time")
            same = self.to_record(row) == record
        except (msgspec.MsgspecError, UnicodeEncodeError, StoreError) as error:
            raise StoreError(f"a record cannot be stored: {error}") from error
        if not same:
            raise StoreError(f"a record would not come back as it is: {record}")
        return row

    def to_record(self, row: Sequence[Value]) -> R:
        """The record of a row of `select`.

        Raises:
            StoreError: the row makes no sense to this version.
        """
        *columns, rest = row
        try:
            whole = _rest_decoder.decode(rest if isinstance(rest, str) else "")
            whole.update(zip(self._keys, columns, strict=True))
            return msgspec.convert(whole, self._record)
        except msgspec.MsgspecError as error:
            raise StoreError(f"a {self._record.__name__} in the store cannot be read: {error}") from error


SESSIONS = Table(
    SessionRecord, "sessions", ("id", "name", "status", "created", "last_saved", "total_cost_usd")
)
INTERACTIONS = Table(
    Interaction,
    "interactions",
    ("id", "session_id", "number", "type", "state", "timestamp", "ended", "cost", "prompt", "response"),
)

#: Of a session: it has tags. By the text, which is quick, for most have none.
TAGGED: Final = """instr(sessions.rest, '"tags":[]') = 0"""
