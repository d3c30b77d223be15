"""Random lives of a message, and what SECURITY.md ("The verdict") says of each: an oracle beside the code.

    python -m tests.verdict_oracle --runs 100000 --seed 1

A scripted claude lives a random life: replies, tool calls that are let through, refused by the gate, by
nobody, by a rule or a hook of the user's, or as unknown; subagents, limits, a person's stop, errors, death,
turns that nobody asked for, lines said twice, results that come late. It writes down what really happened
(`Facts`); the code sees only its lines. Then come the checks, crashes, the end of the process and what it
left. The outcome must be what `expected` makes of the facts. `expected` is written from the rules alone: it
imports none of the code that it judges.
"""

from __future__ import annotations

import argparse
import random
import re
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))

import msgspec

from cms.live.pending import ended
from cms.protocol.messages import (
    Assistant,
    CommandLifecycle,
    DeniedCall,
    Event,
    HookAnswer,
    Informational,
    MessageBody,
    PermissionDenied,
    RefuseAnswer,
    Result,
    TaskNotification,
    TaskStarted,
    User,
)
from cms.session.model import Interaction, InteractionState, OnViolation, Outcome, Preset, Receipt, Walls
from cms.session.rounds import Failure, NextMessage, next_round, to_repair, together
from cms.session.state import Began, Breach, Breached, Ended, Opened
from cms.session.verdict import conclude, judge_delegation
from cms.store.recovery import crashed
from session.world import (
    HOME,
    IDLE,
    RUNNING,
    START,
    WORK,
    World,
    begins,
    closes,
    hook,
    permission,
    raw,
    rules,
    says,
)


@dataclass
class Facts:
    """What really happened.

    Attributes:
        command: the message begins with `/`.
        asked: the model has replied to it.
        kept_back: a hook kept it from the model.
        unknown: claude says that it knows no such command.
        refused: calls that were refused, and would have changed something or brought what is missing.
        told: all calls that were refused, for whatever they were.
        acted: calls that may have changed something, and succeeded.
        answered: a result held a text, or a value.
        cut: what ended the work before its time; a plan that was given is `completed`.
        result: how the last result ended it, None: there was none.
        died: the process ended before the work was over.
        failure: cms knows an error of its own.
        checks: what each came to.
        cut_off: the delegation was, in its checks.
        again: what the checks came to when it was judged once more after a crash; None: it was not.
        left: processes that are left. changed: a protected path. unseen: nobody could look.
        stops: a violation stops the work.
        repairs: rounds of repair that there may be. round: which one this is; 0: the work itself.
        judge: what it said: pass, fail, none (no verdict), or that it was cut off; "": nobody asked one.
        misfit: an answer of a shape was asked for, and there is none that fits.
        gone_over: it was judged anew after a crash, and nobody was there to go on with it.
    """

    command: bool = False
    asked: bool = False
    kept_back: bool = False
    unknown: bool = False
    refused: int = 0
    told: int = 0
    acted: int = 0
    answered: bool = False
    cut: Outcome | None = None
    result: str | None = None
    died: bool = False
    failure: bool = False
    delegated: bool = True
    crashed: str = ""
    checks: list[str] = field(default_factory=list)
    cut_off: bool = False
    left: bool = False
    changed: bool = False
    unseen: bool = False
    stops: bool = True
    repairs: int = 0
    round: int = 0
    gone_over: bool = False
    misfit: bool = False
    judge: str = ""


# --- the oracle: the rules of SECURITY.md, in their order ------------------------------------------


