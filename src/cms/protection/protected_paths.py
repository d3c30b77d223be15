"""Where the protected paths of a session really are, for the container that is to hold them.

The gate judges a path that somebody names; a container needs a list of what exists. Some patterns name a
place (`~/.ssh`, `/etc`): they are looked up. Others match at every depth (`.env`, `.git/hooks`): the folders
that the session works in are walked for them, with a bound, and so are the repositories that they lie in.
Outside of those only the gate knows them.

What cannot be held
- claude's own folder, in which it must write its transcripts. Held in it: its settings and what they run.
- A folder that holds a home which the session needs to write (one below /var/lib, say). Of one that holds the
  work dir all else is held.
- What does not exist yet. The tripwire (tripwire.py) sees it when it is created.
- /dev and /proc are the system's own affair, and /run has sockets that programs need.

Everything here touches the disk: call it in a thread.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec

from cms import config_file
from cms.containment import Spec
from cms.disk import read_small
from cms.protection.escape_sockets import find_escape_sockets
from cms.protection.places import Places, find_places, find_trusted
from cms.protection.rules import locate
from cms.session.gate import Rules
from cms.session.paths import DEFAULT_PROTECTED, PathRules, fold_name

#: Entries of the work dir that are looked at, and seconds that it may take; a bigger one is not seen whole.
MOST_ENTRIES: Final = 100_000
LONGEST_WALK: Final = 2.0

#: Bytes of a file that names a folder.
_LONGEST_NAME: Final = 8192
#: Held where that can be, and too big for the tripwire.
_SYSTEM: Final = frozenset(Path(pattern) for pattern in DEFAULT_PROTECTED if pattern.startswith("/"))
#: Never bound read-only: see above.
_SYSTEMS_OWN: Final = (Path("/dev"), Path("/proc"), Path("/run"))
#: Our own folder, in a home, of which a person writes one file. All else there we write all the time.
_OURS: Final = ".claude-multi-session"
#: What claude reads at its start and may execute, in its own folder.
_CLAUDES: Final = (
    "settings.json", "settings.local.json", "hooks", "commands", "agents", "skills", "CLAUDE.md", "rules",
)  # fmt: skip
#: Too many files, and none that a pattern could mean.
_SKIPPED: Final = frozenset({"node_modules", "__pycache__", "site-packages"})
_SKIPPED_IN_GIT: Final = frozenset({"objects", "refs", "logs", "lfs"})


class Unheld(msgspec.Struct, frozen=True):
    """A protected path that the operating system does not hold, and why."""

    path: str
    why: str

    def __str__(self) -> str:
        return f"{self.path}: {self.why}"


class ProtectedPaths(msgspec.Struct, frozen=True):
    """The protected paths of one session, as they are on the disk.

    Attributes:
        protected: to be held read-only.
        hidden: not even to be read.
        watched: for the tripwire: what is protected, exists or not, but for the system's folders.
        unheld: what no container can hold.
        reopened: the work dir, where it lies in what is protected: there it is writable all the same.
        places: where it may write; None: wherever its user can.
    """

    protected: tuple[Path, ...] = ()
    hidden: tuple[Path, ...] = ()
    watched: tuple[Path, ...] = ()
    unheld: tuple[Unheld, ...] = ()
    reopened: tuple[Path, ...] = ()
    places: Places | None = None


#: Nothing is to be held.
NO_PATHS: Final = ProtectedPaths()


def find_all_paths(rules: Rules, environ: Mapping[str, str], programs: Sequence[str] = ()) -> ProtectedPaths:
    """All that the operating system is to hold or to hide for a session, the ways out of it included.

    Nothing where its safety is off.

    Args:
        programs: what we start, besides ourselves: where a session can write it, it is protected.
    """
    if not rules.safety:
        return NO_PATHS
    found = find_protected_paths(rules.paths, rules.read_paths, rules.folders, environ)
    anywhere = rules.writes == "anywhere"
    return msgspec.structs.replace(
        found,
        protected=(*found.protected, *find_trusted(rules.folders, programs, anywhere=anywhere)),
        hidden=(*found.hidden, *find_escape_sockets(rules.paths, environ)),
        places=None if anywhere else find_places(rules.folders, rules.opened, environ),
    )


def walled(spec: Spec, paths: ProtectedPaths, *, agent: bool = False) -> Spec:
    """A container with these walls.

    Args:
        agent: it is claude's, which writes its transcripts.
    """
    spec = msgspec.structs.replace(
        spec,
        writable=(*spec.writable, *paths.reopened),
        protected=(*spec.protected, *paths.protected),
        hidden=(*spec.hidden, *paths.hidden),
    )
    places = paths.places
    if places is None:
        return spec
    return msgspec.structs.replace(
        spec,
        sandbox=True,
        writable=(*spec.writable, *places.writable, *(places.lasting if agent else ())),
        covered=places.covered,
        caches=places.caches,
        readable=places.readable,
        shown=(*spec.shown, *places.shown),
    )


def find_protected_paths(
    rules: PathRules, read_rules: PathRules, folders: Sequence[str], environ: Mapping[str, str]
) -> ProtectedPaths:
    """Look on the disk for what is protected.

    Args:
        folders: where the session works: the work dir first.
        environ: of the session: `HOME` and `CLAUDE_CONFIG_DIR` count.
    """
    home = Path(environ.get("HOME") or "~").expanduser()
    config = Path(environ.get("CLAUDE_CONFIG_DIR") or home / ".claude")
    roots = [Path(folder) for folder in folders]
    real_roots = [_real(root) for root in roots]
    needed = [_real(path) for path in (home, config)]
    opened = {root for root in real_roots if not rules.match(locate(rules, str(root)))}
    reopened: dict[Path, None] = {}
    claudes = {_real(config), _real(home / ".claude"), _real(home / ".claude.json")}
    unheld: list[Unheld] = []
    protected: dict[Path, None] = {}
    watched: dict[Path, None] = {}
    for path in (*_named(rules, roots, home), *_walk(rules, roots, unheld)):
        real = _real(path)
        if real in claudes or _below(real, _SYSTEMS_OWN):
            continue
        system = path in _SYSTEM
        # A file named .git says where the hooks are: who changes it brings hooks of his own.
        if not rules.match(locate(rules, str(path / "hooks" if path.name == ".git" else path))):
            continue  # taken out again
        within = [root for root in opened if _below(root, (real,))]
        if not system:
            ours = path / config_file.NAME if path == home / _OURS else path
            watched.update(dict.fromkeys(_around(ours, within)))
        if not os.path.lexists(path):
            continue
        inside = next((need for need in needed if _below(need, (real,))), None)
        if inside is not None:
            unheld.append(Unheld(str(path), f"{inside} lies in it, which the session needs to write"))
        else:
            for root in within:
                reopened[root] = None
                unheld.append(Unheld(str(root), f"{path} is protected, but the session works here"))
            # Of the system's folders the real ones: on many machines /bin and /lib are links into /usr.
            protected[real if system else path] = None
    for name in _CLAUDES:
        path = config / name
        if rules.match(locate(rules, str(path))):
            watched[path] = None
            if os.path.lexists(path):
                protected[path] = None
    hidden: dict[Path, None] = {}
    for path in (*_named(read_rules, roots, home), *_walk(read_rules, roots, unheld)):
        if read_rules.match(locate(read_rules, str(path))) and os.path.lexists(path):
            inside = next((need for need in (*real_roots, *needed) if _below(need, (_real(path),))), None)
            if inside is None:
                hidden[path] = None
            else:
                unheld.append(Unheld(str(path), f"{inside} lies in it, which the session needs to read"))
    return ProtectedPaths(
        _topmost(protected, reopened),
        _topmost(hidden),
        tuple(watched),
        tuple(dict.fromkeys(unheld)),
        tuple(reopened),
    )


def find_new(rules: PathRules, folders: Sequence[str]) -> tuple[Path, ...]:
    """What matches now in the folders that a session works in: for the tripwire, to see what was created."""
    roots = [Path(folder) for folder in folders]
    return tuple(path for path in _walk(rules, roots, []) if rules.match(locate(rules, str(path))))


def _around(path: Path, roots: Sequence[Path]) -> Iterator[Path]:
    """The path; where one of the roots lies in it, all that is in it beside them."""
    if not roots:
        yield path
        return
    with contextlib.suppress(OSError):
        for entry in itertools.islice(path.iterdir(), MOST_ENTRIES):
            if _real(entry) not in roots:
                yield from _around(entry, [root for root in roots if _below(root, (_real(entry),))])


def _named(rules: PathRules, roots: Sequence[Path], home: Path) -> Iterator[Path]:
    """The paths that patterns name, also those where nothing is (yet)."""
    repositories = [folder for root in roots for folder in _repositories(root)]
    for pattern in rules.patterns:
        if pattern.startswith("/"):
            if not _is_wild(pattern):
                yield Path(pattern)
            else:
                yield from _expand(pattern)
        elif not _is_wild(pattern):
            for place in (*roots, *repositories, home):
                if pattern.split("/")[0] != ".git" or (place / ".git").is_dir():
                    yield place / pattern
    for root in (*roots, *repositories):
        yield from _git_elsewhere(root)


def _expand(pattern: str) -> Iterator[Path]:
    """What an anchored pattern with wildcards matches, up to a bound."""
    names = pattern.strip("/").split("/")
    fixed = next(n for n, name in enumerate(names) if _is_wild(name))
    base = Path("/", *names[:fixed])
    if _is_wild("/".join(names[fixed:]).removesuffix("**").rstrip("/")):
        for count, path in enumerate(base.glob("/".join(names[fixed:]))):
            if count >= 1000:
                return
            yield path
    else:
        yield base  # `/srv/secrets/**`: the folder and all below it


def _repositories(root: Path) -> Iterator[Path]:
    """The folders above `root` that are a repository's top, `root` itself aside."""
    for parent in root.parents:
        if os.path.lexists(parent / ".git"):
            yield parent
            return


