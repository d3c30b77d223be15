"""What `--json` prints of every record, value by value: nothing that a program reads may get lost."""

from __future__ import annotations

import io
from pathlib import Path

import msgspec
import pytest

from cli import snapshot
from cli.conftest import Cms
from cli.sampling import sample
from cli.scripted import Answer, serve
from cli.test_commands import always
from cms.cli.log_lines import JsonTeller
from cms.errors import SessionNotFound
from cms.rpc.batches import BatchProblems, BatchTasksResult
from cms.rpc.sessions import (
    AcceptedResult,
    InteractionsResult,
)
from cms.rpc.verbs import all_verbs
from cms.session.model import Record
from cms.session.transcript import Moment
from cms.store.rawlog import Entry

#: What each verb answers, or the first of what it can.
ANSWERS = {name: verb.results[0] for name, verb in all_verbs().items()}

COMMANDS: tuple[tuple[str, ...], ...] = (
    ("spawn", "one", "hello"),
    ("send", "one", "hello"),
    ("resume", "one"),
    ("fork", "one", "two"),
    ("rename", "one", "two"),
    ("tag", "one", "mine"),
    ("delegate", "one", "task"),
    ("continue", "one", "more"),
    ("interrupt", "one"),
    ("pause", "one"),
    ("stop", "one"),
    ("kill", "one"),
    ("status", "one"),
    ("output", "one"),
    ("history", "one"),
    ("list",),
    ("delete", "one"),
    ("answer", "one", "yes"),
    ("audit", "one"),
    ("audit", "one", "--verify"),
    ("search", "word"),
    ("cleanup",),
    ("cleanup", "--dry-run"),
    ("wait", "one"),
    ("top",),
    ("ask",),
    ("cost",),
    ("cost", "--since", "2026-11-22"),
    ("budget", "show"),
    ("budget", "clear"),
    ("daemon", "status"),
    ("batch", "--file", "tasks.json", "--plan"),
    ("batch", "--file", "tasks.json", "--detach"),
    ("batch", "show", "one"),
    ("batch", "pause", "one"),
    ("batches",),
)


def answer_to(kind: type[Record], *, full: bool) -> Answer:
    made = sample(kind, full=full)
    match made:
        case BatchTasksResult():
            return msgspec.structs.replace(made, next=None)
        case BatchProblems():
            return BatchProblems()
        case InteractionsResult(interactions=()):
            return sample(InteractionsResult)
        case _:
            return made


def rounded(value: object) -> object:
    """Without the digits that no price has: whether they are there is another test's business."""
    match value:
        case float():
            return round(value, 10)
        case dict():
            return {key: rounded(one) for key, one in value.items()}
        case list():
            return [rounded(one) for one in value]
        case _:
            return value


@pytest.mark.parametrize("full", [True, False], ids=["full", "empty"])
def test_the_values_that_each_command_prints(
    cms: Cms, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, full: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TZ", "UTC")
    (tmp_path / "tasks.json").write_text('[{"name": "one", "prompt": "go"}]')
    lines = []
    script = {method: always(answer_to(kind, full=full)) for method, kind in ANSWERS.items()}
    with serve(home, script):
        runs = [(words, cms(*words, "--json")) for words in COMMANDS]
    detached = ("send", "one", "hello", "--detach")
    with serve(home, {"session.send": always(sample(AcceptedResult, full=full))}):
        runs.append((detached, cms(*detached, "--json")))
    with serve(home, {"session.get": always(SessionNotFound("there is no session 'nobody'"))}):
        runs.append((("status", "nobody"), cms("status", "nobody", "--json")))
    for words, ran in runs:
        assert ran.out.count("\n") == 1, (words, ran)
        lines += [f"$ cms {' '.join(words)} --json -> {ran.code}", pretty(ran.json()), ""]
    stream = io.BytesIO()
    entry = Entry(at=0.0, direction="out", line=b"", end=0)
    JsonTeller(stream).tell([(entry, (sample(Moment, full=full),))])
    lines += ["$ cms logs one -f --json", pretty(msgspec.json.decode(stream.getvalue()))]
    snapshot.check(f"json_values_{'full' if full else 'empty'}.txt", "\n".join(lines) + "\n")


def pretty(value: object) -> str:
    return msgspec.json.format(msgspec.json.encode(rounded(value), order="sorted"), indent=2).decode()
