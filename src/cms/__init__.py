"""cms: many Claude Code sessions, kept alive, held to limits, provably stopped.

The library in one piece of code:

    import trio
    import cms

    async def main():
        async with cms.open_supervisor() as supervisor:
            options = cms.SessionOptions(
                name="fix-auth", work_dir="/src/app", limits=cms.Limits(max_cost=1.0, max_turns=30)
            )
            result = await supervisor.delegate(options, "Fix the login bug and run the tests")
            print(result.status, result.cost, result.response)

    trio.run(main)

A map of the house, in reading order; imports point upward only:

- `errors`: what can go wrong, sorted by whose fault it is; exit codes.
- `session.model`: the records: session, interaction, limits, verdict, receipt.
- `config`: places, defaults, where `claude` is found.
- `protocol`: bytes to typed events and back, without I/O; options to argv.
- `session`: what the events mean (`state`), what they cost (`ledger`), what to do about it (`decide`).
- `containment`, `protection`, `live`, `fleet`: process trees, protected paths, one session, all sessions.
- `store`: the store in SQLite, the raw line logs.
- `rpc`, `daemon`, `cli`: from a shell to the supervisor and back.
- `testing`: the scripted model and the simulated agent, for demos, drills and tests.

Importing this package loads nothing else: commands that only ask must start fast.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cms._version import __version__

if TYPE_CHECKING:
    from cms.config import Settings, load_settings
    from cms.errors import CmsError, ExitCode
    from cms.fleet.supervisor import Supervisor, open_supervisor
    from cms.session.model import (
        DelegateResult,
        Interaction,
        Limits,
        Outcome,
        Progress,
        Receipt,
        Reply,
        SessionOptions,
        SessionRecord,
        SessionStatus,
    )

_HOMES = {
    "CmsError": "cms.errors",
    "DelegateResult": "cms.session.model",
    "ExitCode": "cms.errors",
    "Interaction": "cms.session.model",
    "Limits": "cms.session.model",
    "Outcome": "cms.session.model",
    "Progress": "cms.session.model",
    "Receipt": "cms.session.model",
    "Reply": "cms.session.model",
    "SessionOptions": "cms.session.model",
    "SessionRecord": "cms.session.model",
    "SessionStatus": "cms.session.model",
    "Settings": "cms.config",
    "Supervisor": "cms.fleet.supervisor",
    "load_settings": "cms.config",
    "open_supervisor": "cms.fleet.supervisor",
}

__all__ = [
    "CmsError",
    "DelegateResult",
    "ExitCode",
    "Interaction",
    "Limits",
    "Outcome",
    "Progress",
    "Receipt",
    "Reply",
    "SessionOptions",
    "SessionRecord",
    "SessionStatus",
    "Settings",
    "Supervisor",
    "__version__",
    "load_settings",
    "open_supervisor",
]


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'cms' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(home), name)


def __dir__() -> list[str]:
    return __all__
