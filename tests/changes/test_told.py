"""A task that was told what others changed decides about the lines that both changed, and about no others."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from changes.worlds import World
from cms.changes import apply, find_others, lines, note_told

OLD = "".join(f"{n}\n" for n in range(10))


def edited(text: str, **changed: str) -> str:
    return "".join(f"{changed.get(f'l{n}', n)}\n" for n in range(10)) if text == OLD else text


def committed(world: World) -> None:
    git = ("git", "-C", str(world.project), "-c", "user.name=me", "-c", "user.email=me@example.org")
    for words in (("init", "-q"), ("add", "-A"), ("commit", "-qm", "first")):
        subprocess.run((*git, *words), check=True)


@pytest.mark.parametrize("by_git", [True, False])
def test_what_it_was_told_and_wrote_anew_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by_git: bool
) -> None:
    if not by_git:
        monkeypatch.setattr(lines, "_merge_by_git", lambda *_: None)
    world = World(tmp_path)
    world.write(code=OLD)
    committed(world)
    task = world.begin()
    (task.place / "code").write_text(edited(OLD, l3="task"))
    world.write(code=edited(OLD, l3="others", l8="theirs"))
    task.freeze()
    refused = apply(world.keep()).refused
    assert [one.why for one in refused] == ["conflict"]
    others = find_others(world.keep(), world.project, refused)
    assert b"-3\n" in others[b"code"].diff
    assert b"+others\n" in others[b"code"].diff
    note_told(world.keep(), [others[b"code"].told])
    # Told, but not written since: it decides nothing.
    assert [one.why for one in apply(world.keep()).refused] == ["conflict"]
    (task.place / "code").write_text(edited(OLD, l3="both"))
    task.freeze()
    # The folder has moved on once more: it was not told of that.
    was = (world.project / "code").read_text()
    world.write(code=edited(OLD, l3="newer", l8="theirs"))
    assert [one.why for one in apply(world.keep()).refused] == ["conflict"]
    world.write(code=was)
    outcome = apply(world.keep())
    assert outcome.merged == (b"code",)
    assert (world.project / "code").read_text() == edited(OLD, l3="both", l8="theirs")


def test_what_both_created_can_be_answered_and_what_is_no_text_cannot(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.write(data="old")
    task, other = world.begin(), world.begin()
    for one, who in ((task, "task"), (other, "others")):
        (one.place / "new").write_text(f"{who}\n")
        (one.place / "data").write_bytes(f"\0{who}".encode())
    other.freeze("two")
    assert apply(world.keep("two")).applied
    task.freeze()
    refused = apply(world.keep()).refused
    others = find_others(world.keep(), world.project, refused)
    assert set(others) == {b"new"}
    note_told(world.keep(), [each.told for each in others.values()])
    (task.place / "new").write_text("others\ntask\n")
    (task.place / "data").write_bytes(b"\0both")
    task.freeze()
    assert [one.path for one in apply(world.keep()).refused] == [b"data"]
    (task.place / "data").write_text("old")
    task.freeze()
    assert apply(world.keep()).applied
    assert (world.project / "new").read_text() == "others\ntask\n"
    assert (world.project / "data").read_bytes() == b"\0others"
