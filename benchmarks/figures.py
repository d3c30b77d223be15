"""Figures: what was measured, beside what else one would use, as a table and against an earlier run."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path

import msgspec

ROOT = Path(__file__).parent.parent
#: So much more than before counts as slower: what is left below is the machine's own noise.
SLOWER = 1.25


class Figure(msgspec.Struct, omit_defaults=True):
    """One measurement.

    Attributes:
        what: of what; the key by which two runs are compared.
        value, unit: ours. Less is better, but for what is counted by the second (`MB/s`).
        peer: what it is held against, in the same run.
        theirs: what that took.
        goal: the ratio to `theirs`, or the figure itself, that is to be reached; None: none is set.
        limit: what keeps it from being better.
    """

    what: str
    value: float
    unit: str
    peer: str = ""
    theirs: float | None = None
    goal: float | None = None
    limit: str = ""

    @property
    def more_is_better(self) -> bool:
        return self.unit.endswith("/s")

    @property
    def ratio(self) -> float | None:
        """Ours by theirs."""
        return None if not self.theirs else self.value / self.theirs

    @property
    def reached(self) -> bool | None:
        """Whether the goal is."""
        if self.goal is None:
            return None
        measured = self.value if self.ratio is None else self.ratio
        return measured >= self.goal if self.more_is_better else measured <= self.goal


class Run(msgspec.Struct):
    """All figures of one run, and where they are from."""

    machine: str
    commit: str
    load: float
    figures: list[Figure]


def machine() -> str:
    """The machine, as far as its figures depend on it."""
    cpu = "unknown processor"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            cpu = line.partition(":")[2].strip()
            break
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return (
        f"{len(os.sched_getaffinity(0))} cores of {cpu}, {pages / 2**30:.0f} GiB, Linux {platform.release()},"
        f" Python {platform.python_version()}"
    )


def commit() -> str:
    """The commit that is measured, with `+` where the work tree differs from it."""
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty=+"], cwd=ROOT, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return done.stdout.strip()


def shown(value: float) -> str:
    """A figure with three digits that say something."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def table(figures: list[Figure]) -> list[str]:
    """The rows of the table in Markdown."""
    lines = ["| what | cms | beside it | ratio | goal | |", "| --- | ---: | --- | ---: | ---: | --- |"]
    for one in figures:
        beside = "" if one.theirs is None else f"{one.peer}: {shown(one.theirs)}"
        ratio = "" if one.ratio is None else f"{one.ratio:.2f}"
        goal = "" if one.goal is None else ("≥ " if one.more_is_better else "≤ ") + f"{one.goal:g}"
        mark = {None: "", True: "reached", False: "**not reached**"}[one.reached]
        note = "; ".join(part for part in (mark, one.limit) if part)
        lines.append(f"| {one.what} | {shown(one.value)} {one.unit} | {beside} | {ratio} | {goal} | {note} |")
    return lines


def slower(old: Run, new: Run) -> list[str]:
    """What is slower than it was, in words: by the ratio to its peer where there is one, else by itself."""
    before = {one.what: one for one in old.figures}
    found = []
    for one in new.figures:
        was = before.get(one.what)
        if was is None or was.unit != one.unit:
            continue
        pair = (was.value, one.value)
        if was.ratio is not None and one.ratio is not None and was.peer == one.peer:
            pair = (was.ratio, one.ratio)
        then, now = pair[::-1] if one.more_is_better else pair
        if now > SLOWER * then:
            found.append(f"{one.what}: {shown(was.value)} -> {shown(one.value)} {one.unit}")
    return found
