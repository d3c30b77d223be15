"""How a real `claude` comes up: behind a wrapper, with hooks of its user's own, with long texts."""

from __future__ import annotations

from pathlib import Path

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
    secret, server = "token-of-mine", "http://127.0.0.1:9/"
    long = "Remember the milk. " * 10_000
    async with serve_api() as api:
        settings = make_settings(tmp_path, claude=find_claude(load_settings()), environ=api.env(), grace=5.0)
        async with supervising(settings, within=90) as supervisor:
            await start(
                supervisor,
                system_prompt=f"You are {long}",
                append_system_prompt=f"And {long}",
                settings=f'{{"env": {{"MINE": "{secret}"}}, "x": "{long}"}}',
                mcp_config=(f'{{"mcpServers": {{"door": {{"type": "http", "url": "{server}{secret}"}}}}}}',),
            )
            reply = await ask(
                supervisor,
                "one",
                prompt("Go", call("Bash", command="echo $MINE > told"), say("ok")),
            )
            argv = (Path("/proc") / str(reply.pid) / "cmdline").read_bytes()
            assert reply.text == "ok"
        asked = [request for request in api.requests if not request.side]
        assert f"You are {long}".strip() in asked[0].system
        assert f"And {long}".strip() in asked[0].system
    assert (tmp_path / "work" / "told").read_text() == f"{secret}\n"
    assert b"--settings=" in argv
    assert secret.encode() not in argv
    assert b"milk" not in argv
