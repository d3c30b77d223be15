"""From what a person chose about a session to the argv and the environment of `claude`.

An arrangement is what a preset means in claude's own terms: a permission mode and the hard list of built-in
tools. The list is the stronger of the two: a tool that is not on it does not exist in the session, nor for
its subagents, so a read-only session has no tool that writes, whichever permission mode a person asks for.

The mode is `manual` with us as the permission host. There a tool call runs only if the gate (the PreToolUse
hook, which comes first) allows it, or if claude itself deems it harmless; what is left is asked of us
and refused. An error, a closed pipe or a silent gate refuse too. `dontAsk` fails closed as well but hides
the model's questions to a person; `bypassPermissions` and `acceptEdits` fail open (an error answer runs the
tool), so they are used only when a person names them.

Texts, settings and MCP servers that were given as such go into files (`Command.files`) that the argv names: a
word of an argv holds 128 KiB at most, and every user of the machine can read it, tokens included.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase, translate
from pathlib import Path
from typing import Final

import msgspec

from cms.protocol.tools import AGENT_TOOLS, OWN_TOOLS, PLAN_TOOL, QUESTION_TOOL, READ_TOOLS, WRITE_TOOLS
from cms.session.model import Preset, SessionOptions
from cms.session.project_config import argv_at, decode_object

_EDIT = (*READ_TOOLS, *WRITE_TOOLS, *OWN_TOOLS, *AGENT_TOOLS, "Bash", QUESTION_TOOL)


class Arrangement(msgspec.Struct, frozen=True):
    """Permission mode and hard tool list of a preset. `tools` None: every built-in tool exists."""

    mode: str
    tools: tuple[str, ...] | None


ARRANGEMENTS: dict[Preset, Arrangement] = {
    "read-only": Arrangement("manual", (*READ_TOOLS, QUESTION_TOOL)),
    "review": Arrangement("manual", (*READ_TOOLS, "ReportFindings", *AGENT_TOOLS, QUESTION_TOOL)),
    "plan": Arrangement("plan", (*READ_TOOLS, PLAN_TOOL, QUESTION_TOOL)),
    "edit": Arrangement("manual", _EDIT),
    "full": Arrangement("manual", None),
}

#: Put behind the system prompt, so that the model knows what it is in.
_UNATTENDED = (
    "You are running unattended: nobody watches and nobody can grant permissions. A refused tool call stays "
    "refused; find another way or say what you would need. If you cannot go on without an answer from a "
    "person, ask once with AskUserQuestion and stop."
)
_ATTENDED = (
    "You are running in the background. A person can answer questions (AskUserQuestion) and grant "
    "permissions, but may take minutes, or not be there. Ask only what you cannot find out; what is refused "
    "stays refused."
)
_WRITES = (
    "Only what you write in the work dir lasts. Elsewhere in the home and in /tmp you write a copy that is "
    "gone when you end, and the rest of the file system is read-only."
)
_REVIEW = "Review only: read, judge, and report findings with file and line. Change nothing."


#: How claude is spoken to by a program.
_PROTOCOL: Final = (
    "-p",
    "--input-format=stream-json",
    "--output-format=stream-json",
    "--verbose",
    "--include-partial-messages",
    "--permission-prompt-tool=stdio",
)
#: Characters of permission rules that stand in the argv: more go into the settings.
_LONG_RULES: Final = 65_536
#: The file of `--settings`.
SETTINGS_FILE: Final = "settings.json"


class Command(msgspec.Struct, frozen=True):
    """How a session's process is started.

    Attributes:
        argv: its words.
        files: what they name, by path; to be written before the start, for its user alone to read.
    """

    argv: tuple[str, ...]
    files: dict[Path, bytes]


def build_command(
    claude: Sequence[str],
    options: SessionOptions,
    *,
    folder: Path,
    session_id: str,
    resume: str = "",
    fork: bool = False,
    budget: float | None = None,
    turns: int | None = None,
    server: Sequence[str] = (),
    config_root: str = "",
    unreadable: Sequence[str] = (),
    by_hand: bool = False,
) -> Command:
    """The whole argv of a session's process, and the files that it names.

    Args:
        claude: the argv prefix that starts the binary.
        options: their settings and MCP servers are JSON, as `Configuration.take_place` makes them.
        folder: where the files are to be: empty, seen by the session, not written by it.
        session_id: the conversation id for a new conversation (or for the branch, with `fork`).
        resume: the conversation to go on with; "" starts a new one.
        fork: branch off `resume` instead of going on in it.
        budget: USD that this process may spend: claude's own second lock behind our gate.
        turns: API calls a message may take, likewise.
        server: starts our MCP server, for a session that may use cms.
        unreadable: patterns of what must not be read: claude keeps to them where no call comes to our gate,
            in what Grep finds and in what CLAUDE.md brings along (measured: 2.1.332).
        config_root: what it takes for the project's own configuration; "": the work dir.
        by_hand: claude's own interface, for a person: no protocol, and nothing that only `-p` knows.
    """
    arrangement = ARRANGEMENTS[options.preset]
    argv = [
        *claude,
        *(() if by_hand else _PROTOCOL),
        f"--permission-mode={options.permission_mode or arrangement.mode}",
        f"--model={options.model}",
    ]
    if resume:
        argv.append(f"--resume={resume}")
        if fork:
            argv += ["--fork-session", f"--session-id={session_id}"]
    else:
        argv.append(f"--session-id={session_id}")
    # A mode that a person names replaces what `edit`, the default, arranges; the narrow presets stay narrow.
    if arrangement.tools is not None and not (options.permission_mode and options.preset == "edit"):
        argv.append(f"--tools={','.join(arrangement.tools)}")
    # One `--flag=value` per value: the flags take lists, and would swallow what follows.
    allowed = options.allowed_tools
    refused = (*options.disallowed_tools, *(rule for one in unreadable for rule in _read_rules(one)))
    if sum(map(len, (*allowed, *refused))) > _LONG_RULES:
        options = _with_rules(options, allowed, refused)
    else:
        argv += [f"--allowedTools={rule}" for rule in allowed]
        argv += [f"--disallowedTools={rule}" for rule in refused]
    for flag, value in (
        ("--agent", options.agent),
        ("--fallback-model", options.fallback_model),
        ("--effort", options.effort),
        # (claude takes no file; `json_schema` bounds it.)
        ("--json-schema", "" if by_hand else options.json_schema),
    ):
        if value:
            argv.append(f"{flag}={value}")
    if config_root:
        argv.append(f"--project-config-root={config_root}")
    argv += [f"--add-dir={added}" for added in options.add_dirs]
    files: dict[Path, bytes] = {}
    for flag, name, text in _texts(options, server, by_hand=by_hand):
        files[folder / name] = text.encode("utf-8", "surrogateescape")
        argv.append(f"{flag}={folder / name}")
    if server:
        # The daemon judges each request by who asks; nobody would be there to permit it here.
        argv.append("--allowedTools=mcp__cms")
    if budget is not None and not by_hand:
        argv.append(f"--max-budget-usd={budget:.6f}")
    if turns is not None and not by_hand:
        argv.append(f"--max-turns={turns}")
    return Command(tuple(argv), files)


def _texts(
    options: SessionOptions, server: Sequence[str], *, by_hand: bool
) -> Iterator[tuple[str, str, str]]:
    """What claude is given in files: flag, name of the file, text."""
    if options.system_prompt:
        yield "--system-prompt-file", "system-prompt.txt", options.system_prompt
    appended = [options.append_system_prompt] if options.append_system_prompt else []
    if options.preset == "review":
        appended.append(_REVIEW)
    if options.delegated and not by_hand:
        appended.append(_ATTENDED if options.ask_timeout else _UNATTENDED)
    if options.delegated and options.safety and options.writes == "workdir":
        appended.append(_WRITES)
    if appended:
        yield "--append-system-prompt-file", "append-system-prompt.txt", "\n\n".join(appended)
    if options.settings:
        yield "--settings", SETTINGS_FILE, options.settings
    for number, text in enumerate(options.mcp_config):
        yield "--mcp-config", f"mcp-{number}.json", text
    if server:
        entry = argv_at(
            {"type": "stdio", "command": server[0], "args": list(server[1:]), "env": {}}, options.work_dir
        )
        yield "--mcp-config", "mcp-cms.json", msgspec.json.encode({"mcpServers": {"cms": entry}}).decode()


def _with_rules(options: SessionOptions, allowed: Sequence[str], refused: Sequence[str]) -> SessionOptions:
    """The options with rules in their settings that no argv can hold."""
    said = decode_object(options.settings.encode()) or {}
    permissions = said.get("permissions")
    rules: dict[str, object] = dict(permissions) if isinstance(permissions, dict) else {}
    for key, more in (("allow", allowed), ("deny", refused)):
        old = rules.get(key)
        rules[key] = [*(old if isinstance(old, list) else ()), *more]
    settings = msgspec.json.encode({**said, "permissions": rules}).decode()
    return msgspec.structs.replace(options, settings=settings)


def _read_rules(pattern: str) -> tuple[str, str]:
    """A pattern of ours as rules of claude's: of the place, and of all below it."""
    place = re.sub(r"([\\\[\]()])", r"\\\1", pattern.removesuffix("/**").rstrip("/"))
    anchored = f"/{place}" if place.startswith("/") else f"//**/{place}"
    return f"Read({anchored})", f"Read({anchored}/**)"


