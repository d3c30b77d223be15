"""Tools on sessions: delegate, continue, spawn, send, resume, fork, wait; interrupt, pause, stop, kill.

Cancelling one that makes an agent work stops what it started: the agent of a delegation, a spawned session, a
message under way. What was only listened to goes on.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from cms.errors import CmsError
from cms.layers import terms_of
from cms.mcp.call import DaemonCall
from cms.mcp.params import (
    LONG_TEXT,
    Detach,
    MaxChars,
    Model,
    Name,
    NameArguments,
    NewName,
    NewSession,
    Options,
    Text,
    takes,
)
from cms.mcp.results import (
    MAX_TEXT,
    Answer,
    DelegationVerdict,
    Ended,
    Message,
    Result,
    Session,
    Status,
    answer_of,
    described,
    ended_of,
    message_of,
    session_of,
    verdict_of,
)
from cms.mcp.tool import Params, tool
from cms.rpc.sessions import (
    SESSION_CONTINUE,
    SESSION_DELEGATE,
    SESSION_FORK,
    SESSION_INTERRUPT,
    SESSION_KILL,
    SESSION_PAUSE,
    SESSION_RESUME,
    SESSION_SEND,
    SESSION_SPAWN,
    SESSION_STOP,
    SESSIONS_WAIT,
    AcceptedResult,
    ContinueParams,
    DelegateParams,
    ForkParams,
    NameParams,
    PauseParams,
    SendParams,
    SpawnParams,
    StopParams,
    WaitParams,
)
from cms.session.model import DelegateResult, Reply, SessionStatus


@takes("delegate")
class DelegateArguments(NewSession, frozen=True, kw_only=True):
    name: NewName
    task: Annotated[
        str,
        msgspec.Meta(
            description="All it needs: it sees none of this conversation. State the goal, where to look, "
            "what not to touch, and what to report back.",
            min_length=1,
            max_length=LONG_TEXT,
        ),
    ]
    detach: Detach = False
    max_chars: MaxChars = MAX_TEXT


def delegate(call: DaemonCall, given: DelegateArguments) -> DelegationVerdict:
    params = DelegateParams(
        options=given.options(call, given.name, delegated=True),
        task=given.task,
        context=given.layer.context or "",
        detach=given.detach,
    )
    reply = call.call(SESSION_DELEGATE, params)
    return _verdict(reply, given.max_chars)


@takes("continue")
class ContinueArguments(Options, frozen=True, kw_only=True):
    name: Name
    message: Text
    detach: Detach = False
    max_chars: MaxChars = MAX_TEXT


def continue_(call: DaemonCall, given: ContinueArguments) -> DelegationVerdict:
    terms = msgspec.structs.asdict(terms_of(given.layer))
    params = ContinueParams(name=given.name, message=given.message, detach=given.detach, **terms)
    reply = call.call(SESSION_CONTINUE, params)
    return _verdict(reply, given.max_chars)


def _verdict(reply: DelegateResult | AcceptedResult, max_chars: int) -> DelegationVerdict:
    if isinstance(reply, AcceptedResult):
        return DelegationVerdict(name=reply.name, outcome=None, accepted_only=True)
    return verdict_of(reply, max_chars)


@takes("spawn")
class SpawnArguments(NewSession, frozen=True, kw_only=True):
    name: NewName
    prompt: Annotated[
        str,
        msgspec.Meta(
            description="Its first message. It sees none of this conversation.",
            min_length=1,
            max_length=LONG_TEXT,
        ),
    ]
    detach: Detach = False
    max_chars: MaxChars = MAX_TEXT


def spawn(call: DaemonCall, given: SpawnArguments) -> Answer:
    options = given.options(call, given.name, delegated=False)
    params = SpawnParams(options=options, prompt=given.prompt, wait=not given.detach)
    reply = call.call(SESSION_SPAWN, params)
    if call.cancelled and isinstance(reply, AcceptedResult):
        call.clean_up(SESSION_STOP, StopParams(name=given.name))
    return _answer(reply, given.max_chars)


class SendArguments(Params, frozen=True, kw_only=True):
    name: Name
    message: Text
    detach: Detach = False
    max_chars: MaxChars = MAX_TEXT


def send(call: DaemonCall, given: SendArguments) -> Answer:
    params = SendParams(name=given.name, message=given.message, wait=not given.detach)
    reply = call.call(SESSION_SEND, params)
    _interrupt_if_cancelled(call, given.name, reply)
    return _answer(reply, given.max_chars)


class ResumeArguments(Params, frozen=True, kw_only=True):
    name: Name
    message: (
        Annotated[
            Text,
            msgspec.Meta(
                description="Also send it this message. Without one, nothing is asked of the model."
            ),
        ]
        | None
    ) = None
    detach: Detach = False
    max_chars: MaxChars = MAX_TEXT


def resume(call: DaemonCall, given: ResumeArguments) -> Answer:
    if given.message is None:
        session = call.call(SESSION_RESUME, NameParams(name=given.name)).session
        return Answer(name=session.name, status=session.status, total_cost=session.total_cost_usd)
    params = SendParams(name=given.name, message=given.message, resume=True, wait=not given.detach)
    reply = call.call(SESSION_SEND, params)
    _interrupt_if_cancelled(call, given.name, reply)
    return _answer(reply, given.max_chars)


class ForkArguments(Params, frozen=True, kw_only=True):
    name: Annotated[Name, msgspec.Meta(description="The session to branch off; alive or not, it goes on.")]
    new_name: NewName
    message: Annotated[
        str, msgspec.Meta(description="The branch's first message.", min_length=1, max_length=LONG_TEXT)
    ] = "Go on from here."
    model: Annotated[Model, msgspec.Meta(description="Another model; by default the same.")] | None = None
    detach: Detach = False
    max_chars: MaxChars = MAX_TEXT


def fork(call: DaemonCall, given: ForkArguments) -> Answer:
    params = ForkParams(
        name=given.name,
        new_name=given.new_name,
        message=given.message,
        model=given.model or "",
        wait=not given.detach,
    )
    reply = call.call(SESSION_FORK, params)
    if call.cancelled and isinstance(reply, AcceptedResult):
        call.clean_up(SESSION_STOP, StopParams(name=given.new_name))
    return _answer(reply, given.max_chars)


def _interrupt_if_cancelled(call: DaemonCall, name: str, reply: Reply | AcceptedResult) -> None:
    """The daemon has let go of the message, which works on: end that too, but not the session."""
    if call.cancelled and isinstance(reply, AcceptedResult):
        try:
            call.clean_up(SESSION_INTERRUPT, NameParams(name=name))
        except CmsError:
            pass  # it was over just then


def _answer(reply: Reply | AcceptedResult, max_chars: int) -> Answer:
    if isinstance(reply, AcceptedResult):
        return Answer(name=reply.name, status=SessionStatus.BUSY, accepted_only=True)
    return answer_of(reply, max_chars)


def interrupt(call: DaemonCall, given: NameArguments) -> Session:
    reply = call.call(SESSION_INTERRUPT, NameParams(name=given.name))
    return session_of(reply.session, reply.activity)


class PauseArguments(Params, frozen=True, kw_only=True):
    name: Name
    freeze: Annotated[
        bool, described("Also stop its whole process tree this instant, in the middle of its work.")
    ] = False


def pause(call: DaemonCall, given: PauseArguments) -> Session:
    reply = call.call(SESSION_PAUSE, PauseParams(name=given.name, freeze=given.freeze))
    return session_of(reply.session, reply.activity)


class StopArguments(Params, frozen=True, kw_only=True):
    name: Name
    grace_seconds: Annotated[
        float, msgspec.Meta(description="How long it may take before force is used.", gt=0, le=300)
    ] = 10.0


def stop(call: DaemonCall, given: StopArguments) -> Ended:
    reply = call.call(SESSION_STOP, StopParams(name=given.name, grace=given.grace_seconds))
    return ended_of(reply.session, reply.receipt)


def kill(call: DaemonCall, given: NameArguments) -> Ended:
    reply = call.call(SESSION_KILL, NameParams(name=given.name))
    return ended_of(reply.session, reply.receipt)


class Through(Result, frozen=True):
    """A session that has nothing left to do."""

    SHOWS = "name=session.name status=session.status"

    name: str
    status: Status
    last: Annotated[Message | None, described("Its last message and the answer to it.")]


class Collected(Result, frozen=True):
    SHOWS = "working=waiting"

    done: tuple[Through, ...]
    working: Annotated[tuple[str, ...], described("Those that are not through yet.")]
    timed_out: bool


class WaitArguments(Params, frozen=True, kw_only=True):
    names: Annotated[
        tuple[Name, ...], msgspec.Meta(description="The sessions.", min_length=1, max_length=200)
    ]
    first: Annotated[bool, described("Return when the first of them is through, not all.")] = False
    timeout_seconds: Annotated[
        float,
        msgspec.Meta(description="Return after so long with what there is. They work on.", gt=0, le=86_400),
    ] = 1800
    max_chars: Annotated[
        int, msgspec.Meta(description="Cut each answer here; `output` gives the rest.", ge=100, le=100_000)
    ] = 4000


def wait(call: DaemonCall, given: WaitArguments) -> Collected:
    params = WaitParams(names=given.names, first=given.first, timeout=given.timeout_seconds)
    reply = call.call(SESSIONS_WAIT, params)
    done = tuple(
        Through.from_record(
            one, last=None if one.last is None else message_of(one.last, 200, given.max_chars)
        )
        for one in reply.done
    )
    return Collected.from_record(reply, done=done)


TOOLS = (
    tool(
        "delegate",
        "Delegate a task",
        DelegateArguments,
        DelegationVerdict,
        delegate,
        """Give one self-contained task to a Claude Code agent of its own, under limits, and get a verdict.
        The first choice for work that you can describe fully and check afterwards. It costs model calls up
        to maxCost (by default $2.00; a small task takes some cents) and none of your context but the answer.
        Nobody answers its permission questions: what the
        preset does not allow is refused and reported. Its process ends with the task; `continue` goes on
        in the same conversation. For several side by side start each with detach, then `wait` once for all:
        without, they run one after the other. Cancelling this call stops the agent.""",
        destructive=True,
        open_world=True,
    ),
    tool(
        "continue",
        "Follow up on a delegation",
        ContinueArguments,
        DelegationVerdict,
        continue_,
        """Send a follow-up to a delegated session and get a new verdict: answer its questions, ask for a
        fix, raise a limit that ended it. It remembers everything: cheaper than a new delegation. The
        session's limits count from its beginning.""",
        destructive=True,
        open_world=True,
    ),
    tool(
        "spawn",
        "Start a session",
        SpawnArguments,
        Answer,
        spawn,
        """Start an agent that stays alive for a conversation of several messages, and get its first answer.
        For one task use `delegate` instead. The live process holds about 200 MB until you `stop` it.
        Costs model calls up to maxCost. Cancelling this call stops the session.""",
        destructive=True,
        open_world=True,
    ),
    tool(
        "send",
        "Send a message",
        SendArguments,
        Answer,
        send,
        """Send a message to a session and get the answer. A session that is not alive is brought back first,
        its conversation whole. Costs model calls, under the session's limits. Messages to one session are
        answered in order. Cancelling this call interrupts the work and keeps the session.""",
        destructive=True,
        open_world=True,
    ),
    tool(
        "resume",
        "Bring a session back",
        ResumeArguments,
        Answer,
        resume,
        """Bring back a stopped, killed or paused session, days later too. Rarely needed: `send` and
        `continue` do it by themselves. Free without a message.""",
        open_world=True,
    ),
    tool(
        "fork",
        "Branch a conversation",
        ForkArguments,
        Answer,
        fork,
        """Branch a session's conversation into a new live session and send that a message: to try something
        else with what it has read. The original stays as it is. Costs model calls, under the original's
        limits, counted from zero. Both work in one folder. Cancelling this call stops the branch.""",
        destructive=True,
        open_world=True,
        inside=False,
    ),
    tool(
        "wait",
        "Wait for sessions",
        WaitArguments,
        Collected,
        wait,
        """Wait until sessions have nothing left to do, and collect their last answers with outcome and cost:
        the second half of what you started with detach. Free, one call for many sessions. One that waits
        for an answer counts as at work: if it takes long, look at `questions`.""",
        read_only=True,
    ),
    tool(
        "interrupt",
        "Interrupt a session",
        NameArguments,
        Session,
        interrupt,
        """End what a session is doing now and keep it alive, to send it something better. Free. An error if
        it is doing nothing.""",
        destructive=True,
    ),
    tool(
        "pause",
        "Pause a session",
        PauseArguments,
        Session,
        pause,
        """Let a session take no more messages; what it is doing goes on, unless you freeze it. `resume`
        opens it again. Free; its process stays. To be rid of it use `stop`.""",
        idempotent=True,
    ),
    tool(
        "stop",
        "Stop a session",
        StopArguments,
        Ended,
        stop,
        """End a session's process gracefully; the conversation is kept and `send` brings it back. Do it with
        each spawned session that you are done with: it frees about 200 MB. Free.""",
        destructive=True,
        idempotent=True,
    ),
    tool(
        "kill",
        "Kill a session",
        NameArguments,
        Ended,
        kill,
        """End a session and every process that it started by force, at once, and prove it. For one that does
        harm or does not react to `stop`; work in flight is lost. Free.""",
        destructive=True,
        idempotent=True,
    ),
)
