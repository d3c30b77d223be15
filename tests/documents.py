"""What the pages of README and docs/ say, in pieces: their commands, their files, their links."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]
README: Final = ROOT / "README.md"
DOCS: Final = tuple(sorted((ROOT / "docs").glob("*.md")))
#: Whatever is written for people.
PAGES: Final = (README, *DOCS, ROOT / "benchmarks" / "README.md", *sorted(ROOT.glob("[!R]*.md")))

_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.DOTALL | re.MULTILINE)
_FILE = re.compile(r"^`([\w.]+)`[^\n]*:\n\n```\w+\n(.*?)^```", re.DOTALL | re.MULTILINE)


def blocks(text: str, *languages: str) -> str:
    """What is in the fenced blocks of these languages, one after the other."""
    return "".join(body for language, body in _BLOCK.findall(text) if language in languages)


def prose(text: str) -> str:
    """What is not in a fenced block."""
    return _BLOCK.sub("", text)


def commands(text: str, *languages: str) -> list[list[str]]:
    """The words of each `cms` command, without `cms`. By default of the blocks that are to be run (`sh`)."""
    lines = blocks(text, *(languages or ("sh",))).splitlines()
    typed = [line.removeprefix("$ ") for line in lines]
    return [shlex.split(line, comments=True)[1:] for line in typed if line.startswith("cms ")]


def files(text: str) -> dict[str, str]:
    """What a page shows as the contents of a file: its name in front of a block."""
    return dict(_FILE.findall(text))


def links(text: str) -> Iterator[tuple[str, str]]:
    """The file and the heading that each link within the project leads to."""
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(text)):
        if "://" not in target:
            file, _, heading = target.partition("#")
            yield file, heading


def headings(text: str) -> set[str]:
    """The anchors of the headings, as repository hosts make them."""
    found = re.findall(r"^#+ (.*)", prose(text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in found}
