"""A session taken over by hand in the real claude's own interface, and gone on with by a program later."""

from __future__ import annotations

import json
import time

import pytest

from cli.terminal import OnTerminal
from cms.testing.script import call, prompt, say
from real.conftest import World

pytestmark = pytest.mark.real


def test_by_hand_and_back(world: World) -> None:
    """In a folder that nobody trusts claude asks first; what is protected is held; the cost is right."""
    settled = {"hasCompletedOnboarding": True, "theme": "dark"}
    settled |= {"customApiKeyResponses": {"approved": ["test"], "rejected": []}}
    (world.home / ".claude.json").write_text(json.dumps(settled))
    (world.work_dir / ".env").write_text("SECRET=1\n")
    assert world.cms("spawn", "mine", prompt("Say hello.", say("Hello.", cost_usd=0.05))).code == 0
    before = world.cms("status", "mine", "--json").json()

    there = OnTerminal("attach", "mine", env=world.env, cwd=world.work_dir)
    there.wait_for(lambda raw: "trust" in raw)
    there.press("\x1b[B\r", "taken")  # until our status line is there
    command = "echo SECRET=2 > .env; echo seen > made"
    script = prompt("Work.", call("Bash", command=command).costing(0.11), say("Done.", cost_usd=0.07))
    there.type(f"\x1b[200~{script}\x1b[201~")
    there.wait_for(lambda raw: "Work." in raw)
    there.press("\r", "proceed")
    there.settle(0.5)
    there.type("\r")
    end = time.monotonic() + 30
    while not (world.work_dir / "made").exists():
        assert time.monotonic() < end
        there.settle(0.1)
    while cost(world) < 0.11:
        assert time.monotonic() < end
        there.settle(0.1)
    there.type("/exit")
    there.settle(0.5)
    there.type("\r")
    assert there.finish() == 0

    after = world.cms("status", "mine", "--json").json()
    assert (after["status"], after["totalTurns"]) == ("stopped", 3)
    assert after["totalCostUsd"] == pytest.approx(0.025 + 0.055 + 0.035)
    assert after["costExact"]
    assert after["claudeSessionId"] == before["claudeSessionId"]
    assert (world.work_dir / ".env").read_text() == "SECRET=1\n"
    assert json.loads((world.home / ".claude.json").read_text()) == settled  # its answer was the session's
    again = world.cms("send", "mine", prompt("Go on.", say("As before.", cost_usd=0.05)), "--json").json()
    assert (again["text"], again["cost"]) == ("As before.", pytest.approx(0.025))


def cost(world: World) -> float:
    found = world.cms("status", "mine", "--json").json()["totalCostUsd"]
    assert isinstance(found, float)
    return found
