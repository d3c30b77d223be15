"""A batch of the real claude through every weather: a graph, 529s, a usage limit that resets, a hung model.

`CMS_BATCH_TASKS` makes it larger (60, as a proof); by default it is as large as a test may be.
"""

from __future__ import annotations

import json
import os
import re
from typing import Any

import pytest

from cms.testing.script import ScriptedReply, call, prompt, say
from real.conftest import World

pytestmark = pytest.mark.real

PLAIN = int(os.environ.get("CMS_BATCH_TASKS", "9")) - 6


def task(name: str, *replies: ScriptedReply, **more: object) -> dict[str, object]:
    return {"name": name, "prompt": prompt(f"Do {name}.", *replies), **more}


def tasks() -> list[dict[str, object]]:
    """Six that meet some weather, and plain ones, every third of which needs an earlier one."""
    found = [
        # More often than claude's own retries have time for: the batch tries again.
        task("api_failure", say("after the storm").failing(529, times=4, anywhere=True), maxRetryTime=1),
        task("gust", say("after the gust").failing(529, times=1)),
        task(
            "limited",
            say("after the reset").failing(429, times=1, anywhere=True).limited("rejected", resets_in=6),
        ),
        task("hung", call("Read", file_path="note.txt"), say("never").stalling("headers"), maxSilence=3),
        task("behind-hung", say("never begun"), needs=["hung"]),
        task(
            "edits",
            call("Write", file_path="made.txt", content="made\n"),
            say("written"),
            verify="test -f made.txt",
        ),
    ]
    for number in range(PLAIN):
        reply = say(f"answer {number}", cost_usd=0.01, model="sonnet")
        needs = [f"p{number - 2}"] if number % 3 == 2 else []
        one = task(f"p{number}", reply, needs=needs)
        if needs:
            one["prompt"] = f"Before: {{{{needs.{needs[0]}.response}}}}. {one['prompt']}"
        found.append(one)
    return found


@pytest.mark.own_daemon
def test_every_weather(world: World) -> None:
    (world.work_dir / "note.txt").write_text("hello\n")
    made = tasks()
    path = world.root / "tasks.json"
    path.write_text(json.dumps(made))
    env = {"CLAUDE_CODE_OAUTH_TOKEN": "test", "ANTHROPIC_API_KEY": ""}
    ran = world.cms(
        "batch", "--file", str(path), "--max-parallel", "8", "--max-cost", "200", "--json",
        "--out", "out.jsonl", "--report", "report.html", env=env, timeout=300,
    )  # fmt: skip
    whole: Any = ran.json()
    by_name = {one["name"]: one for one in whole["tasks"]}
    statuses = {name: one["status"] for name, one in by_name.items()}
    assert statuses.pop("hung") == "stalled", ran.err
    assert statuses.pop("behind-hung") == "skipped"
    assert set(statuses.values()) == {"completed"}, statuses
    assert ran.code == 12
    assert by_name["api_failure"]["tries"] >= 2, "the batch tried again after claude's own retries"
    assert by_name["gust"]["tries"] == 1, "claude's own retry was enough"
    assert by_name["limited"]["tries"] == 2
    assert by_name["api_failure"]["response"] == "after the storm"
    assert re.search(r"waits until .*: .*", ran.err)
    assert "hung" in by_name["behind-hung"]["error"]
    if PLAIN > 2:
        said = world.cms("history", "p2", "--full", env=env)
        assert "Before: answer 0." in said.out
    assert (world.work_dir / "made.txt").exists()
    lines = (world.work_dir / "out.jsonl").read_text().splitlines()
    assert sorted(json.loads(line)["name"] for line in lines) == sorted(str(one["name"]) for one in made)
    page = (world.work_dir / "report.html").read_text()
    assert "<title>Batch " in page
    assert '"status":"failed"' in page
    continued = world.cms("continue", "p0", prompt("More", say("gladly")), env=env)
    assert "gladly" in continued.out


def test_a_table_is_answered_from_memory_the_second_time(world: World) -> None:
    rows = world.root / "rows.csv"
    rows.write_text("id,what\na,first\nb,second\n")
    told = prompt("Say {{row.what}}.", say("said", cost_usd=0.01, model="sonnet"))
    words = ("batch", "--data", str(rows), "--row-name", "id", "--prompt", told, "--json")
    first: Any = world.cms(*words, timeout=120).json()
    assert first["counts"] == {"completed": 2}
    assert (first["reused"], first["tokens"] > 0, first["warnings"]) == (0, True, [])
    second: Any = world.cms(*words, "--fresh", timeout=120).json()
    assert second["counts"] == {"completed": 2}
    assert (second["reused"], second["totalCostUsd"]) == (2, 0.0)
    assert second["tasks"][0]["reused"] == f"{first['id']}/a"
