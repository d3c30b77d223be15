"""What pages tell: records as JSON, in the forms that the scripts in `assets` read.

Only what is named here reaches a page. No environment, no settings, no system prompt, no MCP configuration:
those may hold secrets.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from cms.batch.model import BatchRecord, TaskView
from cms.batch.report import score_rows, table_words
from cms.batch.scores import CellScore
from cms.json_output import json_object
from cms.session.model import LIVE, Interaction, LiveSession, Outcome, SessionRecord, shown_as
from cms.session.plan_usage import UsageWindow

#: What a page is told: (which part of it, its value). The order counts.
Event = tuple[str, Mapping[str, object]]

_SESSION: Final = (
    "id name status model=options.model work_dir=options.work_dir total_cost_usd cost_exact total_turns"
    " tool_calls created last_saved preset=options.preset limits=options.limits tags=options.tags error"
    " isolate=options.isolate verify=options.verify change"
)
_INTERACTION: Final = (
    "number type timestamp cost duration:ms state ended cost_exact turns is_error error outcome reasons"
    " denials questions output judge response round"
)
_BATCH: Final = (
    "id status total counts spent exact max_cost=options.max_cost parallel reused created started ended until"
    " eta reason source=options.source work_dir=options.work_dir warnings"
)
_TASK: Final = (
    "name status cost cost_exact turns tries duration started ended model node host cell row attempt chosen"
    " reused change patch session_id"
)
#: Characters of why a task did not complete, and of its answer, in a table.
TEXTS: Final = (1000, 200)
#: Characters of an answer, of which there is one on a page.
_ANSWER: Final = 100_000


def session_row(
    record: SessionRecord, outcome: Outcome | None, live: LiveSession | None = None
) -> dict[str, object]:
    """A session in a table. `outcome`: of its last message."""
    return json_object(
        record,
        _SESSION,
        state=shown_as(record.status, outcome),
        alive=record.status in LIVE,
        activity="" if live is None else live.activity,
        frozen=live is not None and live.frozen,
        open_questions=0 if live is None else live.questions,
    )


def plan(windows: Iterable[UsageWindow], now: float) -> list[dict[str, object]]:
    """How much of the subscription's windows is used, of those that still run."""
    return [
        json_object(one, "used resets_at status", called=one.called) for one in windows if not one.over(now)
    ]


def live_facts(live: LiveSession) -> dict[str, object]:
    """What the process tree of a session takes."""
    return json_object(live, "frozen queued processes memory")


def interaction(record: Interaction) -> dict[str, object]:
    """A message and what came of it."""
    return json_object(record, _INTERACTION, response=record.response[:_ANSWER])


def batch(record: BatchRecord) -> dict[str, object]:
    """A batch, flat."""
    return json_object(record, _BATCH, table=table_words(record.options))


def task(view: TaskView, place: int, texts: tuple[int, int] = TEXTS) -> dict[str, object]:
    """A task in a table. `place`: in the file, from 0; `texts`: as `TEXTS`."""
    why = view.error or "; ".join(view.reasons)
    return json_object(view, _TASK, place=place, error=why[: texts[0]], response=view.response[: texts[1]])


def batch_event(
    record: BatchRecord,
    scores: Sequence[CellScore],
    cost_by_model: Mapping[str, float],
    at: float,
    left_out: int = 0,
) -> Event:
    """All of a batch's page but its tasks. `at`: now, in seconds since the epoch."""
    heads, rows = score_rows(scores) if scores else ([], [])
    return "batch", json_object(
        at=at,
        batch=batch(record),
        scores={"heads": heads, "rows": rows},
        by_model=dict(cost_by_model),
        left_out=left_out,
    )


def tasks_event(
    tasks: Iterable[tuple[int, TaskView]], *, first: bool = True, texts: tuple[int, int] = TEXTS
) -> Event:
    """Tasks with their places; `first`: they are all, else what is new of them."""
    return "tasks", {"from": 0 if first else 1, "tasks": [task(view, place, texts) for place, view in tasks]}
