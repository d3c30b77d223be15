"""Isolated tasks on the real binary: three at once in one folder, two applied in turn, the third kept."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from cms.testing.script import call, prompt, say
from real.conftest import World
from real.test_places_real import git

pytestmark = pytest.mark.real

CHECK = "python3 -c 'import app; assert app.two() == 2'"
APP = "def one():\n    return 1\n\n\ndef two():\n    return 2\n"


def task(name: str, script: str, meet: Path) -> str:
    """What the model does: it waits until all have begun, so that all start from the same folder."""
    all_there = f"[ $(ls {meet} | wc -l) -ge 3 ]"
    wait = f"touch {meet}/{name}; for n in $(seq 500); do {all_there} && break; sleep 0.02; done; "
    return prompt(f"Do {name}", call("Bash", command=wait + script), say(f"{name} is done"))


def run_three(world: World, how: str) -> dict[str, dict[str, object]]:
    """Three tasks at once; gives their results."""
    scripts = {
        "header": "sed -i '1i # header' app.py",
        "notes": "echo notes > notes.txt; rm old.txt",
        "rival": "sed -i '1i # rival' app.py",
    }
    meet = world.root / "meet"
    meet.mkdir()
    tasks = {name: task(name, script, meet) for name, script in scripts.items()}
    flags = (
        *(f"--isolate={how}", "--apply", "on-pass", "--verify", CHECK),
        *("--preset", "full", "--allow-write", str(meet), "--json"),
    )
    children = {name: world.start("delegate", name, text, *flags) for name, text in tasks.items()}
    results = {}
    for name, child in children.items():
        out, err = child.communicate(timeout=120)
        results[name] = json.loads(out)
        assert "status" in results[name], (name, out, err)
    return results


@pytest.mark.parametrize(("how", "repository"), [("overlay", True), ("copy", False)])
def test_three_tasks_in_one_folder(world: World, how: str, repository: bool) -> None:
    here = world.work_dir
    (here / "app.py").write_text(APP)
    (here / "old.txt").write_text("old\n")
    (here / "untracked").mkdir()
    (here / "untracked" / "data").write_text("data\n")
    if repository:
        (here / ".gitignore").write_text("__pycache__\n")
        git(here, "init", "-q", "-b", "main")
        git(here, "add", "app.py", "old.txt", ".gitignore")
        git(here, "commit", "-qm", "first")
    results = run_three(world, how)
    statuses = {name: str(result["status"]) for name, result in results.items()}
    assert statuses.pop("notes") == "completed", results
    assert sorted(statuses.values()) == ["completed", "verification_failed"], results
    (lost,) = (name for name, status in statuses.items() if status != "completed")
    (won,) = set(statuses) - {lost}
    assert "not applied: app.py" in str(results[lost]["error"])
    assert (here / "app.py").read_text() == f"# {won}\n{APP}"
    assert (here / "notes.txt").read_text() == "notes\n"
    assert not (here / "old.txt").exists()
    subprocess.run(["/bin/sh", "-c", CHECK], cwd=here, check=True, env={"PATH": "/usr/bin:/bin"})
    if repository:
        assert set(git(here, "status", "--porcelain").splitlines()) == {
            " M app.py",
            " D old.txt",
            "?? notes.txt",
            "?? untracked/",
        }
    shown = world.cms("diff", lost)
    assert shown.code == 0, shown
    assert f"+# {lost}" in shown.out
    assert world.cms("delete", lost).code != 0
    exported = world.root / "kept.patch"
    assert world.cms("export", lost, str(exported)).code == 0
    assert f"+# {lost}" in exported.read_text()
    assert world.cms("delete", lost, won, "notes").code == 0
    assert not list((world.cms_home / "layers").iterdir())
