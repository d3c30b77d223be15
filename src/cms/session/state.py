"""What is known of a live session, as a value. Pure; how each event changes it: `session.fold`.

Rules, in prose first:

- A session's process is `starting` until its baseline is known, then `ready`; a message makes it `busy`; the
  end of the work makes it `ready` again; the end of the process makes it `ended`, from anywhere.

      starting --Opened--> ready --Began--> busy --Settled--> ready
      any --Ended--> ended

- One message is in flight at a time; what comes later waits in the store (where it can be taken back).
- A result is the end of a turn, not of the work. The work is over (`is_over`) when there was a result,
  claude said `idle` after it, and no background subagent lives. (A claude that never says `idle` is none to
  work with: `session.startup`.) A later result, unasked, belongs to the same interaction.
- A live background shell does not keep the work going; it is reported. Its end can start a turn that nobody
  asked for (`unasked`): between messages, or before claude begins ours. What that costs is charged to the
  interaction that started the shell. Where claude confirms messages (`command_lifecycle`), a result that
  comes before it has begun ours is that turn's, and no answer to ours.
- A tool call waits at the gate from its hook until `Judged`. Claude starts a tool while the reply that
  contains it is still being streamed, and that reply's price is known only when it is complete. So a call
  is `complete` only from the end of its reply on, and a meter reading is fresh for it only if asked after
  that.
  The order of events is counted in `seq`; no clock takes part in it.
- A call that names paths waits, too, until it is known where they lead (`PathsFound`). A person's answer to a
  call asks for that anew.
- A turn is one API call of the main conversation that brought something (a subagent's calls cost money, but
  are its own turns). `num_turns` of the result is not used: it also counts the note of an interrupt.
- What the interaction may spend of shared budgets is its allowance. Each charge asks for more. Once what was
  granted is spent, calls wait at the gate until there is more, or an end to it.
- What ends an interaction early is its `breach`; the first one stays, whatever comes after.
- Silence is the time since claude last wrote of its work; its answers to the meter show only that the
  process lives.
"""

from __future__ import annotations

import enum
from contextlib import suppress
from typing import Literal

import msgspec

from cms.errors import UNREADABLE
from cms.protocol.messages import (
    ApiRetry,
    CanUseTool,
    Event,
    HookCallback,
    RateLimitInfo,
    Result,
)
from cms.protocol.tools import KNOWN_TOOLS, WORKTREE_HOOK
from cms.session.budget import Grant
from cms.session.ledger import EPSILON, Charge, Ledger
from cms.session.model import Denial, InteractionState, Outcome, Question, TokenUsage
from cms.session.path_rules import NamedPath
from cms.session.questions import PersonAnswer
from cms.session.repetition import Repetition
from cms.session.tool_input import ToolInput, guess_paths, read_input

#: Background work that owes us a further turn, by claude's `task_type`.
CLOUD_TASK = "remote_agent"
AGENT_TASKS = frozenset({"local_agent", "local_workflow", CLOUD_TASK})


class Phase(enum.StrEnum):
    STARTING = "starting"
    READY = "ready"
    BUSY = "busy"
    ENDED = "ended"


class Breach(msgspec.Struct, frozen=True):
    """Why an interaction is ended before its time, and since when."""

    outcome: Outcome
    reason: str
    at: float
    api_status: int | None = None  # what claude was retrying against, where that is why
    denied: str = ""  # what a call was about that claude refused by itself, and that is why


CallKind = Literal["hook", "permission", "worktree"]


