"""One case after the other, within its time, and what came of each."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Final, Literal

import msgspec
import trio

from cms.containment import Guarantee
from cms.errors import CmsError
from cms.session.model import Record

#: Seconds for one case; a hostile program ends by itself after 8.
PATIENCE = 30.0
#: Seconds for all of them: what is left after that is not tested, and that is said.
TOTAL = 300.0
TOTAL_QUICK = 90.0
GROUPS: Final = ("kill", "freeze", "walls", "caps", "folder", "limits", "crash")

Verdict = Literal["held", "failed", "unpromised", "untested"]
Tell = Callable[[str], None]
_WORDS: dict[Verdict, str] = {
    "held": "held",
    "failed": "FAILED",
    "unpromised": "not held",
    "untested": "not tested",
}


class Case(Record, frozen=True):
    """One thing that was tried. `unpromised`: it did not hold, and this machine never said that it would."""

    group: str
    name: str
    what: str
    verdict: Verdict
    detail: str = ""
    milliseconds: float | None = None  # of the kill or the stop that the case is about


class Untested(Exception):
    """This machine, or this agent, cannot even try."""


class Finding(msgspec.Struct, frozen=True):
    """What a case came to: why it did not hold, or "" if it did."""

    wrong: str = ""
    milliseconds: float | None = None


Trial = Callable[[], Awaitable[Finding]]


class Plan(msgspec.Struct, frozen=True):
    """Which drill it is to be.

    Attributes:
        quick: fewer cases, and smaller ones.
        strict: what is not promised counts, too.
        only: groups (`GROUPS`); empty: all.
    """

    quick: bool = False
    strict: bool = False
    only: tuple[str, ...] = ()


class Trials:
    """The cases of one drill."""

    def __init__(self, tell: Tell, plan: Plan) -> None:
        self.cases: list[Case] = []
        self._tell = tell
        self._plan = plan
        self._give_up = time.monotonic() + (TOTAL_QUICK if plan.quick else TOTAL)
        self._group = ""

    @property
    def quick(self) -> bool:
        return self._plan.quick

    async def begin(self, group: str) -> None:
        """What comes now belongs to this group; nothing of it is tried where it was not asked for."""
        self._group = group.partition(":")[0]
        if self._wanted():
            self._tell(f"\n{group}")
        await trio.lowlevel.checkpoint()

    def _wanted(self) -> bool:
        return not self._plan.only or self._group in self._plan.only

    async def attempt(self, name: str, what: str, trial: Trial, guarantee: Guarantee | None = None) -> None:
        """Try one case, and write down what came of it."""
        if not self._wanted():
            return
        verdict: Verdict = "held"
        found = Finding()
        left = self._give_up - time.monotonic()
        try:
            if left <= 0:
                raise Untested("no time was left")
            with trio.fail_after(min(PATIENCE, left)):
                found = await trial()
        except Untested as why:
            verdict, found = "untested", Finding(str(why))
        except trio.TooSlowError:
            found = Finding("it did not end")
        except (CmsError, OSError) as error:
            found = Finding(str(error))
        if found.wrong and verdict == "held":
            verdict = "failed" if guarantee is None or guarantee.strong else "unpromised"
        self.cases.append(Case(self._group, name, what, verdict, found.wrong, found.milliseconds))
        took = "" if found.milliseconds is None else f"{found.milliseconds:.0f} ms"
        self._tell(f"  {_WORDS[verdict]:<10} {took:>8}  {name:<15} {found.wrong or what}")
