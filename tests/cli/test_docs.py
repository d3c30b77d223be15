"""README and docs/ are true: links lead somewhere, commands and flags exist, tables are those of the code."""

from __future__ import annotations

import functools
import re
import tomllib
from pathlib import Path

import pytest

import generated
from cms.cli.commands import COMMANDS, FAMILIES
from cms.cli.help import page_of
from cms.errors import ExitCode
from documents import DOCS, PAGES, README, ROOT, commands, headings, links, prose

USERS = (README, *DOCS, ROOT / "SECURITY.md")

#: Flags that are not of cms: of claude, git, docker and the like. And those of the original command line.
FOREIGN = {
    "--bg", "--max-budget-usd", "--print", "--project-config-root", "--runs", "--permission-mode",
    "--name", "--prompt", "--task", "--message", "--new-name", "--version", "--help", "--help-all", "--quiet",
}  # fmt: skip


def by_name(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=by_name)
def test_links_lead_somewhere(page: Path) -> None:
    text = page.read_text()
    for file, heading in links(text):
        target = page.parent / file if file else page
        assert target.exists(), file
        assert not heading or heading in headings(target.read_text()), f"{file}#{heading}"
    for file in re.findall(r"\b(?:docs|benchmarks)/[\w-]+\.(?:md|svg|py)\b", text):
        assert (ROOT / file).exists(), file


def test_the_index_has_every_page() -> None:
    index = ROOT / "docs" / "README.md"
    assert {file for file, _ in links(index.read_text())} >= {page.name for page in DOCS} - {"README.md"}


@functools.cache
def flags_of(path: tuple[str, ...]) -> set[str]:
    return {name for flag in page_of(path).flags for name in flag.names}


@functools.cache
def all_flags() -> set[str]:
    paths: set[tuple[str, ...]] = {(name,) for names, *_ in COMMANDS for name in names}
    for family, (_, _, rows) in FAMILIES.items():
        paths |= {(family,), *((family, row[0]) for row in rows)}
    return set().union(*(flags_of(path) for path in paths))


def check(words: list[str]) -> None:
    """A command that is told of exists, and has the flags that it is given. Raises UsageError."""
    for stop in ("|", ">", "<", "..."):
        words = words[: words.index(stop)] if stop in words else words
    path = tuple(words[:2]) if words[0] in FAMILIES and words[1:] and words[1].islower() else tuple(words[:1])
    if path[-1] in ("--help-all", "--json") or path == ("help",):
        return
    if len(path) == 2 and path[1] not in {row[0] for row in FAMILIES[path[0]][2]}:
        path = path[:1]
    flags = flags_of(path)
    for place, word in enumerate(words):
        if word == "--":
            if path == ("schedule",):
                check(words[place + 1 :])
            return
        flag = word.partition("=")[0]
        assert not re.match(r"--\w", flag) or flag in flags | FOREIGN, f"cms {' '.join(path)} has no {flag}"


@pytest.mark.parametrize("page", USERS, ids=by_name)
def test_commands_and_flags_that_are_told_of_exist(page: Path) -> None:
    text = page.read_text()
    for words in commands(text, "sh", "console"):
        check(words)
    for code in re.findall(r"`([^`\n]+)`", prose(text)):
        words = code.split()
        if words[0] == "cms" and len(words) > 1 and words[1].isalpha() and words[1].islower():
            check(words[1:])
        elif re.match(r"--\w", words[0]):
            assert words[0].partition("=")[0] in all_flags() | FOREIGN, code


@pytest.mark.parametrize("file", dict.fromkeys(file for file, _ in generated.TABLES))
def test_tables_are_those_of_the_code(file: str) -> None:
    assert (generated.DOCS / file).read_text() == generated.written(file), "python -m tests.generated"


def test_the_picture_is_text_and_loads_nothing() -> None:
    picture = (ROOT / "docs" / "terminal.svg").read_text()
    assert len(picture) < 20_000
    assert "completed" in picture
    assert "cost_exceeded" in picture
    assert set(re.findall(r"\w+://[^\s\"')]*", picture)) == {"http://www.w3.org/2000/svg"}
    assert not re.search(r"@import|url\((?!#)|<image|<script|href", picture)


def test_the_table_of_extras_is_complete() -> None:
    text = (ROOT / "docs" / "configuration.md").read_text().partition("## Extras")[2].partition("\n## ")[0]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert set(re.findall(r"^\| `([\w-]+)` \|", text, re.MULTILINE)) == set(project["optional-dependencies"])


def test_the_table_of_exit_codes_is_complete() -> None:
    rows = re.findall(r"^\| (\d+) \|", (ROOT / "docs" / "limits.md").read_text(), re.MULTILINE)
    assert [int(row) for row in rows] == sorted(ExitCode)


def test_the_readme_has_the_figures_of_the_benchmarks() -> None:
    measured = _rows((ROOT / "benchmarks" / "README.md").read_text())
    figures = {
        what: (value.replace(" of its processor time", ""), peer) for what, value, peer, *_ in measured
    }
    told = _rows(README.read_text().partition("## What it costs")[2])
    assert told
    for what, *figure in told:
        assert figures[what] == tuple(figure)


def _rows(text: str) -> list[list[str]]:
    """The rows of tables, without their heads."""
    return [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in re.findall(r"^\|.*\|$", text, re.MULTILINE)
        if not re.match(r"\| (what|---)", line)
    ]
