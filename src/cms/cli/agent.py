"""The flags of the commands that start a session: what it is, what it may do, what it may use.

Apart from `flags` because the fast commands have none of them: some forty flags take 10 ms to define.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import msgspec
from cyclopts import Group, Parameter

from cms.cli import io
from cms.cli.flags import (
    check_name,
    many,
    nearest,
    nearest_path,
    switch,
    text_flag,
    to_count,
    to_money,
    to_seconds,
    to_size,
)
from cms.config import DEFAULT_MODEL, load_settings
from cms.errors import UsageError, WorkDirError
from cms.session.model import ContainmentLevel, Limits, OnViolation, Preset, SessionOptions

MODEL_ALIASES = ("sonnet", "opus", "haiku")
PERMISSION_MODES = ("acceptEdits", "auto", "bypassPermissions", "default", "dontAsk", "manual", "plan")

LIMITS = Group("Limits", sort_key=10)
SAFETY = Group("Safety", sort_key=11)
CLAUDE = Group("Handed to claude", sort_key=12)


@dataclass(frozen=True, kw_only=True)
class LimitFlags:
    """The limits of a session, each off unless given (`delegate` has defaults for two)."""

    max_cost: Annotated[
        float | None,
        Parameter(
            name="--max-cost",
            converter=to_money,
            metavar="USD",
            group=LIMITS,
            help="Stop when the session has cost this much.",
        ),
    ] = None
    max_turns: Annotated[
        int | None,
        Parameter(
            name="--max-turns",
            converter=to_count,
            metavar="N",
            group=LIMITS,
            help="Stop after this many model calls.",
        ),
    ] = None
    max_time: Annotated[
        float | None,
        Parameter(
            name="--max-time",
            converter=to_seconds,
            metavar="TIME",
            group=LIMITS,
            help="Stop a message that takes longer: 90, 90s, 15m, 2h.",
        ),
    ] = None
    max_silence: Annotated[
        float | None,
        Parameter(
            name="--max-silence",
            converter=to_seconds,
            metavar="TIME",
            group=LIMITS,
            help="Stop when claude says nothing for so long while at work.",
        ),
    ] = None
    max_tool_calls: Annotated[
        int | None,
        Parameter(
            name="--max-tool-calls",
            converter=to_count,
            metavar="N",
            group=LIMITS,
            help="Stop before one more tool call than this.",
        ),
    ] = None
    max_repeats: Annotated[
        int | None,
        Parameter(
            name="--max-repeats",
            converter=to_count,
            metavar="N",
            group=LIMITS,
            help="Stop when the very same tool call comes again after so many in a row.",
        ),
    ] = None
    max_retry_time: Annotated[
        float | None,
        Parameter(
            name="--max-retry-time",
            converter=to_seconds,
            metavar="TIME",
            group=LIMITS,
            help="Stop when the API has failed for so long without one answer.",
        ),
    ] = None
    max_memory: Annotated[
        int | None,
        Parameter(
            name="--max-memory",
            converter=to_size,
            metavar="SIZE",
            group=LIMITS,
            help="Memory of the whole process tree, where the machine can: 512M, 2G.",
        ),
    ] = None
    max_procs: Annotated[
        int | None,
        Parameter(
            name="--max-procs",
            converter=to_count,
            metavar="N",
            group=LIMITS,
            help="Processes of the whole tree. Where the kernel counts, threads do; claude has ten or more.",
        ),
    ] = None

    def over(self, base: Limits) -> Limits:
        """These limits, and the base's where none was given."""
        return Limits(
            max_cost=base.max_cost if self.max_cost is None else self.max_cost,
            max_turns=base.max_turns if self.max_turns is None else self.max_turns,
            max_time=base.max_time if self.max_time is None else self.max_time,
            max_silence=base.max_silence if self.max_silence is None else self.max_silence,
            max_tool_calls=base.max_tool_calls if self.max_tool_calls is None else self.max_tool_calls,
            max_repeats=base.max_repeats if self.max_repeats is None else self.max_repeats,
            max_retry_time=base.max_retry_time if self.max_retry_time is None else self.max_retry_time,
            max_memory=base.max_memory if self.max_memory is None else self.max_memory,
            max_procs=base.max_procs if self.max_procs is None else self.max_procs,
        )


