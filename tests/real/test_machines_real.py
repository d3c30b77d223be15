"""What programs are told, with the real claude: hooks, a scrape, a trace that claude's own spans join."""

from __future__ import annotations

import json
import signal
import urllib.request

import pytest

from cms.telemetry import names
from cms.testing.script import call, prompt, say
from real.conftest import World
from receiver import receiver
from telemetry.collector import collecting

pytestmark = [pytest.mark.real, pytest.mark.own_daemon]

parser = pytest.importorskip("prometheus_client.parser")

QUESTION = {"question": "Which colour?", "header": "Colour", "multiSelect": False}
COLOURS = [{"label": "red", "description": "r"}, {"label": "blue", "description": "b"}]


def figures(said: str) -> dict[tuple[str, str], float]:
    """Sums by name and one label's value."""
    found: dict[tuple[str, str], float] = {}
    for family in parser.text_string_to_metric_families(said):
        for one in family.samples:
            for value in one.labels.values() or ("",):
                found[one.name, value] = found.get((one.name, value), 0.0) + one.value
    return found


def test_a_question_and_its_end_are_told_and_counted(world: World) -> None:
    task = prompt(
        "go",
        call("AskUserQuestion", questions=[{**QUESTION, "options": COLOURS}]),
        call("Bash", command="rm -rf build"),
        say("done"),
    )
    with receiver() as (url, got):
        begun = world.cms("delegate", "a", task, "--detach", "--ask-timeout", "5m", "--webhook", url)
        assert begun.code == 0, begun
        asked = got.get(timeout=60)
        assert (asked["event"], asked["outcome"], asked["questions"]) == ("ask", None, ["Which colour?"])
        assert world.cms("answer", "a", "blue").code == 0
        asked = got.get(timeout=60)
        assert (asked["event"], asked["questions"]) == ("ask", ["Bash rm -rf build"])
        assert world.cms("answer", "a", "--deny").code == 0
        ended = got.get(timeout=60)
        assert got.empty()
    shown = json.loads(world.cms("status", "a", "--json").out)
    assert ended["outcome"] == shown["lastInteraction"]["outcome"]
    assert ended["cost"] == pytest.approx(shown["totalCostUsd"])

    server = world.start("metrics", "--listen", "127.0.0.1:0", "--json")
    assert server.stdout is not None
    with urllib.request.urlopen(json.loads(server.stdout.readline())["url"], timeout=30) as answer:  # noqa: S310
        told = figures(answer.read().decode())
    server.send_signal(signal.SIGINT)
    server.communicate(timeout=30)
    assert server.returncode == 0
    assert told["cms_up", ""] == 1
    assert told["cms_messages_total", str(ended["outcome"])] == 1
    assert told["cms_tool_calls_total", "Bash"] >= 1
    assert told["cms_process_ends_total", "proved"] == 1
    spent = sum(value for (name, _), value in told.items() if name == "cms_cost_usd_total")
    assert spent == pytest.approx(shown["totalCostUsd"])


#: Claude's own telemetry, as a person switches it on.
CLAUDES = {
    "CLAUDE_CODE_ENABLE_TELEMETRY": "1",
    "CLAUDE_CODE_ENHANCED_TELEMETRY_BETA": "1",
    "OTEL_TRACES_EXPORTER": "otlp",
    "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
}


def test_claudes_own_spans_join_the_trace(world: World) -> None:
    with collecting() as collector:
        env = {**collector.environ, **CLAUDES}
        task = prompt("go", call("Bash", command="echo hi"), say("done"))
        ran = world.cms("delegate", "a", task, "--otel", "--json", env=env)
        assert ran.code == 0, ran
        agent = collector.wait(names.AGENT)
        assert world.cms("daemon", "stop").code == 0
    ours = [one for one in collector.spans if names.OPERATION_NAME in one.attributes]
    claudes = [one for one in collector.spans if one.name.startswith("claude_code.")]
    assert {one.trace_id for one in (*ours, *claudes)} == {agent.trace_id}
    assert len(collector.named(names.CHAT)) == 2
    assert [one.error for one in collector.named(names.TOOL)] == [""]
    assert agent.attributes[names.COST] == pytest.approx(float(str(ran.json()["cost"])))
    roots = [one for one in claudes if one.parent_id == agent.span_id]
    assert roots, claudes
