"""The watchers of a session: they get notes for people, and cannot slow it down.

Notes are handed over without waiting. Who lags behind loses some, and is told how many as soon as there is
room, at the latest by the last note before the channel ends: one place in each channel is kept for that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import msgspec
import trio

from cms.protocol.messages import (
    ApiRetry,
    Assistant,
    Event,
    RateLimitEvent,
    Result,
    StreamEvent,
    TextBlock,
    ToolUseBlock,
)
from cms.session.model import Progress, ProgressKind
from cms.session.tool_input import describe

#: Notes that a watcher may lag behind before it loses some.
LAG = 256


class Watchers:
    """The watchers of one session. `bool()` says whether there are any."""

    def __init__(self, make_note: Callable[[ProgressKind, str], Progress]) -> None:
        """`make_note` gives a note of ours its name, cost and time."""
        self._make_note = make_note
        self._lost: dict[trio.MemorySendChannel[Progress], int] = {}
        self._closed = False

    def __bool__(self) -> bool:
        return bool(self._lost)

    @contextmanager
    def watch(self) -> Iterator[trio.MemoryReceiveChannel[Progress]]:
        """The notes from now on, after one that tells how things stand; ends with `close`."""
        send, receive = trio.open_memory_channel[Progress](LAG + 1)
        send.send_nowait(self._make_note("status", ""))
        if self._closed:
            send.close()
        else:
            self._lost[send] = 0
        try:
            with receive:
                yield receive
        finally:
            self._lost.pop(send, None)
            send.close()

    def notify(self, note: Progress) -> None:
        """Tell everybody who has room for it."""
        for channel, lost in list(self._lost.items()):
            room = LAG - channel.statistics().current_buffer_used
            if room < (2 if lost else 1):
                self._lost[channel] = lost + 1
                continue
            try:
                if lost:
                    self._tell_lost(channel, lost)
                channel.send_nowait(note)
            except trio.BrokenResourceError:
                del self._lost[channel]

    def _tell_lost(self, channel: trio.MemorySendChannel[Progress], lost: int) -> None:
        channel.send_nowait(self._make_note("note", f"{lost} notes lost: this watcher is slow"))
        self._lost[channel] = 0

    def close(self) -> None:
        """Nothing more will happen: what was told can still be read, then the channels end."""
        self._closed = True
        for channel, lost in list(self._lost.items()):
            try:
                if lost:
                    self._tell_lost(channel, lost)
            except trio.BrokenResourceError:
                pass
            channel.close()
        self._lost.clear()


def join_texts(notes: Iterable[Progress]) -> list[Progress]:
    """The same notes, pieces of text that follow one another in one."""
    joined: list[Progress] = []
    for note in notes:
        if joined and note.kind == joined[-1].kind == "text":
            note = msgspec.structs.replace(note, text=joined.pop().text + note.text)
        joined.append(note)
    return joined


def activity_of(event: Event) -> str | None:
    """What an event says that the agent is doing, in a line; None if it says nothing of it."""
    match event:
        case Assistant(parent_tool_use_id=None):
            said = None
            for block in event.blocks:
                if isinstance(block, TextBlock) and block.text.strip():
                    said = block.text.strip().splitlines()[0][:120]
                elif isinstance(block, ToolUseBlock):
                    said = f"{block.name} {describe(block.input)}".strip()
            return said
        case ApiRetry():
            return _retry(event)
        case _:
            return None


class Notes:
    """What watchers are told of events that come one after the other."""

    def __init__(self) -> None:
        self._text = False  # the block that is being streamed has text

    def of(self, event: Event) -> tuple[ProgressKind, str] | None:
        """What is told of this one; None if nothing. The end of a text is told by a note of another kind."""
        match event:
            case StreamEvent(event=api, parent_tool_use_id=None):
                if api.delta is not None and api.delta.text:
                    self._text = True
                    return "text", api.delta.text
                if self._text and api.type == "content_block_stop":
                    self._text = False
                    return "status", ""
            case ApiRetry():
                return "retry", _retry(event)
            case RateLimitEvent(rate_limit_info=info):
                return "rate_limit", f"{info.rateLimitType}: {info.status}"
            case Result():
                return "turn", ""
            case _:
                pass
        return None


def _retry(event: ApiRetry) -> str:
    # Without a status the API was not reached at all.
    what = "no answer from the API" if event.error_status is None else f"API error {event.error_status}"
    return f"{what}, try {event.attempt} in {event.retry_delay_ms / 1000:.0f} s"
