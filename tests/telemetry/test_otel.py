"""Traces and metrics by OpenTelemetry: what is told, below what, to whom, and that nobody waits for it."""

from __future__ import annotations

import io
import sys
import threading
import time
from pathlib import Path

import msgspec
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from cms.batch.model import BatchOptions, TaskSpec
from cms.config import Settings, caller_environ
from cms.errors import UsageError
from cms.fleet.batches import open_batches
from cms.fleet.telemetry import Telemetry
from cms.live.argv import build_environment
from cms.options import Layer
from cms.session.model import Outcome, SessionOptions
from cms.telemetry import export, names
from cms.telemetry.metrics import Family, Sample
from cms.telemetry.spans import Place, Span, below, place_of
from cms.testing.script import call, prompt, say
from fleet.kit import make_options, make_settings, supervising
from telemetry.collector import Collector, Got, collecting

SECRET = "s3cr3t"
REMOTE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
WORK = prompt(
    f"go {SECRET}",
    call("Bash", command=f"echo {SECRET}; printenv TRACEPARENT > parent"),
    call("Bash", command="exit 3"),
    say(f"done {SECRET}", cost_usd=0.25),
)


def traced(settings: Settings, name: str, **more: object) -> SessionOptions:
    return make_options(settings, name, preset="full", otel=True, **more)


def asked_by(settings: Settings, collector: Collector, **more: str) -> None:
    """Who asks from here on has these variables."""
    caller_environ.set({**settings.environ, **collector.environ, **more})


async def got(collector: Collector, name: str) -> Got:
    return await trio.to_thread.run_sync(collector.wait, name)


# --- a session ------------------------------------------------------------------------------------


async def test_a_delegation_is_a_tree_of_spans(tmp_path: Path) -> None:
    settings = make_settings(tmp_path)
    with collecting() as collector:
        async with supervising(settings, within=60) as supervisor:
            asked_by(settings, collector, OTEL_SERVICE_NAME="mine", OTEL_EXPORTER_OTLP_HEADERS="x-key=abc")
            options = traced(settings, "a", verify=("false",))
            result = await supervisor.delegate(options, WORK)
            agent = await got(collector, names.AGENT)
        told = {one.span_id: one for one in collector.spans}
    assert {one.trace_id for one in told.values()} == {agent.trace_id}
    assert (agent.parent_id, agent.name) == ("", "invoke_agent a")
    assert agent.attributes[names.OUTCOME] == result.status == "verification_failed"
    assert agent.error == agent.attributes[names.ERROR_TYPE] == "verification_failed"
    assert agent.attributes[names.COST] == pytest.approx(result.cost)
    assert agent.attributes[names.PROVED] is True
    assert agent.resource["service.name"] == "mine"
    (turn,) = collector.named(names.TURN)
    assert turn.parent_id == agent.span_id
    assert turn.attributes[names.COST] == pytest.approx(result.cost)
    chats, tools = collector.named(names.CHAT), collector.named(names.TOOL)
    assert [one.parent_id for one in (*chats, *tools)] == [turn.span_id] * 5
    assert [one.attributes[names.FINISH_REASONS] for one in chats] == [
        ["tool_use"],
        ["tool_use"],
        ["end_turn"],
    ]
    assert all(one.attributes[names.PROVIDER_NAME] == "anthropic" and one.kind == 3 for one in chats)
    assert [(one.name, one.error) for one in tools] == [
        ("execute_tool Bash", ""),
        ("execute_tool Bash", "tool_error"),
    ]
    for one in told.values():
        assert one.start <= one.end
        if one.parent_id:
            assert told[one.parent_id].start <= one.start
    given = (Path(options.work_dir) / "parent").read_text().strip()
    assert given == f"00-{agent.trace_id}-{agent.span_id}-01"
    assert all(headers["x-key"] == "abc" for headers in collector.headers)
    assert SECRET.encode() not in b"".join(collector.raw)


async def test_content_is_told_only_where_that_was_asked_for(tmp_path: Path) -> None:
    settings = make_settings(tmp_path)
    with collecting() as collector:
        async with supervising(settings, within=60) as supervisor:
            asked_by(settings, collector)
            await supervisor.delegate(traced(settings, "a", otel_content=True), WORK)
            await got(collector, names.AGENT)
    (turn,) = collector.named(names.TURN)
    asked = msgspec.json.decode(turn.attributes[names.INPUT_MESSAGES])
    assert asked[0]["role"] == "user"
    assert asked[0]["parts"][0]["content"].startswith(f"go {SECRET}")
    assert f"done {SECRET}" in turn.attributes[names.OUTPUT_MESSAGES]
    first = collector.named(names.TOOL)[0]
    assert SECRET in first.attributes[names.TOOL_ARGUMENTS]
    assert SECRET in first.attributes[names.TOOL_RESULT]


