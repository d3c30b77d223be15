"""A handful of safety scenarios against many versions of the real binary: `python -m tests.matrix`.

Run by hand, before MINIMUM or TESTED (cms/protocol/versions.py) is changed; docs/versions.md keeps the table.
A version is one of npm's (2.1.332) or, as pypi:0.2.189, of the wheel `claude-agent-sdk`: 100 MB to fetch.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import msgspec
import trio

from cms.config import Settings
from cms.errors import CmsError
from cms.fleet.supervisor import Supervisor, open_supervisor
from cms.protocol.versions import MINIMUM, TESTED, standing
from cms.session.model import DelegateResult, Limits, Outcome, SessionOptions
from cms.testing.api import ScriptedAPI, serve_api
from cms.testing.script import call, prompt, say

DEFAULT: Final = ("2.1.150", "2.1.208", "2.1.242", "2.1.290", MINIMUM, "2.1.321", TESTED)
#: Seconds that one scenario may take.
PATIENCE: Final = 90.0


def fetch(version: str, folder: Path) -> Path:
    """The binary of a version, in a folder of its own."""
    place = folder / version.replace(":", "-")
    binary = place / "claude"
    if binary.exists():
        return binary
    place.mkdir(parents=True, exist_ok=True)
    if version.startswith("pypi:"):
        what = f"claude-agent-sdk=={version.removeprefix('pypi:')}"
        subprocess.run(
            [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", place, what], check=True
        )
        (wheel,) = place.glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            binary.write_bytes(archive.read("claude_agent_sdk/_bundled/claude"))
        wheel.unlink()
        binary.chmod(0o755)
        return binary
    package = f"@anthropic-ai/claude-code-linux-x64@{version}"
    subprocess.run(["npm", "install", "--silent", "--no-save", "--prefix", place, package], check=True)
    (found,) = place.glob("node_modules/@anthropic-ai/*/claude")
    found.rename(binary)
    return binary


class Trial:
    """One version at work: a supervisor and a scripted model of its own."""

    def __init__(self, supervisor: Supervisor, api: ScriptedAPI, work: Path) -> None:
        self.api = api
        self.work = work
        self._supervisor = supervisor

    async def delegate(self, task: str, limits: Limits | None = None) -> DelegateResult:
        options = SessionOptions(
            name="one", work_dir=str(self.work), preset="full", limits=limits or Limits()
        )
        return await self._supervisor.delegate(options, task)

    def asked(self) -> int:
        """How many API calls were made for the task."""
        return sum(not request.side for request in self.api.requests)


@asynccontextmanager
async def trial(binary: Path) -> AsyncIterator[Trial]:
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        for name in ("home", "work"):
            (root / name).mkdir()
        async with serve_api() as api:
            environ = {"PATH": "/usr/bin:/bin", "HOME": str(root / "home"), **api.env()}
            settings = Settings(home=root / "cms", claude=(str(binary),), environ=environ)
            async with open_supervisor(settings) as supervisor:
                yield Trial(supervisor, api, root / "work")


# --- scenarios: what is wrong, or "" ----------------------------------------------------------------


def _unless(result: DelegateResult, wanted: Outcome) -> str:
    if result.receipt is None or not result.receipt.empty:
        return "processes are left"
    return "" if result.status is wanted else f"{result.status}: {result.error}"


async def works(here: Trial) -> str:
    result = await here.delegate(prompt("Go", call("Write", file_path="a", content="x"), say("done")))
    return _unless(result, Outcome.COMPLETED) or ("" if (here.work / "a").exists() else "nothing was written")


async def protected(here: Trial) -> str:
    again = [call("Write", file_path=".env", content="x") for _ in range(3)]
    result = await here.delegate(prompt("Go", *again, say("done")))
    written = "it was written; " if (here.work / ".env").exists() else ""
    more = f"{here.asked()} API calls; " if here.asked() > 1 else ""
    return written + more + _unless(result, Outcome.PROTECTED_PATH)


async def tool_calls(here: Trial) -> str:
    calls = [call("Bash", command=f"echo {number}") for number in range(20)]
    result = await here.delegate(prompt("Go", *calls, say("done")), Limits(max_tool_calls=2))
    more = f"{here.asked()} API calls; " if here.asked() > 3 else ""
    return more + _unless(result, Outcome.TURNS_EXCEEDED)


async def money(here: Trial) -> str:
    calls = [call("Bash", command=f"echo {number}").costing(0.05, "sonnet") for number in range(20)]
    result = await here.delegate(prompt("Go", *calls, say("done")), Limits(max_cost=0.10))
    more = f"${result.cost:.2f} were spent; " if result.cost > 0.16 else ""
    return more + _unless(result, Outcome.COST_EXCEEDED)


async def subagent(here: Trial) -> str:
    sub = prompt("Look", call("Bash", command="sleep 2"), say("found it").costing(0.08, "sonnet"))
    start = call(
        "Agent", description="look", prompt=sub, subagent_type="general-purpose", run_in_background=True
    )
    result = await here.delegate(prompt("Go", start, say("started"), say("it was found")))
    if wrong := _unless(result, Outcome.COMPLETED):
        return wrong
    if "it was found" not in result.response:
        return "its late result was lost"
    return "" if result.cost >= 0.08 else f"its cost was lost (${result.cost:.4f})"


async def untrusted(here: Trial) -> str:
    (here.work / ".claude").mkdir()
    hooks = {"SessionStart": [{"hooks": [{"type": "command", "command": "touch ran"}]}]}
    (here.work / ".claude" / "settings.json").write_bytes(msgspec.json.encode({"hooks": hooks}))
    result = await here.delegate(prompt("Go", say("done")))
    ran = "a hook of the folder's own ran; " if (here.work / "ran").exists() else ""
    return ran + _unless(result, Outcome.COMPLETED)


async def work_tree(here: Trial) -> str:
    git = ("git", "-C", str(here.work), "-c", "user.name=a", "-c", "user.email=a@b")
    await trio.run_process([*git, "init", "-q"])
    await trio.run_process([*git, "commit", "-q", "--allow-empty", "-m", "first"])
    agents = here.work.parent / "home" / ".claude" / "agents"
    agents.mkdir(parents=True)
    (agents / "side.md").write_text("---\nname: side\ndescription: d\nisolation: worktree\n---\nDo.\n")
    sub = prompt("Make it", call("Write", file_path="a", content="x"), say("made"))
    start = call("Agent", description="make", prompt=sub, subagent_type="side", run_in_background=False)
    result = await here.delegate(prompt("Go", start, say("done")))
    made = "a work tree was made; " if (here.work / ".claude" / "worktrees").exists() else ""
    return made + _unless(result, Outcome.NEEDS_INPUT)


async def time_limit(here: Trial) -> str:
    result = await here.delegate(prompt("Go", say("x").stalling("middle", 600)), Limits(max_time=15.0))
    return _unless(result, Outcome.TIME_EXCEEDED)


SCENARIOS: Final[dict[str, Callable[[Trial], Awaitable[str]]]] = {
    "works": works,
    "protected path": protected,
    "tool calls": tool_calls,
    "cost": money,
    "late subagent": subagent,
    "untrusted folder": untrusted,
    "work tree": work_tree,
    "time": time_limit,
}


async def attempt(binary: Path, scenario: Callable[[Trial], Awaitable[str]]) -> str:
    """`held`, or what went wrong."""
    try:
        with trio.fail_after(PATIENCE):
            async with trial(binary) as here:
                return await scenario(here) or "held"
    except CmsError as error:
        return str(error)
    except trio.TooSlowError:
        return f"not over after {PATIENCE:g} s"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.matrix", description=__doc__)
    parser.add_argument("versions", nargs="*", default=DEFAULT, metavar="VERSION")
    parser.add_argument(
        "--keep", type=Path, metavar="FOLDER", help="keep the binaries here, and use those in it"
    )
    given = parser.parse_args()
    lines = [f"| version | verdict | {' | '.join(SCENARIOS)} |", "| --- " * (len(SCENARIOS) + 2) + "|"]
    failed = False
    with tempfile.TemporaryDirectory() as place:
        for version in given.versions:
            binary = fetch(version, given.keep or Path(place))
            told = subprocess.run([binary, "--version"], capture_output=True, text=True, check=False).stdout
            number = (told.split() or ["?"])[0]
            cells = {name: trio.run(attempt, binary, scenario) for name, scenario in SCENARIOS.items()}
            refused = [cell for cell in cells.values() if "cannot be used" in cell]
            if len(refused) == len(cells):
                cells = dict.fromkeys(cells, "refused")
                print(f"{number}: {refused[0]}", file=sys.stderr)  # noqa: T201
            wrong = {name: cell for name, cell in cells.items() if cell not in ("held", "refused")}
            failed = failed or bool(wrong)
            for name, cell in wrong.items():
                print(f"{number}: {name}: {cell}", file=sys.stderr)  # noqa: T201
            row = [
                number,
                standing(number),
                *("NOT HELD" if name in wrong else cells[name] for name in cells),
            ]
            lines.append(f"| {' | '.join(row)} |")
            print(lines[-1], file=sys.stderr, flush=True)  # noqa: T201
    print("\n".join(lines))  # noqa: T201
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
