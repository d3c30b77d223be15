"""The schedule of a batch on a large fleet, with an engine that is only simulated: no process, no clock.

    python -m benchmarks.fleet                            # 1,000,000 tasks on 10,000 nodes of two slots
    python -m benchmarks.fleet --tasks 100000 --nodes 1000

Everything that the head of a batch decides is decided here, by the very functions that it uses
(`batch.schedule`, `throttle`, `allowance`, `retry`, `ends`); nodes take what is submitted, in virtual time.
By chance one is killed, and all that it was doing is lost, as is told when the heartbeat's time-out is over;
it comes back, and the window follows the fleet. Or the API is overloaded. Printed: CPU time of the head's
decisions for each task, memory, how much was ever submitted at once, and what was spent past the cap, beside
what is promised.
What is not in it: the store (a transaction of about 0.1 ms for each start and end, several share one) and the
engine itself (`start_activity` and the answer: 2 to 30 ms each, as it is set up, but not of the head's CPU).
"""

from __future__ import annotations

import argparse
import heapq
import random
import resource
import time
from collections import Counter, deque
from math import ceil

import msgspec

from cms.batch import ends, retry, schedule, throttle
from cms.batch.allowance import Allowance, counted
from cms.batch.model import Task, TaskOptions, TaskStatus
from cms.batch.remote import AHEAD
from cms.batch.schedule import (
    Candidate,
    Ended,
    Fetch,
    Finish,
    Paged,
    ParkTold,
    Start,
    Started,
    State,
    TellPark,
)
from cms.session.model import Outcome, SessionOptions

CAP = 0.5  # of a task, US dollars
HEARTBEAT = 60.0


#: Seconds after which a node that was killed is back, and after which the head has noticed either.
REPAIR, NOTICED = 600.0, 30.0


class Node:
    """`life`: how often it has begun anew; what was placed in an earlier life is over."""

    def __init__(self) -> None:
        self.life = 0
        self.up = True
        self.tasks: dict[int, tuple[float, float, float]] = {}  # since when, for how long, at what cost


class Fleet:
    """Nodes that take what was submitted. Virtual time; a heap of what will happen.

    Args:
        mtbf: seconds that a node lives, on average.
        overload: the share of the tries that meet an overloaded API.

    Attributes:
        true: what the tasks really cost, lost ones included.
        killed: nodes, in all.
    """

    def __init__(self, nodes: int, slots: int, seed: int, mtbf: float, overload: float) -> None:
        self.chance = random.Random(seed)
        self.nodes = [Node() for _ in range(nodes)]
        self.each = slots
        self.slots = nodes * slots
        self.mtbf, self.overload = mtbf, overload
        self.free = deque((number, 0) for _ in range(slots) for number in range(nodes))
        self.queue: deque[int] = deque()
        self.events: list[tuple[float, int, str, int, int, float]] = []
        self.true = 0.0
        self.killed = self.most_submitted = self.submitted = 0
        self._next_death(0.0)

    def _next_death(self, now: float) -> None:
        """Of some node of the fleet."""
        when = now + self.chance.expovariate(len(self.nodes) / self.mtbf)
        self._will(when, -1, "dies", self.chance.randrange(len(self.nodes)))

    def _will(self, when: float, seq: int, what: str, node: int, cost: float = 0.0) -> None:
        heapq.heappush(self.events, (when, seq, what, node, self.nodes[node].life, cost))

    def submit(self, seq: int, now: float) -> None:
        self.submitted += 1
        self.most_submitted = max(self.most_submitted, self.submitted)
        self.queue.append(seq)
        self.serve(now)

    def serve(self, now: float) -> None:
        while self.queue and self.free:
            number, life = self.free.popleft()
            node = self.nodes[number]
            if not node.up or node.life != life:
                continue  # that slot died with its node
            seq = self.queue.popleft()
            if self.chance.random() < self.overload:
                node.tasks[seq] = now, 5.0, 0.0
                self._will(now + 5.0, seq, "overload", number)
                continue
            takes = self.chance.expovariate(1 / 300.0)
            cost = min(CAP, self.chance.expovariate(1 / 0.15))
            if cost >= CAP:
                cost += self.chance.uniform(0, 0.02)  # one call that was at work when the limit was met
            node.tasks[seq] = now, takes, cost
            self._will(now + takes, seq, "done", number, cost)

    def happen(self) -> tuple[float, int, str, float]:
        """The next thing that the head hears of: of a task, or (-1) how many slots there are now."""
        while True:
            now, seq, what, number, life, cost = heapq.heappop(self.events)
            node = self.nodes[number]
            if what == "dies":
                self._next_death(now)
                if node.up:
                    self._kill(number, now)
            elif what == "returns":
                node.up = True
                self.free.extend((number, node.life) for _ in range(self.each))
                self._will(now + NOTICED, -1, "slots", number, self.each)
                self.serve(now)
            elif what == "slots":
                self.slots += int(cost)
                return now, -1, what, self.slots
            elif what == "lost":
                self.submitted -= 1
                return now, seq, what, cost
            elif life == node.life:
                del node.tasks[seq]
                self.true += cost
                self.submitted -= 1
                self.free.append((number, life))
                self.serve(now)
                return now, seq, what, cost

    def _kill(self, number: int, now: float) -> None:
        """All that it was doing is lost, and has cost what it had cost by then."""
        node = self.nodes[number]
        self.killed += 1
        for seq, (since, takes, cost) in node.tasks.items():
            self.true += cost * (now - since) / takes
            self._will(now + HEARTBEAT, seq, "lost", number)
        node.tasks.clear()
        node.up, node.life = False, node.life + 1
        self._will(now + NOTICED, -1, "slots", number, -self.each)
        self._will(now + REPAIR, -1, "returns", number)


