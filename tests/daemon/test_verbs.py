"""Each verb is declared once, one handler does it, and it is answered as declared."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path

import pytest
import trio

from cms.batch.header import Header
from cms.batch.model import BatchOptions, TaskSpec
from cms.config import Settings
from cms.daemon.handlers.batches import BatchHandlers
from cms.daemon.server import Server, open_listener
from cms.errors import (
    ChangeNotFound,
    CmsError,
    ContainmentError,
    NameTaken,
    NothingAsked,
    UsageError,
    WrongStatus,
)
from cms.fleet.batches import open_batches
from cms.rpc import (
    attachments,
    audit,
    batches,
    changes,
    conversations,
    daemon,
    metrics,
    money,
    overview,
    questions,
    search,
    sessions,
)
from cms.rpc.client import Client, connect
from cms.rpc.verbs import NOUNS, AnyVerb, Nothing, P, R, Verb, all_verbs
from cms.rpc.wire import PROTOCOL
from cms.session.model import SessionOptions
from cms.testing.script import prompt, say
from daemon.fake import FakeSupervisor
from fleet.kit import make_options, make_settings, supervising

GO = prompt("go", say("done"))


class NoBatches:
    """Batches that are only bound, never asked."""

    store = None


def test_every_verb_has_exactly_one_handler(tmp_path: Path) -> None:
    handlers = BatchHandlers(NoBatches()).all  # type: ignore[arg-type] # only bound, never called
    server = Server(FakeSupervisor(), Settings(home=tmp_path), extra=handlers)
    assert {name: handler.verb for name, handler in server.handlers.items()} == all_verbs()


def test_every_verb_is_declared_once_and_named_as_its_constant() -> None:
    declared = [
        (name, verb.name)
        for noun in NOUNS
        for name, verb in vars(import_module(f"cms.rpc.{noun}")).items()
        if isinstance(verb, AnyVerb)
    ]
    assert not [name for name, count in Counter(name for _, name in declared).items() if count > 1]
    assert not [pair for pair in declared if pair[0] != pair[1].upper().replace(".", "_")]


def test_every_module_with_verbs_is_among_the_nouns() -> None:
    rpc = Path(next(iter(import_module("cms.rpc").__path__)))
    with_verbs = {path.stem for path in rpc.glob("*.py") if "\nfrom cms.rpc.verbs import" in path.read_text()}
    assert with_verbs - {"client"} == set(NOUNS)


def test_what_a_session_may_ask_for() -> None:
    """Written out: one more is a decision about what an agent can do."""
    assert {verb.name for verb in all_verbs().values() if verb.inside} == {
        *("hello", "session.spawn", "session.send", "session.resume", "session.delegate", "session.continue"),
        *("session.interrupt", "session.pause", "session.stop", "session.kill", "session.get"),
        *("session.list", "session.interactions", "session.watch", "sessions.wait"),
        "attachments.keep",  # what it may read itself
    }


def test_what_a_session_may_ask_for_names_sessions_where_they_are_looked_for() -> None:
    """The child socket looks at `name` and `names`; another field with a name in it would pass unseen."""
    named = {
        field
        for verb in all_verbs().values()
        if verb.inside
        for field in verb.params.__struct_fields__
        if "name" in field or "session" in field
    }
    assert named == {"name", "names"}


# --- each of them through a socket ------------------------------------------------------------------


class Walk:
    """Asks for verbs one after the other, and notes which."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self.walked: set[str] = set()

    def __call__(self, verb: Verb[P, R], params: P) -> R:
        self.walked.add(verb.name)
        result = self._client.call(verb, params)
        assert isinstance(result, verb.results)
        return result

    def refused(self, verb: Verb[P, R], params: P, error: type[CmsError]) -> None:
        with pytest.raises(error):
            self(verb, params)


