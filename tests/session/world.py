"""What the session tests are made of: events in few words, rules, and a small runner without I/O."""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Iterable, Mapping

import msgspec

from cms.protocol.connection import Answered
from cms.protocol.messages import (
    ApiEvent,
    Assistant,
    CanUseTool,
    CommandLifecycle,
    Delta,
    Event,
    EventMessage,
    GetUsage,
    HookAnswer,
    HookCallback,
    HookInput,
    HookRequest,
    MessageBody,
    PermissionRequest,
    Result,
    SessionState,
    StreamEvent,
    Task,
    TasksChanged,
    User,
)
from cms.session.decide import (
    AnswerCall,
    AskBudget,
    AskMeter,
    AskStanding,
    EndUnasked,
    FindPaths,
    GiveUp,
    Note,
    SendInterrupt,
    Settle,
    StopProcess,
    Unfit,
    decide,
)
from cms.session.fold import fold
from cms.session.gate import Rules
from cms.session.model import Limits, OnViolation, Preset
from cms.session.path_rules import NamedPath, PathRules
from cms.session.state import (
    Began,
    Breach,
    Breached,
    BudgetAsked,
    InterruptSent,
    Judged,
    LookingUp,
    MeterAsked,
    Opened,
    PathsFound,
    PendingCall,
    Settled,
    StandingAsked,
    State,
)
from cms.session.verdict import Conclusion, conclude

WORK = "/home/u/project"
HOME = "/home/u"
START = 1_800_000_000.0


def raw(value: object) -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.encode(value))


# --- what claude writes ---------------------------------------------------------------------------


def hook(
    key: str,
    tool: str = "Bash",
    given: Mapping[str, object] | None = None,
    agent: str | None = None,
    cwd: str = WORK,
) -> HookCallback:
    """A tool call that waits for our word."""
    call = HookInput(tool, raw(given or {"command": "make"}), f"use-{key}", agent, "PreToolUse", cwd)
    return HookCallback(key, HookRequest("pre", call))


def work_tree(key: str, name: str = "agent-1") -> HookCallback:
    """A work tree that is to be made."""
    return HookCallback(key, HookRequest("pre", HookInput(hook_event_name="WorktreeCreate", name=name)))


def calls(key: str, tool: str, **given: object) -> Assistant:
    block = {"type": "tool_use", "id": f"use-{key}", "name": tool, "input": given}
    return Assistant(MessageBody(raw([block]), f"m{key}", "model"))


def permission(key: str, tool: str = "Bash", given: Mapping[str, object] | None = None) -> CanUseTool:
    """A permission question, about the tool use that the hook of the same number was about."""
    return CanUseTool(key, PermissionRequest(tool, f"use-{key.removeprefix('p')}", raw(given or {})))


def tool_result(key: str, *, error: bool = False, parent: str | None = None) -> User:
    block = {"type": "tool_result", "tool_use_id": f"use-{key}", "is_error": error, "content": "x"}
    return User(MessageBody(raw([block])), parent)


def says(text: str, message: str = "m1", parent: str | None = None) -> Assistant:
    return Assistant(MessageBody(raw([{"type": "text", "text": text}]), message, "model"), parent)


def begins(message: str) -> StreamEvent:
    """A reply begins to be streamed."""
    return StreamEvent(ApiEvent("message_start", message=EventMessage(message, "model")))


def stops(reason: str) -> StreamEvent:
    return StreamEvent(ApiEvent("message_delta", delta=Delta(stop_reason=reason)))


def closes() -> StreamEvent:
    """The reply is complete."""
    return StreamEvent(ApiEvent("message_stop"))


def result(cost: float | None = None, text: str | None = "done", **more: object) -> Result:
    plain = Result("success", False, text, cost, terminal_reason="completed")
    return msgspec.structs.replace(plain, **more)


def meter(cost: float) -> Answered:
    """The meter's answer."""
    session = {"total_cost_usd": cost, "model_usage": {"model": {"costUSD": cost, "outputTokens": 1}}}
    return Answered("q", GetUsage(), raw({"session": session}))


def meter_fails() -> Answered:
    return Answered("q", GetUsage(), raw({}), "unknown request")


IDLE, RUNNING = SessionState("idle"), SessionState("running")


def started(uuid: str = "i") -> CommandLifecycle:
    return CommandLifecycle(uuid, "started")


