"""The records: what a session, an interaction, a limit, a verdict and a receipt are.

Values only. They are what the store keeps, what the RPC carries and what `--json` prints, so their field
names (camelCase on the outside) are the product's vocabulary and change only with a migration.

Units, everywhere: money in US dollars, times in seconds since the epoch (UTC), durations in seconds, except
`DelegateResult.duration` and `Reply.duration`, which are milliseconds because programs written against the
original tool read them so.
"""

from __future__ import annotations

import enum
from typing import Final, Literal

import msgspec

from cms.errors import ExitCode


class Record(msgspec.Struct, frozen=True, rename="camel", omit_defaults=False):
    """A frozen value with camelCase names on the outside."""


class SessionStatus(enum.StrEnum):
    """Where a session is in its life. Each has an icon in `cms list`."""

    CREATED = "created"  # in the store, nothing started yet
    STARTING = "starting"  # a process is coming up
    READY = "ready"  # a live process, nothing to do
    BUSY = "busy"  # a live process at work
    PAUSED = "paused"  # a live process that accepts no message
    ATTACHED = "attached"  # a person has it in claude's own interface; it accepts no message
    STOPPED = "stopped"  # ended gracefully; resumable
    KILLED = "killed"  # ended by force; resumable
    FAILED = "failed"  # the process died or could not start; resumable where a conversation exists
    ERROR = "error"  # its end could not be proved: processes may be left
    COMPLETED = "completed"  # a delegation that was judged done; resumable


#: As they are typed.
STATUSES = frozenset(status.value for status in SessionStatus)
#: Statuses in which a process is (or is about to be) alive.
LIVE = frozenset(map(SessionStatus, ("starting", "ready", "busy", "paused", "attached")))


class InteractionState(enum.StrEnum):
    """What is known of one message. Nothing leaves `queued` before that is on disk."""

    QUEUED = "queued"  # stored, not yet written to the process: certainly unsent
    SENT = "sent"  # written, or about to be: doubtful after a crash
    RUNNING = "running"  # claude said that it began
    CHECKING = "checking"  # a delegation's work has ended well; its checks and the tripwire are not through
    DONE = "done"  # answered
    FAILED = "failed"  # ended with an error
    INTERRUPTED = "interrupted"  # a limit, a person, a crash or a stop ended it
    DOUBTFUL = "doubtful"  # after a crash: it may or may not have reached claude
    UNCHECKED = "unchecked"  # the work had ended well, and its checks were cut off: it can be judged again


#: Types of messages that a delegation judges: their work that ended well is not `completed` before that.
DELEGATED = frozenset({"delegate", "continue", "repair"})
#: The type of a message that tells a session of its failed checks; it belongs to the delegation before it.
REPAIR = "repair"
#: States in which nobody works on an interaction any more.
ENDED = frozenset(
    {
        InteractionState.DONE,
        InteractionState.FAILED,
        InteractionState.INTERRUPTED,
        InteractionState.DOUBTFUL,
        InteractionState.UNCHECKED,
    }
)


class Outcome(enum.StrEnum):
    """How a delegation ended. Each has its exit code (`exit_code_of`) and its icon."""

    COMPLETED = "completed"
    NEEDS_INPUT = "needs_input"
    FAILED = "failed"
    COST_EXCEEDED = "cost_exceeded"
    TURNS_EXCEEDED = "turns_exceeded"
    TIME_EXCEEDED = "time_exceeded"
    STALLED = "stalled"
    PROTECTED_PATH = "protected_path"
    VERIFICATION_FAILED = "verification_failed"
    RATE_LIMITED = "rate_limited"
    INTERRUPTED = "interrupted"


_EXIT_CODES = {
    Outcome.COMPLETED: ExitCode.COMPLETED,
    Outcome.FAILED: ExitCode.FAILED,
    Outcome.NEEDS_INPUT: ExitCode.NEEDS_INPUT,
    Outcome.COST_EXCEEDED: ExitCode.COST_EXCEEDED,
    Outcome.TURNS_EXCEEDED: ExitCode.TURNS_EXCEEDED,
    Outcome.TIME_EXCEEDED: ExitCode.TIME_EXCEEDED,
    Outcome.STALLED: ExitCode.STALLED,
    Outcome.PROTECTED_PATH: ExitCode.PROTECTED_PATH,
    Outcome.VERIFICATION_FAILED: ExitCode.VERIFICATION_FAILED,
    Outcome.RATE_LIMITED: ExitCode.RATE_LIMITED,
    Outcome.INTERRUPTED: ExitCode.INTERRUPTED,
}


