"""The server on a real socket, with a supervisor that has no processes."""

from __future__ import annotations

import random
import stat
from pathlib import Path

import msgspec
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from cms.config import Settings
from cms.daemon.connection import MAX_CALLS, _kept_once
from cms.daemon.outbox import Outbox
from cms.daemon.server import open_listener
from cms.errors import ContainmentError, HomeUnusable, SessionNotFound
from cms.rpc.daemon import DaemonStatus, DaemonStopParams, HelloResult
from cms.rpc.sessions import (
    AcceptedResult,
    ContinueParams,
    DelegateParams,
    InteractionsParams,
    InteractionsResult,
    ListParams,
    NameParams,
    SendParams,
    SessionResult,
    SessionsResult,
    SpawnParams,
    StopParams,
    StopResult,
    WatchParams,
)
from cms.rpc.verbs import Nothing
from cms.rpc.wire import (
    INTERNAL_ERROR,
    INVALID_PARAMS,
    INVALID_REQUEST,
    METHOD_NOT_FOUND,
    PARSE_ERROR,
    PROTOCOL,
    REQUEST_CANCELLED,
    SERVER_ERROR,
    Accepted,
    Cancel,
    ProgressNote,
)
from cms.session.model import DelegateResult, Outcome, Progress, Reply, SessionStatus
from daemon.fake import options
from daemon.harness import Line, Peer, open_house

decode = msgspec.json.decode


def code_of(line: Line) -> tuple[int, str]:
    assert line.error is not None
    assert line.error.data is not None
    return line.error.code, line.error.data.code


async def until(peer: Peer, method: str) -> Line:
    while (line := await peer.line()).method != method:
        assert line.method, f"an answer came before {method}"
    return line


async def test_the_socket_is_for_its_user_alone(tmp_path: Path) -> None:
    async with open_house(tmp_path) as house:
        assert stat.S_IMODE(house.settings.socket.stat().st_mode) == 0o600


async def test_each_method_gives_its_result(tmp_path: Path) -> None:
    async with open_house(tmp_path) as house, house.peer() as peer:
        line = await peer.ask(1, "session.spawn", SpawnParams(options("a"), "hi"))
        assert line.kind == "Reply"
        assert decode(line.result, type=Reply).text == "re: hi"
        line = await peer.ask(2, "session.send", SendParams("a", "more", wait=False))
        assert line.kind == "AcceptedResult"
        assert decode(line.result, type=AcceptedResult).name == "a"
        line = await peer.ask(3, "session.get", NameParams("a"))
        assert not line.kind, "a method with one result needs no kind"
        assert decode(line.result, type=SessionResult).activity == "thinking"
        line = await peer.ask(4, "session.send", SendParams("a", "last", stop=True))
        assert decode(line.result, type=Reply).status is SessionStatus.STOPPED
        assert house.supervisor.stopped == ["a"]
        line = await peer.ask(5, "session.resume", NameParams("a"))
        assert decode(line.result, type=SessionResult).session.status is SessionStatus.READY
        line = await peer.ask(6, "session.send", SendParams("a", "and?", resume=True))
        assert decode(line.result, type=Reply).text == "re: and?"
        line = await peer.ask(7, "session.delegate", DelegateParams(options("d"), "do it"))
        assert decode(line.result, type=DelegateResult).status is Outcome.COMPLETED
        line = await peer.ask(8, "session.continue", ContinueParams("d", "again", detach=True))
        assert line.kind == "AcceptedResult"
        line = await peer.ask(9, "session.interrupt", NameParams("d"))
        assert decode(line.result, type=SessionResult).session.name == "d"
        line = await peer.ask(10, "session.list", ListParams())
        assert [s.name for s in decode(line.result, type=SessionsResult).sessions] == ["d", "a"]
        line = await peer.ask(11, "session.interactions", InteractionsParams("a", last=1))
        assert [i.prompt for i in decode(line.result, type=InteractionsResult).interactions] == ["and?"]
        line = await peer.ask(12, "session.stop", StopParams("a"))
        assert decode(line.result, type=StopResult).receipt is not None
        line = await peer.ask(13, "session.kill", NameParams("a"))
        assert decode(line.result, type=StopResult).receipt is None
        line = await peer.ask(14, "session.watch", WatchParams("nobody"))
        assert code_of(line) == (SERVER_ERROR, "not_found")
        line = await peer.ask(15, "daemon.status", Nothing())
        status = decode(line.result, type=DaemonStatus)
        assert (status.sessions, status.clients, status.containment) == (2, 1, "fake, level Z")


