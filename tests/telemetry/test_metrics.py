"""Metrics: their text by Prometheus' own parser, their counting in the store, a scrape."""

from __future__ import annotations

import http.client
import json
import re
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli.making import RECEIPT, UNPROVED, interaction, session
from cli.shell import Shell, shell
from cms.batch.model import BatchOptions, BatchRecord, BatchStatus
from cms.cli.metrics import parse_address
from cms.daemon.metrics import of_daemon, of_exports, of_store
from cms.session.audit import AuditEntry
from cms.session.model import Denial, InteractionState, Outcome, TokenUsage
from cms.store import audit, batches, counters, sessions
from cms.store.counters import Figures
from cms.store.database import Database
from cms.store.owners import Owner
from cms.telemetry.metrics import MOST, Family, Sample, text
from cms.testing.script import call, prompt, say

__all__ = ["shell"]

parser = pytest.importorskip("prometheus_client.parser")

Figure = tuple[str, tuple[tuple[str, str], ...]]
NOTHING = Figures({}, {}, {}, {}, {}, (), 0.0)


def parsed(said: str) -> dict[Figure, float]:
    """Every figure of a scrape by its name and labels, as Prometheus' parser reads it."""
    return {
        (one.name, tuple(sorted(one.labels.items()))): one.value
        for family in parser.text_string_to_metric_families(said)
        for one in family.samples
    }


# --- the text -------------------------------------------------------------------------------------


@given(st.text(), st.text(), st.floats())
def test_whatever_a_label_holds_it_is_read_back(label: str, told: str, value: float) -> None:
    family = Family("cms_a_total", "counter", told, (Sample(value, {"model": label}),))
    # What ends a line for str.splitlines, and for Prometheus does not, its Python parser takes for an end.
    if len(f"{label}x{told}x".splitlines()) > 1 + (label + told).count("\n"):
        return
    (found,) = parsed(text([family])).items()
    assert found[0] == ("cms_a_total", (("model", label),))
    assert found[1] == value or value != value


def test_names_follow_the_conventions() -> None:
    families = [*of_store(NOTHING), *of_daemon((), 1, 0.0), *of_exports(0, 0)]
    names = [family.name for family in families]
    assert len(set(names)) == len(names)
    for family in families:
        assert family.name.startswith(("cms_", "process_"))
        assert family.name.endswith("_total") is (family.kind == "counter"), family.name
        assert family.help.endswith(".")


def test_many_models_are_told_together() -> None:
    spent = {f"model-{number:03}": TokenUsage(1, 2, 3, 4, number) for number in range(MOST + 10)}
    found = parsed(text(of_store(msgspec.structs.replace(NOTHING, spent=spent))))
    costs = {labels: value for (name, labels), value in found.items() if name == "cms_cost_usd_total"}
    assert len(costs) == MOST + 1
    assert costs[(("model", "other"),)] == sum(range(10))
    assert sum(costs.values()) == sum(range(MOST + 10))
    assert found["cms_tokens_total", (("model", "other"), ("type", "output"))] == 20


# --- counting -------------------------------------------------------------------------------------


@contextmanager
def database(tmp_path: Path) -> Iterator[Database]:
    owner = Owner(tmp_path / "owners")
    db = Database.open(tmp_path / "cms.db", owner, tmp_path / "owners")
    try:
        yield db
    finally:
        db.close()
        owner.release()


def test_a_message_counts_once_however_often_it_is_stored(tmp_path: Path) -> None:
    running = msgspec.structs.replace(
        interaction(state=InteractionState.RUNNING), turns=3, duration=2.5, ended=None
    )
    denials = (Denial("Write", "a", "no"), Denial("Bash", "b", "no", by="claude"))
    ended = msgspec.structs.replace(
        running, state=InteractionState.INTERRUPTED, outcome=Outcome.INTERRUPTED, denials=denials
    )
    judged = msgspec.structs.replace(ended, state=InteractionState.DONE, outcome=Outcome.COMPLETED)
    with database(tmp_path) as db:
        with db.transaction():
            sessions.add(db, session(), running)
        for one in (running, ended, ended, judged, judged):
            with db.transaction():
                sessions.save(db, session(), one)
        found = counters.figures(db, 0.0).counters
        assert found["messages"] == {"interrupted": 1, "completed": 1}
        assert (found["turns"], found["seconds"]) == ({"": 3}, {"": 2.5})
        assert found["refusals"] == {"gate": 1, "claude": 1}
        with db.transaction():
            sessions.delete(db, session().id, 0.0)
        left = counters.figures(db, 0.0)
        assert (left.counters, left.sessions) == (found, {})