def _names(*patterns: str) -> Callable[[str], object]:
    """Whether a name is one of those; in one look, for an environment has a hundred names."""
    return re.compile("|".join(map(translate, patterns))).match


#: What a Claude Code sets for the programs that it starts, or one process of it for the next: who they are,
#: where they came from, how to reach it. In a session's process it would name somebody else's session. Read
#: off the shells of claude 2.1.332 and its own list of what it does not hand on; all else that begins with
#: `CLAUDE_CODE_` is the user's (providers, proxies, telemetry, limits) and goes through.
_OF_A_PARENT = _names(
    "CLAUDECODE",
    "AI_AGENT",
    "CLAUDE_EFFORT",
    "CLAUDE_PID",
    "CLAUDE_BG_*",
    "CLAUDE_PTY_*",
    "CLAUDE_BRIDGE_*",
    "CLAUDE_CODE_CHILD_*",
    "CLAUDE_CODE_DISABLE_DEFERRED_TOOL_RESUME",
    "CLAUDE_CODE_ENTRYPOINT",
    "CLAUDE_CODE_EXECPATH",
    "CLAUDE_CODE_IGNORE_PERSISTED_TRUST",
    "CLAUDE_CODE_INVOKED_SKILLS",
    "CLAUDE_CODE_LAUNCHED_BY_*",
    "CLAUDE_CODE_MESSAGING_*",
    "CLAUDE_CODE_PROJECT_DIR_NAME",
    "CLAUDE_CODE_RELAUNCH_*",
    "CLAUDE_CODE_RESUME_*",
    "CLAUDE_CODE_SCRATCHPAD_DIR",
    "CLAUDE_CODE_SESSION_*",
    "CLAUDE_CODE_SHELL_MCP_SERVERS",
    "CLAUDE_CODE_SSE_PORT",
    "CLAUDE_CODE_STARTER_*",
    "CLAUDE_CODE_TMPDIR",
)


