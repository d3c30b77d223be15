"""Many callers, few sessions, no manners: whatever they do at once, every message ends, sent once at most.

The callers draw what they do next from a seeded generator; how they interleave is the machine's. What a
caller may see is an error of its own making (paused, stopping, not found ...), never one of ours.
"""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import trio

from cms.errors import MachineError, UsageError
from cms.fleet.supervisor import Supervisor
from cms.session.model import ENDED, Interaction, SessionStatus
from cms.store import sessions
from cms.store.rawlog import raw_log_path
from cms.testing.script import Quirk, call, prompt, say
from fleet.kit import consistent, make_options, make_settings, supervising
from sampling import sized
from store.reading import read_lines

SEEDS = range(sized(1))
CALLERS = 6
ACTS = 12
NAMES = ("one", "two", "three")

MESSAGES = (
    prompt("Talk", say("hello", cost_usd=0.01, model="sonnet")),
    prompt("Work", call("Bash", command="sleep 0.05"), say("done")),
    prompt("Write", call("Write", file_path="x", content="x"), say("done")),
    prompt("Long", call("Bash", command="sleep 600"), say("never")),
    prompt("Think", say("a long thought").stalling()),
    prompt("Die", say("x").quirky(Quirk("die", status=3))),
    prompt("Noise", say("x").quirky(Quirk("garbage"), Quirk("flood", size=50))),
    prompt("Later", call("Agent", description="a", prompt=prompt("b", say("c").after(0.05))), say("d")),
)


class Callers:
    """Those who act, and what they were promised."""

    def __init__(self, supervisor: Supervisor, seed: int) -> None:
        self.supervisor = supervisor
        self.accepted: list[Interaction] = []
        self.ended: dict[str, Interaction] = {}
        self._seed = seed

    async def run(self) -> None:
        async with trio.open_nursery() as nursery, trio.open_nursery() as callers:
            for number in range(CALLERS):
                choose = random.Random(f"{self._seed}/{number}")  # noqa: S311 - no secret
                callers.start_soon(self._call, choose, nursery)
        # (The outer nursery ends when the last promise is kept.)

    async def _call(self, choose: random.Random, nursery: trio.Nursery) -> None:
        for _ in range(ACTS):
            try:
                await self._act(choose, choose.choice(NAMES), nursery)
            except UsageError:
                pass
            except MachineError as error:
                assert "was frozen" in str(error)  # noqa: PT017 - the one thing that a machine may lack here

    async def _act(self, choose: random.Random, name: str, nursery: trio.Nursery) -> None:
        supervisor = self.supervisor
        match choose.choice(("send", "send", "send", "send", "stop", "kill", "interrupt", "pause", "freeze",
                             "resume", "leave", "continue", "look", "nap", "delete", "fork")):  # fmt: skip
            case "send":
                one = await supervisor.submit(name, choose.choice(MESSAGES), type="send")
                self.accepted.append(one)
                nursery.start_soon(self._wait, one)
            case "stop":
                await supervisor.stop(name, grace=choose.choice((None, 0.05)))
            case "kill":
                await supervisor.kill(name)
            case "interrupt":
                await supervisor.interrupt(name)
            case "pause":
                await supervisor.pause(name)
            case "freeze":
                await supervisor.pause(name, freeze=True)
            case "resume":
                await supervisor.resume(name)
            case "leave":
                with trio.move_on_after(choose.random() * 0.1):
                    await supervisor.submit(name, choose.choice(MESSAGES), type="send")
            case "continue":
                with trio.move_on_after(choose.random()):
                    await supervisor.continue_(name, choose.choice(MESSAGES), accepted=self.accepted.append)
            case "delete":
                await supervisor.delete(name, force=choose.random() < 0.8)
                await supervisor.create(make_options(supervisor.settings, name))
            case "fork":
                await supervisor.fork(name, f"{name}-{choose.random()}")
            case "look":
                supervisor.live()
                supervisor.questions()
                await supervisor.sessions()
                await supervisor.interactions(name)
            case _:
                await trio.sleep(choose.random() * 0.1)

    async def _wait(self, one: Interaction) -> None:
        try:
            ended = await self.supervisor.finished(one)
        except UsageError as error:
            assert "deleted" in str(error)  # noqa: PT017 - whoever waits may be told so, too
            return
        assert ended.state in ENDED, ended
        self.ended[ended.id] = ended


@pytest.mark.parametrize("seed", SEEDS)
async def test_whatever_they_do(tmp_path: Path, seed: int) -> None:
    settings = make_settings(tmp_path, grace=0.3)
    async with supervising(settings, within=60) as supervisor:
        for name in NAMES:
            await supervisor.create(make_options(settings, name))
        callers = Callers(supervisor, seed)
        async with trio.open_nursery() as nursery:

            async def end_in_the_end() -> None:
                """What never ends by itself (a long tool, a frozen session) is ended when all is quiet."""
                while True:
                    await trio.sleep(1.0)
                    for name in NAMES:
                        await supervisor.kill(name)

            nursery.start_soon(end_in_the_end)
            await callers.run()
            nursery.cancel_scope.cancel()
        assert len(supervisor.turn) == 0
        records = {record.id: record for record in await supervisor.sessions()}
        for one in callers.accepted:
            stored = await supervisor.store.read(sessions.interaction, one.id)
            if one.session_id in records:
                assert stored is not None
                assert stored == callers.ended.get(one.id, stored)
    for record in await consistent(settings):
        assert record.status is not SessionStatus.ERROR
        assert "in session" not in record.error, record.error  # as bugs of ours begin
        told = list(read_lines(raw_log_path(settings.raw, record.id), "in"))
        for one in callers.accepted:
            times = sum(one.id.encode() in line for line in told)
            assert times <= 1, f"message {one.id} was sent {times} times"
            if callers.ended.get(one.id) is not None and "never sent" in callers.ended[one.id].error:
                assert times == 0
        assert records[record.id].interaction_count == record.interaction_count
