"""What happens to one tool call: it is allowed, refused, left to claude, or held for a person. Pure.

- `judge` gives `allow`, `deny` or `pass`. `pass` leaves the call to claude's permission mode: it runs what it
  deems read-only and what `--allow` rules name (claude parses shell lines; we do not), and asks us about the
  rest, which is then refused, since nobody is there.
- What cannot be read (an input of a new shape for a tool that names files) is refused.
- With an `ask_timeout`, what only a person can settle (the model's question, a permission that nobody gave)
  waits that long for a person's answer. It waits as claude's permission question, which knows no time-out,
  and not at the hook, which does. Silence does not count meanwhile, `max_time` does. Then it ends as without
  one.
- A tool that we do not know (of an MCP server, say) and that names a protected path is refused, but as it may
  only want to read, that does not end the work.
- A path is judged where it leads, links followed. That is looked up outside (`live.path_lookup`), once, when
  the call enters the gate, and once more when a person has spoken, who may have taken hours; until then the
  call waits, and with it those that came after it. Nothing here touches a file system. What becomes of a path
  between the look and the use (the agent turns a folder into a link) the gate cannot see: the operating
  system holds protected paths against whoever comes by whatever name, and the tripwire compares them.

When a call's turn has come, and what else may be against it, is for `session.decide`.
"""

from __future__ import annotations

import math
from typing import Literal

import msgspec

from cms.protocol.tools import (
    AGENT_TOOLS,
    ANSWER_TOOL,
    ENTER_PLAN_TOOL,
    OWN_TOOLS,
    PLAN_TOOL,
    QUESTION_TOOL,
    READ_TOOLS,
    SKILL_TOOL,
    WORKTREE_TOOL,
    WRITE_TOOLS,
)
from cms.session.model import Limits, Outcome, Preset, Question, Writes
from cms.session.path_rules import NamedPath, PathRules
from cms.session.questions import AskedQuestion, Choice, PersonAnswer
from cms.session.state import Breach, PendingCall, State

#: What the model reads when a call is refused.
AWAY = "refused: its work would be where no check runs; work in the work dir"
NOBODY = "refused: nobody is there to permit this"


class InFolders(msgspec.Struct, frozen=True):
    """What lay in a session's folders when its rules were made (`protection.survey`). Paths, absolute.

    Attributes:
        protected: what patterns without a place mean there.
        unreadable: the same, of what must not be read.
        repositories: each repository, by its `.git`.
        git: what git reads its settings from and executes there, wherever that is.
        base: what cms itself runs on, as far as the session could write it.
        unsearched: a folder too big to be looked through to the end.
    """

    protected: tuple[str, ...] = ()
    unreadable: tuple[str, ...] = ()
    repositories: tuple[str, ...] = ()
    git: tuple[str, ...] = ()
    base: tuple[str, ...] = ()
    unsearched: tuple[str, ...] = ()


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
    start_timeout: float = math.inf  # seconds that claude gets to come up
    writes: Writes = "workdir"
    opened: tuple[str, ...] = ()  # places that may be written besides
    found: InFolders = InFolders()
    layered: tuple[str, ...] = ()  # folders that are not really changed: in there nothing is protected

    @property
    def plans(self) -> bool:
        """Whether a plan is what was asked for."""
        return "plan" in (self.preset, self.permission_mode)

    def protects(self, path: NamedPath) -> str:
        """The pattern that protects this path from being written, or ""."""
        return "" if path.within(self.layered) else self.paths.match(path)


class GateDecision(msgspec.Struct, frozen=True):
    """The gate's decision on one call."""

    effect: Literal["allow", "deny", "pass"]
    reason: str = ""
    detail: str = ""
    violation: bool = False
    questions: tuple[Question, ...] = ()
    plan: str = ""
    noted: bool = False  # what it is about is noted in another way: it is no refusal
    by: Literal["gate", "nobody", "person"] = "gate"
    answers: dict[str, str] = {}  # to the model's questions, for a call that is allowed


_READS = frozenset(READ_TOOLS)
_WRITES = frozenset(WRITE_TOOLS)
#: A skill is what it brings: claude looks, and asks us unless it is text alone.
_HARMLESS = frozenset(OWN_TOOLS) - {SKILL_TOOL}
_AGENTS = frozenset(AGENT_TOOLS)


