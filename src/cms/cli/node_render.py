"""Nodes and fleets for people, and for `--json`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cms.cli import render
from cms.cli.terminal import Style
from cms.json_output import json_object
from cms.units import ago, money, plural

if TYPE_CHECKING:
    from cms.batch.remote import Card
    from cms.nodes.look import Overview
    from cms.nodes.state import Busy, NodeState

_WORDS = {"draining": "drains", "full": "takes nothing", "cut_off": "cut off", "stopping": "stops"}


def node_json(node: NodeState) -> dict[str, object]:
    return json_object(
        node,
        "id=card.id host=card.host address pid slots=card.slots labels=card.labels version=card.version"
        " level=card.level standing why started tasks_done=done cost_usd=cost_today page",
        tasks=[json_object(one) for one in node.busy],
    )


def node_lines(node: NodeState, now: float, style: Style) -> list[str]:
    card = node.card
    rows = [
        ("engine", node.address),
        ("standing", _standing(node)),
        ("slots", f"{len(node.busy)} of {card.slots} taken"),
        ("labels", ", ".join(card.labels) or "none"),
        ("containment", f"level {card.level}" if card.level else "unknown"),
        ("since", f"{ago(node.started, now)}, pid {node.pid}, cms {card.version}"),
        ("done", f"{plural(node.done, 'task')}, {money(node.cost_today)} today"),
        *([("page", render.one_line(node.page, style))] if node.page else []),
    ]
    lines = [f"node {card.id}", *render.fields(rows)]
    return lines + [_task_line(one, "", now, style) for one in node.busy]


def _standing(node: NodeState) -> str:
    return _WORDS.get(node.standing, "takes tasks") + (f": {node.why}" if node.why else "")


def _task_line(task: Busy, where: str, now: float, style: Style) -> str:
    doing = render.one_line(task.activity, style)
    return f"  {task.id}{where}  {ago(task.since, now)}  {money(task.cost)}  {doing}"


def fleet_json(fleet: Overview) -> dict[str, object]:
    return json_object(
        address=fleet.address,
        slots=sum(card.slots for card, _ in fleet.nodes),
        submitted=fleet.submitted,
        page=fleet.page,
        cost_usd=sum(state.cost_today for _, state in fleet.nodes if state is not None),
        nodes=[
            json_object(card, standing="silent", tasks=[]) if state is None else node_json(state)
            for card, state in fleet.nodes
        ],
    )


def fleet_lines(fleet: Overview, now: float, style: Style) -> list[str]:
    if not fleet.nodes:
        return [f"no node at {fleet.address}; start one with `cms node --on {fleet.address}`"]
    heads = ("NODE", "HOST", "SLOTS", "LABELS", "CMS", "LEVEL", "DONE", "TODAY", "STANDING")
    lines = render.table([heads, *(_row(card, state) for card, state in fleet.nodes)], style)
    states = [state for _, state in fleet.nodes if state is not None]
    tasks = [_task_line(one, f"  on {state.card.id}", now, style) for state in states for one in state.busy]
    slots = sum(card.slots for card, _ in fleet.nodes)
    taken = sum(len(state.busy) for state in states)
    waiting, today = max(0, fleet.submitted - taken), sum(one.cost_today for one in states)
    total = f"{plural(len(fleet.nodes), 'node')}, {taken} of {slots} slots taken"
    return [
        *lines,
        *(["", *tasks] if tasks else []),
        "",
        f"{total}, {waiting} waiting, {money(today)} today",
        *([f"the engine's page: {render.one_line(fleet.page, style)}"] if fleet.page else []),
    ]


def _row(card: Card, state: NodeState | None) -> tuple[str, ...]:
    return (
        card.id,
        card.host,
        f"{'?' if state is None else len(state.busy)}/{card.slots}",
        ",".join(card.labels) or "-",
        card.version,
        card.level or "?",
        "?" if state is None else str(state.done),
        "?" if state is None else money(state.cost_today),
        "does not answer" if state is None else _standing(state),
    )
