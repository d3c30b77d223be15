"""What a folder's own Claude Code configuration would let into a session, and what of it is plain. Pure.

In `-p` mode claude starts what a repository names (hooks, MCP servers, helpers, commands in skills) and asks
nobody. So claude is never shown that configuration: it reads a folder that we make (`render`), in which
everything plain is as it was, and everything else only if a person trusts it (`session.trust`).

An `Item` is one thing that needs trust. What is not known to be plain is one: a key of a settings file that a
later claude adds, a frontmatter that we cannot read line by line. What is plain: text (the body of a skill, a
command, an agent or an output style) and what only narrows (rules that deny or ask).

Trusted or not, no file of a project raises what the preset allows:
- `permissions.allow`, `defaultMode`, `additionalDirectories` and their like are left out (`_NEVER`).
- `allowed-tools` of a skill is left out unless the preset permits every tool anyway: the commands in it then
  run as far as the session's own rules allow them. So is the `permissionMode` of an agent.
A hook is a program of a person's choice, and does what programs do; that is why it needs trust.

CLAUDE.md and the rules are not treated here: they are text, and claude reads them where they are.

Measured on claude 2.1.332, from which the keys are taken (see SECURITY.md, "Trust").
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final, Literal

import msgspec

from cms.errors import UNREADABLE

ItemKind = Literal[
    "hook", "helper", "server", "environment", "setting", "plugin", "skill", "command", "agent", "workflow",
    "program", "unreadable",
]  # fmt: skip

SourceKind = Literal["settings", "servers", "skill", "command", "agent", "style", "workflow"]


class Item(msgspec.Struct, frozen=True, omit_defaults=True):
    """One thing that a folder's configuration would let in.

    Attributes:
        path: the file that brings it: relative to the folder, or absolute where it stands above it.
        name: which one of that file.
        what: what it starts or changes, for a person to read.
        digest: of everything about it that matters.
    """

    kind: ItemKind
    path: str
    name: str = ""
    what: str = ""
    digest: str = ""

    @property
    def key(self) -> tuple[str, str, str]:
        return self.kind, self.path, self.name

    def __str__(self) -> str:
        return " ".join(part for part in (self.kind, self.name, f"({self.path})") if part)


class Source(msgspec.Struct, frozen=True):
    """One file of the configuration, as it was read.

    Attributes:
        path: see `Item.path`.
        folder: where it stands, absolute.
        name: of the skill, command, agent ...: its place in the folder of its kind.
        data: what it says; None if it could not be read.
        why: why it could not be.
        mentions: files that an `@` in its text names, and that are there.
        beside: whether there are other files in a skill's folder.
    """

    kind: SourceKind
    path: str
    folder: str
    name: str = ""
    data: bytes | None = None
    why: str = ""
    mentions: tuple[str, ...] = ()
    beside: bool = False


# --- settings -------------------------------------------------------------------------------------

Json = Mapping[str, object]

#: Keys that start nothing and widen nothing.
_PLAIN: Final = frozenset(
    {
        "$schema", "attribution", "includeCoAuthoredBy", "includeGitInstructions",
        "language", "outputStyle", "respectGitignore", "spinnerTipsEnabled",
    }
)  # fmt: skip
#: Of `permissions`, what only narrows.
_PLAIN_RULES: Final = ("deny", "ask")
#: Keys whose value is a shell command, or holds one under "command".
HELPERS: Final = frozenset(
    {
        "apiKeyHelper", "awsAuthRefresh", "awsCredentialExport", "gcpAuthRefresh", "otelHeadersHelper",
        "proxyAuthHelper", "processWrapper", "statusLine", "subagentStatusLine", "fileSuggestion",
        "policyHelper", "policyHelpers", "sshHostCommands",
    }
)  # fmt: skip
_PLUGINS: Final = frozenset(
    {"enabledPlugins", "extraKnownMarketplaces", "additionalMarketplaces", "pluginConfigs"}
)
#: Never let in, whoever trusts it: they would raise the preset, or are ours to decide.
_NEVER: Final = frozenset(
    {
        "autoMode", "skipDangerousModePermissionPrompt", "skipAutoPermissionPrompt",
        "enableAllProjectMcpServers", "enabledMcpjsonServers", "disabledMcpjsonServers",
    }
)  # fmt: skip
#: Of `permissions`, never let in. (A key that is not known is one that needs trust.)
_NEVER_RULES: Final = frozenset(
    {
        "allow", "defaultMode", "additionalDirectories", "blockReadsExemptPaths",
        "skipDangerousModePermissionPrompt",
    }
)  # fmt: skip
#: Of `sandbox`, never let in: it permits commands without a question.
_NEVER_SANDBOX: Final = frozenset({"autoAllowBashIfSandboxed", "excludedCommands"})


def _digest(value: object) -> str:
    raw = value if isinstance(value, bytes) else msgspec.json.encode(value, order="deterministic")
    return hashlib.sha256(raw).hexdigest()


def _text(value: object) -> str:
    """A value as a person reads it: the command that it is, or its JSON."""
    if isinstance(value, str):
        return value
    if isinstance(value, dict) and isinstance(value.get("command"), str):
        words = [value["command"], *(str(arg) for arg in _list(value.get("args")))]
        more = {key: one for key, one in value.items() if key not in ("type", "command", "args")}
        return " ".join([*words, *([msgspec.json.encode(more).decode()] if more else [])])
    return msgspec.json.encode(value).decode()


def decode_object(data: bytes) -> dict[str, object] | None:
    """A JSON object, or None if it is none that we can read."""
    try:
        return msgspec.json.decode(data.removeprefix(b"\xef\xbb\xbf"), type=dict[str, object])
    except UNREADABLE:
        return None


def _mapping(value: object) -> dict[str, object]:
    return value if isinstance(value, dict) else {}


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else []


def _settings_items(path: str, settings: Json) -> Iterator[Item]:
    for key, value in settings.items():
        if key in _PLAIN or key in _NEVER:
            continue
        if key == "hooks" and isinstance(value, dict):
            yield from _hook_items(path, value)
        elif key == "env" and isinstance(value, dict):
            for name, text in value.items():
                yield Item("environment", path, name, f"{name}={_text(text)}", _digest(text))
        elif key in ("permissions", "sandbox") and isinstance(value, dict):
            never = {*_NEVER_RULES, *_PLAIN_RULES} if key == "permissions" else _NEVER_SANDBOX
            for name, inner in value.items():
                if name not in never:
                    yield Item("setting", path, f"{key}.{name}", _text(inner), _digest(inner))
        else:
            kind: ItemKind = "helper" if key in HELPERS else "plugin" if key in _PLUGINS else "setting"
            yield Item(kind, path, key, _text(value), _digest(value))


def _hook_items(path: str, hooks: Json) -> Iterator[Item]:
    for event, groups in hooks.items():
        for group in _list(groups) or [groups]:
            matcher = str(_mapping(group).get("matcher") or "")
            name = f"{event}[{matcher}]" if matcher else event
            for hook in _list(_mapping(group).get("hooks")) or [group]:
                digest = _digest([matcher, hook])
                # The same hook may stand there twice; two of one event must not be taken for one.
                yield Item("hook", path, f"{name} {digest[:8]}", _text(hook), digest)


def plain_settings(settings: Json, folder: str) -> dict[str, object]:
    """What of the settings of an untrusted folder is in force."""
    kept = {key: value for key, value in settings.items() if key in _PLAIN}
    rules = _mapping(settings.get("permissions"))
    narrowing = {key: _rules(rules[key], folder) for key in _PLAIN_RULES if key in rules}
    return {**kept, "permissions": narrowing} if narrowing else kept


def _trusted_settings(settings: Json, folder: str, work_dir: str) -> dict[str, object]:
    """What of the settings of a trusted folder is in force."""
    kept = {key: value for key, value in settings.items() if key not in _NEVER}
    rules = _mapping(kept.pop("permissions", None))
    rules = {
        key: _rules(value, folder) if key in _PLAIN_RULES else value
        for key, value in rules.items()
        if key not in _NEVER_RULES
    }
    sandbox = {
        key: value for key, value in _mapping(kept.pop("sandbox", None)).items() if key not in _NEVER_SANDBOX
    }
    kept |= {key: value for key, value in (("permissions", rules), ("sandbox", sandbox)) if value}
    for key in HELPERS & kept.keys():
        kept[key] = _helper_at(kept[key], work_dir)
    if isinstance(hooks := kept.get("hooks"), dict):
        kept["hooks"] = {
            event: [_group_at(group, work_dir) for group in _list(groups)] for event, groups in hooks.items()
        }
    return kept


#: A rule about files whose path begins with one slash is about the folder of its settings file.
_ANCHORED: Final = re.compile(
    r"^(Read|Edit|Write|MultiEdit|NotebookEdit|NotebookRead|Glob|Grep|LSP)\((!?)/(?!/)"
)


def _rules(rules: object, folder: str) -> object:
    if not isinstance(rules, list):
        return rules
    return [
        _ANCHORED.sub(lambda found: f"{found[1]}({found[2]}/{folder}/", rule)
        if isinstance(rule, str)
        else rule
        for rule in rules
    ]


def anchored(settings: Json, folder: str) -> dict[str, object]:
    """Settings whose rules about files go on to mean that folder when they are put elsewhere."""
    permissions = settings.get("permissions")
    if not isinstance(permissions, dict):
        return dict(settings)
    return {**settings, "permissions": {key: _rules(rules, folder) for key, rules in permissions.items()}}


# --- commands, at home ----------------------------------------------------------------------------

#: claude runs what the folder that we make names in that folder; it is to run where the project is.
_AT_HOME: Final = 'export CLAUDE_PROJECT_DIR="$1"; cd "$1" || exit 1; shift; exec "$@"'
_PROJECT_DIR: Final = "${CLAUDE_PROJECT_DIR}"


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


def _shell_at(command: str, folder: str) -> str:
    home = _quoted(folder)
    return f"export CLAUDE_PROJECT_DIR={home}; cd {home} || exit 1; {command.replace(_PROJECT_DIR, folder)}"


def argv_at(entry: Json, folder: str) -> dict[str, object]:
    """An entry with `command` and `args`, started in the project's folder."""
    argv = [entry["command"], *_list(entry.get("args"))]
    said = [arg.replace(_PROJECT_DIR, folder) if isinstance(arg, str) else arg for arg in argv]
    return {**entry, "command": "/bin/sh", "args": ["-c", _AT_HOME, "sh", folder, *said]}


