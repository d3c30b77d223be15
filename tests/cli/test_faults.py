"""The daemon killed with SIGKILL at random instants under load: nobody is left, nothing acknowledged is lost,
and no message is sent twice.

Ten kills here; for a hundred with another seed: `CMS_FAULT_KILLS=100 CMS_FAULT_SEED=7 pytest
tests/cli/test_faults.py -s`. What the simulated agents were really sent is read from their own transcripts.
"""

from __future__ import annotations

import os
import random
import sqlite3
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from cli.forge import Forge, private_world
from cli.kill_load import Load, Worker, kill_again_and_again
from cms.config import Settings
from cms.protection import scratch
from cms.rpc.client import Client, connect
from cms.rpc.daemon import DAEMON_STOP, DaemonStopParams
from cms.rpc.sessions import (
    SESSION_DELEGATE,
    SESSION_INTERACTIONS,
    SESSION_LIST,
    SESSION_SEND,
    SESSION_SPAWN,
    AcceptedResult,
    DelegateParams,
    InteractionsParams,
    ListParams,
    SendParams,
    SpawnParams,
)
from cms.rpc.wire import Accepted
from cms.session.model import ENDED, DelegateResult, Interaction, InteractionState, SessionOptions
from cms.testing.script import Message, call, prompt, say
from cms.testing.script import ScriptedReply as Scripted

KILLS = int(os.environ.get("CMS_FAULT_KILLS", "10"))
SEED = int(os.environ.get("CMS_FAULT_SEED", "1"))
CLIENTS = 4
#: Between two kills there are at most so many answers, and then some time (in seconds).
MOST_ANSWERS = 5
LONGEST = 0.1


class Ledger:
    """What the clients were told: message by message, known by a word of its own."""

    def __init__(self) -> None:
        self.accepted: dict[str, str] = {}  # word -> interaction id
        self.answered: dict[str, str] = {}  # word -> text


class Sender(Worker):
    """One client that spawns, sends and delegates."""

    def __init__(self, number: int, settings: Settings, load: Load, ledger: Ledger) -> None:
        super().__init__(number, settings, load, SEED)
        self._ledger = ledger
        self._names: list[str] = []

    def _act(self, client: Client) -> None:
        word = f"word-{self._number}-{self._count}-"
        fresh = not self._names or self._dice.random() < 0.3
        name = f"s-{self._number}-{self._count}" if fresh else self._dice.choice(self._names[-3:])
        task = prompt(word, *self._replies(), say(f"answer to {word}"))

        def note(accepted: Accepted) -> None:
            self._ledger.accepted[word] = accepted.interaction_id

        options = SessionOptions(name=name, work_dir=os.getcwd(), preset="full")  # noqa: PTH109 (text)
        wait, stop = self._dice.random() < 0.8, self._dice.random() < 0.3
        if fresh and self._dice.random() < 0.5:
            result = client.call(SESSION_DELEGATE, DelegateParams(options, task), on_accepted=note)
            assert isinstance(result, DelegateResult)
            self._answer(word, result.response)
            return
        if fresh:
            self._names.append(name)
            spawn = SpawnParams(options, task, stop=wait and stop, wait=wait)
            reply = client.call(SESSION_SPAWN, spawn, on_accepted=note)
        else:
            send = SendParams(name, task, stop=wait and stop, wait=wait)
            reply = client.call(SESSION_SEND, send, on_accepted=note)
        if isinstance(reply, AcceptedResult):
            self._ledger.accepted[word] = reply.interaction_id
        elif not reply.is_error:
            self._answer(word, reply.text)

    def _answer(self, word: str, text: str) -> None:
        self._ledger.answered[word] = text
        self._load.note_result()

    def _replies(self) -> list[Scripted]:
        return [call("Bash", command="sleep 0.05")] * self._dice.randrange(3)


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Settings]:
    yield from private_world(tmp_path, monkeypatch)


def test_a_daemon_that_is_killed_again_and_again(settings: Settings, tmp_path: Path) -> None:
    dice = random.Random(SEED)  # noqa: S311 (repeatable, not secret)
    ledger, load = Ledger(), Load()
    workers = [Sender(number, settings, load, ledger) for number in range(CLIENTS)]
    log = tmp_path / "daemon.log"
    forge = Forge(log)
    slowest = kill_again_and_again(
        forge, workers, load, dice, kills=KILLS, most=MOST_ANSWERS, longest=LONGEST, log=log
    )
    with connect(settings, start=False) as client:
        found = interactions(client)
        client.call(DAEMON_STOP, DaemonStopParams(grace=5))
    forge.close()
    states = check(ledger, found, Path(os.environ["HOME"]))
    database = sqlite3.connect(settings.database)
    assert database.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
    ids: list[str] = [row[0] for row in database.execute("SELECT id FROM sessions")]
    assert not [one for one in ids if scratch._folder(one).exists()], "a scratch folder was left behind"
    database.close()
    sys.stdout.write(
        f"{KILLS} kills: {len(found)} messages {dict(states)}, {len(ledger.accepted)} acknowledged, "
        f"{len(ledger.answered)} answered, all gone after at most {slowest:.0f} ms\n"
    )
    assert len(ledger.answered) > KILLS, "there was hardly any load"


def interactions(client: Client) -> dict[str, Interaction]:
    """Everything in the store, by id."""
    found = {}
    for session in client.call(SESSION_LIST, ListParams()).sessions:
        reply = client.call(SESSION_INTERACTIONS, InteractionsParams(session.name))
        found.update({one.id: one for one in reply.interactions})
    return found


def check(ledger: Ledger, found: dict[str, Interaction], home: Path) -> Counter[str]:
    """Hold what the clients were told against the store, and the store against what the agents were sent."""
    received = Counter(words_received(home))
    for word, interaction_id in ledger.accepted.items():
        assert interaction_id in found, f"{word} was acknowledged and is lost"
    words = {one.id: one.prompt.split()[0] for one in found.values()}
    for word, text in ledger.answered.items():
        stored = [one for one in found.values() if words[one.id] == word]
        assert [(one.state, one.response) for one in stored] == [(InteractionState.DONE, text)], word
    for one in found.values():
        times = received[words[one.id]]
        assert one.state in ENDED, one
        assert times <= 1, f"{words[one.id]} was sent {times} times"
        if one.state is InteractionState.DONE:
            assert times == 1, one
        elif "safe to send again" in one.error or "never sent" in one.error:
            assert times == 0, f"{words[one.id]} was sent, and its sender told that it was not"
    return Counter(one.state.value for one in found.values())


class _Line(msgspec.Struct):
    message: Message | None = None


def words_received(home: Path) -> Iterator[str]:
    """The first word of every user message in the agents' transcripts."""
    for file in home.glob(".claude/projects/*/*.jsonl"):
        for line in file.read_bytes().splitlines():
            try:
                message = msgspec.json.decode(line, type=_Line).message
            except msgspec.DecodeError:
                continue  # the torn last line of an agent that was killed
            if message is not None and message.role == "user":
                yield from (text.split()[0] for text in message.texts() if text.startswith("word-"))
