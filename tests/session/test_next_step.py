"""What a person types next: of every end one command, and one that the command line takes."""

from __future__ import annotations

import shlex

import msgspec
import pytest

from cms.session.budget import ALL, DAY, Standing, describe
from cms.session.gate import NOBODY, not_in_preset
from cms.session.model import (
    ChangeSummary,
    Denial,
    Interaction,
    InteractionState,
    Limits,
    Outcome,
    Question,
    SessionOptions,
    SessionRecord,
    SessionStatus,
)
from cms.session.next_step import next_step
from cms.session.verdict import NO_SHAPE
from cms.units import parse_seconds, time_word

LIMITS = Limits(max_cost=0.1, max_turns=50, max_time=1800.0)


def session(**fields: object) -> SessionRecord:
    options = SessionOptions(name="fix", work_dir="/srv/app", limits=LIMITS, delegated=True)
    record = SessionRecord(
        id="1",
        name="fix",
        status=SessionStatus.STOPPED,
        options=options,
        created=0.0,
        last_saved=0.0,
        claude_session_id="2",
    )
    known = ("delegated", "preset", "limits", "json_schema")
    of_options = {key: fields.pop(key) for key in known if key in fields}
    return msgspec.structs.replace(record, options=msgspec.structs.replace(options, **of_options), **fields)


def ended(outcome: Outcome | None, **fields: object) -> Interaction:
    last = Interaction("3", "1", 1, "delegate", "go", 0.0, state=InteractionState.DONE, outcome=outcome)
    return msgspec.structs.replace(last, **fields)


def refused(*rules: str, tool: str = "Bash", reason: str = NOBODY) -> Denial:
    return Denial(tool, "x", reason, by="nobody", allow=rules)


def standing(scope: str) -> Standing:
    return Standing(scope, 1.0, 1.0, 0.0, 0.0, 0)


