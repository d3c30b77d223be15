"""What an agent leaves in its folder for others, and what it starts itself; the agent is simulated."""

from __future__ import annotations

import shlex
from pathlib import Path

import msgspec
import trio

from cms.errors import CmsError, UsageError
from cms.fleet.results_file import open_results, write_own_report
from cms.rpc.client import connect
from cms.rpc.sessions import SESSION_SPAWN, SpawnParams
from cms.selftest.drill.group import Group
from cms.selftest.drill.trials import Finding
from cms.session.model import Limits, Outcome, SessionOptions
from cms.testing.script import call, prompt, say

_PATIENCE = 10.0


class Folder(Group):
    """What an agent leaves in its folder for others, and what it starts itself."""

    prefix = "folder"

    async def run(self) -> None:
        trials = self.trials
        await trials.begin("folder: what the agent leaves there for others, and what it starts")
        what = "a folder of hooks that git's settings name, and a `.git/commondir` that appears"
        await trials.attempt("git", what, self._git)
        what = "links in the place of the files that cms itself writes (--out, --report)"
        await trials.attempt("planted link", what, self._link)
        what = "pipes and endless devices in the place of .git, .env and settings; then a session, and a kill"
        await trials.attempt("fifo", what, self._fifo)
        what = "a session of the agent's own, in ~/.ssh or with more than it has itself"
        await trials.attempt("child", what, self._child)

    async def _git(self) -> Finding:
        options = self.options()
        work_dir = Path(options.work_dir)
        hook = work_dir / "hooks" / "pre-commit"
        hook.parent.mkdir()
        config = work_dir / ".git" / "config"
        config.write_text((config.read_text() if config.exists() else "") + "[core]\n\thooksPath = hooks\n")
        write = call("Write", file_path=str(hook), content="#!/bin/sh\n")
        result = await self.supervisor.delegate(options, prompt("go", write, say("done")))
        if result.status is not Outcome.PROTECTED_PATH or hook.exists():
            return Finding(f"the hook was written: {result.status}")
        other = msgspec.structs.replace(options, name=f"{options.name}-b")
        result = await self.supervisor.delegate(
            other, prompt("go", call("Bash", command="echo ../x > .git/commondir"), say("done"))
        )
        told = result.status is Outcome.PROTECTED_PATH
        return Finding("" if told else f"nothing was told: {result.status}")

    async def _link(self) -> Finding:
        options = self.options()
        work_dir, target = Path(options.work_dir), self.folder / "target"
        target.write_text("mine\n")
        names = ("results.jsonl", "report.md")
        links = "; ".join(f"ln -s {shlex.quote(str(target))} {name}" for name in names)
        await self.spawn(options, call("Bash", command=links))
        dead = await self.kill(options)
        for name in names:
            try:
                if name == "report.md":
                    write_own_report(work_dir / name, "a report", options.work_dir)
                else:
                    open_results(work_dir / name, options.work_dir).close()
            except OSError:
                continue
            return Finding(f"{name} was followed")
        return Finding("what the link names was written") if target.read_text() != "mine\n" else dead

    async def _fifo(self) -> Finding:
        plain = self.folder / "plain"
        plain.mkdir()
        options = msgspec.structs.replace(self.options(), work_dir=str(plain))
        script = "mkfifo .git .env; mkdir .claude; for f in .claude/settings.json .mcp.json CLAUDE.md; do "
        await self.spawn(options, call("Bash", command=f"{script} ln -s /dev/zero $f; done"))
        dead = await self.kill(options)
        other = msgspec.structs.replace(options, name=f"{options.name}-b")
        with trio.move_on_after(_PATIENCE):
            await self.spawn(other, call("Bash", command="true"))
            return (await self.kill(other)) if not dead.wrong else dead
        return Finding("it held up the next session")

    async def _child(self) -> Finding:
        parent = self.options(allow_cms=True, preset="edit", limits=Limits(max_cost=1.0))
        await self.spawn(parent)
        settings = self.supervisor.settings
        session = (await self.supervisor.get(parent.name)).id
        (socket,) = (settings.child_sockets / session).iterdir()
        inside = msgspec.structs.replace(settings, child_socket=socket, inside=session)

        def ask(options: SessionOptions) -> None:
            with connect(inside) as client:  # it sends an environment along: that of this drill
                client.call(SESSION_SPAWN, SpawnParams(options, prompt("go", say("done"))))

        home = Path(settings.environ["HOME"])
        (home / ".ssh").mkdir(exist_ok=True)
        child = msgspec.structs.replace(parent, name=f"{parent.name}-child", allow_cms=False)
        for what, changes in (
            ("in ~/.ssh", {"work_dir": str(home / ".ssh")}),
            ("in the folder of cms", {"work_dir": str(settings.home)}),
            ("named like a path", {"name": "../escaped"}),
        ):
            try:
                await trio.to_thread.run_sync(ask, msgspec.structs.replace(child, **changes))
            except UsageError:
                continue
            return Finding(f"it was started {what}")
        greedy = {"preset": "full", "limits": Limits(max_cost=100.0), "safety": False, "writes": "anywhere"}
        try:
            await trio.to_thread.run_sync(ask, msgspec.structs.replace(child, **greedy))
        except CmsError:
            return await self.kill(parent)  # all of it refused is as good
        made = await self.supervisor.get(child.name)
        runner = self.supervisor.runner(child.name)
        environ = _environment(runner.record.pid) if runner is not None else b""
        got = made.options
        if got.preset == "full" or not got.safety or got.writes == "anywhere":
            return Finding(f"it got more than its parent has: {got.preset}")
        if got.limits.max_cost is None or got.limits.max_cost > 1.0:
            return Finding(f"it may spend ${got.limits.max_cost}")
        if f"HOME={home}".encode() not in environ.split(b"\0"):
            return Finding("its environment is not its parent's")
        dead = await self.kill(child)
        return dead if dead.wrong else await self.kill(parent)


def _environment(pid: int | None) -> bytes:
    return Path(f"/proc/{pid}/environ").read_bytes()
