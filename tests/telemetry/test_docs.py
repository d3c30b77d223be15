"""docs/machines.md stays true: every command in its `sh` blocks is run, in order, in one private world."""

from __future__ import annotations

import re

from cli.shell import Shell, shell
from cms.daemon.metrics import of_daemon, of_exports, of_store
from cms.store.counters import Figures
from documents import ROOT, commands
from telemetry.collector import collecting

__all__ = ["shell"]

DOCS = (ROOT / "docs" / "machines.md").read_text()


def test_every_command_works(shell: Shell) -> None:
    typed = commands(DOCS)
    assert typed
    (shell.work_dir / "tasks.jsonl").write_text('{"name": "t", "prompt": "hello"}\n')
    with collecting() as collector:
        shell.env |= collector.environ
        for words in typed:
            shell.ok(*words)
        collector.wait("invoke_workflow")
    assert [one.name for one in collector.named("invoke_agent")] == ["invoke_agent traced", "invoke_agent t"]


def test_every_metric_that_is_named_is_there() -> None:
    families = [*of_store(Figures({}, {}, {}, {}, {}, (), 0.0)), *of_daemon((), 0, 0.0), *of_exports(0, 0)]
    named = set(re.findall(r"\bcms_[a-z_]+|\bprocess_[a-z_]+", DOCS))
    assert named <= {family.name for family in families}
