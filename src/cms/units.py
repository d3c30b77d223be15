"""How people write values, in flags and in files, and read them: durations, sizes, money, names, rules.

`parse_...` take a text and raise ValueError with a message that quotes what was written and says how to write
it. `check_...` take a text or a value of JSON or TOML, and raise `BadValue` as well, with a hint.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, tzinfo
from typing import Final, TypeVar

import msgspec

from cms.errors import UsageError

T = TypeVar("T")

MODELS: Final = ("sonnet", "opus", "haiku")
PERMISSION_MODES: Final = ("acceptEdits", "auto", "bypassPermissions", "default", "dontAsk", "manual", "plan")

MAX_NAME: Final = 64
#: `(?!\n)`: in Python, not in JSON Schema, `$` also matches before a line feed at the end.
NAME_PATTERN: Final = r"^[A-Za-z0-9._][A-Za-z0-9._-]{0,63}(?!\n)$"
#: Characters of a prompt; more is a mistake (a file that was not meant).
MAX_TEXT: Final = 16 * 1024 * 1024
#: Characters of a judge's question.
MAX_QUESTION: Final = 64 * 1024

_TIME_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SIZE_UNITS = {"K": 1024, "M": 1024**2, "G": 1024**3, "T": 1024**4}


def parse_seconds(text: str) -> float:
    """`90`, `90s`, `15m`, `2h`, `1d` as seconds.

    Raises:
        ValueError: it is none of these, or not a positive finite number.
    """
    unit = _TIME_UNITS.get(text[-1:].lower(), 0.0)
    try:
        value = float(text[:-1]) * unit if unit else float(text)
    except ValueError:
        raise ValueError(f"{text!r} is not a duration: write 90, 90s, 15m or 2h") from None
    if not 0 < value < float("inf"):
        raise ValueError(f"{text!r} is not a positive duration")
    return value


def parse_money(text: str) -> float:
    """`2`, `0.50`, `$1.25` as US dollars.

    Raises:
        ValueError: it is no number, or not a positive finite one.
    """
    try:
        value = float(text.removeprefix("$"))
    except ValueError:
        raise ValueError(f"{text!r} is not an amount in US dollars: write 2 or 0.50") from None
    if not 0 < value < float("inf"):
        raise ValueError(f"{text!r} is not a positive amount in US dollars")
    return value


def parse_count(text: str, least: int = 1) -> int:
    """A whole number that is not too small.

    Raises:
        ValueError: it is not.
    """
    try:
        value = int(text)
    except ValueError:
        raise ValueError(f"{text!r} is not a whole number") from None
    if value < least:
        raise ValueError(f"{text!r} is {'not positive' if least else 'negative'}; at least {least}")
    return value


def parse_size(text: str) -> int:
    """`2G`, `512M`, `1048576` as bytes.

    Raises:
        ValueError: it is none of these, or not positive.
    """
    digits = text.upper().removesuffix("B").removesuffix("I")
    unit = _SIZE_UNITS.get(digits[-1:], 0)
    try:
        value = float(digits[:-1]) * unit if unit else float(digits)
    except ValueError:
        raise ValueError(f"{text!r} is not a size: write 512M or 2G") from None
    if not 1 <= value < 2**63:
        raise ValueError(f"{text!r} is not a positive size")
    return int(value)


# --- amounts, as people read them -----------------------------------------------------------------


def plural(number: int, noun: str, nouns: str = "") -> str:
    """`1 file`, `3 files`; `nouns`: where it is no mere s."""
    return f"{number} {noun}" if number == 1 else f"{number} {nouns or noun + 's'}"


def money(usd: float, *, exact: bool = True) -> str:
    """`$0.0421`; `>=$0.0421` where some of it is not known."""
    return f"${usd:.4f}" if exact else f">=${usd:.4f}"


def size(count: int) -> str:
    """Bytes: `512 MiB`, `1.5 GiB`."""
    for unit, name in ((1024**3, "GiB"), (1024**2, "MiB"), (1024, "KiB")):
        if count >= unit:
            return f"{count / unit:.1f}".removesuffix(".0") + f" {name}"
    return f"{count} B"


def time_word(seconds: float) -> str:
    """What `parse_seconds` reads: `2h`, `90m`, `45s`."""
    for unit, size in (("h", 3600), ("m", 60)):
        if seconds >= size and seconds % size == 0:
            return f"{seconds / size:g}{unit}"
    return f"{seconds:g}s"


def in_seconds(seconds: float) -> str:
    """`2.0s`."""
    return f"{seconds:.1f}s"


def brief(seconds: float) -> str:
    """A duration that may be tiny: `65 ms`, `2.0s`."""
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else in_seconds(seconds)


def span(seconds: float) -> str:
    """A duration that may be long: `45.2s`, `12m 05s`, `3h 07m`, `2d 04h`."""
    return in_seconds(seconds) if seconds < 60 else " ".join(_two_units(int(seconds)))


def short_span(seconds: float) -> str:
    """The same in at most five letters up to a hundred days: `45s`, `12m`, `12m05`, `3h20`, `5d02h`."""
    whole = max(0, int(seconds))
    if whole < 60:
        return f"{whole}s"
    most, rest = _two_units(whole)
    if rest.startswith("00"):
        return most
    return most + (rest if whole >= 86400 else rest[:-1])


def _two_units(seconds: int) -> tuple[str, str]:
    for unit, size, below, rest in (("d", 86400, "h", 3600), ("h", 3600, "m", 60)):
        if seconds >= size:
            return f"{seconds // size}{unit}", f"{seconds % size // rest:02}{below}"
    return f"{seconds // 60}m", f"{seconds % 60:02}s"


def ago(then: float, now: float) -> str:
    """`just now`, `5m ago`, `3h ago`, `2d ago`."""
    passed = int(now - then)
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if passed >= size:
            return f"{passed // size}{unit} ago"
    return "just now"


def clock(at: float, zone: tzinfo | None) -> str:
    """`2026-05-04 14:05:00`, as it is in a zone; None: in this machine's."""
    return datetime.fromtimestamp(at, zone).strftime("%Y-%m-%d %H:%M:%S")


