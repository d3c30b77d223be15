"""A work dir with what never ends in it: nobody is held up, and every end is proved."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cms.session.model import Outcome, SessionStatus
from cms.testing.script import call, prompt, say
from fleet.kit import make_options, make_settings, start, supervising


def plant(work: Path) -> None:
    """A pipe as `.git` and as `.env`, links to an endless device where settings are looked for."""
    os.mkfifo(work / ".git")
    os.mkfifo(work / ".env")
    (work / ".claude").mkdir()
    (work / ".claude" / "settings.json").symlink_to("/dev/zero")
    (work / ".mcp.json").symlink_to("/dev/zero")
    (work / "CLAUDE.md").symlink_to("/dev/zero")


@pytest.mark.parametrize("end", ["delegate", "kill", "leave"])
async def test_pipes_and_endless_devices_hold_nobody_up(tmp_path: Path, end: str) -> None:
    settings = make_settings(tmp_path)
    plant(tmp_path / "work")
    async with supervising(settings) as supervisor:
        if end == "delegate":
            result = await supervisor.delegate(make_options(settings), prompt("go", say("done")))
            assert result.status is not Outcome.FAILED, result
            return
        await start(supervisor)
        await supervisor.submit("one", prompt("go", call("Bash", command="sleep 600")), type="send")
        if end == "kill":
            record, receipt = await supervisor.kill("one")
            assert record.status is SessionStatus.KILLED
            assert receipt is None or receipt.empty