async def test_a_message_is_accepted_before_it_is_answered(tmp_path: Path) -> None:
    async with open_house(tmp_path) as house, house.peer() as peer:
        await peer.send(1, "session.spawn", SpawnParams(options("a"), "hang"))
        accepted = decode((await until(peer, "accepted")).params, type=Accepted)
        assert (accepted.request_id, accepted.name) == (1, "a")
        assert accepted.interaction_id == house.supervisor.said["a"][0].id
        house.supervisor.release("a")
        assert (await peer.answer(1)).kind == "Reply"


async def test_progress_comes_between_acceptance_and_answer_in_order(tmp_path: Path) -> None:
    async with open_house(tmp_path) as house, house.peer() as peer:
        await peer.send(1, "session.spawn", SpawnParams(options("a"), "hang"))
        await until(peer, "accepted")
        await house.supervisor.wait_watched("a")
        for number in range(20):
            house.supervisor.tell("a", str(number))
        house.supervisor.release("a")  # at the same instant: the notes still come first
        for number in range(20):
            note = decode((await until(peer, "progress")).params, type=ProgressNote)
            assert (note.request_id, note.progress.text, note.dropped) == (1, str(number), 0)
        assert (await peer.answer(1)).kind == "Reply"


def test_what_clients_of_one_shell_say_of_it_is_kept_once() -> None:
    said = msgspec.json.encode({"EDITOR": "vi -R", "LANG": "C.UTF-8"})
    kept = [_kept_once(msgspec.json.decode(said)) for _ in range(2)]
    assert len({id(text) for environ in kept for item in environ.items() for text in item}) == 4


async def test_pieces_of_text_come_together_and_all_of_them(tmp_path: Path) -> None:
    """A person sees no more than `1 / PACE` notes a second; what is said is lost to nobody."""
    async with open_house(tmp_path) as house, house.peer() as peer:
        await peer.send(1, "session.spawn", SpawnParams(options("a"), "hang"))
        await until(peer, "accepted")
        await house.supervisor.wait_watched("a")
        for piece in ("Once ", "upon ", "a time"):
            house.supervisor.tell("a", piece, "text")
        house.supervisor.tell("a", "Read a.py", "tool")
        for piece in ("the ", "end"):
            house.supervisor.tell("a", piece, "text")
        house.supervisor.release("a")
        notes = []
        while (line := await peer.line()).method:
            notes.append(decode(line.params, type=ProgressNote).progress)
        assert [(note.kind, note.text) for note in notes] == [
            ("text", "Once upon a time"),
            ("tool", "Read a.py"),
            ("text", "the end"),
        ]


# --- cancelling -----------------------------------------------------------------------------------


async def test_cancelling_a_delegation_stops_it_and_tells_what_it_came_to(tmp_path: Path) -> None:
    async with open_house(tmp_path) as house, house.peer() as peer:
        await peer.send(1, "session.delegate", DelegateParams(options("d"), "hang"))
        await until(peer, "accepted")
        await peer.send(None, "cancel", Cancel(1))
        result = decode((await peer.answer(1)).result, type=DelegateResult)
        assert (result.status, result.cost) == (Outcome.INTERRUPTED, 0.5)
        assert house.supervisor.cancelled == ["d"]


async def test_a_lease_that_runs_out_cancels_a_delegation_and_its_grace_goes_along(tmp_path: Path) -> None:
    async with open_house(tmp_path) as house, house.peer() as peer:
        for number, method, params in (
            (1, "session.delegate", DelegateParams(options("d"), "hang")),
            (2, "session.continue", ContinueParams("d", "hang")),
        ):
            await peer.send(number, method, params, lease=0.2, grace=number)
            result = decode((await peer.answer(number)).result, type=DelegateResult)
            assert result.status is Outcome.INTERRUPTED
        assert house.supervisor.cancelled == ["d", "d"]
        assert house.supervisor.graces == [1, 2]


async def test_cancelling_before_anything_was_accepted_has_no_result(tmp_path: Path) -> None:
    async with open_house(tmp_path) as house, house.peer() as peer:
        await peer.send(1, "session.delegate", DelegateParams(options("d"), "hang before"))
        await peer.send(None, "cancel", Cancel(1))
        assert code_of(await peer.answer(1)) == (REQUEST_CANCELLED, "interrupted")


