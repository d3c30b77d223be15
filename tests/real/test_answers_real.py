"""On the real binary: a failed check that goes back into the warm session, and answers by a schema."""

from __future__ import annotations

import pytest

from cms.testing.script import ScriptedReply, call, prompt, say
from real.conftest import World

pytestmark = pytest.mark.real


def test_a_repair_that_holds_in_its_second_round(world: World) -> None:
    mend = prompt("Mend it", call("Bash", command="printf x >> fixed"), say("mended"))
    (world.work_dir / "script").write_text(mend)
    check = 'cat script; echo; echo "not yet"; test "$(cat fixed 2>/dev/null)" = xx'
    words = ("--verify", check, "--repair", "2", "--preset", "full", "--json")
    ran = world.cms("delegate", "one", prompt("Work", say("done")), *words)
    assert (ran.code, ran.json()["status"]) == (0, "completed"), (ran.out, ran.err)
    assert (world.work_dir / "fixed").read_text() == "xx"
    rounds = ran.json()["rounds"]
    assert isinstance(rounds, list)
    assert [one["status"] for one in rounds] == ["verification_failed", "verification_failed", "completed"]
    assert ran.json()["cost"] == pytest.approx(sum(one["cost"] for one in rounds))
    listed = world.cms("history", "one", "--json").json()["interactions"]
    assert isinstance(listed, list)
    assert [one["type"] for one in listed] == ["delegate", "repair", "repair"]
    assert "> not yet" in listed[1]["prompt"]


SCHEMA = '{"type":"object","properties":{"a":{"type":"integer"}},"required":["a"]}'


def give(a: object) -> ScriptedReply:
    return call("StructuredOutput", a=a)


def test_an_answer_by_a_schema(world: World) -> None:
    (world.root / "schema.json").write_text(SCHEMA)
    words = ("--preset", "read-only", "--json-schema", str(world.root / "schema.json"), "--json")
    good = world.cms("delegate", "good", prompt("Go", give("x"), give(3)), *words)
    assert (good.code, good.json()["output"]) == (0, {"a": 3}), (good.out, good.err)
    bad = world.cms("delegate", "bad", prompt("Go", *[give("x")] * 9), *words)
    assert (bad.code, bad.json()["status"], bad.json()["output"]) == (1, "failed", None), bad.out
    assert "a: must be integer" in str(bad.json()["error"])
    none = world.cms("delegate", "none", prompt("Go", say("three")), *words)
    assert (none.code, none.json()["status"]) == (1, "failed"), none.out
    assert "no answer of the shape" in str(none.json()["error"])
