"""Files of tasks: the original's JSON array, JSON Lines, TOML. Read entry by entry, complained of by line.

- JSON: an array of tasks, or an object with `tasks` and, beside it, `defaults` and settings of the batch.
- JSON Lines: a task a line; the first line may be `{"defaults": {...}, ...}`. Read as a stream.
- TOML: `[[tasks]]` tables, `[defaults]`, settings at the top.

The keys are the camelCase forms of the flags of `cms delegate` (`workDir`, `maxCost`); `work_dir` and
`work-dir` are understood too. Times may be `"15m"`, amounts `"$0.50"`, sizes `"2G"`, lists of rules
`"Read,Bash(git *)"`.

A reader yields an `Entry` or a `Fault` for each task and never raises, so that a person sees all mistakes at
once. It does no I/O: it is given bytes. Whether a folder exists is somebody else's question.
"""

from __future__ import annotations

import difflib
import json
import re
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final, Literal, get_args

import msgspec

from cms import units
from cms.batch import template
from cms.batch.model import OVER, TaskSpec, TaskStatus
from cms.session.model import PRESETS, ContainmentLevel, OnViolation, Record

Format = Literal["json", "jsonl", "toml"]

MAX_NAME: Final = 64
#: Characters of a prompt; more is a mistake.
MAX_PROMPT: Final = 16 * 1024 * 1024
_NAME: Final = re.compile(r"[A-Za-z0-9._][A-Za-z0-9._-]*")
_MODELS: Final = ("sonnet", "opus", "haiku")
_MODES: Final = ("acceptEdits", "auto", "bypassPermissions", "default", "dontAsk", "manual", "plan")


class Header(Record, frozen=True, omit_defaults=True):
    """What a file says of the whole batch. What is None it does not say."""

    defaults: TaskSpec = TaskSpec()
    max_parallel: int | None = None
    max_cost: float | None = None
    max_time: float | None = None
    stagger: float | None = None
    keep_alive: bool | None = None
    fresh: bool | None = None
    out: str | None = None
    report: str | None = None
    on_done: str | None = None
    on_fail: str | None = None
    on_park: str | None = None
    webhook: str | None = None


class Entry(msgspec.Struct, frozen=True):
    """One task and where it stands."""

    spec: TaskSpec
    line: int


class Fault(msgspec.Struct, frozen=True):
    """One mistake and where it stands."""

    where: str  # "line 7", "entry 3 (line 12)"
    message: str
    hint: str = ""

    def __str__(self) -> str:
        return f"{self.where}: {self.message}"


class _Bad(Exception):
    """A value that cannot be meant: key, what is wrong, what would do."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


# --- values ---------------------------------------------------------------------------------------


def _nearest(word: str, choices: Iterable[str]) -> str:
    by_fold = {choice.casefold(): choice for choice in choices}
    found = difflib.get_close_matches(word.casefold(), by_fold, n=1, cutoff=0.6)
    return by_fold[found[0]] if found else ""


def _meant(word: str, choices: Iterable[str]) -> str:
    near = _nearest(word, choices)
    return f"did you mean {near!r}?" if near else f"one of {', '.join(choices)}"


def _measure(value: object, parse: Callable[[str], float], example: str) -> float:
    """A number, or a text as the flags take it."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise _Bad(f"{json.dumps(value)[:60]} is neither a number nor a text", f"write {example}")
    try:
        return parse(str(value))
    except ValueError as error:
        raise _Bad(str(error)) from None


def _time(value: object) -> float:
    return _measure(value, units.parse_seconds, '90, "90s", "15m" or "2h"')


def _money(value: object) -> float:
    return _measure(value, units.parse_money, "2 or 0.50")


def _size(value: object) -> int:
    return int(_measure(value, units.parse_size, '"512M" or "2G"'))


def _count(value: object, least: int = 1) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise _Bad(f"{json.dumps(value)} is not a whole number of at least {least}")
    return value


def _tries(value: object) -> int:
    return _count(value, 0)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise _Bad(f"{json.dumps(value)[:60]} is not a text")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise _Bad("is not valid Unicode text") from None
    return value


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise _Bad(f"{json.dumps(value)[:60]} is neither true nor false")
    return value


def split_rules(text: str) -> list[str]:
    """`a,b` as two rules; a comma inside parentheses belongs to its rule (`Bash(git log, *)`)."""
    rules, depth, start = [], 0, 0
    for position, letter in enumerate(text):
        if letter == "(":
            depth += 1
        elif letter == ")":
            depth = max(0, depth - 1)
        elif letter == "," and not depth:
            rules.append(text[start:position].strip())
            start = position + 1
    rules.append(text[start:].strip())
    return [rule for rule in rules if rule]


def _rules(value: object) -> tuple[str, ...]:
    if isinstance(value, str):
        return tuple(split_rules(value))
    return _texts(value)


