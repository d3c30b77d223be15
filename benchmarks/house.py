"""A home with a daemon of its own, for as long as something is measured in it."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from cms.config import find_claude, load_settings
from cms.errors import CmsError
from cms.rpc.client import NoDaemon, connect
from cms.rpc.daemon import DAEMON_STOP, DaemonStopParams
from cms.testing.agent import write_launcher
from cms.testing.api import environment
from cms.testing.script import prompt, say


def real_claude() -> str:
    """The real binary, or "" where there is none."""
    try:
        return find_claude(load_settings())[0]
    except CmsError:
        return ""


class House:
    """A home with a daemon of its own.

    Args:
        api: where a scripted model answers: then the agents are the real binary, else simulated ones.
    """

    def __init__(self, folder: Path, parallel: int = 8, seconds: float = 1.0, *, api: str = "") -> None:
        self.folder = folder
        self.seconds = seconds
        self.parallel = parallel
        (folder / "work").mkdir()
        self.env = {
            **{key: value for key, value in os.environ.items() if not key.startswith("CMS_")},
            "HOME": str(folder),
            "CMS_HOME": str(folder / "cms"),
            "CMS_CLAUDE": real_claude() if api else str(write_launcher(folder / "claude")),
        }
        if api:
            self.env |= {"ANTHROPIC_API_KEY": "test", **environment(api)}

    def run(self, *argv: str) -> subprocess.CompletedProcess[str]:
        """A program in this home, to its end."""
        return subprocess.run(
            argv,
            cwd=self.folder / "work",
            env=self.env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )

    def cms(self, *words: str) -> Any:
        done = self.run(sys.executable, "-m", "cms", *words, "--json")
        try:
            return json.loads(done.stdout)
        except ValueError:
            raise SystemExit(f"cms {' '.join(words)}: {done.stdout}{done.stderr}") from None

    def daemon(self) -> psutil.Process:
        with connect(load_settings(self.env)) as client:
            return psutil.Process(client.daemon.pid)

    def start(self, tasks: int) -> str:
        path = self.folder / f"tasks-{tasks}.jsonl"
        with path.open("w") as file:
            for number in range(tasks):
                answer = say("done", cost_usd=0.001).after(self.seconds)
                one = {"name": f"t{number}", "prompt": prompt(f"Task {number}", answer)}
                file.write(json.dumps(one) + "\n")
        return str(
            self.cms(
                "batch", "--file", str(path), "--detach", "--max-parallel", str(self.parallel),
                "--stagger", "0.001s", "--out", str(self.folder / "out.jsonl"),
            )["id"]
        )  # fmt: skip

    def database(self) -> sqlite3.Connection:
        return sqlite3.connect(f"file:{self.folder / 'cms' / 'cms.db'}?mode=ro", uri=True)

    def ended(self, batch_id: str) -> int:
        with self.database() as db:
            row = db.execute(
                "SELECT sum(tasks) FROM batch_counts WHERE batch_id = ?"
                " AND status NOT IN ('waiting', 'running')",
                (batch_id,),
            ).fetchone()
        db.close()
        return row[0] or 0

    def stop(self) -> None:
        try:
            with connect(load_settings(self.env), start=False) as client:
                client.call(DAEMON_STOP, DaemonStopParams(grace=10.0))
                client.wait_until_gone(time.monotonic() + 30)
        except NoDaemon:
            pass


@contextmanager
def open_house(parallel: int = 8, seconds: float = 1.0, *, api: str = "") -> Iterator[House]:
    folder = Path(tempfile.mkdtemp(prefix="cms-bench-"))
    house = House(folder, parallel, seconds, api=api)
    try:
        yield house
    finally:
        house.stop()
        shutil.rmtree(folder, ignore_errors=True)


def cpu_of(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)
