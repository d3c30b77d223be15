"""Settings from the environment, and where `claude` is found."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cms.config import Settings, find_claude, load_settings
from cms.errors import ClaudeNotFound, UsageError


def executable(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return path


def settings_of(**environ: str) -> Settings:
    return Settings(home=Path("/h"), environ=environ)


def test_defaults() -> None:
    settings = load_settings({})
    assert settings.home == Path("~/.claude-multi-session").expanduser()
    assert settings == Settings(home=settings.home)


def test_everything_lives_below_the_home() -> None:
    settings = load_settings({"CMS_HOME": "/somewhere"})
    for place in (settings.socket, settings.lock, settings.log, settings.database, settings.raw):
        assert place.parent == Path("/somewhere")


@pytest.mark.parametrize(
    ("home", "expected"),
    [
        ("/a/../b", "/b"),
        ("~/x", str(Path("~/x").expanduser())),
        ("rel/../other", str(Path.cwd() / "other")),
        ("", str(Path("~/.claude-multi-session").expanduser())),
    ],
)
def test_the_home_is_absolute(home: str, expected: str) -> None:
    assert str(load_settings({"CMS_HOME": home}).home) == expected


def test_the_home_may_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    assert load_settings({"CMS_HOME": str(tmp_path / "link")}).home == tmp_path / "link"


@pytest.mark.parametrize(
    ("variable", "field", "text", "value"),
    [
        ("CMS_MAX_LINE", "max_line", "1000", 1000),
        ("CMS_MAX_RAW_LOG", "max_raw_log", "1000", 1000),
        ("CMS_IDLE_EXIT", "idle_exit", "1.5", 1.5),
        ("CMS_IDLE_EXIT", "idle_exit", "0", None),
        ("CMS_IDLE_EXIT", "idle_exit", "never", None),
        ("CMS_START_TIMEOUT", "start_timeout", "2", 2.0),
        ("CMS_GRACE", "grace", ".25", 0.25),
        ("CMS_CONTAINMENT", "containment", "none", "none"),
    ],
)
def test_each_variable_sets_its_field_alone(
    variable: str, field: str, text: str, value: float | str | None
) -> None:
    settings, default = load_settings({variable: text}), load_settings({})
    assert getattr(settings, field) == value
    others = set(Settings.__struct_fields__) - {field, "environ"}
    assert all(getattr(settings, one) == getattr(default, one) for one in others)


_NUMBERS = ["CMS_MAX_LINE", "CMS_MAX_RAW_LOG", "CMS_IDLE_EXIT", "CMS_START_TIMEOUT", "CMS_GRACE"]


@pytest.mark.parametrize("variable", _NUMBERS)
@pytest.mark.parametrize("text", ["-1", "nan", "inf", "-inf", "1e999", "ten", " ", "1,5", "0x10", "-0"])
def test_what_cannot_be_meant_is_refused_by_name(variable: str, text: str) -> None:
    with pytest.raises(UsageError) as caught:
        load_settings({variable: text})
    assert variable in str(caught.value)
    assert repr(text) in str(caught.value)


@pytest.mark.parametrize("variable", _NUMBERS)
def test_an_empty_variable_is_none(variable: str) -> None:
    assert load_settings({variable: ""}) == Settings(home=load_settings({}).home, environ={variable: ""})


@given(st.sampled_from(_NUMBERS), st.text(max_size=8))
def test_any_text_gives_settings_or_a_usage_error(variable: str, text: str) -> None:
    try:
        load_settings({variable: text})
    except UsageError:
        pass


def test_the_environment_is_a_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CMS_TEST_ONLY", "1")
    settings = load_settings()
    assert settings.environ["CMS_TEST_ONLY"] == "1"
    monkeypatch.setenv("CMS_TEST_ONLY", "2")
    assert settings.environ["CMS_TEST_ONLY"] == "1"


# --- claude ---------------------------------------------------------------------------------------


def test_what_was_given_is_taken_as_it_is() -> None:
    assert find_claude(Settings(home=Path("/h"), claude=("python", "agent.py"))) == ("python", "agent.py")


def test_the_named_one_comes_before_path(tmp_path: Path) -> None:
    named, found = executable(tmp_path / "mine" / "my-claude"), executable(tmp_path / "bin" / "claude")
    path = str(found.parent)
    assert find_claude(settings_of(CMS_CLAUDE=str(named), PATH=path)) == (str(named),)
    assert find_claude(settings_of(PATH=path)) == (str(found),)


def test_the_named_one_may_be_a_word_on_path(tmp_path: Path) -> None:
    named = executable(tmp_path / "my-claude")
    assert find_claude(settings_of(CMS_CLAUDE="my-claude", PATH=str(tmp_path))) == (str(named),)


def test_a_named_one_that_cannot_run_is_an_error_and_not_passed_over(tmp_path: Path) -> None:
    found = executable(tmp_path / "claude")
    plain = tmp_path / "plain"
    plain.write_text("")
    for named in (str(plain), str(tmp_path / "missing"), str(tmp_path)):
        with pytest.raises(ClaudeNotFound, match="CMS_CLAUDE"):
            find_claude(settings_of(CMS_CLAUDE=named, PATH=str(found.parent)))


def test_the_wheels_binary_is_the_last_resort(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "claude_agent_sdk"
    bundled = executable(package / "_bundled" / "claude")
    spec = importlib.machinery.ModuleSpec("claude_agent_sdk", None, origin=str(package / "__init__.py"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: spec)
    assert find_claude(settings_of(PATH=str(tmp_path / "empty"))) == (str(bundled),)
    bundled.chmod(0o644)
    if os.geteuid() != 0 or not os.access(bundled, os.X_OK):
        with pytest.raises(ClaudeNotFound):
            find_claude(settings_of(PATH=str(tmp_path / "empty")))


def test_without_any_the_error_names_all_three(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(ClaudeNotFound) as caught:
        find_claude(settings_of(PATH=str(tmp_path)))
    for word in ("CMS_CLAUDE", "PATH", "claude-agent-sdk"):
        assert word in str(caught.value)


@pytest.mark.parametrize("text", ["0.5", "1e-3", "12.5"])
def test_what_counts_bytes_is_whole(text: str) -> None:
    with pytest.raises(UsageError, match="CMS_MAX_LINE"):
        load_settings({"HOME": "/h", "CMS_MAX_LINE": text})


def test_an_empty_choice_of_containment_is_no_choice() -> None:
    assert load_settings({"HOME": "/h", "CMS_CONTAINMENT": ""}).containment == "auto"


@pytest.mark.parametrize(("text", "home"), [("", "/h/.claude-multi-session"), ("~/x", "/h/x"), ("~", "/h")])
def test_the_home_is_that_of_the_given_environment(text: str, home: str) -> None:
    assert str(load_settings({"HOME": "/h", "CMS_HOME": text}).home) == home


def test_a_relative_claude_is_refused_with_what_to_do() -> None:
    settings = load_settings({"HOME": "/h", "CMS_CLAUDE": "./claude", "PATH": "/bin"})
    with pytest.raises(ClaudeNotFound, match="use an absolute one"):
        find_claude(settings)