def expected_work(facts: Facts) -> Outcome:
    """What the work came to, by rules 2 to 6."""
    if facts.cut is not None and facts.cut is not Outcome.COMPLETED:
        return facts.cut
    if facts.cut is Outcome.COMPLETED:
        return Outcome.COMPLETED if facts.result is not None else Outcome.INTERRUPTED
    if facts.failure:
        return Outcome.FAILED
    if facts.died or facts.result is None:
        return Outcome.INTERRUPTED
    by_result = {
        "budget": Outcome.COST_EXCEEDED,
        "turns": Outcome.TURNS_EXCEEDED,
        "error": Outcome.FAILED,
        "limited": Outcome.RATE_LIMITED,
        "aborted": Outcome.INTERRUPTED,
        "other end": Outcome.FAILED,
    }
    if facts.result in by_result:
        return by_result[facts.result]
    if not facts.asked:
        done = facts.command and not facts.kept_back and not facts.unknown
        return Outcome.COMPLETED if done else Outcome.FAILED
    if facts.refused and not facts.acted:
        return Outcome.NEEDS_INPUT
    return Outcome.COMPLETED if facts.answered else Outcome.FAILED


def repaired(facts: Facts) -> bool:
    """Whether a further round follows, by rule 7: the verdict is that one's."""
    failed = ("fail" in facts.checks and "not run" not in facts.checks) or facts.judge == "fail"
    over = facts.cut_off or facts.gone_over or bool(facts.crashed)
    return facts.delegated and failed and not over and facts.round < facts.repairs


def expected(facts: Facts) -> Outcome:
    """The outcome, by all rules."""
    if facts.crashed == "at work":
        return Outcome.INTERRUPTED
    work = expected_work(facts)
    if not facts.delegated:
        return work
    if facts.left:
        return Outcome.FAILED
    if facts.changed and facts.stops:
        return Outcome.PROTECTED_PATH
    if work is not Outcome.COMPLETED:
        return work
    if facts.misfit:
        return Outcome.FAILED
    if "fail" in facts.checks or facts.judge in ("fail", "none"):
        return Outcome.VERIFICATION_FAILED
    if facts.cut_off or "not run" in facts.checks or facts.judge == "cut off":
        return Outcome.INTERRUPTED
    return Outcome.FAILED if facts.unseen else Outcome.COMPLETED


# --- a scripted claude -----------------------------------------------------------------------------

#: Tools, what they are given, whether success changes something, whether a refusal loses something.
CALLS: tuple[tuple[str, Mapping[str, object], bool, bool], ...] = (
    ("Write", {"file_path": f"{WORK}/a", "content": "x"}, True, True),
    ("Write", {"file_path": "/elsewhere/a", "content": "x"}, True, True),
    ("Edit", {"file_path": f"{WORK}/a"}, True, True),
    ("Bash", {"command": "make"}, True, True),
    ("Bash", {"command": "ls -l"}, False, False),
    ("Bash", {"command": "ls > a"}, True, True),
    ("Read", {"file_path": f"{WORK}/a"}, False, False),
    ("WebFetch", {"url": "http://x"}, False, True),
    ("Agent", {"prompt": "look"}, False, True),
    ("TodoWrite", {}, False, False),
    ("mcp__mail__send", {"to": "x"}, True, True),
    ("EnterPlanMode", {}, False, False),
)
GUARDED: Mapping[str, object] = {"file_path": f"{HOME}/.bashrc", "content": "x"}
QUESTION: Mapping[str, object] = {"questions": [{"question": "Which?", "options": [{"label": "a"}]}]}
LIMITS = (Outcome.COST_EXCEEDED, Outcome.TIME_EXCEEDED, Outcome.STALLED, Outcome.INTERRUPTED)


class Over(Exception):
    """The turn is over, or the process is."""


