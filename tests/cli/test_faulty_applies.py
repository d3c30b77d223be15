"""SIGKILL of the daemon at any instant of isolated delegations, their checks and applies: no change and no
commit is lost, none is half in the folder, and what is said of each is true of the folder.

Six kills here; for 1,000 with another seed: `CMS_APPLY_KILLS=1000 CMS_FAULT_SEED=7 pytest
tests/cli/test_faulty_applies.py -s`.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.forge import Forge, private_world
from cli.kill_load import Load, Worker, kill_again_and_again
from cms.config import Settings
from cms.errors import ChangeNotFound
from cms.rpc.changes import CHANGE_APPLY, CHANGE_DIFF, CHANGE_EXPORT, ApplyParams, DiffParams, ExportParams
from cms.rpc.client import Client, connect
from cms.rpc.daemon import DAEMON_STOP, DaemonStopParams
from cms.rpc.sessions import SESSION_DELEGATE, SESSION_LIST, DelegateParams, ListParams
from cms.session.model import DelegateResult, SessionOptions, SessionRecord
from cms.testing.script import call, prompt, say

KILLS = int(os.environ.get("CMS_APPLY_KILLS", "6"))
SEED = int(os.environ.get("CMS_FAULT_SEED", "1"))
CLIENTS = 3
#: Between two kills there are at most so many results, and then some time (in seconds).
MOST_RESULTS = 3
LONGEST = 0.5
#: Of the file that all change, each one line: far enough from each other for a merge.
LINES = 40
#: The last that a task does: what came before it is in its view.
WORK = "echo NAME > own-NAME; sed -i 's/^line LINE .*/line LINE NAME/' shared; COMMIT; touch {marks}/NAME"
COMMIT = (
    "git add -A; git -c user.name=a -c user.email=a@example.org commit -qm NAME; touch {marks}/commit-NAME"
)


class Isolated(Worker):
    """One that delegates isolated work, and has some of it applied."""

    def __init__(self, number: int, settings: Settings, load: Load, marks: Path) -> None:
        super().__init__(number, settings, load, SEED)
        self._marks = marks

    def _act(self, client: Client) -> None:
        name = f"t-{self._number}-{self._count}"
        line = self._dice.randrange(LINES // 4) * 4
        commit = COMMIT if self._dice.random() < 0.3 else "true"
        script = WORK.replace("COMMIT", commit).replace("NAME", name).replace("LINE", str(line))
        own = self._dice.random() < 0.7
        options = SessionOptions(
            name=name,
            work_dir=os.getcwd(),  # noqa: PTH109 - a text
            preset="full",
            isolate=self._dice.choice(("overlay", "copy")),
            apply="on-pass" if own else None,
            verify=(f"sleep 0.03; test -e own-{name}",),
            repair=self._dice.choice((0, 1)),
            allow_write=(str(self._marks),),
        )
        task = prompt("Work", call("Bash", command=script.format(marks=self._marks)), say("done"))
        result = client.call(SESSION_DELEGATE, DelegateParams(options, task))
        assert isinstance(result, DelegateResult)
        self._load.note_result()
        if not own:
            client.call(CHANGE_APPLY, ApplyParams(name))
            self._load.note_result()


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Settings]:
    yield from private_world(tmp_path, monkeypatch)


def git(folder: Path, *words: str) -> str:
    argv = ("git", "-c", "user.name=me", "-c", "user.email=me@example.org", *words)
    return subprocess.run(argv, cwd=folder, check=True, capture_output=True, text=True).stdout


def test_no_change_is_lost_and_none_is_half_applied(settings: Settings, tmp_path: Path) -> None:
    work, marks = tmp_path / "work", tmp_path / "marks"
    marks.mkdir()
    (work / "shared").write_text("".join(f"line {n} -\n" for n in range(LINES)))
    git(work, "init", "-q")
    git(work, "add", "-A")
    git(work, "commit", "-qm", "first")
    dice, load = random.Random(SEED), Load()  # noqa: S311 (repeatable, not secret)
    workers = [Isolated(number, settings, load, marks) for number in range(CLIENTS)]
    log = tmp_path / "daemon.log"
    forge = Forge(log)
    kill_again_and_again(forge, workers, load, dice, kills=KILLS, most=MOST_RESULTS, longest=LONGEST, log=log)
    seen: Counter[str] = Counter()
    with connect(settings, start=False) as client:
        sessions = client.call(SESSION_LIST, ListParams(limit=100_000)).sessions
        for session in sessions:
            seen.update(check(client, session, work, marks, tmp_path))
        client.call(DAEMON_STOP, DaemonStopParams(grace=5))
    forge.close()
    # Nothing is there that no change of a session has brought.
    owners = {path.name.removeprefix("own-") for path in work.glob("own-*")}
    lines = (work / "shared").read_text().splitlines()
    assert len(lines) == LINES
    assert {line.split()[2] for line in lines} <= owners | {"-"}
    assert {path.name for path in work.iterdir()} == {".git", "shared", *(f"own-{name}" for name in owners)}
    assert git(work, "log", "--format=%s", "HEAD").split() == ["first"]
    sys.stdout.write(f"{KILLS} kills, {len(sessions)} sessions: {dict(seen)}\n")
    assert {"applied", "kept"} <= set(seen), "there was hardly any load"


def check(client: Client, session: SessionRecord, work: Path, marks: Path, place: Path) -> list[str]:
    """Hold what is said of a session's change against the folder."""
    name = session.name
    done = (marks / name).exists()
    inside = work / f"own-{name}"
    try:
        told = client.call(CHANGE_DIFF, DiffParams(name, files=True))
    except ChangeNotFound:
        assert not done, f"{name}: what it has changed is gone"
        assert not inside.exists()
        return ["nothing"]
    if told.change.state == "applied":
        assert inside.read_text() == f"{name}\n"
    else:
        assert told.change.state == "kept", told
        assert not inside.exists(), f"{name} is in the folder, and is said to be kept: {told}"
    if not done:
        return ["cut off"]
    assert {one.path for one in told.files} == {"shared", f"own-{name}"}, (name, told)
    if told.change.state == "kept":
        target = place / f"export-{name}"
        client.call(CHANGE_EXPORT, ExportParams(name, str(target)))
        assert (target / "files" / f"own-{name}").read_text() == f"{name}\n"
    if (marks / f"commit-{name}").exists():
        assert told.commits == (name,), (name, told)
        client.call(CHANGE_APPLY, ApplyParams(name, branch=f"of-{name}"))
        assert name in git(work, "log", "--format=%s", f"of-{name}").split()
        assert git(work, "show", f"of-{name}:own-{name}") == f"{name}\n"
        return [told.change.state, "commits"]
    return [told.change.state]
