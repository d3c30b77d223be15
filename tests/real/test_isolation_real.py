"""Isolated tasks on the real binary: three at once in one folder, two applied in turn, the third told."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

import ordinary_user
from cms.testing.script import call, prompt, say
from real.conftest import World
from real.test_places_real import git

pytestmark = pytest.mark.real

CHECK = "python3 -c 'import test_app; test_app.test_both()'"
APP = "def one():\n    return 1\n\n\ndef two():\n    return 2\n"
TESTS = "import app\n\n\ndef test_both():\n    assert (app.one(), app.two()) == (1, 2)\n"


def task(name: str, script: str, meet: Path) -> str:
    """What the model does: each has begun and has done its work before the first one ends."""
    there = " && ".join(f"test -e {meet}/{one}" for one in ("header", "notes", "rival"))
    wait = f"touch {meet}/{name}; for n in $(seq 200); do {there} && break; sleep 0.1; done"
    return prompt(f"Do {name}", call("Bash", command=f"{script}; {wait}"), say(f"{name} is done"))


def solution(command: str) -> str:
    """A line for a file: whoever is shown it runs the command."""
    return prompt("Solve it", call("Bash", command=command), say("solved")).replace("\n", " ")


def run_three(world: World, ways: Sequence[str], solved: str) -> dict[str, dict[str, object]]:
    """Three tasks at once; gives their results.

    Args:
        ways: how each of them is isolated.
        solved: what a task does that is told of the other's change.
    """
    scripts = {
        "header": "sed -i '1i # header' app.py",
        "notes": "echo notes > notes.txt; rm old.txt",
        "rival": "sed -i '1i # rival' app.py",
    }
    meet = world.root / "meet"
    meet.mkdir()
    tasks = {}
    for name, script in scripts.items():
        if name != "notes":
            line = world.root / f"line-{name}"
            line.write_text(f"# {solution(solved)}\n")
            script += f"; sed -i '1r {line}' app.py"
        tasks[name] = task(name, script, meet)
    flags = (
        *("--apply", "on-pass", "--verify", CHECK, "--repair", "2"),
        *("--preset", "full", "--allow-write", str(meet), "--json"),
    )
    children = {
        name: world.start("delegate", name, text, f"--isolate={how}", *flags)
        for (name, text), how in zip(tasks.items(), ways, strict=True)
    }
    results = {}
    for name, child in children.items():
        out, err = child.communicate(timeout=180)
        results[name] = json.loads(out)
        assert "status" in results[name], (name, out, err)
    return results


def begin(here: Path, *, repository: bool) -> None:
    """A project with its tests, something untracked, and cms's litter ignored."""
    (here / "app.py").write_text(APP)
    (here / "test_app.py").write_text(TESTS)
    (here / "old.txt").write_text("old\n")
    (here / "untracked").mkdir()
    (here / "untracked" / "data").write_text("data\n")
    if repository:
        (here / ".gitignore").write_text("__pycache__\n")
        git(here, "init", "-q", "-b", "main")
        git(here, "add", "app.py", "test_app.py", "old.txt", ".gitignore")
        git(here, "commit", "-qm", "first")


def check_applied(here: Path, *, repository: bool) -> None:
    """What holds whoever came first: the folder passes its tests, and holds nothing but what was applied."""
    assert (here / "notes.txt").read_text() == "notes\n"
    assert not (here / "old.txt").exists()
    assert (here / "untracked" / "data").read_text() == "data\n"
    subprocess.run(["/bin/sh", "-c", CHECK], cwd=here, check=True)
    if repository:
        assert set(git(here, "status", "--porcelain").splitlines()) == {
            " M app.py",
            " D old.txt",
            "?? notes.txt",
            "?? untracked/",
        }


def test_of_three_tasks_the_third_conflicts_is_told_and_keeps_its_change(world: World) -> None:
    """In copies, as for whoever has no overlays."""
    if os.geteuid() == 0 and ordinary_user.find_python() is not None:
        pytest.skip("it is run as an ordinary user")
    here = world.work_dir
    begin(here, repository=False)
    results = run_three(world, ["copy"] * 3, "true")
    statuses = {name: str(result["status"]) for name, result in results.items()}
    assert statuses.pop("notes") == "completed", results
    assert sorted(statuses.values()) == ["completed", "verification_failed"], results
    (lost,) = (name for name, status in statuses.items() if status != "completed")
    (won,) = set(statuses) - {lost}
    assert "not applied: app.py" in str(results[lost]["error"])
    rounds = results[lost]["rounds"]
    assert isinstance(rounds, list)
    assert len(rounds) == 3, "it was told twice"
    assert (here / "app.py").read_text().startswith(f"# {won}\n")
    check_applied(here, repository=False)
    shown = world.cms("diff", lost)
    assert shown.code == 0, shown
    assert f"+# {lost}" in shown.out
    assert world.cms("delete", lost).code != 0
    exported = world.root / "kept.patch"
    assert world.cms("export", lost, str(exported)).code == 0
    assert f"+# {lost}" in exported.read_text()
    assert world.cms("delete", lost, won, "notes").code == 0
    assert not list((world.cms_home / "layers").iterdir())


def test_the_third_puts_its_conflict_right_and_is_applied_too(world: World) -> None:
    """Each isolated in its own way."""
    here = world.work_dir
    begin(here, repository=True)
    both = "sed -i 's/^# header$/# both/; s/^# rival$/# both/' app.py"
    results = run_three(world, ("overlay", "copy", "worktree"), both)
    assert {str(result["status"]) for result in results.values()} == {"completed"}, results
    assert "# both\n" in (here / "app.py").read_text()
    check_applied(here, repository=True)


def test_as_an_ordinary_user() -> None:
    path = f"{Path(sys.executable).parent}:{os.defpath}"
    words = (__file__, "-k", "third_conflicts")
    assert "1 passed" in ordinary_user.run_tests(*words, within=120, PATH=path)