class Life:
    """One message, from its beginning to the end of its work."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.facts = facts = Facts()
        self.preset: Preset = chance.choice(("edit", "edit", "full", "plan", "review"))
        on_violation: OnViolation = chance.choice(("stop", "stop", "deny"))
        facts.stops = on_violation == "stop"
        facts.command = chance.random() < 0.2
        self.world = World(rules(self.preset, on_violation=on_violation), begun=False)
        self.number = 0
        self.reply = 0
        self.told_late: list[DeniedCall] = []
        self.untold: dict[str, bool] = {}  # calls refused by others than the gate, not told yet -> a loss

    def likely(self, share: float) -> bool:
        return self.chance.random() < share

    def see(self, *events: Event) -> None:
        for event in events:
            self.world.see(event)
            if self.likely(0.02):
                self.world.see(event)  # said twice
            if self.likely(0.01):
                self._cut(self.chance.choice(LIMITS))
            if self.likely(0.01):
                self._die()

    def _cut(self, outcome: Outcome) -> None:
        """A limit, a person's stop."""
        if self.world.state.turn is None:
            return
        if self.facts.cut is None:
            self.facts.cut = outcome
        self.world.see(Breached(Breach(outcome, "it is enough", self.world.now)))

    def _die(self) -> None:
        if self.world.state.turn is None:
            return
        self.facts.died = True
        self.facts.failure = self.likely(0.3)
        self.world.see(Ended(-9, exact=False))
        raise Over

    # --- what it says ---

    def live(self) -> None:
        try:
            self._live()
        except Over:
            pass

    def _live(self) -> None:
        unasked = self.likely(0.15)
        self.world.see(Opened(0.0, {}), Began("i", command=self.facts.command))
        if unasked:
            # A background task of before has ended, and claude tells the model of it before it begins ours.
            self.world.see(CommandLifecycle("i", "queued"), RUNNING, says("It is done.", "u1"))
            self.world.see(self._result("ok", "It is done."))
        self.world.see(RUNNING)
        self.see(CommandLifecycle("i", "started"))
        if self.likely(0.1) or (self.facts.command and self.likely(0.5)):
            self._by_itself()
            return
        for _ in range(self.chance.randint(1, 4)):
            self._reply()
        self._end()

    def _by_itself(self) -> None:
        """claude answers without the model."""
        facts = self.facts
        if self.likely(0.5):
            facts.kept_back = True
            if facts.command or self.likely(0.7):
                self.see(Informational("kept back by a hook", prevent_continuation=True))
            self._finish(self._result("ok", "kept back by a hook", terminal_reason=None))
        elif self.likely(0.3):
            facts.unknown = True
            self._finish(self._result("ok", "Unknown command: /x", terminal_reason=None))
        else:
            self._finish(self._result("ok", self.chance.choice(["", "Total: $0"]), terminal_reason=None))

    def _reply(self) -> None:
        self.reply += 1
        name = f"m{self.reply}"
        streamed = self.likely(0.7)
        if streamed:
            self.see(begins(name))
        self.facts.asked = True
        if self.likely(0.6):
            self.see(says("Now I do it.", name))
        elif not streamed:
            self.see(says("", name))
        for _ in range(self.chance.choice((0, 1, 1, 2))):
            self._call(name)
        if streamed:
            self.see(closes())

    # --- its calls ---

    def _call(self, message: str) -> None:
        self.number += 1
        key = str(self.number)
        kind = self.chance.random()
        if kind < 0.05:
            self._special(key, message, "AskUserQuestion", QUESTION)
        elif kind < 0.12:
            plan: Mapping[str, object] = {"plan": "1. Do it."} if self.likely(0.6) else {}
            self._special(key, message, "ExitPlanMode", plan)
        elif kind < 0.15:
            self._guarded(key, message)
        else:
            self._plain(key, message)

    def _use(self, key: str, message: str, tool: str, given: Mapping[str, object]) -> None:
        block = {"type": "tool_use", "id": f"use-{key}", "name": tool, "input": given}
        self.see(Assistant(MessageBody(raw([block]), message, "model")))

    def _ask_gate(self, key: str, tool: str, given: Mapping[str, object]) -> str:
        """What the gate says: allow, pass, deny, or that the turn is to end."""
        # (Without a reading of the meter it waits for nothing here: there is no limit on money.)
        self.world.see(hook(key, tool, given or {"none": 1}))
        answer = self.world.answers[key].answer
        assert isinstance(answer, HookAnswer)
        said = answer.hook_specific_output
        if not answer.continue_:
            return "end"
        return "pass" if said is None else said.permission_decision

    def _special(self, key: str, message: str, tool: str, given: Mapping[str, object]) -> None:
        facts = self.facts
        self._use(key, message, tool, given)
        if self.world.state.turn is None:
            raise Over
        open_before = facts.cut is None
        # The hook of a plan is not told what the model gave.
        word = self._ask_gate(key, tool, {} if tool == "ExitPlanMode" else given)
        if open_before and tool == "AskUserQuestion":
            facts.cut = Outcome.NEEDS_INPUT
        elif open_before and self.preset == "plan" and given:
            facts.cut = Outcome.COMPLETED
        elif tool == "ExitPlanMode" and self.preset != "plan":
            facts.told += 1  # a refusal like another
        self._refusal(key, tool, given)
        if word == "end":
            self._finish(self._result("other end", "", terminal_reason="hook_stopped"))

    def _guarded(self, key: str, message: str) -> None:
        facts = self.facts
        self._use(key, message, "Write", GUARDED)
        open_before = facts.cut is None
        word = self._ask_gate(key, "Write", GUARDED)
        assert word != "allow"
        if open_before and facts.stops:
            facts.cut = Outcome.PROTECTED_PATH
        facts.refused += 1
        facts.told += 1
        self._refusal(key, "Write", GUARDED)
        if word == "end":
            self._finish(self._result("other end", "", terminal_reason="hook_stopped"))

    def _plain(self, key: str, message: str) -> None:
        facts = self.facts
        tool, given, changes, loses = self.chance.choice(CALLS)
        self._use(key, message, tool, given)
        if self.likely(0.08):  # no such tool, or wrong input: it never comes to the gate
            self.untold[key] = loses
            self._refusal(key, tool, given)
            return
        word = self._ask_gate(key, tool, given)
        by_rule = word in ("allow", "pass") and self.likely(0.15)
        if word == "pass" and not by_rule and changes:
            self.world.see(permission(f"p{key}", tool, given))
            answer = self.world.answers[f"p{key}"].answer
            if isinstance(answer, RefuseAnswer):
                word = "deny"
        if word in ("deny", "end"):
            facts.told += 1
            facts.refused += loses
            self._refusal(key, tool, given)
        elif by_rule:
            self.untold[key] = loses
            self._refusal(key, tool, given, by_rule=True)
        else:
            failed = self.likely(0.15)
            facts.acted += changes and not failed
            self._answer(key, error=failed)
            if tool == "Agent" and self.likely(0.3):
                self._background(key)
        if word == "end":
            self._finish(self._result("other end", "", terminal_reason="hook_stopped"))

    def _answer(self, key: str, *, error: bool, meta: bool = False) -> None:
        block = {
            "type": "tool_result",
            "tool_use_id": f"use-{key}",
            "is_error": error,
            "content": "what it says",
        }
        not_run = raw([{"id": f"use-{key}", "non_execution_kind": "permission-rule"}] if meta else [])
        self.see(User(MessageBody(raw([block])), None, not_run))

    def _refusal(self, key: str, tool: str, given: Mapping[str, object], *, by_rule: bool = False) -> None:
        """claude tells of it, in one to three ways."""
        by_line, by_meta, by_result = (self.likely(0.5) for _ in range(3))
        if by_result or not (by_line or by_meta):
            self.told_late.append(DeniedCall(tool, f"use-{key}", raw(given)))
        if by_line:
            self._tell(key)
            self.see(PermissionDenied(tool, f"use-{key}", "no"))
        if by_meta or not by_rule:
            self._tell(key)
        self._answer(key, error=True, meta=by_meta)

    def _tell(self, key: str) -> None:
        """It is told now that this call was refused by somebody else than the gate."""
        if key in self.untold:
            self.facts.told += 1
            self.facts.refused += self.untold.pop(key)

    def _background(self, key: str) -> None:
        """A subagent that outlives the turn's first result."""
        task = f"t{key}"
        self.see(TaskStarted(task, "local_agent", "looks"))
        self._say_result("ok", "It is being looked at." if self.likely(0.7) else "")
        self.see(TaskNotification(task, "completed"))
        self.reply += 1
        self.see(says("It was looked at.", f"m{self.reply}"))

    # --- its end ---

    def _result(self, kind: str, text: str | None, **more: object) -> Result:
        plain = Result("success", False, text, 0.01, terminal_reason="completed")
        changes: dict[str, dict[str, object]] = {
            "budget": {"subtype": "error_max_budget_usd", "is_error": True, "result": None},
            "turns": {"subtype": "error_max_turns", "is_error": True, "result": None},
            "error": {"is_error": True, "result": "API Error: 500", "api_error_status": 500},
            "limited": {"is_error": True, "result": "limit", "api_error_status": 429},
            "aborted": {
                "subtype": "error_during_execution",
                "is_error": True,
                "terminal_reason": "aborted_tools",
            },
            "other end": {"terminal_reason": "prompt_too_long"},
        }
        denials = tuple(self.told_late)
        for denied in denials:
            self._tell(denied.tool_use_id.removeprefix("use-"))
        return msgspec.structs.replace(plain, permission_denials=denials, **{**changes.get(kind, {}), **more})

    def _say_result(self, kind: str, text: str | None, **more: object) -> None:
        result = self._result(kind, text, **more)
        self.facts.result = kind
        self.facts.answered |= (bool(result.result) and not result.is_error) or "structured_output" in more
        self.see(result)

    def _end(self) -> None:
        if self.facts.cut is not None:
            # It hears that it is to end, now or at its next call.
            kind = "aborted" if self.facts.cut is not Outcome.COMPLETED else "ok"
            self._finish(self._result(kind, None))
        kind = self.chance.choice(
            ("ok",) * 9 + ("budget", "turns", "error", "limited", "aborted", "other end")
        )
        more: dict[str, object] = {}
        text: str | None = "All done." if self.likely(0.8) else self.chance.choice(["", None, " \n"])
        if not text and self.likely(0.3):
            more["structured_output"] = msgspec.Raw(b'{"a":1}')
        if kind != "ok":
            text, more = "x", {}
        self._finish(self._result(kind, text, **more), kind)

    def _finish(self, result: Result, kind: str = "ok") -> None:
        if result.terminal_reason == "hook_stopped":
            kind = "other end"
        self.facts.result = kind
        text = (result.result or "").strip()
        self.facts.answered |= (bool(text) and not result.is_error) or bytes(
            result.structured_output
        ) != b"null"
        self.see(result)
        self.see(IDLE)
        raise Over


