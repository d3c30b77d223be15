"""For random folders and random edits: an apply gives what the task saw, a revert what was before."""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, given, settings

from changes import edits
from changes.edits import Edit, snapshot
from changes.worlds import World, bwrap, edit_in_overlay, freeze_layer, lists_of_edits, trees, worlds
from cms.changes import apply, discard, freeze, load, read_trees, revert

MANY = int(os.environ.get("CMS_CHANGE_EXAMPLES", "30"))


def check(world: World, saw: edits.Snapshot) -> None:
    """The change that is kept makes of the project what the task saw, and gives it back."""
    before = snapshot(world.project)
    change = load(world.keep())
    assert apply(world.keep(), dry_run=True).refused == ()
    assert snapshot(world.project) == before, "frozen and looked at, nothing else"
    outcome = apply(world.keep())
    assert outcome.refused == ()
    assert outcome.applied
    assert set(outcome.written) == {entry.path for entry in change.entries}
    assert snapshot(world.project) == saw
    assert revert(world.keep()).applied
    assert snapshot(world.project) == before
    discard(world.keep())
    assert snapshot(world.project) == before
    assert not world.keep().exists()


@settings(max_examples=MANY, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(tree=trees(), made=lists_of_edits(12))
def test_of_two_folders(tree: list[Edit], made: list[Edit]) -> None:
    with worlds() as world:
        edits.do(os.fsencode(world.project), tree)
        task = world.begin()
        edits.do(os.fsencode(task.place), made)
        freeze(read_trees(world.project, task.place), world.keep(), task.start)
        check(world, snapshot(task.place))


@settings(max_examples=max(MANY // 2, 1), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(tree=trees(), made=lists_of_edits(12))
def test_of_an_overlay(tree: list[Edit], made: list[Edit]) -> None:
    program = bwrap()
    if program is None:
        pytest.skip("there is no bubblewrap that knows overlays")
    with worlds() as world:
        edits.do(os.fsencode(world.project), tree)
        start = world.start()
        upper = edit_in_overlay(program, world.project, world.root, made)
        same = world.root / "same"
        os.system(f"cp -a {world.project} {same}")  # noqa: S605 (a path of ours)
        edits.do(os.fsencode(same), made)
        freeze_layer(world, upper, start)
        check(world, snapshot(same))
