"""A conversation that the real claude began by itself, gone on with as a session."""

from __future__ import annotations

import json
import subprocess

import pytest

from cms.testing.script import prompt, say
from real.conftest import World

pytestmark = pytest.mark.real


def test_a_conversation_of_claude_itself_is_gone_on_with(world: World, claude: str) -> None:
    words = [claude, "-p", "--output-format=json", prompt("Remember locks.", say("Noted.", cost_usd=0.5))]
    env = {**world.env, "TMPDIR": str(world.root)}  # where claude by itself leaves a folder
    ran = subprocess.run(
        words, env=env, cwd=world.work_dir, capture_output=True, text=True, check=True, timeout=60
    )
    began = json.loads(ran.stdout)
    listed = world.cms("adopt").out
    assert began["session_id"][:8] in listed
    assert "Remember locks." in listed
    assert world.cms("adopt", began["session_id"][:8], "--name", "locks").code == 0
    reply = world.cms("send", "locks", prompt("Go on.", say("Gladly.", cost_usd=0.04)), "--json").json()
    assert (reply["text"], reply["cost"]) == ("Gladly.", pytest.approx(0.02))  # sonnet is half as dear
    status = world.cms("status", "locks", "--json").json()
    assert status["claudeSessionId"] == began["session_id"]
    assert status["totalCostUsd"] == pytest.approx(0.02)
    (kept,) = (world.home / ".claude" / "projects").rglob("*.jsonl")
    assert kept.stem == began["session_id"]
    assert "Gladly." in kept.read_text()
