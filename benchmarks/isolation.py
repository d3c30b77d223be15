"""What it costs to start a session in a view of its folder (`--isolate`), beside one in the folder itself."""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import trio

from benchmarks.figures import Figure
from cms.config import Settings
from cms.fleet.supervisor import Supervisor, open_supervisor
from cms.session.model import Isolate, SessionOptions

_FOLDERS = 200  # that the files are in


def figures(small: bool) -> list[Figure]:
    """From the request to a process that takes messages: in a small folder, and in one with many files."""
    sizes, repeats = ((10, 20_000), 3) if small else ((10, 200_000), 8)
    return [trio.run(_measure, files, repeats) for files in sizes]


async def _measure(files: int, repeats: int) -> Figure:
    with tempfile.TemporaryDirectory(prefix="cms-bench-") as root:
        place = Path(root)
        work = _fill(place / "work", files)
        (place / "home").mkdir()
        settings = Settings(
            home=place / "cms",
            claude=(sys.executable, "-m", "cms.testing.agent"),
            environ={"PATH": "/usr/bin:/bin", "HOME": str(place / "home")},
        )
        took: dict[Isolate, list[float]] = {"no": [], "auto": []}
        async with open_supervisor(settings) as supervisor:
            for turn in range(repeats + 1):
                for how in ("no", "auto") if turn % 2 else ("auto", "no"):
                    seconds = await _start(supervisor, work, how, f"{how}-{turn}")
                    if turn:
                        took[how].append(seconds * 1000)
        more = min(took["auto"]) - min(took["no"])
        return Figure(
            f"--isolate: what a start takes longer than one of {min(took['no']):.0f} ms ({files:,} files)",
            more,
            "ms",
            goal=10,
            limit="two writes to the disk, which note the view before anything is written in it",
        )


def _fill(work: Path, files: int) -> Path:
    for number in range(min(files, _FOLDERS)):
        (work / f"d{number}").mkdir(parents=True)
    for number in range(files):
        (work / f"d{number % _FOLDERS if files > _FOLDERS else number}" / f"f{number}").write_bytes(b"x")
    return work


async def _start(supervisor: Supervisor, work: Path, how: Isolate, name: str) -> float:
    options = SessionOptions(name=name, work_dir=str(work), preset="full", isolate=how)
    begun = time.perf_counter()
    await supervisor.create(options)
    await supervisor.resume(name)
    took = time.perf_counter() - begun
    await supervisor.delete(name, force=True)
    return took
