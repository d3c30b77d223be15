"""The daemon is killed: through the real command line, so that it is the one that people have."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import trio

from cms.config import Settings
from cms.errors import CmsError
from cms.selftest.drill.group import make_work_dir, silent, start_command
from cms.selftest.drill.trials import Finding
from cms.testing import hostile
from cms.testing.script import call, prompt, say


async def crash(settings: Settings, folder: Path) -> Finding:
    """With the agent of these settings, in a new folder: all processes go, what was answered is there."""
    name = folder.name
    environ = {**settings.environ, "CMS_HOME": str(settings.home), "CMS_CLAUDE": settings.claude[0]}
    work_dir = make_work_dir(folder)
    beats = [work_dir / f"beat-{case}" for case in ("setsid", "deaf", "subreaper")]
    tools = [call("Bash", command=start_command(beat.name.rpartition("-")[2], beat)) for beat in beats]

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
        await cms("spawn", name, "--preset", "full", prompt("Start some programs.", *tools, say("started")))
        daemon = (await cms("daemon", "status"))["pid"]
        if not isinstance(daemon, int) or not all(map(hostile.last_beat, beats)):
            return Finding("the programs did not start")
        begun = time.monotonic()
        os.kill(daemon, signal.SIGKILL)
        while not await silent(*beats):
            if time.monotonic() > begun + 5:
                return Finding("processes went on without the daemon")
        took = (time.monotonic() - begun) * 1000
        status, answer = await cms("status", name), await cms("output", name)
        if status["status"] != "stopped" or "started" not in str(answer):
            return Finding(f"what was acknowledged is not there: {status['status']}, {answer}")
        again = await cms("send", name, prompt("And now?", say("gone on")))
        return Finding("" if again["text"] == "gone on" else "the conversation does not go on", took)
    finally:
        with trio.move_on_after(20, shield=True):
            try:
                await cms("daemon", "stop")
            except CmsError:
                pass
