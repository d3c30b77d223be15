"""Everything that can go wrong, in one tree, sorted by whose fault it is.

- `UsageError`: the person or program that called us asked for something impossible. Ask differently.
- `MachineError`: this machine lacks or refuses something (a binary, disk space, a socket). Mend the machine.
- `AgentError`: `claude`, or the API behind it, did something that ends the work. Look at the session.
- `InternalError`: a bug of ours. Report it.

Each class carries a stable `code` (for programs, over RPC and in `--json`), an `exit_code` (for shells,
see `ExitCode`) and a `hint` that says what to do next. `str(error)` is always one line for a person:
what happened, and to what.
"""

from __future__ import annotations

import enum
from typing import ClassVar, Final

import msgspec

#: What decoding JSON that is not ours may raise: it is no JSON, no text, or too deep. `Raw` parts of what was
#: read before included: those are not looked into until then.
UNREADABLE: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class ExitCode(enum.IntEnum):
    """What a `cms` command's exit status means. Documented in docs/limits.md, never reused."""

    COMPLETED = 0
    FAILED = 1
    USAGE = 2
    NEEDS_INPUT = 3
    COST_EXCEEDED = 4
    TURNS_EXCEEDED = 5
    TIME_EXCEEDED = 6
    PROTECTED_PATH = 7
    VERIFICATION_FAILED = 8
    RATE_LIMITED = 9
    NOT_FOUND = 10
    DAEMON_UNAVAILABLE = 11
    STALLED = 12
    INTERRUPTED = 130


class CmsError(Exception):
    """The root of the tree: catch this to catch everything that cms raises on purpose.

    Attributes:
        message: one line, no trailing full stop.
        hint: what to do about it, one line, or "".
    """

    code: ClassVar[str] = "error"
    exit_code: ClassVar[ExitCode] = ExitCode.FAILED

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


# --- the caller's fault -------------------------------------------------------------------------


class UsageError(CmsError):
    """The request itself cannot be carried out as it stands."""

    code = "usage"
    exit_code = ExitCode.USAGE


class NameTaken(UsageError):
    """A session of that name already exists; nothing was changed."""

    code = "name_taken"

    def __init__(self, name: str) -> None:
        super().__init__(
            f"a session named {name!r} already exists",
            hint=f"choose another name, or continue it: cms send {name} MESSAGE",
        )
        self.name = name


class SessionNotFound(UsageError):
    """No session has that name.

    Attributes:
        name: the name that was asked for.
        nearest: the existing name most like it, or "".
    """

    code = "not_found"
    exit_code = ExitCode.NOT_FOUND

    def __init__(self, name: str, nearest: str = "") -> None:
        super().__init__(
            f"no session named {name!r}",
            hint=f"did you mean {nearest!r}?" if nearest else "`cms list` shows all sessions",
        )
        self.name = name
        self.nearest = nearest


class Interrupted(UsageError):
    """Ctrl-C, or a client's `cancel`, before there was anything else to tell."""

    code = "interrupted"
    exit_code = ExitCode.INTERRUPTED

    def __init__(self, message: str = "interrupted", *, hint: str = "") -> None:
        super().__init__(message, hint=hint)


class WrongStatus(UsageError):
    """The session exists, but is in a status in which this cannot be done (paused, busy, stopping ...)."""

    code = "wrong_status"

    def __init__(self, name: str, status: str, wanted: str, *, hint: str = "") -> None:
        super().__init__(f"session {name!r} is {status}: cannot {wanted}", hint=hint)
        self.name = name
        self.status = status


class NothingAsked(UsageError):
    """Nothing in the session waits for a person's word."""

    code = "nothing_asked"

    def __init__(self, name: str) -> None:
        super().__init__(f"session {name!r} is not waiting for an answer", hint="`cms ask` shows what is")
        self.name = name


class ChangeNotFound(UsageError):
    """There is no change of a task there."""

    code = "change_not_found"
    exit_code = ExitCode.NOT_FOUND


class WrongChange(UsageError):
    """There is a change, but this cannot be done with it: it is applied already, it is of no repository."""

    code = "wrong_change"


# --- the machine's fault ------------------------------------------------------------------------


class MachineError(CmsError):
    """Something outside of cms and of the agent is missing, full, or refuses."""

    code = "machine"


class ClaudeNotFound(MachineError):
    """No `claude` binary in any of the three places where it is looked for."""

    code = "claude_not_found"

    def __init__(self, tried: str) -> None:
        super().__init__(
            f"no `claude` found: {tried}",
            hint="set CMS_CLAUDE to the binary, put `claude` on PATH, or pip install "
            "'claude-multi-session[claude]'",
        )


