"""How records go out: every form fits its record, and every number says what it is."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from decimal import Decimal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import inspect

from cli.sampling import sample
from cli.test_json_values import ANSWERS
from cms import json_output
from cms.batch.model import BatchRecord
from cms.cli import audit, batches, ends, log_lines, questions, sessions, top
from cms.json_output import FORMS, MONEY, TIMES, camel, encode, fields_of, iso, json_object, plain, value_at
from cms.rpc.questions import Unanswered
from cms.rpc.sessions import Deleted, Waited
from cms.session.audit import AuditRow
from cms.session.model import LiveSession, Record, SessionRecord
from cms.session.transcript import Moment

#: Numbers that are neither a time nor money: seconds, all of them.
DURATIONS = {
    "ask_timeout", "before", "deadline", "duration", "eta", "idle_exit", "max_retry_time", "max_silence",
    "max_time", "max_work", "seconds", "seconds_high", "stagger", "task_timeout", "uptime",
}  # fmt: skip

#: Shares, from 0 to 1; and a metric's figure, whose name says its unit.
RATES = {"rate", "low", "high", "fail_on_error", "value"}

BY_COMMAND: tuple[tuple[type[Record], str], ...] = (
    (Deleted, ends._DELETED),
    (Waited, sessions._WAITED),
    (LiveSession, top._LIVE),
    (Unanswered, questions._UNANSWERED),
    (AuditRow, audit._ROW),
    (BatchRecord, batches._BATCH),
    (Moment, log_lines.MOMENT),
)


@pytest.mark.parametrize(
    ("kind", "form"), [*FORMS.items(), *BY_COMMAND], ids=lambda one: getattr(one, "__name__", "")
)
def test_every_word_of_a_form_is_in_its_record(kind: type[Record], form: str) -> None:
    record = sample(kind)
    assert fields_of(kind, form)
    for field in fields_of(kind, form):
        assert value_at(record, field.path) is not None
    for word in form.split():
        assert not word.startswith("-") or word[1:] in kind.__struct_fields__


def numbers(kind: inspect.Type, name: str = "") -> Iterator[str]:
    """The names of all fields that hold a float, at any depth."""
    match kind:
        case inspect.StructType(fields=fields):
            for field in fields:
                yield from numbers(field.type, field.name)
        case inspect.UnionType(types=types):
            for one in types:
                yield from numbers(one, name)
        case inspect.VarTupleType(item_type=item):
            yield from numbers(item, name)
        case inspect.DictType(value_type=value):
            yield from numbers(value, name)
        case inspect.FloatType():
            yield name


def test_every_number_is_known_for_a_time_for_money_or_for_a_duration() -> None:
    """So that a new field is not printed as what it is not."""
    found = {name for kind in (*ANSWERS.values(), Moment) for name in numbers(inspect.type_info(kind))}
    assert found <= TIMES | MONEY | DURATIONS | RATES, found - TIMES - MONEY - DURATIONS - RATES
    assert not TIMES & MONEY


@given(st.lists(st.decimals(min_value=0, max_value=1000, places=6).map(float), max_size=30))
def test_no_sum_of_prices_has_digits_that_no_price_has(prices: list[float]) -> None:
    total = sum(prices, 0.0)
    told = json_object(msgspec.structs.replace(sample(SessionRecord), total_cost_usd=total))
    cost = msgspec.json.decode(encode(told), type=dict[str, object])["totalCostUsd"]
    assert isinstance(cost, float)
    assert math.isclose(cost, total, abs_tol=1e-9)
    assert Decimal(repr(cost)) == round(Decimal(repr(cost)), 10)
    assert b'"totalCostUsd":0.0007,' in encode(json_object(total_cost_usd=0.0006999999999999997, x=1))


def test_times_names_and_nested_records() -> None:
    assert iso(1795347000.25) == "2026-11-22T11:30:00.250Z"
    assert camel("total_cost_usd") == "totalCostUsd"
    record = sample(SessionRecord)
    told = json_object(record, last_saved=None)
    assert told["model"] == record.options.model
    assert told["lastSaved"] is None
    assert isinstance(told["receipt"], Mapping)
    assert "leftIds" not in told["receipt"]
    assert json_object(sample(SessionRecord, full=False), "receipt pid=receipt.seconds") == {
        "receipt": None,
        "pid": None,
    }
    assert plain("at", 0.0) == "1970-01-01T00:00:00.000Z"
    with pytest.raises(TypeError, match="no JSON for x"):
        plain("x", object())
    assert json_output.encode({"a": 1}) == b'{"a":1}\n'