def tasks(*kinds: str) -> TasksChanged:
    return TasksChanged(tuple(Task(f"t{n}", kind, f"task {n}") for n, kind in enumerate(kinds)))


# --- rules ----------------------------------------------------------------------------------------


def resolver(links: Mapping[str, str] | None = None) -> Callable[[str], str]:
    """Follows these links, as the file system would; a loop is an OSError."""
    table = dict(links or {})

    def resolve(path: str) -> str:
        done, todo, steps = "", [part for part in path.split("/") if part], 0
        while todo:
            part = todo.pop(0)
            if part in ("", "."):
                continue
            if part == "..":
                done = posixpath.dirname(done).rstrip("/")
                continue
            place = f"{done}/{part}"
            target = table.get(place)
            if target is None:
                done = place
                continue
            steps += 1
            if steps > 40:
                raise OSError(40, "Too many levels of symbolic links")
            todo = [part for part in target.split("/") if part] + todo
            if target.startswith("/"):
                done = ""
        return done or "/"

    return resolve


class Located:
    """Path rules with the file system that they are asked about."""

    def __init__(self, rules: PathRules, resolve: Callable[[str], str]) -> None:
        self.rules = rules
        self._resolve = resolve

    def locate(self, path: str) -> NamedPath:
        return self.rules.locate(path, self._resolve)

    def match(self, path: str) -> str:
        return self.rules.match(self.locate(path))

    def within(self, path: str, folders: Iterable[str]) -> bool:
        return self.locate(path).within(folders)


def paths(
    *,
    links: Mapping[str, str] | None = None,
    protect: Iterable[str] = (),
    allow: Iterable[str] = (),
    work_dir: str = WORK,
    home: str = HOME,
) -> Located:
    resolve = resolver(links)
    rules = PathRules(work_dir=work_dir, home=home, resolve=resolve, protect=protect, allow=allow)
    return Located(rules, resolve)


def rules(
    preset: Preset = "edit",
    *,
    limits: Limits | None = None,
    safety: bool = True,
    permission_mode: str = "",
    on_violation: OnViolation = "stop",
    protect_read: Iterable[str] = (),
) -> Rules:
    return Rules(
        limits=limits or Limits(),
        preset=preset,
        paths=paths().rules,
        read_paths=PathRules(work_dir=WORK, home=HOME, resolve=resolver(), protect=protect_read, defaults=()),
        folders=(WORK,),
        safety=safety,
        permission_mode=permission_mode,
        stop_on_violation=on_violation == "stop",
    )


# --- a runner without I/O -------------------------------------------------------------------------


def located(call: PendingCall, rules: Rules) -> PathsFound:
    """Where the paths of a call lead, on a disk without links."""
    names = call.names
    return PathsFound(call.request_id, tuple(rules.paths.locate(name, resolver()) for name in names))


