"""What leaves a batch: hooks that fail, hang or multiply; a webhook that is not there; lines exactly once."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest
import trio

from cms.batch.model import BatchOptions, BatchRecord, BatchStatus, TaskStatus, TaskView
from cms.disk import NotOurs
from cms.errors import UsageError
from cms.fleet.notify import News, Notifier, check_news, post, run_hook
from cms.fleet.results_file import open_results, write_own_report
from cms.options import Layer
from receiver import SECRET, listening, receiver


def task(name: str) -> TaskView:
    return TaskView(
        name=name,
        status=TaskStatus.FAILED,
        cost=0.0,
        cost_exact=True,
        turns=0,
        duration=0,
        response="",
        error="",
        tries=1,
        line=1,
        model="opus",
        session_id="",
        can_continue=False,
        tools_used=(),
        reasons=(),
        needs=(),
        started=1.5,
        ended=None,
    )


def batch(options: BatchOptions) -> BatchRecord:
    return BatchRecord(id="b-1", created=0.0, status=BatchStatus.RUNNING, options=options)


def ended(pid: int) -> bool:
    """Gone, or a zombie that nobody reaps here."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


async def test_a_hook_reads_the_news(tmp_path: Path) -> None:
    with trio.fail_after(20):
        assert await run_hook("cat > got", b'{"a":1}', cwd=str(tmp_path)) == ""
        assert (tmp_path / "got").read_bytes() == b'{"a":1}'
        assert await run_hook("exit 3", b"x" * 1_000_000, cwd=str(tmp_path)) == "exit status 3"
        assert await run_hook("kill -9 $$", b"", cwd=str(tmp_path)) == "ended by signal 9"
        assert "could not be started" in await run_hook("true", b"", cwd=str(tmp_path / "gone"))


async def test_a_hook_that_hangs_is_ended_with_its_children(tmp_path: Path) -> None:
    with trio.fail_after(20):
        told = await run_hook("sleep 1000 & echo $! > child; wait", b"", cwd=str(tmp_path), timeout=0.5)
        assert told == "not done after 0.5 s, killed"
        child = int((tmp_path / "child").read_text())
        while not ended(child):  # noqa: ASYNC110 - nothing tells it
            await trio.sleep(0.01)


async def test_a_cancelled_hook_leaves_nothing(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "begun")
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: run_hook("echo $$ > begun; sleep 1000", b"", cwd=str(tmp_path)))
            pid = int(await trio.to_thread.run_sync((tmp_path / "begun").read_text))
            nursery.cancel_scope.cancel()
    assert not psutil.pid_exists(pid)


async def test_failures_that_come_together_are_told_together(tmp_path: Path) -> None:
    options = BatchOptions(
        work_dir=str(tmp_path), on_fail="cat >> told; echo >> told; test -e go || sleep 0.5"
    )
    warnings: list[str] = []
    notifier = Notifier(options, warnings.append)
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(notifier.run)
            notifier.failed(batch(options), task("first"))
            while not (tmp_path / "told").exists():  # noqa: ASYNC110 - likewise
                await trio.sleep(0.01)
            for number in range(500):
                notifier.failed(batch(options), task(f"t{number}"))
            await notifier.drained()
            nursery.cancel_scope.cancel()
    lines = [msgspec.json.decode(line) for line in (tmp_path / "told").read_bytes().splitlines()]
    assert [line["event"] for line in lines] == ["fail", "fail"]
    assert [task["name"] for task in lines[0]["tasks"]] == ["first"]
    assert lines[0]["tasks"][0]["started"] == "1970-01-01T00:00:01.500Z"
    assert (len(lines[1]["tasks"]), lines[1]["more"]) == (100, 400)
    assert warnings == []


async def test_what_goes_wrong_is_told_and_no_more(tmp_path: Path) -> None:
    options = BatchOptions(work_dir=str(tmp_path), on_done="exit 7", webhook="http://127.0.0.1:1/")
    warnings: list[str] = []
    notifier = Notifier(options, warnings.append)
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(notifier.run)
            notifier.done(batch(options))
            await notifier.drained()
            nursery.cancel_scope.cancel()
    assert warnings[0] == "--on-done: exit status 7"
    assert "refused" in warnings[1]


def test_a_webhook_is_posted() -> None:
    heard: list[bytes] = []

    def take(path: str, _headers: dict[str, str], body: bytes) -> int:
        heard.append(body)
        return 204 if path == "/good" else 500

    with listening(take) as address:
        assert post(f"{address}/good", b"{}") == ""
        assert post(f"{address}/bad", b"{}") == "answered 500"
    assert heard == [b"{}", b"{}"]
    assert "not a web address" in post("file:///etc/passwd", b"")


