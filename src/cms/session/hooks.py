"""What a person wants to hear of one message: hooks, a webhook, notifications; and what they are told."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from cms.session.model import Interaction, Outcome, Record, SessionRecord

if TYPE_CHECKING:  # who only hands hooks on does without it
    from cms.session.questions import OpenQuestion

HookEvent = Literal["done", "fail", "ask"]


class Hooks(Record, frozen=True):
    """What is to be done when a message ends, or needs a person.

    They belong to a message, not to its session: nothing that lists, exports or copies a session can hold
    them, for their addresses are secrets. The store keeps them until they have been told.

    Attributes:
        on_done, on_fail, on_ask: shell lines that get the news on stdin.
        webhook: it is posted there.
        notify: addresses of apprise: a desktop, a phone, a chat.
    """

    on_done: str = ""
    on_fail: str = ""
    on_ask: str = ""
    webhook: str = ""
    notify: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return self != Hooks()

    def __repr__(self) -> str:
        return "<Hooks>"  # never into a log

    def command(self, event: HookEvent) -> str:
        """The shell line for it, or ""."""
        return {"done": self.on_done, "fail": self.on_fail, "ask": self.on_ask}[event]


class SessionNews(Record, frozen=True):
    """What is told: facts, no options, no prompt and no answer."""

    event: HookEvent
    name: str
    session_id: str
    work_dir: str
    message: int  # its number in the session
    outcome: Outcome | None
    error: str
    reasons: tuple[str, ...]
    questions: tuple[str, ...]  # what a person is asked, a line each
    cost: float
    cost_exact: bool
    total_cost_usd: float
    turns: int
    tool_calls: int
    duration: float  # told in milliseconds


#: Of `SessionNews` as JSON (`json_output`).
TOLD = (
    "event name session_id work_dir message outcome error reasons questions cost cost_exact total_cost_usd"
    " turns tool_calls duration:ms"
)


def event_of(outcome: Outcome | None) -> HookEvent:
    """What the end of a message is."""
    if outcome is Outcome.COMPLETED:
        return "done"
    return "ask" if outcome is Outcome.NEEDS_INPUT else "fail"


def news_of_end(session: SessionRecord, done: Interaction) -> SessionNews:
    """A message has ended."""
    asked = tuple(one.question for one in done.questions)
    return _news(event_of(done.outcome), session, done, asked)


def news_of_question(session: SessionRecord, running: Interaction, asked: OpenQuestion) -> SessionNews:
    """A call of it waits for a person."""
    lines = tuple(one.question for one in asked.questions) or (f"{asked.tool} {asked.detail}".strip(),)
    return _news("ask", session, running, lines)


def _news(
    event: HookEvent, session: SessionRecord, message: Interaction, questions: tuple[str, ...]
) -> SessionNews:
    return SessionNews(
        event=event,
        name=session.name,
        session_id=session.id,
        work_dir=session.options.work_dir,
        message=message.number,
        outcome=message.outcome,
        error=message.error,
        reasons=message.reasons,
        questions=questions,
        cost=message.cost,
        cost_exact=message.cost_exact,
        total_cost_usd=session.total_cost_usd,
        turns=message.turns,
        tool_calls=message.tool_calls,
        duration=message.duration,
    )


def title_and_body(news: SessionNews) -> tuple[str, str]:
    """For a notification: what happened in a line, and what there is to know."""
    if news.event == "ask":
        title = f"{news.name} asks"
        end = f"cms answer {news.name}" if news.outcome is None else f"cms continue {news.name} ANSWER"
        body = [*news.questions, end]
    else:
        title = f"{news.name}: {(news.outcome or Outcome.FAILED).value.replace('_', ' ')}"
        about = "" if news.cost_exact else "at least "
        body = [*filter(None, [news.error]), f"{about}${news.cost:.2f}, {news.turns} turns"]
    return f"cms: {title}", "\n".join(body)