async def test_cancelling_a_send_only_ends_the_wait(tmp_path: Path) -> None:
    async with open_house(tmp_path) as house, house.peer() as peer:
        await peer.send(1, "session.spawn", SpawnParams(options("a"), "hang"))
        await until(peer, "accepted")
        await peer.send(None, "cancel", Cancel(1))
        assert (await peer.answer(1)).kind == "AcceptedResult"
        assert house.supervisor.records["a"].status is SessionStatus.BUSY


async def test_a_cancelled_one_shot_is_stopped_all_the_same(tmp_path: Path) -> None:
    async with open_house(tmp_path) as house:
        async with house.peer() as peer:
            await peer.send(1, "session.spawn", SpawnParams(options("a"), "hang", stop=True))
            await until(peer, "accepted")
        house.supervisor.release("a")
        await house.supervisor.wait_until(lambda: house.supervisor.stopped == ["a"])


async def test_a_client_that_vanishes_cancels_what_it_waited_for(tmp_path: Path) -> None:
    async with open_house(tmp_path) as house:
        async with house.peer() as peer:
            await peer.send(1, "session.delegate", DelegateParams(options("attached"), "hang"))
            await peer.send(2, "session.delegate", DelegateParams(options("detached"), "hang", detach=True))
            await peer.send(3, "session.spawn", SpawnParams(options("spawned"), "hang"))
            await peer.answer(2)
            await house.supervisor.wait_until(lambda: len(house.supervisor.said.get("spawned", ())) == 1)
        await house.supervisor.wait_until(lambda: bool(house.supervisor.cancelled))
        assert house.supervisor.cancelled == ["attached"]
        assert house.supervisor.records["detached"].status is SessionStatus.BUSY
        assert house.supervisor.records["spawned"].status is SessionStatus.BUSY


async def test_cancelling_a_watch_answers_with_the_session(tmp_path: Path) -> None:
    async with open_house(tmp_path) as house, house.peer() as peer:
        await peer.ask(1, "session.spawn", SpawnParams(options("a"), "hi"))
        await peer.send(2, "session.watch", WatchParams("a"))
        await house.supervisor.wait_watched("a")
        await peer.send(None, "cancel", Cancel(2))
        assert decode((await peer.answer(2)).result, type=SessionResult).session.name == "a"
        assert house.supervisor.watchers("a") == 0


async def test_a_watch_ends_with_its_session(tmp_path: Path) -> None:
    async with open_house(tmp_path) as house, house.peer() as peer:
        await peer.ask(1, "session.spawn", SpawnParams(options("a"), "hi"))
        await peer.send(2, "session.watch", WatchParams("a"))
        await house.supervisor.wait_watched("a")
        await peer.send(3, "session.stop", StopParams("a"))
        lines = {line.id: line for line in [await peer.line(), await peer.line()]}
        assert decode(lines[2].result, type=SessionResult).session.status is SessionStatus.STOPPED


# --- refusals -------------------------------------------------------------------------------------


async def test_the_first_word_is_hello(tmp_path: Path) -> None:
    async with open_house(tmp_path) as house, house.peer(hello=False) as peer:
        assert code_of(await peer.ask(1, "session.list", ListParams())) == (SERVER_ERROR, "usage")
        reply = decode((await peer.hello()).result, type=HelloResult)
        assert (reply.protocol, reply.home) == (PROTOCOL, str(tmp_path))
        assert (await peer.ask(2, "session.list", ListParams())).error is None


async def test_another_protocol_may_only_say_stop(tmp_path: Path) -> None:
    async with open_house(tmp_path) as house, house.peer(hello=False) as peer:
        await peer.hello(PROTOCOL + 1)
        assert code_of(await peer.ask(1, "session.list", ListParams())) == (SERVER_ERROR, "daemon_version")
        assert (await peer.ask(2, "daemon.stop", DaemonStopParams())).error is None
        with trio.fail_after(10):
            await house.served.wait()


