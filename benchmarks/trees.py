"""A process tree: how long its container takes to start, and until all of it stands still, proved."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import trio

from benchmarks.figures import Figure
from cms.containment import Mechanism, Spec
from cms.containment._probe import find_mechanism

_SH = "/bin/sh"
_GROW = "i=1; while [ $i -lt {} ]; do sleep 1000 & i=$((i+1)); done; echo ready; exec sleep 1000"


def figures(small: bool) -> list[Figure]:
    """Start, and kill of trees of several sizes."""
    sizes = (1, 10, 100) if small else (1, 10, 100, 1000)
    return trio.run(_measure, sizes, 3 if small else 9)


async def _measure(sizes: tuple[int, ...], repeats: int) -> list[Figure]:
    mechanism = await find_mechanism()
    started = min([await _start(mechanism) for _ in range(repeats + 2)][1:])
    found = [
        Figure(
            f"container start ({mechanism.name})",
            started * 1000,
            "ms",
            goal=15,
            limit="a start of Python, the mounts, and the kernel's wait when a process is moved to a cgroup",
        )
    ]
    for size in sizes:
        ours = theirs = still = float("inf")
        for _ in range(min(repeats, 3 if size > 100 else repeats)):
            ours = min(ours, await _kill(mechanism, size))
            theirs = min(theirs, _kernel(size))
            still = min(still, await _still(mechanism, size))
        bare = theirs < float("inf")
        if bare and still < float("inf"):
            found.append(
                Figure(
                    f"none of a tree of {size:,} runs any more",
                    still * 1000,
                    "ms",
                    "the kernel alone, to end it",
                    theirs * 1000,
                    1.2 if size >= 10 else None,
                    "the kernel's freezer",
                )
            )
        found.append(
            Figure(
                f"kill and proof, tree of {size:,}",
                ours * 1000,
                "ms",
                "the kernel alone" if bare else "",
                theirs * 1000 if bare else None,
                2.0 if size >= 100 else None,
                "the kernel, and the receipt: three files of /proc for each process that was alive",
            )
        )
    return found


def _spec(size: int) -> Spec:
    return Spec(
        argv=(_SH, "-c", _GROW.format(size)),
        env={"PATH": os.environ["PATH"]},
        cwd=Path("/"),
        sockets=True,
    )


async def _start(mechanism: Mechanism) -> float:
    began = time.perf_counter()
    async with await mechanism.start(_spec(1)):
        return time.perf_counter() - began


async def _kill(mechanism: Mechanism, size: int) -> float:
    async with await mechanism.start(_spec(size)) as container:
        await container.stdout.receive_some()
        began = time.perf_counter()
        proof = await container.kill(deadline=30.0)
        took = time.perf_counter() - began
        assert proof.empty, proof
        return took


async def _still(mechanism: Mechanism, size: int) -> float:
    """A tree that is frozen, as every kill begins: until the kernel says that none of it runs."""
    async with await mechanism.start(_spec(size)) as container:
        await container.stdout.receive_some()
        leaf = container._leaf
        if leaf is None:
            return float("inf")
        began = time.perf_counter()
        leaf.freeze(True)
        while not leaf.is_frozen():  # noqa: ASYNC110 - there is no event to wait for
            await trio.sleep(0.0001)
        return time.perf_counter() - began


def _kernel(size: int) -> float:
    """A process namespace whose init is killed: until the kernel has ended what was in it."""
    unshare = shutil.which("unshare")
    if unshare is None:
        return float("inf")
    argv = [unshare, "-Urpf", _SH, "-c", _GROW.format(size)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        if not process.stdout.readline():
            return float("inf")  # none may be made here
        (init,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        began = time.perf_counter()
        os.kill(int(init), signal.SIGKILL)
        process.wait()
        return time.perf_counter() - began