def exit_code_of(outcome: Outcome) -> ExitCode:
    """The exit status of a command that waited for a delegation that ended so."""
    return _EXIT_CODES[outcome]


def shown_as(status: SessionStatus, outcome: Outcome | None) -> SessionStatus | Outcome:
    """What a list says of a session: of one that rests, how its last message ended where that was not well.

    Args:
        outcome: that of its last message; None: it has not ended, or there was none.
    """
    if status is not SessionStatus.STOPPED or outcome in (None, Outcome.COMPLETED):
        return status
    return outcome


#: What sessions can be listed by: `age` is newest first, `active` the last that changed, `name` from A on,
#: the others the most first.
Order = Literal["age", "active", "name", "cost", "turns", "messages"]

#: What charges are summed up by; those by time are in its order, the others dearest first.
Grouping = Literal["session", "model", "tag", "day", "week"]
IN_TIME: Final[frozenset[Grouping]] = frozenset({"day", "week"})


class Limits(Record, frozen=True):
    """What a session may use. None means no limit of ours.

    Cost, turns and tool calls bound the whole session, follow-ups included; time and silence bound each
    interaction (a session may rest for days between two).
    """

    max_cost: float | None = None  # USD
    max_turns: int | None = None  # API calls of the main conversation
    max_time: float | None = None  # seconds of one interaction
    max_silence: float | None = None  # seconds without a line from claude while busy
    max_tool_calls: int | None = None
    max_repeats: int | None = None  # times in a row that one conversation may make the very same tool call
    max_retry_time: float | None = None  # seconds of API retries without one answer between them
    max_memory: int | None = None  # bytes, the whole process tree
    max_procs: int | None = None


Preset = Literal["read-only", "review", "edit", "full", "plan"]
PRESETS: tuple[Preset, ...] = ("read-only", "review", "edit", "full", "plan")
OnViolation = Literal["stop", "deny"]
Writes = Literal["workdir", "anywhere"]
ContainmentLevel = Literal["A", "B", "C", "D", "E"]
#: How a session is kept from changing its folder: the best that can be had, or the one that is named.
Isolate = Literal["no", "auto", "overlay", "worktree", "copy"]
#: When the change of an isolated delegation is applied by itself.
Apply = Literal["on-pass"]


class SessionOptions(Record, frozen=True):
    """Everything a person chose about a session; enough to start it, and to resume it days later."""

    name: str
    work_dir: str  # absolute
    model: str = "sonnet"
    preset: Preset = "edit"
    limits: Limits = Limits()
    delegated: bool = False
    safety: bool = True
    permission_mode: str = ""  # overrides the preset's arrangement; the gate still stands in front
    allowed_tools: tuple[str, ...] = ()  # permission rules handed to claude: `Bash(pytest *)`
    disallowed_tools: tuple[str, ...] = ()
    system_prompt: str = ""
    append_system_prompt: str = ""
    agent: str = ""
    fallback_model: str = ""
    effort: str = ""
    add_dirs: tuple[str, ...] = ()
    mcp_config: tuple[str, ...] = ()
    settings: str = ""
    protect: tuple[str, ...] = ()  # globs added to the protected paths
    protect_read: tuple[str, ...] = ()  # globs that may not even be read
    allow_write: tuple[str, ...] = ()  # globs taken out of what is protected; one that names a place opens it
    writes: Writes = "workdir"  # all else is read-only or a copy; "anywhere": whatever its user can write
    env_deny: tuple[str, ...] = ()  # globs of the environment variables that it does not get
    on_violation: OnViolation = "stop"
    verify: tuple[str, ...] = ()  # shell commands that must pass before `completed`
    json_schema: str = ""  # that the answers must fit
    judge: str = ""  # what a second session is asked about the work
    judge_max_cost: float = 0.5  # USD that it may spend on one delegation, all rounds
    judge_model: str = ""  # "": the session's own
    repair: int = 0  # how often the session is told of its failed checks, and goes on
    ask_timeout: float = 0.0  # seconds that a question or a permission waits for a person; 0: not at all
    fork_of: str = ""  # the conversation that this one branches off when it begins
    allow_cms: bool = False  # it may start sessions itself, within what it is (`session.lineage`)
    tags: tuple[str, ...] = ()  # a person's own words for it
    require_containment: ContainmentLevel | None = None  # it is not started below this; None: the setting's
    plain_folder: bool = False  # nothing that its folders bring is shown as configuration, CLAUDE.md neither
    otel: bool = False  # its traces are exported
    otel_content: bool = False  # with what was said in them
    trust_project: bool = False  # what its folders' own configuration starts, starts (`session.trust`)
    isolate: Isolate = "no"  # its work dir is not changed: what it writes becomes a change
    apply: Apply | None = None  # whether its change is applied when it is completed; None: by a person

    @property
    def isolated(self) -> bool:
        """Whether it works in a view of its own of its folder. What may write nothing needs none."""
        return self.isolate != "no" and self.preset in ("edit", "full")

    @property
    def most(self) -> float | None:
        """US dollars that one delegation can come to, its judge included; None: there is no limit."""
        cost = self.limits.max_cost
        return cost if cost is None or not self.judge else cost + self.judge_max_cost


