"""Answers by a schema: given, held to it, stored as they came, and nothing else counts as one."""

from __future__ import annotations

from pathlib import Path

import pytest

from cms.batch.model import BatchOptions, TaskSpec, TaskStatus
from cms.errors import SessionNotFound, UsageError
from cms.fleet.batches import open_batches
from cms.json_output import encode
from cms.session.model import Outcome
from cms.session.terms import Terms
from cms.testing.script import ScriptedReply, call, prompt, say
from fleet.kit import consistent, delegate, last, make_options, make_settings, supervising

SCHEMA = '{"type":"object","properties":{"a":{"type":"integer"}},"required":["a"]}'


def give(**value: object) -> ScriptedReply:
    return call("StructuredOutput", **value)


@pytest.mark.parametrize("preset", ["read-only", "edit", "full"])
async def test_an_answer_that_fits(tmp_path: Path, preset: str) -> None:
    settings = make_settings(tmp_path)
    async with supervising(settings) as supervisor:
        result = await delegate(supervisor, prompt("Go", give(a=1)), json_schema=SCHEMA, preset=preset)
        assert (result.status, result.output) == (Outcome.COMPLETED, '{"a":1}')
        assert b'"output":{"a":1}' in encode(result)
        assert (await last(supervisor)).output == '{"a":1}'
        if preset != "edit":
            return
        # A follow-up is held to it as well.
        again = await supervisor.continue_("one", prompt("And now?", give(a=2)))
        assert (again.status, again.output) == (Outcome.COMPLETED, '{"a":2}')
        loose = await supervisor.continue_("one", prompt("In words", say("two")))
        assert (loose.status, loose.output) == (Outcome.FAILED, "")
    await consistent(settings)


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (give(a="x"), "its answer does not match the schema: /a: 'x' is not of type 'integer'"),
        (give(), "'a' is a required property"),
        (say('{"a": 1}'), "it gave no answer that matches the schema"),
    ],
)
async def test_an_answer_that_does_not_fit(tmp_path: Path, reply: ScriptedReply, words: str) -> None:
    settings = make_settings(tmp_path)
    async with supervising(settings) as supervisor:
        # Its checks are not run, and nothing is repaired: claude has told it often enough.
        result = await delegate(
            supervisor, prompt("Go", reply), json_schema=SCHEMA, verify=("touch checked",), repair=2
        )
        assert (result.status, result.output, result.rounds) == (Outcome.FAILED, "", ())
        assert words in (result.error or "")
        assert not (tmp_path / "work" / "checked").exists()
        assert b'"output":null' in encode(result)
    await consistent(settings)


async def test_a_follow_up_can_be_asked_for_another_shape(tmp_path: Path) -> None:
    settings = make_settings(tmp_path)
    async with supervising(settings) as supervisor:
        assert (await delegate(supervisor, prompt("Go", say("seven")))).output == ""
        with pytest.raises(UsageError):
            await supervisor.continue_("one", "As JSON", terms=Terms(json_schema="[]"))
        typed = await supervisor.continue_(
            "one", prompt("As JSON", give(a=7)), terms=Terms(json_schema=SCHEMA)
        )
        assert (typed.status, typed.output) == (Outcome.COMPLETED, '{"a":7}')
        loose = await supervisor.continue_(
            "one", prompt("In words", say("seven")), terms=Terms(json_schema="")
        )
        assert (loose.status, loose.output) == (Outcome.COMPLETED, "")
    await consistent(settings)


async def test_a_refusal_is_no_less_one_for_an_answer(tmp_path: Path) -> None:
    settings = make_settings(tmp_path)
    async with supervising(settings) as supervisor:
        write = call("Write", file_path=str(tmp_path / "elsewhere"), content="x")
        result = await delegate(
            supervisor, prompt("Go", write, give(a=1)), json_schema=SCHEMA, preset="edit", writes="workdir"
        )
        assert result.status is Outcome.NEEDS_INPUT


async def test_what_is_no_schema_is_refused_before_anything_is_there(tmp_path: Path) -> None:
    settings = make_settings(tmp_path)
    async with supervising(settings) as supervisor:
        for bad in ("{", '{"type":"array"}', '{"type":"object","$ref":"http://127.0.0.1:9/x"}'):
            with pytest.raises(UsageError):
                await supervisor.delegate(make_options(settings, json_schema=bad), "go")
        with pytest.raises(SessionNotFound):
            await supervisor.get("one")


async def test_parts_of_an_answer_go_into_the_prompts_of_others(tmp_path: Path) -> None:
    settings = make_settings(tmp_path)
    async with supervising(settings) as supervisor, open_batches(supervisor) as batches:
        record = await batches.create(BatchOptions(str(tmp_path / "work")), "b")
        tasks = (
            TaskSpec(name="one", prompt=prompt("Go", give(a=7)), json_schema=SCHEMA),
            TaskSpec(name="two", prompt="Is {{needs.one.output.a}} {{needs.one.output}}?", needs=("one",)),
            TaskSpec(name="three", prompt="Take {{needs.one.output.b}}", needs=("one",)),
            TaskSpec(name="four", prompt="Take {{needs.two.output.a}}", needs=("two",)),
        )
        assert await batches.add(record.id, 0, [(spec, line) for line, spec in enumerate(tasks, 1)]) == []
        assert await batches.check(record.id) == []
        ended = await (await batches.start(record.id)).wait()
        assert ended.counts == {TaskStatus.COMPLETED: 2, TaskStatus.FAILED: 2}
        assert (await last(supervisor, "two")).prompt == 'Is 7 {"a":7}?'
        for name in ("three", "four"):  # nothing was begun, so nothing is spent
            with pytest.raises(SessionNotFound):
                await supervisor.get(name)
    await consistent(settings)