NO_LIMITS = LimitFlags()


@dataclass(frozen=True, kw_only=True)
class AgentFlags:
    """What a session is: its model, its place, what it may do, what claude itself is told."""

    profile: Annotated[
        str, text_flag("--profile", "Take what no flag says from this profile (`cms config`).", "NAME")
    ] = ""
    # None, and not the defaults: a profile must know what was typed, or it could widen what was narrowed.
    model: Annotated[
        str | None,
        text_flag("--model", "sonnet, opus, haiku, or a model's full id. [default: sonnet]", "MODEL"),
    ] = None
    preset: Annotated[
        Preset | None,
        Parameter(
            name="--preset",
            metavar="PRESET",
            help="What it may do (`cms help` explains each). [default: edit]",
        ),
    ] = None
    work_dir: Annotated[
        str, text_flag("--work-dir", "The folder to work in; by default the current one.", "DIR")
    ] = ""
    safety_off: Annotated[
        bool,
        switch(
            "--no-safety", "Switch the protected paths and the gate off. Recorded, and told loudly.", SAFETY
        ),
    ] = False
    allow: Annotated[
        tuple[str, ...],
        many("--allow", "Permit what this rule names, like 'Bash(pytest *)'. Repeatable.", "RULE", SAFETY),
    ] = ()
    allowed_tools: Annotated[
        tuple[str, ...], many("--allowed-tools", "The same, several rules with commas.", "A,B", SAFETY)
    ] = ()
    disallowed_tools: Annotated[
        tuple[str, ...], many("--disallowed-tools", "Rules for what is refused, with commas.", "A,B", SAFETY)
    ] = ()
    protect: Annotated[
        tuple[str, ...], many("--protect", "One more protected path (a glob). Repeatable.", "GLOB", SAFETY)
    ] = ()
    protect_read: Annotated[
        tuple[str, ...],
        many("--protect-read", "A path that may not even be read (a glob). Repeatable.", "GLOB", SAFETY),
    ] = ()
    allow_write: Annotated[
        tuple[str, ...],
        many("--allow-write", "Take a path out of the protected ones (a glob). Repeatable.", "GLOB", SAFETY),
    ] = ()
    env_deny: Annotated[
        tuple[str, ...],
        many("--env-deny", "An environment variable it does not get ('AWS_*'). Repeatable.", "GLOB", SAFETY),
    ] = ()
    on_violation: Annotated[
        OnViolation | None,
        Parameter(
            name="--on-violation",
            metavar="WHAT",
            group=SAFETY,
            help="A touch of a protected path: stop the work, or deny the call and go on. [default: stop]",
        ),
    ] = None
    ask_timeout: Annotated[
        float | None,
        Parameter(
            name="--ask-timeout",
            converter=to_seconds,
            metavar="TIME",
            group=SAFETY,
            help="Hold a question or a missing permission so long for `cms answer`, instead of refusing it.",
        ),
    ] = None
    require_containment: Annotated[
        ContainmentLevel | None,
        Parameter(
            name="--require-containment",
            metavar="LEVEL",
            group=SAFETY,
            help="Refuse to start where the machine holds less than this: A (most) to E (`cms doctor`).",
        ),
    ] = None
    allow_cms: Annotated[
        bool,
        switch(
            "--allow-cms", "Let it start sessions itself, within its own preset, folder and limits.", SAFETY
        ),
    ] = False
    system_prompt: Annotated[
        str, text_flag("--system-prompt", "Replace the system prompt.", group=CLAUDE)
    ] = ""
    append_system_prompt: Annotated[
        str, text_flag("--append-system-prompt", "Add to the system prompt.", group=CLAUDE)
    ] = ""
    agent: Annotated[str, text_flag("--agent", "One of claude's configured agents.", "AGENT", CLAUDE)] = ""
    permission_mode: Annotated[
        str, text_flag("--permission-mode", "Override the preset's permission mode.", "MODE", CLAUDE)
    ] = ""
    effort: Annotated[str, text_flag("--effort", "How hard the model thinks.", "LEVEL", CLAUDE)] = ""
    fallback_model: Annotated[
        str, text_flag("--fallback-model", "The model to use when the first is overloaded.", "MODEL", CLAUDE)
    ] = ""
    add_dir: Annotated[
        tuple[str, ...], many("--add-dir", "One more folder to work in. Repeatable.", "DIR", CLAUDE)
    ] = ()
    mcp_config: Annotated[
        tuple[str, ...],
        many("--mcp-config", "MCP servers: a file, or JSON. Repeatable.", "FILE", CLAUDE),
    ] = ()
    settings: Annotated[str, text_flag("--settings", "Settings: a file, or JSON.", "FILE", CLAUDE)] = ""

    def options(
        self, name: str, limits: Limits, *, delegated: bool = False, verify: Sequence[str] = ()
    ) -> SessionOptions:
        """The checked options of a session.

        Raises:
            UsageError, WorkDirError: something typed cannot be meant.
        """
        return SessionOptions(
            name=check_name(name),
            work_dir=check_work_dir(self.work_dir),
            model=check_model(DEFAULT_MODEL if self.model is None else self.model),
            preset=self.preset or "edit",
            limits=limits,
            delegated=delegated,
            safety=not self.safety_off,
            permission_mode=check_permission_mode(self.permission_mode),
            allowed_tools=(*self.allow, *split_rules(self.allowed_tools)),
            disallowed_tools=split_rules(self.disallowed_tools),
            system_prompt=self.system_prompt,
            append_system_prompt=self.append_system_prompt,
            agent=self.agent,
            fallback_model=check_model(self.fallback_model) if self.fallback_model else "",
            effort=self.effort,
            add_dirs=tuple(check_work_dir(folder, "--add-dir") for folder in self.add_dir),
            mcp_config=tuple(check_file_or_json(value, "--mcp-config") for value in self.mcp_config),
            settings=check_file_or_json(self.settings, "--settings") if self.settings else "",
            protect=self.protect,
            protect_read=self.protect_read,
            allow_write=self.allow_write,
            env_deny=self.env_deny,
            on_violation=self.on_violation or "stop",
            ask_timeout=self.ask_timeout or 0.0,
            require_containment=self.require_containment or load_settings().require_containment,
            verify=tuple(verify),
            allow_cms=self.allow_cms,
        )

    def warn(self) -> None:
        """Say loudly what was switched off."""
        if self.safety_off:
            io.warn("cms: safety is OFF: no protected paths, no gate; this is recorded with the session")
        if self.permission_mode == "bypassPermissions":
            io.warn("cms: permission mode bypassPermissions: what the gate does not decide is allowed")


