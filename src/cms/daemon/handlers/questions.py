"""What waits for a person's word, and what is alive, on top of a supervisor."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from cms.daemon.call import Handler, bind, quick
from cms.rpc.overview import SESSIONS_OVERVIEW, USAGE_GET, OverviewResult, UsageResult
from cms.rpc.questions import (
    SESSION_ANSWER,
    SESSIONS_QUESTIONS,
    AnswerParams,
    AnswerResult,
    QuestionsParams,
    QuestionsResult,
    Unanswered,
)
from cms.rpc.verbs import Nothing

if TYPE_CHECKING:
    from cms.fleet.supervisor import Supervisor


class QuestionHandlers:
    """The verbs of questions and of the overview, bound to one supervisor."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self.all: tuple[Handler, ...] = (
            bind(SESSIONS_QUESTIONS, quick(self.questions)),
            bind(SESSION_ANSWER, quick(self.answer)),
            bind(SESSIONS_OVERVIEW, quick(self.overview)),
            bind(USAGE_GET, quick(self.usage)),
        )

    async def questions(self, params: QuestionsParams) -> QuestionsResult:
        if params.name:
            await self._supervisor.get(params.name)
        unanswered = await self._supervisor.unanswered(params.name)
        return QuestionsResult(
            tuple(self._supervisor.questions(params.name)), tuple(Unanswered(*one) for one in unanswered)
        )

    async def answer(self, params: AnswerParams) -> AnswerResult:
        session = await self._supervisor.get(params.name)
        question = self._supervisor.answer(
            params.name, params.id, params.texts, deny=params.deny, message=params.message
        )
        return AnswerResult(session, question, len(self._supervisor.questions(params.name)))

    async def overview(self, _params: Nothing) -> OverviewResult:
        budget = await self._supervisor.budget()
        plan = await self._supervisor.plan_usage()
        return OverviewResult(tuple(self._supervisor.live()), budget.today.spent, time.time(), plan)

    async def usage(self, _params: Nothing) -> UsageResult:
        return UsageResult(await self._supervisor.plan_usage(), time.time())
