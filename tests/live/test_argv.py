"""What a person chose, as argv and environment of `claude`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cms.live.argv import ARRANGEMENTS, build_command, build_environment
from cms.protocol.tools import AGENT_TOOLS, OWN_TOOLS, PLAN_TOOL, QUESTION_TOOL, READ_TOOLS, WRITE_TOOLS
from cms.session.model import PRESETS, Preset, SessionOptions

CLAUDE = ("/opt/claude", "--first")
ID = "00000000-0000-4000-8000-000000000001"
OPTIONS = SessionOptions(name="n", work_dir="/w")
FOLDER = Path("/config")


def argv_of(
    changes: Mapping[str, object] | None = None,
    *,
    resume: str = "",
    fork: bool = False,
    budget: float | None = None,
    turns: int | None = None,
) -> list[str]:
    """The argv, as it would be if texts could stand in it."""
    options = msgspec.structs.replace(OPTIONS, **(changes or {}))
    command = build_command(
        CLAUDE, options, folder=FOLDER, session_id=ID, resume=resume, fork=fork, budget=budget, turns=turns
    )
    texts = {str(path): data.decode() for path, data in command.files.items()}
    told = []
    for word in command.argv:
        flag, _, value = word.partition("=")
        if value in texts:
            word = f"{flag.removesuffix('-file')}={texts.pop(value)}"
        told.append(word)
    assert not texts, "files that nothing names"
    return told


def values(argv: list[str], flag: str) -> list[str]:
    """The values that a flag was given, each in the form `--flag=value`."""
    return [word.removeprefix(f"{flag}=") for word in argv if word.startswith(f"{flag}=")]


def test_it_begins_with_the_binary_and_speaks_the_protocol() -> None:
    argv = argv_of()
    assert argv[: len(CLAUDE)] == list(CLAUDE)
    for word in ("-p", "--verbose", "--include-partial-messages"):
        assert word in argv
    assert values(argv, "--input-format") == values(argv, "--output-format") == ["stream-json"]
    assert values(argv, "--permission-prompt-tool") == ["stdio"]


@pytest.mark.parametrize(
    ("changes", "flag", "expected"),
    [
        ({"model": "opus"}, "--model", ["opus"]),
        ({"permission_mode": "acceptEdits"}, "--permission-mode", ["acceptEdits"]),
        ({"allowed_tools": ("Bash(git *)", "Read")}, "--allowedTools", ["Bash(git *)", "Read"]),
        ({"disallowed_tools": ("WebFetch",)}, "--disallowedTools", ["WebFetch"]),
        ({"system_prompt": "be\nbrief"}, "--system-prompt", ["be\nbrief"]),
        ({"append_system_prompt": "too"}, "--append-system-prompt", ["too"]),
        ({"agent": "reviewer"}, "--agent", ["reviewer"]),
        ({"fallback_model": "haiku"}, "--fallback-model", ["haiku"]),
        ({"effort": "high"}, "--effort", ["high"]),
        ({"settings": '{"a":1}'}, "--settings", ['{"a":1}']),
        ({"add_dirs": ("/a", "/b")}, "--add-dir", ["/a", "/b"]),
        ({"mcp_config": ('{"mcpServers":{}}',)}, "--mcp-config", ['{"mcpServers":{}}']),
        ({"budget": 1.5}, "--max-budget-usd", ["1.500000"]),
        ({"turns": 7}, "--max-turns", ["7"]),
    ],
)
def test_each_option_has_its_flag_and_only_when_chosen(
    changes: Mapping[str, object], flag: str, expected: list[str]
) -> None:
    arguments = dict(changes)
    budget, turns = arguments.pop("budget", None), arguments.pop("turns", None)
    assert budget is None or isinstance(budget, float)
    assert turns is None or isinstance(turns, int)
    assert values(argv_of(arguments, budget=budget, turns=turns), flag) == expected
    if flag not in ("--model", "--permission-mode"):
        assert not [word for word in argv_of() if word.startswith(flag)]


def test_no_text_no_settings_and_no_token_stand_in_argv() -> None:
    secret = "hunter2" * 30_000
    options = msgspec.structs.replace(
        OPTIONS,
        system_prompt=secret,
        append_system_prompt=secret,
        settings=f' {{"env": {{"TOKEN": "{secret}"}}}}',
        mcp_config=(f'{{"mcpServers": {{"a": {{"url": "{secret}"}}}}}}',),
        delegated=True,
    )
    command = build_command(CLAUDE, options, folder=FOLDER, session_id=ID, server=("python", "-m", "cms"))
    assert "hunter2" not in " ".join(command.argv)
    assert sum(data.decode().count(secret) for data in command.files.values()) == 4
    assert {path.parent for path in command.files} == {FOLDER}
    servers = [str(path) for path in command.files if path.name.startswith("mcp-")]
    assert len(servers) == 2
    assert values(list(command.argv), "--mcp-config") == servers


def test_new_resumed_and_forked_conversations() -> None:
    new, resumed, forked = argv_of(), argv_of(resume="R"), argv_of(resume="R", fork=True)
    assert (values(new, "--session-id"), values(new, "--resume")) == ([ID], [])
    assert (values(resumed, "--session-id"), values(resumed, "--resume")) == ([], ["R"])
    assert (values(forked, "--session-id"), values(forked, "--resume")) == ([ID], ["R"])
    assert "--fork-session" in forked
    assert "--fork-session" not in resumed


_TEXT = st.text(alphabet=st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1)
_FREE = ("model", "system_prompt", "append_system_prompt", "agent", "fallback_model", "effort", "settings")


@given(st.sampled_from(_FREE), st.sampled_from(["-", "--", "--tools=Write", "-p", ""]), _TEXT)
def test_no_value_is_ever_a_word_of_its_own(field: str, dash: str, text: str) -> None:
    """So a value that begins with `-` is not a flag, and a list flag swallows nothing."""
    plain = argv_of({field: "x"})
    told = argv_of({field: dash + text})
    differing = [(was, now) for was, now in zip(plain, told, strict=True) if was != now]
    for was, now in differing:
        flag = was.split("=")[0]
        assert now.startswith(f"{flag}=--" if dash.startswith("--") else f"{flag}=")
    assert len(differing) <= 1


@pytest.mark.parametrize("field", ["allowed_tools", "disallowed_tools", "add_dirs", "mcp_config"])
def test_values_of_lists_with_a_dash_stay_values(field: str) -> None:
    argv = argv_of({field: ("--tools=Write", "-x")})
    assert not {"--tools=Write", "-x"} & set(argv)
    assert sum(word.endswith("=--tools=Write") for word in argv) == 1


# --- presets --------------------------------------------------------------------------------------

_CHANGING = {*WRITE_TOOLS, "Bash", "BashOutput", "KillShell", "WebFetch"}


def test_every_preset_is_arranged() -> None:
    assert set(ARRANGEMENTS) == set(PRESETS)


@pytest.mark.parametrize("preset", ["read-only", "review", "plan"])
@pytest.mark.parametrize("mode", ["", "acceptEdits", "bypassPermissions", "auto"])
def test_a_narrow_preset_has_no_tool_that_changes_anything(preset: Preset, mode: str) -> None:
    (listed,) = values(argv_of({"preset": preset, "permission_mode": mode}), "--tools")
    tools = listed.split(",")
    assert not _CHANGING & set(tools)
    assert set(READ_TOOLS) <= set(tools)


def test_what_the_presets_offer() -> None:
    tools = {preset: set(ARRANGEMENTS[preset].tools or ()) for preset in PRESETS}
    assert not set(AGENT_TOOLS) & tools["read-only"]
    assert set(AGENT_TOOLS) <= tools["review"]
    assert PLAN_TOOL in tools["plan"]
    assert {*WRITE_TOOLS, *READ_TOOLS, *AGENT_TOOLS, *OWN_TOOLS, "Bash"} <= tools["edit"]
    assert all(QUESTION_TOOL in tools[preset] for preset in PRESETS if preset != "full")
    assert values(argv_of({"preset": "full"}), "--tools") == []


@pytest.mark.parametrize("preset", PRESETS)
def test_no_preset_uses_a_mode_that_fails_open(preset: Preset) -> None:
    (mode,) = values(argv_of({"preset": preset}), "--permission-mode")
    assert mode in ("manual", "plan", "dontAsk")


def test_a_mode_that_a_person_names_replaces_the_default_arrangement() -> None:
    argv = argv_of({"permission_mode": "bypassPermissions"})
    assert values(argv, "--permission-mode") == ["bypassPermissions"]
    assert values(argv, "--tools") == []


def test_a_delegated_session_is_told_that_nobody_watches() -> None:
    (told,) = values(
        argv_of({"delegated": True, "append_system_prompt": "Mine first."}), "--append-system-prompt"
    )
    assert told.startswith("Mine first.\n\n")
    assert "unattended" in told
    (review,) = values(argv_of({"preset": "review"}), "--append-system-prompt")
    assert "Change nothing" in review


# --- environment ----------------------------------------------------------------------------------


def test_what_a_parent_and_we_set_is_cut_and_what_a_user_set_stays() -> None:
    kept = {
        "PATH": "/bin",
        "HOME": "/h",
        "ANTHROPIC_API_KEY": "k",
        "ANTHROPIC_BASE_URL": "http://localhost",
        "CLAUDE_CONFIG_DIR": "/c",
        "CLAUDE_CODE_OAUTH_TOKEN": "t",
        "CLAUDE_CODE_USE_BEDROCK": "1",
        "CLAUDE_CODE_NEW_AND_UNKNOWN": "1",
        "IS_SANDBOX": "1",
        "AWS_PROFILE": "p",
        "NOT_CMS_X": "1",
    }
    cut = {
        "CLAUDECODE": "1",
        "CLAUDE_CODE_ENTRYPOINT": "cli",
        "CLAUDE_CODE_SSE_PORT": "1",
        "CMS_HOME": "/s",
        "CMS_CLAUDE": "/x",
        "CMS_ANYTHING": "1",
    }
    given_environment = {**kept, **cut}
    child = build_environment(given_environment)
    assert {key: child[key] for key in kept} == kept
    assert not set(cut) & set(child)
    assert set(child) - set(kept) == {*TELLS_STATE, "DISABLE_AUTOUPDATER"}
    assert all(child[name] == "1" for name in TELLS_STATE)
    assert given_environment == {**kept, **cut}


#: The two names, of newer and of older versions, of what makes claude say `idle`.
TELLS_STATE = ("CLAUDE_CODE_SDK_READS_SESSION_STATE", "CLAUDE_CODE_EMIT_SESSION_STATE_EVENTS")


def test_the_state_lines_cannot_be_switched_off_but_updates_can_be_chosen() -> None:
    child = build_environment({**dict.fromkeys(TELLS_STATE, "0"), "DISABLE_AUTOUPDATER": "0"})
    assert child == {**dict.fromkeys(TELLS_STATE, "1"), "DISABLE_AUTOUPDATER": "0"}


_NAMES = st.sampled_from(["CMS_", "CLAUDE_CODE_", "CLAUDECODE", "CLAUDE_", "X"]).flatmap(
    lambda head: st.text("ABC_", max_size=3).map(lambda tail: head + tail)
)


@given(st.dictionaries(_NAMES, st.text(max_size=3)))
def test_nothing_is_invented_and_nothing_of_ours_leaks(environ: dict[str, str]) -> None:
    child = build_environment(environ)
    ours = {*TELLS_STATE, "DISABLE_AUTOUPDATER"}
    assert set(child) - ours <= set(environ)
    assert not [key for key in child if key.startswith("CMS_") or key == "CLAUDECODE"]
    assert all(child[key] == environ[key] for key in set(child) - ours)


def test_what_may_not_be_read_is_a_rule_of_claudes_own() -> None:
    unreadable = (".env", "keys/**", "/home/u/a[1]", "a/*.pem")
    command = build_command(CLAUDE, OPTIONS, folder=FOLDER, session_id=ID, unreadable=unreadable)
    assert values(list(command.argv), "--disallowedTools") == [
        *("Read(//**/.env)", "Read(//**/.env/**)"),
        *("Read(//**/keys)", "Read(//**/keys/**)"),
        *("Read(//home/u/a\\[1\\])", "Read(//home/u/a\\[1\\]/**)"),
        *("Read(//**/a/*.pem)", "Read(//**/a/*.pem/**)"),
    ]


@pytest.mark.parametrize("settings", ["", '{"a":1,"permissions":{"deny":["Read(x)"],"ask":["y"]}}'])
def test_rules_that_no_argv_can_hold_are_settings(settings: str) -> None:
    allowed, refused = (f"Bash(echo {'y' * 200_000})",), ("WebFetch",)
    argv = argv_of({"allowed_tools": allowed, "disallowed_tools": refused, "settings": settings})
    assert not any(word.startswith(("--allowedTools", "--disallowedTools")) for word in argv)
    (told,) = values(argv, "--settings")
    said = msgspec.json.decode(told, type=dict[str, Any])
    before = ["Read(x)"] if settings else []
    assert said["permissions"]["allow"] == list(allowed)
    assert said["permissions"]["deny"] == [*before, *refused]
    assert said.get("a") == (1 if settings else None)
