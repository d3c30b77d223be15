"""The options of a session, a delegation and a batch task: each is declared once, as a field of `Layer`.

From that come the flags of `delegate`, `spawn`, `continue` and `batch`, the keys of `config.toml` and of
files of tasks, the arguments of the MCP tools, their help, and what a child may have of it.

A layer is what one place says: the flags, a profile, the file's defaults, a task. A field that is None says
nothing. Layers are merged (`layers.resolve`), the one that counts most first, by the rule of each option:
- `later`: the first layer that says something is right;
- `adds_up`: what forbids; no layer takes back what another one forbids;
- `own`: what permits, and checks: the lists are joined, but a task's own list stands alone;
- `stricter`: the strictest that any layer says.

To add an option: a field here, and one of the same name in `session.model` (`Limits` or `SessionOptions`).
"""

# No `from __future__ import annotations`: the table is made of the annotations themselves.
from collections.abc import Mapping
from functools import partial
from typing import Annotated, ClassVar, Final, get_type_hints

import msgspec
from msgspec import Meta

from cms.option_kinds import (
    APPLY,
    COMMANDS,
    COUNT,
    FILE,
    FILES,
    FOLDER,
    FOLDERS,
    ISOLATE,
    LEVEL,
    MODE,
    MODEL,
    MONEY,
    OUTCOMES,
    PRESET,
    QUESTION,
    REPO,
    RULES,
    SCHEMA,
    SECONDS,
    SIZE,
    SWITCH,
    TAGS,
    TEXT,
    TEXTS,
    TRIES,
    VIOLATION,
    WRITES,
    Option,
    Texts,
    Tool,
    ToolName,
    Way,
)
from cms.session.model import (
    Apply,
    ContainmentLevel,
    Isolate,
    OnViolation,
    Outcome,
    Preset,
    Record,
    Writes,
)

_set = msgspec.structs.replace

_SESSION: Final[frozenset[Way]] = frozenset({"delegate", "spawn", "batch", "file", "task"})
_ALL: Final[frozenset[Way]] = _SESSION | {"profile"}
_LIMIT: Final[frozenset[Way]] = _ALL | {"continue"}
_CHECK: Final[frozenset[Way]] = _ALL - {"spawn"}
_TASK: Final[frozenset[Way]] = frozenset({"file", "task"})
_CONTEXT: Final[frozenset[Way]] = _TASK | {"delegate"}
#: In whose short help an option stands.
_STARTS: Final[frozenset[Way]] = frozenset({"delegate", "spawn"})
_COMMON: Final[frozenset[Way]] = _STARTS | {"batch"}


_limit = partial(Option, group="limits", ways=_LIMIT, child="least")
_safety = partial(Option, group="safety")
_forbid = partial(_safety, combine="adds_up", child="joined")
_claude = partial(Option, group="claude")

_COST: Final = 2.0
_TURNS: Final = 50
_NEW: Final[Mapping[ToolName, str]] = {"delegate": "", "spawn": ""}
_TOOLS: Final[Mapping[ToolName, str]] = {**_NEW, "batch_start": "", "task": "Instead of the batch's."}
_LONG: Final = 1_000_000  # characters: far past what a model can read at once