def test_lines_come_once_whatever_was_torn(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    tasks = [task(f"t{number}") for number in range(5)]
    results = open_results(path, str(tmp_path))
    results.write(tasks[:3])
    results.close()
    assert path.stat().st_mode & 0o777 == 0o600
    path.write_bytes(path.read_bytes()[:-7] + b"")  # the third line is torn
    results = open_results(path, str(tmp_path))
    results.write(tasks)
    results.caught_up()
    results.close()
    lines = [msgspec.json.decode(line, type=dict[str, object]) for line in path.read_bytes().splitlines()]
    assert [line["name"] for line in lines] == ["t0", "t1", "t2", "t3", "t4"]
    assert lines[0]["started"] == "1970-01-01T00:00:01.500Z"


def test_who_is_told_learns_facts_and_no_options(tmp_path: Path) -> None:
    secret = Layer(mcp_config=("SECRET",), settings="SECRET", append_system_prompt="SECRET")
    options = BatchOptions(
        work_dir=str(tmp_path),
        source="night.jsonl",
        defaults=secret,
        webhook="http://h/SECRET",
        notify=("json://h/SECRET",),
        on_done="SECRET",
    )
    record = msgspec.structs.replace(batch(options), spent=0.1 + 0.2, started=1.5)
    told = News("done", record, (task("a"),)).told()
    assert b"SECRET" not in told
    facts = msgspec.json.decode(told)["batch"]
    assert (facts["id"], facts["source"], facts["spent"]) == ("b-1", "night.jsonl", 0.3)
    assert facts["started"] == "1970-01-01T00:00:01.500Z"


async def test_a_notification_says_it_in_words(tmp_path: Path) -> None:
    pytest.importorskip("apprise")
    warned: list[str] = []
    with receiver() as (url, got):
        address = url.replace("http", "json", 1)
        options = BatchOptions(work_dir=str(tmp_path), notify=(address, f"json://127.0.0.1:1/{SECRET}"))
        await check_news(options)
        notifier = Notifier(options, warned.append)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(notifier.run)
            notifier.failed(batch(options), task("a"))
            with trio.fail_after(60):
                await notifier.drained()
            nursery.cancel_scope.cancel()
        told = got.get(timeout=10)
    assert told["title"] == "cms: batch b-1: 1 task did not complete"
    assert told["message"].splitlines() == ["a: failed", "$0.00"]
    assert warned == ["--notify: 1 of 2 could not be sent"]


@pytest.mark.parametrize("options", [{"webhook": f"ftp://{SECRET}"}, {"notify": (f"no-such://{SECRET}",)}])
async def test_addresses_that_are_none_are_refused_and_not_told(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError) as caught:
        await check_news(BatchOptions(work_dir="/", **options))
    assert SECRET not in f"{caught.value} {caught.value.hint}"


PERSONS = b"export PATH\nalias x=y"


@pytest.mark.parametrize("how", ["link", "hard link", "folder", "dangling", "fifo", "person's", "unfinished"])
def test_what_an_agent_planted_is_not_written_through(tmp_path: Path, how: str) -> None:
    home, work = tmp_path / "home", tmp_path / "work"
    for folder in (home, work):
        folder.mkdir()
    theirs = home / "rc.jsonl"
    theirs.write_bytes(PERSONS)
    out = work / "sub" / "rc.jsonl"
    if how == "folder":
        out.parent.symlink_to(home)
    else:
        out.parent.mkdir()
        match how:
            case "link":
                out.symlink_to(theirs)
            case "hard link":
                out.hardlink_to(theirs)
            case "dangling":
                out.symlink_to(home / "new")
            case "fifo":
                os.mkfifo(out)
            case "person's":
                out.write_bytes(PERSONS + b"\n")
            case _:
                out.write_bytes(PERSONS)
    with pytest.raises(NotOurs):
        open_results(out, str(work))
    with pytest.raises(NotOurs):
        write_own_report(out, "# Batch x", str(work))
    assert theirs.read_bytes() == PERSONS
    assert {path.name for path in home.iterdir()} == {"rc.jsonl"}
    if how in ("person's", "unfinished"):
        assert out.read_bytes().startswith(PERSONS)


def test_nothing_protected_is_written(tmp_path: Path) -> None:
    (tmp_path / ".git" / "hooks").mkdir(parents=True)
    for name in (".git/hooks/pre-commit", ".env"):
        with pytest.raises(NotOurs, match="protected"):
            open_results(tmp_path / name, str(tmp_path))
        with pytest.raises(NotOurs, match="protected"):
            write_own_report(tmp_path / name, "# Batch x", str(tmp_path))


def test_a_report_takes_the_place_of_an_older_one(tmp_path: Path) -> None:
    path = tmp_path / "night.md"
    for text in ("# Batch one", "# Batch two"):
        write_own_report(path, text, str(tmp_path))
        assert path.read_text() == text
    assert [one.name for one in tmp_path.iterdir()] == ["night.md"]