class PendingCall(msgspec.Struct, frozen=True):
    """A tool call that stands at the gate, a permission question, or a work tree to be made. Made by `of`.

    Attributes:
        input: as it came.
        given: as far as we can read it; `readable` says whether that is all of it.
        complete: the `seq` from which a meter reading covers the reply that made the call; None while that
            reply is still being streamed.
        at: when it came.
        cwd: where it would be done, "" if claude does not say.
        astray: a subagent's, who works where the main conversation never was, though a work tree was refused.
        guessed: what may be paths in the input of a tool that we do not know; None: too much to look at.
        paths: where the paths that it names lead; None: that is still to be found out.
        looking: somebody is finding it out.
        person: what a person has said to it.
        suggestions: JSON: what claude would change if a person permitted it.
    """

    request_id: str
    kind: CallKind
    tool: str
    input: msgspec.Raw
    given: ToolInput
    readable: bool
    tool_use_id: str
    agent_id: str | None
    complete: int | None
    blocked_path: str
    at: float
    paths: tuple[NamedPath, ...] | None
    looking: bool = False
    person: PersonAnswer | None = None
    cwd: str = ""
    astray: bool = False
    guessed: tuple[str, ...] | None = ()
    suggestions: msgspec.Raw = msgspec.Raw(b"[]")

    @classmethod
    def of(
        cls,
        request_id: str,
        kind: CallKind,
        tool: str,
        input: msgspec.Raw,  # noqa: A002 - claude's word for it
        *,
        tool_use_id: str = "",
        agent_id: str | None = None,
        complete: int | None = None,
        blocked_path: str = "",
        suggestions: msgspec.Raw = msgspec.Raw(b"[]"),  # noqa: B008 - it is frozen
        at: float = 0.0,
        cwd: str = "",
        astray: bool = False,
    ) -> PendingCall:
        """A call that has just come, its input read."""
        given, readable = read_input(input)
        guessed = () if tool in KNOWN_TOOLS else guess_paths(input)
        return cls(
            request_id=request_id,
            kind=kind,
            tool=tool,
            input=input,
            given=given,
            readable=readable,
            tool_use_id=tool_use_id,
            agent_id=agent_id,
            complete=complete,
            blocked_path=blocked_path,
            suggestions=suggestions,
            at=at,
            guessed=guessed,
            paths=None if given.paths or guessed else (),
            cwd=cwd,
            astray=astray,
        )

    @property
    def names(self) -> tuple[str, ...]:
        """The paths that are to be looked up."""
        return tuple(dict.fromkeys((*self.given.paths, *(self.guessed or ()))))

    @property
    def of_main(self) -> bool:
        """Whether the main conversation makes it, whose turn an answer can end."""
        return self.agent_id is None and self.kind != "worktree"

    @property
    def whole(self) -> str:
        """All that a person who permits it should see: the command or the file, and what else it is given."""
        known, fields = self.given.command or self.given.target, {}
        with suppress(*UNREADABLE):
            fields = msgspec.json.decode(self.input, type=dict[str, object])
        if known is None or not fields:
            return bytes(self.input).decode("utf-8", "backslashreplace")
        # (What a shell command is for, its maker says. It is not what it does.)
        left_out = ("description", "timeout") if self.tool == "Bash" else ()
        main = next(name for name, value in fields.items() if value == known)
        more = [
            f"{name}: {value if isinstance(value, str) else msgspec.json.encode(value).decode()}"
            for name, value in fields.items()
            if name != main and name not in left_out
        ]
        return "\n".join((known, *more))

    @property
    def target(self) -> NamedPath | None:
        """The file that it is about, if it names one and it is known where that leads."""
        name = self.given.target
        return next((path for path in self.paths or () if path.name == name), None)


class Allowance(msgspec.Struct, frozen=True):
    """What the interaction in flight may spend of the shared budgets that it is charged to.

    Attributes:
        amount: US dollars since it began; None: no cap.
        short: why it got no more when it was last asked, or "".
        final: asking again is of no use.
        short_since: since when it gets no more.
        asked: questions for more that are out.
        asked_at: when the newest was asked.
    """

    amount: float | None = None
    short: str = ""
    final: bool = False
    short_since: float = 0.0
    asked: int = 0
    asked_at: float = 0.0


class Turn(msgspec.Struct, frozen=True):
    """The interaction in flight."""

    id: str
    started: float
    spent_before: float
    state: InteractionState = InteractionState.SENT
    turns: int = 0
    tool_calls: int = 0
    tools_used: tuple[str, ...] = ()
    command: bool = False  # its message may be a command of claude's own
    asked: bool = False  # the model has said something to it
    answered: bool = False  # a result held an answer
    output: str = ""  # JSON: the newest answer of the shape that was asked for
    blocked: str = ""  # why claude did not go on with it
    acted: int = 0  # tool calls that may have changed something, and succeeded
    refused: int = 0  # tool calls that would have changed something, and were refused, by whomever
    calls: dict[str, tuple[str, ToolInput]] = {}  # tool_use_id -> what was called, and is not at the gate yet
    at_work: dict[str, bool] = {}  # tool_use_id -> whether it may change something; let through, not finished
    texts: tuple[str, ...] = ()  # one per result
    last_text: str = ""  # of the main conversation, since the last result
    plan: str = ""
    denials: tuple[Denial, ...] = ()
    denied_ids: frozenset[str] = frozenset()
    unpermitted: dict[str, tuple[str, ToolInput]] = {}  # tool_use_id -> what was refused: nobody was there
    questions: tuple[Question, ...] = ()
    result: Result | None = None  # the newest
    breach: Breach | None = None
    since: float = 0.0  # from when its time counts: its acceptance, if the process was not up yet
    refused_at: float | None = None  # a call of the main conversation was first answered with the breach
    heeded: bool = False  # and the turn ended
    unheeded: bool = False  # and claude went on all the same
    interrupted_at: float | None = None
    retry: ApiRetry | None = None  # the one under way
    retry_since: float = 0.0  # when the API first failed, of the failures without an answer between them
    repetitions: dict[str, Repetition] = {}  # agent id ("" for the main conversation) -> its newest call
    models: dict[str, TokenUsage] = {}
    allowance: Allowance = Allowance()