async def test_it_joins_the_trace_of_whoever_asks_and_is_left_out_where_that_is(tmp_path: Path) -> None:
    settings = make_settings(tmp_path)
    with collecting() as collector:
        async with supervising(settings, within=60) as supervisor:
            asked_by(settings, collector, TRACEPARENT=REMOTE, TRACESTATE="v=1")
            await supervisor.delegate(traced(settings, "a"), prompt("go", say("x")))
            agent = await got(collector, f"{names.AGENT} a")
            asked_by(settings, collector, TRACEPARENT=f"{REMOTE[:-1]}0")
            await supervisor.delegate(traced(settings, "b"), prompt("go", say("x")))
            task = prompt("go", call("Bash", command="printenv TRACEPARENT > c"), say("x"))
            await supervisor.delegate(make_options(settings, "c", preset="full"), task)
        assert not collector.named(f"{names.AGENT} b")
        assert not collector.named(f"{names.AGENT} c")
    assert (agent.trace_id, agent.parent_id) == tuple(REMOTE.split("-")[1:3])
    # Who is not traced is given what he came with.
    assert (Path(make_options(settings, "c").work_dir) / "c").read_text().strip() == f"{REMOTE[:-1]}0"


async def test_a_refused_call_and_an_interrupted_turn(tmp_path: Path) -> None:
    settings = make_settings(tmp_path)
    with collecting() as collector:
        async with supervising(settings, within=60) as supervisor:
            asked_by(settings, collector)
            await supervisor.create(msgspec.structs.replace(traced(settings, "a"), preset="edit"))
            refused = prompt("go", call("Bash", command="curl example.org"), say("no"))
            await supervisor.finished(await supervisor.submit("a", refused, type="send"))
            await supervisor.create(traced(settings, "b"))
            hanging = await supervisor.submit(
                "b", prompt("go", call("Bash", command="sleep 600")), type="send"
            )
            with supervisor.watch("b") as notes:
                async for note in notes:
                    if note.kind == "tool":
                        break
            await supervisor.stop("b")
            assert (await supervisor.finished(hanging)).outcome is Outcome.INTERRUPTED
            agent = await got(collector, f"{names.AGENT} b")
    (tool,) = [one for one in collector.named(names.TOOL) if one.error == "refused"]
    assert tool.attributes[names.VERDICT] == "refused"
    (turn,) = [one for one in collector.named(names.TURN) if one.trace_id == agent.trace_id]
    assert turn.error == turn.attributes[names.OUTCOME] == "interrupted"
    (cut_off,) = [one for one in collector.named(names.TOOL) if one.trace_id == agent.trace_id]
    assert cut_off.error in ("not finished", "tool_error")
    assert agent.attributes[names.STATUS] == "stopped"


# --- a batch --------------------------------------------------------------------------------------


async def test_a_batch_is_above_its_tasks(tmp_path: Path) -> None:
    settings = make_settings(tmp_path)
    with collecting() as collector:
        async with supervising(settings, within=60) as supervisor, open_batches(supervisor) as batches:
            asked_by(settings, collector)
            defaults = Layer(otel=True)
            work_dir = make_options(settings, "x").work_dir
            record = await batches.create(BatchOptions(work_dir=work_dir, defaults=defaults), "two")
            tasks = [(TaskSpec(name=name, prompt=prompt("go", say("x"))), 1) for name in "ab"]
            assert not await batches.add(record.id, 0, tasks)
            assert not await batches.check(record.id)
            engine = await batches.start(record.id)
            await engine.wait()
            batch = await got(collector, names.WORKFLOW)
    agents = collector.named(names.AGENT)
    assert sorted(one.name for one in agents) == ["invoke_agent a", "invoke_agent b"]
    assert {(one.trace_id, one.parent_id) for one in agents} == {(batch.trace_id, batch.span_id)}
    assert (batch.attributes[names.TASKS], batch.attributes[names.COMPLETED]) == (2, 2)
    assert (batch.parent_id, batch.error) == ("", "")


# --- nobody waits ---------------------------------------------------------------------------------


async def test_a_collector_that_hangs_or_is_not_there_holds_nobody_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "LAST", 0.3)
    settings = make_settings(tmp_path)
    with collecting() as collector:
        collector.hang = True
        began = time.monotonic()
        async with supervising(settings, within=60) as supervisor:
            asked_by(settings, collector)
            result = await supervisor.delegate(traced(settings, "a"), prompt("go", say("x")))
            asked_by(settings, collector, OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:1")
            other = await supervisor.delegate(traced(settings, "b"), prompt("go", say("x")))
        assert time.monotonic() - began < 20
        assert result.status == other.status == Outcome.COMPLETED


def test_what_has_no_room_is_lost_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "_QUEUE", 1)
    monkeypatch.setattr("cms.telemetry.export.subprocess.Popen", Stuck)
    exports = export.Exports()
    span = Span("x", "1" * 32, "2" * 16, "", 0.0, 1.0, {})
    for _ in range(10):
        exports.span({}, span)
    assert exports.lost >= 8
    for number in range(20):
        exports.span({"OTEL_SERVICE_NAME": str(number)}, span)
    assert len(exports._programs) == export._MOST


