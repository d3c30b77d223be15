"""What a program leaves switched on in a terminal, from what it wrote."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cms.cli.screen_modes import ScreenModes

FULL_SCREEN = b"\x1b[?1049h\x1b[?25l\x1b[?1000;1006h\x1b[?2004h\x1b[>1u\x1b[>4;2m\x1b=\x1b[?7l"


def modes(*data: bytes) -> ScreenModes:
    found = ScreenModes()
    for each in data:
        found.feed(each)
    return found


def test_what_was_switched_on_is_switched_off() -> None:
    undone = modes(FULL_SCREEN).undo()
    for mode in (b"?1049l", b"?25h", b"?1000l", b"?1006l", b"?2004l", b"<1u", b">4m", b"?7h"):
        assert b"\x1b[" + mode in undone
    assert b"\x1b>" in undone
    assert modes(FULL_SCREEN, undone).undo() == b""


def test_what_was_left_in_order_is_left_alone() -> None:
    tidy = b"\x1b[?1049h\x1b[?25l text \x1b[31m\x1b[?25h\x1b[?1049l\x1b[>1u\x1b[<u\x1b[?9999h"
    assert modes(tidy).undo() == modes(tidy).redo() == b""


def test_back_again() -> None:
    before = modes(FULL_SCREEN)
    assert modes(FULL_SCREEN, before.undo(), before.redo()).undo() == before.undo()


@given(st.integers(0, len(FULL_SCREEN)), st.integers(0, len(FULL_SCREEN)))
def test_cut_anywhere(first: int, second: int) -> None:
    first, second = sorted((first, second))
    parts = FULL_SCREEN[:first], FULL_SCREEN[first:second], FULL_SCREEN[second:]
    assert modes(*parts).undo() == modes(FULL_SCREEN).undo()


@given(
    st.lists(st.binary(max_size=60) | st.sampled_from([FULL_SCREEN, b"\x1b[?", b"\x1b[<99u", b"\x1b[?;h"]))
)
def test_whatever_is_written_can_be_undone(data: list[bytes]) -> None:
    undone = modes(*data).undo()
    assert modes(*data, b" ", undone).undo() == b""
