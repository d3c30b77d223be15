"""Whether a folder's own configuration may run anything: what a person accepted, held against what is there.

Trust is for the content: for the items that were there when a person said yes. Fewer of them are trusted too;
one that is new or has changed makes the whole untrusted again, and the difference can be shown. Pure.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Final, Literal

import msgspec

from cms.session.project_config import Item, ItemKind

#: Who says so: a person with `cms trust`, a person in claude's own dialog, the settings, this session's flag.
TrustedBy = Literal["", "person", "claude", "settings", "session"]

#: How many single things are named before they are only counted.
_NAMED: Final = 6


class Grant(msgspec.Struct, frozen=True, omit_defaults=True, rename="camel"):
    """What a person accepted for a folder: exactly these items."""

    items: tuple[Item, ...] = ()
    at: float = 0.0
    by: TrustedBy = "person"


class Difference(msgspec.Struct, frozen=True):
    """What is there and was not accepted, or is no more what was."""

    new: tuple[Item, ...] = ()
    changed: tuple[tuple[Item, Item], ...] = ()  # as accepted, as it is
    gone: tuple[Item, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.new or self.changed)


class Standing(msgspec.Struct, frozen=True):
    """What is in force of a folder's configuration.

    Attributes:
        by: who trusts it; "" is nobody.
        items: everything that needs trust.
        rules: permission rules that are never in force.
        difference: to what was accepted once, if anything was.
    """

    folder: str
    by: TrustedBy = ""
    items: tuple[Item, ...] = ()
    rules: tuple[str, ...] = ()
    difference: Difference = Difference()

    @property
    def trusted(self) -> bool:
        return bool(self.by)

    @property
    def left_out(self) -> tuple[Item, ...]:
        """What is not in force: without trust all, with it what cannot be read."""
        return tuple(item for item in self.items if not self.by or item.kind == "unreadable")


def compare(accepted: Sequence[Item], present: Sequence[Item]) -> Difference:
    """What has changed since. What cannot be read is never in force, and changes nothing."""
    before = {item.key: item for item in accepted}
    now = {item.key: item for item in present if item.kind != "unreadable"}
    return Difference(
        tuple(item for key, item in now.items() if key not in before),
        tuple(
            (before[key], item)
            for key, item in now.items()
            if key in before and before[key].digest != item.digest
        ),
        tuple(item for key, item in before.items() if key not in now),
    )


def stand(
    folder: str,
    items: Sequence[Item],
    grants: Sequence[Grant],
    *,
    rules: Sequence[str] = (),
    always: TrustedBy = "",
    claude_accepted: bool = False,
) -> Standing:
    """Whether a folder is trusted.

    Args:
        items: what is there.
        grants: what was accepted for this folder, or for one that it stands in, the nearest first.
        always: trusted whatever it holds: by the settings, or by this session's flag.
        claude_accepted: whether a person said yes in claude's own dialog. That knows nothing of contents, so
            it counts for what is there when we first look, and a `Grant` keeps what that was.
    """
    accepted = [item for grant in reversed(grants) for item in grant.items]
    difference = compare(accepted, items)
    by: TrustedBy = always
    if not by and grants and not difference:
        by = grants[0].by
    if not by and not grants and claude_accepted:
        by = "claude"
    return Standing(folder, by, tuple(items), tuple(rules), difference if grants and not by else Difference())


_NOUNS: Final[dict[ItemKind, tuple[str, str]]] = {
    "hook": ("hook", "hooks"),
    "helper": ("helper command", "helper commands"),
    "server": ("MCP server", "MCP servers"),
    "environment": ("environment variable", "environment variables"),
    "setting": ("setting", "settings"),
    "plugin": ("plugin setting", "plugin settings"),
    "skill": ("skill with commands or rights", "skills with commands or rights"),
    "command": ("slash command with commands or rights", "slash commands with commands or rights"),
    "agent": ("agent with rights of its own", "agents with rights of their own"),
    "workflow": ("workflow", "workflows"),
    "program": ("program", "programs"),
    "unreadable": ("file that cannot be read", "files that cannot be read"),
}


def summary(items: Iterable[Item]) -> str:
    """In a line: `2 hooks, MCP server proj`."""
    names: dict[ItemKind, list[str]] = {}
    for item in items:
        if item.kind != "program":  # it comes with what starts it
            names.setdefault(item.kind, []).append(item.name or item.path)
    counts = Counter({kind: len(found) for kind, found in names.items()})
    parts = []
    for kind, count in counts.items():
        one, many = _NOUNS[kind]
        single = count == 1 and kind not in ("hook", "program")
        parts.append(f"{one} {names[kind][0]}" if single else f"{count} {one if count == 1 else many}")
    return ", ".join(parts[:_NAMED]) + (" ..." if len(parts) > _NAMED else "")


def notices(standing: Standing, *, every_tool: bool = False) -> tuple[str, ...]:
    """What the verdict says about it: what was left out, and how to let it in.

    `every_tool`: the preset permits every tool, and no rule would permit more.
    """
    said = []
    if standing.left_out:
        why = "changed since it was trusted" if standing.difference else "not trusted"
        if standing.trusted:
            said.append(f"not loaded from {standing.folder}: {summary(standing.left_out)}")
        else:
            said.append(
                f"not loaded from {standing.folder} ({why}): {summary(standing.left_out)}; "
                f"`cms trust {standing.folder}` shows it, and can trust it"
            )
    if standing.rules and not every_tool:
        shown = ", ".join(standing.rules[:_NAMED]) + (" ..." if len(standing.rules) > _NAMED else "")
        said.append(f"permission rules of {standing.folder} do not count ({shown}); use --allow")
    return tuple(said)
