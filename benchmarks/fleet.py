"""The schedule of a batch on a large fleet, with an engine that is only simulated: no process, no clock.

    python -m benchmarks.fleet                            # 1,000,000 tasks on 10,000 nodes of two slots
    python -m benchmarks.fleet --tasks 100000 --nodes 1000

Everything that the head of a batch decides is decided here, by the very functions that it uses
(`batch.schedule`, `throttle`, `allowance`, `retry`, `ends`); nodes take what is submitted, in virtual time,
and die, freeze or meet an overloaded API by chance. Printed: CPU time of the head's decisions for each task,
memory, how much was ever submitted at once, and what was spent past the cap, beside what is promised.
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


class Fleet:
    """Nodes that take what was submitted. Virtual time; a heap of what will happen.

    Attributes:
        true: what the tasks really cost, lost ones included.
    """

    def __init__(self, nodes: int, slots: int, seed: int, deadly: float, overload: float) -> None:
        self.chance = random.Random(seed)
        self.free = nodes * slots
        self.slots = nodes * slots
        self.deadly, self.overload = deadly, overload
        self.queue: deque[int] = deque()
        self.events: list[tuple[float, int, str, float]] = []
        self.true = 0.0
        self.most_submitted = self.submitted = 0

    def submit(self, seq: int, now: float) -> None:
        self.submitted += 1
        self.most_submitted = max(self.most_submitted, self.submitted)
        self.queue.append(seq)
        self.serve(now)

    def serve(self, now: float) -> None:
        while self.queue and self.free:
            seq = self.queue.popleft()
            self.free -= 1
            takes = self.chance.expovariate(1 / 300.0)
            cost = min(CAP, self.chance.expovariate(1 / 0.15))
            if cost >= CAP:
                cost += self.chance.uniform(0, 0.02)  # one call that was at work when the limit was met
            luck = self.chance.random()
            if luck < self.deadly:
                self.true += cost
                heapq.heappush(self.events, (now + takes + HEARTBEAT, seq, "lost", cost))
            elif luck < self.deadly + self.overload:
                heapq.heappush(self.events, (now + 5.0, seq, "overload", 0.0))
            else:
                self.true += cost
                heapq.heappush(self.events, (now + takes, seq, "done", cost))

    def happen(self) -> tuple[float, int, str, float]:
        event = heapq.heappop(self.events)
        self.free += 1
        self.submitted -= 1
        self.serve(event[0])
        return event


def run(tasks: int, fleet: Fleet, cap: float) -> None:
    """One batch to its end."""
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
        f"{tasks} tasks, {fleet.slots} slots: {finish.status.value}, "
        + ", ".join(f"{number} {status.value}" for status, number in sorted(ended.items()))
        + f"\n  head: {1e6 * cpu / max(1, over):.0f} us of CPU a task ({cpu:.0f} s in all), {memory:.0f} MiB"
        f"\n  submitted at once: {fleet.most_submitted} at most, {now / 3600:.1f} h of virtual time"
        f"\n  cap ${cap:.2f}: counted ${spent:.2f}, really spent ${fleet.true:.2f}"
        f"\n  past the cap ${past:.2f}; promised: at most ${overruns:.2f}, a call of each that met its limit",
        flush=True,
    )
    assert fleet.true <= cap + overruns + 1e-6
    assert fleet.most_submitted <= window


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--tasks", type=int, default=1_000_000)
    parser.add_argument("--nodes", type=int, default=10_000)
    parser.add_argument("--slots", type=int, default=2)
    parser.add_argument("--deadly", type=float, default=0.001, help="of the tries, how many lose their node")
    parser.add_argument("--overload", type=float, default=0.00002, help="how many meet an overloaded API")
    parser.add_argument("--cap", type=float, help="of the batch; by default a tenth more than it will count")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    cap = given.cap or given.tasks * 0.16 + given.nodes * given.slots * AHEAD * CAP
    run(given.tasks, Fleet(given.nodes, given.slots, given.seed, given.deadly, given.overload), cap)


if __name__ == "__main__":
    main()
