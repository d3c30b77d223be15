"""Settings: where things live, which limits hold by default, which binary is `claude`.

Frozen values, read once: from the environment, below it (`load_settings_and_file`) from the file in the home
(config_file.py), below that the defaults. No I/O but that and the look for the binary; nothing is created.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from cms.errors import ClaudeNotFound, UsageError
from cms.session.callers import Caller, ChildLimits
from cms.session.model import ContainmentLevel

if TYPE_CHECKING:
    from cms.options import Layer

#: The environment of whoever asked for the work under way, where that is not this process: a daemon starts
#: sessions with the credentials, PATH and HOME of the shell that wanted them, not of the shell that happened
#: to start the daemon. Inherited by every task that the asking one starts; never written to disk.
caller_environ: ContextVar[Mapping[str, str] | None] = ContextVar("caller_environ", default=None)


#: Who asked for the work under way, likewise: a person unless said otherwise.
caller: ContextVar[Caller] = ContextVar("caller", default=Caller())  # noqa: B039 - it is frozen


class Settings(msgspec.Struct, frozen=True):
    """Everything a supervisor needs to know about its surroundings.

    Attributes:
        home: the folder with the store, the raw logs, the socket and the lock (`CMS_HOME`).
        claude: argv prefix that starts claude. Empty: look for it when first needed (`find_claude`).
        environ: the environment that sessions' environments are cut from.
        claude_named: the `claude` that the file names, for where `CMS_CLAUDE` names none.
        max_line: bytes of one line of the agent's output (`CMS_MAX_LINE`).
        max_raw_log: bytes of a session's raw log, past which nothing more is kept in it (`CMS_MAX_RAW_LOG`).
        idle_exit: seconds without a live session or a client after which a daemon leaves
            (`CMS_IDLE_EXIT`); None means never.
        start_timeout: seconds for a new process to answer its first request.
        grace: seconds that each rung of the stop ladder gets.
        containment: "auto", or the name of one mechanism (`CMS_CONTAINMENT`).
        require_containment: the level below which no session is started, where it says nothing itself
            (`CMS_REQUIRE_CONTAINMENT`); None means any.
        child_limits: how far sessions may start others (`CMS_MAX_DEPTH`, `CMS_MAX_CHILDREN`).
        child_socket: inside a session that may use cms: the socket that leads to it (`CMS_CHILD_SOCKET`).
        inside: the id of the session that we run inside of, or "" (`CMS_PARENT`).
        umask: for the files that sessions make; -1: the process's own.
        trust: folders whose own configuration is trusted whatever it holds, as globs. In the file alone.
        open_files: how many files each process of a session may have open; 0: as many as this one.
    """

    home: Path
    claude: tuple[str, ...] = ()
    environ: Mapping[str, str] = {}
    claude_named: str = ""
    max_line: int = 64 * 1024 * 1024
    max_raw_log: int = 256 * 1024 * 1024
    idle_exit: float | None = 600.0
    start_timeout: float = 60.0
    grace: float = 5.0
    containment: str = "auto"
    require_containment: ContainmentLevel | None = None
    child_limits: ChildLimits = ChildLimits()
    child_socket: Path | None = None
    inside: str = ""
    umask: int = -1
    trust: tuple[str, ...] = ()
    open_files: int = 0

    @property
    def socket(self) -> Path:
        return self.child_socket or self.home / "daemon.sock"

    @property
    def lock(self) -> Path:
        return self.home / "daemon.lock"

    @property
    def log(self) -> Path:
        return self.home / "daemon.log"

    @property
    def database(self) -> Path:
        return self.home / "cms.db"

    @property
    def raw(self) -> Path:
        """The folder of the append-only raw line logs, one file a session."""
        return self.home / "raw"

    @property
    def child_sockets(self) -> Path:
        """The folder of the sockets for sessions that may use cms, a folder a session."""
        return self.home / "sockets"

    @property
    def live(self) -> Path:
        """The folder of the files that tell where the processes of live sessions are, one a session."""
        return self.home / "live"

    @property
    def attachments(self) -> Path:
        """The folder of the files that go with messages."""
        return self.home / "attachments"

    @property
    def layers(self) -> Path:
        """The folder with what isolated sessions write, a folder a session."""
        return self.home / "layers"

    @property
    def changes(self) -> Path:
        """The folder with what isolated sessions have changed, frozen, a folder a session."""
        return self.home / "changes"

    @property
    def trash(self) -> Path:
        """Where the raw logs of deleted sessions are kept for a while."""
        return self.home / "trash"


def _number(environ: Mapping[str, str], key: str, default: float) -> float:
    text = environ.get(key, "")
    if not text:
        return default
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value < float("inf"):
        raise UsageError(f"{key}={text!r} is not a positive number")
    return value


def _whole(environ: Mapping[str, str], key: str, default: int) -> int:
    value = _number(environ, key, default)
    if value != int(value):
        raise UsageError(f"{key}={environ[key]!r} is not a whole number")
    return int(value)


def _home(environ: Mapping[str, str]) -> Path:
    """`CMS_HOME`, absolute; `~` is the home of the given environment, links are kept as they are written."""
    text = environ.get("CMS_HOME", "") or "~/.claude-multi-session"
    if environ.get("HOME") and (text == "~" or text.startswith("~/")):
        text = environ["HOME"] + text[1:]
    try:
        text.encode()
    except UnicodeEncodeError:
        told = text.encode(errors="backslashreplace").decode()
        raise UsageError(f"CMS_HOME: {told} is not valid UTF-8 text", hint="use a link to it") from None
    return Path(os.path.abspath(Path(text).expanduser()))  # noqa: PTH100 - Path.resolve would follow links


def _level(environ: Mapping[str, str]) -> ContainmentLevel | None:
    text = environ.get("CMS_REQUIRE_CONTAINMENT", "")
    if not text:
        return None
    try:
        level: ContainmentLevel = msgspec.convert(text.upper(), ContainmentLevel)
    except msgspec.ValidationError:
        raise UsageError(f"CMS_REQUIRE_CONTAINMENT={text!r} is not a level: one of A, B, C, D, E") from None
    return level


def load_settings(environ: Mapping[str, str] | None = None) -> Settings:
    """Settings from the environment.

    Raises:
        UsageError: a variable holds what cannot be meant.
    """
    env = dict(os.environ if environ is None else environ)
    default = Settings(home=_home(env))
    idle_text = env.get("CMS_IDLE_EXIT", "")
    return msgspec.structs.replace(
        default,
        environ=env,
        max_line=_whole(env, "CMS_MAX_LINE", default.max_line),
        max_raw_log=_whole(env, "CMS_MAX_RAW_LOG", default.max_raw_log),
        idle_exit=None if idle_text in ("0", "never") else _number(env, "CMS_IDLE_EXIT", 600.0),
        start_timeout=_number(env, "CMS_START_TIMEOUT", default.start_timeout),
        grace=_number(env, "CMS_GRACE", default.grace),
        containment=env.get("CMS_CONTAINMENT") or default.containment,
        require_containment=_level(env),
        child_limits=ChildLimits(
            max_depth=_whole(env, "CMS_MAX_DEPTH", default.child_limits.max_depth),
            max_children=_whole(env, "CMS_MAX_CHILDREN", default.child_limits.max_children),
        ),
        child_socket=Path(env["CMS_CHILD_SOCKET"]) if env.get("CMS_CHILD_SOCKET") else None,
        inside=env.get("CMS_PARENT", ""),
    )


#: The settings of the file -> the variables that say the same, and say it louder.
VARIABLES = {
    "claude": "CMS_CLAUDE",
    "containment": "CMS_CONTAINMENT",
    "grace": "CMS_GRACE",
    "idle_exit": "CMS_IDLE_EXIT",
    "max_children": "CMS_MAX_CHILDREN",
    "max_depth": "CMS_MAX_DEPTH",
    "max_line": "CMS_MAX_LINE",
    "max_raw_log": "CMS_MAX_RAW_LOG",
    "require_containment": "CMS_REQUIRE_CONTAINMENT",
    "start_timeout": "CMS_START_TIMEOUT",
}


def load_settings_and_file(environ: Mapping[str, str] | None = None) -> Settings:
    """Settings from the environment and, where that says nothing, from the file in the home.

    For whoever runs sessions. Who only talks to a daemon needs `load_settings`, which reads no file.

    Raises:
        UsageError: a variable or the file holds what cannot be meant.
        HomeUnusable: the file is there and cannot be read.
    """
    from cms.config_file import read_config

    env = dict(os.environ if environ is None else environ)
    file = read_config(_home(env)).settings
    said = file.as_text()
    below = {VARIABLES[key]: value for key, value in said.items() if key != "claude"}
    settings = load_settings({**below, **{key: value for key, value in env.items() if value}})
    return msgspec.structs.replace(
        settings, environ=env, claude_named=said.get("claude", ""), trust=file.trust
    )


def said_by_person(settings: Settings, profile: str = "") -> Layer:
    """What a person has said of new sessions beforehand: the profile, the defaults, the environment.

    Inside of a session there is no file to be read: there the parent's options are the bounds.

    Raises:
        UsageError: there is no such profile, or the file makes no sense.
        HomeUnusable: the file cannot be read.
    """
    from cms.config_file import read_config
    from cms.layers import resolve
    from cms.options import Layer

    environment = Layer(require_containment=settings.require_containment)
    if settings.child_socket is not None:
        if profile:
            raise UsageError(f"there is no profile {profile!r}: there are no profiles inside a session")
        return environment
    return resolve(read_config(settings.home).profile(profile), environment)


def find_claude(settings: Settings) -> tuple[str, ...]:
    """The argv prefix that starts claude: `CMS_CLAUDE`, else PATH, else the `claude-agent-sdk` wheel.

    Raises:
        ClaudeNotFound: none of the three has it; the message names what was tried.
    """
    if settings.claude:
        return settings.claude
    from importlib.util import find_spec  # the fast commands look for no claude
    from shutil import which

    named = settings.environ.get("CMS_CLAUDE", "") or settings.claude_named
    if named:
        if "/" in named and not named.startswith("/"):
            # Whoever reads this (the daemon, a session in its work dir) may stand in another folder.
            raise ClaudeNotFound(f"CMS_CLAUDE names {named!r}, a relative path; use an absolute one")
        found = which(named, path=settings.environ.get("PATH"))
        if found:
            return (found,)
        raise ClaudeNotFound(f"CMS_CLAUDE names {named!r}, which is not an executable file")
    found = which("claude", path=settings.environ.get("PATH"))
    if found:
        return (found,)
    # Found, not imported: importing the SDK takes most of a second.
    spec = find_spec("claude_agent_sdk")
    if spec is not None and spec.origin is not None:
        bundled = Path(spec.origin).parent / "_bundled" / "claude"
        if os.access(bundled, os.X_OK):
            return (str(bundled),)
    raise ClaudeNotFound("CMS_CLAUDE is not set, PATH has none, and claude-agent-sdk is not installed")
