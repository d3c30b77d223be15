"""What a folder would be with a change: exactly what the apply makes of it, and the folder is not touched."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from changes import edits
from changes.edits import Edit, snapshot
from changes.worlds import World, bwrap, lists_of_edits, trees, worlds
from cms.changes import apply, freeze, preview, read_trees


def view(program: Path, world: World, layer: Path) -> edits.Snapshot:
    """What a container sees: the project, the layer on it, and one more to be written."""
    upper, work, out = (world.root / name for name in ("upper", "work", "out"))
    for folder in (upper, work, out):
        folder.mkdir()
    project = world.project
    argv = [
        *(program, "--unshare-user", "--disable-userns", "--ro-bind", "/", "/", "--bind", out, out),
        *("--overlay-src", project, "--overlay-src", layer, "--overlay", upper, work, project),
        *("--", "/bin/cp", "-a", f"{project}/.", f"{out}/"),
    ]
    subprocess.run([str(word) for word in argv], check=True)
    return snapshot(out)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(tree=trees(), made=lists_of_edits(12))
def test_it_is_what_the_apply_makes(tree: list[Edit], made: list[Edit]) -> None:
    program = bwrap()
    if program is None:
        pytest.skip("there is no bubblewrap that knows overlays")
    with worlds() as world:
        edits.do(os.fsencode(world.project), tree)
        task = world.begin()
        edits.do(os.fsencode(task.place), made)
        freeze(read_trees(world.project, task.place), world.keep(), task.start)
        before = snapshot(world.project)
        copy, layer = world.root / "copied", world.root / "layer"
        subprocess.run(["cp", "-a", world.project, copy], check=True)
        layer.mkdir(mode=world.project.stat().st_mode & 0o777)
        told = preview(world.keep(), world.project, copy, forbids=lambda _: "", layer=False)
        preview(world.keep(), world.project, layer, forbids=lambda _: "", layer=True)
        assert snapshot(world.project) == before
        seen = view(program, world, layer)
        outcome = apply(world.keep())
        assert outcome.written == told.written
        assert snapshot(copy) == snapshot(world.project)
        assert seen == snapshot(world.project)


def test_nothing_is_written_where_something_stands_in_the_way(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.write(code="old\n", other="x\n")
    task = world.begin()
    (task.place / "code").write_text("mine\n")
    (task.place / "other").write_text("mine\n")
    task.freeze()
    world.write(code="theirs\n")
    layer = tmp_path / "layer"
    layer.mkdir()
    told = preview(world.keep(), world.project, layer, forbids=lambda _: "", layer=True)
    assert [one.path for one in told.refused] == [b"code"]
    assert not list(layer.iterdir())
