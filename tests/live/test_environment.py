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