class Layer(Record, frozen=True, omit_defaults=True):
    """What one place says of the options of a session. What is None it does not say.

    Field names are the camelCase keys of a file of tasks, and those of `session.model`.
    """

    #: A list of its own stands alone (rule `own`).
    alone: ClassVar[bool] = False

    model: Annotated[
        str | None,
        Option(
            MODEL,
            "sonnet, opus, haiku or a full model id.",
            default="sonnet",
            common=_COMMON,
            tool=Tool(
                "sonnet (default), opus (harder work, about twice the price), haiku (simple work, a "
                "twentieth), or a model's full id.",
                {**_TOOLS, "batch_requeue": "Another model for these tasks."},
                Meta(pattern=r"^\S+$", max_length=100, examples=["sonnet"]),
            ),
        ),
    ] = None
    preset: Annotated[
        Preset | None,
        Option(
            PRESET,
            "read-only, review, edit, full or plan.",
            ways=_LIMIT,
            default="edit",
            common=_COMMON,
            child="preset",
            tool=Tool(
                "What it may do, by default edit. read-only: search and read. review: the same, told to "
                "report findings. edit: also edit files in its folder and run harmless commands. plan: make "
                "a plan, carry out nothing. full: everything; only for work that needs it.",
                {**_TOOLS, "continue": "Another preset from now on."},
            ),
        ),
    ] = None
    work_dir: Annotated[
        str | None,
        Option(
            FOLDER,
            "Work in this folder.",
            default="the current one",
            common=_STARTS,
            ways=_SESSION,
            child="within",
            tool=Tool(
                "The folder it works in; by default the one that this server runs in. Give two sessions that "
                "edit at the same time different folders (git worktrees), or different files.",
                _TOOLS,
                Meta(max_length=4096),
            ),
        ),
    ] = None
    max_cost: Annotated[
        float | None,
        _limit(
            MONEY,
            "Stop when the session has cost this much.",
            common=_COMMON,
            child="left",
            aliases=("maxBudget",),
            delegation=_COST,
            task=_COST,
            tool=Tool(
                f"US dollars for the whole session, messages to come included; by default {_COST:g}. It is "
                "stopped there, in the middle of its work; it can pass this by one model call.",
                {
                    **_NEW,
                    "continue": "A new limit for the whole session; it must cover what is spent.",
                    "batch_start": "US dollars for each task; a task starts when that much is left. By "
                    "default an even share, but no less than a tenth of maxCost and no more than 2.",
                    "task": "Instead of taskMaxCost.",
                    "batch_requeue": "A new limit in US dollars for each of these tasks.",
                },
                Meta(gt=0, le=1000),
            ),
        ),
    ] = None
    max_turns: Annotated[
        int | None,
        _limit(
            COUNT,
            "Stop after this many model calls.",
            common=_COMMON,
            delegation=_TURNS,
            task=_TURNS,
            tool=Tool(
                f"Model calls for the whole session; by default {_TURNS}.",
                {
                    **_NEW,
                    "continue": "A new limit of model calls for the whole session.",
                    "task": "",
                    "batch_requeue": "A new limit of model calls for each of these tasks.",
                },
                Meta(ge=1, le=10_000),
            ),
        ),
    ] = None
    max_time: Annotated[
        float | None,
        _limit(
            SECONDS,
            "Stop a message that takes longer (90s, 15m, 2h).",
            common=_STARTS,
            tool=Tool(
                "Minutes for one message. Off by default.",
                {**_NEW, "batch_requeue": "A new limit in minutes for each of these tasks."},
                Meta(gt=0, le=10_080),
                key="maxMinutes",
                unit=60.0,
            ),
        ),
    ] = None
    max_silence: Annotated[
        float | None,
        _limit(
            SECONDS,
            "Stop when Claude is working but silent for this long.",
            # claude's own tools take ten minutes at most.
            delegation=1800.0,
            task=1800.0,
        ),
    ] = None
    max_tool_calls: Annotated[int | None, _limit(COUNT, "Allow at most this many tool calls.")] = None
    max_repeats: Annotated[
        int | None,
        _limit(
            COUNT,
            "Allow the same tool call this many times in a row.",
            delegation=10,
            task=10,
        ),
    ] = None
    max_retry_time: Annotated[
        float | None,
        _limit(
            SECONDS,
            "Stop when the API has done nothing but fail for this long.",
            # claude's own retries take some eight minutes. But a batch waits for the API better than a
            # session does (it gives the place to nobody else meanwhile), so it takes over sooner.
            delegation=900.0,
            task=300.0,
        ),
    ] = None
    max_memory: Annotated[
        int | None,
        _limit(SIZE, "Memory for the whole process tree: 512M, 2G."),
    ] = None
    max_procs: Annotated[
        int | None,
        _limit(
            COUNT,
            "Processes in the tree; threads may count, and claude alone has ten or more.",
        ),
    ] = None
    context: Annotated[
        str | None,
        Option(
            TEXT,
            "Background for the task.",
            group="task",
            ways=_CONTEXT,
            tool=Tool("What it should know besides the task.", {"delegate": ""}, Meta(max_length=_LONG)),
        ),
    ] = None
    verify: Annotated[
        Texts | None,
        Option(
            COMMANDS,
            "Shell command that must succeed in the end. Repeatable.",
            common=_COMMON,
            group="task",
            ways=_CHECK | {"continue"},
            combine="own",
            child="checks",
            noun="check",
            tool=Tool(
                "Shell commands, run in its folder when it says it is done, that must succeed; else the "
                "outcome is verification_failed. Cheaper and surer than asking it whether it is done.",
                {
                    "delegate": "",
                    "continue": "One more check from now on.",
                    "task": "Shell commands that must succeed when it says it is done.",
                },
                Meta(max_length=20),
                Meta(min_length=1, max_length=2000, examples=["pytest -q"]),
            ),
        ),
    ] = None
    json_schema: Annotated[
        str | None,
        Option(
            SCHEMA,
            "JSON Schema (a file, or JSON) for the answer; --json has it as `output`.",
            group="task",
            ways=_CHECK | {"continue"},
            tool=Tool(
                "A JSON Schema of an object, as a text: the response is then JSON that fits it.",
                {"delegate": "", "task": "As for delegate; {{needs.NAME.output.KEY}} is a part of it."},
                Meta(max_length=65_536),
            ),
        ),
    ] = None
    judge: Annotated[
        str | None,
        Option(
            QUESTION,
            "Ask a second, read-only session this about the work; it must pass.",
            group="task",
            ways=_CHECK,
            tool=Tool(
                "What a second, read-only agent is asked about the work after verify; it must pass it.",
                {"delegate": "", "task": "As for delegate."},
                Meta(min_length=1, max_length=20_000),
            ),
        ),
    ] = None
    judge_max_cost: Annotated[
        float | None,
        Option(
            MONEY,
            "What the judge may cost, on top of --max-cost.",
            default="0.50",
            group="task",
            ways=_CHECK,
        ),
    ] = None
    judge_model: Annotated[
        str | None,
        Option(MODEL, "The judge's model.", group="task", ways=_CHECK, default="the session's"),
    ] = None
    repair: Annotated[
        int | None,
        Option(
            TRIES,
            "When a check fails, have the session fix it, up to N times.",
            default="0",
            common=_STARTS,
            group="task",
            ways=_CHECK | {"continue"},
            tool=Tool(
                "How often it may fix what a check found, within its limits.",
                {"delegate": "", "continue": "", "task": "As for delegate."},
                Meta(ge=0, le=10),
            ),
        ),
    ] = None
    retries: Annotated[
        int | None,
        Option(
            TRIES,
            "Retry a task that failed without changing anything, up to N times.",
            default="0",
            group="task",
            ways=_TASK | {"batch"},
            tool=Tool("Further tries, where trying again is safe.", {"task": ""}, Meta(ge=0, le=10)),
        ),
    ] = None
    retry_on: Annotated[tuple[Outcome, ...] | None, Option(OUTCOMES, ways=_TASK)] = None
    retry_acted: Annotated[bool | None, Option(SWITCH, ways=_TASK)] = None
    repo: Annotated[
        str | None,
        Option(
            REPO,
            "Check this out at the node for each task: a folder, URL or URL#REF.",
            group="nodes",
            ways=_TASK | {"batch"},
        ),
    ] = None
    tags: Annotated[
        Texts | None,
        Option(TAGS, "Label it with a word of your own. Repeatable.", "--tag", combine="adds_up"),
    ] = None
    safety: Annotated[
        bool | None,
        _safety(
            SWITCH,
            "Turn off protected paths and permission checks. This is recorded.",
            "--no-safety",
            ways=_SESSION,
            child="safety",
            aliases=("!noSafety",),
        ),
    ] = None
    trust_project: Annotated[
        bool | None,
        _safety(
            SWITCH,
            "Trust the folder's own configuration this once (`cms trust`).",
            ways=_SESSION,
            child="granted",
        ),
    ] = None
    allowed_tools: Annotated[
        Texts | None,
        _safety(
            RULES,
            "Also allow this, like 'Bash(pytest *)'. Repeatable.",
            "--allow",
            metavar="RULE",
            ways=_LIMIT,
            common=_COMMON,
            combine="own",
            child="known",
            noun="rule",
            aliases=("allow",),
            other="--allowed-tools",
            tool=Tool(
                "Permission rules for commands that the preset does not allow, as narrow as they can be.",
                {**_TOOLS, "continue": "More rules from now on: those that `refused` names, say."},
                Meta(max_length=50),
                Meta(min_length=1, max_length=500, examples=["Bash(pytest *)"]),
                key="allow",
            ),
        ),
    ] = None
    disallowed_tools: Annotated[
        Texts | None, _forbid(RULES, "Also refuse this, like 'WebFetch'. Repeatable.")
    ] = None
    protect: Annotated[Texts | None, _forbid(TEXTS, "Also protect these paths from writes. Repeatable.")] = (
        None
    )
    protect_read: Annotated[
        Texts | None, _forbid(TEXTS, "Also keep these paths from being read. Repeatable.")
    ] = None
    allow_write: Annotated[
        Texts | None,
        _safety(
            TEXTS,
            "Allow writes to these protected paths, or to a place outside the work dir. Repeatable.",
            combine="own",
            child="known",
            noun="writable path",
        ),
    ] = None
    writes: Annotated[
        Writes | None,
        _safety(WRITES, "Where its writes are kept: workdir or anywhere.", child="writes", default="workdir"),
    ] = None
    isolate: Annotated[
        Isolate | None,
        _safety(
            ISOLATE,
            "Keep its changes apart for `cms diff` and `cms apply`. --isolate alone means auto.",
            metavar="[HOW]",
            default="no",
            common=_COMMON,
            child="isolated",
            tool=Tool(
                "auto: it works in a view of its own of the folder, which stays as it is; what it wrote "
                "becomes a change that a person applies. For tasks that edit one folder at the same time.",
                _TOOLS,
            ),
        ),
    ] = None
    apply: Annotated[
        Apply | None,
        Option(
            APPLY,
            "on-pass: apply the isolated change once the task is completed and its checks pass again.",
            group="task",
            ways=_CHECK,
            child="granted",
            noun="its change applied by itself",
        ),
    ] = None
    env_deny: Annotated[
        Texts | None, _forbid(TEXTS, "Hide these environment variables ('AWS_*'). Repeatable.")
    ] = None
    on_violation: Annotated[
        OnViolation | None,
        _safety(
            VIOLATION,
            "When it touches a protected path: stop, or deny the call and go on.",
            default="stop",
            child="stop",
        ),
    ] = None
    ask_timeout: Annotated[
        float | None,
        _safety(
            SECONDS,
            "Let its questions wait this long for `cms answer`.",
            default="refused at once",
            common=_STARTS,
            tool=Tool(
                "How long a question or a permission of its waits for `answer`; then it is refused. By "
                "default not at all, which is right unless you detach.",
                _NEW,
                Meta(ge=0, le=1440),
                key="askMinutes",
                unit=60.0,
            ),
        ),
    ] = None
    require_containment: Annotated[
        ContainmentLevel | None,
        _safety(
            LEVEL,
            "Refuse to start below this level: A (strongest) to E (`cms doctor`).",
            combine="stricter",
            child="stricter",
        ),
    ] = None
    allow_cms: Annotated[
        bool | None,
        _safety(
            SWITCH,
            "Let it start sessions of its own, within its preset, folder and limits.",
            ways=_SESSION,
            tool=Tool(
                "It may itself start agents with these tools, within its own preset, folder and maxCost.",
                _NEW,
            ),
        ),
    ] = None
    otel: Annotated[
        bool | None,
        Option(
            SWITCH,
            "Export OpenTelemetry traces and metrics (OTEL_* variables say where).",
            group="telemetry",
            ways=_ALL,
            child="granted",
            noun="its trace exported",
        ),
    ] = None
    otel_content: Annotated[
        bool | None,
        Option(
            SWITCH,
            "With --otel, also export prompts, answers, and tool inputs and outputs.",
            group="telemetry",
            ways=_ALL,
            child="granted",
            noun="its content exported",
        ),
    ] = None
    system_prompt: Annotated[str | None, _claude(TEXT, "Replace Claude's system prompt.")] = None
    append_system_prompt: Annotated[
        str | None,
        _claude(
            TEXT,
            "Append to Claude's system prompt.",
            tool=Tool("Added to its system prompt.", _NEW, Meta(max_length=_LONG), key="systemPrompt"),
        ),
    ] = None
    agent: Annotated[
        str | None,
        _claude(TEXT, "Use one of Claude's configured agents.", metavar="AGENT", child="same", noun="agent"),
    ] = None
    permission_mode: Annotated[
        str | None,
        _claude(
            MODE,
            "Override the preset's permission mode.",
            ways=_SESSION,
            child="mode",
            noun="permission mode",
        ),
    ] = None
    effort: Annotated[str | None, _claude(TEXT, "How hard the model thinks.", metavar="LEVEL")] = None
    fallback_model: Annotated[str | None, _claude(MODEL, "Model to use when the first is overloaded.")] = None
    add_dirs: Annotated[
        Texts | None,
        _claude(
            FOLDERS,
            "Also work in this folder. Repeatable.",
            "--add-dir",
            combine="own",
            child="within",
            aliases=("addDir",),
        ),
    ] = None
    mcp_config: Annotated[
        Texts | None,
        _claude(
            FILES,
            "MCP servers to load: a file, or JSON. Repeatable.",
            ways=_SESSION,
            combine="own",
            child="known",
            noun="MCP server",
        ),
    ] = None
    settings: Annotated[
        str | None,
        _claude(
            FILE, "Claude settings to load: a file, or JSON.", ways=_SESSION, child="known", noun="settings"
        ),
    ] = None


def options_of(record: type[Record]) -> dict[str, Option]:
    """The options that a class declares, by their fields."""
    hints = get_type_hints(record, include_extras=True)
    found = {field: getattr(hints[field], "__metadata__", ()) for field in record.__struct_fields__}
    return {field: _set(said[0], field=field) for field, said in found.items() if said}


#: Every option, by its field.
OPTIONS: Final[Mapping[str, Option]] = options_of(Layer)