@pytest.mark.parametrize(
    ("line", "request_id", "code", "words"),
    [
        (b"what?", None, PARSE_ERROR, "not JSON"),
        (b"", None, PARSE_ERROR, "not JSON"),
        (b"\xff\xfe\x00", None, PARSE_ERROR, "not JSON"),
        (b'{"id":7,"method":"session.get","params":' + b"[" * 100_000, None, PARSE_ERROR, "not JSON"),
        (b"[]", None, INVALID_REQUEST, "not a request"),
        (b'{"id":7}', 7, INVALID_REQUEST, "method"),
        (b'{"id":-1,"method":"session.list"}', -1, INVALID_REQUEST, "id"),
        (b'{"id":"a","method":"session.list"}', None, INVALID_REQUEST, "id"),
        (b'{"id":1' + b"0" * 400 + b',"method":"session.list"}', None, INVALID_REQUEST, "id"),
        (b'{"id":7,"method":"session.fly"}', 7, METHOD_NOT_FOUND, "session.fly"),
        (b'{"id":7,"method":"session.get"}', 7, INVALID_PARAMS, "name"),
        (b'{"id":7,"method":"session.get","params":[1]}', 7, INVALID_PARAMS, "session.get"),
        (b'{"id":7,"method":"session.get","params":{"name":1}}', 7, INVALID_PARAMS, "$.name"),
    ],
)
async def test_bad_requests_get_the_standard_errors(
    tmp_path: Path, line: bytes, request_id: int | None, code: int, words: str
) -> None:
    async with open_house(tmp_path) as house, house.peer() as peer:
        await peer.stream.send_all(line + b"\n")
        answer = await peer.line()
        assert answer.error is not None
        if len(line) < 400 or code == PARSE_ERROR:
            assert answer.id == request_id
        assert answer.error.code == code
        assert words in answer.error.message
        assert (await peer.ask(8, "session.list", ListParams())).error is None, "the connection goes on"


async def test_a_notification_is_never_answered(tmp_path: Path) -> None:
    async with open_house(tmp_path) as house, house.peer() as peer:
        await peer.send(None, "session.list", ListParams())
        await peer.send(None, "nonsense", Nothing())
        await peer.send(None, "cancel", Cancel(99))
        await peer.send(None, "cancel", Nothing())
        await peer.send(5, "session.list", ListParams())
        assert (await peer.line()).id == 5


async def test_too_many_and_repeated_requests_are_refused(tmp_path: Path) -> None:
    async with open_house(tmp_path) as house, house.peer() as peer:
        await peer.send(0, "session.spawn", SpawnParams(options("a"), "hang"))
        await until(peer, "accepted")
        for request_id in range(1, MAX_CALLS):
            await peer.send(request_id, "session.watch", WatchParams("a"))
        line = await peer.ask(3, "session.list", ListParams())
        assert code_of(line) == (INVALID_REQUEST, "usage")
        line = await peer.ask(MAX_CALLS, "session.list", ListParams())
        assert code_of(line) == (SERVER_ERROR, "usage")
        await peer.send(None, "cancel", Cancel(3))
        await peer.answer(3)
        assert (await peer.ask(MAX_CALLS, "session.list", ListParams())).error is None


async def test_an_endless_line_ends_the_connection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cms.daemon.connection.MAX_LINE", 1000)
    async with open_house(tmp_path) as house, house.peer() as peer:
        await peer.stream.send_all(b"x" * 2000)
        assert (await peer.line()).error is not None
        await peer.wait_hung_up()


async def test_an_answer_longer_than_a_line_may_be_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_house(tmp_path) as house, house.peer() as peer:
        await peer.ask(1, "session.spawn", SpawnParams(options("a"), "x" * 2000))
        monkeypatch.setattr("cms.daemon.connection.MAX_LINE", 1000)
        assert code_of(await peer.ask(2, "session.interactions", InteractionsParams("a"))) == (
            SERVER_ERROR,
            "usage",
        )


async def test_our_errors_cross_whole_and_bugs_do_not_leak(tmp_path: Path) -> None:
    async with open_house(tmp_path) as house, house.peer() as peer:
        house.supervisor.raises = SessionNotFound("fxi", nearest="fix")
        line = await peer.ask(1, "session.get", NameParams("fxi"))
        assert code_of(line) == (SERVER_ERROR, "not_found")
        assert line.error is not None
        assert line.error.data is not None
        assert line.error.data.fields == {"name": "fxi", "nearest": "fix"}
        house.supervisor.raises = ZeroDivisionError("the secret prompt")
        line = await peer.ask(2, "session.get", NameParams("a"))
        assert code_of(line) == (INTERNAL_ERROR, "internal")
        assert "secret" not in repr(line)
        assert (await peer.ask(3, "session.list", ListParams())).error is None