def judge(call: PendingCall, rules: Rules) -> GateDecision:
    """The gate's decision on a call, limits aside. Where its paths lead must be known, see `needs_paths`."""
    given, detail = call.given, call.given.detail
    if not call.readable and (call.tool in _WRITES or call.tool in _READS or call.tool == QUESTION_TOOL):
        return GateDecision("deny", "refused: the gate cannot read this call's input")
    if call.tool == QUESTION_TOOL:
        if call.person is not None:
            return _by_person(call.person, given.questions[0].question if given.questions else detail)
        if call.kind == "hook" and rules.ask_timeout > 0:
            return GateDecision("pass", detail=detail)  # claude asks us next, as a permission question
        asked = tuple(
            Question(q.question, q.header, tuple(o.label for o in q.options), q.multi_select)
            for q in given.questions
        )
        return GateDecision(
            "deny", "the question was noted; nobody can answer it now", detail, questions=asked
        )
    if call.tool in (PLAN_TOOL, ENTER_PLAN_TOOL):
        return _by_plan(call, rules)
    if _leads_away(call, rules):
        return GateDecision("deny", AWAY, detail)
    if call.tool == ANSWER_TOOL:
        return GateDecision("allow")  # words for us, whatever paths they name
    if rules.safety and (refused := _by_paths(call, rules)) is not None:
        return refused
    if call.kind == "permission":
        if call.person is not None:
            return _by_person(call.person, detail)
        if not rules.safety:
            return GateDecision("allow", detail=detail)
        return GateDecision("deny", NOBODY, detail or call.blocked_path, by="nobody")
    if not rules.safety or rules.permission_mode == "bypassPermissions":
        return GateDecision("allow", detail=detail)
    if rules.permission_mode:
        return GateDecision("pass", detail=detail)
    return _by_preset(call, rules)


def _by_plan(call: PendingCall, rules: Rules) -> GateDecision:
    """A call that begins or ends claude's plan mode."""
    if not rules.plans:
        # It would change the mode that a person chose, or end the work where it should begin.
        return GateDecision("deny", "refused: no plan was asked for; do the work itself")
    if call.tool == ENTER_PLAN_TOOL:
        return GateDecision("allow")
    if plan := call.given.plan:
        return GateDecision("deny", "the plan was noted; nothing is carried out now", plan=plan)
    reason = "nobody approves a plan here, and no file holds it: give the whole plan as your answer"
    return GateDecision("deny", reason, noted=True)


def _leads_away(call: PendingCall, rules: Rules) -> bool:
    """Whether the work would lie elsewhere than where its checks run: in a work tree, or in the cloud.

    An agent's own definition can say so, too. claude asks before it makes a work tree (`worktree`); who works
    in one all the same, because a hook of the user's made it, is known by where it works.
    """
    if call.kind == "worktree" or call.tool == WORKTREE_TOOL:
        return True
    if call.tool in _AGENTS and call.given.isolation:
        return True
    return call.agent_id is not None and (call.astray or is_elsewhere(call.cwd, rules))


def is_elsewhere(folder: str, rules: Rules) -> bool:
    """Whether a folder is none of the session's, or lies in one of claude's own work trees in there."""
    return bool(folder) and not any(
        _inside(folder, one) and not _inside(folder, f"{one.rstrip('/')}/.claude/worktrees")
        for one in rules.folders
    )


