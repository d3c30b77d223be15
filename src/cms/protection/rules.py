"""From what a person chose about a session to the rules that it is judged by.

The one place where links are resolved for it: the gate itself knows no file system. Everything here touches
the disk: call it in a thread (`cms.disk`).
"""

from __future__ import annotations

import os
import pwd
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from cms.disk import ask_disk
from cms.protection.git_places import find_git_places
from cms.protection.links import Lookup, follow_links, locate
from cms.protection.survey import survey
from cms.protection.trusted_base import find_trusted
from cms.session.gate import InFolders, Rules
from cms.session.model import SessionOptions
from cms.session.path_rules import PathRules, places_of
from cms.session.protected_defaults import AT_LOGIN, DEFAULT_PROTECTED


def real_folders(options: SessionOptions) -> tuple[str, ...]:
    """Where a session's work dir and its added folders lead, in this order."""
    return tuple(
        os.path.realpath(Path(options.work_dir, folder)) for folder in (options.work_dir, *options.add_dirs)
    )


async def load_rules(options: SessionOptions, environ: Mapping[str, str]) -> Rules:
    """`build_rules` for trio.

    Raises:
        DiskTimeout: its folders do not answer.
    """
    return await ask_disk(lambda: build_rules(options, environ), f"the folders of {options.name!r}")


def build_rules(options: SessionOptions, environ: Mapping[str, str]) -> Rules:
    """The rules of a session from what a person chose, and from what its folders hold now.

    Args:
        environ: the session's: it says where the home is, and what has been moved out of it.
    """
    home = home_of(environ)
    work_dir = Path(options.work_dir)
    folders = [options.work_dir, follow_links(options.work_dir)]
    for extra in options.add_dirs:
        folders += [str(work_dir / extra), follow_links(str(work_dir / extra))]
    folders = list(dict.fromkeys(folders))
    lookup = Lookup()
    read_paths = PathRules(
        work_dir=options.work_dir,
        home=home,
        resolve=lookup.real,
        protect=options.protect_read,
        defaults=(),
        environ=environ,
    )
    paths, found = _look(options, folders, read_paths, environ, lookup)
    return Rules(
        limits=options.limits,
        preset=options.preset,
        paths=paths,
        read_paths=read_paths,
        folders=tuple(folders),
        safety=options.safety,
        permission_mode=options.permission_mode,
        stop_on_violation=options.on_violation == "stop",
        ask_timeout=options.ask_timeout,
        writes=options.writes,
        opened=places_of(options.allow_write, home, options.work_dir),
        found=found,
    )


def home_of(environ: Mapping[str, str]) -> str:
    """The home folder, as its environment has it."""
    return environ.get("HOME") or str(Path.home())


def build_path_rules(
    work_dir: str,
    environ: Mapping[str, str],
    *,
    protect: tuple[str, ...] = (),
    allow: tuple[str, ...] = (),
    found: tuple[str, ...] = (),
    lookup: Lookup | None = None,
) -> PathRules:
    """What is protected for somebody with that environment who works there."""
    home = home_of(environ)
    return PathRules(
        work_dir=work_dir,
        home=home,
        resolve=(lookup or Lookup()).real,
        protect=protect,
        allow=allow,
        defaults=(*DEFAULT_PROTECTED, *_at_login(home)),
        environ=environ,
        found=found,
    )


def _at_login(home: str) -> tuple[str, ...]:
    """What runs at login, in the home that the system knows, if that is another. ssh looks there, too."""
    try:
        real = pwd.getpwuid(os.getuid()).pw_dir
    except KeyError:
        return ()
    if real in ("", "/", home) or os.path.realpath(real) == os.path.realpath(home):
        return ()
    return tuple(real + pattern[1:] for pattern in ("~/.ssh", *AT_LOGIN))


def _look(
    options: SessionOptions,
    folders: list[str],
    read_paths: PathRules,
    environ: Mapping[str, str],
    lookup: Lookup,
) -> tuple[PathRules, InFolders]:
    """The rules with what git names besides, and what lies in the folders."""
    build = partial(
        build_path_rules,
        options.work_dir,
        environ,
        protect=options.protect,
        allow=options.allow_write,
        lookup=lookup,
    )
    paths = build()
    if not options.safety:
        return paths, InFolders()
    roots = [Path(folder) for folder in folders]
    seen = survey(roots, (paths, read_paths))
    base = tuple(map(str, find_trusted(folders, (), anywhere=options.writes == "anywhere")))
    git = tuple(map(str, find_git_places(roots, seen.repositories, environ)))
    # Most are protected already, whatever the repository: patterns of its own cost time at each start.
    if unusual := tuple(path for path in (*git, *base) if not paths.match(locate(paths, path))):
        paths = build(found=unusual)
    return paths, InFolders(
        protected=tuple(map(str, seen.matched[0])),
        unreadable=tuple(map(str, seen.matched[1])),
        repositories=tuple(map(str, seen.repositories)),
        git=git,
        base=base,
        unsearched=tuple(map(str, seen.unsearched)),
    )
