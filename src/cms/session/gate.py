"""What happens to one tool call: it is allowed, refused, left to claude, or held for a person. Pure.

- `judge` gives `allow`, `deny` or `pass`. `pass` leaves the call to claude's permission mode: it runs what it
  deems read-only and what `--allow` rules name (claude parses shell lines; we do not), and asks us about the
  rest, which is then refused, since nobody is there.
- What cannot be read (an input of a new shape for a tool that names files) is refused.
- With an `ask_timeout`, what only a person can settle (the model's question, a permission that nobody gave)
  waits that long for a person's word. It waits as claude's permission question, which knows no time-out, and
  not at the hook, which does. Silence does not count meanwhile, `max_time` does. Then it ends as without one.
- A tool that we do not know (of an MCP server, say) and that names a protected path is refused, but as it may
  only want to read, that does not end the work.

When a call's turn has come, and what else may be against it, is for `session.decide`.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from cms.errors import UNREADABLE
from cms.protocol.tools import AGENT_TOOLS, OWN_TOOLS, PLAN_TOOL, QUESTION_TOOL, READ_TOOLS, WRITE_TOOLS
from cms.session.model import Limits, Outcome, Preset, Question
from cms.session.paths import PathRules
from cms.session.questions import AskedQuestion, Choice, Word
from cms.session.state import Breach, PendingCall, State

#: Words that the model reads when a call is refused.
NOBODY = "refused: nobody is there to permit this (name it with --allow to permit it)"


class Rules(msgspec.Struct, frozen=True):
    """Everything about a session that its limits and its gate need and that does not change while it runs."""

    limits: Limits
    preset: Preset
    paths: PathRules
    read_paths: PathRules
    folders: tuple[str, ...]  # where `edit` may write: work dir and added dirs, as written and resolved
    safety: bool = True
    permission_mode: str = ""
    stop_on_violation: bool = True
    ask_timeout: float = 0.0  # seconds that a person gets to answer; 0: nobody is there


class GateDecision(msgspec.Struct, frozen=True):
    """The gate's word on one call."""

    word: Literal["allow", "deny", "pass"]
    reason: str = ""
    detail: str = ""
    violation: bool = False
    questions: tuple[Question, ...] = ()
    plan: str = ""
    by: Literal["gate", "nobody", "person"] = "gate"
    answers: dict[str, str] = {}  # to the model's questions, for a call that is allowed


class _Option(msgspec.Struct, frozen=True):
    label: str = ""
    description: str = ""


class _Question(msgspec.Struct, frozen=True, rename="camel"):
    question: str = ""
    header: str = ""
    options: tuple[_Option, ...] = ()
    multi_select: bool = False


class ToolInput(msgspec.Struct, frozen=True):
    """The fields of all tools' inputs that we look at."""

    file_path: str | None = None
    notebook_path: str | None = None
    path: str | None = None
    command: str | None = None
    pattern: str | None = None
    url: str | None = None
    query: str | None = None
    description: str | None = None
    plan: str = ""
    questions: tuple[_Question, ...] = ()

    @property
    def detail(self) -> str:
        """What the call is about, in a line."""
        for text in (
            self.file_path,
            self.notebook_path,
            self.command,
            self.url,
            self.pattern,
            self.path,
            self.query,
            self.description,
        ):
            if text:
                return text.splitlines()[0][:200]
        return ""


#: The fields of an input that can be read one by one when the whole cannot.
_TEXTS = ("file_path", "notebook_path", "path", "command", "pattern", "url", "query", "description")


def _piecemeal(raw: msgspec.Raw) -> ToolInput:
    """What can be read of an input that has some field of another shape than ours."""
    try:
        fields = msgspec.json.decode(raw, type=dict[str, msgspec.Raw])
    except UNREADABLE:
        return ToolInput()
    texts: dict[str, str] = {}
    for name in _TEXTS:
        try:
            texts[name] = msgspec.json.decode(fields[name], type=str)
        except (KeyError, *UNREADABLE):
            continue
    return msgspec.convert(texts, ToolInput)


def describe(raw: msgspec.Raw) -> str:
    """What a tool call is about, in a line; "" if its input says nothing that we know."""
    try:
        return msgspec.json.decode(raw, type=ToolInput).detail
    except UNREADABLE:
        return ""


_READS = frozenset(READ_TOOLS)
_WRITES = frozenset(WRITE_TOOLS)
_HARMLESS = frozenset(OWN_TOOLS)
_AGENTS = frozenset(AGENT_TOOLS)


