"""What we ourselves run on: a session may not change it, and it is compared after each.

The interpreter's environment, this package, what both have loaded, claude, bwrap and git. Whoever changes one
of these speaks for cms from its next start on. Where a session could write it (in its work dir, as a `.venv`
lies there; anywhere without walls), it is read-only, and the tripwire looks at it: at each file's place, size
and times, not at its content, for there are many.

Everything here touches the disk: call it in a thread.
"""

from __future__ import annotations

import os
import shutil
import site
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import cms
from cms.session.protected_defaults import DEFAULT_PROTECTED

_PROGRAMS: Final = ("bwrap", "git")
#: Run by every Python that starts, if they are there.
_AT_START: Final = ("sitecustomize.py", "usercustomize.py")
_SYSTEM: Final = tuple(f"{one}/" for one in DEFAULT_PROTECTED if one.startswith("/"))


def find_trusted(
    folders: Sequence[str], programs: Sequence[str], *, anywhere: bool = False
) -> tuple[Path, ...]:
    """What we ourselves run on, as far as it lies in a folder of the session's: it is read-only there.

    The interpreter's environment, this package, bwrap, git, and `programs` (claude).

    Args:
        anywhere: the session can write in other folders, too.
    """
    roots = [Path(os.path.realpath(folder)) for folder in folders]
    named = (shutil.which(name) for name in (*_PROGRAMS, *programs))
    files = [Path(os.path.realpath(found)) for found in named if found]
    prefixes = {Path(os.path.realpath(prefix)) for prefix in (sys.prefix, sys.base_prefix)}
    package = Path(os.path.realpath(cms.__file__)).parent
    trusted: dict[Path, None] = {}
    for path in (*sorted(prefixes), package, *files):
        if path in roots or any(root.is_relative_to(path) for root in roots):
            # An environment made in the work dir itself (`python -m venv .`): what of it is no work.
            names = ("bin", "lib", "lib64", "include", "pyvenv.cfg")
            trusted.update((path / name, None) for name in names if path in prefixes)
        elif anywhere or any(path.is_relative_to(root) for root in roots):
            trusted[path] = None
    return tuple(path for path in trusted if path.exists())


def find_base_files(
    folders: Sequence[str], programs: Sequence[str], environ: Mapping[str, str], *, anywhere: bool
) -> tuple[str, ...]:
    """The files of that to look at, as far as the session can write them; the system's are held, not watched.

    Also those that are not there, and would be taken before ours: a `git` in an earlier folder of PATH.

    Args:
        environ: the session's.
        anywhere: it can write outside of its folders.
    """
    roots = tuple(f"{root}/" for folder in folders for root in (folder, os.path.realpath(folder)))
    # Strings: there are well over a thousand of them, before each session's start.
    found = dict.fromkeys(map(str, _programs(Path(folders[0]), programs, environ)))
    homes = (sys.prefix, sys.base_prefix, str(Path(cms.__file__).parent))
    if anywhere or any(f"{os.path.realpath(home)}/".startswith(roots) for home in homes):
        found.update(dict.fromkeys(_python_files()))
    return tuple(
        path
        for path in found
        if (path.startswith(roots) or (anywhere and not path.startswith(_SYSTEM)))
        and f"{os.sep}__pycache__{os.sep}" not in path
    )


def _python_files() -> Iterator[str]:
    for folder, folders, files in os.walk(Path(cms.__file__).parent):
        if "__pycache__" in folders:
            folders.remove("__pycache__")
        yield from (f"{folder}/{name}" for name in (*folders, *files))
    for module in list(sys.modules.values()):
        if isinstance(file := getattr(module, "__file__", None), str) and file:
            yield file
    for prefix in (sys.prefix, sys.base_prefix):
        yield f"{prefix}/pyvenv.cfg"
    places = [*site.getsitepackages(), *([site.getusersitepackages()] if site.ENABLE_USER_SITE else [])]
    for place in places:
        yield from map(str, Path(place).glob("*.pth"))
        yield from (f"{place}/{name}" for name in _AT_START)
    yield sys.executable
    yield os.path.realpath(sys.executable)


def _programs(work_dir: Path, programs: Sequence[str], environ: Mapping[str, str]) -> Iterator[Path]:
    path = environ.get("PATH") or os.defpath
    for name in (*_PROGRAMS, *programs):
        if found := shutil.which(name, path=path):
            yield from (Path(found), Path(os.path.realpath(found)))
        for folder in path.split(os.pathsep) if "/" not in name else ():
            candidate = work_dir / (folder or ".") / name
            if found and str(candidate) == found:
                break
            yield candidate