# --- texts, and values of JSON and TOML -------------------------------------------------------------


class BadValue(UsageError):
    """A value that cannot be meant."""


def nearest(word: str, choices: Iterable[str]) -> str:
    """The choice that the word is a slip of, or "": a letter in three may be wrong, or its end missing.

    A suggestion that is no near miss is worse than none.
    """
    said = word.casefold().lstrip("-")
    found, best = "", (len(said) / 3, True)
    for choice in choices:
        meant = choice.casefold().lstrip("-")
        distance = float(abs(len(meant) - len(said)))
        if len(said) >= 3 and meant.startswith(said):
            distance = min(distance, 1.0)
        elif distance <= best[0]:
            distance = _slips(said, meant)
        here = (distance, said[:1] != meant[:1])
        if here < best or (here == best and not found):
            found, best = choice, here
    return found


def _slips(one: str, other: str) -> int:
    """How many letters are wrong, missing, too many, or swapped with the next one."""
    before: list[int] = []
    row = list(range(len(other) + 1))
    for i, letter in enumerate(one, 1):
        earlier, before, row = before, row, [i]
        for j, wanted in enumerate(other, 1):
            cost = min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (letter != wanted))
            if i > 1 and j > 1 and letter == other[j - 2] and one[i - 2] == wanted:
                cost = min(cost, earlier[j - 2] + 1)
            row.append(cost)
    return row[-1]


def meant(word: str, choices: Sequence[str]) -> str:
    """A hint: the choice most like the word, or all of them."""
    near = nearest(word, choices)
    return f"did you mean {near!r}?" if near else f"one of {', '.join(choices)}"


def shown(value: object) -> str:
    """A value of JSON or TOML, for an error's line."""
    return msgspec.json.encode(value, enc_hook=str).decode()[:60]


def _measure(value: object, parse: Callable[[str], T], example: str) -> T:
    """A number, or a text that says one with its unit."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise BadValue(f"{shown(value)} is not a number or a text", hint=f"write {example}")
    return parse(str(value))


def check_seconds(value: object) -> float:
    return _measure(value, parse_seconds, '90, "90s", "15m" or "2h"')


def check_money(value: object) -> float:
    return _measure(value, parse_money, "2 or 0.50")


def check_size(value: object) -> int:
    return _measure(value, parse_size, '"512M" or "2G"')


def check_count(value: object, least: int = 1) -> int:
    """A whole number. Raises as all of these."""
    if isinstance(value, str):
        return parse_count(value, least)
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise BadValue(f"{shown(value)} is not a whole number of at least {least}")
    return value


def check_tries(value: object) -> int:
    """How often again: none is a number, too."""
    return check_count(value, 0)


def check_word(value: object) -> str:
    """Any text."""
    if not isinstance(value, str):
        raise BadValue(f"{shown(value)} is not a text")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise BadValue("is not valid Unicode text") from None
    return value


def check_json_text(value: object) -> str:
    """A JSON object as a text, a file's name, or (in JSON or TOML) the object itself."""
    if not isinstance(value, dict):
        return check_word(value)
    try:
        return msgspec.json.encode(value).decode()
    except (msgspec.MsgspecError, TypeError, ValueError, RecursionError) as error:
        raise BadValue(f"is not JSON: {error}") from None


