"""What a try has left behind, read from the raw log and from the machine's own figures."""

from __future__ import annotations

from pathlib import Path

import msgspec

from cms.batch.model import TaskSpec
from cms.fleet.batch_sessions import finished_acts
from cms.fleet.machine import available_memory, cores
from cms.session.model import Limits, SessionOptions
from cms.store.rawlog import RawLog


def use(key: str, tool: str) -> bytes:
    block = {"type": "tool_use", "id": key, "name": tool, "input": {}}
    message = {"id": "m", "role": "assistant", "model": "x", "content": [block]}
    return msgspec.json.encode({"type": "assistant", "message": message})


def result(key: str) -> bytes:
    block = {"type": "tool_result", "tool_use_id": key, "content": "ok"}
    return msgspec.json.encode({"type": "user", "message": {"role": "user", "content": [block]}})


def test_finished_acts_are_counted_by_their_results(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    with RawLog(path) as log:
        lines = [
            use("1", "Bash"),
            result("1"),
            use("2", "Read"),
            result("2"),
            use("3", "Edit"),
            b'noise "tool_use',
        ]
        log.extend("out", lines, 1.0)
        log.extend("in", [result("3")], 2.0)
    assert finished_acts(path) == 1, "the edit was still at work, and reading is no act"
    with RawLog(path) as log:
        log.extend("out", [result("3"), result("3")], 3.0)
    assert finished_acts(path) == 2
    assert finished_acts(tmp_path / "none.log") == 0


def test_memory_of_the_machine_or_of_the_container(tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 9000 kB\nMemAvailable:   4096 kB\n")
    assert available_memory(meminfo, tmp_path) == 4 * 2**20
    (tmp_path / "memory.max").write_text("3145728\n")
    (tmp_path / "memory.current").write_text("1048576\n")
    assert available_memory(meminfo, tmp_path) == 2 * 2**20
    (tmp_path / "memory.max").write_text("max\n")
    assert available_memory(meminfo, tmp_path) == 4 * 2**20
    assert available_memory() > 0
    assert cores() >= 1


def test_a_task_can_have_all_that_a_delegation_can() -> None:
    """Whoever adds an option to sessions adds it to tasks, or here with a reason."""
    ours = {"name", "work_dir", "limits", "delegated"}
    not_for_tasks = {"fork_of"}  # a task begins a conversation of its own
    fields = set(TaskSpec.__struct_fields__)
    assert set(SessionOptions.__struct_fields__) - fields <= ours | not_for_tasks
    assert set(Limits.__struct_fields__) <= fields
