"""Schemas and answers held against each other, in a process of its own each time (`cms.json_schema`).

Both may be an agent's, and a pattern or a reference can be made to take for ever or all memory: so it is not
done in here, and never for longer than `PATIENCE`.
"""

from __future__ import annotations

from typing import Final

import msgspec

from cms.errors import MachineError, UsageError
from cms.fleet.side_process import ask_process
from cms.json_schema import Finding, Question, check_library
from cms.session.verdict import NO_SHAPE

#: Seconds for one look.
PATIENCE: Final = 30.0
#: Schemas that are known to be some.
_KNOWN: Final = 256


class Answers:
    """Of one supervisor.

    Args:
        ours: schemas that are known to be some.
    """

    def __init__(self, *ours: str) -> None:
        self._ours = frozenset(ours)
        self._good: dict[str, None] = {}

    async def check(self, schema: str) -> None:
        """Whether that is a schema of answers; "" is none, and fine.

        Raises:
            UsageError: it is not.
            MachineError: that could not be found out.
        """
        if not schema or schema in self._good:
            return
        check_library()
        if schema in self._ours:
            return
        found = await _look(Question(schema))
        if found is None:
            raise UsageError(f"checking the JSON Schema took longer than {PATIENCE:g} s")
        if found.schema:
            raise UsageError(found.schema, hint=found.hint)
        while len(self._good) >= _KNOWN:
            del self._good[next(iter(self._good))]
        self._good[schema] = None

    async def misfit(self, schema: str, answer: str) -> str:
        """Why an answer is none of that shape; "": it is, or there is no schema.

        Raises:
            MachineError: that could not be found out.
        """
        if not schema:
            return ""
        if not answer:
            return NO_SHAPE
        found = await _look(Question(schema, answer))
        if found is None:
            return f"checking its answer against the schema took longer than {PATIENCE:g} s"
        why = found.schema or found.answer
        return f"its answer does not match the schema: {why}" if why else ""


async def _look(question: Question) -> Finding | None:
    """What the process finds; None if it takes too long."""
    try:
        return await ask_process("cms.json_schema", question, Finding, PATIENCE)
    except (OSError, msgspec.MsgspecError) as error:
        raise MachineError(f"the answer could not be checked against its schema: {error}") from None
