"""Files of tasks: every format gives the same tasks, every mistake is told with its line, nothing raises."""

from __future__ import annotations

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cms.batch.entries import Entry, Fault
from cms.batch.model import TaskSpec, resolve_task
from cms.batch.spec import Format, Reader, sniff
from cms.layers import TASK, resolve
from cms.options import Layer
from cms.session.model import Outcome
from cms.units import split_rules


def read(kind: Format, text: str | bytes) -> tuple[list[Entry], list[Fault], Reader]:
    data = text.encode() if isinstance(text, str) else text
    reader = Reader(kind, data.splitlines(keepends=True))
    found = list(reader)
    return (
        [one for one in found if isinstance(one, Entry)],
        [one for one in found if isinstance(one, Fault)],
        reader,
    )


def fault(kind: Format, text: str) -> Fault:
    entries, faults, _ = read(kind, text)
    assert not entries
    (one,) = faults
    return one


ARRAY = """[
  {"name": "a", "prompt": "do a", "workDir": "/src", "maxBudget": 0.5},
  {
    "name": "b",
    "prompt": "do b",
    "allowedTools": "Read,Bash(git log, *)", "needs": ["a"]
  }
]"""


def test_the_original_array() -> None:
    entries, faults, _ = read("json", ARRAY)
    assert not faults
    assert [(entry.spec.name, entry.line) for entry in entries] == [("a", 2), ("b", 3)]
    assert entries[0].spec == TaskSpec(name="a", prompt="do a", work_dir="/src", max_cost=0.5)
    assert entries[1].spec.allowed_tools == ("Read", "Bash(git log, *)")
    assert entries[1].spec.needs == ("a",)


def test_an_object_with_defaults_and_settings() -> None:
    text = """{"maxParallel": 3, "defaults": {"model": "opus", "maxTime": "15m"}, "maxCost": "$5",
    "x": 1, "tasks": [{"name": "a", "prompt": "p"},
    {"name": "b", "prompt": "p"}]}"""
    entries, faults, reader = read("json", text.replace('"x": 1, ', ""))
    assert not faults
    assert [entry.line for entry in entries] == [2, 3]
    assert (reader.header.max_parallel, reader.header.max_cost) == (3, 5.0)
    assert reader.header.defaults == Layer(model="opus", max_time=900.0)
    entries, faults, _ = read("json", text)
    assert len(entries) == 2
    assert faults[0].where == "the top"
    assert "unknown key 'x'" in faults[0].message


def test_json_lines_with_a_header() -> None:
    entries, faults, reader = read(
        "jsonl",
        '\ufeff{"defaults": {"preset": "read-only"}, "maxParallel": 2}\n\n{"name": "a", "task": "p"}\r\n',
    )
    assert not faults
    assert [(entry.spec.name, entry.spec.prompt, entry.line) for entry in entries] == [("a", "p", 3)]
    assert reader.header.defaults.preset == "read-only"


def test_toml() -> None:
    entries, faults, reader = read(
        "toml",
        'max-parallel = 2\n[defaults]\nmodel = "haiku"\n\n[[tasks]]\nname = "a"\nprompt = "p"\n'
        'verify = "pytest"\n\n[[tasks]]\nname = "b"\nprompt = "p"\nretry_on = ["stalled"]\nretries = 2\n',
    )
    assert not faults
    assert [(entry.spec.name, entry.line) for entry in entries] == [("a", 5), ("b", 10)]
    assert entries[0].spec.verify == ("pytest",)
    assert entries[1].spec.retry_on == (Outcome.STALLED,)
    assert reader.header.max_parallel == 2
    assert reader.header.defaults.model == "haiku"


