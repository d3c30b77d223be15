"""Tasks by row, cell and attempt: their names are the rows' own, their needs stay among themselves."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from cms.batch import template
from cms.batch.entries import Entry, Fault
from cms.batch.model import Origin, TaskSpec, resolve_task
from cms.batch.rows import Row
from cms.batch.table import MATRIX, Table, cells
from cms.options import Layer
from cms.units import BadValue

ROWS = (
    Row(1, 2, {"id": "a/b c", "title": "one", "dir": "/x", "test": "tests/a.py::t"}),
    Row(4, 5, {"id": "d", "title": "{{needs.plan.response}} {{row.id}}", "dir": "/y", "test": "b; rm -rf /"}),
)


def matrix(*texts: str) -> Table:
    return Table(MATRIX.parse(texts))  # type: ignore[arg-type] # what the kind gives


def made(table: Table, specs: Sequence[TaskSpec], rows: Sequence[Row] | None = ROWS) -> list[TaskSpec]:
    found = list(table.tasks([Entry(spec, 1) for spec in specs], None if rows is None else iter(rows)))
    assert not [one for one in found if isinstance(one, Fault)]
    return [one.spec for one in found if isinstance(one, Entry)]


def fault(table: Table, *specs: TaskSpec, rows: Sequence[Row] = ROWS) -> Fault:
    *_, last = table.tasks([Entry(spec, 1) for spec in specs], iter(rows))
    assert isinstance(last, Fault)
    return last


def test_names_come_of_the_row_and_not_of_its_neighbours() -> None:
    task = TaskSpec(name="fix", prompt="{{row.title}}")
    assert [spec.name for spec in made(Table(), [task])] == ["fix-1", "fix-4"]
    assert [spec.name for spec in made(Table(), [task], ROWS[1:])] == ["fix-4"]
    assert [spec.name for spec in made(Table(row_name="id"), [task])] == ["fix-a-b-c", "fix-d"]
    nameless = TaskSpec(prompt="{{row.title}}")
    assert [spec.name for spec in made(Table(), [nameless])] == ["row-1", "row-4"]
    assert [spec.name for spec in made(Table(row_name="id"), [nameless])] == ["a-b-c", "d"]


def test_rows_cells_and_attempts_are_runs_of_the_whole_file() -> None:
    plan = TaskSpec(name="plan", prompt="plan {{row.title}}")
    do = TaskSpec(
        name="do", prompt="do {{ needs.plan.response }} of {{row.title}}", needs=("plan",), model="opus"
    )
    table = Table(MATRIX.parse(("model=haiku,opus", "effort=low,high")), attempts=2)  # type: ignore[arg-type]
    specs = {spec.name: spec for spec in made(table, [plan, do])}
    assert len(specs) == 2 * 4 * 2 * 2
    one = specs["do-4.haiku-high.2"]
    assert one.needs == ("plan-4.haiku-high.2",)
    assert one.prompt == "do {{needs.plan-4.haiku-high.2.response}} of {{row.title}}"
    assert (one.model, one.effort) == ("haiku", "high")
    assert one.origin == Origin("do-4", "4", "model=haiku effort=high", 2)
    assert all(set(spec.needs) <= set(specs) for spec in specs.values())
    alone = [(spec.origin.task, spec.origin.cell) for spec in specs.values() if spec.origin]
    assert alone[::2] == alone[1::2], "the attempts at one thing stand together"


def test_without_a_table_there_are_no_rows() -> None:
    (one, two) = made(Table(attempts=2), [TaskSpec(name="a", prompt="{{row.x}}")], None)
    assert (one.name, two.name, one.prompt, one.row) == ("a.1", "a.2", "{{row.x}}", None)


def test_what_a_row_holds_is_data() -> None:
    """It pulls nothing in, and is no part of a command."""
    need = TaskSpec(name="plan", prompt="x")
    task = TaskSpec(
        name="do",
        prompt=r"\{{row.id}} {{row.title}} ${{ row.title }}",
        needs=("plan",),
        verify=("t {{row.test}}",),
    )
    first, second = (spec for spec in made(Table(), [need, task]) if spec.name.startswith("do"))
    filled = template.fill(second.prompt, second.needs, lambda _: "PULLED IN", second.row)
    assert filled == "{{row.id}} {{needs.plan.response}} {{row.id}} ${{ row.title }}"
    assert resolve_task(first, Layer(), "/w").session.verify == ("t tests/a.py::t",)
    with pytest.raises(BadValue, match="cannot be used in a check"):
        resolve_task(second, Layer(), "/w")
    below = Layer(verify=("check {{row.id}}",), append_system_prompt="Of {{row.title}}.")
    table = Table(row_name="id", defaults=below)
    spec = next(one for one in made(table, [TaskSpec(prompt="p")]) if one.name == "d")
    session = resolve_task(spec, below, "/w").session
    assert session.verify == ("check d",)
    assert session.append_system_prompt == "Of {{needs.plan.response}} {{row.id}}."


def test_folders_and_models_come_of_rows_and_permissions_do_not() -> None:
    task = TaskSpec(name="a", prompt="p", work_dir="{{row.dir}}/src", tags=("t-{{row.id}}",))
    first, _ = made(Table(), [task])
    assert (first.work_dir, first.tags) == ("/x/src", ("t-a/b c",))
    told = fault(Table(), TaskSpec(name="a", prompt="p", allowed_tools=("Bash({{row.test}})",)))
    assert "allowed_tools cannot hold" in told.message


def test_what_is_wrong_is_told_once() -> None:
    told = fault(Table(), TaskSpec(name="a", prompt="{{row.titel}}"))
    assert (told.where, told.hint) == ("line 2", "did you mean 'title'?")
    assert "{{row.titel}} uses the field 'titel'" in told.message
    assert "--row-name" in fault(Table(row_name="key"), TaskSpec(name="a", prompt="p")).message
    assert fault(Table(), TaskSpec(name="a", prompt="p"), rows=()).message == "no row is selected"
    ragged = (ROWS[0], Row(2, 3, {"id": "x"}))
    assert fault(Table(), TaskSpec(name="a", prompt="{{row.title}}"), rows=ragged).where == "line 3"
    nameless = (Row(1, 2, {"id": "//"}),)
    assert "names nothing" in fault(Table(row_name="id"), TaskSpec(prompt="p"), rows=nameless).message
    assert "is not a valid session name" in fault(Table(), TaskSpec(name="n" * 64, prompt="p")).message


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("model", "not an axis"),
        ("model=opus", "two or more different"),
        ("model=opus,opus", "two or more different"),
        ("modell=a,b", "unknown key"),
        ("prompt=a,b", "cannot vary"),
        ("noSafety=true,false", "cannot vary"),
        ("maxTurns=3,many", "maxTurns"),
        ({"model": "opus"}, "not a list"),
        (("model=opus,haiku", "model=a,b"), "given twice"),
        ({"maxTurns": list(range(1, 1100))}, "a mistake"),
    ],
)
def test_what_is_no_matrix_is_refused(value: object, message: str) -> None:
    with pytest.raises(BadValue, match=message):
        MATRIX.parse(value)


def test_a_matrix_in_a_file_has_values_of_every_kind() -> None:
    axes = MATRIX.parse({"max_turns": [5, 10], "allowedTools": [["Read"], ["Read", "Bash(git *)"]]})
    found = cells(axes)  # type: ignore[arg-type] # what the kind gives
    assert [cell.changes for cell in found][-1] == {"max_turns": 10, "allowed_tools": ("Read", "Bash(git *)")}
    assert len({cell.word for cell in found}) == 4
