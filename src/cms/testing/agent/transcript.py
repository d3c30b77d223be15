"""The conversation on disk, where `--resume` and `--fork-session` find it.

One file a conversation, at the place the real one uses: messages are appended as they come and survive a
SIGKILL; the totals are appended at an orderly end, and only there, so that a SIGKILL loses what was spent
since the process began (measured).
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import msgspec
from msgspec import Struct

from cms.testing.script import Block, Message, Usage, price_of


class ModelTotal(Struct):
    """What one model was used for since the conversation began."""

    usage: Usage = Usage(output_tokens=0)
    cost_usd: float = 0.0


class Totals(Struct, tag="totals"):
    """What a conversation cost so far."""

    models: dict[str, ModelTotal] = {}

    @property
    def cost_usd(self) -> float:
        return sum(total.cost_usd for total in self.models.values())

    def copy(self) -> Totals:
        """These totals as they are now."""
        return Totals({model: ModelTotal(one.usage, one.cost_usd) for model, one in self.models.items()})

    def since(self, before: Totals) -> Totals:
        """What was added after `before` was copied."""
        nothing = ModelTotal()
        earlier = {model: before.models.get(model, nothing) for model in self.models}
        return Totals(
            {
                model: ModelTotal(one.usage - earlier[model].usage, one.cost_usd - earlier[model].cost_usd)
                for model, one in self.models.items()
            }
        )

    def add(self, model: str, usage: Usage) -> float:
        """Count one reply; gives its price."""
        total = self.models.setdefault(model, ModelTotal())
        price = price_of(model).of(usage)
        total.usage += usage
        total.cost_usd += price
        return price


class _Said(Struct, tag="message"):
    message: Message


class Transcript:
    """One conversation: `messages` for the script finder, `totals` for the price.

    Attributes:
        path: the file, or None if nothing is to be kept.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.messages: list[Message] = []
        self.totals = Totals()

    @classmethod
    def load(cls, path: Path) -> Transcript:
        """Read one back.

        Raises:
            FileNotFoundError: there is no such conversation.
        """
        transcript = cls(path)
        decoder = msgspec.json.Decoder(_Said | Totals)
        for line in path.read_bytes().splitlines():
            try:
                entry = decoder.decode(line)
            except msgspec.DecodeError:  # the torn last line of a process that was killed
                continue
            if isinstance(entry, Totals):
                transcript.totals = entry
            else:
                transcript.messages.append(entry.message)
        return transcript

    def move_to(self, path: Path) -> None:
        """Go on in another file, which gets all that was said so far: a fork."""
        self.path = path
        self._append(b"".join(msgspec.json.encode(_Said(message)) + b"\n" for message in self.messages))

    def add(self, role: str, blocks: list[Block]) -> None:
        """Something was said."""
        message = Message(role, blocks)
        self.messages.append(message)
        self._append(msgspec.json.encode(_Said(message)) + b"\n")

    def save_totals(self) -> None:
        """At an orderly end."""
        if self.messages:
            self._append(msgspec.json.encode(self.totals) + b"\n")

    def _append(self, data: bytes) -> None:
        if self.path is None:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("ab") as file:
            file.write(data)


def place(session_id: str) -> Path:
    """Where a conversation of this folder is kept."""
    config = os.environ.get("CLAUDE_CONFIG_DIR") or str(Path(os.environ.get("HOME", "/")) / ".claude")
    slug = re.sub(r"[^A-Za-z0-9]", "-", str(Path.cwd()))
    return Path(config) / "projects" / slug / f"{session_id}.jsonl"
