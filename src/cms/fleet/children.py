"""Sessions that were started by sessions: admission, the shared budget, their common end.

The rules are `session.lineage`'s; here they meet what is alive. Who calls is `config.caller`, a context
variable, so that whatever starts sessions (a message, a delegation, a batch) is held to them without knowing.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from pathlib import Path

import msgspec

from cms.config import caller
from cms.disk import ask_disk
from cms.errors import InternalError, UsageError, WrongStatus
from cms.layers import narrow
from cms.live.runner import Runner
from cms.protection.links import locate
from cms.protection.rules import load_rules, real_folders
from cms.session.callers import ChildLimits
from cms.session.gate import Rules
from cms.session.lineage import check_depth, check_outside, check_room, scope
from cms.session.model import LIVE, SessionOptions, SessionRecord, SessionStatus


class Children:
    """Who of the live sessions belongs to whom."""

    def __init__(
        self,
        child_limits: ChildLimits,
        runners: Mapping[str, Runner],
        find: Callable[[str], Awaitable[SessionRecord]],
        home: Path,
    ) -> None:
        self._child_limits = child_limits
        self._runners = runners
        self._find = find  # a session by its id
        self._home = home

    async def admit(self, options: SessionOptions, environ: Mapping[str, str]) -> SessionOptions:
        """The options of a new session as its starter may have them.

        Args:
            environ: the session's.

        Raises:
            UsageError: it may not have them at all.
            WrongStatus: the starter has ended.
        """
        who = caller.get()
        check_depth(who, options, self._child_limits)
        self.check_room()
        await self.check_folders(options, environ, child=bool(who.session_id))
        if not who.session_id:
            return options
        parent = await self._find(who.session_id)
        if parent.status not in LIVE:
            raise WrongStatus(parent.name, str(parent.status), "start sessions")
        options = await _narrow(options, parent)
        rules = await load_rules(parent.options, environ)
        folders = (options.work_dir, *options.add_dirs)
        await ask_disk(lambda: _check_unprotected(rules, folders), f"the folders of {options.name!r}")
        return options

    async def narrow_again(self, record: SessionRecord, options: SessionOptions) -> SessionOptions:
        """Other options for a session that a session started, as they may be: like those of a new one.

        A person may give it more than it could have got from its parent.

        Raises:
            UsageError: it may not have them at all.
        """
        who, here = caller.get(), record
        while who.session_id and here.id != who.session_id:
            above = await self._above(here)
            if above is None:
                break
            options, here = await _narrow(options, above), above
        return options

    async def check_folders(
        self, options: SessionOptions, environ: Mapping[str, str], *, child: bool
    ) -> None:
        """Whether a session keeps clear of our own folder.

        Raises:
            UsageError: it does not.
            DiskTimeout: its folders do not answer.
        """

        def look() -> tuple[str, list[str]]:
            anchored = [one for one in options.allow_write if one.startswith(("/", "~", "."))]
            user = environ.get("HOME") or str(Path.home())
            opened = [user + one[1:] if one.startswith("~") else one for one in anchored]
            fixed = [one.split("*")[0] for one in opened]  # as far as it names a place
            places = [os.path.realpath(Path(options.work_dir, one)) for one in fixed]
            return os.path.realpath(self._home), [*real_folders(options), *places]

        home, places = await ask_disk(look, f"the folders of {options.name!r}")
        check_outside(home, places, child=child)

    async def check_unmoved(self, record: SessionRecord) -> None:
        """Whether the folders of a session that a session started are still those that it was given.

        They lie where its parent writes, which could put a link to any place in their stead: a work dir is
        writable, wherever it lies. What a person names may be a link.

        Raises:
            UsageError: one is not.
            DiskTimeout: its folders do not answer.
        """
        options = record.options
        if not record.started_by:
            return
        real = await ask_disk(lambda: real_folders(options), f"the folders of {options.name!r}")
        for was, now in zip((options.work_dir, *options.add_dirs), real, strict=True):
            if was != now:
                raise UsageError(
                    f"{was} now leads to {now}; a session may not start there again",
                    hint="start another session in its own folder",
                )

    def check_room(self) -> None:
        """Whether one more process may come up for whoever calls. No await between this and the process.

        Raises:
            UsageError: there are enough.
        """
        check_room(
            caller.get(), (r.record for r in self._runners.values() if not r.ending), self._child_limits
        )

    async def scopes(self, record: SessionRecord) -> tuple[str, ...]:
        """The shared budgets that a session's messages are charged to: its own, and those above it."""
        found = []
        here: SessionRecord | None = record
        while here is not None:
            if here.options.allow_cms and here.options.limits.max_cost is not None:
                found.append(scope(here.id))
            here = await self._above(here)
        return tuple(found)

    async def descends(self, record: SessionRecord, ancestor_id: str) -> bool:
        """Whether a session was started by another one, or by one that it started, and so on."""
        here: SessionRecord | None = record
        while here is not None:
            if here.started_by == ancestor_id:
                return True
            here = await self._above(here)
        return False

    async def _above(self, record: SessionRecord) -> SessionRecord | None:
        """The session that started this one, unless nobody did or it was deleted since."""
        try:
            return await self._find(record.started_by) if record.started_by else None
        except InternalError:
            return None

    def end_with(self, record: SessionRecord) -> None:
        """A session's process has ended: begin the end of those that it started."""
        for runner in self.below(record.id):
            if record.status is SessionStatus.KILLED:
                runner.kill(f"{record.name}, which started it, was killed")
            else:
                runner.stop(f"{record.name}, which started it, has ended")

    async def wait_gone(self, session_id: str) -> None:
        """Until nothing that a session started, at any remove, and whose end has begun is left."""
        for runner in list(self.below(session_id)):
            if runner.ending:
                await runner.wait_gone()

    def below(self, session_id: str) -> Iterator[Runner]:
        """Live descendants. A dead one in between hides nobody: its children ended with it."""
        for runner in list(self._runners.values()):
            if runner.record.started_by == session_id:
                yield runner
                yield from self.below(runner.record.id)


def _check_unprotected(rules: Rules, folders: Iterable[str]) -> None:
    """Whether a child's folders are open to its parent: a work dir is writable, wherever it lies.

    Raises:
        UsageError: one is not.
    """
    for folder in folders if rules.safety else ():
        if pattern := rules.paths.match(locate(rules.paths, folder)):
            raise UsageError(
                f"a session may not start one in {folder}: {pattern} is protected",
                hint="choose another folder",
            )


async def _narrow(options: SessionOptions, parent: SessionRecord) -> SessionOptions:
    own = await _real(parent.options)
    return narrow(await _real(options), msgspec.structs.replace(parent, options=own))


async def _real(options: SessionOptions) -> SessionOptions:
    """With links resolved in the folders, so that a link is no way out of the parent's."""
    folders = await ask_disk(lambda: real_folders(options), f"the folders of {options.name!r}")
    return msgspec.structs.replace(options, work_dir=folders[0], add_dirs=folders[1:])
