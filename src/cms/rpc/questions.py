"""What waits for a person's word, and that word."""

from __future__ import annotations

from cms.rpc.verbs import Verb
from cms.session.model import Interaction, Record, SessionRecord
from cms.session.questions import OpenQuestion


class Unanswered(Record, frozen=True):
    """A message that ended because a person was needed: answered by going on with the session."""

    session: SessionRecord
    interaction: Interaction


class QuestionsParams(Record, frozen=True):
    name: str = ""  # "": all sessions


class QuestionsResult(Record, frozen=True):
    open: tuple[OpenQuestion, ...]
    unanswered: tuple[Unanswered, ...]


class AnswerParams(Record, frozen=True):
    """A person's word on a call that waits.

    `texts` for a question: one answer for each, a choice's label or number (several with commas where that
    is allowed) or words of one's own. For a permission: `allow` or `deny`.
    """

    name: str
    texts: tuple[str, ...] = ()
    id: str = ""  # "": the only one that waits
    deny: bool = False
    message: str = ""  # for the model: why not


class AnswerResult(Record, frozen=True):
    session: SessionRecord
    question: OpenQuestion
    left: int  # that still wait in this session


SESSIONS_QUESTIONS = Verb("sessions.questions", QuestionsParams, QuestionsResult, idempotent=True)
SESSION_ANSWER = Verb("session.answer", AnswerParams, AnswerResult)
