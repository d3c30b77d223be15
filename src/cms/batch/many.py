"""A set of numbers, each with an amount, of which changed copies are cheap however many it holds.

What is under way in a batch is such a set: on one machine it is small, on a fleet it is tens of thousands,
and the schedule makes a copy for each event. It is kept in parts, and a copy shares all parts but one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

import msgspec

_PARTS: Final = 128
_NONE: Final[tuple[Mapping[int, float], ...]] = ({},) * _PARTS


class Many(msgspec.Struct, frozen=True):
    """Made empty; `put` and `without` give changed copies. `total`: of the amounts."""

    parts: tuple[Mapping[int, float], ...] = _NONE
    count: int = 0
    total: float = 0.0

    def __len__(self) -> int:
        return self.count

    def __contains__(self, number: int) -> bool:
        return number in self.parts[number % _PARTS]

    def __getitem__(self, number: int) -> float:
        return self.parts[number % _PARTS][number]

    def get(self, number: int) -> float:
        """The amount of a number; 0.0 if it is not there."""
        return self.parts[number % _PARTS].get(number, 0.0)

    def __iter__(self) -> Iterator[int]:
        return (number for part in self.parts for number in part)

    def put(self, number: int, amount: float = 0.0) -> Many:
        """With the number and its amount, in the place of an earlier one."""
        rest = self.without(number)
        place = number % _PARTS
        part = {**rest.parts[place], number: amount}
        return Many(_with(rest.parts, place, part), rest.count + 1, rest.total + amount)

    def without(self, number: int) -> Many:
        """Without the number, if it is there."""
        place = number % _PARTS
        part = self.parts[place]
        if number not in part:
            return self
        left = {one: amount for one, amount in part.items() if one != number}
        count = self.count - 1
        # Rounding must not leave anything reserved where nothing is.
        total = self.total - part[number] if count else 0.0
        return Many(_with(self.parts, place, left), count, total)


def _with(
    parts: tuple[Mapping[int, float], ...], place: int, part: Mapping[int, float]
) -> tuple[Mapping[int, float], ...]:
    changed = list(parts)
    changed[place] = part
    return tuple(changed)
