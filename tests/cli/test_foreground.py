"""`delegate --foreground`: the whole supervisor inside the command, with the simulated agent."""

from __future__ import annotations

import os
import signal
import sqlite3
from pathlib import Path

import pytest

from cli.conftest import Cms
from cli.terminal import OnTerminal
from cms.errors import ExitCode
from cms.testing.agent import write_launcher
from cms.testing.script import call, prompt, say


@pytest.fixture
def agent(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The simulated agent as `claude`, and a folder to work in."""
    monkeypatch.setenv("CMS_CLAUDE", str(write_launcher(tmp_path / "claude")))
    monkeypatch.setenv("HOME", str(tmp_path))
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    return work


def test_a_task_is_done_and_no_daemon_is_left(cms_process: Cms, agent: Path, home: Path) -> None:
    task = prompt("Write it", call("Write", file_path=str(agent / "a.txt"), content="hello"), say("Written."))
    ran = cms_process("delegate", "fg", "--foreground", "--json", "--task", task)
    assert ran.code == 0, ran.err
    result = ran.json()
    assert result["status"] == "completed"
    assert result["response"] == "Written."
    assert result["toolsUsed"] == ["Write"]
    assert (agent / "a.txt").read_text() == "hello"
    assert not (home / "daemon.sock").exists()
    assert cms_process("daemon", "status").code == ExitCode.DAEMON_UNAVAILABLE


def test_a_limit_has_its_exit_code(cms_process: Cms, agent: Path) -> None:
    task = prompt("Spend", *(call("Read", file_path=str(agent)).costing(0.05) for _ in range(10)))
    ran = cms_process("delegate", "fg", "--foreground", "--max-cost", "0.10", "--task", task)
    assert ran.code == ExitCode.COST_EXCEEDED, ran
    assert ran.out.startswith("$ cost_exceeded  fg  $0.1")


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_command_and_all_that_it_started(agent: Path, home: Path, signum: int) -> None:
    task = prompt("Sleep", call("Bash", command="sleep 3600"), say("never"))
    shown = OnTerminal("delegate", "fg", "--foreground", "--preset", "full", "--task", task)
    shown.wait_for(lambda raw: "Bash sleep 3600" in raw)
    os.kill(shown.process.pid, signum)
    assert shown.finish() == ExitCode.INTERRUPTED
    assert shown.text.startswith("  Bash sleep 3600\n\n⊘ interrupted  fg")
    with sqlite3.connect(home / "cms.db") as tx:
        dump = "\n".join(tx.iterdump())
    tx.close()
    assert '"empty":true' in dump.replace(" ", "")


def test_what_cannot_begin_is_one_line(cms_process: Cms, agent: Path) -> None:
    ran = cms_process("delegate", "fg", "go", "--foreground", env={"CMS_CLAUDE": "/no/such/claude"})
    assert ran.code == ExitCode.FAILED
    assert ran.err.startswith("cms: no `claude` found: CMS_CLAUDE names '/no/such/claude'")
    taken = cms_process("delegate", "fg", "go", "--foreground")
    assert taken.code == 0
    again = cms_process("delegate", "fg", "go", "--foreground", "--json")
    assert again.code == ExitCode.USAGE
    assert "name_taken" in again.out
