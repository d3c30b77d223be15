"""Two clocks: the one on the wall for what is written down, a steady one for spans."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import trio.testing

from cms.live.context import SessionContext
from cms.session.model import SessionOptions, SessionRecord, SessionStatus


@pytest.mark.parametrize("jump", [8 * 3600.0, -3 * 3600.0])
async def test_a_jump_moves_what_is_written_and_no_span(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mock_clock: trio.testing.MockClock, jump: float
) -> None:
    """Forward: the machine slept, or the clock was set; back: it was set."""
    wall = 1_800_000_000.0
    monkeypatch.setattr(time, "time", lambda: wall)
    options = SessionOptions(name="one", work_dir=str(tmp_path))
    context = SessionContext(SessionRecord("id", "one", SessionStatus.READY, options, wall, wall))
    before = context.work_now()
    wall += jump
    mock_clock.jump(5.0)
    assert context.work_now() - before == pytest.approx(5.0)
    assert context.entry("start", "started").at == wall
    context.update(pid=1)
    assert context.record.last_saved == wall
    # What is due in a minute is due in a minute, and told as such.
    assert context.wall(context.work_now() + 60.0) == pytest.approx(wall + 60.0)
    context.stop_clock()
    wall += jump
    mock_clock.jump(100.0)
    context.start_clock()
    assert context.work_now() - before == pytest.approx(5.0)
