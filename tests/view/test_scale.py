"""200 live sessions and a batch of 10,000 tasks on the page, as a scripted daemon tells of them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import msgspec
import pytest

from cli import making
from cli.scripted import serve
from cms.batch.model import BatchOptions, BatchRecord, BatchStatus, TaskStatus, TaskView
from cms.rpc.batches import (
    BatchPageParams,
    BatchParams,
    BatchResult,
    BatchScoresResult,
    BatchTasksResult,
)
from cms.rpc.overview import OverviewResult
from cms.rpc.sessions import SessionsResult
from cms.session.model import Limits, LiveSession, Record, SessionStatus
from cms.session.plan_usage import UsageWindow
from cms.store.batches import BatchNotFound
from view.browser import Page
from view.checker import faults

TASKS = 10_000
LIVE = 200


def live(number: int) -> LiveSession:
    status = SessionStatus.BUSY if number % 3 else SessionStatus.READY
    record = making.session(f"session-{number}", status=status, limits=Limits(max_cost=2.0, max_turns=50))
    record = msgspec.structs.replace(record, id=f"id-{number}", total_cost_usd=number / 100)
    return LiveSession(record, "Bash pytest -q" * 9, False, 0, int(number == 7), 12, 230 * 1024**2)


def task(number: int) -> TaskView:
    status = TaskStatus.COMPLETED if number % 10 else TaskStatus.FAILED
    return TaskView(
        name=f"task-{number}", status=status, cost=number / 10_000, cost_exact=True, turns=3, duration=61_000,
        response="<b>All of it is done</b> and more. " * 20, error="" if number % 10 else "it broke", tries=1,
        line=number + 1, model="sonnet", session_id="", can_continue=True, tools_used=("Bash",), reasons=(),
        needs=(), started=making.NOW + number, ended=making.NOW + number + 61,
    )  # fmt: skip


class World:
    """What the daemon says."""

    def __init__(self) -> None:
        self.tasks = [task(number) for number in range(TASKS)]
        self.pages = 0

    def batch(self, params: Record) -> BatchResult | BatchNotFound:
        assert isinstance(params, BatchParams)
        if params.id != "big":
            return BatchNotFound(params.id, "")
        counts: dict[TaskStatus, int] = {}
        for one in self.tasks:
            counts[one.status] = counts.get(one.status, 0) + 1
        options = BatchOptions(work_dir="/srv/app", source="big.jsonl", max_cost=9000.0)
        return BatchResult(
            BatchRecord(
                "big", making.NOW, BatchStatus.RUNNING, options, TASKS, counts, 5000.0, started=making.NOW
            )
        )

    def page(self, params: Record) -> BatchTasksResult:
        assert isinstance(params, BatchPageParams)
        self.pages += 1
        first = params.after + 1
        found = tuple(self.tasks[first : first + params.limit])
        last = first + len(found) - 1
        return BatchTasksResult(found, last if last < TASKS - 1 else None)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[World, str]]:
    """The daemon's words, and the address of a page about them."""
    home, world = tmp_path_factory.mktemp("scale") / "home", World()
    sessions = [live(number) for number in range(LIVE)]
    plan = (
        UsageWindow("five_hour", 0.92, making.NOW + 600),
        UsageWindow("seven_day", 0.3, making.NOW - 1),
    )
    script = {
        "sessions.overview": lambda _: OverviewResult(tuple(sessions), 3.5, making.NOW, plan),
        "session.list": lambda _: SessionsResult(tuple(one.session for one in sessions), 9.0, LIVE),
        "batch.get": world.batch,
        "batch.scores": lambda _: BatchScoresResult((), {"sonnet": 5000.0}),
        "batch.tasks": world.page,
    }
    with serve(home, script):
        child = subprocess.Popen(
            [sys.executable, "-m", "cms", "view", "--no-open", "--json"],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "CMS_HOME": str(home)},
        )
        with child:
            assert child.stdout is not None
            line = msgspec.json.decode(child.stdout.readline(), type=dict[str, object])
            yield world, str(line["address"])
            child.send_signal(signal.SIGTERM)
            assert child.wait(10) == 0


def test_two_hundred_sessions(world: tuple[World, str], page: Page) -> None:
    page.open(world[1])
    page.until_text("200 live · 133 busy · 1 waiting for you")
    assert "92 % used" in page.text(".plan")
    assert "7 days" not in page.text(".plan"), "it has begun anew"
    assert page.js("document.querySelectorAll('tbody tr').length") == 100
    page.click("button", "Next")
    page.until_text("101 to 200 of 200, page 2 of 2")
    page.click("input[type=search]")
    page.type("session-19")
    page.until_text("1 to 11 of 11", ".count")
    # It is told anew each second; what a person chose stays, the place to write, too.
    assert page.js("document.activeElement.type") == "search"
    page.click("button.sort", "Cost")
    page.until("document.querySelector('tbody tr').innerText.startsWith('session-199')")
    assert page.js("document.querySelector('[aria-sort]').innerText.trim()") == "Cost ▾"
    assert faults(page) == []
    page.look(dark=True, width=320)
    assert faults(page) == []


def test_ten_thousand_tasks(world: tuple[World, str], page: Page) -> None:
    page.open(world[1])
    page.until_text("200 live")
    page.open(str(page.js("location.href")).replace("/sessions", "/batches/big"))
    page.until_text("1 to 100 of 10,000, page 1 of 100")
    assert page.js("document.querySelectorAll('*').length < 5000")
    assert page.js("document.querySelector('#line svg').ariaLabel.startsWith('Time line: 10,000 tasks')")
    # What a person does is done before the next frame or two.
    began = page.js("performance.now()")
    page.js("document.querySelector('#tasks [data-sort=cost]').click()")
    page.until("document.querySelector('#tasks tbody tr').innerText.includes('task-9999')")
    page.js("document.querySelector('#tasks select').value = 'bad'")
    page.js("document.querySelector('#tasks select').dispatchEvent(new Event('input', {bubbles: true}))")
    page.until_text("1 to 100 of 1,000", ".count")
    assert page.js(f"performance.now() - {began} < 3000")
    page.click("button", "Next")
    page.until_text("page 2 of 10", ".pages")
    # One task has come to its end: that alone is sent, and what was chosen stays.
    here = world[0]
    here.tasks[4] = msgspec.structs.replace(here.tasks[4], status=TaskStatus.FAILED, error="just now")
    page.until_text("1,001 failed", ".key")
    page.until_text("101 to 200 of 1,001", ".count")
    assert page.text(".pages").count("page 2 of 11") == 1
    assert faults(page) == []


def test_what_is_not_there_is_said(world: tuple[World, str], page: Page) -> None:
    page.open(world[1])
    page.until_text("200 live")
    page.open(str(page.js("location.href")).replace("/sessions", "/batches/none"))
    page.until_text("none", "h1")