def _git_elsewhere(root: Path) -> Iterator[Path]:
    """The hooks and settings of a worktree or a submodule: its `.git` is a file naming the real folder."""
    try:
        text = read_small(root / ".git", _LONGEST_NAME).decode()
        folder = root / text.removeprefix("gitdir:").strip()
        with contextlib.suppress(OSError):
            folder = folder / read_small(folder / "commondir", _LONGEST_NAME).decode().strip()
    except (OSError, ValueError):
        return
    yield root / ".git"
    for name in ("hooks", "config"):
        yield Path(os.path.normpath(folder / name))


def _walk(rules: PathRules, roots: Sequence[Path], unheld: list[Unheld]) -> Iterator[Path]:
    """What patterns without a place match in the folders, the topmost of each; nothing below it."""
    wanted = _last_names(rules)
    if wanted is None:
        return
    until = time.monotonic() + LONGEST_WALK
    left = MOST_ENTRIES
    for root in _topmost(dict.fromkeys(roots)):
        todo = [str(root)]
        while todo:
            folder = todo.pop()
            try:
                entries = list(os.scandir(folder))
            except OSError:
                continue
            left -= len(entries)
            if left < 0 or time.monotonic() > until:
                unheld.append(Unheld(str(root), "too big: not all of it was searched for protected files"))
                return
            in_git = folder.endswith("/.git")
            for entry in entries:
                if wanted.fullmatch(fold_name(entry.name)) and rules.match(locate(rules, entry.path)):
                    yield Path(entry.path)
                elif (
                    entry.is_dir(follow_symlinks=False)
                    and entry.name not in _SKIPPED
                    and not (in_git and entry.name in _SKIPPED_IN_GIT)
                ):
                    todo.append(entry.path)