class TokenUsage(Record, frozen=True):
    """Tokens and money that one model took (a line of claude's `modelUsage`)."""

    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_input_tokens: int = 0
    cache_creation_input_tokens: int = 0
    cost_usd: float = 0.0

    def __add__(self, other: TokenUsage) -> TokenUsage:
        return TokenUsage(
            self.input_tokens + other.input_tokens,
            self.output_tokens + other.output_tokens,
            self.cache_read_input_tokens + other.cache_read_input_tokens,
            self.cache_creation_input_tokens + other.cache_creation_input_tokens,
            self.cost_usd + other.cost_usd,
        )


class Denial(Record, frozen=True):
    """One tool call that was refused, by whom and why."""

    tool: str
    detail: str  # the path, the command: what it was about, in a line
    reason: str
    by: Literal["gate", "nobody", "person", "claude"] = "gate"
    violation: bool = False  # it touched a protected path
    allow: tuple[str, ...] = ()  # the rules that would have permitted it, as far as that is known


class Question(Record, frozen=True):
    """What the model asked a person (AskUserQuestion), one question of possibly several."""

    question: str
    header: str = ""
    options: tuple[str, ...] = ()
    multi_select: bool = False


class Judgement(Record, frozen=True):
    """What a judge said of the work on a message (`session.judge`).

    Attributes:
        verdict: "none": it gave none, and so the work has not passed.
        session: the judge's name.
        cost: US dollars that it took.
    """

    verdict: Literal["pass", "fail", "none"]
    reason: str
    session: str
    cost: float = 0.0


class Attachment(Record, frozen=True):
    """A file that goes with a message (`session.attachments`)."""

    id: str  # under which it is kept
    name: str  # without its folder
    kind: Literal["image", "pdf", "text"]
    media_type: str
    size: int  # bytes
    sha256: str


class Interaction(Record, frozen=True):
    """One message and everything that came back for it."""

    id: str  # the message's UUID, ours
    session_id: str
    number: int  # 1 is the session's first
    type: str  # "spawn", "send", "resume", "fork", "delegate", "continue", "repair", "attach"
    prompt: str
    timestamp: float  # when it was accepted
    state: InteractionState = InteractionState.QUEUED
    response: str = ""
    cost: float = 0.0
    cost_exact: bool = True  # False: at least this much (the process died before it said)
    turns: int = 0
    duration: float = 0.0  # seconds
    ended: float | None = None
    is_error: bool = False
    error: str = ""
    outcome: Outcome | None = None
    reasons: tuple[str, ...] = ()
    tools_used: tuple[str, ...] = ()  # each once, in order of first use
    tool_calls: int = 0
    denials: tuple[Denial, ...] = ()
    questions: tuple[Question, ...] = ()
    usage: dict[str, TokenUsage] = {}
    scopes: tuple[str, ...] = ()  # shared budgets that it is charged to, beside the day's and the total one
    api_status: int | None = None  # the HTTP status with which the API ended it; 401: also where no login is
    resets_at: float | None = None  # when the usage limit that ended it ends
    output: str = ""  # JSON: the answer of the shape that was asked for
    judge: Judgement | None = None
    round: int = 0  # of repair, that it begins or goes on with; 0: its delegation has begun none
    before: float = 0.0  # seconds of work of the rounds before it, which count against `max_time`
    repair: str = ""  # the message that its failed checks call for, where nobody was there to send it
    attachments: tuple[Attachment, ...] = ()  # files that go with it