class Unasked(msgspec.Struct, frozen=True):
    """A turn under way that nobody asked for: claude begins one when a background task ends.

    Attributes:
        payer: the interaction that it is charged to: the one that started what woke claude.
        replies: API calls of the main conversation so far.
        asked: whether the shared budgets have anything for it is being asked, or known.
        short: they have not, and why.
        interrupted_at: it is being ended since then.
    """

    payer: str
    replies: int = 0
    asked: bool = False
    short: str = ""
    interrupted_at: float | None = None


class State(msgspec.Struct, frozen=True):
    """A live session. Times are seconds since the epoch, as the caller gave them."""

    phase: Phase = Phase.STARTING
    seq: int = 0
    last_heard: float = 0.0
    conversation_id: str = ""
    model: str = ""
    version: str = ""
    api_key_source: str = ""
    lacks: str = ""  # what safety rests on and this claude does not have
    hooks: dict[str, str] = {}  # of the user's own, that run before claude is up: id -> name
    owes_since: float | None = None  # since when it is claude's turn to come up, and not its hooks'
    waits_since: float | None = None  # since when a message waits for that
    servers_down: tuple[str, ...] = ()  # MCP servers that should be there
    cwd: str = ""  # where its turn began
    been: frozenset[str] = frozenset()  # where the main conversation has worked
    kept_here: bool = False  # a work tree was to be made, and was refused
    turn: Turn | None = None
    idle: bool | None = None  # None: this binary never said
    confirms: bool = False  # this binary says when it begins a message
    tasks: dict[str, tuple[str, str]] = {}  # task id -> (type, description)
    started_by: dict[str, str] = {}  # task id -> the interaction that started it
    woken: bool = False  # it was told of a task's end, and has not begun a turn about it
    woken_for: str = ""  # the interaction that started the task whose end claude has not begun a turn about
    last_turn: str = ""  # the interaction that ended last
    unasked: Unasked | None = None
    open_message: str = ""  # the reply that is being streamed
    last_message: str = ""
    last_stop: str = ""  # stop_reason of the last complete reply
    reply_seq: int = 0  # seq of the end of the last complete reply
    gate: tuple[PendingCall, ...] = ()
    ledger: Ledger = Ledger()
    charges: tuple[Charge, ...] = ()  # not yet in the store; taken by `Charged`
    asked_seq: int | None = None  # a meter question is out since
    asked_at: float = 0.0
    unread_since: float | None = None  # the meter has been asked since then, and gave no figure
    metered_seq: int = 0  # the last answered question was asked at
    rate_limit: RateLimitInfo | None = None
    turns: int = 0  # over the session's whole life
    tool_calls: int = 0
    returncode: int | None = None


# --- what we do ourselves, told to the state -----------------------------------------------------


class Local(Event, frozen=True):
    """The base of what claude did not write."""


class Launched(Local, frozen=True):
    """There is a process."""


class Accepted(Local, frozen=True):
    """A message is in the queue."""


class Opened(Local, frozen=True):
    """The process answered its first questions; its baseline is known."""

    total: float
    models: dict[str, TokenUsage]
    version: str = ""


class Began(Local, frozen=True):
    """A message is about to be written."""

    interaction_id: str
    grant: Grant = Grant()
    command: bool = False  # it may be a command of claude's own (`/clear`)
    before: float = 0.0  # seconds of work that its time counts besides


class BudgetAsked(Local, frozen=True):
    """More of the shared budgets is about to be asked for."""


class StandingAsked(Local, frozen=True):
    """What the shared budgets have for the turn that nobody asked for is about to be asked."""


class StandingKnown(Local, frozen=True):
    """What the shared budgets have for it."""

    grant: Grant


class Granted(Local, frozen=True):
    """What an interaction may spend of the shared budgets from now on."""

    interaction_id: str
    grant: Grant


class MeterAsked(Local, frozen=True):
    """`get_usage` is about to be written."""