def _last_names(rules: PathRules) -> re.Pattern[str] | None:
    """One expression for the names that can end a pattern which must be searched for; None if there is none.

    A cheap first look: most names match no pattern, and `PathRules.match` follows links.
    """
    names = set()
    for pattern in rules.patterns:
        if not pattern.startswith("/") or _is_wild(pattern):
            ends = [name for name in fold_name(pattern).split("/") if name not in ("", ".", "**")]
            names.add(ends[-1] if ends else "*")
    if not names:
        return None
    return re.compile(
        "|".join(re.escape(name).replace(r"\*", ".*").replace(r"\?", ".") for name in sorted(names)),
        re.DOTALL,
    )


def _is_wild(pattern: str) -> bool:
    return "*" in pattern or "?" in pattern


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path))


def _below(path: Path, folders: Iterable[Path]) -> bool:
    """Whether the path is one of the folders, or lies in one."""
    parts = path.parts
    return any(parts[: len(folder.parts)] == folder.parts for folder in folders)


def _topmost(paths: Mapping[Path, None], reopened: Mapping[Path, None] = {}) -> tuple[Path, ...]:
    """Without those that lie in another one, and in nothing below that which is writable again."""

    def lies_in_another(path: Path) -> bool:
        above = next((parent for parent in path.parents if parent in paths or parent in reopened), None)
        return above is not None and above not in reopened

    return tuple(path for path in paths if not lies_in_another(path))
