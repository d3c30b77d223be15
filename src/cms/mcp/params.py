"""What several tools take: words with their limits, and everything about a new session."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import msgspec

from cms.config import DELEGATE_LIMITS
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
        description="What it may do. read-only: search and read. review: the same, told to report findings. "
        "edit: also edit files in its folder and run harmless commands. plan: make a plan, carry out "
        "nothing. full: everything; only for work that needs it."
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
        description="US dollars for the whole session, messages to come included. It is stopped there, in "
        "the middle of its work; it can pass this by one model call.",
        gt=0,
        le=1000,
    ),
]
MaxTurns = Annotated[int, msgspec.Meta(description="Model calls for the whole session.", ge=1, le=10_000)]
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

_COST = DELEGATE_LIMITS.max_cost or 2.0
_TURNS = DELEGATE_LIMITS.max_turns or 50


class Agent(Params, frozen=True, kw_only=True):
    """What a new session is and what it may use."""

    model: Model = "sonnet"
    preset: PresetChoice = "edit"
    work_dir: WorkDir = ""
    allow: Allow = ()
    system_prompt: SystemPrompt = ""
    max_cost: MaxCost = _COST
    max_turns: MaxTurns = _TURNS
    max_minutes: MaxMinutes | None = None
    ask_minutes: Annotated[
        float,
        msgspec.Meta(
            description="How long a question or a permission of its waits for `answer`; then it is refused. "
            "0: not at all, which is right unless you detach.",
            ge=0,
            le=1440,
        ),
    ] = 0
    allow_cms: Annotated[
        bool,
        described("It may itself start agents with these tools, within its own preset, folder and maxCost."),
    ] = False

    def options(self, name: str, *, verify: tuple[str, ...] = ()) -> SessionOptions:
        return SessionOptions(
            name=name,
            work_dir=folder(self.work_dir),
            model=self.model,
            preset=self.preset,
            limits=Limits(
                max_cost=self.max_cost,
                max_turns=self.max_turns,
                max_time=None if self.max_minutes is None else self.max_minutes * 60,
            ),
            allowed_tools=self.allow,
            append_system_prompt=self.system_prompt,
            verify=verify,
            ask_timeout=self.ask_minutes * 60,
            allow_cms=self.allow_cms,
        )


def folder(text: str) -> str:
    folder = Path(text).expanduser() if text else Path.cwd()
    return os.path.abspath(folder)  # noqa: PTH100 - links are kept as the client named them


class NameArguments(Params, frozen=True, kw_only=True):
    name: Name
