"""What several tools take: words with their limits, and everything about a new session."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import msgspec

from cms.config import DEFAULT_MODEL, DELEGATE_LIMITS
from cms.config_file import Profile as PersonsProfile
from cms.config_file import read_config, seconds
from cms.mcp.call import DaemonCall
from cms.mcp.results import described
from cms.mcp.tool import Params
from cms.session.model import Limits, Preset, SessionOptions

#: `(?!\n)`: in Python, not in JSON Schema, `$` also matches before a line feed at the end.
NAME_PATTERN = r"^[A-Za-z0-9._][A-Za-z0-9._-]{0,63}(?!\n)$"
LONG_TEXT = 1_000_000  # characters of a prompt: far past what a model can read at once

Name = Annotated[
    str,
    msgspec.Meta(
        description="The session's name.",
        pattern=NAME_PATTERN,
        min_length=1,
        max_length=64,
        examples=["fix-auth"],
    ),
]
NewName = Annotated[
    str,
    msgspec.Meta(
        description="A name for the new session, not in use yet; say what it is for, like fix-auth-tests.",
        pattern=NAME_PATTERN,
        min_length=1,
        max_length=64,
        examples=["fix-auth-tests"],
    ),
]
Text = Annotated[str, msgspec.Meta(description="The message.", min_length=1, max_length=LONG_TEXT)]
Model = Annotated[
    str,
    msgspec.Meta(
        description="sonnet (default), opus (harder work, about twice the price), haiku (simple work, a "
        "twentieth), or a model's full id.",
        pattern=r"^\S+$",
        max_length=100,
        examples=["sonnet"],
    ),
]
PresetChoice = Annotated[
    Preset,
    msgspec.Meta(
        description="What it may do, by default edit. read-only: search and read. review: the same, told to "
        "report findings. edit: also edit files in its folder and run harmless commands. plan: make a plan, "
        "carry out nothing. full: everything; only for work that needs it."
    ),
]
WorkDir = Annotated[
    str,
    msgspec.Meta(
        description="The folder it works in; by default the one that this server runs in. Give two sessions "
        "that edit at the same time different folders (git worktrees), or different files.",
        max_length=4096,
    ),
]
Allow = Annotated[
    tuple[
        Annotated[str, msgspec.Meta(min_length=1, max_length=500, examples=["Bash(pytest *)"])],
        ...,
    ],
    msgspec.Meta(
        description="Permission rules for commands that the preset does not allow, as narrow as they can be.",
        max_length=50,
    ),
]
SystemPrompt = Annotated[str, msgspec.Meta(description="Added to its system prompt.", max_length=LONG_TEXT)]
MaxCost = Annotated[
    float,
    msgspec.Meta(
        description=f"US dollars for the whole session, messages to come included; by default "
        f"{DELEGATE_LIMITS.max_cost:g}. It is stopped there, in the middle of its work; it can pass this by "
        "one model call.",
        gt=0,
        le=1000,
    ),
]
MaxTurns = Annotated[
    int,
    msgspec.Meta(
        description=f"Model calls for the whole session; by default {DELEGATE_LIMITS.max_turns}.",
        ge=1,
        le=10_000,
    ),
]
MaxMinutes = Annotated[
    float, msgspec.Meta(description="Minutes for one message. Off by default.", gt=0, le=10_080)
]
MaxChars = Annotated[
    int,
    msgspec.Meta(description="Cut the answer's text here; you pay for what you read.", ge=100, le=100_000),
]
Detach = Annotated[
    bool,
    described("Return at once; it works on in the background, also when you have gone. Collect with `wait`."),
]

Profile = Annotated[
    str,
    msgspec.Meta(
        description="A profile from the person's config.toml to begin with; what you give counts more.",
        max_length=100,
    ),
]


class Agent(Params, frozen=True, kw_only=True):
    """What a new session is and what it may use."""

    model: Model | None = None
    preset: PresetChoice | None = None
    work_dir: WorkDir = ""
    allow: Allow = ()
    system_prompt: SystemPrompt = ""
    max_cost: MaxCost | None = None
    max_turns: MaxTurns | None = None
    max_minutes: MaxMinutes | None = None
    ask_minutes: (
        Annotated[
            float,
            msgspec.Meta(
                description="How long a question or a permission of its waits for `answer`; then it is "
                "refused. By default not at all, which is right unless you detach.",
                ge=0,
                le=1440,
            ),
        ]
        | None
    ) = None
    allow_cms: Annotated[
        bool,
        described("It may itself start agents with these tools, within its own preset, folder and maxCost."),
    ] = False
    profile: Profile = ""

    def options(self, call: DaemonCall, name: str, *, verify: tuple[str, ...] = ()) -> SessionOptions:
        """The options of a new session: what was given, then the profile, the person's defaults, ours.

        Raises:
            UsageError: there is no such profile, or the person's file makes no sense.
        """
        chosen = chosen_by_person(call, self.profile)
        waits = seconds(chosen.ask_timeout) if self.ask_minutes is None else self.ask_minutes * 60
        return SessionOptions(
            name=name,
            work_dir=folder(self.work_dir),
            model=self.model or chosen.model or DEFAULT_MODEL,
            preset=self.preset or chosen.preset or "edit",
            limits=limits_over(
                Limits(
                    max_cost=self.max_cost,
                    max_turns=self.max_turns,
                    max_time=None if self.max_minutes is None else self.max_minutes * 60,
                ),
                chosen.limits,
                DELEGATE_LIMITS,
            ),
            allowed_tools=(*self.allow, *chosen.allow),
            disallowed_tools=chosen.disallowed_tools,
            system_prompt=chosen.system_prompt or "",
            append_system_prompt=self.system_prompt or chosen.append_system_prompt or "",
            agent=chosen.agent or "",
            effort=chosen.effort or "",
            fallback_model=chosen.fallback_model or "",
            add_dirs=chosen.add_dir,
            protect=chosen.protect,
            protect_read=chosen.protect_read,
            allow_write=chosen.allow_write,
            env_deny=chosen.env_deny,
            on_violation=chosen.on_violation or "stop",
            ask_timeout=waits or 0.0,
            require_containment=chosen.require_containment,
            verify=(*verify, *chosen.verify),
            allow_cms=self.allow_cms,
        )


def chosen_by_person(call: DaemonCall, profile: str) -> PersonsProfile:
    """What a person's file says of new sessions: the profile over the defaults.

    Inside of a session there is none to be read: there the parent's options are the bounds.

    Raises:
        UsageError: there is no such profile, or the file makes no sense.
    """
    if call.settings.child_socket is not None:
        return PersonsProfile()
    return read_config(call.settings.home).profile(profile)


def limits_over(*limits: Limits) -> Limits:
    """Each limit from the first that has it."""
    found: dict[str, float | int | None] = {}
    for one in limits:
        for key, value in msgspec.structs.asdict(one).items():
            if found.get(key) is None:
                found[key] = value
    return msgspec.structs.replace(Limits(), **found)


def folder(text: str) -> str:
    path = Path(text).expanduser() if text else Path.cwd()
    return os.path.abspath(path)  # noqa: PTH100 - links are kept as the client named them


class NameArguments(Params, frozen=True, kw_only=True):
    name: Name
