"""`cms drill`: certify a machine before a night run, by trying on it what must not happen.

Every case goes the whole way: a supervisor like the daemon's, sessions in this machine's containers, tool
calls that start programs made to outlive a kill (`rehearsal.hostile`) or to overstep a limit, and then a look
at what is left. The agent is the simulated one where the machine is on trial, and the real `claude` on the
scripted model where claude's part is (limits, crash); without a `claude` the simulated agent plays that too,
and it is said.

Nothing is spent, nobody is called, everything lives in a temporary folder with a private HOME, and every
hostile program bounds itself: 8 seconds, 400 processes. A case that does not come to an end is ended.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Literal

import msgspec
import trio

from cms.config import find_claude, load_settings
from cms.containment import Guarantee
from cms.errors import ClaudeNotFound, CmsError, ExitCode, UsageError
from cms.fleet.supervisor import Supervisor, open_supervisor
from cms.json_output import encode
from cms.session.model import Limits, Outcome, Receipt, Record, SessionOptions, SessionStatus
from cms.testing import hostile
from cms.testing.agent import write_launcher
from cms.testing.api import serve_api
from cms.testing.script import ScriptedReply, call, prompt, say

#: Seconds for one case; a hostile program ends by itself after 8.
_PATIENCE = 30.0
#: Seconds for all of them: what is left after that is not tested, and that is said.
_TOTAL = 300.0
_TOTAL_QUICK = 90.0
#: Seconds in which a process that runs would surely have written the time.
_SILENCE = 0.05
GROUPS = ("kill", "freeze", "walls", "caps", "limits", "crash")
_QUICK = ("orphan", "comets", "headless", "stealth")
_FEWER = {"comets": "20", "bomb": "200", "spinners": "40", "large": "128"}
#: A tool call that never ends by itself.
_TOIL = "until test -e never; do sleep 1; done"

Verdict = Literal["held", "failed", "unpromised", "untested"]
Tell = Callable[[str], None]
_WORDS: dict[Verdict, str] = {
    "held": "held",
    "failed": "FAILED",
    "unpromised": "not held",
    "untested": "not tested",
}


class Case(Record, frozen=True):
    """One thing that was tried. `unpromised`: it did not hold, and this machine never said that it would."""

    group: str
    name: str
    what: str
    verdict: Verdict
    detail: str = ""
    milliseconds: float | None = None  # of the kill or the stop that the case is about


class DrillReport(Record, frozen=True):
    """What a drill found."""

    ok: bool
    containment: str
    level: str
    agent: Literal["claude", "simulated"]
    quick: bool
    cases: tuple[Case, ...]
    seconds: float


class _Untested(Exception):
    """This machine, or this agent, cannot even try."""


class _Finding(msgspec.Struct, frozen=True):
    """What a case came to: why it did not hold, or "" if it did."""

    wrong: str = ""
    milliseconds: float | None = None


_Trial = Callable[[], Awaitable[_Finding]]


class Plan(msgspec.Struct, frozen=True):
    """Which drill it is to be.

    Attributes:
        quick: fewer cases, and smaller ones.
        strict: what is not promised counts, too.
        only: groups (`GROUPS`); empty: all.
    """

    quick: bool = False
    strict: bool = False
    only: tuple[str, ...] = ()


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
        try:
            # Ctrl-C in the middle of a session's task would leave what that was about to take away.
            report = trio.run(run_drill, place, tell, plan, restrict_keyboard_interrupt_to_checkpoints=True)
        except BaseExceptionGroup as group:
            if group.subgroup(KeyboardInterrupt) is not None:
                raise KeyboardInterrupt from None
            raise
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
    refused: CmsError | None = None
    async with serve_api() as api:
        drill = _Drill(folder, api.env(), tell, plan)
        try:
            await drill.run()
        except CmsError as error:
            refused = error  # to be raised outside of the API's nursery, which would wrap it
    if refused is not None:
        raise refused
    broken = {"failed", "unpromised"} if plan.strict else {"failed"}
    report = DrillReport(
        ok=not any(case.verdict in broken for case in drill.cases),
        containment=drill.containment,
        level=drill.level,
        agent=drill.agent,
        quick=plan.quick,
        cases=tuple(drill.cases),
        seconds=time.monotonic() - begun,
    )
    tell(_summary(report))
    return report


def _summary(report: DrillReport) -> str:
    counts = dict.fromkeys(("held", "failed", "unpromised", "untested"), 0)
    for case in report.cases:
        counts[case.verdict] += 1
    words = [f"{counts['held']} held", f"{counts['failed']} failed"]
    words += [f"{counts['unpromised']} not held, nor promised here"] if counts["unpromised"] else []
    words += [f"{counts['untested']} not tested"] if counts["untested"] else []
    verdict = f"certified for level {report.level}" if report.ok else "NOT CERTIFIED"
    return f"\n{verdict}: {', '.join(words)}, in {report.seconds:.0f} s"


class _Drill:
    """One run: two small worlds, one for the simulated agent and one for the real."""

    def __init__(self, folder: Path, api: dict[str, str], tell: Tell, plan: Plan) -> None:
        self.cases: list[Case] = []
        self.agent: Literal["claude", "simulated"] = "claude"
        self.containment = self.level = ""
        self._folder = folder
        self._tell = tell
        self._plan = plan
        self._give_up = time.monotonic() + (_TOTAL_QUICK if plan.quick else _TOTAL)
        self._group = ""
        self._simulated = (str(write_launcher(folder / "simulated")),)
        settings = load_settings(_environ(folder / "claude", api))
        try:
            self._claude = find_claude(settings)
        except ClaudeNotFound:
            self._claude, self.agent = self._simulated, "simulated"
        self._limits_settings = msgspec.structs.replace(settings, claude=self._claude)
        environ = _environ(folder / "machine", {})
        self._settings = msgspec.structs.replace(load_settings(environ), claude=self._simulated)

    async def run(self) -> None:
        """Group after group."""
        async with open_supervisor(self._settings) as supervisor:
            mechanism = supervisor.mechanism
            self.containment, self.level = mechanism.name, mechanism.level.value
            who = " ".join(self._claude) if self.agent == "claude" else "SIMULATED, no `claude` was found"
            self._tell(f"cms drill on {self.containment}, level {self.level}; for the limits: {who}")
            await _Machine(self, supervisor, self._folder / "machine").run()
        async with open_supervisor(self._limits_settings) as supervisor:
            await _Limits(self, supervisor, self._folder / "claude").run()
        await self.begin("crash: the daemon is killed with SIGKILL")
        for name, claude in {"simulated": self._simulated, self.agent: self._claude}.items():
            await self.attempt(
                f"{name} agent",
                "every process goes, what was answered is there, the session goes on",
                partial(self._crash, claude),
                mechanism.guarantees.dies_with_supervisor,
            )

    @property
    def quick(self) -> bool:
        return self._plan.quick

    async def begin(self, group: str) -> None:
        """What comes now belongs to this group; nothing of it is tried where it was not asked for."""
        self._group = group.partition(":")[0]
        if self._wanted():
            self._tell(f"\n{group}")
        await trio.lowlevel.checkpoint()

    def _wanted(self) -> bool:
        return not self._plan.only or self._group in self._plan.only

    async def attempt(self, name: str, what: str, trial: _Trial, guarantee: Guarantee | None = None) -> None:
        """Try one case, and write down what came of it."""
        if not self._wanted():
            return
        verdict: Verdict = "held"
        found = _Finding()
        left = self._give_up - time.monotonic()
        try:
            if left <= 0:
                raise _Untested("no time was left")
            with trio.fail_after(min(_PATIENCE, left)):
                found = await trial()
        except _Untested as why:
            verdict, found = "untested", _Finding(str(why))
        except trio.TooSlowError:
            found = _Finding("it did not come to an end")
        except (CmsError, OSError) as error:
            found = _Finding(str(error))
        if found.wrong and verdict == "held":
            verdict = "failed" if guarantee is None or guarantee.strong else "unpromised"
        self.cases.append(Case(self._group, name, what, verdict, found.wrong, found.milliseconds))
        took = "" if found.milliseconds is None else f"{found.milliseconds:.0f} ms"
        self._tell(f"  {_WORDS[verdict]:<10} {took:>8}  {name:<15} {found.wrong or what}")

    async def _crash(self, claude: tuple[str, ...]) -> _Finding:
        """Through the real command line, so that the daemon is the one that people have."""
        name = "crash" if claude == self._simulated else "crash-claude"
        settings = self._settings if claude == self._simulated else self._limits_settings
        environ = {**settings.environ, "CMS_HOME": str(settings.home), "CMS_CLAUDE": claude[0]}
        work_dir = _work_dir(self._folder / name)
        beats = [work_dir / f"beat-{case}" for case in ("setsid", "deaf", "subreaper")]
        tools = [call("Bash", command=_start(beat.name.rpartition("-")[2], beat)) for beat in beats]

        async def cms(*words: str) -> dict[str, object]:
            command = [sys.executable, "-P", "-m", "cms", *words, "--json"]
            done = await trio.run_process(
                command,
                env=environ,
                cwd=work_dir,
                check=False,
                capture_stdout=True,
                stderr=subprocess.DEVNULL,
            )
            if done.returncode != 0:
                raise CmsError(f"cms {words[0]} exited with {done.returncode}")
            return msgspec.json.decode(done.stdout, type=dict[str, object])

        try:
            await cms(
                "spawn", name, "--preset", "full", prompt("Start some programs.", *tools, say("started"))
            )
            daemon = (await cms("daemon", "status"))["pid"]
            if not isinstance(daemon, int) or not all(map(hostile.last_beat, beats)):
                return _Finding("the programs did not start")
            begun = time.monotonic()
            os.kill(daemon, signal.SIGKILL)
            while not await _silent(*beats):
                if time.monotonic() > begun + 5:
                    return _Finding("processes went on without the daemon")
            took = (time.monotonic() - begun) * 1000
            status, answer = await cms("status", name), await cms("output", name)
            if status["status"] != "stopped" or "started" not in str(answer):
                return _Finding(f"what was acknowledged is not there: {status['status']}, {answer}")
            again = await cms("send", name, prompt("And now?", say("gone on")))
            return _Finding("" if again["text"] == "gone on" else "the conversation does not go on", took)
        finally:
            with trio.move_on_after(20, shield=True):
                try:
                    await cms("daemon", "stop")
                except CmsError:
                    pass


class _Group:
    """Cases on one supervisor."""

    def __init__(self, drill: _Drill, supervisor: Supervisor, folder: Path) -> None:
        self.drill = drill
        self.supervisor = supervisor
        self.folder = folder
        self.guarantees = supervisor.mechanism.guarantees
        self._count = 0

    def options(self, **changes: object) -> SessionOptions:
        """A session in a fresh work dir."""
        self._count += 1
        work_dir = _work_dir(self.folder / f"work-{self._count}")
        options = SessionOptions(name=f"case-{self._count}", work_dir=str(work_dir), preset="full")
        return msgspec.structs.replace(options, **changes)

    async def spawn(self, options: SessionOptions, *tools: ScriptedReply) -> None:
        """Start a session and have it make these tool calls."""
        await self.supervisor.create(options)
        sent = await self.supervisor.submit(options.name, prompt("go", *tools, say("done")), type="spawn")
        done = await self.supervisor.finished(sent)
        if done.outcome is not Outcome.COMPLETED:
            raise CmsError(done.error or f"the tools did not run: {done.outcome}")

    async def kill(self, options: SessionOptions, *beats: Path) -> _Finding:
        """Kill it, and see that it is dead."""
        record, receipt = await self.supervisor.kill(options.name)
        if receipt is None or not receipt.empty:
            left = "" if receipt is None else ", ".join(receipt.left)
            await self.supervisor.kill(options.name)  # the drill is to leave nothing behind, even so
            return _Finding(f"not proved dead: {left}")
        if not await _silent(*beats):
            return _Finding("the kill claimed a proof, and something still ran: please report this")
        if record.status is not SessionStatus.KILLED:
            return _Finding(f"its status is {record.status}")
        return _Finding(milliseconds=_strike(receipt))


class _Machine(_Group):
    """The machine on trial; the agent is simulated."""

    async def run(self) -> None:
        drill, guarantees = self.drill, self.guarantees
        await drill.begin("kill: what was started to outlive it")
        for case in _QUICK if drill.quick else hostile.CASES:
            await drill.attempt(case, _what(case), partial(self._kill, case), guarantees.kill_all)
        await drill.begin("freeze: every process stands still, and dies all the same")
        for case in ("still", "comets") if drill.quick else ("still", "comets", "bomb", "headless", "waker"):
            await drill.attempt(case, _what(case), partial(self._freeze, case), guarantees.freeze)
        await drill.begin("walls: what the agent's programs must not change, reach or end")
        protected = {"git hook": ".git/hooks/pre-commit"}
        if not drill.quick:
            protected |= {"git's config": ".git/config", ".env": ".env"}
        for name, path in protected.items():
            what = "written to, renamed over, linked to, moved away with its folder, mounted over"
            await drill.attempt(name, what, partial(self._walls, path), guarantees.protected_paths)
        what = "the store, the logs and the socket of cms"
        await drill.attempt("CMS_HOME", what, self._hidden, guarantees.hidden_paths)
        what = "servers of this user that start things for others: tmux, the session bus, Docker"
        await drill.attempt("ways out", what, self._exits, guarantees.hidden_paths)
        what = "a process of this user outside of the container, stopped, killed or traced"
        await drill.attempt("neighbours", what, self._assassin, guarantees.kill_all)
        await drill.begin("caps")
        what = "40 processes where 20 are allowed"
        await drill.attempt("--max-procs", what, self._processes, guarantees.process_cap)
        what = "500 MiB where 200 are allowed"
        await drill.attempt("--max-memory", what, self._memory, guarantees.memory_cap)

    def _argument(self, case: str) -> str:
        return _FEWER.get(case, "") if self.drill.quick else ""

    async def _hostile(self, case: str, argument: str = "") -> tuple[SessionOptions, Path]:
        options = self.options()
        beat = Path(options.work_dir) / "beat"
        await self.spawn(options, call("Bash", command=_start(case, beat, argument)))
        said = beat.with_suffix(".said").read_text()
        if said.startswith("refused"):
            await self.kill(options, beat)
            raise _Untested(f"this machine does not let anybody do it ({said.strip()})")
        return options, beat

    async def _kill(self, case: str) -> _Finding:
        return await self.kill(*await self._hostile(case, self._argument(case)))

    async def _freeze(self, case: str) -> _Finding:
        options, beat = await self._hostile(case, self._argument(case))
        begun = trio.current_time()
        await self.supervisor.pause(options.name, freeze=True)
        took = (trio.current_time() - begun) * 1000
        still = await _silent(beat)
        dead = await self.kill(options, beat)
        return _Finding(dead.wrong or ("" if still else "it ran while it was frozen"), took)

    async def _walls(self, name: str) -> _Finding:
        options = self.options()
        work_dir = Path(options.work_dir)
        target, beat = work_dir / name, work_dir / "beat"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text("original")
        before = target.stat()
        # In a script: the gate reads command lines, and it is the walls that are to be tried here.
        said = self.folder / f"{options.name}.said"
        (work_dir / "attack").write_text(_start("walls", beat, str(target), said=said, pattern="^ready"))
        await self.spawn(options, call("Bash", command="sh ./attack"))
        after = target.stat()
        same = (before.st_ino, before.st_mode) == (after.st_ino, after.st_mode)
        through = [
            line.partition(":")[0] for line in said.read_text().splitlines() if line.endswith("through")
        ]
        dead = await self.kill(options, beat)
        if not same or target.read_text() != "original" or through:
            return _Finding(f"changed, by {', '.join(through) or 'an unknown way'}")
        return dead

    async def _hidden(self) -> _Finding:
        options = self.options()
        home, listed = shlex.quote(str(self.supervisor.settings.home)), Path(options.work_dir) / "listed"
        script = f"ls -A {home} > listed 2>&1; cat {home}/cms.db >> listed 2>&1; echo x > {home}/new"
        await self.spawn(options, call("Bash", command=f"{script}; true"))
        seen = listed.read_bytes()
        dead = await self.kill(options)
        if b"daemon.log" in seen or b"raw\n" in seen or b"SQLite format" in seen:
            return _Finding("the agent's shell could read it")
        return dead

    async def _exits(self) -> _Finding:
        """A stand-in for the session bus, in the place where it would be."""
        options = self.options()
        bus, said = self.folder / "run" / "bus", Path(options.work_dir) / "said"
        bus.parent.mkdir()
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(bus))
            server.listen()
            probe = f"import socket; socket.socket(socket.AF_UNIX).connect({str(bus)!r})"
            program = shlex.join([sys.executable, "-I", "-S", "-c", probe])
            await self.spawn(options, call("Bash", command=f"{program} && echo open > {said}; true"))
        dead = await self.kill(options)
        return _Finding("it could be reached") if said.exists() else dead

    async def _assassin(self) -> _Finding:
        options = self.options()
        work_dir = Path(options.work_dir)
        with subprocess.Popen(["sleep", "60"]) as victim:  # noqa: ASYNC220 (it only sleeps)
            try:
                said = work_dir / "said"
                command = _start("assassin", work_dir / "beat", str(victim.pid), said=said, pattern="^ready")
                await self.spawn(options, call("Bash", command=command))
                hit = [line for line in said.read_text().splitlines() if line.endswith((": sent", ": done"))]
                dead = await self.kill(options, work_dir / "beat")
                return _Finding(", ".join(hit)) if hit or victim.poll() is not None else dead
            finally:
                victim.kill()

    async def _processes(self) -> _Finding:
        return await self._cap("plain", "40", Limits(max_procs=20))

    async def _memory(self) -> _Finding:
        return await self._cap("large", "500", Limits(max_memory=200 << 20))

    async def _cap(self, case: str, argument: str, limits: Limits) -> _Finding:
        options = self.options(limits=limits)
        beat = Path(options.work_dir) / "beat"
        program = f"{shlex.join(hostile.command(case, beat, argument))}; true"
        result = await self.supervisor.delegate(
            options, prompt("go", call("Bash", command=program), say("done"))
        )
        told = [reason for reason in result.reasons if "cap of" in reason]
        if not told:
            return _Finding(f"it was not held to the cap: {result.status}")
        if result.receipt is None or not result.receipt.empty or not await _silent(beat):
            return _Finding("what passed the cap went on")
        return _Finding()


class _Limits(_Group):
    """What claude must be held to; the agent is the real one, if there is one."""

    async def run(self) -> None:
        drill = self.drill
        await drill.begin("limits: in the middle of a turn, the model never stops by itself")
        await drill.attempt("--max-cost", "$0.10, and each reply costs $0.05", self._cost)
        await drill.attempt("--max-turns", "3, and the model would take 20", self._turns)
        await drill.attempt("--max-time", "2 s, and a command takes 600", self._time)
        await drill.attempt("protected path", "a git hook, by the Write tool", self._protected)
        await drill.attempt("read-only", "a file, by the Write tool and by the shell", self._read_only)
        if not drill.quick:
            await drill.attempt("--max-repeats", "3, the same call again and again", self._repeats)
            what = "in the middle of a turn, with a shell in the background"
            await drill.attempt("cms kill", what, self._killed, self.guarantees.kill_all)

    async def _delegate(
        self, wanted: Outcome, options: SessionOptions, *replies: ScriptedReply
    ) -> tuple[str, float]:
        """Why it did not end as it had to, and what it cost."""
        result = await self.supervisor.delegate(options, prompt("go", *replies, say("never reached")))
        if result.status is not wanted:
            return f"it ended as {result.status}: {result.error or result.response}", result.cost
        if result.receipt is None or not result.receipt.empty:
            return "its end is not proved", result.cost
        return "", result.cost

    def _reads(self, options: SessionOptions, count: int, cost: float = 0.001) -> list[ScriptedReply]:
        folder = Path(options.work_dir)
        for number in range(count):
            (folder / f"file-{number}").write_text("x")
        path = folder / "file-{}"
        return [
            call("Read", file_path=str(path).format(number)).costing(cost, "sonnet")
            for number in range(count)
        ]

    async def _cost(self) -> _Finding:
        options = self.options(limits=Limits(max_cost=0.10))
        wrong, cost = await self._delegate(Outcome.COST_EXCEEDED, options, *self._reads(options, 20, 0.05))
        return _Finding(wrong or ("" if cost <= 0.15 + 1e-9 else f"it cost ${cost:.2f}"))

    async def _turns(self) -> _Finding:
        options = self.options(limits=Limits(max_turns=3))
        return _Finding((await self._delegate(Outcome.TURNS_EXCEEDED, options, *self._reads(options, 20)))[0])

    async def _time(self) -> _Finding:
        options = self.options(limits=Limits(max_time=2.0))
        begun = trio.current_time()
        wrong, _ = await self._delegate(Outcome.TIME_EXCEEDED, options, call("Bash", command=_TOIL))
        return _Finding(wrong, (trio.current_time() - begun) * 1000)

    async def _repeats(self) -> _Finding:
        options = self.options(limits=Limits(max_repeats=3))
        same = self._reads(options, 1) * 20
        return _Finding((await self._delegate(Outcome.STALLED, options, *same))[0])

    async def _protected(self) -> _Finding:
        options = self.options()
        hook = Path(options.work_dir) / ".git" / "hooks" / "post-commit"
        write = call("Write", file_path=str(hook), content="#!/bin/sh\n")
        wrong, _ = await self._delegate(Outcome.PROTECTED_PATH, options, write)
        return _Finding(wrong or ("the hook was written" if hook.exists() else ""))

    async def _read_only(self) -> _Finding:
        options = self.options(preset="read-only")
        file = Path(options.work_dir) / "made"
        await self.supervisor.delegate(
            options,
            prompt(
                "go",
                call("Write", file_path=str(file), content="x"),
                call("Bash", command=f"touch {shlex.quote(str(file))}"),
                say("done"),
            ),
        )
        return _Finding("a file was written" if file.exists() else "")

    async def _killed(self) -> _Finding:
        options = self.options()
        work_dir = Path(options.work_dir)
        beat = work_dir / "beat"
        await self.supervisor.create(options)
        tools = [call("Bash", command=_start("setsid", beat)), call("Bash", command=f"touch toils; {_TOIL}")]
        await self.supervisor.submit(options.name, prompt("go", *tools, say("never")), type="spawn")
        while not (work_dir / "toils").exists():  # noqa: ASYNC110 (a program that is not ours makes it)
            await trio.sleep(0.02)
        return await self.kill(options, beat)


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


def _work_dir(folder: Path) -> Path:
    """A repository, as far as the protected paths are concerned."""
    (folder / ".git" / "hooks").mkdir(parents=True)
    git = shutil.which("git")
    if git is not None:
        subprocess.run([git, "init", "-q", str(folder)], check=True, stdin=subprocess.DEVNULL)
    return folder


def _start(
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


async def _silent(*beats: Path) -> bool:
    """True if nobody runs any more who would write the time."""
    before = [hostile.last_beat(beat) for beat in beats]
    await trio.sleep(_SILENCE)
    return before == [hostile.last_beat(beat) for beat in beats]


def _strike(receipt: Receipt) -> float:
    return next((step.seconds for step in reversed(receipt.steps) if step.name == "kill"), 0.0) * 1000


def _what(case: str) -> str:
    text = (getattr(hostile.Hostile, case).__doc__ or "").partition("\n")[0].rstrip(".")
    text = re.sub(r"ARGUMENT \((\w+)\)", r"\1", text)
    return text[:1].lower() + text[1:]
