"""From what a person chose about a session to the rules that it is judged by.

The one place where links are resolved for it: the gate itself knows no file system. Everything here touches
the disk: call it in a thread (`cms.disk`).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from cms.disk import ask_disk
from cms.session.gate import Rules
from cms.session.model import SessionOptions
from cms.session.paths import NamedPath, PathRules, places_of


def follow_links(path: str) -> str:
    """Where an absolute path leads.

    Raises:
        OSError, RuntimeError, ValueError: nowhere.
    """
    return str(Path(path).resolve())


def real_folders(options: SessionOptions) -> tuple[str, ...]:
    """Where a session's work dir and its added folders lead, in this order."""
    return tuple(
        os.path.realpath(Path(options.work_dir, folder)) for folder in (options.work_dir, *options.add_dirs)
    )


def locate(rules: PathRules, path: str) -> NamedPath:
    """A path with where it leads, ready to be judged."""
    return rules.locate(path, follow_links)


async def load_rules(options: SessionOptions, environ: Mapping[str, str]) -> Rules:
    """`build_rules` for trio; `environ` is the session's.

    Raises:
        DiskTimeout: its folders do not answer.
    """
    home = environ.get("HOME") or str(Path.home())
    return await ask_disk(lambda: build_rules(options, home), f"the folders of {options.name!r}")


def build_rules(options: SessionOptions, environ_home: str) -> Rules:
    """The rules of a session from what a person chose."""
    work_dir = Path(options.work_dir)
    folders = [options.work_dir, follow_links(options.work_dir)]
    for extra in options.add_dirs:
        folders += [str(work_dir / extra), follow_links(str(work_dir / extra))]
    return Rules(
        limits=options.limits,
        preset=options.preset,
        paths=PathRules(
            work_dir=options.work_dir,
            home=environ_home,
            resolve=follow_links,
            protect=options.protect,
            allow=options.allow_write,
        ),
        read_paths=PathRules(
            work_dir=options.work_dir,
            home=environ_home,
            resolve=follow_links,
            protect=options.protect_read,
            defaults=(),
        ),
        folders=tuple(dict.fromkeys(folders)),
        safety=options.safety,
        permission_mode=options.permission_mode,
        stop_on_violation=options.on_violation == "stop",
        ask_timeout=options.ask_timeout,
        writes=options.writes,
        opened=places_of(options.allow_write, environ_home, options.work_dir),
    )
