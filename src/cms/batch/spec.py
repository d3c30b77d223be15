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

import json
import re
import tomllib
from collections.abc import Iterable, Iterator
from typing import Final, Literal

import msgspec

from cms import units
from cms.batch import template
from cms.batch.entries import TASK_KEYS, TASK_OPTIONS, Entry, Fault, keys_of, read_keys
from cms.batch.header import HEADER, Header
from cms.batch.model import TaskSpec
from cms.options import Layer
from cms.units import BadValue, nearest

Format = Literal["json", "jsonl", "toml"]

_set = msgspec.structs.replace


_DEFAULT_KEYS: Final = keys_of(option for option in TASK_OPTIONS if "file" in option.ways)
_HEADER_KEYS: Final = keys_of(HEADER.values())


def _task(raw: object) -> TaskSpec:
    spec = _set(TaskSpec(), **read_keys(raw, TASK_KEYS, "a task"))
    if not spec.name:
        raise BadValue("it has no name", hint='add "name"')
    if not spec.prompt:
        raise BadValue(f"task {spec.name!r} has no prompt", hint='add "prompt"')
    if spec.name in spec.needs:
        raise BadValue(f"task {spec.name!r} needs itself")
    if len(set(spec.needs)) < len(spec.needs):
        raise BadValue(f"task {spec.name!r} needs the same task twice")
    _check_places(spec)
    return spec


def _check_places(spec: TaskSpec) -> None:
    for place in template.wanted(f"{spec.prompt}\n{spec.context or ''}", spec.needs):
        if place.name not in spec.needs:
            near = nearest(place.name, spec.needs)
            raise BadValue(
                f"the prompt uses {{{{{place}}}}}, but {place.name!r} is not in needs",
                hint=f"did you mean {near!r}?" if near else f"add {place.name!r} to its needs",
            )
        if place.field not in template.FIELDS:
            raise BadValue(
                f"the prompt uses {place.field!r} of {place.name!r}",
                hint=units.meant(place.field, template.FIELDS),
            )
        if place.path and place.field != "output":
            raise BadValue(f"the prompt uses {{{{{place}}}}}", hint="only output has parts")


def _header(raw: dict[str, object]) -> Header:
    raw = dict(raw)
    try:
        defaults = _set(Layer(), **read_keys(raw.pop("defaults", {}), _DEFAULT_KEYS, "defaults"))
    except BadValue as bad:
        raise BadValue(f"defaults: {bad.message}", hint=bad.hint) from None
    return _set(Header(defaults=defaults), **read_keys(raw, _HEADER_KEYS, "the top"))


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


def not_tasks(name: str, start: bytes) -> str:
    """Why a file holds no tasks, if its name or its first line says that it is of a kind that is not read."""
    suffix = name.lower().rpartition(".")[2]
    read = "write tasks as JSON, JSON Lines or TOML"
    if suffix in ("yaml", "yml") or start.startswith((b"---", b"%YAML")):
        return f"it is YAML: {read}"
    if suffix in ("csv", "tsv", "parquet"):
        return f"it is a table: {read}; give the table with --data and the task for each row with --prompt"
    return ""


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
                yield Fault(where, f"not JSON: {_lower(str(error))}", "each line must be one task, an object")
                continue
            try:
                if first and isinstance(raw, dict) and "name" not in raw and "defaults" in raw:
                    self.header = _header(raw)
                else:
                    yield Entry(_task(raw), number)
            except BadValue as bad:
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
        except (json.JSONDecodeError, RecursionError, BadValue) as error:
            line = f"line {error.lineno}" if isinstance(error, json.JSONDecodeError) else "the file"
            message = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
            yield Fault(line, f"not JSON: {_lower(message)}", "a list of tasks: [{...}, {...}]")
            return
        if isinstance(whole, dict):
            try:
                tasks = whole.pop("tasks")
            except KeyError:
                near = nearest("tasks", whole)
                yield Fault("the file", "it has no `tasks`", f"did you mean {near!r}?" if near else "")
                return
            try:
                self.header = _header(whole)
            except BadValue as bad:
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
        except BadValue as bad:
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
            except BadValue as bad:
                where = f"entry {number + 1} (line {line})" if line else f"entry {number + 1}"
                yield Fault(where, bad.message, bad.hint)


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]


def _no_constant(word: str) -> object:
    raise BadValue(f"it holds {word}, which is not a JSON number")


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
