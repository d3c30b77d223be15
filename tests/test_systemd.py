"""What systemd and cron are told is what was meant."""

from __future__ import annotations

import json
import os
import random
import re
import shlex
import shutil
import subprocess
import sys
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cms import systemd
from cms.errors import UsageError
from cms.systemd import parse_when

ODD = (
    *(
        "a b",
        "50%",
        "%h",
        '"x"',
        "it's",
        "$HOME",
        "${X}",
        "back\\slash",
        "",
        ";",
        "tab\there",
        "é✓",
        "{date}x",
    ),
)
SHOW = (sys.executable, "-c", "import json, sys; print(json.dumps(sys.argv[1:]))")


@pytest.mark.parametrize(
    ("text", "cron", "calendar"),
    [
        ("daily", "0 0 * * *", "*-*-* 0:0:00"),
        ("hourly", "0 * * * *", "*-*-* *:0:00"),
        ("weekly", "0 0 * * 1", "Mon *-*-* 0:0:00"),
        ("02:05", "5 2 * * *", "*-*-* 2:5:00"),
        ("Mon-Fri 8:30", "30 8 * * 1-5", "Mon,Tue,Wed,Thu,Fri *-*-* 8:30:00"),
        ("sat-sun 23:59", "59 23 * * 6-7", "Sun,Sat *-*-* 23:59:00"),
        ("sun,tue 00:00", "0 0 * * 0,2", "Sun,Tue *-*-* 0:0:00"),
        ("*/30 8-12/2 1,15 */6 *", "*/30 8-12/2 1,15 */6 *", "*-1,7-1,15 8,10,12:0,30:00"),
        ("0 0 * * */2", "0 0 * * */2", "Sun,Tue,Thu,Sat *-*-* 0:0:00"),
    ],
)
def test_times(text: str, cron: str, calendar: str) -> None:
    when = parse_when(text)
    assert (when.cron, when.calendar) == (cron, calendar)


@pytest.mark.parametrize(
    "text",
    [
        *("", "noon", "25:00", "2:60", "0 2 * *", "60 2 * * *", "0 2 0 * *", "0 2 * 13 *", "0 2 * * 8"),
        *("*/0 * * * *", "5/2 * * * *", "9-5 * * * *", "0 2 1 * 1", "1,,2 * * * *", "monday 2:00"),
        *("0 2 * * *; rm", "* * * * * *"),
    ],
)
def test_what_is_no_time(text: str) -> None:
    with pytest.raises(UsageError):
        parse_when(text)


def _field(chance: random.Random, least: int, most: int) -> str:
    def part() -> str:
        first, last = sorted(chance.randint(least, most) for _ in range(2))
        return chance.choice(("*", f"{first}", f"{first}-{last}", f"*/{last or 1}", f"{first}-{last}/2"))

    return ",".join(part() for _ in range(chance.randint(1, 3)))


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd here to judge")
def test_systemd_elapses_when_cron_would() -> None:
    chance = random.Random(1)  # noqa: S311 - the same fields each time
    whens = [parse_when("*/15 8-18/2 1,15 */3 *")]
    for _ in range(12):
        minute, hour, day, month = (
            _field(chance, *bounds) for bounds in ((0, 59), (0, 23), (1, 28), (1, 12))
        )
        whens += [
            parse_when(f"{minute} {hour} {day} {month} *"),
            parse_when(f"{minute} {hour} * {month} 1-5"),
        ]
    base = "--base-time=2026-01-01 00:00:00 UTC"
    ran = subprocess.run(
        ["systemd-analyze", "calendar", "--iterations=2", base, *(when.calendar for when in whens)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "TZ": "UTC", "LC_ALL": "C"},
    )
    blocks = ran.stdout.strip().split("\n\n")
    told = [
        (when, found) for when, block in zip(whens, blocks, strict=True) for found in _ELAPSE.findall(block)
    ]
    assert len(told) > len(whens)
    for when, found in told:
        assert _due(when, datetime.strptime(found, "%Y-%m-%d %H:%M:%S")), (when, found)


_ELAPSE = re.compile(r"(?:Next elapse|Iter[^:]*): \w{3} (\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)")


def _due(when: systemd.When, at: datetime) -> bool:
    figures = (at.minute, at.hour, at.day, at.month, at.isoweekday() % 7)
    bounds = ((0, 59), (0, 23), (1, 31), (1, 12), (0, 6))
    return at.second == 0 and all(
        any(figure in systemd._numbers(part, *bound) for part in field.split(","))
        for field, figure, bound in zip(when, figures, bounds, strict=True)
    )


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\r\n")), max_size=4))
@settings(max_examples=15, deadline=None)
@example(list(ODD))
def test_cron_runs_the_words_that_were_given(words: list[str]) -> None:
    line = systemd.cron_line(
        [*SHOW, *words], parse_when("daily"), folder="/", environ={"A": "b c%", "PATH": os.environ["PATH"]}
    )
    command = line.removeprefix("0 0 * * * ")
    # As cron does it: an escaped % is one, any other ends the command.
    assert "%" not in command.replace("\\%", "")
    ran = subprocess.run(["/bin/sh", "-c", command.replace("\\%", "%")], capture_output=True, check=True)
    today = datetime.now()
    days = {day.strftime("%Y-%m-%d") for day in (today, today - timedelta(minutes=5))}
    meant = [[word.replace("{date}", day) for word in words] for day in days]
    assert json.loads(ran.stdout) in meant or any("{time}" in word for word in words)


def test_a_crontab_has_no_line_breaks() -> None:
    with pytest.raises(UsageError, match="line break"):
        systemd.cron_line(["a\nb"], parse_when("daily"), folder="/", environ={})


def test_words_of_a_unit() -> None:
    assert systemd.exec_word("$HOME/50%") == '"$$HOME/50%%"'
    assert systemd.quoted('a "b" \\ \n;') == '"a \\"b\\" \\\\ \\x0a;"'
    assert systemd.quoted("plain-1.0/x=y") == "plain-1.0/x=y"
    assert systemd.quoted("") == '""'


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd here to judge")
def test_systemd_takes_the_units(tmp_path: Path) -> None:
    folder = tmp_path / "a b 50%"
    folder.mkdir()
    when = parse_when("mon-fri 02:00")
    for number, words in enumerate(([sys.executable, *ODD], [sys.executable, *ODD[:-1], "two\nlines"])):
        name = f"cms-{number}"
        service = systemd.service(
            words, about="cms\nbatch 50% \\", folder=str(folder), environ={"X": 'a "b" %h $HOME'}
        )
        (tmp_path / f"{name}.service").write_text(service)
        (tmp_path / f"{name}.timer").write_text(systemd.timer(name, when, catch_up=bool(number)))
    files = sorted(str(path) for path in tmp_path.glob("cms-*"))
    env = {"PATH": os.environ["PATH"], "XDG_RUNTIME_DIR": str(tmp_path), "HOME": str(tmp_path)}
    verify = ["systemd-analyze", "verify", "--user", *files]
    judged = subprocess.run(verify, env=env, capture_output=True, text=True, check=False)
    assert "cms-" not in judged.stderr
    assert judged.returncode == 0, judged
    text = (tmp_path / "cms-0.service").read_text()
    assert f"WorkingDirectory={tmp_path}/a b 50%%" in text
    (line,) = [one for one in text.splitlines() if one.startswith("ExecStart=")]
    assert line.startswith('ExecStart=/bin/sh -c "exec ')
    shlex.split(line)  # its quotes are balanced
