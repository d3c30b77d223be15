"""docs/machines.md stays true: every command in its `sh` blocks is run, in order, in one private world."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from cli.shell import Shell, shell
from cms.daemon.metrics import of_daemon, of_exports, of_store
from cms.store.counters import Figures
from telemetry.collector import collecting

__all__ = ["shell"]

DOCS = (Path(__file__).parents[2] / "docs" / "machines.md").read_text()


def test_every_command_works(shell: Shell) -> None:
    lines = "".join(re.findall(r"^```sh\n(.*?)^```", DOCS, re.DOTALL | re.MULTILINE)).splitlines()
    commands = [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("cms ")]
    assert commands
    (shell.work_dir / "tasks.jsonl").write_text('{"name": "t", "prompt": "hello"}\n')
    with collecting() as collector:
        shell.env |= collector.environ
        for words in commands:
            shell.ok(*words)
        collector.wait("invoke_workflow")
    assert [one.name for one in collector.named("invoke_agent")] == ["invoke_agent traced", "invoke_agent t"]


def test_every_metric_that_is_named_is_there() -> None:
    families = [*of_store(Figures({}, {}, {}, {}, {}, (), 0.0)), *of_daemon((), 0, 0.0), *of_exports(0, 0)]
    named = set(re.findall(r"\bcms_[a-z_]+|\bprocess_[a-z_]+", DOCS))
    assert named <= {family.name for family in families}
