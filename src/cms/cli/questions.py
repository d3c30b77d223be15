"""`cms ask` and `cms answer`: what agents want to know or want to be allowed, and a person's word on it.

Two kinds of question. One that waits (`--ask-timeout`) holds its tool call until a person answers: the answer
goes to that call, and the work goes on where it stood. One that nobody waited for has ended its message with
`needs_input`; it is answered by going on with the session.
"""

from __future__ import annotations

import os
import time
from typing import Annotated

from cms.cli import flags, io, render
from cms.cli.flags import JsonFlag, NameFlag, NameWord
from cms.cli.terminal import Style, escape
from cms.errors import ExitCode, NothingAsked, UsageError
from cms.json_output import json_object
from cms.rpc.client import Client
from cms.rpc.questions import (
    SESSION_ANSWER,
    SESSIONS_QUESTIONS,
    AnswerParams,
    AnswerResult,
    QuestionsParams,
    QuestionsResult,
    Unanswered,
)
from cms.rpc.sessions import SESSION_CONTINUE, SESSION_SEND, ContinueParams, SendParams
from cms.session.next_step import next_step
from cms.session.questions import AskedQuestion, OpenQuestion, answers_as_message, choose
from cms.transcripts import has_transcript
from cms.units import ago, plural, short_span

#: Characters of what is to be permitted, on a terminal.
_SHOWN = 10_000
#: What `--json` tells of a message that ended because a person was needed.
_UNANSWERED = (
    "name=session.name status=session.status questions=interaction.questions denials=interaction.denials"
    " error=interaction.error timestamp=interaction.timestamp"
)


def ask(name: NameWord = None, /, *, name_flag: NameFlag = None, json: JsonFlag = False) -> int:
    """List questions and permissions that wait for a person.

    With --ask-timeout (spawn, delegate) a session waits that long for `cms answer`; then the call is refused.
    Without it, the message has ended with needs_input, and `cms answer` goes on with the session. While a
    session waits, --max-time runs on and --max-silence does not.

    Examples::

        cms ask
        cms ask fix-auth --json
    """
    if name is not None and name_flag is not None:
        flags.pick_name("ask", name, name_flag)
    with io.daemon() as client:
        reply = client.call(SESSIONS_QUESTIONS, QuestionsParams(name=name or name_flag or ""))
    if json:
        unanswered = [
            json_object(one, _UNANSWERED, can_continue=has_transcript(one.session, os.environ))
            for one in reply.unanswered
        ]
        io.show_json(json_object(reply, unanswered=unanswered))
    else:
        io.show_lines(ask_lines(reply, time.time(), io.out_style()))
    return ExitCode.COMPLETED


def answer(
    name: NameWord = None,
    /,
    *answers: Annotated[
        str,
        flags.word("A choice, its number or your own words, one per question; or allow, deny.", "ANSWER"),
    ],
    name_flag: NameFlag = None,
    id_: Annotated[
        str, flags.text_flag("--id", "Which question, if several wait (see `cms ask`).", "ID")
    ] = "",
    deny: Annotated[bool, flags.switch("--deny", "Refuse the tool call.")] = False,
    message: Annotated[str, flags.text_flag("--message", "With a refusal, tell the model why.")] = "",
    json: JsonFlag = False,
) -> int:
    """Answer a session's question, or allow or deny a tool call.

    If a question takes several choices, join them with commas. If the session no longer waits, the answer is
    sent as a message and its end is waited for.

    Examples::

        cms answer fix-auth Postgres
        cms answer fix-auth 2 "Auth, Logs"
        cms answer fix-auth deny --message "not on a Friday"
    """
    texts = answers
    if name_flag is not None:
        texts = (*(() if name is None else (name,)), *answers)
    who = name_flag if name_flag is not None else name
    if not who:
        raise UsageError(
            "answer needs the name of a session", hint=flags.usage_hint("answer", "NAME ANSWER...")
        )
    if not texts and not deny:
        raise UsageError("answer needs an answer", hint=f"cms ask {who} shows what it is asked")
    params = AnswerParams(name=who, texts=texts, id=id_, deny=deny, message=message)
    with io.daemon() as client:
        try:
            reply = client.call(SESSION_ANSWER, params)
        except NothingAsked:
            left = _ended_asking(client, who)
            if left is None or deny:
                raise
        else:
            return _told(reply, texts, json=json)
    return _go_on(left, texts, json=json)


def _ended_asking(client: Client, name: str) -> Unanswered | None:
    reply = client.call(SESSIONS_QUESTIONS, QuestionsParams(name=name))
    return reply.unanswered[0] if reply.unanswered else None


