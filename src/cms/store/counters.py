"""What has happened so far, in numbers that only grow, kept in the transactions in which it happens.

So they outlive the sessions that they are about, and the daemon; `--foreground` counts here too. Counted from
the version of cms on that began to count.
"""

from __future__ import annotations

from collections import Counter
from typing import Final, Literal

import msgspec

from cms.protocol import tools
from cms.session.budget import ALL, DAY, Standing
from cms.session.model import Interaction, Receipt, TokenUsage
from cms.session.plan_usage import UsageWindow
from cms.store import money, plan_usage
from cms.store.database import Database

#: What is counted, and by which words its `label` is made.
CounterName = Literal[
    "messages",  # outcome
    "turns",
    "seconds",
    "calls",  # tool, allowed or refused
    "refusals",  # by whom
    "limits",  # the outcome that it led to
    "ends",  # forced or graceful, proved or unproved
    "parks",
]

_NAMED_TOOLS: Final = frozenset(
    {
        *(*tools.READ_TOOLS, *tools.WRITE_TOOLS, *tools.OWN_TOOLS, *tools.AGENT_TOOLS, *tools.LOOKING_TOOLS),
        *(tools.QUESTION_TOOL, tools.ANSWER_TOOL, tools.PLAN_TOOL, tools.ENTER_PLAN_TOOL),
        *(tools.WORKTREE_TOOL, "Bash"),
    }
)


class Figures(msgspec.Struct, frozen=True):
    """How the store stands, for `cms metrics`.

    Attributes:
        counters: name -> label -> so far.
        spent: what each model took since ever.
        budgets: of the day and of all, where they have a cap.
        plan: the subscription's windows, as they were told last.
        today: US dollars spent today, with what was counted for calls of unknown price.
    """

    sessions: dict[str, int]
    counters: dict[str, dict[str, float]]
    spent: dict[str, TokenUsage]
    batches: dict[str, int]
    tasks: dict[str, int]
    budgets: tuple[Standing, ...]
    today: float
    plan: tuple[UsageWindow, ...] = ()


def add(db: Database, name: CounterName, label: str = "", amount: float = 1.0) -> None:
    """So much more of it."""
    db.execute(
        "INSERT INTO counters VALUES (?, ?, ?)"
        " ON CONFLICT (name, label) DO UPDATE SET value = value + excluded.value",
        (name, label, amount),
    )


def add_message(db: Database, one: Interaction) -> None:
    """A message is about to be stored with its outcome: count it, unless it had that one before."""
    if one.outcome is None:
        return
    row: tuple[int, int] | None = db.execute(
        'SELECT instr(rest, \'"outcome":"\'), instr(rest, ?) FROM interactions WHERE id = ?',
        (f'"outcome":"{one.outcome.value}"', one.id),
    ).fetchone()
    before, same = (0, 0) if row is None else row
    if same:
        return
    add(db, "messages", one.outcome.value)
    if not before:
        add(db, "turns", amount=one.turns)
        add(db, "seconds", amount=one.duration)
        for by, number in Counter(denial.by for denial in one.denials).items():
            add(db, "refusals", by, number)


def add_entry(db: Database, kind: str, tool: str, verdict: str) -> None:
    """An entry of the audit log is stored."""
    if kind == "call":
        known = "mcp" if tool.startswith("mcp__") else "other"
        add(db, "calls", f"{tool if tool in _NAMED_TOOLS else known} {verdict}")
    elif kind == "limit":
        add(db, "limits", verdict)


def add_end(db: Database, receipt: Receipt) -> None:
    """A process has ended so."""
    how = "forced" if receipt.alive else "graceful"  # (the last step is taken always: it proves the end)
    add(db, "ends", f"{how} {'proved' if receipt.empty else 'unproved'}")


def add_park(db: Database, batch_id: str) -> None:
    """A batch is about to be stored as parked: count it, unless it was already."""
    db.execute(
        "INSERT INTO counters SELECT 'parks', '', 1 FROM batches WHERE id = ? AND status <> 'parked'"
        " ON CONFLICT (name, label) DO UPDATE SET value = value + 1",
        (batch_id,),
    )


def figures(db: Database, at: float) -> Figures:
    """How all stands, at one moment."""
    rows: list[tuple[str, str, float]] = db.execute("SELECT name, label, value FROM counters").fetchall()
    counters: dict[str, dict[str, float]] = {}
    for name, label, value in rows:
        counters.setdefault(name, {})[label] = value
    return Figures(
        sessions=_counted(db, "SELECT status, count(*) FROM sessions GROUP BY 1"),
        counters=counters,
        spent={one.key or "unknown": one.usage for one in money.totals(db, "model")},
        batches=_counted(db, "SELECT status, count(*) FROM batches WHERE status <> 'loading' GROUP BY 1"),
        tasks=_counted(db, "SELECT status, sum(tasks) FROM batch_counts GROUP BY 1"),
        budgets=tuple(one for one in money.standings(db, at) if one.scope in (ALL, DAY)),
        today=money.account(db, DAY, at).used,
        plan=tuple(one for one in plan_usage.windows(db) if not one.over(at)),
    )


def _counted(db: Database, query: str) -> dict[str, int]:
    rows: list[tuple[str, int]] = db.execute(query).fetchall()
    return dict(rows)