def _inside(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def needs_paths(call: PendingCall, rules: Rules) -> bool:
    """Whether it is still to be found out where the paths that a call names lead."""
    return call.paths is None and rules.safety


def _by_person(person: PersonAnswer, detail: str) -> GateDecision:
    if person.allow:
        return GateDecision("allow", detail=detail, by="person", answers=person.answers)
    why = f": {person.message}" if person.message else ""
    return GateDecision("deny", f"a person refused this{why}", detail, by="person")


def awaits_person(call: PendingCall, rules: Rules) -> bool:
    """Whether a call is one that a person could settle and nobody has yet, however long it has waited."""
    if rules.ask_timeout <= 0 or call.kind != "permission" or call.person is not None:
        return False
    if needs_paths(call, rules):
        return False  # not before it is known what it is about
    decision = judge(call, rules)
    return bool(decision.questions) or decision.by == "nobody"


def held(state: State, rules: Rules, now: float) -> tuple[PendingCall, ...]:
    """The calls at the gate that wait for a person's answer."""
    turn = state.turn
    if turn is None or turn.breach is not None:
        return ()
    return tuple(
        call for call in state.gate if now < call.at + rules.ask_timeout and awaits_person(call, rules)
    )


def asked_questions(call: PendingCall) -> tuple[AskedQuestion, ...]:
    """What the model asks in this call, with what it offers."""
    return tuple(
        AskedQuestion(
            one.question,
            one.header,
            tuple(Choice(option.label, option.description) for option in one.options),
            one.multi_select,
        )
        for one in call.given.questions
    )


def _by_paths(call: PendingCall, rules: Rules) -> GateDecision | None:
    """What the paths that a call names have against it, or None."""
    detail = call.given.detail
    if call.paths is None:
        return GateDecision("deny", "refused: where its paths lead is not known yet", detail)
    for path in call.paths:
        if path.unanswered:
            return GateDecision("deny", f"refused: {path.name}: {path.fault}", detail)
    if call.tool in _WRITES:
        target = call.target
        if target is None:
            return GateDecision("deny", "refused: a write that names no file")
        if pattern := rules.protects(target):
            return GateDecision("deny", f"{target.name} is protected ({pattern})", detail, violation=True)
        return None
    if call.guessed is None and rules.read_paths.any_protected:
        return GateDecision(
            "deny", "refused: it names more than we look at, and some may not be read", detail
        )
    for path in call.paths:
        named = path.name in call.given.paths
        if pattern := rules.read_paths.match(path):
            reason = f"{path.name} is protected from reading ({pattern})"
            return GateDecision("deny", reason, detail, violation=named)
        if named and call.tool not in _READS and (pattern := rules.protects(path)):
            reason = f"{path.name} is protected ({pattern}), and {call.tool} may write"
            return GateDecision("deny", reason, detail)
    return None


def _by_preset(call: PendingCall, rules: Rules) -> GateDecision:
    tool, detail = call.tool, call.given.detail
    if tool in _READS or tool in _HARMLESS:
        return GateDecision("allow", detail=detail)
    if rules.preset == "full":
        return GateDecision("allow", detail=detail)
    if tool in _AGENTS and rules.preset in ("edit", "review"):
        return GateDecision("allow", detail=detail)
    if rules.preset == "edit":
        if tool in _WRITES:
            target = call.target
            if target is not None and target.within(rules.folders):
                return GateDecision("allow", detail=detail)
            where = "" if target is None else target.name
            return GateDecision("deny", f"{where} is outside the work dir (preset edit)", detail)
        return GateDecision("pass", detail=detail)
    return GateDecision("deny", not_in_preset(tool, rules.preset), detail)


def not_in_preset(tool: str, preset: Preset) -> str:
    """Why a call is refused that another preset allows."""
    return f"{tool} is not in preset {preset}"


def touched(state: State, rules: Rules, now: float) -> Breach | None:
    """claude has the rules of what may not be read (`live.argv`), and refuses before it asks us."""
    if state.turn is None or not (
        rules.safety and rules.stop_on_violation and rules.read_paths.any_protected
    ):
        return None
    for one in state.turn.denials:
        if one.by == "claude" and one.tool in _READS:
            path = rules.read_paths.locate(one.detail, str)  # (where it leads claude has looked)
            if pattern := rules.read_paths.match(path):
                why = f"{one.detail} is protected from reading ({pattern})"
                return Breach(Outcome.PROTECTED_PATH, why, now, denied=one.detail)
    return None


def breach_of(decision: GateDecision, rules: Rules, now: float) -> Breach | None:
    """What the decision on one call means for the whole interaction."""
    if decision.questions:
        return Breach(Outcome.NEEDS_INPUT, decision.questions[0].question, now)
    if decision.plan:
        return Breach(Outcome.COMPLETED, "the plan is complete", now)
    if decision.violation and rules.stop_on_violation:
        return Breach(Outcome.PROTECTED_PATH, decision.reason, now)
    return None