Rung = Literal["interrupt", "eof", "terminate", "kill"]


class Step(Record, frozen=True):
    """One rung of the stop ladder: what was tried and how long it took."""

    name: Rung
    seconds: float
    worked: bool


class Walls(Record, frozen=True):
    """What held the protected paths of one process, and what became of them.

    Attributes:
        safety: False: a person switched the net off.
        held: how many paths the operating system keeps from being written.
        unheld: those that it cannot keep, and why.
        lost: those that it kept at first and then no longer, and why.
        changed: protected, and not what they were before; the session may have done it.
        outside: the same, but the operating system held them: somebody else did it.
        repositories: made while the session ran, with hooks and settings that nobody else has seen. Honest
            work makes some, so they are no violation.
        repository_programs: what git would run there: hooks, and settings that name commands.
        unchecked: why nobody has looked at the end whether anything was changed.
        anywhere: it could write whatever its user can, but for what is protected; and why.
        left_out: of the folders' own configuration: what was not in force, and how to let it in.
        mistakes: settings of the user's that claude does not take.
        isolation: how its work dir is kept from being changed; "": it is not.
    """

    safety: bool = True
    held: int = 0
    unheld: tuple[str, ...] = ()
    lost: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    outside: tuple[str, ...] = ()
    repositories: tuple[str, ...] = ()
    repository_programs: tuple[str, ...] = ()
    unchecked: str = ""
    anywhere: str = ""
    left_out: tuple[str, ...] = ()
    mistakes: tuple[str, ...] = ()
    isolation: str = ""

    @property
    def reasons(self) -> tuple[str, ...]:
        """What a verdict must tell of this."""
        return (
            *(() if self.safety else ("safety was off: no protected paths, no gate",)),
            *((f"it could write outside its work dir: {self.anywhere}",) if self.anywhere else ()),
            *(f"protected, and changed while the session ran: {one}" for one in self.changed),
            *(f"protected, and changed from outside while the session ran: {one}" for one in self.outside),
            *(
                f"a repository was made in which git runs what it brings: {x}"
                for x in self.repository_programs
            ),
            *(
                f"protected, and not held by the operating system: {one}"
                for one in (*self.unheld, *self.lost)
            ),
            *(
                (f"it is unknown whether a protected path was changed: {self.unchecked}",)
                if self.unchecked
                else ()
            ),
            *self.left_out,
            *self.mistakes,
        )


class ChangeSummary(Record, frozen=True):
    """What an isolated session has changed in its view of its folder, in numbers.

    Attributes:
        state: `kept`: neither applied nor taken elsewhere; the others say what was done with it.
        files, added, removed: as `git diff --stat` counts; what git ignores is not counted.
        commits: that it made itself.
        note: what kept it from being applied, or else is to be known.
        place: the folder of ours that it lies in.
    """

    state: Literal["kept", "applied", "exported"]
    files: int = 0
    added: int = 0
    removed: int = 0
    commits: int = 0
    note: str = ""
    place: str = ""

    @property
    def empty(self) -> bool:
        """Whether nothing was changed."""
        return not self.files and not self.commits


class Receipt(Record, frozen=True):
    """The proof of an end: what was alive, what was done, what is left."""

    reason: str
    steps: tuple[Step, ...] = ()
    returncode: int | None = None
    alive: tuple[str, ...] = ()  # "pid command" of what still lived when force was used
    seconds: float = 0.0
    mechanism: str = ""
    empty: bool = False  # proved: nothing of the process tree is left
    left: tuple[str, ...] = ()
    at: float = 0.0
    walls: Walls | None = None
    how: tuple[str, ...] = ()  # what was done by force, and what the proof rests on, in order
    left_ids: tuple[str, ...] = ()  # what names each of `left` for good (`containment.identity`)


