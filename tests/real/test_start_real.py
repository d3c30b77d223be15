"""How a real `claude` comes up: behind a wrapper, with hooks of its user's own, with long texts."""

from __future__ import annotations

import pytest

from cms.testing.script import prompt, say
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
