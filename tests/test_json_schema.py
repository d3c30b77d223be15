"""What may be a schema of answers, and what fits one: nothing is fetched, and nothing takes for ever."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
import trio

from cms.batch.entries import Entry
from cms.batch.spec import Reader
from cms.errors import UsageError
from cms.fleet import schema_checks
from cms.fleet.schema_checks import Answers
from cms.folders import check_schema_of
from cms.json_schema import MOST_ANSWER, MOST_SCHEMA, check_schema, problem
from cms.session.judge import SCHEMA
from cms.units import BadValue

PLAIN = '{"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}'
#: An answer that a pattern can look at for longer than the sun shines.
HUNG = '{"type":"object","properties":{"a":{"type":"string","pattern":"^(a+)+$"}}}'
LONG = msgspec.json.encode({"a": "a" * 60 + "!"}).decode()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "not JSON"),
        ("{", "not JSON"),
        ('{"type": "object", "minProperties": NaN}', "NaN"),
        ('{"type": "object", "const": 1e999}', "too large"),
        ("[" * 20_000, "not JSON"),
        ("[]", "must be for an object"),
        ('{"type": "array"}', "must be for an object"),
        ('{"properties": {}}', "must be for an object"),
        ('{"type": "object", "properties": {"a": {"type": "strin"}}}', "/properties/a/type: 'strin'"),
        ('{"type": "object", "required": "a"}', "/required"),
        ('{"type": "object", "properties": {"a": {"pattern": "("}}}', "regex"),
        ('{"type": "object", "$schema": "https://json-schema.org/draft/2020-12/schema"}', "draft 07"),
        ('{"type": "object", "properties": {"a": {"$ref": "http://127.0.0.1:9/x"}}}', "nothing is fetched"),
        ('{"type": "object", "properties": {"a": {"$ref": "file:///etc/passwd"}}}', "nothing is fetched"),
        ('{"type": "object", "properties": {"a": {"$ref": "#/definitions/b"}}}', "has no #/definitions/b"),
        ('{"type": "object", "title": "' + "x" * MOST_SCHEMA + '"}', "longer than 64 KiB"),
    ],
)
def test_what_is_no_schema(text: str, words: str) -> None:
    with pytest.raises(BadValue, match=words):
        check_schema(text)


def test_what_is_one() -> None:
    assert check_schema(PLAIN) == PLAIN.replace(" ", "")
    draft = '{"$schema":"http://json-schema.org/draft-07/schema#","type":"object"}'
    assert check_schema(draft) == draft
    inside = '{"type":"object","properties":{"a":{"$ref":"#/$defs/b"}},"$defs":{"b":{"type":"integer"}}}'
    assert check_schema(inside) == inside
    assert not problem(inside, '{"a": 1}')
    assert "not of type 'integer'" in problem(inside, '{"a": "x"}')
    ring = check_schema('{"type":"object","properties":{"a":{"$ref":"#"}}}')
    assert not problem(ring, '{"a": {"a": {}}}')
    assert "/a/a" in problem(ring, '{"a": {"a": 3}}')


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ('{"a": 1}', ""),
        ('{"a": 123456789012345678901234567890}', ""),
        ('{"a": "\\ud800"}', "not of type"),
        ('{"a": "1"}', "/a: '1' is not of type 'integer'"),
        ("{}", "'a' is a required property"),
        ("null", "not of type 'object'"),
        ("{", "double quotes"),
        ('{"a": NaN}', "NaN"),
        ('{"a": ' + "[" * 100_000 + "]" * 100_000 + "}", "recursion"),
        ('{"a": "' + "x" * MOST_ANSWER + '"}', "longer than 4 MiB"),
    ],
)
def test_what_fits(answer: str, words: str) -> None:
    found = problem(check_schema(PLAIN), answer)
    assert words in found
    assert bool(found) == bool(words)
    assert len(found) <= 450


def test_the_judge_s_own() -> None:
    assert check_schema(SCHEMA) == SCHEMA
    assert not problem(SCHEMA, '{"verdict": "pass", "reason": "because"}')
    for bad in (
        '{"verdict": "pass"}',
        '{"verdict": "maybe", "reason": "x"}',
        '{"verdict": "pass", "reason": ""}',
    ):
        assert problem(SCHEMA, bad)
    assert problem(SCHEMA, '{"verdict": "pass", "reason": "x", "more": 1}')


def test_a_schema_that_goes_round_for_ever() -> None:
    ring = check_schema('{"type":"object","properties":{"a":{"allOf":[{"$ref":"#/properties/a"}]}}}')
    assert "recursion" in problem(ring, '{"a": 1}')


def test_the_library_is_loaded_only_where_it_is_wanted() -> None:
    look = "import sys, cms.json_schema, cms.fleet.schema_checks; sys.exit('jsonschema' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", look], check=False).returncode == 0


async def test_it_is_held_against_its_schema_in_a_process_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    found = Answers()
    await found.check("")
    await found.check(PLAIN)
    assert not await found.misfit("", "anything")
    assert not await found.misfit(PLAIN, '{"a": 1}')
    assert "does not match the schema: 'a' is a required" in await found.misfit(PLAIN, "{}")
    assert "no answer that matches" in await found.misfit(PLAIN, "")
    with pytest.raises(UsageError, match="must be for an object"):
        await found.check("{}")
    monkeypatch.setattr(schema_checks, "PATIENCE", 0.7)
    with trio.fail_after(10):
        assert "longer than 0.7 s" in await found.misfit(HUNG, LONG)


def test_a_file_is_read_at_once_and_what_is_wrong_is_told_by_the_flag(tmp_path: Path) -> None:
    file = tmp_path / "schema.json"
    file.write_text(PLAIN)
    assert check_schema_of(str(file), "--json-schema") == check_schema(PLAIN)
    assert check_schema_of("schema.json", "jsonSchema", str(tmp_path)) == check_schema(PLAIN)
    assert check_schema_of(PLAIN, "--json-schema") == check_schema(PLAIN)
    file.write_bytes(b"\xff\xfe")
    for text, words in (
        (str(file), "cannot be read"),
        (str(tmp_path / "shema.json"), "there is no file"),
        (str(tmp_path), "there is no file"),
        ("{", "not JSON"),
        ("[]", "must be for an object"),
    ):
        with pytest.raises(UsageError, match=f"--json-schema: .*{words}"):
            check_schema_of(text, "--json-schema")
    file.write_text(" " * (MOST_SCHEMA + 1))
    with pytest.raises(UsageError, match="longer than"):
        check_schema_of(str(file), "--json-schema")


def test_without_the_library_it_is_said_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cms.json_schema.find_spec", lambda _: None)
    with pytest.raises(BadValue) as caught:
        check_schema(PLAIN)
    assert "claude-multi-session[schema]" in caught.value.hint


def test_files_of_tasks_hold_it_as_what_it_is() -> None:
    (entry,) = Reader("json", [b'[{"name": "a", "prompt": "p", "jsonSchema": {"type": "object"}}]'])
    assert isinstance(entry, Entry)
    assert entry.spec.json_schema == '{"type":"object"}'
