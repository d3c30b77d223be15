"""What may be typed: values, names, texts, paths; and the one line that refuses each."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cms import units
from cms.cli import flags
from cms.errors import UsageError, WorkDirError
from cms.folders import check_file_or_json, check_folder


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


def test_how_amounts_are_shown() -> None:
    assert [units.size(one) for one in (1023, 4096, 1536 * 1024**2, 512 * 1024**2)] == [
        *("1023 B", "4 KiB", "1.5 GiB", "512 MiB"),
    ]
    assert [units.short_span(one) for one in (-3, 5.9, 60, 3599, 3600, 86399, 90000)] == [
        *("0s", "5s", "1m", "59m59", "1h", "23h59", "1d01h"),
    ]
    assert [units.brief(one) for one in (0.0654, 2)] == ["65 ms", "2.0s"]
    assert (units.money(0.0421), units.money(1.5, exact=False)) == ("$0.0421", ">=$1.5000")


@given(st.text(max_size=20))
def test_converters_raise_nothing_but_valueerror(text: str) -> None:
    for parse in (units.parse_seconds, units.parse_money, units.parse_count, units.parse_size):
        try:
            assert parse(text) > 0
        except ValueError as error:
            assert repr(text) in str(error)  # noqa: PT017 - both ways out are fine, and are looked at


@pytest.mark.parametrize("name", ["a", "fix-auth", "v1.2_x", "0", "x" * 64, ".hidden"])
def test_names(name: str) -> None:
    assert units.check_name(name) == name


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
        units.check_name(name)
    assert repr(better) in caught.value.hint


@given(st.text())
def test_the_better_name_is_itself_good(name: str) -> None:
    try:
        units.check_name(name)
    except UsageError as error:
        if "; try " in error.hint:
            units.check_name(error.hint.rsplit("; try ", 1)[1].strip("'"))


def test_models() -> None:
    for model in ("sonnet", "opus", "haiku", "claude-sonnet-4-5-20250929", "opusplan", "sonnet[1m]"):
        assert units.check_model(model) == model
    with pytest.raises(UsageError, match="sonet"):
        units.check_model("sonet")
    with pytest.raises(UsageError):
        units.check_model(" ")


@pytest.mark.parametrize(
    ("word", "choices", "meant"),
    [
        ("--notify", ("--no-safety", "--name", "--json"), ""),
        ("--mesage", ("--message", "--json"), "--message"),
        ("--MaxCost", ("--max-cost", "--max-procs"), "--max-cost"),
        ("--max", ("--max-cost", "--stop"), "--max-cost"),
        ("--quiet", ("--quick", "--json"), ""),
        ("sned", ("spawn", "send", "stop"), "send"),
        ("stat", ("stop", "status"), "status"),
        ("ls", ("list", "logs"), ""),
        ("remove", ("rename", "resume", "delete"), ""),
        ("xyz", (), ""),
    ],
)
def test_a_suggestion_is_a_near_miss_or_none(word: str, choices: tuple[str, ...], meant: str) -> None:
    assert units.nearest(word, choices) == meant


def test_permission_modes_name_the_nearest() -> None:
    assert units.check_permission_mode("acceptEdits") == "acceptEdits"
    with pytest.raises(UsageError) as caught:
        units.check_permission_mode("acceptedits ")
    assert "'acceptEdits'" in caught.value.hint


def test_work_dirs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "project").mkdir()
    (tmp_path / "file").write_text("")
    monkeypatch.chdir(tmp_path)
    assert check_folder("", "--work-dir") == str(tmp_path)
    assert check_folder("project", "--work-dir") == str(tmp_path / "project")
    with pytest.raises(WorkDirError) as caught:
        check_folder("projcet", "--work-dir")
    assert caught.value.hint == f"did you mean {tmp_path / 'project'}?"
    with pytest.raises(WorkDirError) as caught:
        check_folder("zzz/deep/er", "--work-dir")
    assert caught.value.hint == f"there is no folder {tmp_path / 'zzz'} either"
    with pytest.raises(WorkDirError, match="not a folder"):
        check_folder("file", "--work-dir")


def test_a_work_dir_that_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with pytest.raises(WorkDirError, match="current folder is gone"):
        check_folder("", "--work-dir")


def test_a_link_to_a_work_dir_stays_as_typed(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    assert check_folder(str(tmp_path / "link"), "--work-dir") == str(tmp_path / "link")


def test_files_or_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mcp.json").write_text("{}")
    assert check_file_or_json('{"a": 1}', "--settings") == '{"a": 1}'
    assert check_file_or_json("mcp.json", "--mcp-config") == str(tmp_path / "mcp.json")
    with pytest.raises(UsageError, match="no file"):
        check_file_or_json("mpc.json", "--mcp-config")


def test_rules_are_split_at_commas_outside_parentheses() -> None:
    assert units.check_rules(["Read,Edit", "Bash(git log, *), Grep", " ,"]) == (
        "Read",
        "Edit",
        "Bash(git log, *)",
        "Grep",
    )


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
        ({"word": "x" * (units.MAX_TEXT + 1)}, "are allowed"),
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
