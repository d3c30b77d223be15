"""Following links, for the rules of a session: they know no file system."""

from __future__ import annotations

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