class ClaudeUnfit(MachineError):
    """This `claude` cannot be held to what we promise: it is too old, or lacks what safety rests on.

    Attributes:
        version: as it told it, or "".
        lacks: what is wrong with it.
    """

    code = "claude_unfit"

    def __init__(self, version: str, lacks: str, minimum: str) -> None:
        super().__init__(
            f"claude {version or 'of an unknown version'} cannot be used: {lacks}; "
            f"install {minimum} or newer (npm install -g @anthropic-ai/claude-code@latest)"
        )
        self.version = version
        self.lacks = lacks
        self.minimum = minimum


class EngineUnavailable(MachineError):
    """The engine that a batch or a node is to work with cannot be reached, or cannot do what is needed."""

    code = "engine_unavailable"
    exit_code = ExitCode.DAEMON_UNAVAILABLE


class HomeUnusable(MachineError):
    """CMS_HOME cannot be created, read or written."""

    code = "home_unusable"


class StoreError(MachineError):
    """The store could not read or write; what was to be acknowledged was not."""

    code = "store"


class WorkDirError(MachineError):
    """A session's work dir is gone, is no directory, or cannot be entered."""

    code = "work_dir"
    exit_code = ExitCode.USAGE


class DiskTimeout(MachineError):
    """The file system did not answer: a network folder that is gone, or one that the agent serves itself.

    Attributes:
        seconds: how long was waited.
    """

    code = "disk_timeout"

    def __init__(self, what: str, seconds: float) -> None:
        super().__init__(
            f"the file system did not answer within {seconds:g} s: {what}",
            hint="is a folder of the session on a network that does not answer?",
        )
        self.seconds = seconds


class ChangeUnreadable(MachineError):
    """What a task left cannot be read."""

    code = "change_unreadable"


class ChangeTooBig(MachineError):
    """A task left more than may be looked at or kept."""

    code = "change_too_big"


class ContainmentError(MachineError):
    """A process tree could not be put into a container, or could not be proved to have ended."""

    code = "containment"


class DaemonUnavailable(MachineError):
    """The daemon does not answer, could not be started, or went away in the middle of a request."""

    code = "daemon_unavailable"
    exit_code = ExitCode.DAEMON_UNAVAILABLE


class DaemonVersionMismatch(DaemonUnavailable):
    """The daemon that holds the socket speaks another protocol version than this command."""

    code = "daemon_version"


# --- the agent's or its API's fault -------------------------------------------------------------


class AgentError(CmsError):
    """`claude` or the API behind it ended the work."""

    code = "agent"


class ProtocolError(AgentError):
    """The child broke the protocol beyond repair (an endless line, an impossible answer)."""

    code = "protocol"


class Tampering(ProtocolError):
    """A line came from claude's stdout that claude did not write: some process speaks in its name."""

    code = "tampered"

    def __init__(self, what: str) -> None:
        super().__init__(f"claude's output was tampered with: {what}", hint="see `cms audit` and `cms logs`")


class LineTooLong(ProtocolError):
    """One line from the child passed the limit.

    Attributes:
        limit: the limit in bytes.
    """

    code = "line_too_long"

    def __init__(self, limit: int) -> None:
        super().__init__(
            f"a line of the agent's output passed {limit} bytes",
            hint="raise CMS_MAX_LINE (bytes) if the task needs such lines",
        )
        self.limit = limit


class AgentDied(AgentError):
    """The child ended though nobody asked it to.

    Attributes:
        returncode: its exit status, negative for a signal.
        stderr_tail: what it said last, on stderr or else beside the protocol.
    """

    code = "agent_died"

    def __init__(self, stage: str, returncode: int | None, stderr_tail: str = "") -> None:
        how = (
            "vanished"
            if returncode is None
            else (f"was killed by signal {-returncode}" if returncode < 0 else f"exited with {returncode}")
        )
        tail = f": {stderr_tail.strip().splitlines()[-1][:300]}" if stderr_tail.strip() else ""
        super().__init__(f"claude {how} {stage}{tail}")
        self.returncode = returncode
        self.stderr_tail = stderr_tail


class ControlTimeout(AgentError):
    """The child did not answer a control request in time.

    Attributes:
        subtype: which request.
        seconds: how long was waited.
        said: what it said meanwhile, beside the protocol.
    """

    code = "control_timeout"

    def __init__(self, subtype: str, seconds: float, said: str = "") -> None:
        words = f": {said}" if said else ""
        super().__init__(
            f"claude did not answer `{subtype}` within {seconds:g} s{words} "
            "(CMS_START_TIMEOUT sets this time)"
        )
        self.subtype = subtype
        self.seconds = seconds
        self.said = said


# --- our fault ----------------------------------------------------------------------------------


class InternalError(CmsError):
    """A bug of ours: please report it with the daemon's log."""

    code = "internal"
