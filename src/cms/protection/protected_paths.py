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
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Final

import msgspec

from cms import config_file
from cms.containment import Layer, Spec
from cms.protection.escape_sockets import find_escape_sockets
from cms.protection.links import Lookup, locate
from cms.protection.places import Places, find_places
from cms.protection.survey import MOST_ENTRIES, is_wild, survey
from cms.protection.trusted_base import find_base_files, find_trusted
from cms.session.gate import Rules
from cms.session.path_rules import PathRules
from cms.session.protected_defaults import DEFAULT_PROTECTED

#: Held where that can be, and too big for the tripwire.
_SYSTEM: Final = frozenset(pattern for pattern in DEFAULT_PROTECTED if pattern.startswith("/"))
#: Never bound read-only: see above.
_SYSTEMS_OWN: Final = (Path("/dev"), Path("/proc"), Path("/run"))
#: Our own folder, in a home, of which a person writes one file. All else there we write all the time.
_OURS: Final = ".claude-multi-session"
#: What claude reads at its start and may execute, in its own folder.
_CLAUDES: Final = (
    "settings.json", "settings.local.json", "hooks", "commands", "agents", "skills", "CLAUDE.md", "rules",
)  # fmt: skip


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
        watched: for the tripwire: what is protected, exists or not, but for the system's folders. Text, one
            for all that watch the same: a live session keeps hundreds.
        base: likewise for the tripwire, which looks at these but not into them.
        unheld: what no container can hold.
        reopened: the work dir, where it lies in what is protected: there it is writable all the same.
        places: where it may write; None: wherever its user can.
        layers: folders of which it changes copies.
    """

    protected: tuple[Path, ...] = ()
    hidden: tuple[Path, ...] = ()
    watched: tuple[str, ...] = ()
    base: tuple[str, ...] = ()
    unheld: tuple[Unheld, ...] = ()
    reopened: tuple[Path, ...] = ()
    places: Places | None = None
    layers: tuple[Layer, ...] = ()


#: Nothing is to be held.
NO_PATHS: Final = ProtectedPaths()


def find_all_paths(
    rules: Rules, environ: Mapping[str, str], programs: Sequence[str] = (), *, walls: bool = True
) -> ProtectedPaths:
    """All that the operating system is to hold or to hide for a session, the ways out of it included.

    Nothing where its safety is off.

    Args:
        programs: what we start, besides ourselves: where a session can write it, it is protected.
        walls: there will be some; without them it can write anywhere.
    """
    if not rules.safety:
        return NO_PATHS
    found = find_protected_paths(rules, environ)
    anywhere = rules.writes == "anywhere"
    base = find_base_files(rules.folders, programs, environ, anywhere=anywhere or not walls)
    return msgspec.structs.replace(
        found,
        protected=(*found.protected, *find_trusted(rules.folders, programs, anywhere=anywhere)),
        hidden=(*found.hidden, *find_escape_sockets(rules.paths, environ)),
        base=tuple(map(sys.intern, base)),
        places=None if anywhere else find_places(rules.folders, rules.opened, environ),
    )


def layered(paths: ProtectedPaths, layers: Sequence[Layer], rules: Rules) -> ProtectedPaths:
    """The same for a session that changes nothing but copies of its folder.

    Below a layer nothing needs to be held. Its other folders it only reads: what it wrote there would last.
    """
    folders = [_real(layer.folder) for layer in layers]
    places = paths.places
    if places is not None:
        opened = {_real(Path(path)) for path in rules.opened}
        roots = {_real(Path(path)) for path in rules.folders} - opened
        places = msgspec.structs.replace(
            places,
            writable=tuple(
                path for path in places.writable if path not in roots and not _below(path, folders)
            ),
            readable=(*places.readable, *(root for root in sorted(roots) if not _below(root, folders))),
        )
    return msgspec.structs.replace(
        paths,
        protected=tuple(path for path in paths.protected if not _below(_real(path), folders)),
        reopened=tuple(path for path in paths.reopened if not _below(_real(path), folders)),
        unheld=tuple(one for one in paths.unheld if not _below(_real(Path(one.path)), folders)),
        places=places,
        layers=tuple(layers),
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
        layers=(*spec.layers, *paths.layers),
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


def find_protected_paths(session: Rules, environ: Mapping[str, str]) -> ProtectedPaths:
    """Look on the disk for what is protected.

    Args:
        session: its rules, just made: they have what lies in its folders.
        environ: the session's.
    """
    rules, read_rules, found = session.paths, session.read_paths, session.found
    home = Path(environ.get("HOME") or "~").expanduser()
    config = Path(environ.get("CLAUDE_CONFIG_DIR") or home / ".claude")
    roots = [Path(folder) for folder in session.folders]
    lookup = Lookup()
    real_roots = [_real(root) for root in roots]
    needed = [_real(path) for path in (home, config)]
    opened = {root for root in real_roots if not rules.match(locate(rules, str(root)))}
    reopened: dict[Path, None] = {}
    base = set(found.base)  # too big for the tripwire, which has a list of its own
    claudes = {config, home / ".claude", home / ".claude.json", config / ".claude.json"}
    claudes |= {_real(path) for path in claudes}
    claudes_names = set(map(str, claudes))
    our_folder = str(home / _OURS)
    unheld = [
        Unheld(folder, "too big: not all of it was searched for protected files")
        for folder in found.unsearched
    ]
    protected: dict[Path, None] = {}
    watched: dict[str, None] = {}
    places = (*_named(rules, roots, home, lookup), *found.protected, *found.git)
    for name in dict.fromkeys(places):  # as text: they are hundreds, and most are not there
        ours = f"{name}/{config_file.NAME}" if name == our_folder else name
        if not lookup.is_there(name):
            # What a pattern names is protected: no need to follow links for that.
            skipped = name in claudes_names or name in _SYSTEM
            if not skipped and (not rules.any_allowed or rules.match(locate(rules, name))):
                watched[ours] = None
            continue
        real = Path(lookup.real(name))
        if real in claudes or _below(real, _SYSTEMS_OWN):
            continue
        system = name in _SYSTEM
        if not rules.match(locate(rules, name)):
            continue  # taken out again
        path = Path(name)
        within = [root for root in opened if _below(root, (real,))]
        if not system and name not in base:
            watched.update(dict.fromkeys(map(str, _around(Path(ours), within))))
        inside = next((need for need in needed if _below(need, (real,))), None)
        if inside is not None:
            unheld.append(Unheld(str(path), f"{inside} is inside it, and the session must write there"))
        else:
            for root in within:
                reopened[root] = None
                unheld.append(Unheld(str(root), f"{path} is protected, but the session works there"))
            # Of the system's folders the real ones: on many machines /bin and /lib are links into /usr.
            protected[real if system else path] = None
    for name in _CLAUDES:
        path = config / name
        if rules.match(locate(rules, str(path))):
            watched[str(path)] = None
            if os.path.lexists(path):
                protected[path] = None
    hidden: dict[Path, None] = {}
    for path in map(Path, (*_named(read_rules, roots, home, lookup), *found.unreadable)):
        if read_rules.match(locate(read_rules, str(path))) and os.path.lexists(path):
            inside = next((need for need in (*real_roots, *needed) if _below(need, (_real(path),))), None)
            if inside is None:
                hidden[path] = None
            else:
                unheld.append(Unheld(str(path), f"{inside} is inside it, and the session must read there"))
    return ProtectedPaths(
        _topmost(protected, reopened),
        _topmost(hidden),
        tuple(map(sys.intern, watched)),
        unheld=tuple(dict.fromkeys(unheld)),
        reopened=tuple(reopened),
    )


def find_new(rules: Rules) -> tuple[tuple[Path, ...], tuple[Path, ...]]:
    """What lies now in the folders that a session works in: for the tripwire, to see what was created.

    Returns:
        What is protected there, and the repositories that were not there before.
    """
    seen = survey([Path(folder) for folder in rules.folders], (rules.paths,))
    known = set(rules.found.repositories)
    return seen.matched[0], tuple(path for path in seen.repositories if str(path) not in known)


def _around(path: Path, roots: Sequence[Path]) -> Iterator[Path]:
    """The path; where one of the roots lies in it, all that is in it beside them."""
    if not roots:
        yield path
        return
    with contextlib.suppress(OSError):
        for entry in itertools.islice(path.iterdir(), MOST_ENTRIES):
            if _real(entry) not in roots:
                yield from _around(entry, [root for root in roots if _below(root, (_real(entry),))])


def _named(rules: PathRules, roots: Sequence[Path], home: Path, lookup: Lookup) -> Iterator[str]:
    """The paths that patterns name, also those where nothing is (yet)."""
    repositories = [folder for root in roots for folder in _repositories(root)]
    places = [str(place) for place in (*roots, *repositories, home)]
    with_git = [place for place in places if Path(lookup.real(f"{place}/.git")).is_dir()]
    for pattern in rules.patterns:
        if pattern.startswith("/"):
            if not is_wild(pattern):
                yield pattern
            else:
                yield from map(str, _expand(pattern))
        elif not is_wild(pattern):
            plain = str(PurePath(pattern))
            for place in with_git if pattern.split("/")[0] == ".git" else places:
                yield f"{place.rstrip('/')}/{plain}"


def _expand(pattern: str) -> Iterator[Path]:
    """What an anchored pattern with wildcards matches, up to a bound."""
    names = pattern.strip("/").split("/")
    fixed = next(n for n, name in enumerate(names) if is_wild(name))
    base = Path("/", *names[:fixed])
    if is_wild("/".join(names[fixed:]).removesuffix("**").rstrip("/")):
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