def _walk_sessions(walk: Walk, options: Callable[[str], SessionOptions]) -> None:
    name = sessions.NameParams("a")
    walk(daemon.HELLO, daemon.Hello("test", PROTOCOL))
    walk(daemon.DAEMON_STATUS, Nothing())
    walk(metrics.DAEMON_METRICS, Nothing())
    walk(overview.USAGE_GET, Nothing())
    walk(conversations.CONVERSATIONS_LIST, conversations.ConversationsParams())
    adopted = conversations.AdoptParams(options("x"), "of-nobody")
    walk.refused(conversations.SESSION_ADOPT, adopted, UsageError)
    kept = walk(attachments.ATTACHMENTS_KEEP, attachments.KeepParams("a.txt", b"text")).attachment
    assert (kept.name, kept.kind, kept.size) == ("a.txt", "text", 4)
    walk(sessions.SESSION_SPAWN, sessions.SpawnParams(options("a"), GO))
    walk(sessions.SESSION_SEND, sessions.SendParams("a", GO, wait=False))
    done = walk(sessions.SESSIONS_WAIT, sessions.WaitParams(("a",))).done
    assert [one.session.name for one in done] == ["a"]
    assert walk(sessions.SESSION_PAUSE, sessions.PauseParams("a")).session.status == "paused"
    assert walk(sessions.SESSION_RESUME, name).session.status == "ready"
    walk(sessions.SESSION_FORK, sessions.ForkParams("a", "b", GO))
    walk(sessions.SESSION_DELEGATE, sessions.DelegateParams(options("c"), GO))
    walk(sessions.SESSION_CONTINUE, sessions.ContinueParams("c", GO))
    walk.refused(sessions.SESSION_RENAME, sessions.RenameParams("b", "a"), NameTaken)
    walk.refused(sessions.SESSION_RENAME, sessions.RenameParams("b", "no name"), UsageError)
    assert walk(sessions.SESSION_RENAME, sessions.RenameParams("b", "x")).session.name == "x"
    assert walk(sessions.SESSION_RENAME, sessions.RenameParams("x", "b")).session.status == "ready"
    assert walk(sessions.SESSION_TAG, sessions.TagParams("b", ("x", "y"))).session.options.tags == ("x", "y")
    walk.refused(sessions.SESSION_TAG, sessions.TagParams("b", ("-x",)), UsageError)
    assert len(walk(sessions.SESSION_LIST, sessions.ListParams(tags=("x",))).sessions) == 1
    walk(overview.SESSIONS_OVERVIEW, Nothing())
    by_hand = sessions.AttachParams("c", "/dev/null", "a person")  # which is no terminal
    walk.refused(sessions.SESSION_ATTACH, by_hand, ContainmentError)
    assert walk(sessions.SESSION_STOP, sessions.StopParams("b")).receipt is not None
    assert walk(sessions.SESSION_KILL, name).receipt is not None
    walk.refused(sessions.SESSION_INTERRUPT, name, WrongStatus)
    walk.refused(sessions.SESSION_WATCH, sessions.WatchParams("a"), WrongStatus)
    walk(sessions.SESSION_GET, name)
    assert len(walk(sessions.SESSION_LIST, sessions.ListParams()).sessions) == 3
    assert len(walk(sessions.SESSION_INTERACTIONS, sessions.InteractionsParams("a")).interactions) == 2
    walk.refused(changes.CHANGE_DIFF, changes.DiffParams("a"), ChangeNotFound)
    walk.refused(changes.CHANGE_APPLY, changes.ApplyParams("a"), ChangeNotFound)
    walk.refused(changes.CHANGE_DISCARD, changes.DiscardParams("a"), ChangeNotFound)
    walk.refused(changes.CHANGE_EXPORT, changes.ExportParams("a", "/nowhere/x.patch"), ChangeNotFound)
    walk(questions.SESSIONS_QUESTIONS, questions.QuestionsParams())
    walk.refused(questions.SESSION_ANSWER, questions.AnswerParams("a", ("yes",)), NothingAsked)
    assert walk(search.SEARCH_FIND, search.SearchParams("done", session="a")).hits
    walk(audit.SESSION_AUDIT, audit.AuditParams("a"))
    walk(money.BUDGET_SET, money.SetBudgetParams({"day": 1000.0}))
    walk(money.BUDGET_GET, Nothing())
    assert len(walk(money.LEDGER_TOTALS, money.CostParams()).rows) == 3
    walk(sessions.SESSION_DELETE, sessions.DeleteParams("a"))
    assert len(walk(sessions.SESSIONS_CLEANUP, sessions.CleanupParams(days=0)).deleted) == 2


def _walk_batches(walk: Walk, options: BatchOptions) -> None:
    def made() -> batches.BatchParams:
        made = batches.BatchParams(walk(batches.BATCH_CREATE, batches.BatchCreateParams(options)).batch.id)
        tasks = (batches.LineOf(TaskSpec(name=f"t-{made.id}", prompt=GO), 1),)
        assert not walk(batches.BATCH_ADD, batches.BatchAddParams(made.id, 0, tasks)).problems
        assert not walk(batches.BATCH_CHECK, made).problems
        return made

    one = made()
    walk(batches.BATCH_PLAN, one)
    walk(batches.BATCH_DISCARD, one)
    one = made()
    assert walk(batches.BATCH_RUN, batches.BatchRunParams(one.id)).batch.status == "completed"
    walk(batches.BATCH_FOLLOW, one)
    walk(batches.BATCH_GET, one)
    assert len(walk(batches.BATCH_LIST, Nothing()).batches) == 1
    assert len(walk(batches.BATCH_TASKS, batches.BatchPageParams(one.id)).tasks) == 1
    assert len(walk(batches.BATCH_ENDED, batches.BatchPageParams(one.id)).tasks) == 1
    assert walk(batches.BATCH_SCORES, one).scores == ()
    walk(batches.BATCH_REPORT, batches.BatchReportParams(one.id))
    for verb in (batches.BATCH_PAUSE, batches.BATCH_STOP, batches.BATCH_CANCEL):
        walk.refused(verb, one, UsageError)
    walk.refused(batches.BATCH_SET, batches.BatchSetParams(one.id, Header(max_cost=1.0)), UsageError)
    walk.refused(batches.BATCH_REQUEUE, batches.BatchRequeueParams(one.id), UsageError)
    walk.refused(batches.BATCH_WITHDRAW, batches.BatchWithdrawParams(one.id, ("t",)), UsageError)


async def test_every_verb_is_answered_through_a_socket(tmp_path: Path) -> None:
    settings = make_settings(tmp_path)

    def walk_all() -> set[str]:
        with connect(settings, start=False) as client:
            walk = Walk(client)
            _walk_sessions(walk, partial(make_options, settings))
            _walk_batches(walk, BatchOptions(work_dir=make_options(settings).work_dir))
            walk(daemon.DAEMON_STOP, daemon.DaemonStopParams())
            return walk.walked

    async with supervising(settings, within=60) as supervisor, open_batches(supervisor) as kept:
        server = Server(supervisor, settings, extra=BatchHandlers(kept).all)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.serve, open_listener(settings))
            walked = await trio.to_thread.run_sync(walk_all)
    assert walked == set(all_verbs())