def judge(call: PendingCall, rules: Rules) -> GateDecision:
    """The gate's word on a call, limits aside."""
    try:
        given = msgspec.json.decode(call.input, type=ToolInput)
    except UNREADABLE:
        if call.tool in _WRITES or call.tool in _READS or call.tool == QUESTION_TOOL:
            return GateDecision("deny", "refused: the gate cannot read this call's input")
        given = _piecemeal(call.input)
    detail = given.detail
    if call.tool == QUESTION_TOOL:
        if call.word is not None:
            return _by_person(call.word, given.questions[0].question if given.questions else detail)
        if call.kind == "hook" and rules.ask_timeout > 0:
            return GateDecision("pass", detail=detail)  # claude asks us next, as a permission question
        asked = tuple(
            Question(q.question, q.header, tuple(o.label for o in q.options), q.multi_select)
            for q in given.questions
        )
        return GateDecision(
            "deny", "the question was noted; nobody can answer it now", detail, questions=asked
        )
    if call.tool == PLAN_TOOL:
        return GateDecision("deny", "the plan was noted; nothing is carried out now", detail, plan=given.plan)
    if rules.safety and (refused := _violation(call, given, rules)) is not None:
        return refused
    if call.kind == "permission":
        if call.word is not None:
            return _by_person(call.word, detail)
        if not rules.safety:
            return GateDecision("allow", detail=detail)
        return GateDecision("deny", NOBODY, detail or call.blocked_path, by="nobody")
    if not rules.safety or rules.permission_mode == "bypassPermissions":
        return GateDecision("allow", detail=detail)
    if rules.permission_mode:
        return GateDecision("pass", detail=detail)
    return _by_preset(call.tool, given, rules)


def _by_person(word: Word, detail: str) -> GateDecision:
    if word.allow:
        return GateDecision("allow", detail=detail, by="person", answers=word.answers)
    why = f": {word.message}" if word.message else ""
    return GateDecision("deny", f"a person refused this{why}", detail, by="person")


def awaits_person(call: PendingCall, rules: Rules) -> bool:
    """Whether a call is one that a person could settle and nobody has yet, however long it has waited."""
    if rules.ask_timeout <= 0 or call.kind != "permission" or call.word is not None:
        return False
    verdict = judge(call, rules)
    return bool(verdict.questions) or verdict.by == "nobody"


def held(state: State, rules: Rules, now: float) -> tuple[PendingCall, ...]:
    """The calls at the gate that wait for a person's word."""
    turn = state.turn
    if turn is None or turn.breach is not None:
        return ()
    return tuple(
        call for call in state.gate if now < call.at + rules.ask_timeout and awaits_person(call, rules)
    )


def asked_questions(call: PendingCall) -> tuple[AskedQuestion, ...]:
    """What the model asks in this call, with what it offers."""
    try:
        given = msgspec.json.decode(call.input, type=ToolInput)
    except UNREADABLE:
        return ()
    return tuple(
        AskedQuestion(
            one.question,
            one.header,
            tuple(Choice(option.label, option.description) for option in one.options),
            one.multi_select,
        )
        for one in given.questions
    )


def _violation(call: PendingCall, given: ToolInput, rules: Rules) -> GateDecision | None:
    target = given.file_path or given.notebook_path
    if call.tool in _WRITES:
        if target is None:
            return GateDecision("deny", "refused: a write that names no file")
        if pattern := rules.paths.match(target):
            return GateDecision("deny", f"{target} is protected ({pattern})", given.detail, violation=True)
        return None
    for place in (target, given.path):
        if place is None:
            continue
        if pattern := rules.read_paths.match(place):
            reason = f"{place} is protected from reading ({pattern})"
            return GateDecision("deny", reason, given.detail, violation=True)
        if call.tool not in _READS and (pattern := rules.paths.match(place)):
            reason = f"{place} is protected ({pattern}), and {call.tool} may write"
            return GateDecision("deny", reason, given.detail)
    return None


def _by_preset(tool: str, given: ToolInput, rules: Rules) -> GateDecision:
    detail = given.detail
    if tool in _READS or tool in _HARMLESS:
        return GateDecision("allow", detail=detail)
    if rules.preset == "full":
        return GateDecision("allow", detail=detail)
    if tool in _AGENTS and rules.preset in ("edit", "review"):
        return GateDecision("allow", detail=detail)
    if rules.preset == "edit":
        if tool in _WRITES:
            target = given.file_path or given.notebook_path or ""
            if rules.paths.within(target, rules.folders):
                return GateDecision("allow", detail=detail)
            return GateDecision("deny", f"{target} is outside of the work dir (preset edit)", detail)
        return GateDecision("pass", detail=detail)
    return GateDecision("deny", f"{tool} is not in preset {rules.preset}", detail)


def breach_of(verdict: GateDecision, rules: Rules, now: float) -> Breach | None:
    """What the verdict on one call means for the whole interaction."""
    if verdict.questions:
        return Breach(Outcome.NEEDS_INPUT, verdict.questions[0].question, now)
    if verdict.plan:
        return Breach(Outcome.COMPLETED, "the plan is complete", now)
    if verdict.violation and rules.stop_on_violation:
        return Breach(Outcome.PROTECTED_PATH, verdict.reason, now)
    return None
