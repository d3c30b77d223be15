"""Who may start whom: sessions that start sessions, kept from running away. Pure.

A session may use cms only if a person (or the session that started it) said so: `SessionOptions.allow_cms`.
What it then starts is its child, and a child is never more than its parent:

- depth: a person's sessions are at depth 0, an MCP client's at 1, a child is one deeper than its parent.
  Deeper than `ChildLimits.max_depth` there is none;
- fan-out: `ChildLimits.max_children` live sessions for each parent; those of all MCP clients count
  together;
- power: no wider preset, no place outside of the parent's, no rule, path or setting that the parent does not
  have, the safety net on (`options` has the rule of each). Else a read-only session could have its writing
  done by a child;
- money: no higher limit than the parent has left; and a session and all that it started draw on one shared
  budget (`scope`), so that together they pass the parent's limit by no more than one API call each;
- life: children end when their parent's process does.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath
from typing import Final, Literal, TypeVar

import msgspec

from cms.errors import UsageError
from cms.protocol.tools import READ_TOOLS, WRITE_TOOLS
from cms.session.callers import Caller, ChildLimits
from cms.session.model import Limits, Preset, SessionOptions, SessionRecord
from cms.session.path_rules import anchor
from cms.units import money

T = TypeVar("T")


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
            hint="do the work in this session instead",
        )
    if options.allow_cms and caller.depth == limits.max_depth:
        raise UsageError(
            f"a session at depth {caller.depth} may not start others: the limit is {limits.max_depth}",
            hint="start it without --allow-cms",
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
            f"{len(children)} sessions started from here are alive, which is the most allowed: "
            f"{', '.join(children)}",
            hint="wait for one to end, or stop one",
        )


def is_child(record: SessionRecord, caller: Caller) -> bool:
    """Whether the caller counts as the one who started a session."""
    return record.depth == caller.depth and record.started_by == caller.session_id


# --- power ------------------------------------------------------------------------------------------

#: What a child may have. "own": what it says; "preset", "safety", "mode", "stop", "writes": no more than its
#: parent; "same": what its parent has, if that has something; "within": a folder inside of its parent's;
#: "known", "checks": nothing that its parent has not; "joined": what either has; "stricter"; "left": no more
#: than its parent has left; "least": no more than its parent; "granted": only what its parent was granted;
#: "isolated": if its parent is, so is it.
Child = Literal[
    "own", "preset", "safety", "mode", "stop", "writes", "same", "within", "known", "checks", "joined",
    "stricter", "left", "least", "granted", "isolated",
]  # fmt: skip


class Rule(msgspec.Struct, frozen=True):
    """What a child may have of an option, and what the error calls one of its values."""

    child: Child = "own"
    noun: str = ""


#: What a child of a session with that preset may have.
_WITHIN: Final[Mapping[Preset, frozenset[Preset]]] = {
    "read-only": frozenset({"read-only"}),
    "plan": frozenset({"read-only", "plan"}),
    "review": frozenset({"read-only", "review"}),
    "edit": frozenset({"read-only", "plan", "review", "edit"}),
    "full": frozenset({"read-only", "plan", "review", "edit", "full"}),
}


def narrow(options: SessionOptions, parent: SessionRecord, rules: Mapping[str, Rule]) -> SessionOptions:
    """The options of a child, cut to what its parent has. Paths are real ones: links are resolved before.

    Args:
        rules: by fields of `SessionOptions` and `Limits`; what has none is the child's own.

    Raises:
        UsageError: they ask for more than can be cut: say so instead of doing something else.
    """
    have = _as_seen_from(parent.options, options.work_dir)
    if options.fork_of:
        raise _more(
            f"conversation {options.fork_of!r}", "this session does not have that itself", "leave it out"
        )
    changes: dict[str, object] = {}
    for field, rule in rules.items():
        asked, given = _value(options, field), _value(have, field)
        match rule.child:
            case "preset" if options.preset not in _WITHIN[have.preset]:
                raise _more(
                    f"preset {options.preset}", f"this session has {have.preset}", "use " + have.preset
                )
            case "safety" if have.safety and not options.safety:
                raise _more("--no-safety", "this session does not have it", "leave it out")
            case "writes" if have.writes == "workdir" and options.writes != "workdir":
                raise _more(
                    f"writes {options.writes}", "this session writes only in its folders", "leave it out"
                )
            case "mode" | "same" if asked and asked != given and (given or rule.child == "mode"):
                raise _more(f"{rule.noun} {asked}", "this session has another", "leave it out")
            case "mode" | "same" if given and given != "bypassPermissions":
                # (A mode asks where the preset alone would not, unless it is the one that never does.)
                changes[field] = given
            case "stop" if (asked, given) == ("deny", "stop"):
                raise _more("on-violation deny", "this session has stop", "leave it out")
            case "granted" if asked and not given:
                raise _more(
                    rule.noun or "trust in its folder",
                    "this session does not have that itself",
                    "leave it out",
                )
            case "isolated" if asked == "no":
                changes[field] = given
            case "within":
                _check_within(_each(asked), (have.work_dir, *have.add_dirs))
            case "known" | "checks" if rule.child == "known" or not _runs_all(have):
                if more := [one for one in _each(asked) if _plain(one, field, options) not in _each(given)]:
                    raise _more(
                        f"{rule.noun} {more[0]!r}", "this session does not have that itself", "leave it out"
                    )
            case "joined":
                changes[field] = joined(_each(asked), _each(given))
            case "stricter" | "least":
                changes[field] = least(asked, given)
    limits = {field: changes.pop(field) for field in Limits.__struct_fields__ if field in changes}
    limits["max_cost"] = _left(options.limits.max_cost, parent)
    return msgspec.structs.replace(
        options, limits=msgspec.structs.replace(options.limits, **limits), **changes
    )


def _runs_all(have: SessionOptions) -> bool:
    """Whether a session may run every command: so may a child's checks, which run as they are."""
    free = have.permission_mode in ("", "bypassPermissions") and not have.disallowed_tools
    return have.preset == "full" and free


