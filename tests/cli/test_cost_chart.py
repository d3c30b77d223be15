"""What was spent over time, as columns and as CSV."""

from __future__ import annotations

import csv
from datetime import UTC, date, timedelta
from io import StringIO

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from cms.cli.cost import as_csv
from cms.cli.cost_chart import columns, with_gaps
from cms.cli.render import display_width
from cms.cli.terminal import Style
from cms.rpc.money import CostRow
from cms.session.model import TokenUsage

TERMINAL = Style(icons="unicode", width=60, tty=True, zone=UTC)
ASCII = msgspec.structs.replace(TERMINAL, icons="ascii")
SPENT = {"2026-11-20": 1.0, "2026-11-21": 0.001, "2026-11-24": 2.0}


def test_days_without_spending_have_their_place() -> None:
    assert columns(SPENT, "day", TERMINAL) == [
        "$2.0000 |                 ███",
        "        |                 ███",
        "        |                 ███",
        "        | ███             ███",
        "        | ███             ███",
        "$0.0000 | ███ ▁▁▁         ███",
        "          2026-11-20  2026-11-24",
    ]
    assert columns(SPENT, "day", ASCII)[5] == "$0.0000 | ### ###         ###"
    assert with_gaps(["2026-W52", "2027-W02"], "week") == ["2026-W52", "2026-W53", "2027-W01", "2027-W02"]


def test_there_is_none_in_a_pipe_and_of_too_little() -> None:
    assert columns(SPENT, "day", Style()) == []
    assert columns({"2026-11-20": 1.0, "2026-11-21": 1.0}, "day", TERMINAL) == []
    assert columns(dict.fromkeys(SPENT, 0.0), "day", TERMINAL) == []
    assert columns({}, "day", TERMINAL) == []


@given(st.integers(1, 200), st.lists(st.floats(0, 1e6), min_size=1, max_size=400))
def test_it_is_never_wider_than_the_terminal_and_shows_the_newest(width: int, spent: list[float]) -> None:
    days = [(date(2026, 1, 1) + timedelta(days=n)).isoformat() for n in range(len(spent))]
    for style in (TERMINAL, ASCII):
        lines = columns(
            dict(zip(days, spent, strict=True)), "day", msgspec.structs.replace(style, width=width)
        )
        assert all(display_width(line) <= width for line in lines)
        assert len(lines) in (0, 6, 7)
        assert len(lines) < 7 or lines[-1].endswith(days[-1])


def test_csv_is_read_back_as_it_was_and_starts_no_formula() -> None:
    usage = TokenUsage(1, 2, 3, 4, 0.1 + 0.2)
    small = TokenUsage(1, 2, 3, 4, 2e-05)
    rows = [CostRow("id", 'a "b", c', usage, exact=False), CostRow("=HYPERLINK(1)", "", small, exact=True)]
    found = list(csv.reader(StringIO(as_csv(rows).decode())))
    assert found == [
        [
            *("key", "name", "input_tokens", "output_tokens", "cache_read_input_tokens"),
            *("cache_creation_input_tokens", "cost_usd", "exact"),
        ],
        ["id", 'a "b", c', "1", "2", "3", "4", "0.3", "false"],
        ["'=HYPERLINK(1)", "", "1", "2", "3", "4", "0.00002", "true"],
    ]
