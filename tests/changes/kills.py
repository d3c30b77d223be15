"""Kill applies and reverts at random instants: after `recover` it is before or after, never between.

    python kills.py COUNT SEED    # says what went wrong; nothing is good

A program of its own, because it forks, and has no other threads. An instant is before the n-th call that
Python tells its auditors of (rename, link, unlink, mkdir, chmod, open ...), or any at all, by a clock.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable
from unittest import mock

from changes import edits
from changes.edits import Edit, Snapshot, snapshot
from changes.worlds import NAMES, TEXTS, Task, World, worlds
from cms.changes import apply, find_applied, freeze, read_trees, recover, revert

CALLS = frozenset({"open", "shutil.rmtree"})


def random_edits(chance: random.Random, most: int) -> list[Edit]:
    def path() -> bytes:
        return b"/".join(chance.choices(NAMES, k=chance.randint(1, 3)))

    found: list[Edit] = []
    for _ in range(chance.randint(1, most)):
        word = chance.choice(
            ("write", "write", "write", "mkdir", "append", "remove", "rename", "chmod", "symlink")
        )
        more = {
            "rename": path(),
            "chmod": chance.choice((b"600", b"755", b"444")),
            "symlink": chance.choice((b"a", b"b/c")),
        }
        found.append((word, path(), more.get(word, chance.choice(TEXTS))))
    return found


def run(act: Callable[[], object], instant: int | None, seconds: float | None = None) -> int:
    """Do something in a process that is killed at an instant. Returns how many instants there were."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        count = 0

        def audit(event: str, _args: tuple[object, ...]) -> None:
            nonlocal count
            if event.startswith("os.") or event in CALLS:
                count += 1  # first, for the kill is told, too
                if count - 1 == instant:
                    os.kill(os.getpid(), signal.SIGKILL)

        os.close(reader)
        sys.addaudithook(audit)
        code = 1
        try:
            act()
            code = 0
        except BaseException:
            traceback.print_exc()
        os.write(writer, str(count).encode())
        os._exit(code)
    os.close(writer)
    if seconds is not None:
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
    told = os.read(reader, 100)
    os.close(reader)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.waitstatus_to_exitcode(status) == 0, "it failed by itself"
    return int(told or b"0")


class Trial:
    """One project with one change of it, in two copies: one to learn from, one to kill."""

    def __init__(self, world: World, chance: random.Random) -> None:
        self.world = world
        self.chance = chance
        self.keep = world.keep()
        edits.do(
            os.fsencode(world.project), [("write", b"text", b"1\n2\n3\n4\n5\n"), *random_edits(chance, 15)]
        )
        task: Task = world.begin()
        edits.do(
            os.fsencode(task.place), [("write", b"text", b"1\n2\n3\n4\nfive\n"), *random_edits(chance, 15)]
        )
        freeze(read_trees(world.project, task.place), self.keep, task.start)
        if chance.random() < 0.5:  # the folder has moved on
            edits.do(os.fsencode(world.project), [("write", b"text", b"one\n2\n3\n4\n5\n")])
        self.twin = world.root / "twin"
        self.twin_changes = world.root / "twins"
        shutil.copytree(world.project, self.twin, symlinks=True)
        shutil.copytree(world.changes, self.twin_changes)
        self.before = snapshot(world.project)
        self.instants = run(lambda: apply(self.twin_changes / "one", self.twin), None)
        self.after = snapshot(self.twin)

    def kill(self, act: Callable[[], object]) -> None:
        """Kill it, and perhaps what is to clear up after it, too."""
        begun = time.perf_counter()
        if self.chance.random() < 0.3:
            run(act, None, self.chance.random() * 0.03)
        else:
            run(act, self.chance.randint(0, self.instants))
        while self.chance.random() < 0.3:
            run(lambda: recover(self.world.changes), self.chance.randint(0, self.instants))
        assert time.perf_counter() - begun < 30

    def check(self, *allowed: Snapshot) -> Snapshot:
        """After a crash it is one of these, and nothing else is left."""
        told = recover(self.world.changes)
        assert all(each.done and not each.left for each in told), told
        found = snapshot(self.world.project)
        assert found in allowed, f"between: {sorted(set(found) ^ set(allowed[0]))}"
        assert not (self.keep / "journal.json").exists()
        if self.before != self.after:
            assert (find_applied(self.keep) is not None) == (found == self.after)
        return found


def try_once(seed: int) -> None:
    chance = random.Random(seed)  # noqa: S311 (to be had again by its seed)
    with worlds() as world:
        trial = Trial(world, chance)
        if trial.before == trial.after:
            return
        trial.kill(lambda: apply(trial.keep))
        if trial.check(trial.before, trial.after) == trial.before:
            assert apply(trial.keep).applied
            trial.check(trial.after)
        trial.kill(lambda: revert(trial.keep))
        if trial.check(trial.before, trial.after) == trial.after:
            assert revert(trial.keep).applied
        trial.check(trial.before)


def main() -> int:
    count, seed = int(sys.argv[1]), int(sys.argv[2])
    with mock.patch("os.fsync"):
        for each in range(seed, seed + count):
            try:
                try_once(each)
            except AssertionError as error:
                sys.stderr.write(f"seed {each}: {error}\n")
                return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
