"""The table of options: whole, of one piece with the records, and merged by its own rules."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cms.batch.model import TaskOptions, TaskSpec
from cms.layers import DELEGATION, TASK, limits_of, resolve, session_options
from cms.option_kinds import SWITCH, Option
from cms.options import OPTIONS, Layer, options_of
from cms.session.model import Limits, Record, SessionOptions

ALL = pytest.mark.parametrize("option", OPTIONS.values(), ids=list(OPTIONS))

#: Fields of the records that nobody chooses by an option: who it is, and how it began.
NO_OPTIONS = {"name", "limits", "delegated", "fork_of", "plain_folder"}


def fields_of(record: type[Record]) -> dict[str, object]:
    info = msgspec.inspect.type_info(record)
    assert isinstance(info, msgspec.inspect.StructType)
    return {field.name: field.type for field in info.fields}


def without_none(kind: object) -> object:
    if isinstance(kind, msgspec.inspect.UnionType):
        rest = [one for one in kind.types if not isinstance(one, msgspec.inspect.NoneType)]
        return rest[0] if len(rest) == 1 else kind
    return kind


def test_every_field_of_a_session_is_an_option() -> None:
    fields = {*SessionOptions.__struct_fields__, *Limits.__struct_fields__} - NO_OPTIONS
    tasks = set(TaskOptions.__struct_fields__) - {
        "session",
        "prompt",
        "needs",
        "row",
        "origin",
        "attachments",
    }
    assert fields | tasks == set(OPTIONS)
    assert set(options_of(TaskSpec)) - set(OPTIONS) == {"name", "prompt", "needs", "attach"}


@ALL
def test_an_option_has_the_type_of_its_field(option: Option) -> None:
    records = (SessionOptions, Limits, TaskOptions)
    (theirs,) = (found for record in records if (found := fields_of(record).get(option.field)))
    said = without_none(fields_of(Layer)[option.field])
    assert said == without_none(theirs)
    assert msgspec.inspect.type_info(option.kind.type) == said


@ALL
def test_every_way_in_can_tell_it_from_the_others(option: Option) -> None:
    others = [one for one in OPTIONS.values() if one.field != option.field]
    mine = {*option.flags, option.key, *option.aliases}
    assert not mine & {word for one in others for word in (*one.flags, one.key, *one.aliases)}
    assert option.help or not option.ways & {"delegate", "spawn", "continue", "batch"}
    assert option.noun or option.child != "known"
    if option.combine in ("adds_up", "own"):
        assert option.kind.many


def layers(kind: type[Layer] = Layer) -> st.SearchStrategy[Layer]:
    return st.builds(
        kind,
        model=st.none() | st.sampled_from(["sonnet", "opus"]),
        max_cost=st.none() | st.floats(0.1, 9),
        safety=st.none() | st.booleans(),
        protect=st.none() | st.lists(st.sampled_from("abc")).map(tuple),
        allowed_tools=st.none() | st.lists(st.sampled_from("xyz")).map(tuple),
        require_containment=st.none() | st.sampled_from("ABE"),
    )


@given(st.lists(layers(), max_size=4))
def test_each_option_is_merged_by_its_rule(found: list[Layer]) -> None:
    said = resolve(*found)
    for field in ("model", "max_cost", "safety"):
        values = [getattr(layer, field) for layer in found if getattr(layer, field) is not None]
        assert getattr(said, field) == (values[0] if values else None)
    for field in ("protect", "allowed_tools"):
        lists = [getattr(layer, field) or () for layer in found]
        assert set(getattr(said, field) or ()) == {one for values in lists for one in values}
    levels = [layer.require_containment for layer in found if layer.require_containment]
    assert said.require_containment == min(levels, default=None)


@given(layers(), layers(), layers())
def test_merging_in_steps_is_merging_at_once(one: Layer, two: Layer, three: Layer) -> None:
    assert resolve(one, resolve(two, three)) == resolve(one, two, three) == resolve(resolve(one, two), three)
    assert resolve(resolve(one)) == resolve(one)


@given(layers(TaskSpec), layers(), layers())
def test_a_task_s_own_list_of_what_is_allowed_stands_alone(task: Layer, file: Layer, flags: Layer) -> None:
    said = resolve(task, file, flags)
    if task.allowed_tools is not None:
        assert set(said.allowed_tools or ()) == set(task.allowed_tools)
    for layer in (task, file, flags):
        assert set(layer.protect or ()) <= set(said.protect or ())


def test_what_nobody_says_is_what_the_record_says() -> None:
    assert session_options(Layer(), "a", "/w", delegated=False) == SessionOptions("a", "/w")
    task = session_options(TASK, "a", "/w", delegated=True)
    other = session_options(DELEGATION, "a", "/w", delegated=True)
    assert (task.limits.max_cost, task.limits.max_turns, task.limits.max_retry_time) == (2.0, 50, 300.0)
    assert (other.limits.max_cost, other.limits.max_turns, other.limits.max_retry_time) == (2.0, 50, 900.0)
    assert limits_of(Layer()) == Limits()


@ALL
def test_the_help_tells_the_default_that_holds(option: Option) -> None:
    told = option.help.partition("[default: ")[2].rstrip("]")
    if told:
        assert told == getattr(SessionOptions("a", "/w"), option.field)


def test_checks_are_for_work_that_is_delegated() -> None:
    said = Layer(verify=("make",), protect=("a",))
    assert session_options(said, "a", "/w", delegated=True).verify == ("make",)
    spawned = session_options(said, "a", "/w", delegated=False)
    assert (spawned.verify, spawned.protect) == ((), ("a",))


@given(st.sampled_from(list(OPTIONS.values())), st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
))  # fmt: skip
def test_any_value_is_read_or_refused(option: Option, value: object) -> None:
    try:
        read = option.read(value)
    except msgspec.MsgspecError:
        raise
    except Exception as error:
        assert type(error).__name__ == "BadValue"  # noqa: PT017 - both ways out are fine
        return
    assert msgspec.convert(read, option.kind.type) == read
    assert (option.kind is SWITCH) == isinstance(read, bool)