# --- from the work to the verdict ------------------------------------------------------------------


class Wrong(AssertionError):
    """The code and the rules do not agree."""


#: How the message of a delegation is stored whose work has ended well.
_UNJUDGED = (InteractionState.CHECKING, None)


def run(seed: int) -> Facts:
    """One delegation or message, from its first round to its last.

    Raises:
        Wrong: its verdict is not what the rules say.
    """
    chance = random.Random(seed)  # noqa: S311 - no secret
    delegated, repairs = chance.random() < 0.8, chance.choice((0, 0, 1, 2))
    message = Interaction(
        "i", "s", 1, "delegate" if delegated else "send", "go", START, state=InteractionState.RUNNING
    )
    rounds: list[Interaction] = []
    while True:
        facts, final, following = _round(seed, chance, message, repairs)
        rounds.append(final)
        if repaired(facts) != (following is not None):
            raise Wrong(f"seed {seed}: a further round {following}: {facts}")
        if following is None:
            break
        if (final.outcome, final.state) != (Outcome.VERIFICATION_FAILED, InteractionState.DONE):
            raise Wrong(f"seed {seed}: repaired, and {final}")
        number = len(rounds) + 1
        message = Interaction(
            "i", "s", number, following.type, following.prompt, START, state=InteractionState.RUNNING
        )
        message = msgspec.structs.replace(message, round=following.round, before=following.before)
    if len(rounds) > repairs + 1:
        raise Wrong(f"seed {seed}: {len(rounds)} rounds, and {repairs} repairs")
    _same(seed, facts, "rounds", final.round, len(rounds) - 1)
    if together(rounds).outcome is not final.outcome:
        raise Wrong(f"seed {seed}: the rounds together are not what the last came to")
    return facts


