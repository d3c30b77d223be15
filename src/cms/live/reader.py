"""The streams of a session's process: what it says goes to the driver, what ends it is a reason to end.

Reading goes on until the process has closed its output, through the whole of the stop ladder too: what claude
flushes on its way out is money and answers.
"""

from __future__ import annotations

from contextlib import aclosing

import trio

from cms.errors import AgentDied, AgentError, ProtocolError, Tampering
from cms.live.context import SessionContext
from cms.live.driver import Driver
from cms.live.ending import Ending
from cms.live.process import AgentProcess
from cms.protocol.connection import Tampered
from cms.protocol.messages import UnknownControlRequest
from cms.session.state import Phase


class Reader:
    """Of one process. `read`, `write` and `watch_caps` are tasks."""

    def __init__(
        self, process: AgentProcess, context: SessionContext, end: Ending, driver: Driver, *, grace: float
    ) -> None:
        """`grace`: seconds that a process has to end once it has closed its output."""
        self._process = process
        self._context = context
        self._end = end
        self._driver = driver
        self._grace = grace
        self._drained = trio.Event()

    def __repr__(self) -> str:
        return f"<Reader pid={self._process.pid} drained={self._drained.is_set()}>"

    async def wait_drained(self) -> None:
        """Until there is nothing more to read."""
        await self._drained.wait()

    async def read(self) -> None:
        """Hand over what the process says, until it says no more."""
        process, asked = self._process, False
        try:
            async with aclosing(process.events()) as events:
                async for event in events:
                    if isinstance(event, UnknownControlRequest):
                        process.refuse(event.request_id, f"cms does not know `{event.subtype}`")
                    elif isinstance(event, Tampered):
                        self._end_tampered(event)
                    self._driver.apply(event)
            asked = self._end.has_begun()
            if not asked:
                await self._report_death()
        finally:
            self._drained.set()
            process.abandon()
            if not asked:
                # It has died, or nobody reads any more: there is no point in being polite.
                self._end.hurry()

    def _end_tampered(self, event: Tampered) -> None:
        """Somebody speaks in claude's name: nothing that it says is believed any more, its end included."""
        what = f"an answer nobody asked for (control request {event.request_id[:60]!r})"
        self._driver.log(self._context.entry("safety", "tampered", what))
        self._end.fail(Tampering(what))
        self._end.hurry()

    async def write(self) -> None:
        """Write what is to be told the process, for as long as it listens."""
        try:
            await self._process.write_out()
        except BaseException:
            # It hears nothing any more, so an interrupt would be waited for in vain.
            self._end.hurry()
            raise

    async def watch_caps(self) -> None:
        """Where the kernel does not hold the tree to its caps, this does."""
        cap = await self._process.container.watch_limits()
        self._driver.note_cap_passed(cap)
        self._end.fail(AgentError(f"the processes of this session exceeded their limit of {cap}"))
        self._end.hurry()

    async def _report_death(self) -> None:
        """Its stdout ended though nobody asked it to: it has died, or is about to."""
        process, driver = self._process, self._driver
        with trio.move_on_after(self._grace):
            await process.container.wait()
        stage, words = "while idle", process.stderr_tail
        if self._context.state.turn is not None:
            stage = "in the middle of a turn"
        elif self._context.state.phase is Phase.STARTING:
            stage = "before it was ready"
            words = driver.refusal or process.last_words
            driver.note_refusal(process.stderr_tail)
        returncode = process.container.returncode
        if returncode is None:
            said = f": {words}" if words else ""
            self._end.fail(ProtocolError(f"claude closed its output {stage}, but did not exit{said}"))
        elif returncode < 0 and (hit := driver.note_caps()):
            self._end.fail(AgentError(f"claude was killed {stage}: {hit[0]}"))
        else:
            self._end.fail(AgentDied(stage, returncode, words))