def _helper_at(value: object, folder: str) -> object:
    if isinstance(value, str):
        return _shell_at(value, folder)
    if isinstance(value, dict) and isinstance(value.get("command"), str):
        return {**value, "command": _shell_at(value["command"], folder)}
    return value


def _group_at(group: object, folder: str) -> object:
    if not isinstance(group, dict) or not isinstance(hooks := group.get("hooks"), list):
        return group
    return {**group, "hooks": [_hook_at(hook, folder) for hook in hooks]}


def _hook_at(hook: object, folder: str) -> object:
    if not isinstance(hook, dict) or not isinstance(hook.get("command"), str):
        return hook
    if isinstance(hook.get("args"), list):
        return argv_at(hook, folder)
    return {**hook, "command": _shell_at(hook["command"], folder)}


# --- MCP servers ----------------------------------------------------------------------------------


def servers_at(said: Json, folder: str) -> dict[str, object]:
    """What `--mcp-config` gives, with the servers that are programs started in the session's folder."""
    servers = said.get("mcpServers")
    if not isinstance(servers, dict):
        return dict(said)
    at_home = {
        name: argv_at(entry, folder)
        if isinstance(entry, dict) and isinstance(entry.get("command"), str)
        else entry
        for name, entry in servers.items()
    }
    return {**said, "mcpServers": at_home}