#: What systemd tells a service about itself: the daemon's, and no child's.
_SERVICE = frozenset({"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID"})


def build_environment(
    environ: Mapping[str, str],
    *,
    inside: str = "",
    depth: int = 0,
    child_socket: str = "",
    scratch: str = "",
    deny: Sequence[str] = (),
) -> dict[str, str]:
    """The environment of a session's process, cut from ours.

    `inside` and `depth` tell a cms that is started in there which session it is in; without a `child_socket`
    (the socket that leads out to the daemon) it refuses to work. The walls do not rest on that: our folder
    cannot be reached from inside.

    `scratch` is the folder for claude's temporary files.

    Out goes what a parent Claude Code left (`_OF_A_PARENT`) and everything of our own (`CMS_*`). What a user
    configured stays, credentials of other services too (a task may need GITHUB_TOKEN), but for the names that
    a glob in `deny` matches.
    """
    child = {
        key: value
        for key, value in environ.items()
        if not key.startswith("CMS_")
        and key not in _SERVICE
        and not _OF_A_PARENT(key)
        and not any(fnmatchcase(key, pattern) for pattern in deny)
    }
    # Without it there is no `idle`, and with it the end of the work is known (see session.state).
    child["CLAUDE_CODE_SDK_READS_SESSION_STATE"] = "1"
    child["CLAUDE_CODE_EMIT_SESSION_STATE_EVENTS"] = "1"  # what older ones call it
    child.setdefault("DISABLE_AUTOUPDATER", "1")
    if scratch:
        child["CLAUDE_CODE_TMPDIR"] = scratch
        # A tmux server that it starts is its own, and ends with it; a person's is hidden from it.
        child["TMUX_TMPDIR"] = scratch
    for name in ("TMUX", "TMUX_PANE", "STY"):
        child.pop(name, None)
    if inside:
        child["CMS_PARENT"], child["CMS_DEPTH"] = inside, str(depth)
    if child_socket:
        child["CMS_CHILD_SOCKET"] = child_socket
        # Else, on a slow machine, the first turn begins without our tools: the server takes a second.
        child["CLAUDE_CODE_MCP_STARTUP_WAIT_MS"] = "30000"
    return child
