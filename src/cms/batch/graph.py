"""Who needs whom: cycles, and the longest chain. Tasks are numbers here; names are the store's business.

Arrays instead of dicts of lists, so that a million tasks take some tens of megabytes and not a gigabyte.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence


class Graph:
    """The needs of tasks `0 .. count-1`; an edge `(task, need)` says that `task` needs `need`."""

    def __init__(self, count: int, edges: Iterable[tuple[int, int]]) -> None:
        tasks, needs = array("q"), array("q")
        for task, need in edges:
            tasks.append(task)
            needs.append(need)
        self.count = count
        self.unmet = array("i", bytes(4 * count))  # how many needs each task has
        # Compressed rows: who needs `n` stands in `_who[_from[n]:_from[n + 1]]`.
        self._from = array("q", bytes(8 * (count + 1)))
        for task, need in zip(tasks, needs, strict=True):
            self.unmet[task] += 1
            self._from[need + 1] += 1
        for place in range(count):
            self._from[place + 1] += self._from[place]
        self._who = array("q", bytes(8 * len(tasks)))
        free = array("q", self._from)
        for task, need in zip(tasks, needs, strict=True):
            self._who[free[need]] = task
            free[need] += 1

    def __repr__(self) -> str:
        return f"<Graph of {self.count} tasks, {len(self._who)} needs>"

    def dependants(self, need: int) -> Sequence[int]:
        """Who needs it."""
        return self._who[self._from[need] : self._from[need + 1]]

    def order(self) -> array[int]:
        """The tasks, each after its needs; those on or behind a cycle are missing."""
        left = array("i", self.unmet)
        done = array("q", (task for task in range(self.count) if not left[task]))
        place = 0
        while place < len(done):
            for task in self.dependants(done[place]):
                left[task] -= 1
                if not left[task]:
                    done.append(task)
            place += 1
        return done

    def cycle(self) -> tuple[int, ...]:
        """Tasks each of which needs the next, and the last the first; () if there is no such ring."""
        left = array("i", self.unmet)
        settled = self.order()
        if len(settled) == self.count:
            return ()
        for task in settled:
            left[task] = 0
            for other in self.dependants(task):
                left[other] -= 1
        # All that is left has a need that is left: walking from need to need must come round.
        stuck = [task for task in range(self.count) if left[task] > 0]
        need_of: dict[int, int] = {}
        for need in stuck:
            for task in self.dependants(need):
                if left[task] > 0:
                    need_of.setdefault(task, need)
        seen: dict[int, int] = {}
        walk: list[int] = []
        at = stuck[0]
        while at not in seen:
            seen[at] = len(walk)
            walk.append(at)
            at = need_of[at]
        return tuple(walk[seen[at] :])

    def longest(self, weights: Sequence[float]) -> float:
        """The weight of the heaviest chain: no number of workers is faster. For a graph without cycles."""
        ready = array("d", bytes(8 * self.count))
        most = 0.0
        for task in self.order():
            end = ready[task] + weights[task]
            most = max(most, end)
            for other in self.dependants(task):
                ready[other] = max(ready[other], end)
        return most