class Stuck:
    """A program that takes nothing, and says nothing."""

    def __init__(self, *_: object, **__: object) -> None:
        self.stdin = self.stdout = Silent()

    def poll(self) -> None:
        return None


class Silent(io.BytesIO):
    def write(self, _: object) -> int:
        threading.Event().wait()
        return 0


def test_who_does_not_ask_has_nothing_of_it_loaded() -> None:
    assert not [name for name in sys.modules if name.startswith("opentelemetry.sdk")]


# --- metrics --------------------------------------------------------------------------------------


def test_metrics_go_out_by_the_same_way() -> None:
    with collecting() as collector:
        exports = export.Exports()
        exports.span(collector.environ, Span("x", "1" * 32, "2" * 16, "", 0.0, 1.0, {"a": ["b"]}))
        assert exports.metrics_due(time.time())
        families = (
            Family("cms_cost_usd_total", "counter", "Dollars.", (Sample(0.5, {"model": "haiku"}),)),
            Family("cms_up", "gauge", "Up.", (Sample(1),)),
        )
        exports.metrics(families, time.time())
        assert not exports.metrics_due(time.time())
        exports.close()
    assert collector.metrics == {"cms_cost_usd": [({"model": "haiku"}, 0.5)], "cms_up": [({}, 1.0)]}
    assert [one.name for one in collector.spans] == ["x"]
    assert exports.sent == 1


# --- where a trace begins -------------------------------------------------------------------------


@given(st.text(alphabet="0123456789abcdefg-", max_size=60))
def test_no_traceparent_raises(text: str) -> None:
    place_of({"TRACEPARENT": text})


def test_traceparents() -> None:
    assert place_of({}) is None
    assert place_of({"TRACEPARENT": f"00-{'0' * 32}-b7ad6b7169203331-01"}) is None
    found = place_of({"TRACEPARENT": REMOTE, "TRACESTATE": "v=1"})
    assert found is not None
    assert found.environ == {"TRACEPARENT": REMOTE, "TRACESTATE": "v=1"}


@pytest.mark.parametrize(
    ("sampler", "argument", "alone", "in_sampled", "in_unsampled"),
    [
        ("", "", True, True, False),
        ("always_off", "", False, False, False),
        ("parentbased_always_off", "", False, True, False),
        ("traceidratio", "0.5", True, True, True),
        ("parentbased_traceidratio", "0.4", False, True, False),
        ("xray", "", True, True, True),
    ],
)
def test_sampling(sampler: str, argument: str, alone: bool, in_sampled: bool, in_unsampled: bool) -> None:
    environ = {"OTEL_TRACES_SAMPLER": sampler} if sampler else {}
    environ["OTEL_TRACES_SAMPLER_ARG"] = argument
    trace = "0" * 16 + "7" * 16  # between 0.4 and 0.5 of all
    parents = (None, Place(trace, "1" * 16), Place(trace, "1" * 16, sampled=False))
    assert [below(one, environ, trace, "2" * 16).sampled for one in parents] == [
        alone,
        in_sampled,
        in_unsampled,
    ]


def test_names_are_those_of_the_conventions() -> None:
    known = pytest.importorskip("opentelemetry.semconv._incubating.attributes.gen_ai_attributes")
    attributes = {value for value in vars(known).values() if isinstance(value, str)}
    ours = {value for value in vars(names).values() if isinstance(value, str)}
    assert {one for one in ours if one.startswith("gen_ai.")} <= attributes
    operations = {one.value for one in known.GenAiOperationNameValues}
    assert {names.WORKFLOW, names.AGENT, names.CHAT, names.TOOL} <= operations
    assert names.PROVIDER in {one.value for one in known.GenAiProviderNameValues}


def test_content_alone_is_no_telemetry() -> None:
    with pytest.raises(UsageError, match="--otel"):
        Telemetry.check(SessionOptions("a", "/", otel_content=True), {})


def test_what_cannot_be_exported_is_refused_and_not_lost() -> None:
    options, name = SessionOptions("a", "/", otel=True), "OTEL_EXPORTER_OTLP_PROTOCOL"
    with pytest.raises(UsageError, match="over HTTP"):
        Telemetry.check(options, {name: "grpc"})
    Telemetry.check(SessionOptions("a", "/"), {name: "grpc"})
    for protocol in ("", "http/protobuf", "http/json"):
        Telemetry.check(options, {name: protocol})
    Telemetry.check(options, {name: "grpc", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf"})


def test_telemetry_variables_of_the_user_reach_claude() -> None:
    said = {
        "CLAUDE_CODE_ENABLE_TELEMETRY": "1",
        "CLAUDE_CODE_ENHANCED_TELEMETRY_BETA": "1",
        "OTEL_METRICS_EXPORTER": "otlp",
        "OTEL_EXPORTER_OTLP_HEADERS": "a=b",
        "OTEL_LOG_USER_PROMPTS": "1",
        "TRACEPARENT": REMOTE,
    }
    assert said.items() <= build_environment(said).items()
