"""What the groups have in common: sessions in fresh folders, hostile programs in them, and a kill."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from pathlib import Path

import msgspec
import trio

from cms.errors import CmsError
from cms.fleet.supervisor import Supervisor
from cms.selftest.drill.trials import Finding, Trials
from cms.session.model import Outcome, Receipt, SessionOptions, SessionStatus
from cms.testing import hostile
from cms.testing.script import ScriptedReply, prompt, say

#: Seconds in which a process that runs would surely have written the time.
_SILENCE = 0.05
#: A tool call that never ends by itself.
TOIL = "until test -e never; do sleep 1; done"


class Group:
    """Cases on one supervisor.

    Attributes:
        prefix: of the names of their sessions.
    """

    prefix = "case"

    def __init__(self, trials: Trials, supervisor: Supervisor, folder: Path) -> None:
        self.trials = trials
        self.supervisor = supervisor
        self.folder = folder
        self.guarantees = supervisor.mechanism.guarantees
        self._count = 0

    def options(self, **changes: object) -> SessionOptions:
        """A session in a fresh work dir."""
        self._count += 1
        work_dir = make_work_dir(self.folder / f"work-{self._count}")
        options = SessionOptions(name=f"{self.prefix}-{self._count}", work_dir=str(work_dir), preset="full")
        return msgspec.structs.replace(options, **changes)

    async def spawn(self, options: SessionOptions, *tools: ScriptedReply) -> None:
        """Start a session and have it make these tool calls."""
        await self.supervisor.create(options)
        sent = await self.supervisor.submit(options.name, prompt("go", *tools, say("done")), type="spawn")
        done = await self.supervisor.finished(sent)
        if done.outcome is not Outcome.COMPLETED:
            raise CmsError(done.error or f"the tools did not run: {done.outcome}")

    async def kill(self, options: SessionOptions, *beats: Path) -> Finding:
        """Kill it, and see that it is dead."""
        record, receipt = await self.supervisor.kill(options.name)
        if receipt is None or not receipt.empty:
            left = "" if receipt is None else ", ".join(receipt.left)
            await self.supervisor.kill(options.name)  # the drill is to leave nothing behind, even so
            return Finding(f"not proved dead: {left}")
        if not await silent(*beats):
            return Finding("the kill claimed a proof, and something still ran: please report this")
        if record.status is not SessionStatus.KILLED:
            return Finding(f"its status is {record.status}")
        return Finding(milliseconds=_strike(receipt))


def make_work_dir(folder: Path) -> Path:
    """A repository, as far as the protected paths are concerned."""
    (folder / ".git" / "hooks").mkdir(parents=True)
    git = shutil.which("git")
    if git is not None:
        subprocess.run([git, "init", "-q", str(folder)], check=True, stdin=subprocess.DEVNULL)
    return folder


def start_command(
    case: str, beat: Path, argument: str = "", *, said: Path | None = None, pattern: str = "^r"
) -> str:
    """A shell command that starts a hostile program, and is over when that stands.

    Of what the program says only the first line is read, unless a place for all of it is named: whoever
    writes more has to wait, for ever.
    """
    program = shlex.join(hostile.command(case, beat, argument))
    place = shlex.quote(str(said or beat.with_suffix(".said")))
    reader = f"> {place}" if said else f"| (head -n 1 > {place}; exec sleep 600)"
    start = f"({program} 2>&1 {reader}) > /dev/null 2>&1 &"
    return f"{start} until grep -q {pattern} {place} 2>/dev/null; do sleep 0.01; done"


async def silent(*beats: Path) -> bool:
    """True if nobody runs any more who would write the time."""
    before = [hostile.last_beat(beat) for beat in beats]
    await trio.sleep(_SILENCE)
    return before == [hostile.last_beat(beat) for beat in beats]


def _strike(receipt: Receipt) -> float:
    return next((step.seconds for step in reversed(receipt.steps) if step.name == "kill"), 0.0) * 1000
