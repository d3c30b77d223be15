"""What an apply does where the folder has moved on, and what it refuses."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import subprocess
import threading
import time
from pathlib import Path
from unittest import mock

import pytest

from changes.edits import snapshot
from changes.worlds import Task, World
from cms.changes import (
    Outcome,
    apply,
    content,
    discard,
    find_applied,
    freeze,
    load,
    recover,
    revert,
    stage,
    transaction,
)
from cms.changes import lines as texts
from cms.changes.locks import hold
from cms.errors import ChangeNotFound, ChangeUnreadable, MachineError, WrongChange

NUMBERS = "".join(f"{n}\n" for n in range(1, 21))


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def git(folder: Path, *argv: str) -> str:
    env = {**os.environ, "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1"}
    who = ("-c", "user.name=A", "-c", "user.email=a@b")
    return subprocess.run(
        ["git", *who, *argv], cwd=folder, env=env, check=True, capture_output=True, text=True
    ).stdout


def refused(world: World, outcome: Outcome, before: object, *expected: tuple[bytes, str]) -> None:
    """These were refused, and nothing else was done."""
    assert [(each.path, each.why) for each in outcome.refused] == list(expected)
    assert all(each.detail for each in outcome.refused)
    assert not outcome.applied
    assert snapshot(world.project) == before
    assert find_applied(world.keep()) is None


def rewrite(path: Path, old: str, new: str) -> None:
    path.write_text(path.read_text().replace(old, new))


# --- where the folder has moved on ---------------------------------------------------------------


def test_what_others_changed_in_the_same_file_is_kept(world: World) -> None:
    world.write(a=NUMBERS)
    task = world.begin()
    rewrite(task.place / "a", "2\n", "two\n")
    task.freeze()
    rewrite(world.project / "a", "19\n", "nineteen\n")
    outcome = apply(world.keep())
    assert (outcome.applied, outcome.merged) == (True, (b"a",))
    assert (world.project / "a").read_text() == NUMBERS.replace("2\n", "two\n").replace("19\n", "nineteen\n")
    assert revert(world.keep()).applied
    assert (world.project / "a").read_text() == NUMBERS.replace("19\n", "nineteen\n")


@pytest.mark.parametrize("with_git", [True, False])
def test_a_conflict_is_told_and_nothing_is_written(world: World, with_git: bool) -> None:
    world.write(a=NUMBERS, b="x\n")
    task = world.begin()
    rewrite(task.place / "a", "5\n", "five\n")
    (task.place / "b").write_text("y\n")
    task.freeze()
    rewrite(world.project / "a", "5\n", "cinq\n")
    before = snapshot(world.project)
    with mock.patch.object(texts, "_merge_by_git", texts._merge_by_git if with_git else lambda *_: None):
        refused(world, apply(world.keep()), before, (b"a", "conflict"))
        partly = apply(world.keep(), partial=True, dry_run=True)
        assert partly.written == (b"b",)
        outcome = apply(world.keep(), conflict_markers=True)
    assert (outcome.applied, outcome.marked) == (True, (b"a",))
    text = (world.project / "a").read_text()
    assert "<<<<<<< folder\ncinq\n" in text
    assert "five\n>>>>>>> task\n" in text


def test_what_is_there_already_is_left_alone(world: World) -> None:
    world.write(a="x\n")
    task = world.begin()
    (task.place / "a").write_text("y\n")
    (task.place / "new").write_text("z\n")
    task.freeze()
    (world.project / "a").write_text("y\n")
    inode = (world.project / "a").stat().st_ino
    outcome = apply(world.keep())
    assert (outcome.same, outcome.written) == ((b"a",), (b"new",))
    assert (world.project / "a").stat().st_ino == inode


def test_files_that_changed_since_are_refused_one_by_one(world: World) -> None:
    world.write(edited="x\n", gone="x\n", removed="x\n", mode="x\n", fine="x\n", dir__x="x\n")
    (world.project / "binary").write_bytes(b"\0one")
    task = world.begin()
    for name in ("edited", "gone", "fine"):
        (task.place / name).write_text("task\n")
    (task.place / "binary").write_bytes(b"\0two")
    (task.place / "removed").unlink()
    (task.place / "mode").chmod(0o755)
    (task.place / "new").write_text("task\n")
    shutil.rmtree(task.place / "dir")
    task.freeze()
    world.write(edited="person\n", removed="person\n", new="person\n", dir__y="person\n")
    (world.project / "binary").write_bytes(b"\0three")
    (world.project / "gone").unlink()
    (world.project / "mode").chmod(0o600)
    before = snapshot(world.project)
    expected = (
        (b"binary", "changed"), (b"dir", "changed"), (b"edited", "conflict"), (b"gone", "changed"),
        (b"mode", "changed"), (b"new", "changed"), (b"removed", "changed"),
    )  # fmt: skip
    refused(world, apply(world.keep()), before, *expected)
    assert apply(world.keep(), partial=True).written == (b"dir/x", b"fine")


def test_a_folder_that_others_write_in_too(world: World) -> None:
    world.write(dir__x="x\n")
    task = world.begin()
    (task.place / "dir" / "mine").write_text("m\n")
    (task.place / "both").mkdir()
    (task.place / "both" / "mine").write_text("m\n")
    task.freeze()
    world.write(dir__theirs="t\n", both__theirs="t\n")
    assert apply(world.keep()).applied
    assert {path for path in snapshot(world.project) if b"/" in path} == {
        b"both/mine", b"both/theirs", b"dir/mine", b"dir/theirs", b"dir/x",
    }  # fmt: skip
    assert revert(world.keep()).refused == ()
    assert b"both/theirs" in snapshot(world.project)


def test_the_folder_it_needs_is_gone(world: World) -> None:
    world.write(dir__x="x\n")
    task = world.begin()
    (task.place / "dir" / "new").write_text("n\n")
    task.freeze()
    shutil.rmtree(world.project / "dir")
    refused(world, apply(world.keep()), {}, (b"dir/new", "changed"))


# --- what the base is ----------------------------------------------------------------------------


def test_two_tasks_at_once_in_one_file(world: World) -> None:
    """The first apply keeps what it replaced: so the second knows what it started from."""
    world.write(a=NUMBERS, b="x\n")
    one, two, three = world.begin(), world.begin(), world.begin()
    rewrite(one.place / "a", "2\n", "two\n")
    rewrite(two.place / "a", "19\n", "nineteen\n")
    rewrite(three.place / "a", "2\n", "zwei\n")
    one.freeze("one")
    assert apply(world.keep("one")).applied
    (entry,) = two.freeze("two").entries
    assert (entry.base, entry.added, entry.removed) == ("apply", 1, 1)
    assert apply(world.keep("two")).merged == (b"a",)
    assert (world.project / "a").read_text() == NUMBERS.replace("2\n", "two\n").replace("19\n", "nineteen\n")
    (entry,) = three.freeze("three").entries
    assert entry.base == "apply"
    assert [each.why for each in apply(world.keep("three")).refused] == ["conflict"]


def test_a_file_that_was_touched_before_the_change_was_frozen_has_no_base(world: World) -> None:
    world.write(a=NUMBERS, same="x\n", gone="x\n")
    task = world.begin()
    rewrite(task.place / "a", "2\n", "two\n")
    (task.place / "same").write_text("agreed\n")
    (task.place / "gone").unlink()
    rewrite(world.project / "a", "19\n", "nineteen\n")
    world.write(same="agreed\n", gone="person\n")
    change = task.freeze()
    unknown = [entry.path for entry in change.entries if entry.base == "unknown"]
    assert unknown == [b"a", b"gone", b"same"]
    before = snapshot(world.project)
    refused(world, apply(world.keep()), before, (b"a", "unknown"), (b"gone", "unknown"))


def test_the_commit_at_the_start_is_a_base(world: World) -> None:
    world.write(a=NUMBERS, dirty="x\n")
    git(world.project, "init", "-q")
    git(world.project, "add", ".")
    git(world.project, "commit", "-qm", "one")
    task = world.begin()
    assert len(task.start.commit) == 40
    assert task.start.branch in ("main", "master")
    rewrite(task.place / "a", "2\n", "two\n")
    (task.place / "dirty").write_text("y\n")
    rewrite(world.project / "a", "19\n", "nineteen\n")
    world.write(dirty="z\n")
    change = freeze(task.read(), world.keep(), task.start, dirty=[b"dirty"])
    assert {entry.path: entry.base for entry in change.entries} == {b"a": "commit", b"dirty": "unknown"}
    assert apply(world.keep(), partial=True).merged == (b"a",)
    assert (world.project / "a").read_text() == NUMBERS.replace("2\n", "two\n").replace("19\n", "nineteen\n")


# --- what is refused -------------------------------------------------------------------------------


def test_protected_paths(world: World) -> None:
    world.write(a="x\n")
    task = world.begin()
    (task.place / "a").write_text("y\n")
    (task.place / ".env").write_text("KEY=1\n")
    task.freeze()
    before = snapshot(world.project)

    def forbids(path: bytes) -> str:
        return "it is protected" if path == b".env" else ""

    refused(world, apply(world.keep(), forbids=forbids), before, (b".env", "protected"))
    assert apply(world.keep(), forbids=forbids, partial=True).written == (b"a",)


@pytest.mark.parametrize(
    ("target", "out"),
    [
        ("/etc/passwd", True), ("../../x", True), ("../x", True), ("d/../../x", True), ("d/../x", True),
        ("..", True), (".", False), ("d/x", False), ("./d/./x", False), ("nowhere", False),
    ],
)  # fmt: skip
def test_links_that_lead_out(world: World, target: str, out: bool) -> None:
    task = world.begin()
    (task.place / "link").symlink_to(target)
    task.freeze()
    if out:
        refused(world, apply(world.keep()), {}, (b"link", "outside"))
    else:
        assert apply(world.keep()).applied


def test_links_into_the_folder_and_links_that_were_there(world: World) -> None:
    world.write(d__x="x\n")
    (world.project / "out").symlink_to("/etc")
    task = world.begin()
    (task.place / "d" / "up").symlink_to("../a")
    (task.place / "whole").symlink_to(f"{world.project}/d/x")
    (task.place / "out").unlink()
    task.freeze()
    assert apply(world.keep()).applied
    assert revert(world.keep()).refused[0].why == "outside", "a revert is no way to make one either"


def test_a_folder_on_the_way_that_became_a_link(world: World) -> None:
    world.write(d__x="x\n")
    outside = world.root / "outside"
    outside.mkdir()
    (outside / "x").write_text("x\n")
    task = world.begin()
    (task.place / "d" / "x").write_text("y\n")
    (task.place / "d" / "new").write_text("y\n")
    task.freeze()
    shutil.rmtree(world.project / "d")
    (world.project / "d").symlink_to(outside)
    before = snapshot(world.project)
    refused(world, apply(world.keep()), before, (b"d/new", "link"), (b"d/x", "link"))
    assert (outside / "x").read_text() == "x\n"


def test_a_link_that_is_put_there_at_the_last_moment(world: World) -> None:
    """Between the plan and the deed: nothing is written through it."""
    world.write(d__x="x\n")
    outside = world.root / "outside"
    outside.mkdir()
    task = world.begin()
    (task.place / "d" / "new").write_text("y\n")
    task.freeze()
    real = stage.prepare

    def swap(*args: object) -> stage.Deed:
        deed = real(*args)  # type: ignore[arg-type]  # as it was called
        (world.project / "d").rename(world.project / "e")
        (world.project / "d").symlink_to(outside)
        args[1].forget()  # type: ignore[attr-defined]  # the tree: as if the folder had not been open
        return deed

    with mock.patch.object(transaction, "prepare", swap):
        outcome = apply(world.keep())
    assert [each.why for each in outcome.refused] == ["link"]
    assert list(outside.iterdir()) == []


def test_repositories_within(world: World) -> None:
    world.write(inner__x="x\n", module__x="x\n", plain__x="x\n")
    (world.project / "inner" / ".git").mkdir()
    (world.project / "module" / ".git").write_text("gitdir: ../.git/modules/module\n")
    task = world.begin()
    for name in ("inner", "module", "plain"):
        (task.place / name / "x").write_text("y\n")
    (task.place / "inner" / ".git" / "config").write_text("[core]\n")
    (task.place / "plain" / ".GIT").mkdir()
    (task.place / "plain" / ".GIT" / "config").write_text("[core]\n")
    task.freeze()
    before = snapshot(world.project)
    expected = (
        (b"inner/x", "nested"), (b"module/x", "nested"), (b"plain/.GIT", "nested"),
        (b"plain/.GIT/config", "nested"),
    )  # fmt: skip
    refused(world, apply(world.keep()), before, *expected)


def test_a_repository_in_the_middle_of_something(world: World) -> None:
    world.write(a="x\n")
    git(world.project, "init", "-q")
    task = world.begin()
    (task.place / "a").write_text("y\n")
    task.freeze()
    (world.project / ".git" / "rebase-merge").mkdir()
    before = snapshot(world.project)
    refused(world, apply(world.keep()), before, (b"", "repository"))


def test_a_folder_that_is_gone(world: World) -> None:
    world.write(a="x\n")
    task = world.begin()
    (task.place / "a").write_text("y\n")
    task.freeze()
    shutil.rmtree(world.project)
    outcome = apply(world.keep())
    assert [(each.path, each.why) for each in outcome.refused] == [(b"", "folder")]
    assert load(world.keep()).entries


def test_no_space(world: World) -> None:
    world.write(a="x\n", b="x\n")
    task = world.begin()
    for name in ("a", "b"):
        (task.place / name).write_text("y\n")
    task.freeze()
    before = snapshot(world.project)
    real = content.copy_file
    calls = []

    def full(*args: object) -> int:
        calls.append(args)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(*args)  # type: ignore[arg-type]  # as it was called

    with mock.patch.object(stage, "copy_file", full):
        refused(world, apply(world.keep()), before, (b"", "space"))


@pytest.mark.parametrize(("number", "why"), [(errno.EROFS, "permission"), (errno.EDQUOT, "space")])
def test_a_folder_in_which_nothing_can_be_made(world: World, number: int, why: str) -> None:
    world.write(a="x\n")
    task = world.begin()
    (task.place / "a").write_text("y\n")
    task.freeze()
    before = snapshot(world.project)
    with mock.patch.object(transaction, "Stage", side_effect=OSError(number, os.strerror(number))):
        refused(world, apply(world.keep()), before, (b"", why))
    assert not (world.keep() / "journal.json").exists()


def test_names_that_are_one_where_no_case_is_told_apart(world: World) -> None:
    task = world.begin()
    (task.place / "Readme").write_text("y\n")
    (task.place / "README").write_text("y\n")
    task.freeze()
    with mock.patch("cms.changes.planning.ignores_case", return_value=True):
        refused(world, apply(world.keep()), {}, (b"Readme", "case"))
    assert apply(world.keep()).applied


# --- while others write ------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["in place", "by a rename", "removed", "a new file"])
def test_a_file_that_is_changed_at_the_last_moment(world: World, how: str) -> None:
    """All that was done is undone, and what the person wrote is there."""
    world.write(a="x\n", b="x\n", c="x\n")
    task = world.begin()
    for name in ("a", "b", "new"):
        (task.place / name).write_text("task\n")
    (task.place / "c").unlink()
    task.freeze()
    real = transaction._Doer.do

    def meanwhile(doer: transaction._Doer) -> None:
        if how == "in place":
            (world.project / "b").write_text("person, longer\n")
        elif how == "by a rename":
            (world.root / "draft").write_text("person\n")
            (world.root / "draft").rename(world.project / "b")
        elif how == "removed":
            (world.project / "b").unlink()
        else:
            (world.project / "new").write_text("person\n")
        saved.update(snapshot(world.project))
        real(doer)

    saved: dict[bytes, object] = {}
    with mock.patch.object(transaction._Doer, "do", meanwhile):
        outcome = apply(world.keep())
    saved = {path: state for path, state in saved.items() if not path.startswith(b".cms-apply-")}
    path = b"new" if how == "a new file" else b"b"
    refused(world, outcome, saved, (path, "changed"))


def test_two_applies_at_once_take_turns(world: World) -> None:
    world.write(a=NUMBERS)
    tasks = [world.begin() for _ in range(4)]
    for number, task in enumerate(tasks):
        old = f"{number * 5 + 2}\n"
        (task.place / "a").write_text(NUMBERS.replace("\n" + old, "\nnew " + old))
        task.freeze(str(number))
    found: list[Outcome] = []
    threads = [
        threading.Thread(target=lambda name=str(number): found.append(apply(world.keep(name))))
        for number in range(len(tasks))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [outcome.applied for outcome in found] == [True] * 4
    assert (world.project / "a").read_text().count("new ") == 4


def test_the_one_who_waits_too_long_is_told(world: World) -> None:
    world.write(d__a="x\n")
    task = world.begin()
    (task.place / "d" / "a").write_text("y\n")
    task.freeze()
    with hold(world.changes, world.project / "d", 0.0):  # within it
        before = snapshot(world.project)
        refused(world, apply(world.keep(), wait=0.0), before, (b"", "busy"))
    assert apply(world.keep(), wait=0.0).applied


# --- what else ------------------------------------------------------------------------------------


def test_modes_and_owners(world: World) -> None:
    world.write(a="x\n", run="x\n")
    (world.project / "run").chmod(0o750)
    if os.geteuid() == 0:
        os.chown(world.project, 4242, 4242)
        os.chown(world.project / "run", 4243, 4243)
    task = world.begin()
    (task.place / "run").write_text("y\n")
    (task.place / "tool").write_text("y\n")
    (task.place / "tool").chmod(0o6755)
    task.freeze()
    assert apply(world.keep()).applied
    run, tool = (world.project / "run").stat(), (world.project / "tool").stat()
    assert (stat.S_IMODE(run.st_mode), stat.S_IMODE(tool.st_mode)) == (0o750, 0o755), "never set-user-id"
    if os.geteuid() == 0:
        assert (run.st_uid, tool.st_uid) == (4243, 4242)


def test_an_apply_that_was_cut_off_is_ended_by_the_next(world: World) -> None:
    world.write(a="x\n", b="x\n")
    task = world.begin()
    (task.place / "a").write_text("y\n")
    (task.place / "b").write_text("y\n")
    task.freeze()
    before = snapshot(world.project)
    with (
        mock.patch.object(transaction, "add_event", side_effect=KeyboardInterrupt),
        mock.patch.object(transaction, "roll_back"),  # the process is gone
        pytest.raises(KeyboardInterrupt),
    ):
        apply(world.keep())
    assert snapshot(world.project) != before
    with pytest.raises(WrongChange):
        discard(world.keep())
    (told,) = recover(world.changes)
    assert (told.done, told.applied, told.left) == (True, False, ())
    assert snapshot(world.project) == before
    assert recover(world.changes) == ()
    assert apply(world.keep()).applied


def test_an_apply_that_was_cut_off_is_ended_by_that_of_another_change(world: World) -> None:
    world.write(a="x\n", b="x\n")
    one, two = world.begin(), world.begin()
    (one.place / "a").write_text("one\n")
    one.freeze("one")
    (two.place / "b").write_text("two\n")
    two.freeze("two")
    with (
        mock.patch.object(transaction, "add_event", side_effect=KeyboardInterrupt),
        mock.patch.object(transaction, "roll_back"),
        pytest.raises(KeyboardInterrupt),
    ):
        apply(world.keep("one"))
    assert apply(world.keep("two")).applied
    found = {path: state[2] for path, state in snapshot(world.project).items()}
    assert found == {b"a": b"x\n", b"b": b"two\n"}


def test_what_cannot_be_undone_yet_is_undone_later(world: World) -> None:
    world.write(a="x\n", b="x\n")
    task = world.begin()
    (task.place / "a").write_text("y\n")
    task.freeze()
    with (
        mock.patch.object(transaction, "add_event", side_effect=OSError(errno.EIO, "Input/output error")),
        mock.patch.object(
            transaction._Undoer, "take_back", side_effect=OSError(errno.EIO, "Input/output error")
        ),
        pytest.raises(MachineError, match="cannot be undone yet"),
    ):
        apply(world.keep())
    gone = world.root / "elsewhere"
    world.project.rename(gone)
    (told,) = recover(world.changes)
    assert not told.done
    assert told.why
    gone.rename(world.project)
    (told,) = recover(world.changes)
    assert told.done
    assert (world.project / "a").read_text() == "x\n"


def test_a_journal_that_makes_no_sense_is_told(world: World) -> None:
    world.keep().mkdir(parents=True)
    (world.keep() / "journal.json").write_text("{")
    (told,) = recover(world.changes)
    assert not told.done
    assert "cannot be read" in told.why


def test_a_task_that_goes_on_while_its_change_is_read(world: World) -> None:
    world.write(a="x\n")
    task = world.begin()
    for name in ("a", "b", "c"):
        (task.place / name).write_text("y\n")
    reading = task.read()
    (task.place / "b").unlink()
    change = freeze(reading, world.keep(), task.start, live=True)
    assert [entry.path for entry in change.entries] == [b"a", b"c"]
    with pytest.raises(ChangeUnreadable, match="vanished"):
        freeze(reading, world.keep(), task.start)


def test_what_a_person_wrote_after_a_crash_is_left(world: World) -> None:
    world.write(a="x\n", b="x\n", c="x\n")
    task = world.begin()
    for name in ("a", "b", "c"):
        (task.place / name).write_text("y\n")
    task.freeze()
    with (
        mock.patch.object(transaction, "add_event", side_effect=KeyboardInterrupt),
        mock.patch.object(transaction, "roll_back"),
        pytest.raises(KeyboardInterrupt),
    ):
        apply(world.keep())
    (world.project / "b").write_text("person\n")
    (world.project / "c").unlink()
    (told,) = recover(world.changes)
    assert told.left == (b"b", b"c")
    found = {path: state[2] for path, state in snapshot(world.project).items()}
    assert found == {b"a": b"x\n", b"b": b"person\n"}


def test_a_change_is_applied_once(world: World) -> None:
    world.write(a="x\n")
    task = world.begin()
    (task.place / "a").write_text("y\n")
    task.freeze()
    with pytest.raises(WrongChange):
        revert(world.keep())
    begun = time.time()
    assert apply(world.keep()).applied
    told = find_applied(world.keep())
    assert told is not None
    assert told.folder == str(world.project)
    assert begun <= told.at <= time.time()
    with pytest.raises(WrongChange):
        apply(world.keep())
    with pytest.raises(WrongChange):
        task.freeze()
    discard(world.keep())
    with pytest.raises(ChangeNotFound):
        load(world.keep())


def test_frozen_anew(world: World) -> None:
    """A session that goes on: the later change is the whole one, and nothing of the earlier is left."""
    world.write(a="x\n")
    task: Task = world.begin()
    (task.place / "a").write_text("y\n")
    task.freeze()
    (task.place / "a").write_text("z\n")
    change = task.freeze()
    contents = {
        path.parent.name + path.name for path in (world.keep() / "content").rglob("*") if path.is_file()
    }
    assert contents == {node.content for e in change.entries for node in (e.before, e.after) if node}
    assert stat.S_IMODE(world.keep().stat().st_mode) == stat.S_IMODE(world.changes.stat().st_mode) == 0o700