@pytest.mark.parametrize(
    ("task", "message", "hint"),
    [
        ('{"name":"a","prompt":"p","modle":"opus"}', "unknown key 'modle'", "did you mean 'model'?"),
        ('{"name":"a","prompt":"p","work_dri":"/x"}', "unknown key 'work_dri'", "did you mean 'workDir'?"),
        ('{"name":"a","prompt":"p","model":"sonet"}', "no model 'sonet'", "did you mean 'sonnet'?"),
        ('{"name":"a","prompt":"p","preset":"readonly"}', "preset: cannot be", "did you mean 'read-only'?"),
        ('{"name":"a","prompt":"p","maxCost":-1}', "maxCost: '-1' is not a positive amount", ""),
        ('{"name":"a","prompt":"p","maxTime":"soon"}', "maxTime: 'soon' is not a duration: write 90", ""),
        ('{"name":"a","prompt":"p","maxTime":true}', "true is not a number or a text", "15m"),
        ('{"name":"a","prompt":"p","maxTurns":1.5}', "maxTurns: 1.5 is not a whole number", ""),
        ('{"name":"a","prompt":"p","maxTurns":true}', "maxTurns: true is not a whole number", ""),
        ('{"name":"a","prompt":"p","needs":"a"}', "task 'a' needs itself", ""),
        ('{"name":"a","prompt":"p","needs":["b","b"]}', "the same task twice", ""),
        ('{"name":"a b","prompt":"p"}', "is not a valid session name", "try 'a-b'"),
        ('{"prompt":"p"}', "it has no name", "name"),
        ('{"name":"a"}', "task 'a' has no prompt", "prompt"),
        ('{"name":"a","prompt":"  "}', "prompt: is empty", ""),
        ('{"name":"a","prompt":"p","task":"q"}', "'task' is given twice", ""),
        ('{"name":"a","prompt":"p","retryOn":"stalld"}', "retryOn: cannot be", "did you mean 'stalled'?"),
        ('{"name":"a","prompt":"{{needs.x.response}}","needs":["y"]}', "'x' is not in needs", "add 'x'"),
        ('{"name":"a","prompt":"{{needs.y.respons}}","needs":["y"]}', "'respons'", "'response'"),
        ('["a"]', "a task must be an object", ""),
        ("7", "a task must be an object", ""),
        ("{", "not JSON", "each line must be one task"),
    ],
)
def test_what_is_wrong_is_told(task: str, message: str, hint: str) -> None:
    in_lines = fault("jsonl", f"\n{task}\n")
    assert in_lines.where == "line 2"
    assert message in in_lines.message
    assert hint in in_lines.hint
    if "not JSON" not in message:
        in_array = fault("json", f"[\n\n{task}]")
        assert (in_array.where, in_array.message) == ("entry 1 (line 3)", in_lines.message)


@pytest.mark.parametrize(
    ("kind", "text", "where", "message"),
    [
        ("json", "[\n{]", "line 2", "not JSON"),
        ("json", "7", "the file", "not a list"),
        ("json", '{"task": []}', "the file", "no `tasks`"),
        ("json", '[{"name":"a","prompt":"p","maxCost":NaN}]', "the file", "NaN"),
        ("toml", "a = \n", "line 1", "not TOML"),
        ("toml", "tasks = 1\n", "the file", "not a list"),
        ("toml", '[default]\nmodel = "opus"\n', "the top", "unknown key 'default'"),
    ],
)
def test_a_file_that_is_none(kind: Format, text: str, where: str, message: str) -> None:
    found = fault(kind, text)
    assert found.where == where
    assert message in found.message


def test_every_mistake_is_told() -> None:
    _, faults, _ = read("jsonl", '{"name":"a"}\n{"name":"b","prompt":"p"}\nx\n{"prompt":"p"}\n')
    assert [one.where for one in faults] == ["line 1", "line 3", "line 4"]


def test_not_text() -> None:
    for kind in ("json", "toml"):
        _, faults, _ = read(kind, b"[\xff]")
        assert "not valid UTF-8" in faults[0].message
    _, faults, _ = read("jsonl", b'{"name":"a","prompt":"\xff"}\n')
    assert "not JSON" in faults[0].message


NAMES = st.from_regex(r"[A-Za-z0-9._][A-Za-z0-9._-]{0,63}", fullmatch=True)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(str.strip)
SPECS = st.builds(
    TaskSpec,
    name=NAMES,
    prompt=TEXTS.filter(lambda text: "{{" not in text),
    model=st.none() | st.sampled_from(["sonnet", "claude-opus-5-5"]),
    max_cost=st.none() | st.floats(0.01, 100),
    retries=st.none() | st.integers(0, 9),
    verify=st.none() | st.lists(TEXTS.map("make ".__add__), max_size=3).map(tuple),
    safety=st.none() | st.booleans(),
    preset=st.none() | st.sampled_from(["edit", "plan"]),
)


