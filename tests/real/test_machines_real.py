"""What programs are told, with the real claude: hooks of messages, a scrape."""

from __future__ import annotations

import json
import signal
import urllib.request

import pytest

from cms.testing.script import call, prompt, say
from real.conftest import World
from receiver import receiver

pytestmark = pytest.mark.real

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
