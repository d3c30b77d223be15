"""A whole drill: two small worlds, one for the simulated agent and one for the real, and the report."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Literal

import msgspec
import trio

from cms.config import find_claude, load_settings
from cms.daemon.server import child_sockets
from cms.errors import ClaudeNotFound, ExitCode, UsageError
from cms.fleet.supervisor import open_supervisor
from cms.groups import single_error
from cms.json_output import encode
from cms.selftest.drill.crash import crash
from cms.selftest.drill.folder import Folder
from cms.selftest.drill.limits import LimitsGroup
from cms.selftest.drill.machine import MOVED, Machine
from cms.selftest.drill.trials import GROUPS, Case, Plan, Tell, Trials
from cms.session.model import Record
from cms.testing.agent import write_launcher
from cms.testing.api import serve_api


class DrillReport(Record, frozen=True):
    """What a drill found."""

    ok: bool
    containment: str
    level: str
    agent: Literal["claude", "simulated"]
    quick: bool
    cases: tuple[Case, ...]
    seconds: float


def main(plan: Plan, *, json: bool = False) -> int:
    """Run the drill; print each case as it is over, or with `json` one object at the end.

    Raises:
        UsageError: there is no such group.

    Returns:
        0 if everything that this machine promises held; with `strict` also what it does not promise.
    """
    for group in plan.only:
        if group not in GROUPS:
            raise UsageError(f"a drill has no group {group!r}", hint=f"one of {', '.join(GROUPS)}")
    with tempfile.TemporaryDirectory(prefix="cms-drill-", ignore_cleanup_errors=True) as folder:
        tell = _tell_nobody if json else _print
        place = Path(folder).resolve()
        with single_error():
            # Ctrl-C in the middle of a session's task would leave what that was about to take away.
            report = trio.run(run_drill, place, tell, plan, restrict_keyboard_interrupt_to_checkpoints=True)
    if json:
        sys.stdout.write(encode(report).decode())
    return ExitCode.COMPLETED if report.ok else ExitCode.FAILED


def _tell_nobody(_text: str) -> None:
    pass


def _print(text: str) -> None:
    """A line is cut to the terminal's width, unless it says that something is wrong."""
    if sys.stdout.isatty() and not text.startswith("  FAILED"):
        text = text[: shutil.get_terminal_size().columns]
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


async def run_drill(folder: Path, tell: Tell, plan: Plan) -> DrillReport:
    """All cases, in `folder`, which must be empty and is left to the caller.

    Raises:
        CmsError: nothing can be tried: there is no mechanism, or none of the name that was given.
    """
    begun = time.monotonic()
    with single_error():
        async with serve_api() as api:
            drill = _Drill(folder, api.env(), tell, plan)
            await drill.run()
    broken = {"failed", "unpromised"} if plan.strict else {"failed"}
    report = DrillReport(
        ok=not any(case.verdict in broken for case in drill.trials.cases),
        containment=drill.containment,
        level=drill.level,
        agent=drill.agent,
        quick=plan.quick,
        cases=tuple(drill.trials.cases),
        seconds=time.monotonic() - begun,
    )
    tell(_summary(report))
    return report


def _summary(report: DrillReport) -> str:
    counts = dict.fromkeys(("held", "failed", "unpromised", "untested"), 0)
    for case in report.cases:
        counts[case.verdict] += 1
    words = [f"{counts['held']} held", f"{counts['failed']} failed"]
    words += [f"{counts['unpromised']} not held, and not promised here"] if counts["unpromised"] else []
    words += [f"{counts['untested']} not tested"] if counts["untested"] else []
    verdict = f"certified for level {report.level}" if report.ok else "NOT CERTIFIED"
    return f"\n{verdict}: {', '.join(words)}, in {report.seconds:.0f} s"


class _Drill:
    """One run: two small worlds, one for the simulated agent and one for the real."""

    def __init__(self, folder: Path, api: dict[str, str], tell: Tell, plan: Plan) -> None:
        self.trials = Trials(tell, plan)
        self.agent: Literal["claude", "simulated"] = "claude"
        self.containment = self.level = ""
        self._folder = folder
        self._tell = tell
        simulated = (str(write_launcher(folder / "simulated")),)
        environ = _environ(folder / "machine", {"KUBECONFIG": str(folder / "machine" / MOVED)})
        self._simulated = msgspec.structs.replace(load_settings(environ), claude=simulated)
        settings = load_settings(_environ(folder / "claude", api))
        try:
            claude = find_claude(settings)
        except ClaudeNotFound:
            claude, self.agent = simulated, "simulated"
        self._real = msgspec.structs.replace(settings, claude=claude)

    async def run(self) -> None:
        """Group after group."""
        async with open_supervisor(
            self._simulated, child_sockets=child_sockets(self._simulated)
        ) as supervisor:
            mechanism = supervisor.mechanism
            self.containment, self.level = mechanism.name, mechanism.level.value
            found = self.agent == "claude"
            who = " ".join(self._real.claude) if found else "SIMULATED, no `claude` was found"
            self._tell(f"cms drill on {self.containment}, level {self.level}; for the limits: {who}")
            await Machine(self.trials, supervisor, self._folder / "machine").run()
            await Folder(self.trials, supervisor, self._folder / "machine" / "folder").run()
        async with open_supervisor(self._real) as supervisor:
            await LimitsGroup(self.trials, supervisor, self._folder / "claude").run()
        await self.trials.begin("crash: the daemon is killed with SIGKILL")
        agents = {"simulated": (self._simulated, "crash")}
        if self.agent == "claude":
            agents["claude"] = (self._real, "crash-claude")
        for name, (settings, folder) in agents.items():
            await self.trials.attempt(
                f"{name} agent",
                "every process goes, what was answered is there, the session goes on",
                partial(crash, settings, self._folder / folder),
                mechanism.guarantees.dies_with_supervisor,
            )


def _environ(folder: Path, more: dict[str, str]) -> dict[str, str]:
    """A private world: nothing of the user's but where programs are."""
    home = folder / "home"
    home.mkdir(parents=True)
    names = ("PATH", "LANG", "LC_ALL", "CMS_CLAUDE", "CMS_CONTAINMENT")
    kept = {name: os.environ[name] for name in names if name in os.environ}
    python = {"PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)}
    return {
        **kept,
        **python,
        "HOME": str(home),
        "CMS_HOME": str(folder / "cms"),
        "XDG_RUNTIME_DIR": str(folder / "run"),
        "NO_PROXY": "127.0.0.1",
        **more,
    }
