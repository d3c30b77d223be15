"""What layers of options say together, and what is made of it: a session's options, a follow-up's, a child's.

`resolve` is the only merge; the rule of each option is declared with it (`options.py`).
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from cms.option_kinds import Option
from cms.options import OPTIONS, Layer
from cms.session import lineage
from cms.session.model import Limits, SessionOptions, SessionRecord
from cms.session.terms import Terms

_set = msgspec.structs.replace

#: What a delegation and a task may use where nobody says otherwise. The last three limits end what goes on
#: without progress, and are wide. A session has no limits that nobody gave it.
DELEGATION: Final = _set(Layer(), **{field: one.delegation for field, one in OPTIONS.items()})
TASK: Final = _set(Layer(), **{field: one.task for field, one in OPTIONS.items()})


def resolve(*layers: Layer) -> Layer:
    """What the layers say together, the one that counts most first. None of them was asked to be whole."""
    return _set(Layer(), **{field: _together(option, layers) for field, option in OPTIONS.items()})


def _together(option: Option, layers: tuple[Layer, ...]) -> object:
    said = [layer for layer in layers if getattr(layer, option.field) is not None]
    if option.combine == "own":
        # Up to the first that stands alone.
        said = said[: next((place for place, layer in enumerate(said, 1) if layer.alone), None)]
    values = [getattr(layer, option.field) for layer in said]
    if option.combine == "later" or len(values) < 2:
        return values[0] if values else None
    return lineage.least(*values) if option.combine == "stricter" else lineage.joined(*values)


def limits_of(layer: Layer) -> Limits:
    """The limits that it says."""
    return _set(Limits(), **{field: getattr(layer, field) for field in Limits.__struct_fields__})


def session_options(layer: Layer, name: str, work_dir: str, *, delegated: bool) -> SessionOptions:
    """The options of a session; of what nobody said, what `session.model` says. Checks are for delegations.

    Args:
        work_dir: the folder, if the layer names none. Absolute, like those that it names.
    """
    said = {
        field: value
        for field, option in OPTIONS.items()
        if (value := getattr(layer, field)) is not None and (delegated or "spawn" in option.ways)
    }
    kept = {field: said[field] for field in SessionOptions.__struct_fields__ if field in said}
    return _set(SessionOptions(name, work_dir, limits=limits_of(layer), delegated=delegated), **kept)


def change(options: SessionOptions, terms: Terms) -> SessionOptions:
    """A session's options with what is to be different from now on, by each option's rule."""
    now = msgspec.structs.asdict(terms)
    said = Layer(**{field: now[field] for field in _CONTINUED}, **_limits(terms.limits))
    before = Layer(**{field: getattr(options, field) for field in _CONTINUED}, **_limits(options.limits))
    layer = resolve(said, before)
    return _set(options, limits=limits_of(layer), **{field: getattr(layer, field) for field in _CONTINUED})


def _limits(limits: Limits | None) -> dict[str, Any]:
    return {} if limits is None else msgspec.structs.asdict(limits)


def terms_of(layer: Layer) -> Terms:
    """What it says, of a follow-up."""
    limits = limits_of(layer)
    said = {field: getattr(layer, field) for field in _CONTINUED}
    return Terms(limits=None if limits == Limits() else limits, **said)


#: What a follow-up may change besides the limits.
_CONTINUED: Final = tuple(field for field in Terms.__struct_fields__ if field != "limits")


def narrow(options: SessionOptions, parent: SessionRecord) -> SessionOptions:
    """The options of a child, cut to what its parent has (`lineage.narrow`).

    Raises:
        UsageError: they ask for more than can be cut.
    """
    return lineage.narrow(options, parent, _CHILDREN)


_CHILDREN: Final = {field: lineage.Rule(option.child, option.noun) for field, option in OPTIONS.items()}