def check_prompt(value: object) -> str:
    """A text that says something, and is no file that was not meant."""
    text = check_word(value)
    if not text.strip():
        raise BadValue("is empty", hint="say what to do")
    if len(text) > MAX_TEXT:
        raise BadValue(f"is {len(text)} characters long; at most {MAX_TEXT} are allowed")
    return text


def check_question(value: object) -> str:
    """What a judge is asked, short enough to stand beside what it is about."""
    text = check_word(value)
    if not text.strip():
        raise BadValue("the judge's question is empty", hint="say what it should decide")
    if len(text) > MAX_QUESTION:
        raise BadValue(
            f"the judge's question is {len(text)} characters long; at most {MAX_QUESTION} are allowed"
        )
    return text


def check_switch(value: object) -> bool:
    if not isinstance(value, bool):
        raise BadValue(f"{shown(value)} is not true or false")
    return value


def check_isolation(value: object) -> str:
    """How a folder is kept as it is; true and false will do, too."""
    if isinstance(value, bool):
        return "auto" if value else "no"
    return choice("no", "auto", "overlay", "worktree", "copy")(value)


def check_words(value: object) -> tuple[str, ...]:
    """One text or several."""
    if isinstance(value, str):
        return (check_word(value),)
    if not isinstance(value, list | tuple):
        raise BadValue(f"{shown(value)} is not a list of texts")
    return tuple(check_word(one) for one in value)


def check_tags(value: object) -> tuple[str, ...]:
    """Words of a person's own: one line each, no comma, and no sign before it that would say something."""
    tags = check_words(value)
    for tag in tags:
        if not 1 <= len(tag) <= MAX_NAME or not tag.isprintable() or "," in tag or tag != tag.strip():
            raise BadValue(f"{shown(tag)} is not a tag", hint=f"1 to {MAX_NAME} characters, without commas")
        if tag[0] in "+-":
            raise BadValue(f"{shown(tag)} is not a tag", hint="a tag must not begin with + or -")
    return tuple(dict.fromkeys(tags))


def check_commands(value: object) -> tuple[str, ...]:
    """Shell commands, each of which does something: an empty one passes, and checks nothing."""
    commands = check_words(value)
    for command in commands:
        lines = (line.strip() for line in command.splitlines())
        if all(not line or line.startswith("#") for line in lines):
            raise BadValue(f"{shown(command)} is not a command: it would pass without checking anything")
    return commands


def check_rules(value: object) -> tuple[str, ...]:
    """Permission rules, or other words, with commas between them or each a text of its own."""
    return tuple(rule for text in check_words(value) for rule in split_rules(text))


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


def check_name(value: object) -> str:
    """A name that a new session may have; else the error names one."""
    name = check_word(value)
    if not name:
        raise BadValue("the name is empty", hint="give the session a name, like fix-auth")
    if re.match(NAME_PATTERN, name):
        return name
    better = re.sub(r"[^A-Za-z0-9._-]", "-", name).strip("-")[:MAX_NAME]
    rule = f"a name has 1 to {MAX_NAME} letters, digits, '.', '_' or '-', and does not begin with '-'"
    shortened = name if len(name) <= 60 else name[:57] + "..."
    raise BadValue(
        f"{shortened!r} is not a valid session name", hint=f"{rule}; try {better!r}" if better else rule
    )


def check_model(value: object) -> str:
    """A model's alias or full id. Of ids only the API knows which exist; a mistyped alias is refused."""
    model = check_word(value)
    if not model.strip() or any(letter.isspace() for letter in model):
        raise BadValue(f"{model!r} is not a model", hint="use sonnet, opus, haiku or a full model id")
    if model not in MODELS and model.isalpha() and nearest(model, MODELS):
        raise BadValue(f"there is no model {model!r}", hint=meant(model, MODELS))
    return model


def check_permission_mode(value: object) -> str:
    """One of claude's permission modes, or ""."""
    mode = check_word(value)
    if mode and mode not in PERMISSION_MODES:
        raise BadValue(f"there is no permission mode {mode!r}", hint=meant(mode, PERMISSION_MODES))
    return mode


def choice(*choices: str) -> Callable[[object], str]:
    """A check for one of these words."""

    def check(value: object) -> str:
        word = check_word(value)
        if word not in choices:
            raise BadValue(f"cannot be {word!r}", hint=meant(word, choices))
        return word

    return check