def _texts(value: object) -> tuple[str, ...]:
    if isinstance(value, str):
        return (_text(value),)
    if not isinstance(value, list):
        raise _Bad(f"{json.dumps(value)[:60]} is not a list of texts")
    return tuple(_text(one) for one in value)


def _name(value: object) -> str:
    name = _text(value)
    if name and len(name) <= MAX_NAME and _NAME.fullmatch(name):
        return name
    better = re.sub(r"[^A-Za-z0-9._-]", "-", name).strip("-")[:MAX_NAME]
    rule = f"a name has 1 to {MAX_NAME} letters, digits, '.', '_' or '-', and does not begin with '-'"
    raise _Bad(
        f"{name[:80]!r} cannot be a session's name", f"{rule}; {better!r} would do" if better else rule
    )


def _prompt(value: object) -> str:
    text = _text(value)
    if not text.strip():
        raise _Bad("is empty", "say what is to be done")
    if len(text) > MAX_PROMPT:
        raise _Bad(f"is {len(text)} characters long: more than {MAX_PROMPT} is a mistake")
    return text


def _model(value: object) -> str:
    model = _text(value)
    if not model.strip() or any(letter.isspace() for letter in model):
        raise _Bad(f"{model!r} is not a model", "sonnet, opus, haiku, or a model's full id")
    if model not in _MODELS and model.isalpha() and _nearest(model, _MODELS):
        raise _Bad(f"there is no model {model!r}", _meant(model, _MODELS))
    return model


def _one_of(choices: Iterable[str]) -> Callable[[object], str]:
    known = tuple(choices)

    def check(value: object) -> str:
        word = _text(value)
        if word not in known:
            raise _Bad(f"cannot be {word!r}", _meant(word, known))
        return word

    return check


def _statuses(value: object) -> tuple[TaskStatus, ...]:
    ends = OVER - {TaskStatus.COMPLETED, TaskStatus.SKIPPED, TaskStatus.CANCELLED}
    known = sorted(status.value for status in ends)
    found = []
    for word in _rules(value):
        if word not in known:
            raise _Bad(f"cannot be {word!r}", _meant(word, known))
        found.append(TaskStatus(word))
    return tuple(found)


def _negated(value: object) -> bool:
    return not _flag(value)


Check = Callable[[object], object]

#: key in the file -> (field of TaskSpec, how its value is read).
_KEYS: Final[dict[str, tuple[str, Check]]] = {
    "name": ("name", _name),
    "prompt": ("prompt", _prompt),
    "context": ("context", _text),
    "needs": ("needs", _texts),
    "retries": ("retries", _tries),
    "retryOn": ("retry_on", _statuses),
    "retryActed": ("retry_acted", _flag),
    "workDir": ("work_dir", _text),
    "model": ("model", _model),
    "preset": ("preset", _one_of(PRESETS)),
    "safety": ("safety", _flag),
    "permissionMode": ("permission_mode", _one_of(("", *_MODES))),
    "allowedTools": ("allowed_tools", _rules),
    "disallowedTools": ("disallowed_tools", _rules),
    "systemPrompt": ("system_prompt", _text),
    "appendSystemPrompt": ("append_system_prompt", _text),
    "agent": ("agent", _text),
    "fallbackModel": ("fallback_model", _model),
    "effort": ("effort", _text),
    "addDirs": ("add_dirs", _texts),
    "mcpConfig": ("mcp_config", _texts),
    "settings": ("settings", _text),
    "protect": ("protect", _texts),
    "protectRead": ("protect_read", _texts),
    "allowWrite": ("allow_write", _texts),
    "envDeny": ("env_deny", _texts),
    "onViolation": ("on_violation", _one_of(get_args(OnViolation))),
    "verify": ("verify", _texts),
    "askTimeout": ("ask_timeout", _time),
    "allowCms": ("allow_cms", _flag),
    "requireContainment": ("require_containment", _one_of(get_args(ContainmentLevel))),
    "maxCost": ("max_cost", _money),
    "maxTurns": ("max_turns", _count),
    "maxTime": ("max_time", _time),
    "maxSilence": ("max_silence", _time),
    "maxToolCalls": ("max_tool_calls", _count),
    "maxRepeats": ("max_repeats", _count),
    "maxRetryTime": ("max_retry_time", _time),
    "maxMemory": ("max_memory", _size),
    "maxProcs": ("max_procs", _count),
}
#: Other words for the same.
_ALIASES: Final[dict[str, tuple[str, Check]]] = {
    "task": ("prompt", _prompt),
    "maxBudget": ("max_cost", _money),
    "allow": ("allowed_tools", _rules),
    "addDir": ("add_dirs", _texts),
    "noSafety": ("safety", _negated),
}
_SETTINGS: Final[dict[str, tuple[str, Check]]] = {
    "maxParallel": ("max_parallel", _count),
    "maxCost": ("max_cost", _money),
    "maxTime": ("max_time", _time),
    "stagger": ("stagger", _time),
    "keepAlive": ("keep_alive", _flag),
    "fresh": ("fresh", _flag),
    "out": ("out", _text),
    "report": ("report", _text),
    "onDone": ("on_done", _text),
    "onFail": ("on_fail", _text),
    "onPark": ("on_park", _text),
    "webhook": ("webhook", _text),
}
#: The keys of a task, for `--help`.
KEYS: Final = tuple(_KEYS)
_TASK_KEYS: Final = _KEYS | _ALIASES


