"""Batches that are work on a table: each task of the file for each row, in each cell, so many times.

- A row (`batch.rows`) fills the places `{{row.FIELD}}` of a task. Without a table there is none.
- A cell is one combination of the values of `--matrix`: `model=a,b` and `effort=low,high` make four.
- An attempt is one of `--attempts`: the same thing tried several times over.

A row, a cell and an attempt together are one run of the whole file: a task that needs another one needs that
of its own row, cell and attempt. Names say which: `TASK-ROW.CELL.ATTEMPT`, of which only those parts are
there that tell anything apart. They depend on the row alone and not on which others are taken with it, so
that they are the same in the next batch.

Into checks only values of letters, digits and `_./:@%+,=-` are put: a value is data, no part of a command.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

import msgspec

from cms.batch import template
from cms.batch.entries import TASK_KEYS, Entry, Fault, find_key
from cms.batch.model import Axis, BatchOptions, Origin, TaskSpec
from cms.batch.rows import BadTable, Row, field_of
from cms.option_kinds import Kind
from cms.options import Layer
from cms.units import BadValue, check_name, shown, split_rules

_set = msgspec.structs.replace

#: What may not vary in a matrix: it is what the task is.
_FIXED: Final = frozenset({"name", "prompt", "needs"})
#: Cells of one batch; more is a mistake.
MAX_CELLS: Final = 1000
#: Texts of a task that a row's values are put into when it is made. Into the prompt and the context when it
#: is begun, into checks with care (`resolve_task`).
_FILLED: Final = ("work_dir", "add_dirs", "model", "tags")
#: Fields in which there may be places.
_PLACES: Final = frozenset({*_FILLED, "prompt", "context", "verify", "judge", "append_system_prompt", "repo"})


# --- the matrix -----------------------------------------------------------------------------------------


def _read_matrix(value: object) -> tuple[Axis, ...]:
    axes: list[Axis] = []
    for key, values in _axes(value):
        option, contrary = find_key(key, TASK_KEYS)
        if option.field in _FIXED or contrary:
            raise BadValue(f"{key!r} cannot vary", hint="vary an option of the task, like model or effort")
        if any(axis.key == option.key for axis in axes):
            raise BadValue(f"{key!r} is given twice")
        axis = Axis(option.key, tuple(msgspec.json.encode(one, enc_hook=str).decode() for one in values))
        if len(values) < 2 or len(set(axis.labels)) < len(values):
            raise BadValue(f"{key}: it needs two or more different values", hint=f"write {key}=A,B")
        for one in values:
            try:
                option.read(one)
            except BadValue as bad:
                raise BadValue(f"{key}: {bad.message}", hint=bad.hint) from None
        axes.append(axis)
    count = 1
    for axis in axes:
        count *= len(axis.values)
    if count > MAX_CELLS:
        raise BadValue(f"{count} cells: more than {MAX_CELLS} are a mistake")
    return tuple(axes)


def _axes(value: object) -> Iterator[tuple[str, Sequence[object]]]:
    """From an object of lists, or from texts like `model=a,b`."""
    if isinstance(value, dict):
        for key, values in value.items():
            if not isinstance(values, list | tuple):
                raise BadValue(f"{key}: {shown(values)} is not a list of values")
            yield str(key), values
        return
    if isinstance(value, str):
        value = (value,)
    if not isinstance(value, list | tuple):
        raise BadValue(f"{shown(value)} is not a matrix", hint='write {"model": ["opus", "haiku"]}')
    for text in value:
        key, equals, values = str(text).partition("=")
        if not equals:
            raise BadValue(f"{shown(text)} is not an axis of a matrix", hint="write model=opus,haiku")
        yield key.strip(), split_rules(values)


MATRIX: Final = Kind(_read_matrix, tuple[Axis, ...], "KEY=A,B", many=True)


class Cell(msgspec.Struct, frozen=True):
    """One combination of values. `label`: for people; `word`: for names; both "" without a matrix."""

    label: str = ""
    word: str = ""
    changes: dict[str, object] = {}


def cells(matrix: Sequence[Axis]) -> tuple[Cell, ...]:
    """All combinations, in order."""
    found = []
    for choice in itertools.product(*(zip(axis.labels, axis.values, strict=True) for axis in matrix)):
        labels = [label for label, _ in choice]
        label = " ".join(f"{axis.key}={text}" for axis, text in zip(matrix, labels, strict=True))
        word = "-".join(_word(text)[:20] for text in labels)
        changes: dict[str, object] = {}
        for axis, (_, text) in zip(matrix, choice, strict=True):
            option, _ = TASK_KEYS[axis.key]
            changes[option.field] = option.read(msgspec.json.decode(text))
        found.append(Cell(label, word, changes))
    words = [cell.word for cell in found]
    if not matrix or (len(set(words)) == len(words) and all(words)):
        return tuple(found)
    return tuple(_set(cell, word=f"c{number}") for number, cell in enumerate(found, 1))


def _word(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9_]+", "-", text).strip("-")


# --- tasks ------------------------------------------------------------------------------------------------


class Table(msgspec.Struct, frozen=True):
    """How the tasks of a file are multiplied.

    Attributes:
        row_name: the field that names a row; "": its number does.
        defaults: of the tasks; their checks may want fields, too.
    """

    matrix: tuple[Axis, ...] = ()
    attempts: int = 1
    row_name: str = ""
    defaults: Layer = Layer()

    @classmethod
    def of(cls, options: BatchOptions) -> Table | None:
        """What the options say; None: each task of the file is one."""
        if not options.data and not options.matrix and options.attempts < 2:
            return None
        return cls(options.matrix, options.attempts, options.row_name, options.defaults)

    def tasks(self, templates: Sequence[Entry], rows: Iterator[Row] | None) -> Iterator[Entry | Fault]:
        """The tasks, row by row. What is wrong with the table ends them.

        Args:
            rows: None: there is no table.
        """
        made = cells(self.matrix)
        if rows is None:
            yield from self._of_row(made, templates, None)
            return
        for number in itertools.count(1):
            try:
                row = next(rows, None)
                if row is None:
                    if number == 1:
                        yield Fault("the table", "no row is selected")
                    return
                if number == 1:
                    self._check_fields(templates, row)
            except BadTable as bad:
                yield Fault(_at(bad.line), bad.message, bad.hint)
                return
            yield from self._of_row(made, templates, row)

    def _check_fields(self, templates: Sequence[Entry], row: Row) -> None:
        """What the first row does not have is told once, and not of each row."""
        if self.row_name:
            field_of(row, self.row_name, "--row-name")
        for entry in templates:
            for field in self._fields(entry.spec):
                field_of(row, field, f"{{{{row.{field}}}}}")

    def _fields(self, spec: TaskSpec) -> tuple[str, ...]:
        layers = [
            getattr(layer, field) for layer in (spec, self.defaults) for field in Layer.__struct_fields__
        ]
        texts = [spec.prompt, *spec.attach, *(text for value in layers for text in _texts(value))]
        return template.wanted_fields("\0".join(texts))

    def _of_row(
        self, made: Sequence[Cell], templates: Sequence[Entry], row: Row | None
    ) -> Iterator[Entry | Fault]:
        for cell in made:
            try:
                names = {
                    attempt: {
                        entry.spec.name: self._name(entry.spec.name, row, cell, attempt)
                        for entry in templates
                    }
                    for attempt in range(1, self.attempts + 1)
                }
                # The attempts at one thing stand together.
                for entry, attempt in itertools.product(templates, names):
                    spec = self._made(entry.spec, names[attempt], row, cell, attempt)
                    yield Entry(spec, (row.line or row.number) if row is not None else entry.line)
            except BadTable as bad:
                yield Fault(_at(bad.line), bad.message, bad.hint)
                return
            except BadValue as bad:
                where = _at(row.line or row.number) if row is not None else "the matrix"
                yield Fault(where, bad.message, bad.hint)
                return

    def _base(self, name: str, row: Row | None) -> str:
        """The task and its row, without the cell and the attempt."""
        if row is None:
            return name
        word = str(row.number)
        if self.row_name:
            word = re.sub(r"[^A-Za-z0-9._-]+", "-", field_of(row, self.row_name, "--row-name")).strip("-")
            if not word:
                raise BadValue(f"its {self.row_name!r} names nothing")
            return f"{name}-{word}" if name else word
        return f"{name or 'row'}-{word}"

    def _name(self, name: str, row: Row | None, cell: Cell, attempt: int) -> str:
        parts = [self._base(name, row)]
        parts += [cell.word] if cell.word else []
        parts += [str(attempt)] if self.attempts > 1 else []
        return check_name(".".join(parts))

    def _made(
        self, spec: TaskSpec, names: Mapping[str, str], row: Row | None, cell: Cell, attempt: int
    ) -> TaskSpec:
        has_row = row is not None
        spec = _set(
            spec,
            **cell.changes,
            prompt=template.renamed(spec.prompt, names, row=has_row),
            context=None if spec.context is None else template.renamed(spec.context, names, row=has_row),
            name=names[spec.name],
            needs=tuple(names.get(need, need) for need in spec.needs),
            origin=Origin(
                self._base(spec.name, row), "" if row is None else str(row.number), cell.label, attempt
            ),
        )
        return spec if row is None else _filled(spec, row, self._fields(spec))


def _at(line: int) -> str:
    return f"line {line}" if line else "the table"


def _texts(value: object) -> tuple[str, ...]:
    if isinstance(value, str):
        return (value,)
    return tuple(one for one in value if isinstance(one, str)) if isinstance(value, tuple) else ()


def _filled(spec: TaskSpec, row: Row, fields: Iterable[str]) -> TaskSpec:
    values = {field: field_of(row, field, f"{{{{row.{field}}}}}") for field in fields}

    def put(text: str) -> str:
        return template.fill_row(text, values)

    changes: dict[str, object] = {"row": values, "attach": tuple(map(put, spec.attach))}
    for field in Layer.__struct_fields__:
        value = getattr(spec, field)
        if not any(template.wanted_fields(text) for text in _texts(value)):
            continue
        if field not in _PLACES:
            raise BadValue(
                f"{field} cannot hold {{{{row.FIELD}}}}", hint=f"it can stand in {', '.join(sorted(_PLACES))}"
            )
        if field in _FILLED:
            changes[field] = put(value) if isinstance(value, str) else tuple(put(one) for one in value)
    return _set(spec, **changes)
