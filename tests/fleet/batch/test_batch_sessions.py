"""What a try has left behind, read from the raw log and from the machine's own figures."""

from __future__ import annotations

from pathlib import Path

import msgspec

from cms.batch.model import TaskSpec, TaskStatus
from cms.batch.retry import Remains, salvage
from cms.fleet.batch_sessions import ended_calls
from cms.fleet.machine import available_memory, cores
from cms.session.audit import AuditEntry, let_through
from cms.session.model import Limits, SessionOptions
from cms.store.rawlog import RawLog


def result(key: str, *, error: bool = False) -> bytes:
    block = {"type": "tool_result", "tool_use_id": key, "content": "ok", "is_error": error}
    return msgspec.json.encode({"type": "user", "message": {"role": "user", "content": [block]}})


def entry(use: str, tool: str, verdict: str = "allowed") -> AuditEntry:
    return AuditEntry("s", "i", 1.0, tool, "", verdict, tool_use_id=use)


def test_only_the_calls_own_results_end_them(tmp_path: Path) -> None:
    """A refused call has a result, too; it says nothing of the one that is at work."""
    path = tmp_path / "a.log"
    entries = [
        entry("1", "Write", "refused"),
        entry("2", "Bash"),
        entry("3", "Bash"),  # left to claude, which asks about it
        entry("3", "Bash", "refused"),
        entry("4", "Edit"),
        entry("4", "Edit"),  # a person permitted it: one call, two entries
        entry("", "Edit"),  # of an earlier version
        AuditEntry("s", "i", 1.0, "", "", "sent", kind="message"),
    ]
    allowed = let_through(entries)
    assert sorted(allowed.values()) == ["Bash", "Edit", "Edit"]
    with RawLog(path) as log:
        log.extend("out", [result("1", error=True), result("4"), b'noise "tool_result"'], 1.0)
        log.extend("in", [result("2")], 2.0)
    ended = ended_calls(path)
    assert [tool for use, tool in allowed.items() if use not in ended] == ["Bash", "Edit"]
    assert ended_calls(tmp_path / "none.log") == frozenset()


def test_what_works_on_in_the_background_has_not_ended(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    begun = b'{"type":"system","subtype":"task_started","task_id":"t","tool_use_id":"1"}'
    with RawLog(path) as log:
        log.extend("out", [begun, result("1"), result("2")], 1.0)
    assert ended_calls(path) == {"2"}
    others = b'{"type":"system","subtype":"background_tasks_changed","tasks":[{"task_id":"t"}]}'
    for end in (
        b'{"type":"system","subtype":"task_notification","task_id":"t","status":"completed"}',
        b'{"type":"system","subtype":"task_updated","task_id":"t","patch":{"status":"killed"}}',
        b'{"type":"system","subtype":"background_tasks_changed","tasks":[]}',
    ):
        path.unlink()
        with RawLog(path) as log:
            log.extend("out", [begun, result("1"), others], 1.0)
            assert ended_calls(path) == frozenset()
            log.extend("out", [end], 2.0)
        assert ended_calls(path) == {"1"}
    with RawLog(path) as log:
        log.extend("out", [begun], 3.0)
        log.extend("in", [b'{"type":"control_request","request":{"subtype":"initialize"}}'], 3.0)
    assert ended_calls(path) == {"1"}, "another process: what was there is gone"


def test_where_a_log_is_full_nothing_counts_as_ended_that_it_does_not_tell(tmp_path: Path) -> None:
    """Then a killed task was at work, and is not done again by itself."""
    path = tmp_path / "a.log"
    with RawLog(path, 400) as log:
        log.extend("out", [result("1")], 1.0)
        log.extend("out", [b"x" * 400], 2.0)
        log.extend("out", [result("2")], 3.0)
    with RawLog(path, 400) as log:
        log.extend("out", [result("3")], 4.0)
    allowed = {"1": "Bash", "2": "Write", "3": "Bash"}
    at_work = [tool for use, tool in allowed.items() if use not in ended_calls(path)]
    assert at_work == ["Write", "Bash"]
    fate = salvage(Remains(sent=True, turns=3, allowed=tuple(allowed.values()), at_work=at_work))
    assert fate.status is TaskStatus.INTERRUPTED


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
    not_for_tasks = {"fork_of", "plain_folder"}  # a task begins a conversation of its own, and judges nothing
    fields = set(TaskSpec.__struct_fields__)
    assert set(SessionOptions.__struct_fields__) - fields <= ours | not_for_tasks
    assert set(Limits.__struct_fields__) <= fields