KEPT = ChangeSummary("kept", files=1)
ENDS: list[tuple[SessionRecord, Interaction, str | None]] = [
    (session(), ended(Outcome.COMPLETED), "cms continue fix MESSAGE"),
    (session(delegated=False), ended(Outcome.COMPLETED), None),
    (session(change=KEPT), ended(Outcome.COMPLETED), "cms diff fix"),
    (
        session(total_cost_usd=0.25),
        ended(Outcome.COST_EXCEEDED),
        'cms continue fix "go on" --max-cost 0.35',
    ),
    (
        session(total_cost_usd=0.1004, delegated=False),
        ended(Outcome.COST_EXCEEDED),
        'cms continue fix "go on" --max-cost 0.21',
    ),
    (
        session(),
        ended(Outcome.COST_EXCEEDED, error=describe(standing(DAY))),
        "cms budget set --daily USD",
    ),
    (
        session(),
        ended(Outcome.COST_EXCEEDED, error=describe(standing(ALL))),
        "cms budget set --total USD",
    ),
    (
        session(),
        ended(Outcome.COST_EXCEEDED, error=describe(standing("batch:night"))),
        "cms budget show",
    ),
    (session(), ended(Outcome.COST_EXCEEDED, error="claude says nothing"), 'cms continue fix "go on"'),
    (
        session(total_turns=50),
        ended(Outcome.TURNS_EXCEEDED),
        'cms continue fix "go on" --max-turns 100',
    ),
    (
        session(tool_calls=7, limits=Limits(max_tool_calls=7)),
        ended(Outcome.TURNS_EXCEEDED),
        'cms continue fix "go on" --max-tool-calls 14',
    ),
    (session(), ended(Outcome.TIME_EXCEEDED), 'cms continue fix "go on" --max-time 1h'),
    (session(), ended(Outcome.STALLED), 'cms continue fix "go on"'),
    (
        session(),
        ended(Outcome.NEEDS_INPUT, questions=(Question("Which?"), Question("And?"))),
        "cms answer fix ANSWER ANSWER",
    ),
    (
        session(),
        ended(
            Outcome.NEEDS_INPUT,
            denials=(refused("Bash(make *)", "Edit(a 'b')"), refused("Bash(make *)")),
        ),
        """cms continue fix "go on" --allow 'Bash(make *)' --allow 'Edit(a '"'"'b'"'"')'""",
    ),
    (session(), ended(Outcome.NEEDS_INPUT, denials=(refused(),)), "cms continue fix MESSAGE"),
    (
        session(preset="read-only"),
        ended(
            Outcome.NEEDS_INPUT,
            denials=(Denial("Write", "a", not_in_preset("Write", "read-only")),),
        ),
        'cms continue fix "go on" --preset edit',
    ),
    (
        session(preset="plan"),
        ended(
            Outcome.NEEDS_INPUT,
            denials=(Denial("Bash", "a", "Error: No such tool available: Bash.", by="claude"),),
        ),
        'cms continue fix "go on" --preset edit',
    ),
    (
        session(),
        ended(
            Outcome.NEEDS_INPUT,
            denials=(
                Denial("WebFetch", "a", "Error: No such tool available: WebFetch.", by="claude"),
                refused("Bash(make)", "Bash"),
            ),
        ),
        'cms continue fix "go on" --preset full --allow Bash',
    ),
    (
        session(),
        ended(Outcome.VERIFICATION_FAILED, denials=(refused("Bash(pytest)"),)),
        "cms continue fix \"make the checks pass\" --allow 'Bash(pytest)'",
    ),
    (
        session(change=msgspec.structs.replace(KEPT, note="not applied: a.py")),
        ended(Outcome.VERIFICATION_FAILED),
        "cms apply fix",
    ),
    (
        session(),
        ended(Outcome.PROTECTED_PATH),
        'cms continue fix "leave what is protected alone, and go on"',
    ),
    (session(), ended(Outcome.FAILED, api_status=401), "cms doctor"),
    (session(), ended(Outcome.FAILED), 'cms continue fix "go on"'),
    (
        session(json_schema="{}"),
        ended(Outcome.FAILED, error=f"{NO_SHAPE}: /a: must be integer"),
        'cms continue fix "answer in JSON that matches the schema"',
    ),
    (session(claude_session_id=""), ended(Outcome.FAILED), "cms logs fix"),
    (session(delegated=False), ended(Outcome.INTERRUPTED), 'cms send fix "go on"'),
    (session(), ended(Outcome.RATE_LIMITED), 'cms continue fix "go on"'),
    (session(status=SessionStatus.ERROR), ended(Outcome.FAILED), "cms kill fix"),
    (session(), ended(None, state=InteractionState.RUNNING), None),
]


@pytest.mark.parametrize(("record", "last", "step"), ENDS, ids=[str(step) for *_, step in ENDS])
def test_the_next_step(record: SessionRecord, last: Interaction, step: str | None) -> None:
    assert next_step(record, last) == step


def test_of_nothing_there_is_none() -> None:
    assert next_step(session(), None) is None


@pytest.mark.parametrize("outcome", Outcome)
def test_every_end_of_a_delegation_has_one(outcome: Outcome) -> None:
    step = next_step(session(), ended(outcome))
    assert step is not None
    assert shlex.split(step)[:3] in (["cms", "continue", "fix"], ["cms", "logs", "fix"])


def test_no_line_proposes_rules_without_end() -> None:
    rules = [refused(f"Bash(make {number})") for number in range(100)]
    step = next_step(session(), ended(Outcome.NEEDS_INPUT, denials=tuple(rules)))
    assert step is not None
    assert step.count("--allow") == 8


@pytest.mark.parametrize("value", [0.5, 45.0, 60.0, 90.0, 5400.0, 7200.0, 3601.0])
def test_a_time_is_written_as_it_is_read(value: float) -> None:
    assert parse_seconds(time_word(value)) == value
