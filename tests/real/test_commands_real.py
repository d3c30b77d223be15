"""The commands that matter most, through the real command line, daemon and binary."""

from __future__ import annotations

import time
from collections.abc import Callable

import msgspec
import pytest

from cli.terminal import OnTerminal
from cms.testing.script import call, prompt, say
from real.conftest import World

pytestmark = pytest.mark.real

MODEL = "sonnet"
QUESTION = {
    "question": "Which database?",
    "header": "DB",
    "multiSelect": False,
    "options": [{"label": "SQLite", "description": "small"}, {"label": "Postgres", "description": "big"}],
}
EXTRAS = {
    "question": "Which extras?",
    "header": "Extras",
    "multiSelect": True,
    "options": [{"label": "Auth", "description": "a"}, {"label": "Logs", "description": "l"}],
}


def wait_until(condition: Callable[[], bool], seconds: float = 30) -> None:
    """Poll, because what is waited for happens in processes that are not ours."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)


class Told(msgspec.Struct):
    """As much of a result as is looked at."""

    safety: dict[str, object]


def items(value: object) -> list[dict[str, object]]:
    return msgspec.convert(value, list[dict[str, object]])


def test_a_fork_of_a_session_at_work_pays_only_for_itself(world: World) -> None:
    gate = world.work_dir / "go"
    first = prompt("remember", say("I will", cost_usd=0.05, model=MODEL))
    assert world.cms("spawn", "trunk", first, "--preset", "full").code == 0
    wait = call("Bash", command=f"until test -e {gate}; do sleep 0.02; done")
    world.cms("send", "trunk", prompt("work", wait, say("worked")), "--detach")
    wait_until(lambda: "Bash" in str(world.cms("status", "trunk", "--json").json()["activity"]))
    branch = prompt("branch", say("branched", cost_usd=0.02, model=MODEL))
    ran = world.cms("fork", "trunk", "leaf", branch, "--json")
    assert (ran.code, ran.json()["text"]) == (0, "branched"), ran.err
    leaf = world.cms("status", "leaf", "--json").json()
    assert leaf["totalCostUsd"] == pytest.approx(0.02)
    assert world.cms("status", "trunk", "--json").json()["status"] == "busy"
    gate.touch()
    assert world.cms("wait", "trunk", "leaf").code == 0
    assert world.cms("output", "trunk", "--full").out.strip() == "worked"
    # The branch is a conversation of its own, also after its process has ended and the trunk is deleted.
    world.cms("stop", "leaf")
    gone = world.cms("delete", "trunk", "--force", "--json")
    assert gone.code == 0, gone.err
    assert world.cms("send", "leaf", prompt("on", say("still here")), "--json").json()["text"] == "still here"
    rows = items(world.cms("cost", "--json").json()["rows"])
    costs = {row["name"]: row["cost"] for row in rows}
    assert costs["trunk"] == pytest.approx(0.05, abs=0.001)
    assert costs["leaf"] == pytest.approx(0.02, abs=0.001)


def test_a_question_is_held_and_its_answer_reaches_the_model(world: World) -> None:
    """The shape that claude takes: `updatedInput` with `answers`, by question, labels joined by `, `."""
    script = prompt("go", call("AskUserQuestion", questions=[QUESTION, EXTRAS]), say("built"))
    working = world.start("delegate", "builder", script, "--ask-timeout", "5m", "--json")
    wait_until(lambda: '"kind":"question"' in world.cms("ask", "builder", "--json").out)
    listed = world.cms("ask")
    assert "    2. Postgres - big" in listed.out
    assert world.cms("answer", "builder", "postgres", "1,2").code == 0
    out, err = working.communicate(timeout=60)
    assert working.returncode == 0, err
    assert '"response":"built"' in out
    raw = world.cms("logs", "builder", "--raw").out
    answered = (
        'have been answered: \\"Which database?\\"=\\"Postgres\\", \\"Which extras?\\"=\\"Auth, Logs\\"'
    )
    assert answered in raw
    told = world.cms("logs", "builder").out
    assert "asks     Which database? (SQLite / Postgres)" in told
    assert "answered Which database? Postgres; Which extras? Auth, Logs" in told


def test_a_question_that_nobody_answers_ends_the_delegation_with_it(world: World) -> None:
    script = prompt("go", call("AskUserQuestion", questions=[QUESTION]), say("never"))
    ran = world.cms("delegate", "late", script, "--ask-timeout", "1s", "--json")
    assert (ran.code, ran.json()["status"]) == (3, "needs_input"), ran.err
    assert items(ran.json()["questions"])[0]["question"] == "Which database?"
    answered = world.cms("answer", "late", "SQLite", "--json")
    assert answered.code in (0, 1), answered.err  # (the scripted model has no more to say)
    assert items(world.cms("history", "late", "--json").json()["interactions"])[-1]["prompt"] == (
        "The answer to your question 'Which database?': SQLite"
    )


def test_a_permission_that_nobody_gave_is_given_by_a_person(world: World) -> None:
    touch = {word: call("Bash", command=f"touch made-{word}") for word in ("allow", "deny")}
    script = prompt("go", *touch.values(), say("through"))
    working = world.start("delegate", "maker", script, "--ask-timeout", "5m", "--json")
    for word in touch:
        wait_until(lambda word=word: f"made-{word}" in world.cms("ask", "maker", "--json").out)  # type: ignore[misc] # mypy does not infer defaults
        assert world.cms("answer", "maker", word, "--message", "not today").code == 0
    out, _ = working.communicate(timeout=60)
    assert [path.name for path in world.work_dir.iterdir()] == ["made-allow"]
    denials = items(msgspec.json.decode(out, type=Told).safety["denials"])
    assert [(one["tool"], one["by"]) for one in denials] == [("Bash", "person")]


def test_the_log_follows_a_session_and_ends_with_it(world: World) -> None:
    reply = say("One two three four five.").chunked(4, 0.02)
    assert world.cms("spawn", "story", prompt("hello", say("Here."))).code == 0
    watchers = [world.start("logs", "story", "-f") for _ in range(2)]
    assert all(next(iter(watcher.stdout or ())) for watcher in watchers)
    assert world.cms("send", "story", prompt("tell", reply)).code == 0
    assert world.cms("stop", "story").code == 0
    for watcher in watchers:
        with watcher:
            assert watcher.stdout is not None
            assert watcher.stderr is not None
            out, err = watcher.stdout.read(), watcher.stderr.read()
        assert (watcher.returncode, err) == (0, "")
        assert " answer   Here.\n" in out
        assert " answer   One two three four five.\n" in out
        assert out.count(" done ") == 2


def test_wait_top_and_cost_tell_what_is_so(world: World) -> None:
    before = spent(world)
    for name in ("a", "b"):
        script = prompt("go", say(name, cost_usd=0.05, model=MODEL).after(0.3))
        assert world.cms("spawn", name, script, "--detach", "--max-cost", "1").code == 0
    waited = world.cms("wait", "a", "b", "--timeout", "30s", "--json")
    assert waited.code == 0, waited.err
    assert [one["name"] for one in items(waited.json()["done"])] == ["a", "b"]
    shown = items(world.cms("top", "--json").json()["sessions"])
    assert {one["name"] for one in shown} == {"a", "b"}
    for one in shown:
        assert int(str(one["memory"])) > 50 * 1024**2
        assert int(str(one["processes"])) >= 1
    assert spent(world) - before == pytest.approx(0.1)


def spent(world: World) -> float:
    return float(str(world.cms("cost", "--by", "model", "--json").json()["totalCostUsd"]))


def test_an_answer_is_shown_as_it_is_written_and_once(world: World) -> None:
    said = "All of it, word for word. " * 4 + "\n\nThe end."
    script = prompt(
        "tell", call("Bash", command="echo hi").saying("First I look."), say(said).chunked(9, 0.01)
    )
    shown = OnTerminal("delegate", "told", "--task", script, env=world.env, cwd=world.work_dir)
    assert shown.finish() == 0
    assert shown.text.startswith("First I look.\n\n  Bash echo hi\n\nAll of it, word for word. ")
    assert shown.text.count("The end.") == 1
    assert shown.text.index("The end.") < shown.text.index("completed")
