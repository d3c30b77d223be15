"""A conversation that was begun in claude itself becomes a session."""

from __future__ import annotations

import json
import os
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.shell import Shell, shell
from cms.testing.script import prompt, say

__all__ = ["shell"]

HELLO = prompt("Tell me about locks.", say("There are many."))


def projects(shell: Shell) -> Path:
    return Path(shell.env["HOME"], ".claude", "projects")


def outside(shell: Shell, text: str = "Tell me about locks.") -> str:
    """A conversation as claude keeps one, and as the simulated agent can go on with it."""
    one = str(uuid.uuid4())
    folder = projects(shell) / str(shell.work_dir).replace("/", "-")
    folder.mkdir(parents=True, exist_ok=True)
    message = {"role": "user", "content": text}
    lines = (
        {"type": "queue-operation", "content": text},
        {"type": "user", "message": {"role": "user", "content": "<command-name>/x</command-name>"}},
        {"type": "user", "cwd": str(shell.work_dir), "message": message},
        {"type": "message", "message": {"role": "user", "content": [{"type": "text", "text": text}]}},
    )
    (folder / f"{one}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return one


def test_it_is_listed_adopted_and_gone_on_with(shell: Shell) -> None:
    one = outside(shell)
    listed = shell.ok("adopt").out
    assert one[:8] in listed
    assert "Tell me about locks." in listed
    (entry,) = [each for each in shell.ok("adopt", "--json").list("conversations") if each["id"] == one]
    assert (entry["folder"], entry["session"]) == (str(shell.work_dir), "")

    adopted = shell.ok("adopt", one[:8], "--name", "locks", "--preset", "read-only", "--max-cost", "2")
    assert "what it has cost until now is not counted" in adopted.out
    status = shell.status("locks")
    assert (status["claudeSessionId"], status["preset"]) == (one, "read-only")
    assert (status["totalCostUsd"], status["totalTurns"], status["status"]) == (0, 0, "created")
    assert shell.ok("send", "locks", HELLO).out.endswith("There are many.\n")
    assert shell.status("locks")["claudeSessionId"] == one

    again = shell.cms("adopt", one)
    assert again.code == 2
    assert "session 'locks' already" in again.err
    assert "locks" in shell.ok("adopt").out.split(one[:8])[1].splitlines()[0]
    shell.ok("stop", "locks")


def test_its_name_and_folder_follow_from_it(shell: Shell) -> None:
    one = outside(shell)
    assert shell.ok("adopt", one, "--json").json()["name"] == f"project-{one[:8]}"
    other = outside(shell)
    refused = shell.cms("adopt", other, "--work-dir", "/")
    assert refused.code == 2
    assert f"begun in {shell.work_dir}" in refused.err


def test_what_is_none_or_not_one(shell: Shell) -> None:
    assert "no conversation begins with" in shell.cms("adopt", "abcdef01").err
    assert "not a conversation's id" in shell.cms("adopt", "../../etc/passwd").err
    one = outside(shell)
    twin = projects(shell) / "elsewhere" / f"{one[:8]}-twin.jsonl"
    twin.parent.mkdir(exist_ok=True)
    twin.write_text(json.dumps({"type": "user", "cwd": "/", "message": {"role": "user", "content": "hi"}}))
    assert "several conversations" in shell.cms("adopt", one[:8]).err
    assert shell.ok("adopt", one).code == 0


@pytest.fixture
def claude_elsewhere(shell: Shell) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "60"]) as process:
        yield process
        process.kill()


def test_a_conversation_that_a_claude_is_in_is_left_alone(
    shell: Shell, claude_elsewhere: subprocess.Popen[bytes]
) -> None:
    one, pid = outside(shell), claude_elsewhere.pid
    note = Path(shell.env["HOME"], ".claude", "sessions", f"{pid}.json")
    note.parent.mkdir(parents=True, exist_ok=True)
    started = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    running = {"pid": pid, "sessionId": one, "procStart": started, "status": "idle"}
    note.write_text(json.dumps(running))
    refused = shell.cms("adopt", one)
    assert refused.code == 2
    assert f"claude is running in that conversation (pid {pid}" in refused.err
    note.write_text(json.dumps(running | {"procStart": "1"}))  # its pid is another's by now
    shell.ok("adopt", one)


def test_what_an_agent_could_put_there_holds_nothing_up(shell: Shell) -> None:
    folder = projects(shell) / "planted"
    folder.mkdir(parents=True, exist_ok=True)
    os.mkfifo(folder / f"{uuid.uuid4()}.jsonl")
    (folder / f"{uuid.uuid4()}.jsonl").symlink_to("/etc/passwd")
    (folder / f"{uuid.uuid4()}.jsonl").write_bytes(b"\xff\n{}\nnull\n[1]\n" * 1000)
    (folder / f"{uuid.uuid4()}.jsonl").mkdir()
    os.mkfifo(Path(shell.env["HOME"], ".claude", "sessions.json"))
    one = outside(shell, "x" * 1000)
    listed = shell.ok("adopt", "--json").list("conversations")
    assert listed[0]["id"] == one
    assert len(str(listed[0]["first"])) == 300
