"""SIGKILL of the daemon at random instants of delegations with checks: no verdict that the folder belies.

Six kills here; for 200 with another seed: `CMS_VERDICT_KILLS=200 CMS_FAULT_SEED=7 pytest
tests/cli/test_faulty_verdicts.py -s`. Each check writes down what it found, so what is true is in the folder.
"""

from __future__ import annotations

import os
import random
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.forge import Forge, private_world
from cli.kill_load import Load, Worker, kill_again_and_again
from cms.config import Settings
from cms.rpc.client import Client, connect
from cms.rpc.daemon import DAEMON_STOP, DaemonStopParams
from cms.rpc.sessions import (
    SESSION_CONTINUE,
    SESSION_DELEGATE,
    SESSION_INTERACTIONS,
    SESSION_LIST,
    ContinueParams,
    DelegateParams,
    InteractionsParams,
    ListParams,
)
from cms.session.model import (
    ENDED,
    DelegateResult,
    Interaction,
    InteractionState,
    Outcome,
    SessionOptions,
    SessionStatus,
)
from cms.testing.script import call, prompt, say

KILLS = int(os.environ.get("CMS_VERDICT_KILLS", "6"))
SEED = int(os.environ.get("CMS_FAULT_SEED", "1"))
CLIENTS = 4
#: Between two kills there are at most so many results, and then some time (in seconds).
MOST_RESULTS = 3
LONGEST = 0.4

#: Two checks, so that there is an instant between them. Each says what it found when it has found it.
#: The first prints what the model does when it is told that it failed.
FIRST = (
    "sleep 0.05; if test -e good-NAME; then echo pass >> first-NAME; else echo fail >> first-NAME;"
    " cat mend-NAME 2>/dev/null; echo; echo bad; false; fi"
)
SECOND = "sleep 0.03; echo pass >> second-NAME"


class Checker(Worker):
    """One that delegates, and keeps what it was told."""

    def __init__(self, number: int, settings: Settings, load: Load) -> None:
        super().__init__(number, settings, load, SEED)
        self.told: dict[str, DelegateResult] = {}  # by name; of the newest message

    def _act(self, client: Client) -> None:
        kind = self._dice.choice(("good", "good", "bad", "mend"))
        name = f"{kind}-{self._number}-{self._count}"
        touch = call("Bash", command=f"touch good-{name}")
        work = [touch] if kind == "good" else [call("Bash", command="sleep 0.02")]
        if kind == "mend":
            Path(f"mend-{name}").write_text(prompt("Mend it", touch, say("mended")))
        options = SessionOptions(
            name=name,
            work_dir=os.getcwd(),  # noqa: PTH109 - a text
            preset="full",
            verify=tuple(one.replace("NAME", name) for one in (FIRST, SECOND)),
            repair=2 if kind == "mend" else self._dice.choice((0, 0, 1)),
        )
        delegate = DelegateParams(options, prompt("Work", *work, say("done")))
        self._note(name, client.call(SESSION_DELEGATE, delegate))
        if self._dice.random() < 0.3:
            del self.told[name]
            more = ContinueParams(name, prompt("Go on", say("done again")))
            self._note(name, client.call(SESSION_CONTINUE, more))

    def _note(self, name: str, result: object) -> None:
        assert isinstance(result, DelegateResult)
        self.told[name] = result
        self._load.note_result()


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Settings]:
    yield from private_world(tmp_path, monkeypatch)


def test_no_verdict_that_the_folder_contradicts(settings: Settings, tmp_path: Path) -> None:
    dice, load = random.Random(SEED), Load()  # noqa: S311 (repeatable, not secret)
    workers = [Checker(number, settings, load) for number in range(CLIENTS)]
    log = tmp_path / "daemon.log"
    forge = Forge(log)
    kill_again_and_again(forge, workers, load, dice, kills=KILLS, most=MOST_RESULTS, longest=LONGEST, log=log)
    seen: Counter[str] = Counter()
    told = {name: result for worker in workers for name, result in worker.told.items()}
    with connect(settings, start=False) as client:
        for session in client.call(SESSION_LIST, ListParams()).sessions:
            found = client.call(SESSION_INTERACTIONS, InteractionsParams(session.name)).interactions
            result, work = told.get(session.name), tmp_path / "work"
            seen.update(check(session.name, session.status, list(found), result, work))
        client.call(DAEMON_STOP, DaemonStopParams(grace=5))
    forge.close()
    sys.stdout.write(f"{KILLS} kills: {dict(seen)}, {len(told)} told\n")
    assert {"completed", "verification_failed"} <= set(seen), "there was hardly any load"
    assert KILLS < 50 or {"unchecked", "interrupted"} <= set(seen)


def lines(file: Path) -> list[str]:
    return file.read_text().split() if file.exists() else []


def check(
    name: str, status: SessionStatus, found: list[Interaction], told: DelegateResult | None, work: Path
) -> list[str]:
    """Hold what is stored and what was told against what the checks have left in the folder."""
    first, second = lines(work / f"first-{name}"), lines(work / f"second-{name}")
    kind = name.partition("-")[0]
    good, bad = kind in ("good", "mend"), kind in ("bad", "mend")
    judged = [one for one in found if one.outcome in (Outcome.COMPLETED, Outcome.VERIFICATION_FAILED)]
    for one in found:
        assert one.state in ENDED, one
        assert one.outcome is not None, one
        assert (one.state is InteractionState.UNCHECKED) <= (one.outcome is Outcome.INTERRUPTED), one
        if one.outcome is Outcome.COMPLETED:
            assert good, f"{name}: completed, and its check fails"
        if one.outcome is Outcome.VERIFICATION_FAILED:
            assert bad, f"{name}: {one.error}, and its check passes"
        if one.outcome is not Outcome.COMPLETED:
            assert one.is_error, one
    # Each verdict rests on checks of its own, which have run to their end.
    assert len(first) >= len(judged), (name, first, found)
    assert len(second) >= len(judged), (name, second, found)
    assert set(first) <= ({"pass"} if good else set()) | ({"fail"} if bad else set())
    assert first.count("fail") >= sum(one.outcome is Outcome.VERIFICATION_FAILED for one in judged)
    # A round of repair begins once, and in one step with the verdict on the one before it.
    for before, one in zip([None, *found], found, strict=False):
        if one.type == "repair":
            assert before is not None, found
            assert before.outcome is Outcome.VERIFICATION_FAILED, found
            assert one.round == before.round + 1, found
            assert one.round <= (2 if kind == "mend" else 1), found
        elif one.round:
            raise AssertionError(found)
    if status is SessionStatus.COMPLETED:
        assert found[-1].outcome is Outcome.COMPLETED, (name, found[-1])
    if told is not None:
        assert told.status is found[-1].outcome, (told, found[-1])
    states = (InteractionState.UNCHECKED,)
    return [one.state.value if one.state in states else one.outcome.value for one in found if one.outcome]
