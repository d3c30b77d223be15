"""A repository runs nothing that was not trusted, and what was asked for is in force or an error.

What of a repository reaches the real binary is tried in tests/protection; here it is what a person sees.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from cli.shell import Ran
from cms.testing.script import call, prompt, say
from real.conftest import World

pytestmark = pytest.mark.real


@pytest.fixture
def ran(world: World) -> Path:
    """Where what runs of the repository leaves its name."""
    folder = world.root / "ran"
    folder.mkdir()
    project = world.work_dir
    subprocess.run(["git", "init", "-q", str(project)], check=True)
    (project / ".claude/skills/power").mkdir(parents=True)
    (project / "hook.sh").write_text(f"touch {folder}/hook\n")
    settings = {
        "hooks": {
            event: [{"hooks": [{"type": "command", "command": "sh ./hook.sh"}]}]
            for event in ("SessionStart", "PreToolUse")
        },
        "enableAllProjectMcpServers": True,
        "permissions": {"allow": ["Bash(touch:*)"]},
    }
    (project / ".claude/settings.json").write_text(json.dumps(settings))
    servers = {"inside": {"command": "sh", "args": ["-c", f"touch {folder}/server"]}}
    (project / ".mcp.json").write_text(json.dumps({"mcpServers": servers}))
    (project / ".claude/skills/power/SKILL.md").write_text(
        f"---\nname: power\ndescription: p\nallowed-tools: Bash(*)\n---\n!`touch {folder}/skill`\n"
    )
    return folder


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


LOOK = prompt("Look around.", call("Bash", command="ls"), say("Done."))


def delegate(world: World, name: str, *flags: str) -> Ran:
    return world.cms("delegate", name, LOOK, "--json", *EVIDENCE, str(world.root / "ran"), *flags)


#: What runs could write there: else it would leave no trace whether it ran or not.
EVIDENCE = ("--allow-write",)


def reasons(result: Ran) -> str:
    return " | ".join(str(one) for one in result.json()["reasons"])  # type: ignore[attr-defined]


def test_a_repository_runs_what_its_user_trusts_as_long_as_it_is_that(world: World, ran: Path) -> None:
    project = world.work_dir.resolve()
    delegate(world, "alone", "--trust-project")
    assert names(ran) == {"hook", "server"}
    for path in ran.iterdir():
        path.unlink()
    # One session's trust is that session's alone. A batch says once what was left out.
    tasks = world.root / "tasks.json"
    tasks.write_text(json.dumps([{"name": name, "prompt": LOOK} for name in ("first", "other")]))
    batch = world.cms("batch", "--file", str(tasks), *EVIDENCE, str(ran), timeout=120)
    told = batch.out + batch.err
    assert names(ran) == set()
    assert told.count("not loaded from") == 1, batch
    assert f"not loaded from {project} (not trusted): 2 hooks, MCP server inside, skill" in told
    assert f"`cms trust {project}`" in told
    assert "permission rules" in told
    assert "not loaded from" in world.cms("status", "first").out
    assert "left out" in world.cms("audit", "first").out

    shown = world.cms("trust")
    assert shown.code == 1
    assert "sh ./hook.sh" in shown.out
    assert world.cms("trust", "--yes", "--json").json()["trusted"] is True
    second = delegate(world, "second")
    assert names(ran) == {"hook", "server"}
    assert "not trusted" not in reasons(second)

    for path in ran.iterdir():
        path.unlink()
    (project / "hook.sh").write_text(f"touch {ran}/other\n")
    third = delegate(world, "third")
    assert names(ran) == set()
    assert "(changed since it was trusted)" in reasons(third)
    assert third.json()["receipt"]["walls"]["leftOut"]  # type: ignore[index]
    assert "[changed]" in world.cms("trust").out
    assert "CHANGED" in world.cms("trust", "--list").out
    assert world.cms("trust", "--remove").code == 0


SERVERS = {"gone": {"command": "/no/such/server"}, "s": {"command": 3}}


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (
            ("--settings", '{"permissions": {"deny": ["Bash("]}, "hooks": 5}'),
            ("claude rejects the deny rule 'Bash('", "claude rejects the value of 'hooks'"),
        ),
        (("--settings", "{no json"), ("not a JSON",)),
        (
            ("--agent=revewer", "--effort=turbo", "--mcp-config", json.dumps({"mcpServers": SERVERS})),
            (
                "--agent: there is no 'revewer'",
                "--effort turbo is not in effect",
                "the server 'gone' is failed",
                "claude does not know the server 's'",
            ),
        ),
    ],
)
def test_what_was_asked_for_and_is_not_in_force_is_an_error(
    world: World, flags: tuple[str, ...], told: tuple[str, ...]
) -> None:
    result = delegate(world, "one", *flags)
    assert result.code != 0
    assert [one for one in told if one not in result.out + result.err] == []
    assert "turns" not in result.out or result.json().get("turns", 0) == 0


def test_a_mistake_in_the_users_own_settings_is_told(world: World) -> None:
    (world.home / ".claude").mkdir()
    settings = world.home / ".claude/settings.json"
    settings.write_text(json.dumps({"permissions": {"deny": ["Bash("]}}))
    result = delegate(world, "one")
    assert result.code == 0
    assert "claude rejects the deny rule 'Bash('" in reasons(result)
    settings.write_text("{bad")
    result = delegate(world, "two")
    assert result.code == 0
    assert "settings not in effect" in reasons(result)