@given(st.lists(SPECS, max_size=5))
def test_json_and_json_lines_give_what_was_written(specs: list[TaskSpec]) -> None:
    lines = [msgspec.json.encode(spec) for spec in specs]
    for kind, data in (("jsonl", b"\n".join(lines)), ("json", b"[" + b",\n".join(lines) + b"]")):
        entries = list(Reader(kind, data.split(b"\n") if kind == "jsonl" else [data]))  # type: ignore[arg-type]  # one of both
        assert [entry.spec for entry in entries if isinstance(entry, Entry)] == specs
        assert [entry.line for entry in entries if isinstance(entry, Entry)] == list(range(1, len(specs) + 1))


@given(st.sampled_from(["json", "jsonl", "toml"]), st.binary(max_size=200))
def test_garbage_never_raises(kind: Format, data: bytes) -> None:
    for one in Reader(kind, data.splitlines(keepends=True)):
        assert isinstance(one, Entry | Fault)


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(
    st.dictionaries(
        st.sampled_from(["name", "prompt", "maxCost", "needs", "retryOn", "safety", "model", "x"]), JUNK
    )
)
def test_values_of_any_shape_never_raise(task: dict[str, object]) -> None:
    for one in (
        Reader("json", [json.dumps([task], allow_nan=False, default=str).encode()]) if _finite(task) else ()
    ):
        assert isinstance(one, Entry | Fault)


def _finite(value: object) -> bool:
    try:
        json.dumps(value, allow_nan=False)
    except ValueError:
        return False
    return True


def test_formats_are_told_apart() -> None:
    assert sniff("t.jsonl", b"") == "jsonl"
    assert sniff("t.toml", b"[") == "toml"
    assert sniff("-", b'\n [\n {"name"') == "json"
    assert sniff("-", b'{"name": "a"}\n{"name') == "jsonl"
    assert sniff("-", b'{\n "tasks": []}') == "json"
    assert sniff("-", b"[[tasks]]\n") == "toml"
    assert sniff("-", b"[defaults]\n") == "toml"
    assert sniff("-", b"max-parallel = 3\n") == "toml"


@given(st.lists(st.sampled_from(["Read", "Bash(git *)", "Bash(a, b)", "mcp__x(y,(z))"]), max_size=4))
def test_rules_are_split_outside_of_parentheses(rules: list[str]) -> None:
    assert split_rules(", ".join(rules)) == rules


def test_defaults_fill_what_a_task_leaves_open() -> None:
    defaults = Layer(model="opus", max_cost=0.25, retries=1, verify=("make",))
    found = resolve_task(TaskSpec(name="a", prompt="p", max_cost=1.0, needs=("b",)), defaults, "/work")
    session = found.session
    assert (found.retries, found.needs, session.model, session.verify) == (1, ("b",), "opus", ("make",))
    assert (session.limits.max_cost, session.limits.max_turns) == (1.0, TASK.max_turns)
    assert (session.name, session.work_dir, session.delegated) == ("a", "/work", True)


def test_no_task_takes_back_what_the_batch_is_denied() -> None:
    base = Layer(
        protect=("keys",),
        env_deny=("TOKEN",),
        disallowed_tools=("Bash",),
        allowed_tools=("Read",),
        require_containment="B",
    )
    own = TaskSpec(
        name="a",
        protect=("x", "keys"),
        env_deny=(),
        allowed_tools=("Edit",),
        protect_read=("y",),
        require_containment="D",
    )
    said = resolve(own, base)
    assert (said.protect, said.env_deny, said.protect_read) == (("x", "keys"), ("TOKEN",), ("y",))
    assert (said.disallowed_tools, said.allowed_tools, said.require_containment) == (
        ("Bash",),
        ("Edit",),
        "B",
    )
