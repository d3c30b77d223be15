"""Isolated sessions: the folder stays as it is, whatever they write, and nothing that they wrote is lost."""

from __future__ import annotations

import errno
import os
import subprocess
from pathlib import Path
from typing import cast

import msgspec
import pytest
import trio

from cms.config import Settings
from cms.containment import Mechanism, find_mechanism
from cms.daemon.call import Host
from cms.daemon.handlers.sessions import SessionHandlers
from cms.errors import ChangeNotFound, MachineError, UsageError, WrongChange, WrongStatus
from cms.fleet import applying
from cms.fleet.supervisor import Supervisor
from cms.live.workspace import copy_tree, find_workspace, layer_home, make_readable, measure_tree, remove_tree
from cms.rpc.sessions import CleanupParams
from cms.session.model import Isolate, Outcome
from cms.testing.script import call, prompt, say
from fleet.kit import delegate, make_options, make_settings, marked, supervising, until
from fleet.test_crash import begin


def bash(*scripts: str) -> str:
    """A task whose agent runs these."""
    return prompt("Work", *(call("Bash", command=script) for script in scripts), say("done"))


def seen(folder: Path) -> dict[str, str]:
    """What is in a folder, by name."""
    return {
        str(path.relative_to(folder)): path.read_text() if path.is_file() else "/"
        for path in folder.rglob("*")
        if ".git" not in path.relative_to(folder).parts
    }


def git(folder: Path, *argv: str) -> str:
    return subprocess.run(["git", *argv], cwd=folder, check=True, capture_output=True, text=True).stdout


def git_init(folder: Path) -> None:
    git(folder, "init", "-q")


def git_commit(folder: Path) -> None:
    git_init(folder)
    git = ("git", "-C", str(folder), "-c", "user.name=me", "-c", "user.email=me@example.org")
    for words in (("add", "-A"), ("commit", "-qm", "first")):
        subprocess.run((*git, *words), check=True)


async def left(supervisor: Supervisor, settings: Settings, name: str = "one") -> Path:
    """What a session has written."""
    workspace = find_workspace(layer_home(settings, (await supervisor.get(name)).id))
    assert workspace is not None
    return workspace.place


@pytest.fixture
def work(tmp_path: Path) -> Path:
    folder = tmp_path / "work"
    folder.mkdir()
    (folder / "code").write_text("old\n")
    (folder / "gone").write_text("x\n")
    (folder / "sub").mkdir()
    (folder / "sub" / "deep").write_text("deep\n")
    return folder


@pytest.mark.parametrize(("how", "writes"), [("overlay", "anywhere"), ("copy", "workdir")])
async def test_the_folder_stays_and_what_was_written_is_kept(
    tmp_path: Path, work: Path, how: Isolate, writes: str
) -> None:
    """Its checks see what it has left, and add nothing to that."""
    before = seen(work)
    settings = make_settings(tmp_path)
    async with supervising(settings) as supervisor:
        task = bash("echo new > code; rm gone; mv sub moved; echo .env >> .env; cat code sub/deep; pwd")
        checks = (
            "grep new code; test ! -e gone && echo litter > litter",
            "grep litter litter",
            "grep old code",
        )
        result = await delegate(supervisor, task, isolate=how, writes=writes, verify=checks)
        assert result.status is Outcome.VERIFICATION_FAILED
        failed = [reason for reason in result.reasons if reason.startswith("check failed")]
        assert failed == ["check failed: grep old code: exit status 1"]
        assert result.receipt is not None
        assert result.receipt.walls is not None
        assert result.receipt.walls.isolation == how
        assert seen(work) == before
        place = await left(supervisor, settings)
        assert (place / "code").read_text() == "new\n"
        if how == "overlay":
            assert not (place / "litter").exists()
        # A follow-up, another process, goes on with it.
        task = bash("test -e moved/deep && test ! -e gone && cat code >> more")
        await supervisor.continue_("one", task)
        assert (await left(supervisor, settings) / "more").read_text() == "new\n"
        assert seen(work) == before


async def test_what_is_protected_meets_no_wall_in_the_view(tmp_path: Path, work: Path) -> None:
    git_init(work)
    before = (work / ".git" / "config").read_bytes()
    settings = make_settings(tmp_path)
    async with supervising(settings) as supervisor:
        task = prompt(
            "Work",
            call("Write", file_path=str(work / ".git" / "hooks" / "post-commit"), content="#!/bin/sh\n"),
            call(
                "Bash",
                command="git config user.name me && git config user.email me@x && git add -A && "
                "git commit -qm mine && git log --format=%s > log",
            ),
            say("done"),
        )
        result = await delegate(supervisor, task, isolate="auto", writes="workdir")
        assert result.status is Outcome.COMPLETED, result
        assert (await left(supervisor, settings) / "log").read_text() == "mine\n"
        assert (work / ".git" / "config").read_bytes() == before
        assert not (work / ".git" / "hooks" / "post-commit").exists()
        assert not list((work / ".git" / "refs" / "heads").iterdir())


