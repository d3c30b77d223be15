"""A recorded scene, folded as the runner would fold it: one message in flight at a time."""

from __future__ import annotations

import json

import msgspec

from cms.protocol.messages import CanUseTool, CommandLifecycle, Event, HookCallback
from cms.session.fold import fold
from cms.session.model import Denial
from cms.session.state import Began, Judged, Local, Opened, Settled, State, Turn, is_over
from cms.session.verdict import Conclusion, conclude, response_of
from protocol import takes
from session.world import START


class Interacted(msgspec.Struct, frozen=True):
    """One interaction of a scene, as it was when it was over."""

    line: int  # the line, counted from 1, at which it was over
    conclusion: Conclusion
    cost: float
    response: str
    turn: Turn


class Replay:
    """A scene under way.

    Attributes:
        history: the state after each event, ours included.
        over: the interactions that came to their end.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.history: list[tuple[Event, State]] = []
        self.over: list[Interacted] = []
        self._state = State()
        self._now = START
        told = takes.told(name)
        self._messages = [str(line["uuid"]) for line in told if line["type"] == "user"]
        self._commands = {
            str(line["uuid"])
            for line in told
            if line["type"] == "user" and '"content": "/' in json.dumps(line)
        }
        self._answers: dict[str, object] = {}
        for line in told:
            response = line.get("response")
            if isinstance(response, dict):
                self._answers[str(response["request_id"])] = response["response"]

    def run(self) -> Replay:
        self._see(Opened(0.0, {}))
        self._begin()
        for number, event in enumerate(takes.events(self.name), 1):
            if isinstance(event, CommandLifecycle) and event.command_uuid in self._messages:
                self._messages.remove(event.command_uuid)  # sent while another was in flight
            self._see(event)
            if isinstance(event, HookCallback | CanUseTool):
                self._judge(event)
            if is_over(self._state):
                self._settle(number)
                self._begin()
        return self

    @property
    def state(self) -> State:
        return self._state

    def _see(self, event: Event) -> None:
        self._now += 0.01
        self._state = fold(self._state, event, self._now)
        self.history.append((event, self._state))

    def _begin(self) -> None:
        if self._messages:
            message = self._messages.pop(0)
            self._see(Began(message, command=message in self._commands))

    def _judge(self, event: HookCallback | CanUseTool) -> None:
        answer = msgspec.json.encode(self._answers[event.request_id])
        refused = b'"deny"' in answer
        tool = event.request.input.tool_name if isinstance(event, HookCallback) else event.request.tool_name
        self._see(Judged(event.request_id, Denial(tool, "", "no") if refused else None))

    def _settle(self, number: int) -> None:
        turn = self._state.turn
        assert turn is not None
        cost = self._state.ledger.spent - turn.spent_before
        self.over.append(Interacted(number, conclude(self._state), cost, response_of(self._state), turn))
        self._see(Settled())


def local(event: Event) -> bool:
    return isinstance(event, Local)
