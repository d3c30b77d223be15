"""Sessions that are none: what a task does stands in its prompt, and what was done is written down.

A prompt is a list of words, one for each try; the last one holds for all further tries.

    "ok"            completes after a while
    "fail"          fails without having acted
    "acts-fail"     fails, and may have changed something
    "529"           the API is overloaded, before it has answered
    "late-529"      the same after some turns
    "limit:60"      a usage limit ends it, that resets in so many seconds
    "401"           refused credentials
    "unfit"         a claude that is none to work with
    "hang"          never ends by itself
    "unverified"    its checks fail
    "taken"         could not begin: the name is taken
    "changes:/x"    completes, and has left a change that is kept there
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import AsyncGenerator

import msgspec
import trio

from cms.batch.ends import Found, Report, Used
from cms.batch.forecast import View
from cms.batch.retry import Remains
from cms.errors import ClaudeUnfit, NameTaken
from cms.fleet.batch_sessions import News
from cms.fleet.delegation import Accepted
from cms.session.model import (
    Attachment,
    ChangeSummary,
    DelegateResult,
    Interaction,
    Outcome,
    Safety,
    SessionOptions,
)

COST = 0.01
TOKENS = 100  # of each turn


class Session(msgspec.Struct):
    """What is left of the tries of one name."""

    name: str
    prompt: str
    spent: float = 0.0
    messages: int = 0
    tools: tuple[str, ...] = ()
    finished: int = 0
    turns: int = 0
    result: DelegateResult | None = None


class FakeSessions:
    """Attributes:
    begun: how often each task was begun, from the start or again.
    completed: how often each was brought to its good end.
    most: how many were at work at once, at most.
    """

    def __init__(self, *, seed: int = 1, longest: float = 30.0) -> None:
        self.chance = random.Random(seed)  # noqa: S311 - a test's luck
        self.longest = longest
        self.sessions: dict[str, Session] = {}
        self.begun: Counter[str] = Counter()
        self.completed: Counter[str] = Counter()
        self.prompts: dict[str, str] = {}
        self.told: dict[str, list[str]] = {}
        self.kept: list[str] = []
        self.at_work: set[str] = set()
        self.most = 0
        self.starts: list[float] = []
        self.surroundings = "v1 clean"
        self.views: dict[str, View] = {}

    async def begin(
        self,
        options: SessionOptions,
        prompt: str,
        context: str,
        accepted: Accepted,
        attachments: tuple[Attachment, ...] = (),
    ) -> DelegateResult:
        if "taken" in prompt:
            raise NameTaken(options.name)
        assert options.name not in self.sessions, "somebody else's session would be overwritten"
        self.sessions[options.name] = Session(options.name, prompt)
        self.prompts[options.name] = f"{prompt}{context}"
        return await self._work(options.name, accepted)

    async def go_on(self, name: str, message: str, accepted: Accepted) -> DelegateResult:
        self.told.setdefault(name, []).append(message)
        return await self._work(name, accepted)

    async def _work(self, name: str, accepted: Accepted) -> DelegateResult:
        assert name not in self.at_work, "nothing is done twice at once"
        session = self.sessions[name]
        session.messages += 1
        session.result = None
        self.at_work.add(name)
        self.most = max(self.most, len(self.at_work))
        self.starts.append(trio.current_time())
        words = session.prompt.split()
        word = words[min(self.begun[name], len(words) - 1)]
        self.begun[name] += 1
        accepted(Interaction("i", "s", session.messages, "delegate", session.prompt, 0.0))
        try:
            if word == "hang":
                session.tools, session.turns = (*session.tools, "Edit"), session.turns + 1
                await trio.sleep_forever()
            await trio.sleep(self.chance.uniform(0, self.longest))
        finally:
            self.at_work.discard(name)
        session.result = self._result(session, word)
        session.spent += session.result.cost
        session.turns += session.result.turns
        return session.result

    def _result(self, session: Session, word: str) -> DelegateResult:
        good = DelegateResult(
            status=Outcome.COMPLETED,
            name=session.name,
            response=f"answer of {session.name}",
            error=None,
            cost=COST,
            turns=1,
            duration=1000,
            tools_used=(),
            can_continue=True,
            safety=Safety(),
            session_id=session.name,
        )
        bad = msgspec.structs.replace(good, status=Outcome.FAILED, response="", error=word)
        kind, _, value = word.partition(":")
        match kind:
            case "fail" | "unfit":
                return bad
            case "acts-fail":
                session.tools = (*session.tools, "Bash")
                return bad
            case "unverified":
                return msgspec.structs.replace(bad, status=Outcome.VERIFICATION_FAILED)
            case "529" | "401":
                return msgspec.structs.replace(bad, api_status=int(kind), cost=0.0, turns=0)
            case "late-529":
                return msgspec.structs.replace(bad, api_status=529)
            case "limit":
                limited = msgspec.structs.replace(bad, status=Outcome.RATE_LIMITED, api_status=429)
                return msgspec.structs.replace(limited, resets_at=self.now() + float(value))
            case _:
                self.completed[session.name] += 1
                change = ChangeSummary("kept", files=3, place=value) if kind == "changes" else None
                return msgspec.structs.replace(good, change=change)

    def now(self) -> float:
        raise NotImplementedError  # given by the test, which has the engine's clock

    def unfit(self, name: str) -> ClaudeUnfit | None:
        result = self.sessions[name].result
        return ClaudeUnfit("2.0.1", "it is too old", "2.1") if result and result.error == "unfit" else None

    async def around(self, work_dir: str) -> str:
        return self.surroundings

    async def view(self, options: SessionOptions) -> View | None:
        return self.views.get(options.isolate)

    async def used(self, name: str) -> Used:
        session = self.sessions.get(name)
        return Used() if session is None else Used(session.spent, session.turns * TOKENS)

    async def make_room(self, name: str) -> None:
        self.sessions.pop(name, None)

    async def allowed_tools(self, name: str) -> tuple[str, ...]:
        session = self.sessions.get(name)
        return () if session is None else session.tools

    async def traces(self, name: str, before: str, messages: int, *, check: bool) -> Found:
        session = self.sessions.get(name)
        if session is None or session.messages <= messages:
            return None
        if session.result is not None:
            return Report(session.result)
        return Remains(True, session.turns, session.tools, session.tools[session.finished :])

    async def news(self, name: str) -> AsyncGenerator[News, None]:
        await trio.sleep(0.5)
        yield "answered"

    async def keep(self, name: str) -> None:
        self.kept.append(name)
