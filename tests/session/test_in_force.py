"""What was asked for by flag and is not in force, from what claude says before the first message."""

from __future__ import annotations

import msgspec
import pytest

from cms.protocol.messages import ServerStatus, SettingsReply
from cms.session.in_force import Expected, Found, check_in_force, is_pending

EMPTY = SettingsReply(sources=())


def reply(**fields: object) -> SettingsReply:
    return msgspec.convert({"sources": [], **fields}, SettingsReply)


def test_nothing_asked_for_is_nothing_against_it() -> None:
    assert check_in_force(Expected(), (), SettingsReply(), ()) == Found()
    assert check_in_force(Expected(), ("a",), EMPTY, ()) == Found()


def test_a_claude_that_says_nothing_has_nothing_against_it() -> None:
    asked = Expected(agent="a", effort="high", settings={"permissions": {"allow": ["x"]}}, servers=("s",))
    assert check_in_force(asked, (), SettingsReply(), None) == Found()


def test_an_agent_that_is_not_there() -> None:
    assert check_in_force(Expected(agent="b"), ("a", "b"), EMPTY, ()) == Found()
    [fault] = check_in_force(Expected(agent="c"), ("b", "a"), EMPTY, ()).faults
    assert fault == "--agent: there is no 'c'; there are a, b"


@pytest.mark.parametrize(
    ("asked", "applied", "faults", "mistakes"),
    [
        ("High", "high", 0, 0),
        ("turbo", "medium", 1, 0),
        ("turbo", "turbo", 0, 0),
        ("max", None, 0, 1),
        ("", "low", 0, 0),
    ],
)
def test_an_effort_that_does_not_exist(asked: str, applied: str | None, faults: int, mistakes: int) -> None:
    found = check_in_force(Expected(effort=asked), (), reply(applied={"effort": applied}), ())
    assert (len(found.faults), len(found.mistakes)) == (faults, mistakes)


def test_settings_that_are_not_taken() -> None:
    errors = [
        {"file": "/scratch/settings.json", "path": "permissions", "message": "Expected object"},
        {"file": "/home/u/.claude/settings.json", "path": "", "message": "Invalid or malformed JSON"},
    ]
    asked = Expected(settings={"permissions": "x"}, settings_file="/scratch/settings.json")
    found = check_in_force(asked, (), reply(errors=errors), ())
    assert found.faults == ("--settings: permissions Expected object",)
    assert found.mistakes == (
        "settings not in effect: /home/u/.claude/settings.json: Invalid or malformed JSON",
    )


def test_rules_that_are_rejected() -> None:
    said = {"permissions": {"allow": ["Bash(", "Read"], "deny": ["("], "defaultMode": "plan"}}
    kept = {"permissions": {"allow": ["Read"], "deny": []}}
    for source, expected in ("flagSettings", Expected(settings=said)), ("userSettings", Expected(user=said)):
        found = check_in_force(expected, (), reply(sources=[{"source": source, "settings": kept}]), ())
        told = found.faults if source == "flagSettings" else found.mistakes
        assert len(told) == 2
        assert "the allow rule 'Bash('" in told[0]
        assert "the deny rule '('" in told[1]
    [fault] = check_in_force(Expected(settings={"permissions": {"ask": ["x"]}}), (), EMPTY, ()).faults
    assert fault == "--settings: claude rejects the ask rule 'x'"


def test_values_that_are_left_out_without_a_word() -> None:
    hook = {"type": "command", "command": "x"}
    said = {"hooks": {"Stop": [{"hooks": [hook, {}]}]}, "effortLevel": "turbo", "model": "opus", "x": None}
    kept = {"hooks": {"Stop": [{"hooks": [hook]}]}, "model": "opus"}
    in_force = reply(sources=[{"source": "flagSettings", "settings": kept}])
    assert check_in_force(Expected(settings=said), (), in_force, ()).faults == (
        "--settings: claude rejects a part of 'hooks'",
        "--settings: claude rejects the value of 'effortLevel'",
    )
    alias: dict[str, object] = {"additionalMarketplaces": {}}
    renamed = reply(sources=[{"source": "flagSettings", "settings": {"extraKnownMarketplaces": {}}}])
    assert check_in_force(Expected(settings=alias), (), renamed, ()) == Found()


def test_servers_that_do_not_start() -> None:
    asked = Expected(servers=("a", "b", "c"))
    servers = [
        ServerStatus("a", "connected"),
        ServerStatus("b", "failed", "ENOENT"),
        ServerStatus("z", "failed"),
    ]
    assert check_in_force(asked, (), EMPTY, servers).faults == (
        "--mcp-config: the server 'b' is failed: ENOENT",
        "--mcp-config: claude does not know the server 'c'",
    )
    assert not is_pending(asked, servers)
    assert is_pending(asked, [ServerStatus("b", "pending")])
    assert not is_pending(asked, [ServerStatus("z", "pending")])


def test_a_claude_that_goes_past_the_wall_is_not_used() -> None:
    sources = [{"source": "projectSettings", "settings": {"hooks": {}, "permissions": {"deny": ["x"]}}}]
    server = ServerStatus("s", "connected", scope="project")
    asked = Expected(project={"permissions": {"deny": ["x"]}})
    found = check_in_force(asked, (), reply(sources=sources), [server])
    assert len(found.breaches) == 2
    trusted = msgspec.structs.replace(asked, project={**asked.project, "hooks": {}}, trusted=True)
    assert not check_in_force(trusted, (), reply(sources=sources), [server]).breaches
    own = [ServerStatus("s", "connected", scope="user"), ServerStatus("t", "pending", scope="project")]
    assert not check_in_force(asked, (), EMPTY, own).breaches


def test_a_server_that_claude_dropped_is_missed_where_it_is_the_only_one() -> None:
    """It leaves out what it cannot read, without a word."""
    (fault,) = check_in_force(Expected(servers=("s",)), (), EMPTY, ()).faults
    assert fault == "--mcp-config: claude does not know the server 's'"
