"""What a person may do from a page: stop, kill, answer. Only where the server was started with `--act`."""

from __future__ import annotations

from typing import Literal

import msgspec

from cms.errors import DaemonUnavailable, NothingAsked
from cms.rpc.questions import SESSION_ANSWER, SESSIONS_QUESTIONS, AnswerParams, QuestionsParams
from cms.rpc.sessions import (
    SESSION_CONTINUE,
    SESSION_KILL,
    SESSION_SEND,
    SESSION_STOP,
    ContinueParams,
    NameParams,
    SendParams,
    StopParams,
    StopResult,
)
from cms.session.model import Record
from cms.session.questions import answers_as_message
from cms.view.ask import Daemon

#: Bytes of one.
MOST = 256 * 1024
#: Seconds for a kill: where it takes longer there is another way.
_KILL_PATIENCE = 20.0


class Act(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One act, as a page posts it. The last four are for `answer` (`rpc.questions.AnswerParams`).

    Attributes:
        id: of what waits; "": the message has ended, and the answer is a new one.
    """

    act: Literal["stop", "kill", "answer"]
    name: str
    id: str = ""
    texts: tuple[str, ...] = ()
    deny: bool = False
    message: str = ""


class Done(Record, frozen=True):
    """What is told of it. `hint`: what to do where it was not done."""

    message: str
    hint: str = ""


def carry_out(daemon: Daemon, act: Act) -> Done:
    """Do it, and wait until it is done.

    Raises:
        CmsError: it was not.
    """
    if act.act == "answer":
        return _answer(daemon, act)
    if act.act == "stop":
        return _ended("stopped", daemon.call(SESSION_STOP, StopParams(act.name)))
    try:
        return _ended("killed", daemon.call(SESSION_KILL, NameParams(act.name), patience=_KILL_PATIENCE))
    except DaemonUnavailable as error:
        error.hint = f"cms kill {act.name} --force-local ends it without the daemon"
        raise


def _answer(daemon: Daemon, act: Act) -> Done:
    """What waits is answered where it stands; what has ended by asking, by a message (as by `cms answer`)."""
    if act.id:
        told = daemon.call(SESSION_ANSWER, AnswerParams(act.name, act.texts, act.id, act.deny, act.message))
        more = f"; {told.left} more to answer" if told.left else ""
        return Done(f"{told.session.name}: {'refused' if act.deny else 'answered'}{more}")
    asked = daemon.call(SESSIONS_QUESTIONS, QuestionsParams(act.name)).unanswered
    if not asked:
        raise NothingAsked(act.name)
    text = answers_as_message(act.name, asked[0].interaction.questions, act.texts)
    if asked[0].session.options.delegated:
        daemon.call(SESSION_CONTINUE, ContinueParams(act.name, text, detach=True))
    else:
        daemon.call(SESSION_SEND, SendParams(act.name, text, wait=False))
    return Done(f"{act.name}: answered, and at work again")


def _ended(how: str, result: StopResult) -> Done:
    name, receipt = result.session.name, result.receipt
    if receipt is None:
        return Done(f"{name}: it was not running")
    if receipt.empty:
        return Done(f"{name}: {how}, nothing of it is left running")
    left = f"{len(receipt.left)} of its processes may be left" if receipt.left else "that cannot be proved"
    return Done(f"{name}: {how}, but {left}", hint=f"cms status {name} has more")
