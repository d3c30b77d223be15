"""The messages that were accepted and have no end on disk yet, and who waits for it.

A message is pending from when it is on disk until its end is. Whoever waits holds the `PendingMessage`
itself, so it may be forgotten as soon as its end is stored: from then on the store knows. One whose end could
not be stored stays, until the store can be written again.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec
import trio

from cms.errors import CmsError
from cms.session.model import DELEGATED, ENDED, Interaction, InteractionState, Outcome


@dataclass
class PendingMessage:
    """One message.

    Attributes:
        interaction: as it stands.
        known: set when its work has ended and whoever waits may know.
    """

    interaction: Interaction
    known: trio.Event = field(default_factory=trio.Event)


class PendingMessages:
    """All that one session owes."""

    def __init__(self) -> None:
        self._owed: dict[str, PendingMessage] = {}

    def __repr__(self) -> str:
        return f"<PendingMessages {len(self._owed)} owed>"

    def add(self, interaction: Interaction) -> None:
        """A message was accepted."""
        self._owed[interaction.id] = PendingMessage(interaction)

    def update(self, interaction: Interaction) -> PendingMessage:
        """It stands differently now."""
        pending = self._owed[interaction.id]
        pending.interaction = interaction
        return pending

    async def wait(self, interaction_id: str) -> Interaction | None:
        """Until that message has ended. None if it is not owed (any more): then the store has it."""
        pending = self._owed.get(interaction_id)
        if pending is None:
            return None
        await pending.known.wait()
        return pending.interaction

    @property
    def quiet(self) -> bool:
        """Whether nobody waits for anything."""
        return all(pending.known.is_set() for pending in self._owed.values())

    async def wait_quiet(self) -> None:
        """Until every message that was accepted by now, or is meanwhile, has ended."""
        while owed := [pending for pending in self._owed.values() if not pending.known.is_set()]:
            await owed[0].known.wait()

    def settle(self, pending: PendingMessage, error: CmsError | None = None) -> None:
        """It has ended, and that is on disk unless there is an `error`: whoever waits may know."""
        one = pending.interaction
        if error is None:
            del self._owed[one.id]
        elif not one.is_error:
            # The answer is given all the same: it came, and the raw log has it.
            text = f"answered, but the answer could not be stored: {error}"
            pending.interaction = msgspec.structs.replace(
                one, state=InteractionState.FAILED, is_error=True, error=text, outcome=Outcome.FAILED
            )
        pending.known.set()

    def end_all(self, reason: str, outcome: Outcome, *, again: bool, at: float) -> list[PendingMessage]:
        """The end of everything gives an end to what has none; gives all whose end is not on disk.

        `again`: what was never sent can be sent again.
        """
        hint = "; send it again" if again else ""
        for pending in self._owed.values():
            one = pending.interaction
            if one.state is InteractionState.QUEUED:
                pending.interaction = ended(one, outcome, f"never sent: {reason}{hint}", at=at)
            elif one.state not in ENDED and one.state is not InteractionState.CHECKING:
                # Only after a bug: whatever is in flight when a process ends is settled with its charges.
                pending.interaction = msgspec.structs.replace(
                    ended(one, outcome, reason, at=at), cost_exact=False
                )
        return list(self._owed.values())

    def release(self) -> None:
        """Whatever happened, nobody waits for ever."""
        for pending in self._owed.values():
            pending.known.set()


def ended(one: Interaction, outcome: Outcome, error: str, *, at: float) -> Interaction:
    """An interaction whose work has ended, in one way or another.

    Where that is a delegation's and ended well, it has no outcome yet: `fleet.delegation` decides.
    """
    if outcome is Outcome.COMPLETED and one.type in DELEGATED:
        return msgspec.structs.replace(one, state=InteractionState.CHECKING, ended=at)
    state = InteractionState.INTERRUPTED
    if outcome is Outcome.FAILED:
        state = InteractionState.FAILED
    elif outcome in (Outcome.COMPLETED, Outcome.NEEDS_INPUT):
        state = InteractionState.DONE
    return msgspec.structs.replace(
        one, state=state, outcome=outcome, error=error, is_error=outcome is not Outcome.COMPLETED, ended=at
    )