# --- many, slow, hostile --------------------------------------------------------------------------


async def test_fifty_requests_wait_side_by_side_on_one_connection(tmp_path: Path) -> None:
    async with open_house(tmp_path) as house, house.peer() as peer:
        for number in range(50):
            await peer.send(number + 1, "session.spawn", SpawnParams(options(f"s{number}"), f"hang {number}"))
        await house.supervisor.wait_until(lambda: len(house.supervisor.said) == 50)
        order = list(range(50))
        random.Random(1).shuffle(order)  # noqa: S311 - no secret
        for number in order:
            house.supervisor.release(f"s{number}")
            line = await peer.answer(number + 1)
            assert decode(line.result, type=Reply).text == f"re: hang {number}"


async def test_a_client_that_does_not_read_slows_nobody_and_learns_what_it_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cms.daemon.connection.PACE", 0.0)
    total = 5000
    async with open_house(tmp_path) as house, house.peer() as slow, house.peer() as quick:
        await slow.send(1, "session.spawn", SpawnParams(options("a"), "hang"))
        await house.supervisor.wait_watched("a")
        for number in range(total):
            house.supervisor.tell("a", f"{number} " + "x" * 200)
            if number % 500 == 0:
                await (
                    trio.testing.wait_all_tasks_blocked()
                )  # the relay has run; nobody reads at the other end
                assert (await quick.ask(number, "session.get", NameParams("a"))).error is None
        house.supervisor.release("a")
        assert (await quick.ask(total, "session.get", NameParams("a"))).error is None
        taken = dropped = 0
        last = -1
        while (line := await slow.line()).method:
            if line.method == "progress":
                note = decode(line.params, type=ProgressNote)
                number = int(note.progress.text.split()[0])
                assert number == last + 1 + note.dropped, "what is missing is what it says was dropped"
                taken, dropped, last = taken + 1, dropped + note.dropped, number
        assert line.id == 1
        assert dropped > 0
        assert taken + dropped == total


@given(st.lists(st.tuples(st.sampled_from(["note 1", "note 2", "answer", "take"])), max_size=60))
def test_an_outbox_keeps_order_and_accounts_for_every_note(steps: list[tuple[str]]) -> None:
    async def run() -> None:
        outbox = Outbox(max_notes=3)
        given_notes = {1: 0, 2: 0}
        seen = {1: 0, 2: 0}
        answers = answers_seen = 0

        async def take() -> None:
            nonlocal answers_seen
            line = await outbox.take()
            assert line is not None
            if line.startswith(b"answer"):
                assert line == b"answer %d" % answers_seen
                answers_seen += 1
                return
            note = decode(decode(line, type=Line).params, type=ProgressNote)
            assert int(note.progress.text) == seen[note.request_id] + note.dropped
            seen[note.request_id] = int(note.progress.text) + 1

        for (step,) in steps:
            if step == "answer":
                outbox.put(b"answer %d" % answers)
                answers += 1
            elif step == "take":
                if len(outbox):
                    await take()
            else:
                request_id = int(step[-1])
                outbox.put_note(ProgressNote(request_id, Progress("a", "text", str(given_notes[request_id]))))
                given_notes[request_id] += 1
        outbox.close()
        while len(outbox):
            await take()
        assert await outbox.take() is None
        assert answers_seen == answers

    trio.run(run)


async def test_random_bytes_neither_crash_nor_hang_the_server(tmp_path: Path) -> None:
    seeds = random.Random(20)  # noqa: S311 - no secret
    pieces = [
        b'{"id":1,',
        b'"method":"session.get",',
        b'"params":{"name":"a"}',
        b"}",
        b"\n",
        b"[",
        b'"',
        b"{}",
    ]
    pieces += [
        b'{"method":"cancel","params":{"requestId":1}}\n',
        b"\x00",
        b"\xff",
        b'"id":1e999',
        b"null",
        b"-",
    ]
    async with open_house(tmp_path) as house:
        for _ in range(60):
            noise = b"".join(
                seeds.choice(pieces) if seeds.random() < 0.7 else seeds.randbytes(seeds.randrange(30))
                for _ in range(seeds.randrange(200))
            )
            async with house.peer(hello=seeds.random() < 0.5) as peer:
                with trio.fail_after(10):
                    await peer.stream.send_all(noise + b"\n")
                    await peer.send(77, "hello", Nothing())
                    await peer.answer(77)
        async with house.peer() as peer:
            assert (await peer.ask(1, "session.list", ListParams())).error is None