def test_calls_limits_and_ends(tmp_path: Path) -> None:
    def entry(**more: object) -> AuditEntry:
        return msgspec.structs.replace(AuditEntry(session().id, "", 0.0, "Bash", "", "allowed"), **more)

    with database(tmp_path) as db:
        with db.transaction():
            sessions.add(db, session())
            audit.add(
                db,
                [
                    entry(),
                    entry(),
                    entry(verdict="refused"),
                    entry(tool="mcp__a__b"),
                    entry(tool='"made" up\n'),
                    entry(kind="limit", verdict="cost_exceeded"),
                    entry(kind="start", verdict="bwrap"),
                ],
            )
            for receipt in (RECEIPT, UNPROVED):
                sessions.save_end(db, session(), [], receipt, process="p")
        found = counters.figures(db, 0.0)
    assert found.counters["calls"] == {
        "Bash allowed": 2,
        "Bash refused": 1,
        "mcp allowed": 1,
        "other allowed": 1,
    }
    assert found.counters["limits"] == {"cost_exceeded": 1}
    told = parsed(text(of_store(found)))
    assert told["cms_tool_calls_total", (("tool", "Bash"), ("verdict", "refused"))] == 1
    ends = {labels: value for (name, labels), value in told.items() if name == "cms_process_ends_total"}
    assert sum(ends.values()) == 2
    assert {dict(labels)["proof"] for labels in ends} == {"proved", "unproved"}


def test_a_batch_that_a_usage_limit_parks_counts_once_a_park(tmp_path: Path) -> None:
    def batch(status: BatchStatus) -> BatchRecord:
        return BatchRecord(id="b", created=0.0, status=status, options=BatchOptions(work_dir="/"))

    parked, running = batch(BatchStatus.PARKED), batch(BatchStatus.RUNNING)
    with database(tmp_path) as db, db.transaction():
        batches.create(db, running)
        for one in (parked, parked, running, parked):
            batches.save(db, one)
        found = counters.figures(db, 0.0)
    assert found.counters["parks"] == {"": 2}
    assert found.batches == {"parked": 1}


# --- a daemon -------------------------------------------------------------------------------------


def test_what_a_session_did_is_there_after_a_restart(shell: Shell) -> None:
    work = prompt("go", call("Bash", command="echo hi"), say("done", cost_usd=0.25))
    shell.ok("delegate", "a", work, "--preset", "full", "--model", "haiku")
    before = parsed(shell.ok("metrics").out)
    assert before["cms_up", ()] == 1
    assert before["cms_messages_total", (("outcome", "completed"),)] == 1
    assert before["cms_sessions", (("status", "completed"),)] == 1
    assert before["cms_tool_calls_total", (("tool", "Bash"), ("verdict", "allowed"))] == 1
    assert before["cms_process_ends_total", (("how", "graceful"), ("proof", "proved"))] == 1
    spent = sum(value for (name, _), value in before.items() if name == "cms_cost_usd_total")
    assert 0 < spent == pytest.approx(float(str(shell.ok("cost", "--json").json()["totalCostUsd"])))
    assert not [labels for _, labels in before if ("name", "a") in labels or ("session", "a") in labels]
    shell.ok("daemon", "stop")
    after = parsed(shell.ok("metrics").out)
    counted = {key for key in before if re.fullmatch(r"cms_(?!otel_).*_total", key[0])}
    assert {key: after[key] for key in counted} == {key: before[key] for key in counted}
    families = shell.ok("metrics", "--json").list("families")
    assert {str(one["name"]) for one in families} >= {name for name, _ in counted}


@contextmanager
def served(shell: Shell) -> Iterator[int]:
    """`cms metrics --listen` on a port of the system's choice."""
    server = shell.start("metrics", "--listen", "127.0.0.1:0", "--json")
    assert server.stdout is not None
    url = str(json.loads(server.stdout.readline())["url"])
    yield int(url.removesuffix("/metrics").rpartition(":")[2])
    server.send_signal(signal.SIGINT)
    assert server.wait(10) == 0


def scrape(port: int, path: str = "/metrics", host: str = "") -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", path, headers={"host": host} if host else {})
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def test_a_scrape(shell: Shell) -> None:
    shell.ok("list")
    with served(shell) as port:
        status, said = scrape(port)
        assert (status, parsed(said)["cms_up", ()]) == (200, 1)
        assert scrape(port, "/")[0] == 404
        assert scrape(port, host="evil.example")[0] == 403
        assert scrape(port, host=f"localhost:{port}")[0] == 200
        with socket.create_connection(("127.0.0.1", port)) as silent:
            silent.sendall(b"GET /metr")  # and nothing more: nobody else waits for it
            assert scrape(port)[0] == 200
        shell.ok("daemon", "stop")
        assert scrape(port) == (
            200,
            text([Family("cms_up", "gauge", "Whether a daemon answers.", (Sample(0),))]),
        )
    assert shell.cms("daemon", "status").code == 11


@pytest.mark.parametrize(
    "word", ["0.0.0.0:9464", "example.org:80", "127.0.0.1", "127.0.0.1:x", "[::]:1", "1:99999"]
)
def test_only_the_loopback_is_listened_at(word: str) -> None:
    with pytest.raises(ValueError, match=r"loopback|is not an address"):
        parse_address(word)


def test_addresses() -> None:
    assert parse_address("127.0.0.1:9464") == ("127.0.0.1", 9464)
    assert parse_address("localhost:0") == ("localhost", 0)
    assert parse_address("[::1]:80") == ("::1", 80)
    assert parse_address("9464") == ("127.0.0.1", 9464)
