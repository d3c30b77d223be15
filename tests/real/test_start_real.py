"""How a real `claude` comes up: behind a wrapper, with hooks of its user's own, with long texts."""

from __future__ import annotations

import time
from pathlib import Path

import msgspec
import pytest

from cms.config import find_claude, load_settings
from cms.testing.api import serve_api
from cms.testing.script import call, prompt, say
from fleet.kit import ask, make_settings, start, supervising
from real.conftest import World

pytestmark = pytest.mark.real


def wrapper(world: World, *lines: str) -> dict[str, str]:
    """A shell script that stands before claude, as CMS_CLAUDE."""
    path = world.root / "wrapped"
    path.write_text("\n".join(("#!/bin/sh", *lines, "")))
    path.chmod(0o755)
    return {"CMS_CLAUDE": str(path)}


def test_a_wrapper_may_write_before_claude_does(world: World, claude: str) -> None:
    env = wrapper(
        world,
        r"printf '\\033]0;claude\\007\\357\\273\\277Loading {profile} ... '",
        f'exec {claude} "$@"',
    )
    ran = world.cms("delegate", "one", prompt("Hello", say("hi there")), env=env)
    assert ran.code == 0, ran
    assert "hi there" in ran.out


def test_what_a_wrapper_says_is_told_when_nothing_starts(world: World, claude: str) -> None:
    env = wrapper(world, "printf 'Please run /login'", "exit 1")
    ran = world.cms("delegate", "one", prompt("Hello", say("hi there")), env=env)
    assert ran.code == 1, ran
    assert "Please run /login" in ran.out


async def test_long_texts_and_secrets_reach_claude_and_not_its_argv(tmp_path: Path) -> None:
    secret = "token-of-mine"
    long = "Remember the milk. " * 10_000
    async with serve_api() as api:
        settings = make_settings(tmp_path, claude=find_claude(load_settings()), environ=api.env(), grace=5.0)
        async with supervising(settings, within=90) as supervisor:
            await start(
                supervisor,
                system_prompt=f"You are {long}",
                append_system_prompt=f"And {long}",
                settings=f'{{"env": {{"MINE": "{secret}"}}, "x": "{long}"}}',
                mcp_config=(f'{{"mcpServers": {{}}, "note": "{secret}"}}',),
            )
            reply = await ask(
                supervisor,
                "one",
                prompt("Go", call("Bash", command="echo $MINE > told"), say("ok")),
            )
            assert reply.text == "ok", reply.error
            argv = (Path("/proc") / str(reply.pid) / "cmdline").read_bytes()
        asked = [request for request in api.requests if not request.side]
        assert f"You are {long}".strip() in asked[0].system
        assert f"And {long}".strip() in asked[0].system
    assert (tmp_path / "work" / "told").read_text() == f"{secret}\n"
    assert b"--settings=" in argv
    assert secret.encode() not in argv
    assert b"milk" not in argv


def start_hook(world: World, command: str) -> None:
    """A hook of the user's own that runs when claude starts."""
    (world.home / ".claude").mkdir()
    hooks = {"SessionStart": [{"hooks": [{"type": "command", "command": command}]}]}
    (world.home / ".claude" / "settings.json").write_bytes(msgspec.json.encode({"hooks": hooks}))


@pytest.mark.own_daemon
def test_hooks_of_the_user_may_take_longer_than_claude_gets(world: World) -> None:
    start_hook(world, "sleep 7")
    child = world.start("delegate", "one", prompt("Hello", say("hi there")), env={"CMS_START_TIMEOUT": "6"})
    told = ""
    while child.poll() is None and "its own hook runs" not in told:
        time.sleep(0.05)
        told = world.cms("status", "one", "--json").out
    assert "claude is starting: its own hook runs (SessionStart:startup)" in told
    out, err = child.communicate(timeout=60)
    assert child.returncode == 0, (out, err)


def test_limits_hold_while_the_users_hooks_run(world: World) -> None:
    start_hook(world, "sleep 600")
    begun = time.monotonic()
    ran = world.cms("delegate", "one", prompt("Hello", say("hi there")), "--max-time", "4s")
    assert time.monotonic() - begun < 20
    assert ran.code == 6, ran
    assert "never sent: 4 s are over, and claude is starting: its own hook runs" in ran.out
