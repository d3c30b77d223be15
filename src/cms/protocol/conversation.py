"""claude's own record of a conversation, line by line, and what it tells a status line. Pure.

The record is the JSON lines file that claude keeps for `--resume`. A conversation that a person works on in
claude's own interface is seen by nothing else: there is no stream of ours. Measured (2.1.332):

- Each reply of the API is an `assistant` line or several with one `message.id`; those of subagents are in
  files of their own, or marked `isSidechain`.
- As it ends claude writes a `cost-state`: its total since the conversation began and the figures per model,
  from which the next process goes on. It does so on Ctrl-C, SIGTERM and a hang-up, not on SIGKILL.
- A status line command is given the running total after each reply, in the middle of a turn too, and the id
  of the conversation, which is another one after `/clear`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Final

import msgspec

from cms.errors import UNREADABLE
from cms.protocol.messages import ModelUsage

#: Letters of an answer, or of a first prompt, that are kept.
_MOST_TEXT: Final = 1_000_000


class CostState(msgspec.Struct, frozen=True, rename="camel"):
    """claude's total when a process ended, and per model."""

    total_cost_usd: float = msgspec.field(default=0.0, name="totalCostUSD")
    model_usage: dict[str, ModelUsage] = {}


class _Cost(msgspec.Struct, frozen=True):
    total_cost_usd: float = 0.0


class _Model(msgspec.Struct, frozen=True):
    id: Annotated[str, msgspec.Meta(max_length=200)] = ""


class StatusLine(msgspec.Struct, frozen=True):
    """What claude tells a status line: as much of it as is read.

    It is read from where an agent can write, too; the id becomes the name of a file and a word of an argv.
    """

    session_id: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}\Z")]
    cost: _Cost
    model: _Model = _Model()


class _Part(msgspec.Struct, frozen=True):
    type: str = ""
    text: str = ""


class _Said(msgspec.Struct, frozen=True):
    id: str = ""
    content: str | list[_Part] = ""

    @property
    def text(self) -> str:
        if isinstance(self.content, str):
            return self.content[:_MOST_TEXT]
        return "\n".join(part.text for part in self.content if part.type == "text")[:_MOST_TEXT]


class _Line(msgspec.Struct, frozen=True, rename="camel"):
    type: str = ""
    is_sidechain: bool = False
    is_meta: bool = False
    cwd: str = ""
    message: _Said | None = None


_line = msgspec.json.Decoder(_Line)
_cost = msgspec.json.Decoder(CostState)
_status = msgspec.json.Decoder(StatusLine)
#: What claude itself writes in a person's place begins so.
_MACHINE_MADE: Final = ("<", "Caveat: ", "[Request interrupted", "[Image: source: ")


def read_status(data: bytes) -> StatusLine | None:
    """What claude told its status line; None if it makes no sense."""
    try:
        return _status.decode(data)
    except UNREADABLE:
        return None


class Tally:
    """What lines of a record come to. `feed` takes them in order, whole or torn.

    Attributes:
        turns: replies of the API in the main conversation.
        messages: of a person.
        first: the first of them.
        answer: the last text of claude's.
        cwd: where the conversation was begun.
        cost: the last total that claude wrote down; None: it wrote none.
        complete: nothing was said since that.
    """

    def __init__(self) -> None:
        self._replies: set[str] = set()
        self.messages = 0
        self.first = ""
        self.answer = ""
        self.cwd = ""
        self.cost: CostState | None = None
        self.complete = True

    def __repr__(self) -> str:
        return f"<Tally {self.messages} messages, {self.turns} turns>"

    @property
    def turns(self) -> int:
        return len(self._replies)

    def feed(self, lines: Iterable[bytes]) -> None:
        for raw in lines:
            try:
                line = _line.decode(raw)
                if line.type == "cost-state":
                    self.cost, self.complete = _cost.decode(raw), True
            except UNREADABLE:
                continue
            self.cwd = self.cwd or line.cwd
            said = line.message
            if said is None or line.is_sidechain or line.is_meta:
                continue
            if line.type == "assistant":
                self._replies.add(said.id)
                self.answer = said.text or self.answer
                self.complete = False
            elif line.type == "user" and (text := said.text) and not text.startswith(_MACHINE_MADE):
                self.messages += 1
                self.first = self.first or text