def _round(
    seed: int, chance: random.Random, message: Interaction, repairs: int
) -> tuple[Facts, Interaction, NextMessage | None]:
    """One round, its end, and the message that goes on."""
    life = Life(chance)
    life.live()
    facts, world = life.facts, life.world
    facts.delegated = message.type != "send"
    facts.repairs, facts.round = repairs, message.round
    if world.settled:
        conclusion = world.settled[0]
        facts.died = facts.failure = False  # it was over by then
    else:
        conclusion = conclude(world.state, end="it is gone", failure="a bug of ours" if facts.failure else "")
    told = next((int(n) for one in conclusion.reasons for n in re.findall(r"^(\d+) tool call", one)), 0)
    _same(seed, facts, "refused calls told", told, facts.told)
    _same(seed, facts, "work", conclusion.outcome, expected_work(facts))
    # What comes late changes nothing.
    for late in (
        Result("success", False, "late", 9.0),
        IDLE,
        Breached(Breach(Outcome.FAILED, "late", START)),
    ):
        world.see(late)
    if len(world.settled) > 1:
        raise Wrong(f"seed {seed}: judged twice")
    if chance.random() < 0.05:
        facts.crashed = "at work"
        state = chance.choice((InteractionState.QUEUED, InteractionState.SENT, InteractionState.RUNNING))
        message = crashed(msgspec.structs.replace(message, state=state), 0.0, START)
        _same(seed, facts, "crashed", message.outcome, expected(facts))
        return facts, message, None
    work = msgspec.structs.replace(
        ended(message, conclusion.outcome, conclusion.error, at=START), reasons=conclusion.reasons
    )
    if facts.delegated and expected_work(facts) is Outcome.COMPLETED:
        _same(seed, facts, "stored before its checks", (work.state, work.outcome), _UNJUDGED)
    final, following = _judge(chance, facts, work) if facts.delegated else (work, None)
    if following is not None:
        return facts, final, following
    _same(seed, facts, "verdict", final.outcome, expected(facts))
    _same(seed, facts, "is_error", final.is_error, final.outcome is not Outcome.COMPLETED)
    _same(seed, facts, "error told", bool(final.error), final.outcome is not Outcome.COMPLETED)
    unchecked = final.state is InteractionState.UNCHECKED
    if unchecked and final.outcome is not Outcome.INTERRUPTED:
        raise Wrong(f"seed {seed}: unchecked, and {final.outcome}")
    return facts, final, None


