"""One walk through the folders that a session works in: for names that patterns mean, and for repositories.

It is bounded in entries and in time, follows no link, and touches the disk: call it in a thread.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Final

import msgspec

from cms.protection.links import locate
from cms.session.path_rules import PathRules, fold_name

#: Entries that are looked at, and seconds that it may take; bigger folders are not seen whole.
MOST_ENTRIES: Final = 100_000
LONGEST_WALK: Final = 2.0
#: Too many files, and none that a pattern could mean.
_SKIPPED: Final = frozenset({"node_modules", "__pycache__", "site-packages"})
_SKIPPED_IN_GIT: Final = frozenset({"objects", "refs", "logs", "lfs"})
#: A folder with these is a repository for git, without being named `.git`.
_BARE: Final = frozenset({"HEAD", "objects", "refs"})


class Survey(msgspec.Struct, frozen=True):
    """What the walk came upon.

    Attributes:
        matched: for each of the rules what they mean, the topmost.
        repositories: each `.git` (folder, file or link), and each folder that is a repository by itself.
        unsearched: a folder that was not looked through to the end, if there is one.
    """

    matched: tuple[tuple[Path, ...], ...]
    repositories: tuple[Path, ...] = ()
    unsearched: tuple[Path, ...] = ()


def survey(folders: Iterable[Path], rules: Sequence[PathRules]) -> Survey:
    """Look through the folders, and those below.

    Args:
        rules: of which only patterns without a place, or with wildcards, are looked for.
    """
    seekers = [_Seeker(one) for one in rules]
    repositories: list[Path] = []
    until = time.monotonic() + LONGEST_WALK
    left = MOST_ENTRIES
    for root in _topmost(folders):
        todo: list[tuple[str, list[_Seeker]]] = [(str(root), seekers)]
        while todo:
            folder, active = todo.pop()
            try:
                entries = list(os.scandir(folder))
            except OSError:
                continue
            left -= len(entries)
            if left < 0 or time.monotonic() > until:
                return Survey(tuple(tuple(one.found) for one in seekers), tuple(repositories), (root,))
            in_git = folder.endswith("/.git")
            if ".git/" not in folder and not in_git and {entry.name for entry in entries} >= _BARE:
                repositories.append(Path(folder))
            for entry in entries:
                if entry.name == ".git":
                    repositories.append(Path(entry.path))
                still = [one for one in active if not one.takes(entry)] if active else active
                if (
                    (still or not active)
                    and entry.is_dir(follow_symlinks=False)
                    and entry.name not in _SKIPPED
                    and not (in_git and entry.name in _SKIPPED_IN_GIT)
                ):
                    todo.append((entry.path, still))
    return Survey(tuple(tuple(one.found) for one in seekers), tuple(repositories))


class _Seeker:
    """What one set of rules means."""

    def __init__(self, rules: PathRules) -> None:
        self._matches: Callable[[str], object] = lambda path: rules.match(locate(rules, path))
        self._wanted = _last_names(rules)
        self.found: list[Path] = []

    def takes(self, entry: os.DirEntry[str]) -> bool:
        """A cheap first look: most names match no pattern, and the rules follow links."""
        if self._wanted is None or not self._wanted.fullmatch(fold_name(entry.name)):
            return False
        if not self._matches(entry.path):
            return False
        self.found.append(Path(entry.path))
        return True


def is_wild(pattern: str) -> bool:
    """Whether it stands for more than one path."""
    return "*" in pattern or "?" in pattern


def _last_names(rules: PathRules) -> re.Pattern[str] | None:
    """One expression for the names that can end a pattern which must be searched for; None: there is none."""
    names = set()
    for pattern in rules.patterns:
        if not pattern.startswith("/") or is_wild(pattern):
            ends = [name for name in fold_name(pattern).split("/") if name not in ("", ".", "**")]
            names.add(ends[-1] if ends else "*")
    if not names:
        return None
    return re.compile(
        "|".join(re.escape(name).replace(r"\*", ".*").replace(r"\?", ".") for name in sorted(names)),
        re.DOTALL,
    )


def _topmost(folders: Iterable[Path]) -> list[Path]:
    found = list(dict.fromkeys(folders))
    return [one for one in found if not any(other in one.parents for other in found)]
