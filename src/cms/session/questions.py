"""What in a live session waits for a person, and what a person answers.

Values, like those of `model`, in a module of their own because the store does not keep them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from cms.errors import UsageError
from cms.session.model import Question, Record
from cms.units import plural


class Choice(Record, frozen=True):
    """One answer that the model offers to its own question."""

    label: str
    description: str = ""


class AskedQuestion(Record, frozen=True):
    """One question of the model's to a person (AskUserQuestion), with what it offers as answers."""

    question: str
    header: str = ""
    choices: tuple[Choice, ...] = ()
    multi_select: bool = False


class OpenQuestion(Record, frozen=True):
    """A tool call that waits for a person's answer.

    Attributes:
        id: names it within its session.
        kind: `question`: the model asks something; `permission`: it wants to do what nobody has permitted.
        detail: the path, the command: what it is about, in a line.
        whole: all of that: a command with all its lines, the input of a tool that we do not know.
        asked, expires: seconds since the epoch; at `expires` it is refused.
    """

    name: str
    id: str
    kind: Literal["question", "permission"]
    tool: str
    detail: str
    questions: tuple[AskedQuestion, ...]
    asked: float
    expires: float
    whole: str = ""


# --- what a person answers ---------------------------------------------------------------------


class PersonAnswer(Record, frozen=True):
    """What a person said to a call that waited.

    Attributes:
        answers: by question, for a question of the model's that is allowed.
        message: why it is denied, for the model.
    """

    allow: bool
    answers: dict[str, str]
    message: str = ""


def read_answer(asked: OpenQuestion, texts: Sequence[str], *, deny: bool, message: str) -> PersonAnswer:
    """What was typed, as an answer to that call.

    Raises:
        UsageError: it is no answer to what was asked; the hint says what would be.
    """
    if deny:
        if texts:
            raise UsageError("an answer and --deny exclude each other", hint="give one of them")
        return PersonAnswer(False, {}, message)
    if asked.kind == "permission":
        known = {"allow": True, "yes": True, "y": True, "deny": False, "no": False, "n": False}
        allow = known.get(texts[0].casefold()) if len(texts) == 1 else None
        if allow is None:
            raise UsageError(
                f"{asked.name} asks to be allowed to use {asked.tool}",
                hint=f"cms answer {asked.name} allow, or cms answer {asked.name} deny",
            )
        return PersonAnswer(allow, {}, message)
    if len(texts) != len(asked.questions):
        raise UsageError(
            f"{asked.name} asks {plural(len(asked.questions), 'question')}, and "
            f"{plural(len(texts), 'answer')} came",
            hint=f"give one answer for each, in order; cms ask {asked.name} shows them",
        )
    pairs = zip(asked.questions, texts, strict=True)
    return PersonAnswer(True, {question.question: choose(question, text) for question, text in pairs})


def answers_as_message(name: str, questions: Sequence[Question], texts: Sequence[str]) -> str:
    """The answers to what a message has asked that is over: the message by which the session goes on.

    Raises:
        UsageError: these are more or fewer than it asked.
    """
    if len(texts) != len(questions):
        raise UsageError(
            f"{name} asked {plural(len(questions), 'question')}, and {plural(len(texts), 'answer')} came",
            hint=f"give one answer for each, in order; cms ask {name} shows them",
        )
    return "\n".join(
        f"The answer to your question {question.question!r}: {_option(question, text)}"
        for question, text in zip(questions, texts, strict=True)
    )


def _option(question: Question, text: str) -> str:
    """The option that is meant by its words, or by its number from 1."""
    by_number = text.isdecimal() and 1 <= int(text) <= len(question.options)
    return question.options[int(text) - 1] if by_number and text not in question.options else text


def choose(question: AskedQuestion, text: str) -> str:
    """An answer in the form that claude expects: labels (several joined by `, `), or the words as typed."""
    text = text.strip()
    whole = _label(question, text)
    if whole is not None or not question.multi_select:
        return text if whole is None else whole
    labels = [_label(question, part.strip()) for part in text.split(",")]
    return ", ".join(label for label in labels if label is not None) if all(labels) else text


def _label(question: AskedQuestion, text: str) -> str | None:
    """The choice that is meant by its label, in any case, or by its number from 1."""
    for choice in question.choices:
        if choice.label.casefold() == text.casefold():
            return choice.label
    if text.isdecimal() and 1 <= int(text) <= len(question.choices):
        return question.choices[int(text) - 1].label
    return None