class SessionRecord(Record, frozen=True):
    """A session as the store knows it."""

    id: str  # our UUID; also the first conversation id handed to claude
    name: str
    status: SessionStatus
    options: SessionOptions
    created: float
    last_saved: float
    claude_session_id: str = ""  # the conversation now (`/clear` gives a new one); "" before the first init
    parent_id: str = ""  # the session this one was forked from
    pid: int | None = None
    total_cost_usd: float = 0.0
    cost_exact: bool = True
    total_turns: int = 0
    interaction_count: int = 0
    tool_calls: int = 0
    error: str = ""
    claude_version: str = ""
    unknown_lines: int = 0
    noise_lines: int = 0
    receipt: Receipt | None = None
    walls: Walls | None = None  # of the newest process, as they are (or were at its end)
    caps_hit: tuple[str, ...] = ()  # which caps on memory and processes held the newest process back
    depth: int = 0  # 0: a person started it, 1: an MCP client, one more for each session in between
    started_by: str = ""  # the session whose agent started this one; it ends when that one does
    judges: str = ""  # the message whose work it judges
    begun_in: dict[str, str] = {}  # of the environment: what says where its conversation is kept
    change: ChangeSummary | None = None  # of an isolated one, as of its last end

    @property
    def conversation(self) -> str:
        """The conversation's id, also before claude has told it: then it is the one that it was given."""
        return self.claude_session_id or self.id


class Reply(Record, frozen=True):
    """The answer to one message, as `spawn`, `send` and `resume` give it."""

    name: str
    status: SessionStatus
    text: str
    cost: float
    turns: int
    duration: int  # milliseconds
    is_error: bool
    session_id: str
    interaction_id: str
    pid: int | None = None
    error: str = ""
    total_cost_usd: float = 0.0
    outcome: Outcome = Outcome.COMPLETED
    questions: tuple[Question, ...] = ()
    denials: tuple[Denial, ...] = ()
    next_step: str | None = None


class LiveSession(Record, frozen=True):
    """A session with a process, and what that takes.

    Attributes:
        queued: messages that wait for their turn.
        questions: calls that wait for a person.
        processes: of its tree, cms's own helpers not counted.
        memory: bytes of the tree, as the cgroup counts where there is one, else resident.
        task: the beginning of the message that it works on, or else of its last; "": it has had none.
        since: when that was begun, or else when it came to rest.
    """

    session: SessionRecord
    activity: str
    frozen: bool
    queued: int
    questions: int
    processes: int
    memory: int
    task: str = ""
    since: float = 0.0


class Violation(Record, frozen=True):
    """One touch of a protected path, as the original's programs read it."""

    message: str


class Safety(Record, frozen=True):
    """What the safety net saw during a delegation."""

    enabled: bool = True
    total_violations: int = 0
    violations: tuple[Violation, ...] = ()
    denials: tuple[Denial, ...] = ()


class Round(Record, frozen=True):
    """One round of a delegation whose failed checks were given back to its session.

    Attributes:
        message: its number in the session.
    """

    message: int
    status: Outcome
    error: str | None
    cost: float
    turns: int
    duration: int  # milliseconds
    judge: Judgement | None = None


class DelegateResult(Record, frozen=True):
    """What `delegate` and `continue` give: the verdict, and everything it rests on.

    Attributes:
        output: JSON: the answer of the shape that was asked for; "": none was, or none fitted.
        rounds: each one, the last included, where there was a repair; cost, turns and the like are of all.
        cost: with that of the judge.
        judge: what it said of the last round.
        repairable: what checks it failed is stored, and was not given back to its session yet.
        verified: the checks that it passed, all that there were.
        next_step: the command that goes on from here (`session.next_step`).
    """

    status: Outcome
    name: str
    response: str
    error: str | None
    cost: float
    turns: int
    duration: int  # milliseconds
    tools_used: tuple[str, ...]
    can_continue: bool
    safety: Safety
    reasons: tuple[str, ...] = ()
    questions: tuple[Question, ...] = ()
    session_id: str = ""
    cost_exact: bool = True
    tool_calls: int = 0
    receipt: Receipt | None = None
    api_status: int | None = None
    resets_at: float | None = None
    output: str = ""
    judge: Judgement | None = None
    rounds: tuple[Round, ...] = ()
    repairable: bool = False
    change: ChangeSummary | None = None
    verified: tuple[str, ...] = ()
    next_step: str | None = None


ProgressKind = Literal["status", "text", "tool", "denied", "retry", "rate_limit", "note", "turn"]


class Progress(Record, frozen=True):
    """What a watcher of a session is told; small, droppable, never the only copy of anything."""

    name: str
    kind: ProgressKind
    text: str = ""
    status: SessionStatus = SessionStatus.BUSY
    cost: float = 0.0
    max_cost: float | None = None
    turns: int = 0
    max_turns: int | None = None
    tool: str = ""
    at: float = 0.0
    interaction: str = ""  # the message that is being worked on; "": none
