"""What of our environment a session gets: what its work needs, nothing of ours, nor what a person denies."""

from __future__ import annotations

from cms.live.argv import build_environment

OURS = {
    "PATH": "/bin",
    "HOME": "/home/u",
    "ANTHROPIC_API_KEY": "k",
    "GITHUB_TOKEN": "t",
    "AWS_PROFILE": "p",
    "AWS_SECRET_ACCESS_KEY": "s",
    "CMS_HOME": "/cms",
    "CMS_CLAUDE": "/claude",
    "CLAUDECODE": "1",
    "CLAUDE_CODE_ENTRYPOINT": "cli",
    "CLAUDE_CODE_OAUTH_TOKEN": "o",
}


def test_what_the_work_needs_is_there_and_nothing_of_ours() -> None:
    child = build_environment(OURS)
    assert {name for name in OURS if name not in child} == {
        "CMS_HOME", "CMS_CLAUDE", "CLAUDECODE", "CLAUDE_CODE_ENTRYPOINT"
    }  # fmt: skip
    assert not any(name.startswith("CMS_") for name in child)


def test_what_a_person_denies_is_not_there() -> None:
    child = build_environment(OURS, deny=("AWS_*", "GITHUB_TOKEN", "path"))
    assert "PATH" in child
    assert not {"AWS_PROFILE", "AWS_SECRET_ACCESS_KEY", "GITHUB_TOKEN"} & set(child)


#: Set by people and administrators; one of each kind that was lost when only known names were kept.
USERS = (
    "CLAUDE_CODE_ENABLE_TELEMETRY", "CLAUDE_CODE_OTEL_HEADERS_HELPER_DEBOUNCE_MS",
    "CLAUDE_CODE_PROXY_RESOLVES_HOSTS",
    "CLAUDE_CODE_MAX_OUTPUT_TOKENS", "CLAUDE_CODE_AUTO_COMPACT_WINDOW", "CLAUDE_CODE_DISABLE_AUTO_MEMORY",
    "CLAUDE_CODE_MAX_RETRIES", "CLAUDE_CODE_RETRY_WATCHDOG", "CLAUDE_CODE_GIT_BASH_PATH",
    "CLAUDE_CODE_EXTRA_BODY",
    "CLAUDE_CODE_OAUTH_TOKEN", "CLAUDE_CODE_USE_BEDROCK", "CLAUDE_CODE_SUBAGENT_MODEL", "CLAUDE_CONFIG_DIR",
    "CLAUDE_BASH_MAINTAIN_PROJECT_WORKING_DIR", "TRACEPARENT",
)  # fmt: skip
#: What a shell of claude 2.1.332 has that its starter's environment had not, less what any program gets.
A_PARENTS = (
    "AI_AGENT", "CLAUDECODE", "CLAUDE_CODE_CHILD_NOTES_DIR", "CLAUDE_CODE_CHILD_SESSION",
    "CLAUDE_CODE_ENTRYPOINT",
    "CLAUDE_CODE_EXECPATH", "CLAUDE_CODE_MESSAGING_SOCKET", "CLAUDE_CODE_MESSAGING_TOKEN",
    "CLAUDE_CODE_SESSION_ATTENDED", "CLAUDE_CODE_SESSION_ID", "CLAUDE_EFFORT", "CLAUDE_PID",
)  # fmt: skip


def test_a_users_own_variables_reach_claude_and_a_parents_do_not() -> None:
    child = build_environment(dict.fromkeys((*USERS, *A_PARENTS), "x"))
    assert [name for name in USERS if name not in child] == []
    assert [name for name in A_PARENTS if name in child] == []
