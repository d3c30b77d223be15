"""Read a folder's own Claude Code configuration, as one reads what a stranger wrote.

Where claude looks (measured on 2.1.332):
- `.claude/settings.json` of the work dir; `settings.local.json` of the work dir and of its repository's top;
- `.claude/{skills,commands,agents,output-styles,workflows}` of the work dir and of each folder above it up to
  the repository's top; of an added folder (`--add-dir`) too;
- `.mcp.json` of the work dir and of each folder above it up to the root.

An agent may have made any of it. So each file is opened without following a link out of the repository, only
if it is a regular file, never waited for, and bounded; and so are the number of files and the time. What is
not read is a `Source` that says why. All of this touches the disk, which may hang: call it in a thread, with
a time-out, and let go of the thread when that is over.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

import msgspec

from cms.session.project_config import Item, Source, SourceKind, commands_of, items_of, mentions

#: Bytes of one file, files in all, entries of one folder, folders below each other, seconds in all.
MAX_FILE: Final = 1024 * 1024
MAX_FILES: Final = 1_000
MAX_ENTRIES: Final = 1_000
MAX_DEPTH: Final = 4
MAX_SECONDS: Final = 5.0
#: A program is only hashed.
_MAX_PROGRAM: Final = 64 * 1024 * 1024
_MAX_PROGRAMS: Final = 100
_BLOCK: Final = 1024 * 1024

_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


class Unread(Exception):
    """Something that is there and was not read; `str()` says why."""


class Project(msgspec.Struct, frozen=True):
    """What a folder's configuration says.

    Attributes:
        folder: the work dir, or an added folder; absolute, links resolved.
        base: the top of its repository, or the folder itself: what the items' paths are relative to.
        main: of a work tree, the top of the repository that it belongs to; else as `base`.
    """

    folder: str
    base: str
    main: str
    sources: tuple[Source, ...] = ()
    programs: tuple[Item, ...] = ()

    @property
    def items(self) -> tuple[Item, ...]:
        return (*items_of(self.sources), *self.programs)


def read_project(folder: str | Path, *, own: str | Path, added_to: str | Path = "") -> Project:
    """Everything that claude would take from a folder.

    Args:
        own: the user's own configuration of claude (`~/.claude`), which is no project's where that is a home.
        added_to: the work dir, of an added folder.
    """
    place = _real(folder)
    base = _top(place)
    reader = _Reader(base, _real(added_to) if added_to else place, _real(own))
    sources = tuple(reader.sources(place, added=bool(added_to)))
    programs = tuple(reader.programs(place, sources))
    return Project(str(place), str(base), str(_main(base)), sources, programs)


def _real(path: str | Path) -> Path:
    return Path(os.path.realpath(path))


def _chain(folder: Path, top: Path) -> list[Path]:
    """The folder and those above it, up to the top."""
    return [folder, *(place for place in folder.parents if place == top or top in place.parents)]


def _top(folder: Path) -> Path:
    """The top of the repository that a folder lies in, or the folder."""
    for place in (folder, *folder.parents):
        if _there(place / ".git"):
            return place
    return folder


def _main(base: Path) -> Path:
    """The repository that a work tree belongs to, if that knows it; else `base`.

    Anybody can write a `.git` file that names another's repository; the answer stands in that repository.
    """
    try:
        text = read_regular(base, ".git", 4096).decode()
        admin = _real(base / text.removeprefix("gitdir:").strip())
        answer = read_regular(admin, "gitdir", 4096).decode().strip()
        common = read_regular(admin, "commondir", 4096).decode().strip()
        if _real(admin / answer) != base / ".git":
            return base
        return _real(admin / common).parent
    except (Unread, ValueError):  # no text, or no path, included
        return base


# --- opening --------------------------------------------------------------------------------------


def _open(root: Path, path: str, flags: int) -> int:
    """Open what lies in `root`, wherever links in between lead as long as they stay in it.

    Raises:
        Unread: it is not there, leads out, or may not be opened.
    """
    at = -1
    try:
        real = _real(root / path)
        if not real.is_relative_to(root):
            raise Unread("a link that leads out of the folder")
        at = os.open(root, _FOLDER)
        names = real.relative_to(root).parts
        for name in names[:-1]:
            at, below = os.open(name, _FOLDER, dir_fd=at), at
            os.close(below)
        return os.open(names[-1], flags, dir_fd=at) if names else os.dup(at)
    except (OSError, ValueError) as exc:
        raise Unread(getattr(exc, "strerror", None) or str(exc)) from None
    finally:
        if at >= 0:
            os.close(at)


def read_regular(root: Path, path: str, limit: int) -> bytes:
    """The content of a regular file that lies in `root`, itself resolved.

    Raises:
        Unread: it is not there, no regular file, or larger than `limit`.
    """
    fd = _open(root, path, _FILE)
    data = bytearray()
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise Unread("not a regular file")
        while len(data) <= limit and (block := os.read(fd, min(_BLOCK, limit + 1 - len(data)))):
            data += block
    except OSError as exc:
        raise Unread(exc.strerror or str(exc)) from None
    finally:
        os.close(fd)
    if len(data) > limit:
        raise Unread(f"larger than {limit} bytes")
    return bytes(data)


def _names(root: Path, path: str) -> list[str]:
    """The names in a folder that lies in `root`, sorted. Raises Unread."""
    fd = _open(root, path, _FOLDER)
    try:
        names: list[str] = []
        with os.scandir(fd) as entries:
            for entry in entries:
                if len(names) >= MAX_ENTRIES:
                    raise Unread(f"more than {MAX_ENTRIES} entries")
                names.append(entry.name)
    except OSError as exc:
        raise Unread(exc.strerror or str(exc)) from None
    finally:
        os.close(fd)
    return sorted(names)


def _there(path: Path) -> bool:
    try:
        return os.path.lexists(path)
    except ValueError:  # a NUL in it
        return False


def _odd(name: str) -> bool:
    """Whether a name is one that no honest project has: it could not be shown or stored as it is."""
    return not name.isprintable()  # which what is not UTF-8 is not either


# --- where claude looks ---------------------------------------------------------------------------

_TREES: Final[tuple[tuple[SourceKind, str, str], ...]] = (
    ("command", "commands", ".md"),
    ("agent", "agents", ".md"),
    ("style", "output-styles", ".md"),
    ("workflow", "workflows", ""),
)


class _Reader:
    """One reading of one project, with its bounds."""

    def __init__(self, base: Path, work_dir: Path, own: Path) -> None:
        self._own = own
        self._base = base
        self._work_dir = work_dir
        self._left = MAX_FILES
        self._until = time.monotonic() + MAX_SECONDS

    def sources(self, folder: Path, *, added: bool) -> Iterator[Source]:
        """All of them, the nearest to the folder first."""
        # From an added folder claude takes no settings and no servers, and looks in itself alone.
        chain = [folder] if added else _chain(folder, self._base)
        if not added:
            for place in dict.fromkeys((folder, self._base)):
                yield from self._file("settings", place / ".claude/settings.local.json", place)
            if not self._is_own(folder):
                yield from self._file("settings", folder / ".claude/settings.json", folder)
            for place in (folder, *folder.parents):
                yield from self._file("servers", place / ".mcp.json", place)
        for place in chain:
            if self._is_own(place):
                continue
            yield from self._skills(place / ".claude/skills")
            for kind, name, suffix in _TREES:
                yield from self._tree(kind, place / ".claude" / name, suffix)

    def _is_own(self, place: Path) -> bool:
        return _real(place / ".claude") == self._own

    def _shown(self, path: Path) -> str:
        return str(path.relative_to(self._base) if path.is_relative_to(self._base) else path)

    def _unread(self, kind: SourceKind, path: Path, why: str) -> Source:
        return Source(kind, self._shown(path), str(path.parent), why=why)

    def _file(self, kind: SourceKind, path: Path, folder: Path, name: str = "") -> Iterator[Source]:
        """One file, if there is something by its name."""
        if not _there(path):
            return
        self._left -= 1
        try:
            if self._left < 0:
                raise Unread(f"more than {MAX_FILES} files")
            if time.monotonic() > self._until:
                raise Unread(f"not read within {MAX_SECONDS:g} s")
            # What lies above the repository may not lead out of its own folder.
            root = self._base if path.is_relative_to(self._base) else path.parent
            data = read_regular(root, str(path.relative_to(root)), MAX_FILE)
        except Unread as exc:
            yield self._unread(kind, path, str(exc))
            return
        text = data.decode(errors="replace") if kind in ("skill", "command", "agent") else ""
        found = tuple(sorted(one for one in mentions(text) if self._leads_out(one)))
        yield Source(kind, self._shown(path), str(folder), name, data, mentions=found)

    def _leads_out(self, mention: str) -> bool:
        """Whether an `@` names a file that is there and is no plain file of the project."""
        for spelt in (mention, mention.rstrip(".,;:!?)]}"), mention.partition("#")[0]):
            try:
                path = self._work_dir / Path(spelt).expanduser()
                if not spelt or not _there(path):
                    continue
                real = _real(path)
            except (OSError, RuntimeError, ValueError):
                continue
            if not real.is_relative_to(self._base):
                return True
            if any(part.startswith(".") for part in real.relative_to(self._base).parts):
                return True
        return False

    def _entries(self, kind: SourceKind, path: Path) -> tuple[list[str], list[Source]]:
        """The names in a folder, and what is to be said of those that are none."""
        if not _there(path):
            return [], []
        try:
            names = _names(self._base, str(path.relative_to(self._base)))
        except Unread as exc:
            return [], [self._unread(kind, path, str(exc))]
        odd = [self._unread(kind, path / ascii(name), "its name") for name in names if _odd(name)]
        return [name for name in names if not _odd(name)], odd

    def _skills(self, top: Path) -> Iterator[Source]:
        names, odd = self._entries("skill", top)
        yield from odd
        for name in names:
            home = top / name
            for source in self._file("skill", home / "SKILL.md", home, name):
                beside, _ = self._entries("skill", home)
                yield msgspec.structs.replace(source, beside=len(beside) > 1)

    def _tree(self, kind: SourceKind, top: Path, suffix: str) -> Iterator[Source]:
        """The files of a kind, in folders below each other."""
        todo = [Path()]
        while todo:
            below = todo.pop()
            names, odd = self._entries(kind, top / below)
            yield from odd
            for name in names:
                path = top / below / name
                if path.is_dir():
                    if len(below.parts) < MAX_DEPTH:
                        todo.append(below / name)
                elif name.endswith(suffix):
                    yield from self._file(kind, path, top, str(below / name))

    # --- what commands name -------------------------------------------------------------------

    def programs(self, folder: Path, sources: Iterable[Source]) -> Iterator[Item]:
        """The files of the project that its commands name: they are as good as a part of them."""
        words = dict.fromkeys(word for line in commands_of(sources) for word in _words(line))
        seen: set[Path] = set()
        for word in words:
            path = Path(os.path.normpath(folder / _at(word, str(folder))))
            if path in seen or not path.is_relative_to(self._base) or not _is_file(path):
                continue
            seen.add(path)
            if len(seen) > _MAX_PROGRAMS or time.monotonic() > self._until:
                yield Item("unreadable", self._shown(path), what="too many programs to look at")
                return
            yield Item("program", self._shown(path), "", "", self._hash(path))

    def _hash(self, path: Path) -> str:
        try:
            data = read_regular(self._base, str(path.relative_to(self._base)), _MAX_PROGRAM)
        except Unread as exc:
            return str(exc)
        return hashlib.sha256(data).hexdigest()


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def _words(line: str) -> list[str]:
    return [word for word in re.split(r"[\s;|&<>()\"'`=]+", line) if word and len(word) < 4096]


def _at(word: str, folder: str) -> str:
    for spelt in ("${CLAUDE_PROJECT_DIR}", "$CLAUDE_PROJECT_DIR", "${PWD}", "$PWD"):
        word = word.replace(spelt, folder)
    return word
