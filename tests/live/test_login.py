"""A session's login: a copy without what renews it, renewed outside, once for all sessions."""

from __future__ import annotations

import json
import os
import stat
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import trio
import trio.testing

from cms.live import login as module
from cms.live.login import FILE, VARIABLE, Login, without_refresh_tokens


def write(path: Path, number: int, ends_in: float, **more: object) -> None:
    """As claude writes it: a new file in its place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_suffix(".tmp")
    login = {
        "accessToken": f"access-{number}",
        "refreshToken": f"refresh-{number}",
        "expiresAt": int((time.time() + ends_in) * 1000),
    }
    fresh.write_text(json.dumps({"claudeAiOauth": login, **more}))
    fresh.replace(path)


class World:
    """A user's login, and a claude that renews it: once for each refresh token."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.source = root / "home" / ".claude" / FILE
        self.renewed: list[int] = []
        self.number = 0
        self.fails = False

    def login(self, name: str = "one", **environ: str) -> Login:
        environ = {"HOME": str(self.root / "home"), **environ}
        return Login(environ, self.root / "cms" / "login" / name, self.renew)

    async def renew(self) -> None:
        self.renewed.append(self.number)
        await trio.sleep(0.5)
        if self.fails:
            raise OSError("no claude")
        self.number += 1
        write(self.source, self.number, 3600)


def seen(login: Login) -> str:
    found = json.loads((login.folder / FILE).read_text())["claudeAiOauth"]
    assert "refreshToken" not in found
    return str(found["accessToken"])


@pytest.fixture(autouse=True)
def quick_disk(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that jumps does not wait for threads."""
    if "autojump_clock" in request.fixturenames:

        async def ask(look: Callable[[], object], _what: str, **_: object) -> object:
            await trio.lowlevel.checkpoint()
            return look()

        monkeypatch.setattr(module, "ask_disk", ask)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


async def test_a_copy_without_what_renews_it(world: World) -> None:
    write(
        world.source,
        0,
        3600,
        mcpOAuth={"server": {"accessToken": "a", "refreshToken": "r", "serverUrl": "u"}, "odd": 3},
        organizationUuid="o",
    )
    login = world.login()
    await login.prepare()
    found = json.loads((login.folder / FILE).read_text())
    assert "refresh" not in json.dumps(found).lower()
    assert found["mcpOAuth"] == {"server": {"accessToken": "a", "serverUrl": "u"}}
    assert found["organizationUuid"] == "o"
    assert stat.S_IMODE((login.folder / FILE).stat().st_mode) == 0o600
    assert stat.S_IMODE(login.folder.stat().st_mode) == 0o700
    assert login.hidden == (world.source,)
    assert not world.renewed


@pytest.mark.parametrize("ends_in", [-10.0, 200.0])
async def test_what_is_about_to_end_is_renewed_before_the_start(
    world: World, ends_in: float, autojump_clock: trio.testing.MockClock
) -> None:
    write(world.source, 0, ends_in)
    login = world.login()
    await login.prepare()
    assert (world.renewed, seen(login)) == ([0], "access-1")


async def test_sessions_that_start_together_renew_it_once(
    world: World, autojump_clock: trio.testing.MockClock
) -> None:
    write(world.source, 0, 100)
    logins = [world.login(str(number)) for number in range(8)]
    async with trio.open_nursery() as nursery:
        for login in logins:
            nursery.start_soon(login.prepare)
    assert world.renewed == [0]
    assert {seen(login) for login in logins} == {"access-1"}


async def test_it_is_kept_up_while_the_session_runs(
    world: World, autojump_clock: trio.testing.MockClock
) -> None:
    write(world.source, 0, 3600)
    login = world.login()
    await login.prepare()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(login.keep)
        await trio.sleep(60)
        assert (world.renewed, seen(login)) == ([], "access-0")
        # Somebody else renewed it, or the user logged in anew.
        write(world.source, 5, 3600)
        world.number = 5
        await trio.sleep(60)
        assert (world.renewed, seen(login)) == ([], "access-5")
        write(world.source, 5, 150)
        await trio.sleep(60)
        assert (world.renewed, seen(login)) == ([5], "access-6")
        # Logged out.
        world.source.unlink()
        await trio.sleep(60)
        assert not (login.folder / FILE).exists()
        nursery.cancel_scope.cancel()


async def test_a_renewal_that_fails_is_tried_again_and_harms_nobody(
    world: World, autojump_clock: trio.testing.MockClock
) -> None:
    write(world.source, 0, 100)
    login = world.login()
    world.fails = True
    await login.prepare()
    assert seen(login) == "access-0"
    async with trio.open_nursery() as nursery:
        nursery.start_soon(login.keep)
        await trio.sleep(200)
        assert len(world.renewed) > 2
        world.fails = False
        await trio.sleep(60)
        assert seen(login) == "access-1"
        nursery.cancel_scope.cancel()


async def test_where_it_is_looked_for(world: World) -> None:
    assert world.login().source == world.source
    assert world.login(CLAUDE_CONFIG_DIR="/conf").source == Path("/conf") / FILE
    assert world.login(CLAUDE_CONFIG_DIR="/conf", **{VARIABLE: "/safe"}).source == Path("/safe") / FILE


@pytest.mark.parametrize("kind", ["fifo", "endless", "huge"])
async def test_what_an_agent_puts_in_its_place_holds_nobody_up(world: World, kind: str) -> None:
    """Where a session has no copies it can: the daemon reads it all the same."""
    world.source.parent.mkdir(parents=True, exist_ok=True)
    if kind == "fifo":
        os.mkfifo(world.source)
    elif kind == "endless":
        world.source.symlink_to("/dev/zero")
    else:
        world.source.write_bytes(b"x" * (2 << 20))
    login = world.login()
    with trio.fail_after(5):
        await login.prepare()
    assert list(login.folder.iterdir()) == []
    assert login.hidden == (world.source,)


async def test_without_a_login_there_is_none(world: World) -> None:
    login = world.login()
    await login.prepare()
    assert list(login.folder.iterdir()) == []
    assert login.hidden == ()


@pytest.mark.parametrize("raw", [b"", b"[]", b"{", b"null", b'"x"', b"\xff", b"{}"])
def test_what_is_no_login(raw: bytes) -> None:
    assert without_refresh_tokens(raw) is None


def test_the_margins() -> None:
    """claude renews what ends within 300 s; we ask it to when it does."""
    assert max(module._RENEW) + module._LOOK_EVERY < module._RENEWABLE