def _camel(key: str) -> str:
    head, *rest = re.split(r"[-_]", key)
    return head + "".join(part[:1].upper() + part[1:] for part in rest)


def _read_keys(raw: object, keys: Mapping[str, tuple[str, Check]], what: str) -> dict[str, object]:
    if not isinstance(raw, dict):
        raise _Bad(f"{what} is an object with keys, not {json.dumps(raw, default=str)[:60]}")
    fields: dict[str, object] = {}
    for key, value in raw.items():
        known = keys.get(key) or keys.get(_camel(str(key)))
        if known is None:
            near = _nearest(_camel(str(key)), keys)
            raise _Bad(
                f"unknown key {key!r}",
                f"did you mean {near!r}?" if near else f"the keys are {', '.join(keys)}",
            )
        if value is None:
            continue  # JSON's way not to say anything
        field, check = known
        if field in fields:
            raise _Bad(f"{key!r} is given twice, under two names")
        try:
            fields[field] = check(value)
        except _Bad as bad:
            raise _Bad(f"{key}: {bad.message}", bad.hint) from None
    return fields


def _task(raw: object) -> TaskSpec:
    spec = TaskSpec(**_read_keys(raw, _TASK_KEYS, "a task"))  # type: ignore[arg-type] # each was read by its key
    if not spec.name:
        raise _Bad("it has no name", 'add "name"')
    if not spec.prompt:
        raise _Bad(f"task {spec.name!r} has no prompt", 'add "prompt"')
    if spec.name in spec.needs:
        raise _Bad(f"task {spec.name!r} needs itself")
    if len(set(spec.needs)) < len(spec.needs):
        raise _Bad(f"task {spec.name!r} needs the same task twice")
    _check_places(spec)
    return spec


def _check_places(spec: TaskSpec) -> None:
    for place in template.wanted(f"{spec.prompt}\n{spec.context or ''}"):
        if place.name not in spec.needs:
            near = _nearest(place.name, spec.needs)
            raise _Bad(
                f"the prompt wants {{{{needs.{place.name}.{place.field}}}}}, "
                f"and {place.name!r} is not in needs",
                f"did you mean {near!r}?" if near else f"add {place.name!r} to needs",
            )
        if place.field not in template.FIELDS:
            raise _Bad(
                f"the prompt wants {place.field!r} of {place.name!r}", _meant(place.field, template.FIELDS)
            )


def _defaults(raw: object) -> TaskSpec:
    keys = {key: known for key, known in _TASK_KEYS.items() if known[0] not in ("name", "prompt", "needs")}
    return TaskSpec(**_read_keys(raw, keys, "defaults"))  # type: ignore[arg-type] # each was read by its key


def _header(raw: dict[str, object]) -> Header:
    raw = dict(raw)
    try:
        defaults = _defaults(raw.pop("defaults", {}))
    except _Bad as bad:
        raise _Bad(f"defaults: {bad.message}", bad.hint) from None
    settings = _read_keys(raw, {**_SETTINGS, "tasks": ("tasks", _text)}, "the top")
    return Header(defaults=defaults, **settings)  # type: ignore[arg-type] # each was read by its key


# --- files ----------------------------------------------------------------------------------------


def sniff(name: str, start: bytes) -> Format:
    """The format of a file, from its name, else from its first bytes."""
    suffix = name.lower().rpartition(".")[2]
    if suffix in ("jsonl", "ndjson"):
        return "jsonl"
    if suffix == "toml":
        return "toml"
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n")
    if text[:1] == b"[" and not re.match(rb"\[\[?\s*[A-Za-z_]", text):
        return "json"
    if suffix == "json":
        return "json"
    if text[:1] == b"{":
        line = text.partition(b"\n")[0].strip()
        try:
            msgspec.json.decode(line)
        except msgspec.DecodeError:
            return "json"  # an object over several lines
        return "jsonl"
    return "toml"


