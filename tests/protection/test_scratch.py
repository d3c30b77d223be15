"""A session's temporary files are its own, and gone with it."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest
import trio

from cms.fleet.supervisor import open_supervisor
from cms.protection.scratch import (
    hidden_scratch,
    make_config_folder,
    make_scratch,
    remove_scratch,
    write_files,
)
from cms.session.model import Outcome
from cms.testing.script import call, prompt, say
from fleet.kit import ask, delegate, make_settings, start, supervising

FIRST, SECOND = "11111111-aaaa", "22222222-bbbb"


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_a_session_finds_its_folder_again() -> None:
    folder = make_scratch(FIRST)
    (folder / "output").write_text("x")
    assert make_scratch(FIRST) == folder
    assert (folder / "output").read_text() == "x"
    assert folder.stat().st_mode & 0o777 == 0o700


def test_the_last_one_leaves_the_folder_that_others_have_mounted_over(place: Path) -> None:
    one, other = make_scratch(FIRST), make_scratch(SECOND)
    (one / "deep").mkdir()
    remove_scratch(one)
    assert other.is_dir()
    remove_scratch(other)
    assert list(place.iterdir()) == list(hidden_scratch())


@pytest.mark.parametrize("mode", [0o755, 0o777])
def test_a_parent_that_others_can_enter_is_closed_to_them(place: Path, mode: int) -> None:
    parent = place / f"cms-{os.getuid()}"
    parent.mkdir()
    parent.chmod(mode)
    folder = make_scratch(FIRST)
    assert folder.parent == parent
    assert parent.stat().st_mode & 0o777 == 0o700


def test_a_link_in_its_place_is_not_followed(place: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (place / f"cms-{os.getuid()}").symlink_to(elsewhere)
    folder = make_scratch(FIRST)
    assert folder.parent == place
    assert list(elsewhere.iterdir()) == []
    remove_scratch(folder)


def test_only_a_folder_of_ours_is_hidden_from_sessions(place: Path) -> None:
    parent = place / f"cms-{os.getuid()}"
    assert hidden_scratch() == (parent,)
    assert make_scratch(FIRST).parent == parent
    remove_scratch(make_scratch(FIRST))
    parent.rmdir()
    (place / f"cms-{os.getuid()}").symlink_to(place)
    assert hidden_scratch() == ()


async def test_a_session_sees_its_own_and_no_other(tmp_path: Path) -> None:
    settings = make_settings(tmp_path)
    work = tmp_path / "work"
    look = 'cd "$CLAUDE_CODE_TMPDIR" && touch mine && ls .. > {0}; pwd > {0}-is'
    async with supervising(settings) as supervisor:
        walls = supervisor.mechanism.guarantees.hidden_paths.strong
        for name in ("one", "two"):
            await start(supervisor, name)
            await ask(
                supervisor, name, prompt("go", call("Bash", command=look.format(work / name)), say("done"))
            )
        one, two = (Path((work / f"{name}-is").read_text().strip()) for name in ("one", "two"))
        assert (one / "mine").exists()
        assert (two / "mine").exists()
        seen = set((work / "two").read_text().split())
        folders = (two,) if walls else (one, two)
        assert seen == {name for folder in folders for name in (folder.name, f"{folder.name}.config")}
        # Its own can be taken away afterwards, and the other's stays.
        await supervisor.stop("two")
        assert not two.exists()
        assert one.is_dir()


async def test_a_check_sees_none(tmp_path: Path) -> None:
    settings = make_settings(tmp_path)
    async with supervising(settings) as supervisor:
        walls = supervisor.mechanism.guarantees.hidden_paths.strong
        await start(supervisor, "one")
        await supervisor.resume("one")
        scratch = make_scratch((await supervisor.get("one")).id)
        result = await delegate(
            supervisor, prompt("go", say("done")), name="two", verify=(f"test -e {scratch}",)
        )
        assert result.status is (Outcome.VERIFICATION_FAILED if walls else Outcome.COMPLETED)


def test_what_it_is_started_with_is_for_its_user_alone() -> None:
    folder = make_config_folder(FIRST)
    write_files({folder / "settings.json": b"{}"})
    assert (folder / "settings.json").stat().st_mode & 0o777 == 0o600
    with pytest.raises(FileExistsError):
        write_files({folder / "settings.json": b"other"})
    assert list(make_config_folder(FIRST).iterdir()) == []
    assert make_config_folder(FIRST) == folder
    assert folder != make_scratch(FIRST)


async def test_what_crashes_left_is_cleared_though_the_clearing_was_killed(
    place: Path, tmp_path: Path
) -> None:
    """Found by what is there: not even the session's last end has to be the crash."""
    settings = make_settings(tmp_path)
    async with supervising(settings) as supervisor:
        await start(supervisor, "one")
        await supervisor.stop("one")
        ours = (await supervisor.get("one")).id
    (make_scratch(ours) / "output").write_text("x")
    (make_config_folder(ours) / "settings.json").write_text("x")
    of_another_home = make_scratch(FIRST)
    async with supervising(settings):
        with trio.fail_after(20):
            while list(of_another_home.parent.iterdir()) != [of_another_home]:  # noqa: ASYNC110
                await trio.sleep(0.01)  # cleared beside the supervisor's work: there is no event for it


async def test_what_another_program_on_this_store_works_in_stays(place: Path, tmp_path: Path) -> None:
    settings = make_settings(tmp_path)
    async with supervising(settings) as supervisor:
        await start(supervisor, "one")
        await supervisor.resume("one")
        folder = make_scratch((await supervisor.get("one")).id)
        async with open_supervisor(settings) as other:
            await other.clear_left_scratch()
            assert folder.is_dir()
        assert folder.is_dir()


async def test_two_homes_at_work_at_once(tmp_path: Path) -> None:
    """The last session of one ends while a check of the other is at work, and before its next."""
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
    here, there = make_settings(tmp_path / "here"), make_settings(tmp_path / "there")
    gate = tmp_path / "there" / "work" / "gate"
    async with open_supervisor(here) as one, open_supervisor(there) as other:
        await start(one, "one")
        await one.resume("one")
        results: list[Outcome] = []

        async def check() -> None:
            wait = f"touch {gate}.waits; until test -e {gate}; do sleep 0.05; done"
            done = await delegate(other, prompt("go", say("done")), name="two", verify=(wait, "true"))
            results.append(done.status)

        with trio.fail_after(40):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(check)
                while not gate.with_name("gate.waits").exists():  # noqa: ASYNC110 - made by another process
                    await trio.sleep(0.02)
                await one.kill("one")
                gate.touch()
        assert results == [Outcome.COMPLETED]
        again = await delegate(other, prompt("go", say("done")), name="three", verify=("true",))
        assert again.status is Outcome.COMPLETED