def _servers(data: bytes) -> dict[str, object] | None:
    said = decode_object(data)
    return None if said is None else _mapping(said.get("mcpServers"))


# --- skills, commands, agents ---------------------------------------------------------------------

#: Frontmatter that says something about the text and gives it no power.
_PLAIN_KEYS: Final = frozenset(
    {
        "name", "description", "when_to_use", "argument-hint", "arguments", "disable-model-invocation",
        "user-invocable", "version", "license", "author", "keywords", "compatibility", "metadata", "homepage",
        "repository", "model", "effort", "color", "paths", "context", "agent", "keep-coding-instructions",
        "hide-from-slash-command-tool", "disallowed-tools", "disallowedTools",
    }
)  # fmt: skip
#: An agent's tools come out of the session's own list, which is a hard one; a skill's do not.
_PLAIN_AGENT_KEYS: Final = _PLAIN_KEYS | {"tools", "maxTurns", "omitClaudeMd", "skills"}

_OPENING: Final = re.compile(r"---[ \t]*\r?\n")
_CLOSING: Final = re.compile(r"\n---[ \t]*(?:\r?\n|\Z)")
_CONTINUED: Final = re.compile(r"[ \t]|-(?:[ \t]|\Z)|\Z")
_KEY: Final = re.compile(r"^([A-Za-z_][A-Za-z0-9_-]*):(?:[ \t].*)?$")
#: Commands that run when the text is read. claude wants a blank before the first; we are not that exact.
_INLINE: Final = re.compile(r"!`([^`\n]*)`?|(?:```|~~~)[ \t]*!\s*([^`]*)")
#: Files whose content comes along when the text is read.
_MENTION: Final = re.compile(r"(?:^|\s)@(?:\"([^\"\n]+)\"|([^\s\"]+))")