class Reader:
    """One file of tasks. Iterate over it once; `header` is complete when iteration has begun.

    Args:
        lines: the file, line by line; only JSON Lines is not kept whole.
    """

    def __init__(self, kind: Format, lines: Iterable[bytes]) -> None:
        self.kind = kind
        self.header = Header()
        self._lines = lines

    def __iter__(self) -> Iterator[Entry | Fault]:
        if self.kind == "jsonl":
            return self._json_lines()
        return self._json() if self.kind == "json" else self._toml()

    def _json_lines(self) -> Iterator[Entry | Fault]:
        first = True
        for number, line in enumerate(self._lines, 1):
            text = line.removeprefix(b"\xef\xbb\xbf").strip() if number == 1 else line.strip()
            if not text:
                continue
            where = f"line {number}"
            try:
                raw = msgspec.json.decode(text)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
                yield Fault(where, f"not JSON: {_lower(str(error))}", "each line is one task: an object")
                continue
            try:
                if first and isinstance(raw, dict) and "name" not in raw and "defaults" in raw:
                    self.header = _header(raw)
                else:
                    yield Entry(_task(raw), number)
            except _Bad as bad:
                yield Fault(where, bad.message, bad.hint)
            first = False

    def _text(self) -> str | Fault:
        try:
            return b"".join(self._lines).decode("utf-8-sig")
        except UnicodeDecodeError as error:
            return Fault(f"byte {error.start + 1}", "the file is not valid UTF-8 text")

    def _json(self) -> Iterator[Entry | Fault]:
        text = self._text()
        if isinstance(text, Fault):
            yield text
            return
        try:
            whole = json.loads(text, parse_constant=_no_constant)
        except (json.JSONDecodeError, RecursionError, _Bad) as error:
            line = f"line {error.lineno}" if isinstance(error, json.JSONDecodeError) else "the file"
            message = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
            yield Fault(line, f"not JSON: {_lower(message)}", "a list of tasks: [{...}, {...}]")
            return
        if isinstance(whole, dict):
            try:
                tasks = whole.pop("tasks")
            except KeyError:
                near = _nearest("tasks", whole)
                yield Fault("the file", "it has no `tasks`", f"did you mean {near!r}?" if near else "")
                return
            try:
                self.header = _header(whole)
            except _Bad as bad:
                yield Fault("the top", bad.message, bad.hint)
            yield from self._entries(tasks, _json_places(text, inside="tasks"))
        else:
            yield from self._entries(whole, _json_places(text))

    def _toml(self) -> Iterator[Entry | Fault]:
        text = self._text()
        if isinstance(text, Fault):
            yield text
            return
        try:
            whole = tomllib.loads(text)
        except (tomllib.TOMLDecodeError, RecursionError) as error:
            found = re.search(r"\(at line (\d+), column \d+\)", str(error))
            message = re.sub(r" ?\(at [^)]*\)", "", str(error))
            yield Fault(f"line {found[1]}" if found else "the file", f"not TOML: {_lower(message)}")
            return
        tasks = whole.pop("tasks", whole.pop("task", []))
        try:
            self.header = _header(whole)
        except _Bad as bad:
            yield Fault("the top", bad.message, bad.hint)
        heads = [
            number
            for number, line in enumerate(text.splitlines(), 1)
            if re.match(r"\s*\[\[\s*[\"']?tasks?[\"']?\s*\]\]", line)
        ]
        yield from self._entries(tasks, heads)

    def _entries(self, tasks: object, lines: list[int]) -> Iterator[Entry | Fault]:
        if not isinstance(tasks, list):
            yield Fault("the file", "the tasks are not a list", "a list of tasks: [{...}, {...}]")
            return
        for number, raw in enumerate(tasks):
            line = lines[number] if number < len(lines) else 0
            try:
                yield Entry(_task(raw), line or number + 1)
            except _Bad as bad:
                where = f"entry {number + 1} (line {line})" if line else f"entry {number + 1}"
                yield Fault(where, bad.message, bad.hint)


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]


def _no_constant(word: str) -> object:
    raise _Bad(f"it holds {word}, which is no number of JSON's")


def _json_places(text: str, inside: str = "") -> list[int]:
    """The lines on which the elements of the list begin; of valid JSON, whose one list of tasks this is."""
    decoder = json.JSONDecoder()
    blank = re.compile(r"[\s,:]*")

    def skip(at: int) -> int:
        found = blank.match(text, at)
        return found.end() if found else at

    at = skip(0)
    if inside:
        at += 1
        while True:
            at = skip(at)
            if text[at] == "}":
                return []
            key, at = decoder.raw_decode(text, at)
            at = skip(at)
            if key == inside:
                break
            _, at = decoder.raw_decode(text, at)
    if text[at] != "[":
        return []
    lines: list[int] = []
    seen, line = 0, 1
    at = skip(at + 1)
    while text[at] != "]":
        line += text.count("\n", seen, at)
        seen = at
        lines.append(line)
        _, at = decoder.raw_decode(text, at)
        at = skip(at)
    return lines
