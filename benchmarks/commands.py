"""Whole commands, from the shell's point of view: a process from its start to its end."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks import home
from benchmarks.figures import Figure
from benchmarks.house import House, open_house, real_claude
from cms.home import prepare_home
from cms.testing.api import api_process
from cms.testing.script import prompt, say

_CMS = (sys.executable, "-m", "cms")
_HELLO = prompt("hello", say("x"))
Command = tuple[str, ...]


def figures(small: bool) -> list[Figure]:
    """What people type, beside what claude has of the kind."""
    repeats = 5 if small else 15
    many = 3_000 if small else 100_000
    if not real_claude():
        with open_house() as few, open_house() as lots:
            return _measure(few, lots, many, repeats, "")
    with api_process() as api, open_house(api=api) as few, open_house(api=api) as lots:
        return _measure(few, lots, many, repeats, real_claude())


def _measure(few: House, lots: House, many: int, repeats: int, claude: str) -> list[Figure]:
    for house, count in ((few, 60), (lots, many)):
        cms_home = Path(house.env["CMS_HOME"])
        prepare_home(cms_home)
        home.fill(cms_home / "cms.db", count)
    few.cms("spawn", "one", _HELLO)
    lots.cms("list")
    page = ("list", "--limit", "50")
    asks: dict[str, tuple[House, Command]] = {
        "python": (few, (sys.executable, "-c", "import msgspec")),
        "list": (few, (*_CMS, *page)),
        "status": (few, (*_CMS, "status", "one")),
        "list of many": (lots, (*_CMS, *page)),
        "status of many": (lots, (*_CMS, "daemon", "status")),
        "send": (few, (*_CMS, "send", "one", _HELLO)),
    }
    if claude:
        asks["agents"] = (few, (claude, "agents", "--json"))
    took = _in_turns(asks, repeats)
    limit = "the start of Python"
    bare, agents = took["python"], took.get("agents")
    found = []
    for what, goal in (("list", 0.75), ("status", 0.75)):
        found.append(
            Figure(
                f"`cms {what}`, whole process",
                took[what],
                "ms",
                "`claude agents --json`" if agents else "",
                agents,
                goal if agents else None,
                limit,
            )
        )
    found += [
        Figure(
            f"`cms list` of {many:,} sessions",
            took["list of many"],
            "ms",
            "of 60 sessions",
            took["list"],
            1.1,
            limit,
        ),
        Figure(f"`cms daemon status` with {many:,} sessions", took["status of many"], "ms", limit=limit),
        Figure("`cms send`, whole process, to the answer", took["send"], "ms", goal=80, limit=limit),
        Figure("`cms list` beside Python and msgspec alone", took["list"], "ms", "import msgspec", bare),
    ]
    return found


def _in_turns(asks: dict[str, tuple[House, Command]], repeats: int) -> dict[str, float]:
    """Milliseconds of each, the best of so many, one after the other."""
    best = dict.fromkeys(asks, float("inf"))
    for _ in range(repeats):
        for name, (house, argv) in asks.items():
            best[name] = min(best[name], _time(house, argv))
    return best


def _time(house: House, argv: Sequence[str]) -> float:
    began = time.perf_counter()
    done = house.run(*argv)
    took = time.perf_counter() - began
    assert done.returncode == 0, done.stderr
    return took * 1000
