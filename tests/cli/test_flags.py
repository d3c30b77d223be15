"""What may be typed: values, names, texts, paths; and the one line that refuses each."""

from __future__ import annotations

import io
from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cms import units
from cms.cli import agent, flags
from cms.cli.agent import AgentFlags
from cms.cli.batch import spec_of
from cms.errors import UsageError, WorkDirError
from cms.options import Layer
from cms.session.model import Limits


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("90s", 90), ("15m", 900), ("2h", 7200), ("1d", 86400), ("0.5s", 0.5), ("2H", 7200)],
)
def test_durations(text: str, seconds: float) -> None:
    assert units.parse_seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "s", "0", "-5", "5x", "inf", "nan", "1e999", "h2", "1:30"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="duration"):
        units.parse_seconds(text)


@pytest.mark.parametrize("text", ["", "0", "-1", "inf", "nan", "two", "$"])
def test_what_is_no_amount(text: str) -> None:
    with pytest.raises(ValueError, match="amount"):
        units.parse_money(text)


def test_amounts_counts_and_sizes() -> None:
    assert units.parse_money("$1.25") == units.parse_money("1.25") == 1.25
    assert units.parse_count("50") == 50
    assert units.parse_size("512M") == 512 * 1024**2
    assert units.parse_size("2GiB") == units.parse_size("2g") == 2 * 1024**3
    for bad in ("0", "-1", "1.5", "x"):
        with pytest.raises(ValueError, match=f"'{bad}'"):
            units.parse_count(bad)
    for bad in ("0", "x", "-2G", "inf", "nan", "1e99"):
        with pytest.raises(ValueError, match="size"):
            units.parse_size(bad)


@given(st.text(max_size=20))
def test_converters_raise_nothing_but_valueerror(text: str) -> None:
    for parse in (units.parse_seconds, units.parse_money, units.parse_count, units.parse_size):
        try:
            assert parse(text) > 0
        except ValueError as error:
            assert repr(text) in str(error)  # noqa: PT017 - both ways out are fine, and are looked at


@pytest.mark.parametrize("name", ["a", "fix-auth", "v1.2_x", "0", "x" * 64, ".hidden"])
def test_names(name: str) -> None:
    assert flags.check_name(name) == name


@pytest.mark.parametrize(
    ("name", "better"),
    [
        ("fix auth", "fix-auth"),
        ("-x", "x"),
        ("a/b", "a-b"),
        ("naïve", "na-ve"),
        ("x" * 65, "x" * 64),
        ("a\nb", "a-b"),
    ],
)
def test_a_bad_name_names_a_better_one(name: str, better: str) -> None:
    with pytest.raises(UsageError) as caught:
        flags.check_name(name)
    assert repr(better) in caught.value.hint


@given(st.text())
def test_the_better_name_is_itself_good(name: str) -> None:
    try:
        flags.check_name(name)
    except UsageError as error:
        if "would do" in error.hint:
            flags.check_name(error.hint.rsplit("; ", 1)[1].removesuffix(" would do").strip("'"))


def test_models() -> None:
    for model in ("sonnet", "opus", "haiku", "claude-sonnet-4-5-20250929", "opusplan", "sonnet[1m]"):
        assert agent.check_model(model) == model
    with pytest.raises(UsageError, match="sonet"):
        agent.check_model("sonet")
    with pytest.raises(UsageError):
        agent.check_model(" ")


def test_permission_modes_name_the_nearest() -> None:
    assert agent.check_permission_mode("acceptEdits") == "acceptEdits"
    with pytest.raises(UsageError) as caught:
        agent.check_permission_mode("acceptedits ")
    assert "'acceptEdits'" in caught.value.hint


def test_work_dirs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "project").mkdir()
    (tmp_path / "file").write_text("")
    monkeypatch.chdir(tmp_path)
    assert agent.check_work_dir("") == str(tmp_path)
    assert agent.check_work_dir("project") == str(tmp_path / "project")
    with pytest.raises(WorkDirError) as caught:
        agent.check_work_dir("projcet")
    assert caught.value.hint == f"did you mean {tmp_path / 'project'}?"
    with pytest.raises(WorkDirError) as caught:
        agent.check_work_dir("zzz/deep/er")
    assert caught.value.hint == f"{tmp_path} exists"
    with pytest.raises(WorkDirError, match="not a folder"):
        agent.check_work_dir("file")


def test_a_work_dir_that_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with pytest.raises(WorkDirError, match="current folder is gone"):
        agent.check_work_dir("")