def split_frontmatter(text: str) -> tuple[dict[str, str], str] | None:
    """The frontmatter by key, each with its lines as they stand, and the body; None if it cannot be read.

    No YAML parser: one that reads a file in another way than claude's would be worse than none. Only keys at
    the start of a line are taken, and what is neither such a line nor belongs to one is not read at all.
    """
    text = text.removeprefix("\ufeff")
    opened = _OPENING.match(text)
    if opened is None:
        return {}, text
    closed = _CLOSING.search(text, opened.end() - 1)
    if closed is None:
        return None
    keys: dict[str, str] = {}
    last = ""
    # `splitlines` also splits where YAML might and claude might not: then a key too many is seen.
    for line in text[opened.end() : closed.start() + 1].splitlines():
        if last and _CONTINUED.match(line):
            keys[last] += f"\n{line}"
        elif (key := _KEY.match(line)) is not None and key[1] not in keys:
            last = key[1]
            keys[last] = line
        elif line.strip() and not line.startswith("#"):
            return None
    return keys, text[closed.end() :]


def mentions(text: str) -> frozenset[str]:
    """The files that an `@` in a text names, whether they are there or not."""
    return frozenset((found[1] or found[2]) for found in _MENTION.finditer(text))


#: Keys that would raise what the preset allows, as claude may spell them.
_RAISES: Final = frozenset({"allowedtools", "permissionmode"})


def _bare(key: str) -> str:
    return key.replace("-", "").replace("_", "").lower()


def _powers(source: Source, keys: Mapping[str, str], body: str) -> list[str]:
    """What a text with frontmatter could do besides being read; none: it is plain."""
    plain = _PLAIN_AGENT_KEYS if source.kind == "agent" else _PLAIN_KEYS
    powers = [" ".join(lines.split()) for key, lines in keys.items() if key not in plain]
    text = "\n".join([*keys.values(), body])
    powers += [f"runs: {(found[1] or found[2] or '').strip()}" for found in _INLINE.finditer(text)]
    if source.kind != "style":
        powers += [f"reads: {name}" for name in source.mentions]
    return powers


# --- items ----------------------------------------------------------------------------------------


def items_of(sources: Iterable[Source]) -> tuple[Item, ...]:
    """Everything that needs trust, in the order of the files."""
    found: dict[tuple[str, str, str], Item] = {}
    for source in sources:
        for item in _items(source):
            found.setdefault(item.key, item)
    return tuple(found.values())


def _items(source: Source) -> Iterator[Item]:
    data, path = source.data, source.path
    if data is None:
        yield Item("unreadable", path, what=source.why)
    elif source.kind == "settings":
        settings = decode_object(data)
        if settings is None:
            yield Item("unreadable", path, what="no JSON object")
        else:
            yield from _settings_items(path, settings)
    elif source.kind == "servers":
        servers = _servers(data)
        if servers is None:
            yield Item("unreadable", path, what="no JSON object")
        else:
            for name, entry in servers.items():
                yield Item("server", path, name, _text(entry), _digest(entry))
    elif source.kind == "workflow":
        yield Item("workflow", path, source.name, "", _digest(data))
    else:
        text = _decode(data)
        parts = None if text is None else split_frontmatter(text)
        if parts is None:
            why = "not UTF-8" if text is None else "a frontmatter that cannot be read line by line"
            yield Item("unreadable", path, source.name, why)
        elif powers := _powers(source, *parts):
            kind: ItemKind = "command" if source.kind == "style" else source.kind
            yield Item(kind, path, source.name, "; ".join(powers), _digest(data))


def _decode(data: bytes) -> str | None:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return None


def raising_rules(sources: Iterable[Source]) -> tuple[str, ...]:
    """The permission rules that would raise the preset, and are never in force: to be named with --allow."""
    found: list[str] = []
    for source in sources:
        if source.kind == "settings" and source.data is not None:
            permissions = _mapping((decode_object(source.data) or {}).get("permissions"))
            found += [rule for rule in _list(permissions.get("allow")) if isinstance(rule, str)]
    return tuple(dict.fromkeys(found))