async def test_git_in_a_folder_of_a_repository(tmp_path: Path, work: Path) -> None:
    """Its `.git` lies above, and is not written either."""
    git_init(tmp_path)
    settings = make_settings(tmp_path)
    async with supervising(settings) as supervisor:
        task = bash(
            "git -c user.name=me -c user.email=x commit -qm mine --allow-empty && git log --format=%s > log"
        )
        result = await delegate(supervisor, task, isolate="overlay", writes="workdir")
        assert result.status is Outcome.COMPLETED, result
        assert (await left(supervisor, settings) / "log").read_text() == "mine\n"
        assert not list((tmp_path / ".git" / "refs" / "heads").iterdir())
        record = await supervisor.get("one")
        assert record.change is not None
        assert record.change.commits == 1
        git(tmp_path, "config", "user.email", "me@x")
        commit = await applying.bring_branch(supervisor, "one", "task")
        assert git(work, "log", "--format=%s", commit).splitlines()[-1] == "mine"


async def test_a_copy_whose_folder_moves_on(tmp_path: Path, work: Path) -> None:
    """What others make, change and remove meanwhile is not the task's doing, and is no hindrance."""
    settings = make_settings(tmp_path)
    async with supervising(settings) as supervisor:
        await delegate(supervisor, bash("echo new > code; echo x > made"), isolate="copy")
        (work / "sub" / "deep").write_text("person\n")
        (work / "created").write_text("person\n")
        (work / "gone").unlink()
        outcome = await applying.apply(supervisor, "one")
        assert outcome.applied, outcome
        assert outcome.written == (b"code", b"made")
        assert (work / "created").read_text() == "person\n"