def test_a_link_to_a_work_dir_stays_as_typed(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    assert agent.check_work_dir(str(tmp_path / "link")) == str(tmp_path / "link")


def test_files_or_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mcp.json").write_text("{}")
    assert agent.check_file_or_json('{"a": 1}', "--settings") == '{"a": 1}'
    assert agent.check_file_or_json("mcp.json", "--mcp-config") == str(tmp_path / "mcp.json")
    with pytest.raises(UsageError, match="no file"):
        agent.check_file_or_json("mpc.json", "--mcp-config")


def test_rules_are_split_at_commas_outside_parentheses() -> None:
    assert agent.split_rules(["Read,Edit", "Bash(git log, *), Grep", " ,"]) == (
        "Read",
        "Edit",
        "Bash(git log, *)",
        "Grep",
    )


def test_limits_over_a_base() -> None:
    base = Limits(max_cost=2.0, max_turns=50)
    assert agent.LimitFlags(max_cost=5.0, max_time=60.0).over(base) == Limits(
        max_cost=5.0, max_turns=50, max_time=60.0
    )
    assert agent.NO_LIMITS.over(Limits()) == Limits()


# --- texts ----------------------------------------------------------------------------------------


def pick(*, word: str | None = None, flag: str | None = None, file: str | None = None) -> str | None:
    return flags.pick_text("send", "message", word=word, flag=flag, file=file)


def test_a_text_by_word_flag_file_or_stdin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "ask.txt"
    path.write_text("from a file\n")
    assert pick(word="hello") == "hello"
    assert pick(flag="--hello") == "--hello"
    assert pick(file=str(path)) == "from a file\n"
    for given_as in ("word", "flag", "file"):
        monkeypatch.setattr("sys.stdin", io.StringIO("from stdin"))
        assert pick(**{given_as: "-"}) == "from stdin"
    assert flags.pick_text("resume", "message", word=None, flag=None, file=None, required=False) is None


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({}, "needs a message"),
        ({"word": "a", "flag": "b"}, "given twice"),
        ({"word": ""}, "is empty"),
        ({"flag": " \n"}, "is empty"),
        ({"file": "/no/such/file"}, "no file"),
        ({"file": "/"}, "/: "),
        ({"word": "a\udcff"}, "UTF-8"),
        ({"word": "x" * (flags.MAX_TEXT + 1)}, "is a mistake"),
    ],
)
def test_texts_that_are_refused(words: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        pick(**words)


def test_a_file_that_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "binary"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="UTF-8"):
        pick(file=str(path))


def test_a_name_by_flag_makes_the_first_word_the_text() -> None:
    both = flags.pick_name_and_word
    assert both("send", "a", "hello", None, "message") == ("a", "hello")
    assert both("send", "hello", None, "a", "message") == ("a", "hello")
    assert both("send", None, None, "a", "message") == ("a", None)
    with pytest.raises(UsageError, match="unexpected argument 'more'"):
        both("send", "hello", "more", "a", "message")
    with pytest.raises(UsageError, match="needs the name"):
        both("send", None, None, None, "message")
    with pytest.raises(UsageError, match="unexpected argument"):
        flags.pick_name("stop", "a", "b")


def test_every_flag_of_an_agent_reaches_the_tasks_of_a_batch(tmp_path: Path) -> None:
    """What is typed after `cms batch` and taken must hold: a rule of safety that is dropped is a hole."""
    said = AgentFlags(
        model="opus",
        preset="plan",
        safety_off=True,
        allow=("Read",),
        allowed_tools=("Grep",),
        disallowed_tools=("Write",),
        protect=("a/**",),
        protect_read=("b/**",),
        allow_write=("c/**",),
        env_deny=("AWS_*",),
        on_violation="deny",
        ask_timeout=5.0,
        require_containment="B",
        allow_cms=True,
        system_prompt="s",
        append_system_prompt="t",
        agent="u",
        permission_mode="plan",
        effort="high",
        fallback_model="haiku",
        add_dir=(str(tmp_path),),
        mcp_config=("{}",),
        settings="{}",
    )
    unsaid = {field.name for field in fields(said) if getattr(said, field.name) == field.default}
    assert unsaid == {"profile", "work_dir"}  # the one is looked up, the other is the batch's own
    limits = Limits(**dict.fromkeys(Limits.__struct_fields__, 1))
    spec = spec_of(said, limits, ("true",), 1)
    open_ones = {field for field in Layer.__struct_fields__ if getattr(spec, field) is None}
    assert open_ones == {"context", "retry_on", "retry_acted", "work_dir"}  # no flag says these
    assert spec.env_deny == ("AWS_*",)