DEFAULT_AGENT = AgentFlags()


@dataclass(frozen=True)
class Chosen:
    """What was chosen for a session in all: by flags, by a profile, by the defaults of the file."""

    agent: AgentFlags
    limits: Limits
    verify: tuple[str, ...]


def choose(agent: AgentFlags, limits: LimitFlags, below: Limits, verify: tuple[str, ...] = ()) -> Chosen:
    """The flags, and where they say nothing the profile, the file's defaults, and `below`.

    Raises:
        UsageError: there is no such profile, or the file makes no sense.
        HomeUnusable: the file cannot be read.
    """
    home = load_settings().home
    if not agent.profile and not os.path.exists(home / "config.toml"):  # noqa: PTH110 - the cheaper question
        return Chosen(agent, limits.over(below), verify)
    from cms.config_file import read_config, seconds

    chosen = read_config(home).profile(agent.profile)
    filled = replace(
        agent,
        model=chosen.model if agent.model is None else agent.model,
        preset=chosen.preset if agent.preset is None else agent.preset,
        on_violation=chosen.on_violation if agent.on_violation is None else agent.on_violation,
        ask_timeout=seconds(chosen.ask_timeout) if agent.ask_timeout is None else agent.ask_timeout,
        require_containment=agent.require_containment or chosen.require_containment,
        allow=(*agent.allow, *chosen.allow),
        disallowed_tools=(*agent.disallowed_tools, *chosen.disallowed_tools),
        protect=(*agent.protect, *chosen.protect),
        protect_read=(*agent.protect_read, *chosen.protect_read),
        allow_write=(*agent.allow_write, *chosen.allow_write),
        env_deny=(*agent.env_deny, *chosen.env_deny),
        add_dir=(*agent.add_dir, *chosen.add_dir),
        system_prompt=agent.system_prompt or chosen.system_prompt or "",
        append_system_prompt=agent.append_system_prompt or chosen.append_system_prompt or "",
        agent=agent.agent or chosen.agent or "",
        effort=agent.effort or chosen.effort or "",
        fallback_model=agent.fallback_model or chosen.fallback_model or "",
    )
    return Chosen(filled, limits.over(over(chosen.limits, below)), (*verify, *chosen.verify))