def commands_of(sources: Iterable[Source]) -> tuple[str, ...]:
    """Every command line that the configuration could start, for finding the programs that they name."""
    lines = [item.what for item in items_of(sources) if item.kind in ("hook", "helper", "server")]
    for source in sources:
        if source.kind in ("skill", "command", "agent") and source.data is not None:
            text = (_decode(source.data) or "").replace("${CLAUDE_SKILL_DIR}", source.folder)
            lines += [found[1] or found[2] or "" for found in _INLINE.finditer(text)]
            parts = split_frontmatter(text)
            lines += [] if parts is None else [lines_ for key, lines_ in parts[0].items() if key == "hooks"]
    return tuple(lines)


# --- what claude gets to see ----------------------------------------------------------------------

#: Where the settings are.
SETTINGS: Final = ".claude/settings.json"
_PLACES: Final[Mapping[SourceKind, str]] = {
    "skill": ".claude/skills/{}/SKILL.md",
    "command": ".claude/commands/{}",
    "agent": ".claude/agents/{}",
    "style": ".claude/output-styles/{}",
    "workflow": ".claude/workflows/{}",
}


def render(
    sources: Sequence[Source],
    *,
    folder: str,
    trusted: bool,
    every_tool: bool = False,
    foreign: Sequence[str] = (),
) -> dict[str, bytes]:
    """The files of the folder that claude reads instead, by their path in it.

    Args:
        sources: what was read, the nearest to the work dir first.
        folder: the work dir, absolute.
        trusted: whether what needs trust has it.
        every_tool: whether the session's preset permits every tool.
        foreign: names of MCP servers that claude would find above the folder that we make.
    """
    files: dict[str, bytes] = {}
    settings: dict[str, object] = {}
    servers: dict[str, object] = {}
    off: set[str] = set()
    # A file nearer to the work dir has the last word.
    for source in reversed(sources):
        if source.data is None:
            continue
        if source.kind == "settings":
            said = decode_object(source.data) or {}
            off |= {name for name in _list(said.get("disabledMcpjsonServers")) if isinstance(name, str)}
            settings = _merged(
                settings,
                _trusted_settings(said, source.folder, folder)
                if trusted
                else plain_settings(said, source.folder),
            )
        elif source.kind == "servers":
            servers |= _servers(source.data) or {} if trusted else {}
        elif (content := _content(source, trusted=trusted, every_tool=every_tool)) is not None:
            files[_PLACES[source.kind].format(source.name)] = content
    servers = {name: entry for name, entry in servers.items() if name not in off}
    off |= set(foreign) - servers.keys()
    if off:
        settings["disabledMcpjsonServers"] = sorted(off)
    if servers:
        entries = {
            name: argv_at(entry, folder) if isinstance(entry, dict) and "command" in entry else entry
            for name, entry in servers.items()
        }
        files[".mcp.json"] = msgspec.json.encode({"mcpServers": entries})
    if settings:
        files[SETTINGS] = msgspec.json.encode(settings)
    return files


def _merged(below: Json, above: Json) -> dict[str, object]:
    """As claude merges settings: objects by key, lists one after the other, else the upper one."""
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        if isinstance(old, dict) and isinstance(value, dict):
            merged[key] = _merged(old, value)
        elif isinstance(old, list) and isinstance(value, list):
            merged[key] = [*old, *value]
        else:
            merged[key] = value
    return merged


def _content(source: Source, *, trusted: bool, every_tool: bool) -> bytes | None:
    """A text with frontmatter as claude is to see it, or None: not at all."""
    if source.kind == "workflow":
        return source.data if trusted else None
    text = _decode(source.data or b"")
    parts = None if text is None else split_frontmatter(text)
    if text is None or parts is None or (not trusted and _powers(source, *parts)):
        return None
    keys, body = parts
    raises = _RAISES if not every_tool else _RAISES - {"allowedtools"}
    head = [lines for key, lines in keys.items() if _bare(key) not in raises]
    if source.kind == "skill":
        body = body.replace("${CLAUDE_SKILL_DIR}", source.folder)
        if source.beside:
            body = f"\nThe files of this skill are in {source.folder}, which is its base directory.\n{body}"
    return "\n".join(["---", *head, "---", body]).encode()
