"""How the process tree of a session is ended: politely first, and in the end by force, with the proof."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable

import trio

from cms.containment import identity
from cms.live.process import AgentProcess
from cms.session.model import Receipt, Rung, Step

#: Seconds for the last step of the ladder; past it the tree counts as unkilled.
KILL_DEADLINE = 2.0


class Ladder:
    """The stop ladder: interrupt, end of file, SIGTERM, kill of the whole container.

    Each step but the last has a deadline of `grace` seconds; `hurry` (any time, from any task) goes straight
    to the last. The last one always comes: a process that left by itself may have left others behind, and the
    proof that nothing lives is the kill's. Run it shielded, while somebody still reads the child's stdout.
    """

    def __init__(self, process: AgentProcess, *, grace: float) -> None:
        self._process = process
        self._grace = grace
        self._polite = trio.CancelScope()
        self._begun = trio.current_time()
        self._steps: list[Step] = []

    def hurry(self) -> None:
        """Leave out what is still polite."""
        self._polite.cancel()

    def hurry_within(self, seconds: float) -> None:
        """Be polite for no longer than that."""
        self._polite.deadline = min(self._polite.deadline, trio.current_time() + seconds)

    async def descend(
        self,
        reason: str,
        *,
        interrupt: Callable[[], Awaitable[None]] | None,
        eof: bool = True,
        total: float = math.inf,
        at: float,
    ) -> Receipt:
        """Walk down, and return what it took.

        Args:
            reason: for the receipt.
            interrupt: ends the turn in flight and returns when it is over; None if there is none.
            eof: the end of its input would end it.
            total: seconds for all that is polite.
            at: the time that the receipt is dated with.
        """
        container = self._process.container
        self._begun = trio.current_time()
        self.hurry_within(total)
        with self._polite:
            if interrupt is not None:
                await self._step("interrupt", interrupt)
            # In a hurry nothing is asked: the receipt has who was alive then.
            await trio.lowlevel.checkpoint()
            self._process.close_stdin()
            if not (eof and await self._step("eof", container.wait)):
                container.terminate()
                await self._step("terminate", container.wait)
        return await self.kill(reason, at=at)

    async def _step(self, name: Rung, wait: Callable[[], Awaitable[object]]) -> bool:
        await trio.lowlevel.checkpoint()  # a step that is left out is not in the receipt
        before = trio.current_time()
        worked = False
        try:
            with trio.move_on_after(self._grace):
                await wait()
                worked = True
        finally:
            self._steps.append(Step(name, trio.current_time() - before, worked))
        return worked

    async def kill(self, reason: str, *, at: float) -> Receipt:
        """The last step alone. If `descend` was broken off, what it had tried is in the receipt too."""
        container = self._process.container
        proof = await container.kill(deadline=KILL_DEADLINE)
        self._steps.append(Step("kill", proof.seconds, proof.empty))
        return Receipt(
            reason=reason,
            steps=tuple(self._steps),
            returncode=container.returncode,
            alive=tuple(f"{member.pid} {member.command}" for member in proof.alive),
            seconds=trio.current_time() - self._begun,
            mechanism=proof.mechanism,
            empty=proof.empty,
            left=tuple(f"{member.pid} {member.command}" for member in proof.left),
            at=at,
            how=proof.how,
            left_ids=tuple(map(identity, proof.left)),
        )
