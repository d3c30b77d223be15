"""Who may start whom: sessions that start sessions, kept from running away. Pure.

A session may use cms only if a person (or the session that started it) said so: `SessionOptions.allow_cms`.
What it then starts is its child, and a child is never more than its parent:

- depth: a person's sessions are at depth 0, an MCP client's at 1, a child is one deeper than its parent.
  Deeper than `ChildLimits.max_depth` there is none;
- fan-out: `ChildLimits.max_children` live sessions for each parent; those of all MCP clients count
  together;
- power: no wider preset, no place outside of the parent's, no rule, path or setting that the parent does not
  have, the safety net on. Else a read-only session could have its writing done by a child;
- money: no higher limit than the parent has left; and a session and all that it started draw on one shared
  budget (`scope`), so that together they pass the parent's limit by no more than one API call each;
- life: children end when their parent's process does.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import PurePosixPath

import msgspec

from cms.errors import UsageError
from cms.session.model import Limits, Preset, Record, SessionOptions, SessionRecord


class Caller(Record, frozen=True):
    """Who asks for something to be done.

    Attributes:
        depth: that of the sessions it starts.
        session_id: the session that asks; "" for a person or an MCP client outside of cms.
        counted: `ChildLimits.max_children` holds. Not for a batch: it has a bound of its own.
    """

    depth: int = 0
    session_id: str = ""
    counted: bool = True


class ChildLimits(Record, frozen=True):
    """How far sessions may multiply."""

    max_depth: int = 2
    max_children: int = 8


#: What a child of a session with that preset may have.
_WITHIN: dict[Preset, frozenset[Preset]] = {
    "read-only": frozenset({"read-only"}),
    "plan": frozenset({"read-only", "plan"}),
    "review": frozenset({"read-only", "review"}),
    "edit": frozenset({"read-only", "plan", "review", "edit"}),
    "full": frozenset({"read-only", "plan", "review", "edit", "full"}),
}


def scope(session_id: str) -> str:
    """The shared budget of a session and everything that it starts."""
    return f"family:{session_id}"


def check_depth(caller: Caller, options: SessionOptions, limits: ChildLimits) -> None:
    """Whether a caller may start a session at its depth.

    Raises:
        UsageError: it would be too deep, or could start sessions that are.
    """
    if caller.depth > limits.max_depth:
        raise UsageError(
            f"sessions may start sessions down to depth {limits.max_depth}, and this would be {caller.depth}",
            hint="do the work in this session",
        )
    if options.allow_cms and caller.depth == limits.max_depth:
        raise UsageError(
            f"a session at depth {caller.depth} may not start others: the limit is {limits.max_depth}",
            hint="start it without access to cms",
        )


def check_room(caller: Caller, live: Iterable[SessionRecord], limits: ChildLimits) -> None:
    """Whether one more session of this caller's may be alive.

    Raises:
        UsageError: it has as many as it may.
    """
    if caller.depth == 0 or not caller.counted:
        return  # a person's own, or a batch's
    children = sorted(record.name for record in live if is_child(record, caller))
    if len(children) >= limits.max_children:
        raise UsageError(
            f"{len(children)} sessions started from here are alive, and more may not be: "
            f"{', '.join(children)}",
            hint="wait for one to end, or stop one",
        )


def is_child(record: SessionRecord, caller: Caller) -> bool:
    """Whether the caller counts as the one who started a session."""
    return record.depth == caller.depth and record.started_by == caller.session_id


def narrow(options: SessionOptions, parent: SessionRecord) -> SessionOptions:
    """The options of a child, cut to what its parent has. Paths are real ones: links are resolved before.

    Raises:
        UsageError: they ask for more than can be cut: say so instead of doing something else.
    """
    have = parent.options
    if options.preset not in _WITHIN[have.preset]:
        raise _more(f"preset {options.preset}", f"its own is {have.preset}", "use " + have.preset)
    if have.safety and not options.safety:
        raise _more("the safety net off", "its own is on", "leave it on")
    if options.permission_mode not in ("", have.permission_mode):
        raise _more(f"permission mode {options.permission_mode}", "its own is another", "leave it out")
    roots = [PurePosixPath(have.work_dir), *(PurePosixPath(folder) for folder in have.add_dirs)]
    for folder in (options.work_dir, *options.add_dirs):
        if not any(PurePosixPath(folder).is_relative_to(root) for root in roots):
            raise _more(f"folder {folder}", f"its own is {have.work_dir}", "choose one inside of that")
    for what, asked, given in (
        ("rule", options.allowed_tools, have.allowed_tools),
        ("writable path", options.allow_write, have.allow_write),
        ("MCP server", options.mcp_config, have.mcp_config),
        ("settings", tuple(filter(None, (options.settings,))), (have.settings,)),
        ("conversation", tuple(filter(None, (options.fork_of,))), ()),
        # These run as they are, whatever the preset.
        ("check", options.verify if have.preset != "full" else (), have.verify),
    ):
        if more := [one for one in asked if one not in given]:
            raise _more(f"{what} {more[0]!r}", "it does not have that itself", "leave it out")
    return msgspec.structs.replace(
        options,
        limits=_limits(options, parent),
        disallowed_tools=_joined(options.disallowed_tools, have.disallowed_tools),
        protect=_joined(options.protect, have.protect),
        protect_read=_joined(options.protect_read, have.protect_read),
        env_deny=_joined(options.env_deny, have.env_deny),
        # "A" is the most that can be required.
        require_containment=min(
            filter(None, (options.require_containment, have.require_containment)), default=None
        ),
    )


def _limits(options: SessionOptions, parent: SessionRecord) -> Limits:
    asked, have = options.limits, parent.options.limits
    cost = asked.max_cost
    if have.max_cost is not None:
        left = have.max_cost - parent.total_cost_usd
        if left <= 0:
            raise UsageError(
                f"session {parent.name!r} has nothing left to give: ${parent.total_cost_usd:.4f} of "
                f"${have.max_cost:.2f} are spent",
                hint="finish with what there is",
            )
        cost = left if cost is None else min(cost, left)
    return msgspec.structs.replace(
        asked,
        max_cost=cost,
        max_memory=_least(asked.max_memory, have.max_memory),
        max_procs=_least(asked.max_procs, have.max_procs),
    )


def _least(one: int | None, other: int | None) -> int | None:
    return min((value for value in (one, other) if value is not None), default=None)


def _joined(one: tuple[str, ...], other: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys((*one, *other)))


def _more(what: str, because: str, instead: str) -> UsageError:
    return UsageError(f"a session may not start one with {what}: {because}", hint=instead)
