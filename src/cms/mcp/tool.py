"""What a tool is: one declaration, from which everything that is told and checked is made.

The params are a struct, from which both the input schema and the check of the arguments are made, so that
what a client is told and what is accepted cannot differ. The result is a struct of `results`, from which the
output schema is made.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TypeVar

import msgspec

from cms.errors import UsageError
from cms.mcp.call import DaemonCall
from cms.mcp.schema import Schema, schema_of
from cms.session.model import Record

P = TypeVar("P", bound="Params")
R = TypeVar("R", bound=Record)


class Params(msgspec.Struct, frozen=True, rename="camel", kw_only=True, forbid_unknown_fields=True):
    """What a tool takes. An argument that nobody knows is refused: a typing error must not go unnoticed."""


class Tool(msgspec.Struct, frozen=True, kw_only=True):
    """One tool as the server needs it.

    Attributes:
        read_only: it changes nothing.
        destructive: it may end or overwrite something.
        idempotent: doing it twice is the same as once.
        open_world: it makes an agent act, on whatever that agent can reach.
        inside: a session that may use cms has it too (`daemon.child_socket` lets it pass).
        run: arguments in, result out; blocks. Raises CmsError.
    """

    name: str
    title: str
    description: str
    input_schema: Schema
    output_schema: Schema
    read_only: bool
    destructive: bool
    idempotent: bool
    open_world: bool
    inside: bool
    run: Callable[[DaemonCall, Mapping[str, object]], Record]


class _Property(msgspec.Struct, frozen=True):
    """As much of an argument's schema as a hint needs."""

    description: str = ""


def tool(
    name: str,
    title: str,
    params: type[P],
    result: type[R],
    do: Callable[[DaemonCall, P], R],
    description: str,
    *,
    read_only: bool = False,
    destructive: bool = False,
    idempotent: bool = False,
    open_world: bool = False,
    inside: bool = True,
) -> Tool:
    """Declare a tool; the types of its parts must fit each other."""

    input_schema = schema_of(params, given=True)

    def _what_fits(error: msgspec.ValidationError) -> str:
        properties = msgspec.convert(input_schema["properties"], dict[str, _Property])
        found = re.search(r" - at `\$\.(\w+)`$", str(error))
        said = properties[found.group(1)].description.rstrip(".") if found else ""
        return f"{found.group(1)}: {said}" if found and said else f"{name} takes {', '.join(properties)}"

    def run(call: DaemonCall, arguments: Mapping[str, object]) -> Record:
        try:
            given = msgspec.convert(dict(arguments), params)
        except msgspec.ValidationError as error:
            raise UsageError(f"bad arguments for {name}: {error}", hint=_what_fits(error)) from None
        return do(call, given)

    return Tool(
        name=name,
        title=title,
        description=" ".join(description.split()),
        input_schema=input_schema,
        output_schema=schema_of(result),
        read_only=read_only,
        destructive=destructive,
        idempotent=idempotent or read_only,
        open_world=open_world,
        inside=inside,
        run=run,
    )
