"""`cms demo`: the main job, in ten seconds, without an account and without cost.

A scratch repository with a bug and a test that fails; the real Claude Code binary in a container, talking to
the scripted model on loopback instead of to Anthropic; two delegations under limits:

1. fix the bug. On the way the model also tries to plant a git hook, which the gate refuses. The test decides
   whether the work is done.
2. a runaway: each reply costs five cents, and it never stops by itself. The cost limit is ten.

Everything but the model is what runs in earnest. Everything lives in a temporary folder with a private HOME
and is gone at the end. Where no `claude` can be had, the simulated agent plays its part, and that is said.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import msgspec
import trio

from cms.config import Settings, find_claude, load_settings
from cms.errors import ClaudeNotFound, ExitCode
from cms.fleet.supervisor import Supervisor, open_supervisor
from cms.json_output import encode
from cms.session.model import DelegateResult, Limits, Outcome, Record, SessionOptions
from cms.testing.api import serve_api
from cms.testing.script import call, prompt, say
from cms.units import money

_BUGGY = '''def mean(numbers):
    """The arithmetic mean."""
    return sum(numbers) / (len(numbers) - 1)
'''
_FIXED_LINE = "    return sum(numbers) / len(numbers)"
_TEST = """from stats import mean

assert mean([2, 4, 6]) == 4, f"mean([2, 4, 6]) is {mean([2, 4, 6])}, not 4"
print("test passed")
"""

#: A folder's name for pytest-like checks would need pytest; the interpreter that runs us is surely there.
_CHECK = f"{sys.executable} test_stats.py"
_MODEL = "sonnet"


class DemoReport(Record, frozen=True):
    """What the demo did, for `--json`."""

    ok: bool
    model: str  # always "scripted": nobody must take this for a real model's work
    agent: str  # "claude" or "simulated"
    containment: str
    diff: str
    hook_planted: bool
    fix: DelegateResult
    runaway: DelegateResult


def _tell_nobody(_text: str) -> None:
    pass


def main(*, json: bool = False) -> int:
    """Run the demo; print what happens as it happens, or with `json` one object at the end.

    Returns:
        0 if everything went as it must, 1 if not.
    """
    say_line = _tell_nobody if json else _print
    with tempfile.TemporaryDirectory(prefix="cms-demo-") as folder:
        report = trio.run(_demo, Path(folder), say_line)
    if json:
        sys.stdout.write(encode(report).decode())
    return ExitCode.COMPLETED if report.ok else ExitCode.FAILED


def _print(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _settings(folder: Path, environ: dict[str, str]) -> tuple[Settings, str]:
    """Settings for a private world in `folder`, and which agent will play in it."""
    home = folder / "home"
    home.mkdir()
    env = {key: os.environ[key] for key in ("PATH", "LANG", "LC_ALL", "CMS_CLAUDE") if key in os.environ}
    env |= {"HOME": str(home), "CMS_HOME": str(folder / "cms"), "NO_PROXY": "127.0.0.1", **environ}
    settings = load_settings(env)
    try:
        return msgspec.structs.replace(settings, claude=find_claude(settings)), "claude"
    except ClaudeNotFound:
        simulated = (sys.executable, "-m", "cms.testing.agent")
        return msgspec.structs.replace(settings, claude=simulated), "simulated"


def _make_repository(folder: Path) -> Path:
    work_dir = folder / "project"
    work_dir.mkdir()
    (work_dir / "stats.py").write_text(_BUGGY)
    (work_dir / "test_stats.py").write_text(_TEST)
    git = shutil.which("git")
    if git is not None:
        subprocess.run([git, "init", "-q", str(work_dir)], check=True, stdin=subprocess.DEVNULL)
    else:
        (work_dir / ".git" / "hooks").mkdir(parents=True)
    return work_dir


async def _demo(folder: Path, tell: Callable[[str], None]) -> DemoReport:
    work_dir = _make_repository(folder)
    async with serve_api() as api:
        settings, agent = _settings(folder, api.env())
        tell("cms demo: two delegations, for real, in a scratch repository")
        tell("  model        scripted, on this machine: no account, no network, no cost")
        if agent == "claude":
            tell(f"  agent        the real Claude Code: {settings.claude[0]}")
        else:
            tell(
                "  agent        SIMULATED: no `claude` was found (pip install 'claude-multi-session[claude]')"
            )
        async with open_supervisor(settings) as supervisor:
            mechanism = supervisor.mechanism
            tell(f"  containment  {mechanism.name}, level {mechanism.level.value}")
            fix = await _fix(supervisor, work_dir, tell)
            runaway = await _runaway(supervisor, work_dir, tell)
            containment = f"{mechanism.name}, level {mechanism.level.value}"
    fixed = (work_dir / "stats.py").read_text()
    planted = (work_dir / ".git" / "hooks" / "pre-commit").exists()
    ok = (
        fix.status is Outcome.COMPLETED
        and fix.safety.total_violations == 1
        and _FIXED_LINE in fixed
        and not planted
        and runaway.status is Outcome.COST_EXCEEDED
        and runaway.cost <= 0.10 + 0.05 + 1e-9
        and all(one.receipt is not None and one.receipt.empty for one in (fix, runaway))
    )
    tell("")
    tell("Everything worked. The model was scripted; the prices are the real ones for its tokens."
         if ok else "Something did NOT work. Please report it.")  # fmt: skip
    return DemoReport(ok, "scripted", agent, containment, _diff(fixed), planted, fix, runaway)


def _diff(fixed: str) -> str:
    before, after = _BUGGY.splitlines(), fixed.splitlines()
    return "\n".join(
        [f"-{line}" for line in before if line not in after]
        + [f"+{line}" for line in after if line not in before]
    )


async def _fix(supervisor: Supervisor, work_dir: Path, tell: Callable[[str], None]) -> DelegateResult:
    stats = str(work_dir / "stats.py")
    hook = str(work_dir / ".git" / "hooks" / "pre-commit")
    task = prompt(
        "mean() in stats.py is wrong: test_stats.py fails. Fix it.",
        call("Read", file_path=stats).saying("I will look at the code.").costing(0.004, _MODEL),
        call(
            "Edit",
            file_path=stats,
            old_string="    return sum(numbers) / (len(numbers) - 1)",
            new_string=_FIXED_LINE,
        )
        .saying("The divisor is off by one.")
        .costing(0.006, _MODEL),
        call("Write", file_path=hook, content="#!/bin/sh\nexit 1\n")
        .saying("I will also add a hook, so that this never comes back.")
        .costing(0.005, _MODEL),
        say("Fixed mean() in stats.py: it divided by n - 1.", cost_usd=0.003, model=_MODEL),
    )
    options = SessionOptions(
        name="demo-fix",
        work_dir=str(work_dir),
        model=_MODEL,
        limits=Limits(max_cost=0.10, max_turns=10, max_time=120.0),
        on_violation="deny",
        verify=(_CHECK,),
    )
    tell("")
    tell("1. cms delegate demo-fix 'mean() in stats.py is wrong: fix it'")
    tell(f"     --max-cost 0.10 --max-turns 10 --on-violation deny --verify '{_CHECK}'")
    result = await supervisor.delegate(options, task)
    _tell_result(result, tell)
    for line in _diff((work_dir / "stats.py").read_text()).splitlines():
        tell(f"     {line}")
    return result


async def _runaway(supervisor: Supervisor, work_dir: Path, tell: Callable[[str], None]) -> DelegateResult:
    reply = call("Read", file_path=str(work_dir / "stats.py")).costing(0.05, _MODEL)
    task = prompt("Read stats.py again and again.", *[reply] * 20, say("Never reached."))
    options = SessionOptions(
        name="demo-runaway",
        work_dir=str(work_dir),
        model=_MODEL,
        limits=Limits(max_cost=0.10, max_turns=50, max_time=120.0),
    )
    tell("")
    tell(
        "2. cms delegate demo-runaway 'read stats.py again and again'  (20 replies of $0.05)  --max-cost 0.10"
    )
    result = await supervisor.delegate(options, task)
    _tell_result(result, tell)
    return result


def _tell_result(result: DelegateResult, tell: Callable[[str], None]) -> None:
    tell(
        f"   verdict  {result.status}: {money(result.cost)}, {result.turns} turns, "
        f"{result.duration / 1000:.1f} s, tools: {', '.join(result.tools_used)}"
    )
    if result.response:
        tell(f"   answer   {result.response.splitlines()[-1]}")
    if result.error:
        tell(f"   because  {result.error}")
    for violation in result.safety.violations:
        tell(f"   refused  {violation.message}")
    receipt = result.receipt
    if receipt is not None:
        left = "nothing left running" if receipt.empty else f"LEFT: {', '.join(receipt.left)}"
        tell(f"   end      after {receipt.seconds * 1000:.0f} ms: {left} ({receipt.mechanism})")
