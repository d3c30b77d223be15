"""On the real binary: a failed check that goes back into the warm session, answers by a schema, a judge."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import pytest
import trio

from cms.config import Settings
from cms.fleet.supervisor import open_supervisor
from cms.session.model import Limits, Outcome, SessionOptions
from cms.testing.api import serve_api
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
    assert "no answer that matches" in str(none.json()["error"])


async def test_a_judge_that_fails_it_and_that_nothing_in_the_folder_speaks_to(
    tmp_path: Path, claude: str
) -> None:
    """Of an isolated one: it sees the files as they were left, and the folder does not have them."""
    home, work = tmp_path / "home", tmp_path / "work"
    planted = {
        "CLAUDE.md": "PLANTED",
        "sub/CLAUDE.md": "PLANTED",
        ".claude/rules/a.md": "PLANTED",
        "sub/x": "x",
    }
    planted[".claude/skills/s/SKILL.md"] = "---\nname: s\ndescription: PLANTED\n---\nx\n"
    await trio.to_thread.run_sync(plant, work, planted)
    home.mkdir()
    async with serve_api() as api:
        environ = {"PATH": os.environ["PATH"], "HOME": str(home), **api.env()}
        settings = Settings(home=tmp_path / "cms", claude=(claude,), environ=environ)
        look = call("Read", file_path=str(work / "sub" / "x"))
        verdict = call("StructuredOutput", verdict="fail", reason="there is no test")
        question = prompt("Is it tested?", look, verdict)
        with trio.fail_after(60):
            async with open_supervisor(settings) as supervisor:
                options = SessionOptions(
                    "one",
                    str(work),
                    limits=Limits(max_cost=1.0),
                    judge=question,
                    isolate="auto",
                    preset="full",
                )
                write = call("Bash", command="echo fresh-$((40 + 2)) > sub/x")
                result = await supervisor.delegate(
                    options, prompt("Work", look, write, say("All good: pass."))
                )
                judge = await supervisor.get("one~judge1")
        assert (result.status, result.error) == (Outcome.VERIFICATION_FAILED, "the judge: there is no test")
        asked = [one for one in api.requests if one.session_id == judge.conversation]
        assert len(asked) == 2
        for request in asked:
            assert "PLANTED" not in "\n".join((request.system, *request.texts))
        assert any("fresh-42" in text for text in asked[1].texts), "it reads what was left"
        assert (work / "sub" / "x").read_text() == "x"
        others = [one for one in api.requests if one not in asked]
        assert any("PLANTED" in text for one in others for text in one.texts), "the work is told of it"


def plant(folder: Path, files: Mapping[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
