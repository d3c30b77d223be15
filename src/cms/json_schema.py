"""JSON Schemas of answers (`--json-schema`): what may be one, and whether an answer fits.

The rules are JSON Schema draft 07, as claude reads them, by the library `jsonschema` (an extra, loaded only
where a schema is given). A schema refers to nothing outside of itself: nothing is fetched.

Schema and answer can both be an agent's, and either can be made to take for ever. So the daemon has a process
of its own look (`python -m cms.json_schema`), within bounds; a person's command looks itself.
"""

from __future__ import annotations

import json
import resource
import sys
from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from typing import Final, Protocol

import msgspec

from cms.units import BadValue, size

#: Bytes of a schema: claude takes it as a word of its argv.
MOST_SCHEMA: Final = 64 * 1024
#: Bytes of an answer.
MOST_ANSWER: Final = 4 * 1024 * 1024
_DRAFT: Final = "http://json-schema.org/draft-07/schema"
_NO_LIBRARY: Final = "pip install 'claude-multi-session[schema]'"
#: Bytes of memory that the process may take.
_MEMORY: Final = 1024**3
#: Characters of what is wrong that are told.
_TOLD: Final = 300


class Question(msgspec.Struct, frozen=True):
    """What the process is asked: whether this is a schema, and whether an answer fits it.

    Attributes:
        answer: JSON; "": only about the schema.
    """

    schema: str
    answer: str = ""


class Finding(msgspec.Struct, frozen=True):
    """What it found: a line for each, "" where all is well."""

    schema: str = ""
    hint: str = ""
    answer: str = ""


def check_library() -> None:
    """Whether the library is there, without loading it.

    Raises:
        BadValue: it is not.
    """
    if find_spec("jsonschema") is None:
        raise BadValue("--json-schema needs the library jsonschema", hint=_NO_LIBRARY)


def check_schema(text: str) -> str:
    """The schema in one line.

    Raises:
        BadValue: it is none, or none that claude takes for an answer.
    """
    if len(text.encode()) > MOST_SCHEMA:
        raise BadValue(f"the schema is longer than {size(MOST_SCHEMA)}")
    try:
        schema = json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise BadValue(f"the schema is not JSON: {error}") from None
    if not isinstance(schema, dict) or schema.get("type") != "object":
        hint = 'put a list or a text into an object: {"type": "object", "properties": {"answer": ...}}'
        raise BadValue('the schema must be for an object ("type": "object")', hint=hint)
    said = schema.get("$schema", _DRAFT)
    if not isinstance(said, str) or said.rstrip("#") != _DRAFT:
        raise BadValue(f"the schema is not draft 07, which claude needs: {said}", hint="leave out $schema")
    try:
        _check(schema)
        return json.dumps(schema, separators=(",", ":"), allow_nan=False)
    except RecursionError:
        raise BadValue("the schema is nested too deep") from None
    except ValueError:
        raise BadValue("the schema holds a number that is too large") from None


def _check(schema: dict[str, object]) -> None:
    validator = _validator(schema)
    from jsonschema.exceptions import SchemaError
    from referencing import Registry
    from referencing.exceptions import Unresolvable
    from referencing.jsonschema import DRAFT7, Schema

    try:
        validator.check_schema(schema)  # patterns, too
    except SchemaError as error:
        raise BadValue(f"not a valid JSON Schema: {_place(error.path)}{error.message[:_TOLD]}") from None
    registry: Registry[Schema] = Registry()
    resolver = registry.with_resource("", DRAFT7.create_resource(schema)).resolver()
    for reference in _references(schema):
        if not reference.startswith("#"):
            raise BadValue(f"the schema refers to {reference[:_TOLD]}: nothing is fetched; include it")
        try:
            resolver.lookup(reference)
        except Unresolvable:
            raise BadValue(f"the schema has no {reference[:_TOLD]}, but refers to it") from None


def problem(schema: str, answer: str) -> str:
    """Why an answer does not fit; "": it does. Both are JSON, the schema is one (`check_schema`)."""
    from jsonschema.exceptions import best_match
    from referencing.exceptions import Unresolvable

    if len(answer.encode()) > MOST_ANSWER:
        return f"it is longer than {size(MOST_ANSWER)}"
    try:
        value: object = json.loads(answer, parse_constant=_no_constant)
        error = best_match(_validator(json.loads(schema)).iter_errors(value))
    except (ValueError, RecursionError, Unresolvable) as trouble:
        return str(trouble)[:_TOLD] or type(trouble).__name__
    return "" if error is None else f"{_place(error.path)}{error.message}"[:_TOLD]


class _Error(Protocol):
    path: Iterable[str | int]
    message: str


class _Validator(Protocol):
    """As much as is used here of a validator of `jsonschema`, which has no types of its own."""

    def check_schema(self, schema: object) -> None: ...

    def iter_errors(self, instance: object) -> Iterator[_Error]: ...


def _validator(schema: object) -> _Validator:
    check_library()
    from jsonschema import Draft7Validator
    from referencing.jsonschema import EMPTY_REGISTRY

    # (With a registry of its own it would fetch what a reference names.)
    validator: _Validator = Draft7Validator(schema, registry=EMPTY_REGISTRY)
    return validator


def _no_constant(word: str) -> object:
    raise ValueError(f"{word} is not a JSON number")


def _place(path: Iterable[str | int]) -> str:
    place = "/".join(str(part) for part in path)
    return f"/{place[:100]}: " if place else ""


def _references(part: object) -> Iterator[str]:
    """What a schema refers to."""
    if isinstance(part, dict):
        if isinstance(reference := part.get("$ref"), str):
            yield reference
        part = list(part.values())
    if isinstance(part, list):
        for one in part:
            yield from _references(one)


def main() -> None:
    """Answer the `Question` on stdin, within bounds."""
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    question = msgspec.json.decode(sys.stdin.buffer.read(), type=Question)
    try:
        schema = check_schema(question.schema)
        finding = Finding(answer=problem(schema, question.answer) if question.answer else "")
    except BadValue as bad:
        finding = Finding(schema=bad.message, hint=bad.hint)
    sys.stdout.buffer.write(msgspec.json.encode(finding))


if __name__ == "__main__":
    main()
