"""Commands in odd surroundings: closed streams, a full disk behind stdout, names that are no text."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cli.scripted import serve
from cli.test_process import LIST

ODD = "$(printf 'a\\377')"
CMS = f"{sys.executable} -m cms"


def shell(line: str, cwd: Path | bytes) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["/bin/sh", "-c", line], cwd=cwd, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize("words", ["list", "list --json", "help list"])
def test_a_closed_stream_is_as_the_null_device(home: Path, tmp_path: Path, words: str, closed: str) -> None:
    with serve(home, LIST):
        open_ = shell(f"{CMS} {words}", tmp_path)
        ran = shell(f"{CMS} {words} {closed}", tmp_path)
    assert ran.returncode == open_.returncode == 0
    assert ran.stdout == ("" if ">&-" in closed.replace("2>&-", "") else open_.stdout)
    assert ran.stderr == ""


def test_a_mistake_with_closed_streams_has_its_exit_code(tmp_path: Path) -> None:
    assert shell(f"{CMS} nosuch >&- 2>&-", tmp_path).returncode == 2


def test_a_full_disk_behind_stdout_is_one_line(home: Path, tmp_path: Path) -> None:
    with serve(home, LIST):
        ran = shell(f"{CMS} list > /dev/full", tmp_path)
    assert ran.returncode == 1
    assert ran.stderr == "cms: cannot write the answer: No space left on device\n"


@pytest.mark.parametrize(
    "words", ["spawn x hello", "delegate x hello", "delegate x hello --json", "batch --file /dev/null"]
)
def test_a_work_dir_whose_name_is_no_text_is_one_line(tmp_path: Path, words: str) -> None:
    odd = os.fsencode(tmp_path) + b"/odd\xff"
    os.mkdir(odd)  # noqa: PTH102 - a Path would do no better
    ran = shell(f"{CMS} {words}", odd)
    assert ran.returncode == 2
    assert "is not valid UTF-8 text" in ran.stderr
    assert "bug" not in ran.stderr


@pytest.mark.parametrize(
    "words", ["spawn {} hello", "spawn x {}", "status {}", "delegate x hi --work-dir {}"]
)
def test_a_word_that_is_no_text_is_one_line(tmp_path: Path, words: str) -> None:
    ran = shell(f"{CMS} {words.format(ODD)}", tmp_path)
    assert ran.returncode == 2
    assert "is not valid UTF-8 text" in ran.stderr


def test_a_home_whose_name_is_no_text_is_one_line(tmp_path: Path) -> None:
    ran = shell(f"CMS_HOME=$(printf '/tmp/a\\377') {CMS} list", tmp_path)
    assert ran.returncode == 2
    assert "CMS_HOME" in ran.stderr
    assert "is not valid UTF-8 text" in ran.stderr
