"""The tables in docs/ that are made of the code: `python -m tests.generated` writes them anew.

`tests/cli/test_docs.py` fails where one is not what it would be now.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from cms.config import VARIABLES, Settings
from cms.mcp.tools import TOOLS
from cms.option_kinds import MONEY, SECONDS, SWITCH, Option
from cms.options import OPTIONS

DOCS: Final = Path(__file__).parents[1] / "docs"


def options() -> list[str]:
    """Every option, with its flag, its keys and its default."""
    rows = [
        (
            _flag(option),
            "yes" if "profile" in option.ways else "",
            f"`{option.key}`",
            option.help or _FILES_ALONE[option.field],
            _default(option),
        )
        for option in OPTIONS.values()
    ]
    return _table(("flag", "in `config.toml`", "in files of tasks", "what it says", "default"), rows)


#: Options that no flag sets have no help of their own.
_FILES_ALONE: Final = {
    "retry_on": "The outcomes after which a task is tried again.",
    "retry_acted": "Retry it also where it may have changed something.",
}


def _flag(option: Option) -> str:
    if not option.ways - {"file", "task"}:
        return ""
    value = "" if option.kind is SWITCH else f" {option.metavar or option.kind.metavar}"
    return f"`{option.flags[0]}{value}`"


def _default(option: Option) -> str:
    if option.delegation is None:
        return option.default or ("no limit" if option.group == "limits" else "")
    delegation, task = (_amount(option, value) for value in (option.delegation, option.task))
    tasks = "" if task == delegation else f"; a task of a batch: {task}"
    return f"{delegation}{tasks} (`spawn`: no limit)"


def _amount(option: Option, value: float | None) -> str:
    if value is None:
        return "no limit"
    if option.kind is SECONDS:
        return f"{value / 60:g}m"
    return f"{value:.2f}" if option.kind is MONEY else f"{value:g}"


def settings() -> list[str]:
    """Every setting, with its variable and its default."""
    default = Settings(home=Path())
    rows = []
    for name, variable in VARIABLES.items():
        holder: object = default.child_limits if name in ("max_depth", "max_children") else default
        value: object = getattr(holder, name)
        shown = _SETTINGS_DEFAULTS.get(name) or (f"{value:g}" if isinstance(value, float) else str(value))
        rows.append((f"`{name.replace('_', '-')}`", f"`{variable}`", _SETTINGS[name], shown))
    rows.append(("`trust`", "", "Folders whose own configuration may run, as globs.", "none"))
    return _table(("key in `[settings]`", "variable", "what it says", "default"), rows)


_SETTINGS: Final = {
    "claude": "The `claude` to run.",
    "containment": "Use this mechanism alone (for tests).",
    "grace": "Seconds for each step of stopping a session.",
    "idle_exit": "Seconds after which an idle daemon leaves; `never`.",
    "max_children": "How many sessions each may have alive that it started (`--allow-cms`).",
    "max_depth": "How deep sessions may start sessions.",
    "max_line": "Bytes of one line of claude's output.",
    "max_raw_log": "Bytes of a session's raw log; past them the session goes on, and its log does not.",
    "require_containment": "Start nothing where the machine holds less (A to E).",
    "start_timeout": "Seconds for a new `claude` to answer, your SessionStart hooks' time not counted.",
}
_SETTINGS_DEFAULTS: Final = {
    "claude": "the one on PATH, else the wheel's",
    "require_containment": "any",
}


def tools() -> list[str]:
    """The tools of the MCP server, each with its first sentence."""
    return _table(
        ("tool", "what it is for"),
        [
            (f"`{tool.name}`", re.split(r"(?<=[.:]) ", tool.description)[0].rstrip(":.") + ".")
            for tool in TOOLS
        ],
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    cells = (*(tuple(head),), tuple("---" for _ in head), *rows)
    return [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in cells]


TABLES: Final = {
    ("configuration.md", "options"): options,
    ("configuration.md", "settings"): settings,
    ("mcp.md", "tools"): tools,
}


def written(file: str) -> str:
    """A page as it is when all of its tables are made anew."""
    text = (DOCS / file).read_text()
    for (of, mark), make in TABLES.items():
        if of == file:
            before, begin, rest = text.partition(f"<!-- {mark} -->\n")
            _, end, after = rest.partition(f"<!-- end of {mark} -->")
            text = "".join([before, begin, "\n", *(f"{line}\n" for line in make()), "\n", end, after])
    return text


if __name__ == "__main__":
    for name in dict.fromkeys(file for file, _ in TABLES):
        (DOCS / name).write_text(written(name))