async def test_other_folders_are_only_read(tmp_path: Path, work: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    settings = make_settings(tmp_path)
    async with supervising(settings) as supervisor:
        task = bash(f"echo x > {other}/x || echo refused > said")
        await delegate(supervisor, task, isolate="auto", writes="workdir", add_dirs=(str(other),))
        assert (await left(supervisor, settings) / "said").read_text() == "refused\n"
        assert not list(other.iterdir())


async def test_two_sessions_at_once_in_one_folder(tmp_path: Path, work: Path) -> None:
    settings = make_settings(tmp_path)
    async with supervising(settings) as supervisor:

        async def one(name: str) -> None:
            task = bash(f"cat code >> {name}; echo {name} > code; cat code")
            result = await delegate(
                supervisor, task, name=name, isolate="auto", verify=(f"grep {name} code",)
            )
            assert result.status is Outcome.COMPLETED, result

        async with trio.open_nursery() as nursery:
            for name in ("a", "b"):
                nursery.start_soon(one, name)
        for name in ("a", "b"):
            place = await left(supervisor, settings, name)
            assert seen(place) == {name: "old\n", "code": f"{name}\n"}
        assert (work / "code").read_text() == "old\n"


async def test_what_needs_no_view_has_none(tmp_path: Path, work: Path) -> None:
    settings = make_settings(tmp_path)
    async with supervising(settings) as supervisor:
        result = await delegate(supervisor, prompt("Look", say("fine")), isolate="auto", preset="read-only")
        assert result.status is Outcome.COMPLETED
        assert result.change is None
        assert not list(settings.layers.glob("*"))


# --- the change -----------------------------------------------------------------------------------


async def test_a_change_is_shown_applied_and_the_session_goes_on(tmp_path: Path, work: Path) -> None:
    settings = make_settings(tmp_path)
    async with supervising(settings) as supervisor:
        task = bash("printf 'old\\nnew\\n' > code; rm gone; mv sub moved; ln -s code link")
        result = await delegate(supervisor, task, isolate="auto", verify=("test -e link",))
        assert result.change is not None
        assert (result.change.state, result.change.files, result.change.removed) == ("kept", 5, 2)
        shown = await applying.show(supervisor, "one")
        assert [
            (entry.path, entry.kind) for entry in shown.change.entries if entry.after != entry.before
        ] == [
            (b"code", "modified"),
            (b"gone", "deleted"),
            (b"link", "added"),
            (b"moved", "added"),
            (b"moved/deep", "added"),
            (b"sub", "deleted"),
            (b"sub/deep", "deleted"),
        ]
        patch = (await supervisor.changes.write_patch(shown.session, shown.keep)).read_text()
        assert "+new\n" in patch
        outcome = await applying.apply(supervisor, "one")
        assert outcome.applied, outcome
        after = {"code": "old\nnew\n", "link": "old\nnew\n", "moved": "/", "moved/deep": "deep\n"}
        assert seen(work) == after
        record = await supervisor.get("one")
        assert record.change is not None
        assert record.change.state == "applied"
        with pytest.raises(WrongChange, match="applied"):
            await applying.apply(supervisor, "one")
        # It sees what is there now, and what it changes from then on is another change.
        (work / "theirs").write_text("x\n")
        await supervisor.continue_("one", bash("cat theirs code > mine; echo last >> code"))
        assert seen(work) == {**after, "theirs": "x\n"}
        outcome = await applying.apply(supervisor, "one")
        assert sorted(outcome.written) == [b"code", b"mine"]
        assert (work / "code").read_text() == "old\nnew\nlast\n"


async def test_a_conflict_writes_nothing(tmp_path: Path, work: Path) -> None:
    settings = make_settings(tmp_path)
    async with supervising(settings) as supervisor:
        await delegate(supervisor, bash("echo ours > code; echo x > fresh"), isolate="auto")
        (work / "code").write_text("theirs\n")
        before = seen(work)
        outcome = await applying.apply(supervisor, "one")
        assert [(one.path, one.why) for one in outcome.refused] == [(b"code", "conflict")]
        assert seen(work) == before
        outcome = await applying.apply(supervisor, "one", conflict_markers=True)
        assert outcome.marked == (b"code",)
        assert "<<<<<<<" in (work / "code").read_text()


async def test_what_is_protected_is_held_where_it_is_applied(tmp_path: Path, work: Path) -> None:
    (work / ".env").write_text("secret\n")
    settings = make_settings(tmp_path)
    async with supervising(settings) as supervisor:
        task = bash("echo mine > .env; echo new > code", f"ln -s {tmp_path} out")
        await delegate(supervisor, task, isolate="auto", writes="workdir")
        outcome = await applying.apply(supervisor, "one")
        assert {(one.path, one.why) for one in outcome.refused} == {
            (b".env", "protected"),
            (b"out", "outside"),
        }
        assert (work / "code").read_text() == "old\n"


async def test_a_change_is_discarded(tmp_path: Path, work: Path) -> None:
    settings = make_settings(tmp_path)
    async with supervising(settings) as supervisor:
        await delegate(supervisor, bash("echo new > code"), isolate="auto")
        await applying.discard(supervisor, "one")
        assert (work / "code").read_text() == "old\n"
        with pytest.raises(ChangeNotFound):
            await applying.apply(supervisor, "one")
        result = await supervisor.continue_("one", bash("grep old code && echo again > code"))
        assert result.change is not None
        assert result.change.files == 1
        await supervisor.delete("one", force=True)
        assert not list(settings.changes.glob("*.*"))


async def test_a_change_is_not_lost_with_its_session(tmp_path: Path, work: Path) -> None:
    settings = make_settings(tmp_path)
    async with supervising(settings) as supervisor:
        await delegate(supervisor, bash("echo new > code; chmod 0 sub"), isolate="auto")
        with pytest.raises(WrongStatus, match="not applied or exported") as refused:
            await supervisor.delete("one")
        assert str(settings.layers) in refused.value.hint
        handlers = SessionHandlers(supervisor, cast("Host", None), settings)
        for dry_run in (True, False):
            told = await handlers.cleanup(CleanupParams(days=0, dry_run=dry_run))
            assert not told.deleted
            assert [one.name for one in told.kept] == ["one"]
            assert str(settings.layers) in told.kept[0].why
            assert told.kept[0].lost == "its change is not applied or exported"
            assert f"cannot be deleted: {told.kept[0].lost} (" in told.kept[0].why
        files, whole = await applying.export(supervisor, "one", tmp_path / "one")
        assert (files, whole) == (1, True)
        assert (tmp_path / "one" / "files" / "code").read_text() == "new\n"
        assert "+new" in (tmp_path / "one" / "change.patch").read_text()
        with pytest.raises(WrongChange, match="already exists"):
            await applying.export(supervisor, "one", tmp_path / "one")
        record = await supervisor.get("one")
        await supervisor.delete("one")
        assert not (settings.layers / record.id).exists()


async def test_a_session_at_work_is_looked_at_and_not_applied(tmp_path: Path, work: Path) -> None:
    settings = make_settings(tmp_path)
    async with supervising(settings) as supervisor:
        task = prompt("Work", call("Bash", command="echo new > code; touch begun; sleep 600"), say("done"))
        options = make_options(settings, isolate="auto")
        await supervisor.start_delegate(options, task)
        await until(lambda: any(settings.layers.glob("*/1/0/upper/begun")))
        shown = await applying.show(supervisor, "one")
        assert shown.live
        assert shown.summary.files == 2
        with pytest.raises(WrongStatus, match="have its change applied"):
            await applying.apply(supervisor, "one")
        await supervisor.stop("one")


async def test_a_crash_loses_no_change(tmp_path: Path, work: Path) -> None:
    settings = make_settings(tmp_path)
    with trio.fail_after(30):
        with begin(tmp_path, "isolated") as doomed:
            assert doomed.stdout is not None
            assert await trio.to_thread.run_sync(doomed.stdout.readline) == b"ready\n"
            descriptors = [os.pidfd_open(pid) for pid in marked(settings)]
            doomed.kill()
        for descriptor in descriptors:
            await trio.lowlevel.wait_readable(descriptor)
            os.close(descriptor)
    async with supervising(settings) as supervisor:
        with pytest.raises(WrongStatus, match="not applied or exported"):
            await supervisor.delete("one")
        outcome = await applying.apply(supervisor, "one")
        assert outcome.applied
        assert (work / "mine").read_text() == "mine\n"
        assert not (work / "gone").exists()


async def test_a_work_tree_of_the_commit(tmp_path: Path, work: Path) -> None:
    """Without what is not committed, but for what is named; and none of that counts as deleted."""
    git_commit(work)
    for name in ("untracked", "named", "code"):
        (work / name).write_text(f"{name}\n")
    (work / "deps").mkdir()
    (work / "deps" / "lib").write_text("lib\n")
    (work / ".worktreeinclude").write_text("named\ndeps/\n")
    settings = make_settings(tmp_path)
    async with supervising(settings) as supervisor:
        task = bash(
            "ls > seen; cat code deps/lib named >> seen; rm gone; echo mine > sub/mine",
            "git -c user.name=me -c user.email=x@y commit -qam mine; git log --format=%s > log",
        )
        result = await delegate(
            supervisor, task, isolate="worktree", writes="workdir", verify=("test -e deps/lib",)
        )
        assert result.status is Outcome.COMPLETED, result
        place = await left(supervisor, settings)
        assert (place / "seen").read_text() == "code\ndeps\ngone\nnamed\nseen\nsub\nold\nlib\nnamed\n"
        assert (place / "log").read_text() == "mine\nfirst\n"
        shown = await applying.show(supervisor, "one")
        changed = {entry.path: entry.kind for entry in shown.change.entries}
        assert changed == {b"gone": "deleted", b"log": "added", b"seen": "added", b"sub/mine": "added"}
        assert shown.summary.commits == 1
        outcome = await applying.apply(supervisor, "one")
        assert outcome.applied, outcome
        assert (work / "untracked").read_text() == "untracked\n"
        assert (work / "code").read_text() == "code\n"
        assert not (work / "gone").exists()


async def test_a_work_tree_of_no_repository(tmp_path: Path, work: Path) -> None:
    settings = make_settings(tmp_path)
    async with supervising(settings) as supervisor:
        with pytest.raises(UsageError, match="is not the top of a git repository"):
            await delegate(supervisor, bash("true"), isolate="worktree")
        git_init(work)
        with pytest.raises(UsageError, match="has no commit yet"):
            await delegate(supervisor, bash("true"), isolate="worktree")


async def test_a_machine_that_cannot_leave_the_folder_as_it_is(tmp_path: Path, work: Path) -> None:
    """No session is begun there that would write the folder itself, whatever was asked for."""
    settings = msgspec.structs.replace(make_settings(tmp_path), containment="guard")
    async with supervising(settings) as supervisor:
        for how in ("auto", "overlay", "copy"):
            with pytest.raises(UsageError, match="cannot give a session its own view"):
                await delegate(supervisor, bash("echo x > code"), isolate=how)
    assert (work / "code").read_text() == "old\n"


# --- bad input ------------------------------------------------------------------------------------


async def test_a_folder_that_holds_our_own(tmp_path: Path, work: Path) -> None:
    settings = make_settings(tmp_path)
    async with supervising(settings) as supervisor:
        with pytest.raises(UsageError, match="holds cms's own folder"):
            await delegate(supervisor, bash("true"), work_dir=str(tmp_path), isolate="auto")
        assert await supervisor.sessions() == []


async def test_a_machine_without_overlays(
    tmp_path: Path, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(_mechanism: Mechanism, _folder: Path, _place: Path) -> str:
        return "no overlay here"

    mechanism = await find_mechanism()
    monkeypatch.setattr(type(mechanism), "why_no_layer", refuse)
    settings = make_settings(tmp_path)
    async with supervising(settings) as supervisor:
        with pytest.raises(UsageError, match="--isolate=overlay: no overlay here"):
            await delegate(supervisor, bash("true"), isolate="overlay")
        assert await supervisor.sessions() == []
        result = await delegate(supervisor, bash("echo new > code"), isolate="auto")
        assert result.receipt is not None
        assert result.receipt.walls is not None
        assert result.receipt.walls.isolation == "copy (no overlay here)"
        assert (work / "code").read_text() == "old\n"


async def test_no_room_for_a_view(tmp_path: Path, work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is told in a line, nothing runs, and the next try has what it needs."""

    def full(path: Path, _data: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    settings = make_settings(tmp_path)
    async with supervising(settings) as supervisor:
        with monkeypatch.context() as patch:
            patch.setattr("cms.live.workspace.replace_file", full)
            with pytest.raises(MachineError, match="the view of one: No space left on device"):
                await delegate(supervisor, bash("echo x > code"), isolate="auto")
        assert (work / "code").read_text() == "old\n"
        result = await supervisor.continue_("one", bash("echo new > code"))
        assert result.status is Outcome.COMPLETED, result
        with pytest.raises(MachineError, match="No such file or directory"):
            await applying.export(supervisor, "one", tmp_path / "gone" / "x.patch")
        (work / "code").unlink()
        work.rename(tmp_path / "elsewhere")  # noqa: ASYNC240 - in a test
        outcome = await applying.apply(supervisor, "one")
        assert [one.why for one in outcome.refused] == ["folder"]
        (tmp_path / "elsewhere").rename(work)


# --- trees ----------------------------------------------------------------------------------------


def test_a_copy_has_modes_times_and_links_and_no_pipes(tmp_path: Path, work: Path) -> None:
    (work / "link").symlink_to("code")
    os.mkfifo(work / "pipe")
    (work / "code").chmod(0o755)
    (work / "sub").chmod(0o555)
    os.utime(work / "code", (1, 2))
    copy = tmp_path / "copy"
    copy_tree(work, copy)
    assert sorted(path.name for path in copy.iterdir()) == ["code", "gone", "link", "sub"]
    assert (copy / "link").readlink() == Path("code")
    assert (copy / "code").stat().st_mode == (work / "code").stat().st_mode
    assert (copy / "code").stat().st_mtime == 2
    assert (copy / "sub").stat().st_mode == (work / "sub").stat().st_mode
    assert (copy / "sub" / "deep").read_text() == "deep\n"
    (work / "sub").chmod(0o755)
    remove_tree(copy)
    assert not copy.exists()


def test_what_not_even_its_owner_may_read_is_made_readable(tmp_path: Path) -> None:
    (tmp_path / "closed" / "in").mkdir(parents=True)
    (tmp_path / "closed" / "in" / "file").write_text("x")
    (tmp_path / "closed" / "in" / "file").chmod(0o020)
    (tmp_path / "closed").chmod(0)
    assert make_readable(tmp_path)
    assert (tmp_path / "closed").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "closed" / "in" / "file").stat().st_mode & 0o777 == 0o420
    assert not make_readable(tmp_path)


def test_a_tree_goes_whatever_is_in_it(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "closed").mkdir(parents=True)
    (tree / "closed" / "file").write_text("x")
    (tree / "out").symlink_to(tmp_path)
    (tree / "closed").chmod(0)
    here = os.open(tree, os.O_RDONLY)
    for _ in range(1100):
        os.mkdir("d", dir_fd=here)
        below = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    remove_tree(tree)
    assert not tree.exists()
    assert tmp_path.exists()
    remove_tree(tree)


async def test_what_a_view_takes_of_the_disk_is_known_before(tmp_path: Path, work: Path) -> None:
    settings = make_settings(tmp_path)
    (work / "big").write_bytes(os.urandom(300_000))
    async with supervising(settings) as supervisor:
        assert await supervisor.changes.view(make_options(settings)) is None
        overlay = await supervisor.changes.view(make_options(settings, isolate="overlay"))
        copy = await supervisor.changes.view(make_options(settings, isolate="copy"))
        assert overlay is not None
        assert copy is not None
        assert overlay.bytes == 0
        assert 300_000 <= copy.bytes < 600_000
        assert copy.free > 0
        assert copy.whole
    assert measure_tree(work, 0.0)[1] is False
