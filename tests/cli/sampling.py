"""Records with something in every field, made from their types: what is lost on the way out is then seen."""

from __future__ import annotations

import zlib
from typing import TypeVar, cast

from msgspec import inspect

from cms.session.model import Record

R = TypeVar("R", bound=Record)


def _of(kind: inspect.Type, path: str, *, full: bool) -> object:
    # Values come from where they stand, so that a new field changes no other one's.
    number = zlib.crc32(path.encode()) % 9000 + 1
    match kind:
        case inspect.StructType(cls=cls, fields=fields):
            # By constructor: some fields have other names outside.
            return cls(**{one.name: _of(one.type, f"{path}.{one.name}", full=full) for one in fields})
        case inspect.UnionType(types=types):
            if not full and any(isinstance(one, inspect.NoneType) for one in types):
                return None
            return _of(next(one for one in types if not isinstance(one, inspect.NoneType)), path, full=full)
        case inspect.VarTupleType(item_type=item):
            return (_of(item, f"{path}[0]", full=full),) if full else ()
        case inspect.TupleType(item_types=items):
            return tuple(_of(one, f"{path}[{n}]", full=full) for n, one in enumerate(items))
        case inspect.DictType(key_type=key, value_type=value):
            return {_of(key, path, full=full): _of(value, f"{path}{{}}", full=full)} if full else {}
        case inspect.LiteralType(values=values):
            return values[-1 if full else 0]
        case inspect.EnumType(cls=cls):
            return list(cls)[-1 if full else 0]
        case inspect.BoolType():
            return full
        case inspect.IntType():
            return number if full else 0
        case inspect.FloatType():
            # With digits that no price has: sums of floats look so.
            return number + 0.25 + 3e-11 if full else 0.0
        case inspect.StrType():
            return path.lstrip(".") if full else ""
        case _:
            raise TypeError(f"no sample for {kind}")


def sample(kind: type[R], *, full: bool = True) -> R:
    """One record: every field with a value of its own, or (not `full`) each as empty as it can be."""
    return cast("R", _of(inspect.type_info(kind), "", full=full))
