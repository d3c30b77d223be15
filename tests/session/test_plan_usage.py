"""What claude says of a plan's windows, and how it is told."""

from __future__ import annotations

import json
from datetime import UTC
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli.making import NOW
from cms.cli.terminal import Style
from cms.cli.usage import brief, lines, plan_line
from cms.protocol.connection import Answered
from cms.protocol.messages import Event, GetUsage, Interrupt, decode
from cms.session.plan_events import told_by
from cms.session.plan_usage import UsageWindow

PIPE = Style(zone=UTC)
RECORDING = Path(__file__).parents[1] / "recordings" / "rate_limit.jsonl"


def event(**info: object) -> Event:
    return decode(json.dumps({"type": "rate_limit_event", "rate_limit_info": info}).encode())


def answer(limits: object) -> Answered:
    body = {"session": {"total_cost_usd": 0}, "rate_limits_available": True, "rate_limits": limits}
    return Answered("r", GetUsage(), msgspec.Raw(msgspec.json.encode(body)), "")


def test_what_the_real_claude_said() -> None:
    said = [told_by(decode(line)) for line in RECORDING.read_bytes().splitlines()]
    told = [(one.name, one.used, one.status) for windows in said for one in windows]
    assert told == [
        ("five_hour", 0.4, "allowed"),
        ("five_hour", 0.92, "allowed_warning"),
        ("five_hour", 1.0, "rejected"),
    ]


def test_each_way_in_which_it_can_be_said() -> None:
    window = {"utilization": 0.5, "resetsAt": 7}
    both = event(status="allowed", rateLimitType="seven_day", unifiedWindows={"five_hour": window})
    assert told_by(both) == (
        UsageWindow("five_hour", 0.5, 7.0),
        UsageWindow("seven_day", None, None, "allowed"),
    )
    limits = {
        "five_hour": {"utilization": 37.5, "resets_at": "2026-11-22T11:30:00.5+00:00"},
        "seven_day": None,
        "model_scoped": [{"display_name": "Fable", "utilization": 4, "resets_at": None}],
        "extra_usage": None,
    }
    assert told_by(answer(limits)) == (
        UsageWindow("five_hour", 0.375, NOW + 0.5, heard_by="get_usage"),
        UsageWindow("Fable", 0.04, None, heard_by="get_usage"),
    )
    assert told_by(answer(None)) == ()
    assert told_by(Answered("r", Interrupt(), msgspec.Raw(b"{}"), "")) == ()


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats(allow_nan=False) | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["five_hour", "utilization", "resets_at", "resetsAt", "model_scoped", "x"]),
                inner,
            )
        ),
        max_leaves=8,
    )
)
def test_nonsense_is_nothing(limits: object) -> None:
    told_by(answer(limits))
    told_by(event(status="allowed", rateLimitType="five_hour", unifiedWindows=limits))


def test_how_it_reads() -> None:
    heard = UsageWindow("five_hour", 0.92, NOW + 2520, "allowed_warning", NOW - 200, "get_usage", "fix-auth")
    over = msgspec.structs.replace(heard, name="seven_day_opus", resets_at=NOW - 1, heard=NOW - 9000)
    full = msgspec.structs.replace(
        heard, name="a\x1b[2Jb", used=1.0, status="rejected", resets_at=NOW + 86400 * 3
    )
    told = lines((heard, over), NOW, PIPE)
    assert told[0].split() == ["WINDOW", "USED", "RESETS", "HEARD", "FROM", "BY"]
    assert told[1].split("  ")[0] == "5 hours"
    for word in ("92%", "(in 42m)", "3m ago", "fix-auth", "get_usage"):
        assert word in told[1]
    assert "7 days, opus  not known" in told[2]
    assert plan_line((heard, over), NOW, PIPE).startswith("5 hours 92% until ")
    assert plan_line((heard, over), NOW, PIPE).endswith("(in 42m); heard 3m ago")
    assert plan_line((over,), NOW, PIPE) == brief((over,), NOW, PIPE) == plan_line((), NOW, PIPE) == ""
    assert brief((heard, full), NOW, PIPE).startswith("100%, full of a")
    assert len(lines((), NOW, PIPE)) == 1
    seen = lines((full,), NOW, Style(tty=True, width=100, zone=UTC))
    assert not [line for line in seen if "\x1b" in line]


@pytest.mark.parametrize("used", [0.0, 0.5, 1.0, 7.0])
def test_the_table_is_even_where_figures_are_not(used: float) -> None:
    window = UsageWindow("x" * 60, used, None)
    assert lines((window,), NOW, PIPE)[1].startswith("x" * 60)
