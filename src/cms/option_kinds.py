"""How the values of options are written: a parser for each kind, for the command line, JSON and TOML."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Literal, get_args

import msgspec

from cms import units
from cms.session.model import PRESETS, ContainmentLevel, OnViolation, Outcome, Preset, Writes

Texts = tuple[str, ...]


class Kind(msgspec.Struct, frozen=True):
    """How a value is written.

    Attributes:
        parse: from a text of the command line, or a value of JSON or TOML. Raises ValueError or BadValue.
        type: what it becomes.
        metavar: what stands for it in the help.
        many: a flag may be given again and again; `parse` gets the texts of all.
        place: it names folders or files: whoever knows the file system makes them absolute.
    """

    parse: Callable[[object], object]
    type: Any
    metavar: str = "TEXT"
    many: bool = False
    place: Literal["", "folder", "file"] = ""


def _outcomes(value: object) -> tuple[Outcome, ...]:
    return tuple(Outcome(_RETRYABLE(word)) for word in units.check_rules(value))


_RETRYABLE: Final = units.choice(*sorted(one.value for one in Outcome if one is not Outcome.COMPLETED))
SECONDS: Final = Kind(units.check_seconds, float, "TIME")
MONEY: Final = Kind(units.check_money, float, "USD")
SIZE: Final = Kind(units.check_size, int, "SIZE")
COUNT: Final = Kind(units.check_count, int, "N")
TRIES: Final = Kind(units.check_tries, int, "N")
SWITCH: Final = Kind(units.check_switch, bool)
TEXT: Final = Kind(units.check_word, str)
TEXTS: Final = Kind(units.check_words, Texts, "GLOB", many=True)
RULES: Final = Kind(units.check_rules, Texts, "A,B", many=True)
COMMANDS: Final = Kind(units.check_commands, Texts, "CMD", many=True)
NAME: Final = Kind(units.check_name, str, "NAME")
PROMPT: Final = Kind(units.check_prompt, str)
MODEL: Final = Kind(units.check_model, str, "MODEL")
MODE: Final = Kind(units.check_permission_mode, str, "MODE")
OUTCOMES: Final = Kind(_outcomes, tuple[Outcome, ...], "A,B", many=True)
FOLDER: Final = Kind(units.check_word, str, "DIR", place="folder")
FOLDERS: Final = Kind(units.check_words, Texts, "DIR", many=True, place="folder")
FILE: Final = Kind(units.check_word, str, "FILE", place="file")
FILES: Final = Kind(units.check_words, Texts, "FILE", many=True, place="file")
PRESET: Final = Kind(units.choice(*PRESETS), Preset, "PRESET")
LEVEL: Final = Kind(units.choice(*get_args(ContainmentLevel)), ContainmentLevel, "LEVEL")
WRITES: Final = Kind(units.choice(*get_args(Writes)), Writes, "WHERE")
VIOLATION: Final = Kind(units.choice(*get_args(OnViolation)), OnViolation, "WHAT")
