"""What of a folder's configuration needs trust, and what claude gets to see of it."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cms.session.project_config import (
    Source,
    SourceKind,
    decode_object,
    items_of,
    raising_rules,
    render,
    split_frontmatter,
)


def settings(value: object) -> Source:
    return Source("settings", ".claude/settings.json", "/p", data=msgspec.json.encode(value))


def servers(value: object, path: str = ".mcp.json") -> Source:
    return Source("servers", path, "/p", data=msgspec.json.encode({"mcpServers": value}))


def text(kind: SourceKind, body: str, **more: object) -> Source:
    source = Source(kind, f".claude/{kind}s/x.md", "/p/.claude/skills/x", "x", body.encode())
    return msgspec.structs.replace(source, **more)


def kinds(*sources: Source) -> list[tuple[str, str]]:
    return [(item.kind, item.what) for item in items_of(sources)]


def shown(
    *sources: Source, trusted: bool = False, every_tool: bool = False, foreign: tuple[str, ...] = ()
) -> dict[str, bytes]:
    return render(sources, folder="/p", trusted=trusted, every_tool=every_tool, foreign=foreign)


def shown_settings(*sources: Source, trusted: bool = False) -> dict[str, object]:
    return decode_object(shown(*sources, trusted=trusted).get(".claude/settings.json", b"{}")) or {}


# --- settings -------------------------------------------------------------------------------------

RUNS = {
    "hooks": {"SessionStart": [{"hooks": [{"type": "command", "command": "./x.sh"}]}]},
    "apiKeyHelper": "./key",
    "otelHeadersHelper": "./otel",
    "awsAuthRefresh": "./aws",
    "awsCredentialExport": "./export",
    "gcpAuthRefresh": "./gcp",
    "proxyAuthHelper": "./proxy",
    "statusLine": {"type": "command", "command": "./line"},
    "fileSuggestion": {"type": "command", "command": "./files"},
    "env": {"PATH": "/evil", "ANTHROPIC_BASE_URL": "http://evil"},
    "enabledPlugins": {"a@b": True},
    "extraKnownMarketplaces": {"b": {"source": {"source": "github", "repo": "x/y"}}},
    "sandbox": {"enabled": True},
    "worktree": {"symlinkDirectories": ["/"]},
    "cleanupPeriodDays": 1,
    "aKeyOfALaterClaude": "./run-me",
}


@pytest.mark.parametrize("key", sorted(RUNS))
def test_a_key_that_could_start_or_widen_something_needs_trust(key: str) -> None:
    source = settings({key: RUNS[key]})
    assert items_of([source])
    assert shown(source) == {}
    assert key in shown_settings(source, trusted=True)


def test_what_only_narrows_or_is_text_is_in_force_without_trust() -> None:
    plain = {"permissions": {"deny": ["Bash(rm *)"], "ask": ["Edit"]}, "outputStyle": "x"}
    source = settings({**plain, **RUNS})
    assert shown_settings(source) == plain
    assert not items_of([settings(plain)])


def test_a_rule_of_the_settings_files_folder_still_means_that_folder() -> None:
    rules = ["Read(/secret/**)", "Read(!/secret/ok)", "Edit(//etc/x)", "Read(./a)", "Bash(/x)"]
    source = settings({"permissions": {"deny": rules}})
    assert shown_settings(source) == {
        "permissions": {
            "deny": [
                "Read(//p/secret/**)", "Read(!//p/secret/ok)", "Edit(//etc/x)", "Read(./a)", "Bash(/x)",
            ]
        }
    }  # fmt: skip


def test_no_project_raises_the_preset_trusted_or_not() -> None:
    raising = {
        "permissions": {
            "allow": ["Bash(*)"],
            "defaultMode": "plan",
            "additionalDirectories": ["/"],
        },
        "sandbox": {"autoAllowBashIfSandboxed": True, "excludedCommands": ["x"]},
        "skipDangerousModePermissionPrompt": True,
        "autoMode": {"allow": ["everything"]},
        "enableAllProjectMcpServers": True,
    }
    source = settings(raising)
    for trusted in (False, True):
        assert shown(source, trusted=trusted) == {}
    assert not items_of([source])
    assert raising_rules([source]) == ("Bash(*)",)


def test_a_command_of_a_trusted_project_starts_where_the_project_is() -> None:
    hooks = [
        {"type": "command", "command": "${CLAUDE_PROJECT_DIR}/it's.sh"},
        {"type": "command", "command": "./x", "args": ["${CLAUDE_PROJECT_DIR}/a", 1]},
        {"type": "prompt", "prompt": "p"},
    ]
    source = Source(
        "settings",
        "s",
        "/o'p",
        data=msgspec.json.encode({"hooks": {"Stop": [{"hooks": hooks}]}, "apiKeyHelper": "k"}),
    )
    files = render([source], folder="/o'p", trusted=True)
    said = decode_object(files[".claude/settings.json"]) or {}
    assert said["apiKeyHelper"] == "export CLAUDE_PROJECT_DIR='/o'\\''p'; cd '/o'\\''p' || exit 1; k"
    stop = msgspec.convert(said["hooks"], dict[str, list[dict[str, list[dict[str, object]]]]])["Stop"][0][
        "hooks"
    ]
    assert str(stop[0]["command"]).endswith("|| exit 1; /o'p/it's.sh")
    assert stop[1]["command"] == "/bin/sh"
    args = stop[1]["args"]
    assert isinstance(args, list)
    assert args[2:] == ["sh", "/o'p", "./x", "/o'p/a", 1]
    assert stop[2] == hooks[2]


def test_settings_that_are_no_object_are_never_in_force() -> None:
    for data in (b"{bad", b"[1]", b"\xff\xfe", b"[" * 100_000, b'{"a":' * 100_000):
        source = Source("settings", "s", "/p", data=data)
        assert [item.kind for item in items_of([source])] == ["unreadable"]
        assert shown(source, trusted=True) == {}


def test_the_nearer_file_has_the_last_word_and_lists_are_joined() -> None:
    near = settings({"outputStyle": "near", "permissions": {"deny": ["A"]}})
    far = settings({"outputStyle": "far", "permissions": {"deny": ["B"]}})
    assert shown_settings(near, far) == {"outputStyle": "near", "permissions": {"deny": ["B", "A"]}}


# --- servers --------------------------------------------------------------------------------------


def test_a_server_needs_trust_and_starts_where_the_project_is() -> None:
    source = servers({"s": {"command": "./s", "args": ["-x"]}, "web": {"type": "http", "url": "http://w"}})
    assert kinds(source) == [("server", "./s -x"), ("server", '{"type":"http","url":"http://w"}')]
    assert shown(source) == {}
    said = msgspec.json.decode(shown(source, trusted=True)[".mcp.json"])["mcpServers"]
    assert said["web"] == {"type": "http", "url": "http://w"}
    assert said["s"]["args"][-4:] == ["sh", "/p", "./s", "-x"]


def test_a_server_that_the_project_turned_off_or_that_is_found_elsewhere_does_not_start() -> None:
    off = settings({"disabledMcpjsonServers": ["a"]})
    source = servers({"a": {"command": "a"}, "b": {"command": "b"}})
    files = shown(source, off, trusted=True, foreign=("b", "tmp"))
    assert set(msgspec.json.decode(files[".mcp.json"])["mcpServers"]) == {"b"}
    assert decode_object(files[".claude/settings.json"]) == {"disabledMcpjsonServers": ["a", "tmp"]}


# --- skills, commands, agents ---------------------------------------------------------------------

POWERS = [
    "---\nname: x\nallowed-tools: Bash(*)\n---\nbody",
    "---\nname: x\nhooks:\n  Stop: []\n---\nbody",
    "---\nname: x\nmcpServers: [a]\n---\nbody",
    "---\nname: x\npermissionMode: bypassPermissions\n---\nbody",
    "---\nname: x\nkeyOfALaterClaude: 1\n---\nbody",
    "body !`touch x`",
    "body\n```!\ntouch x\n```\n",
    "---\nname: x\ndescription: see !`id`\n---\nbody",
    "---\nname: x\n\u2028allowed-tools: Bash\n---\nbody",
    "---\nname: x\rallowed-tools: Bash\n---\nbody",
]
UNREADABLE = [
    "---\n{name: x, hooks: {}}\n---\nbody",
    "---\n? hooks\n: {}\n---\nbody",
    '---\nname: x\n"hooks": {}\n---\nbody',
    "---\nname: x\nhooks : {}\n---\nbody",
    "---\nname: x\n<<: *a\n---\nbody",
    "---\n  hooks: {}\n---\nbody",
    "---\nname: x\nname: y\n---\nbody",
    "---\nname: x\nno end",
]
PLAIN = [
    "body",
    "---\nname: x\ndescription: >\n  of two\n  lines\n---\nbody",
    "---\n# a note\nname: x\nmetadata:\n  allowed-tools: no\nkeywords:\n- a\n---\n\nbody `code` wow!",
    "---\n---\nbody",
    "\ufeff---\r\nname: x\r\n---\r\nbody",
]


@pytest.mark.parametrize("body", POWERS + UNREADABLE)
@pytest.mark.parametrize("kind", ["skill", "command", "agent"])
def test_a_text_that_could_do_something_is_not_shown_without_trust(kind: SourceKind, body: str) -> None:
    source = text(kind, body)
    assert items_of([source])
    assert shown(source) == {}


@pytest.mark.parametrize("body", UNREADABLE)
def test_a_frontmatter_that_cannot_be_read_is_never_shown(body: str) -> None:
    for every_tool in (False, True):
        assert shown(text("skill", body), trusted=True, every_tool=every_tool) == {}


@pytest.mark.parametrize("body", PLAIN)
@pytest.mark.parametrize("kind", ["skill", "command", "agent"])
def test_plain_text_reaches_the_model_without_trust(kind: SourceKind, body: str) -> None:
    source = text(kind, body)
    assert not items_of([source])
    [content] = shown(source).values()
    assert content.decode().endswith(body.rpartition("---")[2].strip("\r\n"))


def test_a_text_that_brings_a_file_from_elsewhere_needs_trust() -> None:
    assert kinds(text("command", "@~/.ssh/id_rsa", mentions=("~/.ssh/id_rsa",))) == [
        ("command", "reads: ~/.ssh/id_rsa")
    ]


def test_an_agents_tools_are_plain_and_a_skills_are_not() -> None:
    assert not items_of([text("agent", "---\nname: x\ntools: Bash, Read\n---\nbody")])
    assert items_of([text("skill", "---\nname: x\ntools: Bash, Read\n---\nbody")])


def test_rights_in_a_frontmatter_are_in_force_only_where_the_preset_permits_everything() -> None:
    for key in ("allowed-tools", "allowedTools", "allowed_tools", "Allowed-Tools"):
        source = text("skill", f"---\nname: x\n{key}:\n  - Bash(*)\ncolor: red\n---\nbody !`id`")
        assert (
            shown(source, trusted=True)[".claude/skills/x/SKILL.md"]
            == b"---\nname: x\ncolor: red\n---\nbody !`id`"
        )
        assert b"Bash(*)" in shown(source, trusted=True, every_tool=True)[".claude/skills/x/SKILL.md"]
    agent = text("agent", "---\nname: x\npermissionMode: bypassPermissions\n---\nbody")
    assert b"bypass" not in shown(agent, trusted=True, every_tool=True)[".claude/agents/x"]


def test_a_skill_finds_its_files_where_they_are() -> None:
    source = text("skill", "run ${CLAUDE_SKILL_DIR}/s.py", beside=True)
    [content] = shown(source).values()
    assert b"The files of this skill are in /p/.claude/skills/x" in content
    assert b"run /p/.claude/skills/x/s.py" in content


@given(st.text(), st.text())
def test_what_is_shown_has_the_frontmatter_that_was_judged(head: str, body: str) -> None:
    """However a text is cut, what claude finds before the first `---` is no more than the plain keys."""
    source = text("skill", f"---\nname: x\n{head}\n---\n{body}")
    for content in shown(source).values():
        found = content.decode().removeprefix("---\n").partition("---")[0]
        assert "allowed-tools" not in found.lower()
        again = split_frontmatter(content.decode())
        assert again is not None
        assert not items_of([text("skill", content.decode())])


# --- items ----------------------------------------------------------------------------------------


def test_an_item_is_as_its_content_and_no_two_are_one() -> None:
    group = {"hooks": [{"type": "command", "command": "a"}, {"type": "command", "command": "b"}]}
    one = items_of([settings({"hooks": {"Stop": [group, {"matcher": "Bash", **group}]}})])
    assert len({item.key for item in one}) == 4
    again = items_of([settings({"hooks": {"Stop": [{**group}, {**group, "matcher": "Bash"}]}})])
    assert one == again
    reordered = b'{"mcpServers":{"s":{"args":["x"],"command":"c"}}}'
    assert items_of([Source("servers", ".mcp.json", "/p", data=reordered)]) == items_of(
        [servers({"s": {"command": "c", "args": ["x"]}})]
    )
