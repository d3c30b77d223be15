"""The machine on trial: kill, freeze, walls, caps. The agent is simulated."""

from __future__ import annotations

import re
import shlex
import socket
import subprocess
import sys
from functools import partial
from pathlib import Path

import trio

from cms.selftest.drill.group import Group, silent, start_command
from cms.selftest.drill.trials import Finding, Untested
from cms.session.model import Limits, SessionOptions
from cms.testing import hostile, tampering
from cms.testing.script import call, prompt, say

QUICK = ("orphan", "comets", "headless", "stealth")
#: Below the folder of the group: what a variable of its sessions names (`KUBECONFIG`).
MOVED = "moved/kube"
_FEWER = {"comets": "20", "bomb": "200", "spinners": "40", "large": "128"}


class Machine(Group):
    """The machine on trial; the agent is simulated."""

    async def run(self) -> None:
        trials, guarantees = self.trials, self.guarantees
        await trials.begin("kill: what was started to outlive it")
        for case in QUICK if trials.quick else hostile.CASES:
            await trials.attempt(case, _what(case), partial(self._kill, case), guarantees.kill_all)
        await trials.begin("freeze: every process stands still, and dies all the same")
        for case in ("still", "comets") if trials.quick else ("still", "comets", "bomb", "headless", "waker"):
            await trials.attempt(case, _what(case), partial(self._freeze, case), guarantees.freeze)
        await trials.begin("walls: what the agent's programs must not change, reach or end")
        protected = {"git hook": ".git/hooks/pre-commit"}
        if not trials.quick:
            protected |= {"git's config": ".git/config", ".env": ".env"}
        for name, path in protected.items():
            what = "written to, renamed over, linked to, moved away with its folder, mounted over"
            await trials.attempt(name, what, partial(self._walls, path), guarantees.protected_paths)
        what = "what KUBECONFIG names, by a session that may write anywhere: the same ways"
        await trials.attempt("moved place", what, self._moved, guarantees.protected_paths)
        what = "the home, written and read again, and as it was at the end"
        await trials.attempt("copy-on-write", what, self._copied, guarantees.copy_on_write)
        what = "the home, /tmp and what lies beside the work dir: copies, or read-only"
        await trials.attempt("outside", what, self._outside, guarantees.protected_paths)
        what = "claude's stdout, memory and descriptors, by a shell of its own"
        await trials.attempt("forgery", what, self._forge, guarantees.no_tampering)
        what = "the store, the logs and the socket of cms"
        await trials.attempt("CMS_HOME", what, self._hidden, guarantees.hidden_paths)
        what = "servers of this user that start things for others: tmux, the session bus, Docker"
        await trials.attempt("ways out", what, self._exits, guarantees.hidden_paths)
        what = "a process of this user outside of the container, stopped, killed or traced"
        await trials.attempt("neighbours", what, self._assassin, guarantees.kill_all)
        await trials.begin("caps")
        what = "40 processes where 20 are allowed"
        await trials.attempt("--max-procs", what, self._processes, guarantees.process_cap)
        what = "500 MiB where 200 are allowed"
        await trials.attempt("--max-memory", what, self._memory, guarantees.memory_cap)

    def _argument(self, case: str) -> str:
        return _FEWER.get(case, "") if self.trials.quick else ""

    async def _hostile(self, case: str, argument: str = "") -> tuple[SessionOptions, Path]:
        options = self.options()
        beat = Path(options.work_dir) / "beat"
        await self.spawn(options, call("Bash", command=start_command(case, beat, argument)))
        said = beat.with_suffix(".said").read_text()
        if said.startswith("refused"):
            await self.kill(options, beat)
            raise Untested(f"this machine does not let anybody do it ({said.strip()})")
        return options, beat

    async def _kill(self, case: str) -> Finding:
        return await self.kill(*await self._hostile(case, self._argument(case)))

    async def _freeze(self, case: str) -> Finding:
        options, beat = await self._hostile(case, self._argument(case))
        begun = trio.current_time()
        await self.supervisor.pause(options.name, freeze=True)
        took = (trio.current_time() - begun) * 1000
        still = await silent(beat)
        dead = await self.kill(options, beat)
        return Finding(dead.wrong or ("" if still else "it ran while it was frozen"), took)

    async def _walls(self, name: str) -> Finding:
        options = self.options()
        return await self._attack(options, name)

    async def _moved(self) -> Finding:
        return await self._attack(self.options(writes="anywhere"), str(self.folder / MOVED))

    async def _copied(self) -> Finding:
        options = self.options()
        file = Path(self.supervisor.settings.environ["HOME"]) / "file"
        file.write_text("mine\n")
        script = "echo copy > ~/file; cat ~/file > seen; echo x > ~/new; true"
        (Path(options.work_dir) / "attack").write_text(script)
        await self.spawn(options, call("Bash", command="sh ./attack"))
        dead = await self.kill(options)
        if file.read_text() != "mine\n" or (file.parent / "new").exists():
            return Finding("the home was written")
        if (Path(options.work_dir) / "seen").read_text() != "copy\n":
            return Finding("nothing was there to be written")
        return dead

    async def _attack(self, options: SessionOptions, name: str) -> Finding:
        work_dir = Path(options.work_dir)
        target, beat = work_dir / name, work_dir / "beat"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text("original")
        before = target.stat()
        # In a script: the gate reads command lines, and it is the walls that are to be tried here.
        said = work_dir / "said"
        (work_dir / "attack").write_text(
            start_command("walls", beat, str(target), said=said, pattern="^ready")
        )
        await self.spawn(options, call("Bash", command="sh ./attack"))
        after = target.stat()
        same = (before.st_ino, before.st_mode) == (after.st_ino, after.st_mode)
        through = [
            line.partition(":")[0] for line in said.read_text().splitlines() if line.endswith("through")
        ]
        dead = await self.kill(options, beat)
        if not same or target.read_text() != "original" or through:
            return Finding(f"changed, by {', '.join(through) or 'an unknown way'}")
        return dead

    async def _outside(self) -> Finding:
        options = self.options()
        name = f".cms-drill-{options.name}"
        home = Path(self.supervisor.settings.environ.get("HOME") or Path.home())
        places = [folder / name for folder in (home, self.folder, Path("/tmp"))]  # noqa: S108 (not used)
        lines = (f"echo x > {shlex.quote(str(place))}" for place in places)
        (Path(options.work_dir) / "attack").write_text("\n".join((*lines, "true")))
        await self.spawn(options, call("Bash", command="sh ./attack 2> said"))
        dead = await self.kill(options)
        written = [str(place) for place in places if place.exists()]
        for place in places:
            place.unlink(missing_ok=True)
        return Finding(f"written: {', '.join(written)}") if written else dead

    async def _forge(self) -> Finding:
        options = self.options()
        said = Path(options.work_dir) / "said"
        program = shlex.join([sys.executable, "-I", "-S", tampering.__file__])
        await self.spawn(options, call("Bash", command=f"{program} $PPID > said; true"))
        through = [
            line.partition(":")[0] for line in said.read_text().splitlines() if line.endswith("through")
        ]
        dead = await self.kill(options)
        return Finding(f"by {', '.join(through)}") if through else dead

    async def _hidden(self) -> Finding:
        options = self.options()
        home, listed = shlex.quote(str(self.supervisor.settings.home)), Path(options.work_dir) / "listed"
        script = f"ls -A {home} > listed 2>&1; cat {home}/cms.db >> listed 2>&1; echo x > {home}/new"
        await self.spawn(options, call("Bash", command=f"{script}; true"))
        seen = listed.read_bytes()
        dead = await self.kill(options)
        if b"daemon.log" in seen or b"raw\n" in seen or b"SQLite format" in seen:
            return Finding("the agent's shell could read it")
        return dead

    async def _exits(self) -> Finding:
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
        return Finding("it could be reached") if said.exists() else dead

    async def _assassin(self) -> Finding:
        options = self.options()
        work_dir = Path(options.work_dir)
        with subprocess.Popen(["sleep", "60"]) as victim:  # noqa: ASYNC220 (it only sleeps)
            try:
                said = work_dir / "said"
                command = start_command(
                    "assassin", work_dir / "beat", str(victim.pid), said=said, pattern="^ready"
                )
                await self.spawn(options, call("Bash", command=command))
                hit = [line for line in said.read_text().splitlines() if line.endswith((": sent", ": done"))]
                dead = await self.kill(options, work_dir / "beat")
                return Finding(", ".join(hit)) if hit or victim.poll() is not None else dead
            finally:
                victim.kill()

    async def _processes(self) -> Finding:
        return await self._cap("plain", "40", Limits(max_procs=20))

    async def _memory(self) -> Finding:
        return await self._cap("large", "500", Limits(max_memory=200 << 20))

    async def _cap(self, case: str, argument: str, limits: Limits) -> Finding:
        options = self.options(limits=limits)
        beat = Path(options.work_dir) / "beat"
        program = f"{shlex.join(hostile.command(case, beat, argument))}; true"
        result = await self.supervisor.delegate(
            options, prompt("go", call("Bash", command=program), say("done"))
        )
        told = [reason for reason in result.reasons if "cap of" in reason]
        if not told:
            return Finding(f"it was not held to the cap: {result.status}")
        if result.receipt is None or not result.receipt.empty or not await silent(beat):
            return Finding("what passed the cap went on")
        return Finding()


def _what(case: str) -> str:
    text = (getattr(hostile.Hostile, case).__doc__ or "").partition("\n")[0].rstrip(".")
    text = re.sub(r"ARGUMENT \((\w+)\)", r"\1", text)
    return text[:1].lower() + text[1:]