def _judge(chance: random.Random, facts: Facts, work: Interaction) -> tuple[Interaction, NextMessage | None]:
    def checks() -> tuple[tuple[str, ...], str]:
        facts.checks = []
        if work.state is InteractionState.CHECKING:
            words = ("pass",) * 6 + ("fail", "not run")
            facts.checks = [chance.choice(words) for _ in range(chance.choice((0, 0, 1, 2)))]
        failed = tuple(f"check failed: {n}" for n, word in enumerate(facts.checks) if word == "fail")
        return failed, "it could not be started" if "not run" in facts.checks else ""

    if work.outcome is None and work.state is not InteractionState.CHECKING:
        raise Wrong(f"no outcome, and {work.state}")
    if work.state is InteractionState.CHECKING and work.outcome is not None:
        raise Wrong("it has an outcome before its checks are through")
    facts.left, facts.changed, facts.unseen = (chance.random() < 0.05 for _ in range(3))
    walls = Walls(changed=("/x",) if facts.changed else (), unchecked="it hangs" if facts.unseen else "")
    receipt: Receipt | None = Receipt(
        "over", empty=not facts.left, left=("7 sleep",) * facts.left, walls=walls
    )
    on_violation: OnViolation = "stop" if facts.stops else "deny"
    before = work
    if work.state is InteractionState.CHECKING and chance.random() < 0.2:
        work = crashed(work, 0.0, START)
        facts.cut_off, receipt = True, None
        facts.left = facts.changed = facts.unseen = False  # nobody saw
        if chance.random() < 0.5:
            return work, None
        facts.cut_off, facts.gone_over = False, True
    failed, not_run = checks() if before is work else _checks_again(chance, facts)
    cut = ""
    if before.state is InteractionState.CHECKING and chance.random() < 0.1:
        facts.cut_off, cut, failed, facts.checks = True, "cancelled", (), []
    if work.state in (InteractionState.CHECKING, InteractionState.UNCHECKED) and not cut:
        facts.misfit = chance.random() < 0.1
        if facts.misfit:
            facts.checks, failed, not_run = [], (), ""  # they are not run
    unjudged = work.state in (InteractionState.CHECKING, InteractionState.UNCHECKED)
    if unjudged and not (cut or facts.misfit or failed or not_run) and chance.random() < 0.3:
        facts.judge = chance.choice(("pass", "pass", "fail", "none", "cut off"))
        failed = ("the judge: no",) if facts.judge in ("fail", "none") else ()
        not_run = "the judge was interrupted" if facts.judge == "cut off" else ""
    final = facts.judge == "none"
    following = None if final else next_round(work, [Failure(line) for line in failed], facts.repairs)
    if following is not None and not not_run and not facts.gone_over:
        facts.left = facts.changed = facts.unseen = False  # its process lives on
        return to_repair(work, failed), following
    judged = judge_delegation(
        work,
        receipt,
        on_violation=on_violation,
        misfit="no such shape" if facts.misfit else "",
        failed_checks=failed,
        cut_off=cut or not_run,
    )
    if judged.state is not InteractionState.UNCHECKED:
        again = judge_delegation(judged, receipt, on_violation=on_violation, failed_checks=failed)
        if again != judged:
            raise Wrong(f"judged again it is another: {judged} {again}")
    return judged, None