class World:
    """Folds, decides and carries out as the real runner does, and checks what must always hold.

    - No call is answered that does not wait, none twice.
    - Once there is a breach, every call is refused and claude is told to end its turn.
    - Under a cost limit nothing is let through without a reading asked for after the reply that made the
      call was complete.
    """

    def __init__(
        self, given: Rules | None = None, *, begun: bool = True, total: float = 0.0, slow_disk: bool = False
    ) -> None:
        """`slow_disk`: the file system answers when `find_paths` is called."""
        self.slow_disk = slow_disk
        self.looked_up: list[PendingCall] = []
        self._found = 0  # so many of them are answered
        self.rules = given or rules()
        self.now = START
        self.state = State()
        self.answers: dict[str, AnswerCall] = {}
        self.breaches: list[Breached] = []
        self.asked = 0
        self.interrupts = 0
        self.stops: list[str] = []
        self.unasked_ended: list[str] = []
        self.given_up: list[Breach | None] = []
        self.unfit = ""
        self.settled: list[Conclusion] = []
        self._waiting: set[str] = set()
        self._ripe: dict[str, bool] = {}  # call -> its reply is complete
        self._covered: dict[str, bool] = {}  # call -> a figure came that was asked for after that
        self._out: set[str] | None = None  # the calls that were ripe when the meter was asked
        if begun:
            self.see(Opened(total, {}), Began("i"), RUNNING, started())

    def see(self, *events: Event) -> World:
        """These events, one after the other, a little time apart."""
        for event in events:
            self.now += 0.001
            self._watch(event)
            self.state = fold(self.state, event, self.now)
            self.act()
        return self

    def wait(self, seconds: float) -> World:
        """Time passes, and nothing happens."""
        self.now += seconds
        self.act()
        return self

    def wait_until(self, moment: float) -> World:
        self.now = max(self.now, moment)
        self.act()
        return self

    def read_meter(self, cost: float) -> World:
        """The meter answers, if it was asked."""
        if self.state.asked_seq is not None:
            self.see(meter(cost))
        return self

    def act(self) -> int:
        """What is to be done now; how many things that were."""
        actions = decide(self.state, self.rules, self.now)
        for action in actions:
            match action:
                case AnswerCall():
                    self._answer(action)
                case FindPaths(call=call):
                    assert not call.looking, "looked up twice at one time"
                    self.looked_up.append(call)
                    self.state = fold(self.state, LookingUp(call.request_id), self.now)
                case AskMeter():
                    self.asked += 1
                    assert self.state.asked_seq is None, "the meter is asked while a question is out"
                    self._out = {key for key, ripe in self._ripe.items() if ripe}
                    self.state = fold(self.state, MeterAsked(), self.now)
                case AskBudget():
                    self.state = fold(self.state, BudgetAsked(), self.now)
                case AskStanding():
                    self.state = fold(self.state, StandingAsked(), self.now)
                case EndUnasked(reason=reason):
                    self.unasked_ended.append(reason)
                    self.state = fold(self.state, InterruptSent(unasked=True), self.now)
                case SendInterrupt():
                    assert self.state.turn is not None
                    assert self.state.turn.interrupted_at is None, "interrupted twice"
                    self.interrupts += 1
                    self.state = fold(self.state, InterruptSent(), self.now)
                case Note(breach=breach):
                    self.breaches.append(Breached(breach))
                    self.state = fold(self.state, self.breaches[-1], self.now)
                case StopProcess(reason=reason):
                    self.stops.append(reason)
                case GiveUp(breach=breach):
                    self.given_up.append(breach)
                case Unfit(lacks=lacks):
                    self.unfit = lacks
                case Settle():
                    self.settled.append(conclude(self.state))
                    self.state = fold(self.state, Settled(), self.now)
                case _:
                    raise AssertionError(action)
        if not self.slow_disk:
            self.find_paths()
        return len(actions)

    def find_paths(self) -> World:
        """The file system answers what it was asked."""
        while self._found < len(self.looked_up):
            self._found += 1
            self.see(located(self.looked_up[self._found - 1], self.rules))
        return self

    def _watch(self, event: Event) -> None:
        match event:
            case HookCallback(request_id=key, request=request):
                self._waiting.add(key)
                streaming = bool(self.state.open_message) and request.input.agent_id is None
                self._ripe.setdefault(key, not streaming)
                self._covered.setdefault(key, False)
            case CanUseTool(request_id=key):
                self._waiting.add(key)
                self._ripe.setdefault(key, True)
                self._covered.setdefault(key, False)
            case StreamEvent(event=ApiEvent(type="message_stop")) | Result():
                self._ripe = dict.fromkeys(self._ripe, True)
            case Answered(ask=GetUsage(), error="") if self._out is not None:
                for key in self._out:
                    self._covered[key] = True
                self._out = None
            case Answered(ask=GetUsage()):
                self._out = None
            case _:
                pass

    def _answer(self, action: AnswerCall) -> None:
        key = action.call.request_id
        assert key in self._waiting, f"{key} is answered and does not wait"
        self._waiting.discard(key)
        self.answers[key] = action
        turn = self.state.turn
        if turn is None or turn.breach is not None:
            assert action.decision.effect == "deny"
            if isinstance(action.answer, HookAnswer):
                assert action.answer.continue_ is False
                assert action.answer.stop_reason
        elif self.rules.limits.max_cost is not None and action.decision.effect != "deny":
            assert self._covered[key], f"{key} runs though nobody knows what it has cost to come here"
        self._ripe.pop(key, None)
        self._covered.pop(key, None)
        verdict = action.decision
        noted = verdict.effect == "deny" and action.denial is None
        judged = Judged(key, action.denial, verdict.questions, verdict.plan, noted=noted)
        self.state = fold(self.state, judged, self.now)

    @property
    def words(self) -> dict[str, str]:
        """The verdict on each call so far."""
        return {key: action.decision.effect for key, action in self.answers.items()}