class Judged(Local, frozen=True):
    """A call at the gate was decided.

    Attributes:
        noted: it is not carried out, and no refusal: what it asked or planned is noted.
    """

    request_id: str
    denial: Denial | None = None
    questions: tuple[Question, ...] = ()
    plan: str = ""
    noted: bool = False


class LookingUp(Local, frozen=True):
    """Where a call's paths lead is about to be looked up."""

    request_id: str


class PathsFound(Local, frozen=True):
    """Where a call's paths lead."""

    request_id: str
    paths: tuple[NamedPath, ...]


class PersonAnswered(Local, frozen=True):
    """A person's answer to a call at the gate."""

    request_id: str
    answer: PersonAnswer


class Breached(Local, frozen=True):
    """A limit, a violation, a person or a stop ends the interaction in flight."""

    breach: Breach


class InterruptSent(Local, frozen=True):
    """`interrupt` is about to be written."""

    unasked: bool = False  # for the turn that nobody asked for


class Charged(Local, frozen=True):
    """The first `count` charges are in the store."""

    count: int


class Settled(Local, frozen=True):
    """The interaction in flight was judged; its end is on its way to the store."""


class Ended(Local, frozen=True):
    """The process is gone; `exact` False if it may have spent what it did not report."""

    returncode: int | None
    exact: bool


# --- what claude asks, told to the state ----------------------------------------------------------


def pending_call(state: State, event: HookCallback | CanUseTool, now: float) -> PendingCall:
    """What has come to the gate."""
    if isinstance(event, HookCallback):
        hook = event.request.input
        if hook.hook_event_name == WORKTREE_HOOK:
            given = msgspec.Raw(msgspec.json.encode({"description": hook.name}))
            return PendingCall.of(
                event.request_id, "worktree", WORKTREE_HOOK, given, complete=state.seq, at=now
            )
        streaming = hook.agent_id is None and state.open_message
        return PendingCall.of(
            event.request_id,
            "hook",
            hook.tool_name,
            hook.tool_input,
            tool_use_id=hook.tool_use_id,
            agent_id=hook.agent_id,
            complete=None if streaming else state.seq,
            at=now,
            cwd=hook.cwd,
            astray=state.kept_here and hook.agent_id is not None and hook.cwd not in state.been,
        )
    ask = event.request
    return PendingCall.of(
        event.request_id,
        "permission",
        ask.tool_name,
        ask.input,
        tool_use_id=ask.tool_use_id,
        complete=state.seq,
        blocked_path=ask.blocked_path or "",
        suggestions=ask.permission_suggestions,
        at=now,
    )


# --- questions to a state ------------------------------------------------------------------------


def agents(state: State) -> tuple[str, ...]:
    """Descriptions of the background subagents that live."""
    return tuple(text for kind, text in state.tasks.values() if kind in AGENT_TASKS)


def shells(state: State) -> tuple[str, ...]:
    """Descriptions of the other background tasks (shells, monitors) that live."""
    return tuple(text for kind, text in state.tasks.values() if kind not in AGENT_TASKS)


def is_over(state: State) -> bool:
    """Whether the interaction in flight has come to its end."""
    turn = state.turn
    if turn is None:
        return False
    if turn.state is InteractionState.INTERRUPTED:
        # claude took the message back before it began it: no result will come.
        return state.idle is True and not agents(state)
    return turn.result is not None and state.idle is not False and not agents(state)


def more_to_come(state: State) -> bool:
    """Whether claude is going to call the API again if nobody stops it."""
    return bool(state.gate or state.open_message or agents(state) or state.last_stop == "tool_use")


def out_of_budget(state: State) -> bool:
    """Whether the interaction in flight has spent all that it was granted of the shared budgets."""
    turn = state.turn
    if turn is None or turn.allowance.amount is None:
        return False
    return state.ledger.spent - turn.spent_before >= turn.allowance.amount - EPSILON


def is_out_of_turn(state: State) -> bool:
    """Whether what claude does now is a turn that nobody asked for; our message may wait behind it."""
    turn = state.turn
    return state.unasked is not None and (turn is None or turn.state is InteractionState.SENT)


def may_owe(state: State) -> bool:
    """Whether money may have been spent that the store does not hold: asked when a process has ended.

    Nothing is owed between turns, nor while a tool works on its own (no call of the API is under way then) if
    the meter was read after the last reply.
    """
    turn = state.turn
    if turn is None:
        return state.unasked is not None
    settled = bool(turn.at_work) and not state.open_message and state.metered_seq >= state.reply_seq
    return not settled or bool(agents(state))