def _told(reply: AnswerResult, texts: tuple[str, ...], *, json: bool) -> int:
    if json:
        io.show_json(json_object(reply, "name=session.name question left"))
    else:
        more = f"; {plural(reply.left, 'question')} left" if reply.left else ""
        # A choice as it was understood: a number that was none went as the person's own words.
        said = [choose(asked, text) for asked, text in zip(reply.question.questions, texts, strict=False)]
        style = io.out_style()
        told = render.one_line("; ".join(said or texts or ("deny",)), style)
        io.show_lines([render.cut(f"{reply.session.name}: told {told}{more}", style.width, style)])
    return ExitCode.COMPLETED


def _go_on(asked: Unanswered, texts: tuple[str, ...], *, json: bool) -> int:
    """The message that asked has ended: the answer is a new message."""
    name, questions = asked.session.name, asked.interaction.questions
    if not questions:
        raise UsageError(
            f"{name} wanted a permission, and its message has ended without",
            hint=next_step(asked.session, asked.interaction) or "",
        )
    text = answers_as_message(name, questions, texts)
    if asked.session.options.delegated:
        from cms.cli.delegation import wait_and_show

        return wait_and_show(
            SESSION_CONTINUE, ContinueParams(name=name, message=text), name, detach=False, json=json
        )
    from cms.cli.sessions import send_and_show

    return send_and_show(name, SESSION_SEND, SendParams(name=name, message=text), detach=False, json=json)


# --- lines ----------------------------------------------------------------------------------------


def ask_lines(reply: QuestionsResult, now: float, style: Style) -> list[str]:
    """Every open call, then every message that ended asking, each with how to answer it."""
    if not reply.open and not reply.unanswered:
        return ["no questions"]
    found: list[str] = []
    several = {one.name for one in reply.open if sum(one.name == other.name for other in reply.open) > 1}
    for one in reply.open:
        found += [*_open_lines(one, now, style, by_id=one.name in several), ""]
    for ended in reply.unanswered:
        found += [*_ended_lines(ended, now, style), ""]
    return found[:-1]


def _open_lines(one: OpenQuestion, now: float, style: Style, *, by_id: bool) -> list[str]:
    left = short_span(max(0.0, one.expires - now))
    number = f" --id {one.id}" if by_id else ""
    if one.kind == "permission":
        what = render.one_line(f"{one.tool} {one.detail}", style)
        return [
            render.paint(f"{one.name} wants to use {what}", "1", style),
            *_whole_lines(one, style),
            f"  waits {left} more; cms answer {one.name} allow{number}, or deny",
        ]
    found = [render.paint(f"{one.name} asks, and waits {left} more", "1", style)]
    for question in one.questions:
        found += question_lines(question, style)
    blanks = " ".join("ANSWER" for _ in one.questions)
    return [*found, f"  cms answer {one.name} {blanks}{number}"]


def _whole_lines(one: OpenQuestion, style: Style) -> list[str]:
    """All of what is to be permitted, escaped, where the line above does not have all of it."""
    plain = one.detail.isprintable() and one.detail == " ".join(one.detail.split())
    if not one.whole or (one.whole == one.detail and plain):
        return []
    whole, more = one.whole[:_SHOWN], len(one.whole) - _SHOWN
    mark = "|" if style.icons != "unicode" else "\u2502"
    lines = [f"  {mark} {escape(line)}" for line in whole.split("\n")]
    if more > 0:
        lines.append(f"  {mark} [{more} more characters: cms ask {one.name} --json has all of it]")
    return lines


def question_lines(question: AskedQuestion, style: Style) -> list[str]:
    several = " (several, with commas)" if question.multi_select else ""
    found = [f"  {render.one_line(question.question, style)}{several}"]
    for number, choice in enumerate(question.choices, 1):
        about = f" - {choice.description}" if choice.description else ""
        found.append(f"    {number}. {render.one_line(choice.label + about, style)}")
    return found


def _ended_lines(one: Unanswered, now: float, style: Style) -> list[str]:
    name, last = one.session.name, one.interaction
    when = ago(last.ended or last.timestamp, now)
    found = [render.paint(f"{name} needed a person, {when}", "1", style)]
    for question in last.questions:
        found.append(f"  {render.one_line(question.question, style)}")
        found += [
            f"    {number}. {render.one_line(label, style)}"
            for number, label in enumerate(question.options, 1)
        ]
    found += [f"  {line}" for line in render.denial_lines(last.denials, style, most=3)]
    step = next_step(one.session, last)
    return [*found, f"  {render.safe(step, style)}"] if step else found
