"""From a msgspec struct to the JSON Schema of a tool's input or output.

msgspec writes `$defs` and `$ref`. Clients are told to take those, but not all do, and a model reads a schema
better in one piece: here every reference is replaced by what it names. What a model pays for and has no
use for goes: titles that repeat a class's name, and docstrings that are meant for readers of the code.
"""

from __future__ import annotations

import msgspec

Schema = dict[str, object]

_REF = "#/$defs/"


def schema_of(struct: type[msgspec.Struct], *, given: bool = False) -> Schema:
    """The schema of a struct, an object at its root, without references.

    Args:
        given: it is of what a caller gives. That what is left out may be nothing goes without saying.

    Raises:
        ValueError: the struct contains itself.
    """
    (root,), components = msgspec.json.schema_components([struct], ref_template=_REF + "{name}")
    whole = _inlined(root, components, ())
    if given:
        whole = _without_nothing(whole)
    if not isinstance(whole, dict) or whole.get("type") != "object":
        raise ValueError(f"{struct.__name__} is no object")
    required, properties = whole.get("required", ()), whole["properties"]
    if isinstance(required, list) and isinstance(properties, dict):
        # What must be given is read first.
        names = [*required, *(name for name in properties if name not in required)]
        whole["properties"] = {name: properties[name] for name in names}
    return whole


def _inlined(part: object, components: dict[str, dict[str, object]], path: tuple[str, ...]) -> object:
    if isinstance(part, list):
        return [_inlined(item, components, path) for item in part]
    if not isinstance(part, dict):
        return part
    reference = part.get("$ref")
    if isinstance(reference, str):
        name = reference.removeprefix(_REF)
        if name in path:
            raise ValueError(f"{name} contains itself")
        component = {key: value for key, value in components[name].items() if key != "description"}
        inner = _inlined(component, components, (*path, name))
        # What stands beside a reference (a description, a default) is about this use of it.
        beside = {key: value for key, value in part.items() if key != "$ref"}
        return {**inner, **beside} if isinstance(inner, dict) else inner
    found: Schema = {}
    for key, value in part.items():
        if key == "properties" and isinstance(value, dict):
            found[key] = {name: _inlined(item, components, path) for name, item in value.items()}
        elif key == "title" or (key == "required" and not value):
            continue
        elif key == "default":
            found[key] = msgspec.json.decode(msgspec.json.encode(value))  # lists, not tuples
        else:
            found[key] = _inlined(value, components, path)
    return found


def _without_nothing(part: object) -> object:
    """The schema without the null, the empty text and the empty list that stand for what is not given."""
    if isinstance(part, list):
        return [_without_nothing(item) for item in part]
    if not isinstance(part, dict):
        return part
    part = {key: _without_nothing(value) for key, value in part.items()}
    match part:
        case {"anyOf": [dict(one), {"type": "null"}], "default": None, **rest}:
            return {**one, **rest}
        case {"default": "" | [], **rest}:
            return rest
    return part
