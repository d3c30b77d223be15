"""Following links, for the rules of a session: they know no file system."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from cms.session.path_rules import NamedPath, PathRules


def follow_links(path: str) -> str:
    """Where an absolute path leads.

    Raises:
        OSError, RuntimeError, ValueError: nowhere.
    """
    return str(Path(path).resolve())


def locate(rules: PathRules, path: str) -> NamedPath:
    """A path with where it leads, ready to be judged."""
    return rules.locate(path, follow_links)


class Lookup:
    """Where many absolute paths lead at one moment: each folder on the way is looked at once.

    The hundreds of patterns of a session begin with the same few folders, most of which are not there.
    """

    def __init__(self) -> None:
        self._seen: dict[str, tuple[str, bool]] = {}

    def real(self, path: str) -> str:
        """As `os.path.realpath` has it."""
        return self._look(path)[0]

    def is_there(self, path: str) -> bool:
        """As `os.path.lexists` has it."""
        return self._look(path)[1]

    def _look(self, path: str) -> tuple[str, bool]:
        seen = self._seen.get(path)
        if seen is not None:
            return seen
        folder, slash, name = path.rpartition("/")
        if not slash or name in ("", ".", ".."):
            return os.path.realpath(path), os.path.lexists(path)
        above, there = self._look(folder) if folder else ("", True)
        real = f"{above.rstrip('/')}/{name}"
        if there:
            try:
                if stat.S_ISLNK(os.lstat(real).st_mode):
                    real = os.path.realpath(real)
            except (OSError, ValueError):
                there = False
        self._seen[path] = real, there
        return real, there