def _checks_again(chance: random.Random, facts: Facts) -> tuple[tuple[str, ...], str]:
    facts.checks = [chance.choice(("pass", "fail", "not run")) for _ in range(chance.choice((0, 1, 2)))]
    failed = tuple(f"check failed: {n}" for n, word in enumerate(facts.checks) if word == "fail")
    return failed, "it could not be started" if "not run" in facts.checks else ""


def _same(seed: int, facts: Facts, what: str, found: object, meant: object) -> None:
    if found != meant:
        raise Wrong(f"seed {seed}: {what} is {found}, by the rules {meant}: {facts}")


def main() -> int:
    parser = argparse.ArgumentParser(description="Hold the verdict against its rules.")
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0, help="of the first run")
    options = parser.parse_args()
    wrong: list[str] = []
    outcomes: dict[str, int] = {}
    began = time.monotonic()
    for seed in range(options.seed, options.seed + options.runs):
        try:
            word = expected(run(seed)).value
        except AssertionError as error:
            wrong.append(str(error))
            word = "WRONG"
        outcomes[word] = outcomes.get(word, 0) + 1
    for one in wrong[:20]:
        sys.stdout.write(f"{one}\n")
    took = time.monotonic() - began
    sys.stdout.write(f"{options.runs} runs in {took:.0f} s, {len(wrong)} wrong: {outcomes}\n")
    return bool(wrong)


if __name__ == "__main__":
    raise SystemExit(main())
