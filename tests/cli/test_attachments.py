"""Files in prompts, from every command that sends one: read, kept, shown, sent again, removed."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest

from cli.shell import Ran, Shell, shell
from cms.testing.script import prompt, say

__all__ = ["shell"]

GIF = b"GIF89a" + b"." * 250
LOOK = prompt("Look.", say("Seen."))


@pytest.fixture
def gif(shell: Shell) -> Path:
    path = shell.work_dir / "photo.gif"
    path.write_bytes(GIF)
    (shell.work_dir / "notes.txt").write_text("remember the milk")
    return path


def kept(shell: Shell) -> set[str]:
    folder = shell.home / "attachments"
    return {path.name for path in folder.iterdir()} if folder.exists() else set()


def attached(shell: Shell, name: str) -> list[list[str]]:
    """The names of what went with each message."""
    found = shell.ok("history", name, "--json").list("interactions")
    lists = msgspec.convert([one["attachments"] for one in found], list[list[dict[str, object]]])
    return [[str(one["name"]) for one in each] for each in lists]


@pytest.mark.usefixtures("gif")
def test_from_the_first_message_to_the_end(shell: Shell) -> None:
    before = kept(shell)
    both = ("--attach", "photo.gif", "--attach", "notes.txt")
    shell.ok("spawn", "see", LOOK, *both)
    shell.ok("send", "see", LOOK, "--attach=photo.gif")
    shell.ok("stop", "see")
    shell.ok("continue", "see", LOOK, "--attach", "notes.txt")
    assert attached(shell, "see") == [["photo.gif", "notes.txt"], ["photo.gif"], ["notes.txt"]]
    mine = kept(shell) - before
    assert len(mine) == 4
    assert {(shell.home / "attachments" / one).stat().st_mode & 0o777 for one in mine} == {0o600}
    assert "  attached: [image photo.gif, 256 B]\n" in shell.ok("history", "see").out
    logs = shell.ok("logs", "see").out
    assert "[image photo.gif, 256 B]" in logs
    assert "milk" not in shell.ok("logs", "see", "--raw").out  # the raw log has names, and no content
    shell.ok("fork", "see", "seen-too", LOOK)
    shell.ok("delete", "see", "--force")
    assert kept(shell) == before


@pytest.mark.usefixtures("gif")
def test_a_delegation_here_and_in_the_daemon(shell: Shell) -> None:
    for flags in ((), ("--foreground",)):
        name = f"look{len(flags)}"
        shell.ok("delegate", name, LOOK, "--attach", "photo.gif", *flags)
        assert attached(shell, name) == [["photo.gif"]]


def test_tasks_of_a_batch_have_theirs_and_again_when_they_are_tried_again(shell: Shell, gif: Path) -> None:
    (shell.work_dir / "rows.csv").write_text("file\nphoto.gif\nnotes.txt\n")
    before = kept(shell)
    task = {"name": "see", "prompt": LOOK, "attach": ["{{row.file}}", str(gif)]}
    (shell.work_dir / "seen.json").write_bytes(msgspec.json.encode([task]))
    shell.ok("batch", "--file", "seen.json", "--data", "rows.csv")
    assert attached(shell, "see-1") == [["photo.gif", "photo.gif"]]
    assert attached(shell, "see-2") == [["notes.txt", "photo.gif"]]
    assert len(kept(shell) - before) == 2  # each once for all tasks

    again = prompt("Look again.", say("Seen.").failing(400, times=1))
    retried = {"name": "retried", "prompt": again, "attach": ["photo.gif"], "retries": 1}
    (shell.work_dir / "again.json").write_bytes(msgspec.json.encode([retried]))
    shell.ok("batch", "--file", "again.json")
    assert attached(shell, "retried") == [["photo.gif"]]


@pytest.mark.usefixtures("gif")
def test_a_row_names_no_file_outside_of_the_work_dir(shell: Shell) -> None:
    secret = shell.root / "secret.txt"
    secret.write_text("mine")
    (shell.work_dir / "out").symlink_to(shell.root)
    task = {"name": "leak", "prompt": LOOK, "attach": ["{{row.file}}"]}
    (shell.work_dir / "leak.json").write_bytes(msgspec.json.encode([task]))
    for path in (str(secret), "../secret.txt", "out/secret.txt"):
        (shell.work_dir / "leak.csv").write_text(f"file\n{path}\n")
        ran = shell.cms("batch", "--file", "leak.json", "--data", "leak.csv")
        assert ran.code == 2
        assert "cannot be attached for a row: it is outside of" in ran.err


def test_a_file_of_tasks_names_what_is_there(shell: Shell) -> None:
    (shell.work_dir / "bad.json").write_bytes(
        msgspec.json.encode([{"name": "x", "prompt": "Look.", "attach": ["nowhere.png"]}])
    )
    ran = shell.cms("batch", "--file", "bad.json")
    assert ran.code == 2
    assert "task 'x'" in ran.err
    assert "nowhere.png cannot be attached: No such file" in ran.err


def refused(shell: Shell, path: str) -> Ran:
    ran = shell.cms("spawn", "never", LOOK, "--attach", path)
    assert ran.code == 2
    return ran


def test_what_cannot_be_attached_starts_nothing(shell: Shell) -> None:
    folder = shell.work_dir
    (folder / "link.txt").symlink_to("/etc/hostname")
    os.mkfifo(folder / "pipe")
    (folder / "binary").write_bytes(b"\0\1\2")
    (folder / "fake.png").write_bytes(b"\x7fELF\0")
    (folder / "long.txt").write_text("x" * (1024 * 1024 + 1))
    assert "is a link" in refused(shell, "link.txt").err
    assert "not a regular file" in refused(shell, "pipe").err
    assert "not an image (PNG, JPEG, GIF, WebP), a PDF or UTF-8 text" in refused(shell, "binary").err
    assert "not an image" in refused(shell, "fake.png").err
    assert "a text may have 1 MiB" in refused(shell, "long.txt").err
    assert shell.cms("status", "never").code == 10


@pytest.mark.usefixtures("gif")
def test_what_is_gone_fails_its_message_and_no_other(shell: Shell) -> None:
    before = kept(shell)
    shell.ok("spawn", "slow", LOOK)
    busy = prompt("Wait.", say("Waited.").after(60))
    shell.ok("send", "slow", busy, "--detach")
    shell.ok("send", "slow", LOOK, "--detach", "--attach", "photo.gif")
    for one in kept(shell) - before:
        (shell.home / "attachments" / one).unlink()
    shell.ok("interrupt", "slow")
    shell.cms("wait", "slow")
    last = shell.ok("history", "slow", "--json").list("interactions")[-1]
    assert last["outcome"] == "failed"
    assert "photo.gif is gone" in str(last["error"])
    assert shell.ok("send", "slow", LOOK).out.endswith("Seen.\n")