def over(limits: Limits, below: Limits) -> Limits:
    """The limits, and those below where they say nothing."""
    given = {key: value for key, value in msgspec.structs.asdict(limits).items() if value is not None}
    return msgspec.structs.replace(below, **given)


# --- checks


def check_model(model: str) -> str:
    """A model's alias or full id.

    Raises:
        UsageError: empty, or plainly an alias mistyped. Whether a full id exists, only the API knows.
    """
    if not model.strip() or any(letter.isspace() for letter in model):
        raise UsageError(f"{model!r} is not a model", hint="sonnet, opus, haiku, or a model's full id")
    if model not in MODEL_ALIASES and model.isalpha():
        meant = nearest(model, MODEL_ALIASES, cutoff=0.75)
        if meant:
            raise UsageError(f"there is no model {model!r}", hint=f"did you mean {meant!r}?")
    return model


def check_permission_mode(mode: str) -> str:
    """One of claude's permission modes, or "".

    Raises:
        UsageError: with the nearest mode.
    """
    if not mode or mode in PERMISSION_MODES:
        return mode
    meant = nearest(mode, PERMISSION_MODES)
    raise UsageError(
        f"there is no permission mode {mode!r}",
        hint=f"did you mean {meant!r}?" if meant else f"one of {', '.join(PERMISSION_MODES)}",
    )


def check_work_dir(text: str, flag: str = "--work-dir") -> str:
    """The folder as an absolute path; the current one for "". Links are kept as typed.

    Raises:
        WorkDirError: it is not there, no folder, or cannot be entered.
    """
    try:
        path = Path.cwd() if not text else Path(os.path.abspath(Path(text).expanduser()))  # noqa: PTH100
    except FileNotFoundError:
        raise WorkDirError(
            "the current folder is gone", hint=f"cd to one that exists, or give {flag} DIR"
        ) from None
    try:
        str(path).encode()
    except UnicodeEncodeError:
        told = str(path).encode(errors="backslashreplace").decode()
        raise WorkDirError(
            f"{flag}: the name of {told} is not valid UTF-8 text", hint=f"name it by a link: {flag} LINK"
        ) from None
    if not path.exists():
        raise WorkDirError(f"{flag}: {path} does not exist", hint=nearest_path(path))
    if not path.is_dir():
        raise WorkDirError(f"{flag}: {path} is not a folder", hint=f"its folder is {path.parent}")
    if not os.access(path, os.R_OK | os.X_OK):
        raise WorkDirError(f"{flag}: {path} cannot be entered", hint="look at its permissions")
    return str(path)


def check_file_or_json(value: str, flag: str) -> str:
    """JSON as it is; a file's name made absolute, because the daemon runs elsewhere.

    Raises:
        UsageError: no such file.
    """
    if value.lstrip().startswith(("{", "[")):
        return value
    path = Path(os.path.abspath(Path(value).expanduser()))  # noqa: PTH100 - links are kept as typed
    if not path.is_file():
        raise UsageError(f"{flag}: there is no file {path}", hint=nearest_path(path))
    return str(path)


def split_rules(values: Sequence[str]) -> tuple[str, ...]:
    """`a,b` as two rules; a comma inside parentheses belongs to its rule (`Bash(git log, *)`)."""
    rules: list[str] = []
    for value in values:
        depth, start = 0, 0
        for position, letter in enumerate(value):
            if letter == "(":
                depth += 1
            elif letter == ")":
                depth = max(0, depth - 1)
            elif letter == "," and depth == 0:
                rules.append(value[start:position].strip())
                start = position + 1
        rules.append(value[start:].strip())
    return tuple(rule for rule in rules if rule)
