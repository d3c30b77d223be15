"""Checks that a delegation must pass: what they see, how they fail, and that nothing of them stays."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import trio

from cms.containment import find_mechanism
from cms.errors import StoreError
from cms.fleet.checks import Checked, run_checks
from cms.session.model import Limits, Outcome, SessionStatus
from cms.store import live_files
from cms.testing.script import call, prompt, say
from fleet.kit import (
    assert_nothing_left,
    at_work,
    consistent,
    delegate,
    last,
    make_options,
    make_settings,
    supervising,
    until,
)


async def check(place: Path, commands: Sequence[str], **changes: object) -> list[str]:
    settings = make_settings(place)
    options = make_options(settings, verify=tuple(commands), **changes)
    settings.live.mkdir(parents=True, exist_ok=True)
    with trio.fail_after(20):
        checked = await run_checks(await find_mechanism(), settings, options)
    assert_nothing_left(settings)
    assert not checked.not_run
    return list(checked.failed)


@pytest.mark.parametrize(
    ("command", "trouble"),
    [
        ("true", ""),
        ("exit 3", "exit status 3"),
        ("echo a; echo 'two wrong'; exit 1", "exit status 1: two wrong"),
        ("echo noise; echo wrong >&2; exit 1", "exit status 1: wrong"),
        ("kill -SEGV $$", "signal 11"),
        ("no-such-program", "exit status 127: "),
        # It has all that it asked for, however much it says.
        ("head -c 3000000 /dev/zero | tr '\\0' x; echo; echo end; exit 2", "exit status 2: end"),
        # Its stdin is empty, so nothing can wait for an answer.
        ("read line || exit 9", "exit status 9"),
        # What it leaves behind holds up nobody.
        ("sleep 600 & exit 0", ""),
        ("setsid sleep 600 >/dev/null & exit 4", "exit status 4"),
    ],
)
async def test_one_check(tmp_path: Path, command: str, trouble: str) -> None:
    failed = await check(tmp_path, [command])
    if not trouble:
        assert failed == []
    else:
        (line,) = failed
        assert line.startswith(f"check failed: {command}: {trouble}")


async def test_one_that_is_killed_says_nothing_of_the_work(tmp_path: Path) -> None:
    """By a person (`cms kill --force-local`), or by a machine that is out of memory."""
    settings = make_settings(tmp_path)
    options = make_options(settings, verify=("kill -KILL $$",))
    settings.live.mkdir(parents=True, exist_ok=True)
    with trio.fail_after(20):
        checked = await run_checks(await find_mechanism(), settings, options)
    assert (checked.failures, checked.not_run) == ((), "kill -KILL $$: it was killed")
    assert_nothing_left(settings)


async def test_an_empty_check_that_an_earlier_version_took_is_not_passed(tmp_path: Path) -> None:
    (line,) = await check(tmp_path, ["true", ""])
    assert "without checking anything" in line


async def test_all_are_run_and_each_failure_is_told(tmp_path: Path) -> None:
    failed = await check(tmp_path, ["exit 1", "touch here", "test -f here", "exit 2"])
    assert [line.rpartition(": ")[2] for line in failed] == ["exit status 1", "exit status 2"]


async def test_one_that_takes_too_long(tmp_path: Path) -> None:
    failed = await check(tmp_path, ["trap '' TERM; sleep 600"], limits=Limits(max_time=0.3))
    assert failed == ["check failed: trap '' TERM; sleep 600: not done after 0.3 s"]


async def test_a_work_dir_that_is_gone_is_a_failure_of_the_check(tmp_path: Path) -> None:
    (line,) = await check(tmp_path, ["true"], work_dir=str(tmp_path / "gone"))
    assert "the work dir is gone" in line


async def test_our_own_folder_is_out_of_reach_unless_the_work_is_there(tmp_path: Path) -> None:
    settings = make_settings(tmp_path)
    inside = settings.home / "notes"
    inside.mkdir(parents=True)
    (settings.home / "cms.db").write_text("books")
    assert len(await check(tmp_path, [f"test -f {settings.home}/cms.db"])) == 1
    assert await check(tmp_path, ["touch x"], work_dir=str(inside)) == []
    assert (inside / "x").exists()


async def test_caps_of_the_session_hold_for_its_checks(tmp_path: Path) -> None:
    bomb = "for n in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16; do sleep 600 & done; wait; exit 0"
    (failed,) = await check(tmp_path, [bomb], limits=Limits(max_procs=8))
    assert "not done" not in failed


async def test_a_delegation_is_judged_by_its_checks(tmp_path: Path) -> None:
    settings = make_settings(tmp_path)
    async with supervising(settings) as supervisor:
        work = prompt("Work", call("Write", file_path="made", content="x"), say("done"))
        good = await delegate(supervisor, work, verify=("test -f made",))
        assert good.status is Outcome.COMPLETED
        assert (await supervisor.get("one")).status is SessionStatus.COMPLETED
        bad = await delegate(supervisor, work, name="two", verify=("test -f made", "test -f other"))
        assert bad.status is Outcome.VERIFICATION_FAILED
        assert bad.response == "done"
        assert bad.can_continue
        assert [reason for reason in bad.reasons if "test -f other" in reason]
        stored = await last(supervisor, "two")
        assert stored.outcome is Outcome.VERIFICATION_FAILED
        assert (await supervisor.get("two")).status is SessionStatus.STOPPED
        better = await supervisor.continue_(
            "two", prompt("On", call("Write", file_path="other", content="x"), say("now"))
        )
        assert better.status is Outcome.COMPLETED
    await consistent(settings)


async def test_a_delegation_that_failed_is_not_checked(tmp_path: Path) -> None:
    settings = make_settings(tmp_path)
    async with supervising(settings) as supervisor:
        work = prompt("Work", call("Bash", command="true"), say("done"))
        result = await delegate(supervisor, work, limits=Limits(max_turns=1), verify=("touch checked",))
        assert result.status is Outcome.TURNS_EXCEEDED
        assert not (tmp_path / "work" / "checked").exists()


async def test_a_check_ends_with_the_delegation(tmp_path: Path) -> None:
    settings = make_settings(tmp_path)
    async with supervising(settings) as supervisor:
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:

                async def go() -> None:
                    endless = ("touch at-work-one; sleep 600",)
                    await supervisor.delegate(
                        make_options(settings, verify=endless), prompt("Work", say("done"))
                    )

                nursery.start_soon(go)
                await at_work(supervisor)
                scope.cancel()
        assert scope.cancelled_caught
        await until(lambda: supervisor.live_count() == 0)
        assert_nothing_left(settings)
    await consistent(settings)


async def test_a_check_stands_behind_the_sessions_walls(tmp_path: Path) -> None:
    """It runs what the agent wrote: what that could not do itself, it must not have done by its check."""
    settings = make_settings(tmp_path, environ={"SECRET_TOKEN": "x", "CMS_CHILD_SOCKET": "/x"})
    work, home = tmp_path / "work", tmp_path / "home"
    for path in (work / ".git" / "config", home / ".bashrc", home / ".ssh" / "id_ed25519"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("original")
    planted = (
        "echo owned > .git/config; echo owned > ~/.bashrc; cat ~/.ssh/id_ed25519 > seen; "
        "env | grep -c 'SECRET_TOKEN\\|CMS_CHILD_SOCKET' > leaked; test -w made || echo x > made"
    )
    options = make_options(
        settings, verify=(planted,), env_deny=("SECRET_*",), protect_read=("~/.ssh",), preset="edit"
    )
    settings.live.mkdir(parents=True)
    mechanism = await find_mechanism()
    with trio.fail_after(20):
        assert await run_checks(mechanism, settings, options) == Checked()
    assert (work / "leaked").read_text() == "0\n"
    assert (work / "made").exists()
    if mechanism.guarantees.protected_paths.strong:
        assert (work / ".git" / "config").read_text() == "original"
        assert (home / ".bashrc").read_text() == "original"
        assert (work / "seen").read_text() == ""


async def test_a_check_that_cannot_be_noted_never_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever must end it without us would not find it."""

    def refuse(*_: object) -> None:
        raise StoreError("the disk is full")

    monkeypatch.setattr(live_files, "noted_check", refuse)
    settings = make_settings(tmp_path)
    options = make_options(settings, verify=("touch begun",))
    with trio.fail_after(20):
        checked = await run_checks(await find_mechanism(), settings, options)
    assert "could not be noted" in checked.not_run
    assert_nothing_left(settings)
    assert not (tmp_path / "work" / "begun").exists()