def run(tasks: int, fleet: Fleet, cap: float) -> Counter[TaskStatus]:
    """One batch to its end; how many of its tasks ended how."""
    options = TaskOptions(SessionOptions("t", "/w"), "do it")
    window = max(1, ceil(AHEAD * fleet.slots))
    state = State(throttle=throttle.initial(window), allowance=Allowance(cap=cap), waiting=tasks)
    waiting: list[tuple[float, int]] = []  # that wait for a time
    next_new, now, spent, overruns = 0, 0.0, 0.0, 0.0
    tries: dict[int, Task] = {}  # those that were tried and are not over
    ended: Counter[TaskStatus] = Counter()
    began = time.process_time()
    engine = 0.0  # CPU time of the simulation itself
    finish: Finish | None = None
    while finish is None:
        for action in schedule.decide(state, now):
            if isinstance(action, Fetch):
                found: list[int] = []
                while waiting and waiting[0][0] <= now and len(found) < action.most:
                    found.append(heapq.heappop(waiting)[1])
                while next_new < tasks and len(found) < action.most:
                    found.append(next_new)
                    next_new += 1
                more = next_new < tasks or bool(waiting and waiting[0][0] <= now)
                due = waiting[0][0] if waiting else None
                page = tuple(Candidate(seq, CAP) for seq in found)
                state = schedule.fold(state, Paged(now, page, more, due, action.fitting is not None))
            elif isinstance(action, Start):
                state = schedule.fold(state, Started(now, action.seq, action.limit))
                mark = time.process_time()
                fleet.submit(action.seq, now)
                engine += time.process_time() - mark
            elif isinstance(action, TellPark):
                state = schedule.fold(state, ParkTold(now, action.until))
            elif isinstance(action, Finish):
                finish = action
            else:
                state = schedule.fold(state, schedule.EndTold(now))
        if finish is not None or any(isinstance(one, Fetch) for one in schedule.decide(state, now)):
            continue
        wake = schedule.wake_at(state, now)
        if not fleet.events or (wake is not None and wake < fleet.events[0][0]):
            if wake is None:
                continue
            now = max(now, wake)
            state = schedule.fold(state, schedule.Woke(now))
            continue
        mark = time.process_time()
        now, seq, what, cost = fleet.happen()
        engine += time.process_time() - mark
        if what == "slots":
            state = schedule.fold(state, schedule.Resized(now, max(1, ceil(AHEAD * cost))))
            continue
        task = tries.pop(seq, None) or Task(seq, "t", 1, TaskStatus.RUNNING, options)
        exact, trouble = True, None
        if what == "lost":
            end = ends.lost(task, "gone", 0.0, 0.0, None, rerun=False)
            fate, exact, cost = end.fate, False, 0.0
        else:
            bad = what == "overload"
            outcome = Outcome.FAILED if bad else Outcome.COST_EXCEEDED if cost >= CAP else Outcome.COMPLETED
            tried = retry.Try(outcome, api_status=529 if bad else None)
            fate = retry.judge(tried, retry.terms_of(task, 12), now, fleet.chance.random())
            trouble = fate.trouble
            overruns += max(0.0, cost - CAP)
        if fate.status is TaskStatus.WAITING:
            tries[seq] = msgspec.structs.replace(task, api_failures=task.api_failures + 1)
            heapq.heappush(waiting, (now + fate.due, seq))
        else:
            ended[fate.status] += 1
        spent += counted(cost, CAP, exact=exact)
        state = schedule.fold(
            state, Ended(now, seq, fate.status, cost, exact, heard=what == "done", trouble=trouble)
        )
    took = time.process_time() - began
    over = sum(ended.values())
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    cpu = took - engine
    past = max(0.0, fleet.true - cap)
    print(
        f"{tasks} tasks, {len(fleet.nodes)} nodes, {fleet.killed} of them killed: {finish.status.value}, "
        + ", ".join(f"{number} {status.value}" for status, number in sorted(ended.items()))
        + f"\n  head: {1e6 * cpu / max(1, over):.0f} us of CPU a task ({cpu:.0f} s in all), {memory:.0f} MiB"
        f"\n  submitted at once: {fleet.most_submitted} at most, {now / 3600:.1f} h of virtual time"
        f"\n  cap ${cap:.2f}: counted ${spent:.2f}, really spent ${fleet.true:.2f}"
        f"\n  past the cap ${past:.2f}; promised: at most ${overruns:.2f}, a call of each that met its limit",
        flush=True,
    )
    assert fleet.true <= cap + overruns + 1e-6
    assert fleet.most_submitted <= window
    return ended


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--tasks", type=int, default=1_000_000)
    parser.add_argument("--nodes", type=int, default=10_000)
    parser.add_argument("--slots", type=int, default=2)
    parser.add_argument("--mtbf", type=float, default=80.0, help="hours that a node lives, on average")
    parser.add_argument("--overload", type=float, default=0.00002, help="how many meet an overloaded API")
    parser.add_argument("--cap", type=float, help="of the batch; by default a tenth more than it will count")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    cap = given.cap or given.tasks * 0.16 + given.nodes * given.slots * AHEAD * CAP
    run(given.tasks, Fleet(given.nodes, given.slots, given.seed, given.mtbf * 3600, given.overload), cap)


if __name__ == "__main__":
    main()
