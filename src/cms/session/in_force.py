"""Whether what was asked for by flag is in force, from what `claude` says before the first message. Pure.

In stream-json mode claude takes silently what its text mode refuses (measured on 2.1.332):
- an unknown `--agent`: the session runs without it. The answer to `initialize` lists those that there are.
- `--settings` that is no JSON, has a value of another shape or a rule that it cannot read: that part is left
  out, or all of it. `get_settings` tells of some of that in `errors`; else it is simply not there any more.
- an unknown `--effort`: the default is used. `get_settings` tells what is applied.
- a server of `--mcp-config` that cannot start. `mcp_status` tells.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import msgspec

from cms.protocol.messages import ServerStatus, SettingsReply

#: What `claude` calls the settings of `--settings`, those of the user, and those of a project.
_FLAG: Final = "flagSettings"
_USER: Final = "userSettings"
_PROJECT: Final = frozenset({"projectSettings", "localSettings"})
_RULES: Final = ("allow", "deny", "ask")
#: Keys that claude tells under another name.
_ALIASES: Final = {
    "additionalMarketplaces": "extraKnownMarketplaces",
    "allowedMarketplaces": "strictKnownMarketplaces",
}
#: Those that some model may not know.
_EFFORTS: Final = frozenset({"low", "medium", "high", "xhigh", "max"})


class Expected(msgspec.Struct, frozen=True):
    """What was asked for.

    Attributes:
        settings: what `--settings` says, and in which file.
        servers: the names of those of `--mcp-config`.
        user: what the user's own settings say.
        project: what of the project's settings may be in force.
        trusted: whether the project may start anything.
    """

    agent: str = ""
    effort: str = ""
    settings: Mapping[str, object] = {}
    settings_file: str = ""
    servers: tuple[str, ...] = ()
    user: Mapping[str, object] = {}
    project: Mapping[str, object] = {}
    trusted: bool = False


class Found(msgspec.Struct, frozen=True):
    """What came of it.

    Attributes:
        faults: asked for and not in force: the session must not begin.
        breaches: in force and not to be: this claude must not be used so.
        mistakes: of the user's own: to be told.
    """

    faults: tuple[str, ...] = ()
    breaches: tuple[str, ...] = ()
    mistakes: tuple[str, ...] = ()


def is_pending(expected: Expected, servers: Sequence[ServerStatus] | None) -> bool:
    """Whether a server that was asked for has still to come up."""
    states = {server.name: server.status for server in servers or ()}
    return any(states.get(name) == "pending" for name in expected.servers)


def check_in_force(
    expected: Expected, agents: Sequence[str], settings: SettingsReply, servers: Sequence[ServerStatus] | None
) -> Found:
    """What is not as it was asked for. Where claude says nothing, nothing is known against it.

    Args:
        agents: those that there are; none: claude does not say.
        servers: those that there are; None: claude does not say.
    """
    faults = list(_missing(expected, servers))
    mistakes: list[str] = []
    if expected.agent and agents and expected.agent not in agents:
        faults.append(f"--agent: there is no {expected.agent!r}; there are {', '.join(sorted(agents))}")
    applied, asked = settings.applied.effort, expected.effort.lower()
    if asked and settings.sources is not None and applied != asked:
        told = f"--effort {expected.effort} is not in effect: claude applies {applied or 'none'}"
        (mistakes if asked in _EFFORTS else faults).append(told)
    for error in settings.errors or ():
        told = " ".join(part for part in (f"{error.file}:", error.path, error.message) if part)
        if error.file == expected.settings_file:
            faults.append(f"--settings: {' '.join(part for part in (error.path, error.message) if part)}")
        else:
            mistakes.append(f"settings not in effect: {told}")
    if not faults:
        faults = [
            f"--settings: claude rejects {one}" for one in _rejected(expected.settings, _FLAG, settings)
        ]
    if not mistakes:
        mistakes = [
            f"settings not in effect: claude rejects {one} of the user's settings"
            for one in _rejected(expected.user, _USER, settings)
        ]
    return Found(tuple(faults), tuple(_breaches(expected, settings, servers or ())), tuple(mistakes))


def _missing(expected: Expected, servers: Sequence[ServerStatus] | None) -> Iterator[str]:
    found = {server.name: server for server in servers or ()}
    for name in expected.servers if servers is not None else ():
        server = found.get(name)
        if server is None:
            yield f"--mcp-config: claude does not know the server {name!r}"
        elif server.status != "connected":
            why = f": {server.error}" if server.error else ""
            yield f"--mcp-config: the server {name!r} is {server.status}{why}"


def _breaches(expected: Expected, settings: SettingsReply, servers: Sequence[ServerStatus]) -> Iterator[str]:
    """Where claude reads the project's own configuration all the same."""
    for server in servers:
        if server.scope == "project" and not expected.trusted and server.status == "connected":
            yield f"claude started the project's server {server.name!r}, which is not trusted"
    for source in settings.sources or ():
        if source.source in _PROJECT and (more := source.settings.keys() - expected.project.keys()):
            yield f"claude reads the project's own {source.source}: {', '.join(sorted(more))}"


def _rejected(said: Mapping[str, object], name: str, settings: SettingsReply) -> Iterator[str]:
    """What claude left out of settings without a word."""
    if settings.sources is None:
        return
    in_force = next((one.settings for one in settings.sources if one.source == name), {})
    for key, value in said.items():
        kept = in_force.get(_ALIASES.get(key, key))
        if key == "permissions" and isinstance(value, Mapping):
            for kind in _RULES:
                left = _list(kept.get(kind)) if isinstance(kept, Mapping) else []
                yield from (
                    f"the {kind} rule {rule!r}" for rule in _list(value.get(kind)) if rule not in left
                )
        elif value is not None and kept is None:
            yield f"the value of {key!r}"
        elif key == "hooks" and _hooks(kept) < _hooks(value):
            yield "a part of 'hooks'"


def _hooks(value: object) -> int:
    """How many hooks there are in the value of `hooks`."""
    groups = [group for one in value.values() for group in _list(one)] if isinstance(value, Mapping) else []
    return sum(len(_list(group.get("hooks"))) for group in groups if isinstance(group, Mapping))


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else []