async def test_a_client_that_leaves_at_any_moment_leaves_nothing(tmp_path: Path) -> None:
    line = msgspec.json.encode({"id": 0, "method": "hello", "params": {"version": "1", "protocol": PROTOCOL}})
    line += b'\n{"id":1,"method":"session.list"}\n'
    async with open_house(tmp_path) as house:
        for cut in range(len(line)):
            async with house.peer(hello=False) as peer:
                await peer.stream.send_all(line[:cut])
        with trio.fail_after(10):
            while house.server.clients:
                await trio.lowlevel.checkpoint()
        assert house.server.quiet_since is not None


# --- the end --------------------------------------------------------------------------------------


async def test_stop_refuses_new_work_answers_the_old_and_hangs_up(tmp_path: Path) -> None:
    async with open_house(tmp_path) as house, house.peer() as worker, house.peer() as stopper:
        await worker.send(1, "session.delegate", DelegateParams(options("d"), "hang"))
        await until(worker, "accepted")
        house.supervisor.hold_stop_all = trio.Event()
        await stopper.send(1, "daemon.stop", DaemonStopParams(grace=3.0))
        await house.supervisor.wait_until(lambda: bool(house.supervisor.stop_all_calls))
        assert house.supervisor.stop_all_calls == [3.0]
        refused = await stopper.ask(2, "session.spawn", SpawnParams(options("late"), "hi"))
        assert code_of(refused) == (SERVER_ERROR, "daemon_unavailable")
        assert (await stopper.ask(3, "daemon.status", Nothing())).error is None
        async with house.peer(hello=False) as late:
            assert decode((await late.hello()).result, type=HelloResult).stopping
        house.supervisor.hold_stop_all.set()
        assert (await stopper.answer(1)).error is None
        assert decode((await worker.answer(1)).result, type=DelegateResult).status is Outcome.INTERRUPTED
        await worker.wait_hung_up()
        await stopper.wait_hung_up()
        with trio.fail_after(10):
            await house.served.wait()


async def test_a_second_stop_waits_for_the_first(tmp_path: Path) -> None:
    async with open_house(tmp_path) as house, house.peer() as peer:
        house.supervisor.hold_stop_all = trio.Event()
        await peer.send(1, "daemon.stop", DaemonStopParams())
        await peer.send(2, "daemon.stop", DaemonStopParams())
        await house.supervisor.wait_until(lambda: bool(house.supervisor.stop_all_calls))
        house.supervisor.hold_stop_all.set()
        assert {(await peer.line()).id, (await peer.line()).id} == {1, 2}
        assert len(house.supervisor.stop_all_calls) == 1


async def test_what_could_not_be_stopped_is_told_and_the_server_leaves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*, grace: float) -> None:
        raise ContainmentError("pid 7 is still there")

    async with open_house(tmp_path) as house, house.peer() as peer:
        monkeypatch.setattr(house.supervisor, "stop_all", fail)
        assert code_of(await peer.ask(1, "daemon.stop", DaemonStopParams())) == (SERVER_ERROR, "containment")
        with trio.fail_after(10):
            await house.served.wait()


async def test_a_client_that_never_reads_does_not_hold_up_the_end(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_house(tmp_path) as house, house.peer() as deaf:
        await deaf.send(1, "session.spawn", SpawnParams(options("a"), "x" * 100_000))
        await deaf.answer(1)
        for request_id in range(2, 40):  # some megabytes of answers, more than a socket holds
            await deaf.send(request_id, "session.interactions", InteractionsParams("a"))
        await trio.testing.wait_all_tasks_blocked()
        await house.server.stop(1.0)
        await house.served.wait()


async def test_a_stale_socket_is_replaced_and_a_file_in_its_place_is_not(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    old = open_listener(settings)
    old.socket.close()
    assert settings.socket.is_socket()
    await open_listener(settings).aclose()
    settings.socket.unlink()
    settings.socket.write_text("precious")
    with pytest.raises(HomeUnusable, match=r"daemon\.sock"):
        open_listener(settings)
    assert settings.socket.read_text() == "precious"


async def test_a_path_too_long_for_an_address_works(tmp_path: Path) -> None:
    home = tmp_path / ("long" * 50)
    home.mkdir()
    listener = open_listener(Settings(home=home))
    assert (home / "daemon.sock").is_socket()
    await listener.aclose()
