"""Nodes and fleets for people, and for `--json`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from cms.cli import render
from cms.cli.terminal import Style
from cms.json_output import json_object

if TYPE_CHECKING:
    from cms.batch.remote import Card
    from cms.nodes.look import Doing, Overview
    from cms.nodes.state import NodeState

_WORDS = {"draining": "drains", "full": "takes nothing", "cut_off": "cut off", "stopping": "stops"}


def node_json(node: NodeState) -> dict[str, object]:
    return json_object(
        node,
        "id=card.id host=card.host address pid slots=card.slots labels=card.labels version=card.version"
        " level=card.level standing why started tasks_done=done total_cost_usd=cost_today",
        tasks=[json_object(one) for one in node.busy],
    )


def node_lines(node: NodeState, now: float, style: Style) -> list[str]:
    card = node.card
    standing = _WORDS.get(node.standing, "takes tasks") + (f": {node.why}" if node.why else "")
    rows = [
        ("engine", node.address),
        ("standing", standing),
        ("slots", f"{len(node.busy)} of {card.slots} taken"),
        ("labels", ", ".join(card.labels) or "none"),
        ("containment", f"level {card.level}" if card.level else "unknown"),
        ("since", f"{render.age(node.started, now)}, pid {node.pid}, cms {card.version}"),
        ("done", f"{render.count(node.done, 'task')}, {render.cost(node.cost_today)} today"),
    ]
    lines = [f"node {card.id}", *render.fields(rows)]
    lines += [
        f"  {one.id}  {render.age(one.since, now)}  {render.cost(one.cost)}  "
        + render.one_line(one.activity, style)
        for one in node.busy
    ]
    return lines


def fleet_json(fleet: Overview) -> dict[str, object]:
    return json_object(
        fleet,
        "address waiting",
        slots=sum(card.slots for card in fleet.nodes),
        total_cost_usd=sum(one.cost for one in fleet.tasks),
        nodes=[
            json_object(card, tasks=[json_object(one) for one in fleet.tasks if one.node == card.id])
            for card in fleet.nodes
        ],
    )


def fleet_lines(fleet: Overview, now: float, style: Style) -> list[str]:
    if not fleet.nodes:
        return [f"no node is at {fleet.address}; start one: cms node --on {fleet.address}"]
    busy = Counter(one.node for one in fleet.tasks)
    lines = render.table(
        [
            ("NODE", "HOST", "SLOTS", "LABELS", "CMS", "LEVEL", "NOW"),
            *(_row(card, busy[card.id], fleet.tasks) for card in fleet.nodes),
        ],
        style,
    )
    slots = sum(card.slots for card in fleet.nodes)
    lines.append("")
    lines += [
        f"  {one.task}  on {one.node}  {render.age(one.since, now)}  {render.cost(one.cost)}  "
        + render.one_line(one.activity, style)
        for one in fleet.tasks
    ]
    lines.append(
        f"{render.count(len(fleet.nodes), 'node')}, {len(fleet.tasks)} of {slots} slots taken, "
        f"{fleet.waiting} waiting, {render.cost(sum(one.cost for one in fleet.tasks))} by what runs"
    )
    return lines


def _row(card: Card, busy: int, tasks: Sequence[Doing]) -> tuple[str, ...]:
    spent = sum(one.cost for one in tasks if one.node == card.id)
    return (
        card.id,
        card.host,
        f"{busy}/{card.slots}",
        ",".join(card.labels) or "-",
        card.version,
        card.level or "?",
        render.cost(spent) if busy else "free",
    )
