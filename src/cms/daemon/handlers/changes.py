"""What isolated sessions have changed, on top of a supervisor."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from cms import changes
from cms.changes import as_text
from cms.daemon.call import Handler, bind, quick
from cms.fleet import applying
from cms.rpc.changes import (
    CHANGE_APPLY,
    CHANGE_DIFF,
    CHANGE_DISCARD,
    CHANGE_EXPORT,
    ApplyParams,
    ApplyResult,
    DiffParams,
    DiffResult,
    DiscardParams,
    DiscardResult,
    ExportParams,
    ExportResult,
    LeftPath,
)

if TYPE_CHECKING:
    from cms.fleet.supervisor import Supervisor

#: Paths that are named one by one in an answer.
_MOST = 20_000


class ChangeHandlers:
    """The verbs of changes, bound to one supervisor."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self.all: tuple[Handler, ...] = (
            bind(CHANGE_DIFF, quick(self.diff)),
            bind(CHANGE_APPLY, quick(self.apply)),
            bind(CHANGE_DISCARD, quick(self.discard)),
            bind(CHANGE_EXPORT, quick(self.export)),
        )

    async def diff(self, params: DiffParams) -> DiffResult:
        shown = await applying.show(self._supervisor, params.name)
        change = shown.change
        patch = ""
        if params.patch:
            patch = str(await self._supervisor.changes.write_patch(shown.session, shown.keep))
        return DiffResult(
            name=shown.session.name,
            folder=change.folder,
            change=shown.summary,
            stat=changes.stat_text(change, width=params.width),
            patch=patch,
            files=changes.rows(change)[:_MOST] if params.files else (),
            left_out=tuple(LeftPath(as_text(one.path), one.why) for one in change.left_out[:_MOST]),
            commits=() if change.commits is None else change.commits.subjects,
            live=shown.live,
        )

    async def apply(self, params: ApplyParams) -> ApplyResult:
        session = await self._supervisor.get(params.name)
        folder = session.options.work_dir
        if params.branch:
            commit = await applying.bring_branch(self._supervisor, params.name, params.branch)
            return ApplyResult(session.name, folder, applied=True, branch=params.branch, commit=commit)
        outcome = await applying.apply(
            self._supervisor, params.name, conflict_markers=params.conflict_markers
        )
        return ApplyResult(
            session.name,
            folder,
            applied=outcome.applied,
            written=_texts(outcome.written),
            merged=_texts(outcome.merged),
            marked=_texts(outcome.marked),
            refused=tuple(
                LeftPath(as_text(one.path), one.why, one.detail) for one in outcome.refused[:_MOST]
            ),
        )

    async def discard(self, params: DiscardParams) -> DiscardResult:
        return DiscardResult(params.name, await applying.discard(self._supervisor, params.name))

    async def export(self, params: ExportParams) -> ExportResult:
        files, whole = await applying.export(self._supervisor, params.name, Path(params.target))
        return ExportResult(params.name, params.target, files, whole)


def _texts(paths: tuple[bytes, ...]) -> tuple[str, ...]:
    return tuple(map(as_text, paths[:_MOST]))
