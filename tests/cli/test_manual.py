"""Manual pages are the help in another form: nothing is missing, nothing is read as a request of roff's."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest

from cli.conftest import Cms
from cms.cli.commands import COMMANDS, FAMILIES
from cms.cli.help import Page, page_of
from cms.cli.manual import roff

PATHS: list[tuple[str, ...]] = [
    (),
    *((names[0],) for names, *_ in COMMANDS),
    *((family,) for family in FAMILIES),
    *((family, name) for family, (_, _, commands) in FAMILIES.items() for name, *_ in commands),
]


def plain(lines: list[str]) -> str:
    """What a reader sees."""
    text = "\n".join(lines)
    for escape, character in {r"\-": "-", r"\(aq": "'", r"\(ga": "`", r"\(ha": "^", r"\(ti": "~"}.items():
        text = text.replace(escape, character)
    return re.sub(r"\\f[BIR]|\\&", "", text).replace(r"\e", "\\")


@pytest.mark.parametrize("path", PATHS, ids=" ".join)
def test_a_manual_page_has_all_of_the_help(path: tuple[str, ...]) -> None:
    page = page_of(path)
    text = plain(roff(page))
    told = [page.purpose.rstrip("."), *page.usage, *page.text, *page.examples]
    told += [
        part for flag in (*page.arguments, *page.flags) for part in (*flag.names, flag.help, flag.default)
    ]
    assert [part for part in told if part not in text] == []


def test_text_is_no_request() -> None:
    page = Page("cms x", "Purpose.", (".so /etc/passwd",), text=("'br", r"a\fBb"), examples=(".ex", ""))
    lines = roff(page)
    assert r"\&.so /etc/passwd" in lines
    assert r"\&\(aqbr" in lines
    assert r"a\efBb" in lines
    assert not [line for line in lines if re.match(r"[.'](?!TH|SH|SS|PP|TP|nf|fi)", line)]


def test_the_formatter_takes_every_page(cms: Cms) -> None:
    pages = [cms("help", *path, "--man") for path in PATHS]
    assert {page.code for page in pages} == {0}
    groff = shutil.which("groff")
    if groff is None:
        pytest.skip("no groff")
    ran = subprocess.run(
        [groff, "-man", "-Tascii", "-ww"],
        input="".join(page.out for page in pages), capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert ran.stderr == ""
    shown = re.sub(".\b", "", ran.stdout)  # bold is a letter printed twice
    assert "EXIT STATUS" in shown
    assert "cms-delegate - Have one task done" in shown
