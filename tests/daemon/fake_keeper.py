"""The half of a fake supervisor of what is asked of it: what a test puts there, what was asked."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec
import trio

from cms.errors import NothingAsked, SessionNotFound, WrongStatus
from cms.rpc.money import Grouping
from cms.session.audit import AuditLog
from cms.session.model import LIVE, Interaction, LiveSession, Receipt, SessionRecord, SessionStatus
from cms.session.questions import OpenQuestion, read_answer
from cms.store.records import Total
from cms.store.trash import Retired


class FakeKeeper:
    records: dict[str, SessionRecord]

    def __init__(self) -> None:
        self.open_questions: list[OpenQuestion] = []
        self.needed: list[tuple[SessionRecord, Interaction]] = []
        self.spent: list[Total] = []
        self.alive: list[LiveSession] = []
        self.quiet: dict[str, trio.Event] = {}  # a name that is not in here has nothing to do
        self.words: list[object] = []

    def _become(self, name: str, status: SessionStatus) -> SessionRecord:
        self.records[name] = msgspec.structs.replace(self.records[name], status=status)
        return self.records[name]

    async def fork(self, name: str, new_name: str, *, model: str = "") -> SessionRecord:
        raise SessionNotFound(name)

    async def pause(self, name: str, *, freeze: bool = False) -> SessionRecord:
        if self.records[name].status not in LIVE:
            raise WrongStatus(name, self.records[name].status, "be paused")
        return self._become(name, SessionStatus.PAUSED)

    async def delete(
        self, name: str, *, force: bool = False, purge: bool = False
    ) -> tuple[SessionRecord, Receipt | None, Retired]:
        if self.records[name].status in LIVE and not force:
            raise WrongStatus(name, self.records[name].status, "be deleted")
        return self.records.pop(name), None, Retired(None if purge else Path("/trash") / name, 10)

    async def audit(self, name: str, head: str = "") -> AuditLog:
        return AuditLog(name, self.records[name].id, (), None)

    async def forget_audits(self, before: float, *, dry_run: bool) -> int:
        return 0

    async def wait_quiet(self, name: str) -> None:
        if name in self.quiet:
            await self.quiet[name].wait()

    def live(self) -> list[LiveSession]:
        return self.alive

    def questions(self, name: str = "") -> list[OpenQuestion]:
        return [one for one in self.open_questions if name in ("", one.name)]

    def answer(
        self, name: str, question_id: str, texts: Sequence[str], *, deny: bool = False, message: str = ""
    ) -> OpenQuestion:
        waiting = self.questions(name)
        if not waiting:
            raise NothingAsked(name)
        self.words.append(read_answer(waiting[0], texts, deny=deny, message=message))
        self.open_questions.remove(waiting[0])
        return waiting[0]

    async def unanswered(self, name: str = "") -> list[tuple[SessionRecord, Interaction]]:
        return [one for one in self.needed if name in ("", one[0].name)]

    async def totals(self, by: Grouping, *, since: float | None = None) -> list[Total]:
        return self.spent