#: A rule about files, whose path is taken from the folder that claude works in.
_FROM_HERE: Final = re.compile(r"(?P<tool>\w+)\((?P<path>(?:\.{0,2}/(?!/)|[^/~:]+/)[^:]*)\)")


def _as_seen_from(have: SessionOptions, folder: str) -> SessionOptions:
    """The options with what they say of places in the work dir (`./`), for somebody who works in another."""
    here = have.work_dir
    opened = joined(have.allow_write, tuple(anchor(one, here) for one in have.allow_write))
    if folder == here:
        return msgspec.structs.replace(have, allow_write=opened)

    def rule(text: str) -> str:
        found = _FROM_HERE.fullmatch(text)
        if found is None or found["tool"] not in (*READ_TOOLS, *WRITE_TOOLS):
            return text
        return f"{found['tool']}(/{anchor('./' + found['path'].lstrip('/'), here)})"

    return msgspec.structs.replace(
        have,
        protect=tuple(anchor(one, here) for one in have.protect),
        protect_read=tuple(anchor(one, here) for one in have.protect_read),
        allow_write=opened,
        disallowed_tools=tuple(map(rule, have.disallowed_tools)),
    )


def _plain(value: str, field: str, options: SessionOptions) -> str:
    """A value as it is looked for among the parent's."""
    return anchor(value, options.work_dir) if field == "allow_write" else value


def check_outside(home: str, places: Iterable[str], *, child: bool) -> None:
    """Whether places that a session is to write in keep clear of our own folder.

    In there it saw the daemon's socket. From above a child could put another folder in its place; a person's
    own session only has it hidden, because the usual place of it is the person's home.

    Args:
        home: our own folder. All paths are real ones.

    Raises:
        UsageError: one does not.
    """
    ours = PurePosixPath(home)
    for place in map(PurePosixPath, places):
        if place.is_relative_to(ours) or (child and ours.is_relative_to(place)):
            where = "lies in" if place.is_relative_to(ours) else "holds"
            raise UsageError(
                f"{place} {where} cms's own folder, {home}: no session may work there",
                hint="choose another folder",
            )


def least(*values: T | None) -> T | None:
    """The least that was said. Of two levels of containment that is the stricter: "A" asks for the most."""
    return min((value for value in values if value is not None), default=None)  # type: ignore[type-var] # texts or numbers


def joined(*lists: tuple[str, ...]) -> tuple[str, ...]:
    """All of them, each once."""
    return tuple(dict.fromkeys(one for values in lists for one in values))


def _value(options: SessionOptions, field: str) -> object:
    holder = options.limits if field in Limits.__struct_fields__ else options
    return getattr(holder, field, None)  # None: of a task, and not of its session


def _each(value: object) -> tuple[str, ...]:
    if isinstance(value, tuple):
        return value
    return (value,) if isinstance(value, str) and value else ()


def _check_within(folders: tuple[str, ...], roots: tuple[str, ...]) -> None:
    for folder in folders:
        if not any(PurePosixPath(folder).is_relative_to(root) for root in roots):
            raise _more(
                f"folder {folder}", f"this session works in {roots[0]}", "choose a folder inside that"
            )


def _left(asked: float | None, parent: SessionRecord) -> float | None:
    """What of its money a parent can still give."""
    cost = parent.options.limits.max_cost
    if cost is None:
        return asked
    left = cost - parent.total_cost_usd
    if left <= 0:
        raise UsageError(
            f"session {parent.name!r} has nothing left to spend: {money(parent.total_cost_usd)} of "
            f"${cost:.2f} are spent",
            hint="finish with what you have",
        )
    return left if asked is None else min(asked, left)


def _more(what: str, because: str, instead: str) -> UsageError:
    return UsageError(f"a session may not start one with {what}: {because}", hint=instead)
