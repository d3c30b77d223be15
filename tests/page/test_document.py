"""Documents: what others wrote never becomes markup, and the scripts of a file are those of the server."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from cms.batch.model import BatchOptions, BatchRecord, BatchStatus, TaskStatus, TaskView
from cms.batch.report import PAGE_ROWS, Gathering, is_report
from cms.page.document import ASSETS, SCRIPTS, asset, batch_report, filed, joined_script, served
from cms.rpc.wire import MAX_LINE

EVIL = "</script><script>alert(1)</script><!-- ]]> \u2028 \" ' & <img src=http://evil.example onerror=x>"


def task(name: str, status: TaskStatus = TaskStatus.COMPLETED, error: str = "") -> TaskView:
    return TaskView(
        name=name, status=status, cost=0.1, cost_exact=True, turns=2, duration=1500, response=error,
        error=error, tries=1, line=1, model="opus", session_id="", can_continue=True, tools_used=(),
        reasons=(), needs=(), started=1000.0, ended=1060.0,
    )  # fmt: skip


def batch(reason: str = "") -> BatchRecord:
    options = BatchOptions(work_dir="/x", source=reason)
    return BatchRecord("nightly-1", 1000.0, BatchStatus.FAILED, options, total=2, reason=reason)


class Page(HTMLParser):
    """Collects the tags, and what the page brings along as values."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.values = ""
        self._in_values = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self._in_values = tag == "script" and dict(attrs).get("type") == "application/json"

    def handle_endtag(self, tag: str) -> None:
        self._in_values = False

    def handle_data(self, data: str) -> None:
        if self._in_values:
            self.values += data


def report(*tasks: TaskView, reason: str = "") -> str:
    gathering = Gathering(PAGE_ROWS)
    gathering.add(tasks)
    return batch_report(batch(reason), gathering.found([]), 2000.0)


@given(st.text(max_size=60))
def test_nothing_that_others_wrote_becomes_markup(text: str) -> None:
    evil = EVIL + text
    plain, hostile = Page(), Page()
    plain.feed(report(task("a"), task("b", TaskStatus.FAILED, "x"), reason="x"))
    hostile.feed(report(task("a"), task("b", TaskStatus.FAILED, evil), reason=evil))
    assert hostile.tags == plain.tags
    told = msgspec.json.decode(hostile.values, type=list[tuple[str, dict[str, object]]])
    assert msgspec.convert(told[0][1]["batch"], dict[str, object])["reason"] == evil


def test_cms_knows_its_own_report() -> None:
    assert is_report(report(task("a"))[:1024].encode())
    assert not is_report(filed("batch", [], "Other", "")[:1024].encode())


def test_a_report_of_one_file_asks_for_nothing() -> None:
    text = report(task("a"))
    assert not re.search(r"\b(?:src|href)=\"(?!#)", text)
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)
    assert policy is not None
    assert policy[1].startswith("default-src &#x27;none&#x27;")
    assert "unsafe" not in policy[1]


def test_a_report_goes_through_the_socket_whatever_its_tasks_say() -> None:
    rows = [task(f"t{number}", TaskStatus.FAILED, "\x1b" * 2000) for number in range(PAGE_ROWS)]
    assert len(msgspec.json.encode(report(*rows))) < MAX_LINE


def test_every_script_stands_behind_those_that_it_imports() -> None:
    assert sorted(SCRIPTS) == sorted(path.name for path in ASSETS.glob("*.js"))
    for place, name in enumerate(SCRIPTS):
        imported = set(re.findall(r'from "\./([a-z]+\.js)"', asset(name)))
        assert imported <= set(SCRIPTS[:place]), name


def test_the_joined_script_is_no_module() -> None:
    text = joined_script()
    assert not re.search(r"^(?:import|export)\b", text, re.MULTILINE)
    for name in SCRIPTS:
        for exported in re.findall(r"^export \w+ (\w+)", asset(name), re.MULTILINE):
            assert re.search(rf'modules\["{name}"\] = {{[^}}]*\b{exported}\b', text), (name, exported)


def test_no_script_makes_html_of_text() -> None:
    """The browser refuses it (Trusted Types); here it is not even tried."""
    for name in SCRIPTS:
        assert not re.search(
            r"innerHTML|outerHTML|insertAdjacent|document\.write|DOMParser|\beval\b|new Function|javascript:"
            r"|setAttribute\(\"(?:style|on)",
            asset(name),
        ), name


def test_a_page_of_the_server_holds_no_value_and_no_inline_script() -> None:
    text = served("session", "/b/", feed='/b/feed/"><script>', csrf="")
    page = Page()
    page.feed(text)
    assert page.tags.count("script") == 1
    assert 'data-act="yes"' not in text
    assert 'data-csrf="word"' in served("session", "/b/", feed="", csrf="word")
