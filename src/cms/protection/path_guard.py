"""The protected paths of one process: found before it starts, watched while it runs, compared at the end.

Three nets hold protected paths: the gate, the container and the tripwire. This sees to the last two: it tells
the container what to keep read-only and hidden, looks again and again whether the mounts are still there (an
editor that saves a file by renaming drops one), and compares the files at the end with what they were.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final, TypeVar

import trio

from cms.containment import Container, Layer, LostMount
from cms.disk import ask_disk
from cms.protection.git_places import MOST_REPOSITORIES, find_git_programs
from cms.protection.protected_paths import ProtectedPaths, find_all_paths, find_new, layered
from cms.protection.tripwire import MOST_FILES, Mark, compare, is_whole, mark, snapshot, snapshot_again
from cms.session.gate import Rules
from cms.session.model import Walls

#: Seconds between two looks at the mounts where the kernel does not tell that one has gone.
LOOK_EVERY: Final = 10.0
#: Seconds for a look at everything that is protected.
PATIENCE: Final = 30.0
#: Paths with one and the same reason are named one by one up to so many.
_NAMED: Final = 5

T = TypeVar("T")


class PathGuard:
    """Made for one process. Without safety it does nothing but say so.

    Attributes:
        paths: what is to be held; empty before `prepare`.
        left_out, mistakes: to be told with the walls (`Walls`).
    """

    def __init__(self, rules: Rules, environ: Mapping[str, str], ours: Path | None = None) -> None:
        """`ours`: cms's own folder."""
        self._ours = ours
        self.left_out: tuple[str, ...] = ()
        self.mistakes: tuple[str, ...] = ()
        self.paths = ProtectedPaths()
        self._rules = rules
        self._environ = environ
        self._before: dict[str, Mark] = {}
        self._base: dict[str, Mark] = {}
        self._container: Container | None = None
        self._lost: dict[str, str] = {}
        self._isolation = ""
        self._named_twice: set[str] = set()
        self._limiter = trio.CapacityLimiter(1)

    def __repr__(self) -> str:
        return f"<PathGuard {len(self.paths.protected)} protected, {len(self._lost)} lost>"

    @property
    def unreadable(self) -> tuple[str, ...]:
        """The patterns of what must not be read."""
        return self._rules.read_paths.patterns if self._rules.safety else ()

    async def prepare(self, programs: Sequence[str] = (), *, walls: bool = True) -> ProtectedPaths:
        """Look for what is protected, and note what it is.

        Args:
            programs: what the session is started with.
            walls: it will have some.

        Raises:
            DiskTimeout: a folder of the session does not answer.
        """
        if not self._rules.safety:
            return self.paths

        def look() -> tuple[ProtectedPaths, dict[str, Mark], dict[str, Mark]]:
            paths = find_all_paths(self._rules, self._environ, programs, walls=walls)
            return paths, snapshot(paths.watched, self._ours), _look_at(paths.base)

        self.paths, self._before, self._base = await self._ask_disk(look, "the protected paths")
        # A read-only mount holds a file under its name; under another one it can be written all the same.
        self._named_twice = {
            path
            for path, mark in self._before.items()
            if mark.names > 1 and _below(Path(path), self.paths.protected)
        }
        return self.paths

    def isolate(self, layers: Sequence[Layer], told: str) -> ProtectedPaths:
        """What is to be held of a session that changes copies of its folder; `told` says how that is done."""
        self.paths = layered(self.paths, layers, self._rules)
        self._isolation = told
        return self.paths

    def started(self, container: Container) -> Walls:
        """The container is up: what it holds, and what it cannot."""
        self._container = container
        return self._walls()

    def note_mistakes(self, mistakes: tuple[str, ...]) -> Walls:
        """claude has told what it does not take of the user's settings."""
        self.mistakes = mistakes
        return self._walls()

    async def watch(self, tell: Callable[[Walls, str], None]) -> None:
        """Look at the mounts for ever; tell of each that is lost, once."""
        container = self._container
        if container is None or not self.paths.protected:
            return
        with container.watch_mounts() as changed:
            while True:
                for lost in await container.verify_mounts():
                    if str(lost.path) not in self._lost:
                        self._lost[str(lost.path)] = lost.why
                        tell(self._walls(), f"{lost.path} is not held any more: {lost.why}")
                with trio.move_on_after(LOOK_EVERY):
                    await changed()

    async def finish(self) -> Walls:
        """The process is gone: what became of its paths.

        Raises:
            DiskTimeout: a folder of the session does not answer, so nobody knows.
        """
        if not self._rules.safety or self._container is None:
            return self._walls()

        def look() -> tuple[dict[str, Mark], dict[str, Mark], dict[Path, tuple[str, ...]]]:
            new, made = find_new(self._rules)
            watched = dict.fromkeys((*self.paths.watched, *map(str, new)))
            programs = {path: find_git_programs(path, self._environ) for path in made[:MOST_REPOSITORIES]}
            return snapshot_again(self._before, watched, self._ours), _look_at(self._base), programs

        after, base, new = await self._ask_disk(look, "the protected paths, after the session")
        held = [path for path in self._held() if not self._gave_way(path, after)]
        held += [layer.folder for layer in self.paths.layers]
        changed: list[str] = []
        outside: list[str] = []
        new = {(path.parent if path.name == ".git" else path): programs for path, programs in new.items()}
        repositories = {str(path): None for path in new}
        runs = tuple(f"{path}: {', '.join(programs)}" for path, programs in new.items() if programs)
        for change in compare(self._before, after):
            if (made := self._new_repository(Path(change.path))) is not None:
                repositories[str(made.parent)] = None
                continue
            by_others = change.path not in self._named_twice and _below(Path(change.path), held)
            (outside if by_others else changed).append(str(change))
        for number, change in enumerate(compare(self._base, base)):
            if number < _NAMED:
                (outside if _below(Path(change.path), held) else changed).append(f"{change} (cms runs on it)")
        return self._walls(tuple(changed), tuple(outside), tuple(repositories), runs)

    async def _ask_disk(self, look: Callable[[], T], what: str) -> T:
        return await ask_disk(look, what, seconds=PATIENCE, limiter=self._limiter)

    def _gave_way(self, path: Path, after: Mapping[str, Mark]) -> bool:
        """Whether a path that was held is not certain to have been held to the end.

        A mount holds a file, not its name: where there is another file now, the mount was dropped, perhaps
        since the last look.
        """
        was, now = self._before.get(str(path)), after.get(str(path))
        return str(path) in self._lost or (was is not None and now is not None and was.inode != now.inode)

    def _new_repository(self, path: Path) -> Path | None:
        """The `.git` folder that the path is in, if there was none before."""
        for folder in path.parents:
            if folder.name == ".git":
                was = any(
                    mark.kind != "missing" and _below(Path(one), (folder,))
                    for one, mark in self._before.items()
                )
                return None if was else folder
        return None

    def _held(self) -> list[Path]:
        container = self._container
        if container is None:
            return []
        not_held = {lost.path for lost in container.unenforced}
        return [path for path in self.paths.protected if path not in not_held]

    def _walls(
        self,
        changed: tuple[str, ...] = (),
        outside: tuple[str, ...] = (),
        repositories: tuple[str, ...] = (),
        repository_programs: tuple[str, ...] = (),
    ) -> Walls:
        unheld: list[tuple[str, str]] = [(one.path, one.why) for one in self.paths.unheld]
        unheld += [(path, "it has another name (a hard link)") for path in sorted(self._named_twice)]
        if not is_whole(self._before):
            unheld.append(("the tripwire", f"there are more than {MOST_FILES} protected files"))
        if self._container is not None:
            unheld += _asked_for(self._container.unenforced, self.paths)
        return Walls(
            safety=self._rules.safety,
            held=len(self._held()),
            unheld=_words(unheld),
            lost=tuple(f"{path}: {why}" for path, why in self._lost.items()),
            changed=changed,
            outside=outside,
            repositories=repositories,
            repository_programs=repository_programs,
            anywhere=self._why_anywhere(),
            left_out=self.left_out,
            mistakes=self.mistakes,
            isolation=self._isolation,
        )

    def _why_anywhere(self) -> str:
        """Why the session can write outside of its places; "": it cannot."""
        if not self._rules.safety:
            return ""  # that is told, and says more
        if self.paths.places is None:
            return "--writes anywhere" if self._rules.writes == "anywhere" else "its work dir is /"
        if self._container is not None and not self._container.sandboxed:
            return "this machine has no walls (`cms doctor`)"
        return ""


def _look_at(paths: Iterable[str]) -> dict[str, Mark]:
    return {path: mark(path, content=False) for path in paths}


def _below(path: Path, paths: Iterable[Path]) -> bool:
    return any(path.is_relative_to(place) for place in paths)


def _asked_for(unenforced: Iterable[LostMount], paths: ProtectedPaths) -> list[tuple[str, str]]:
    """Of what the container cannot hold what the user's rules ask for; the rest (our own folder) is ours."""
    asked = {*paths.protected, *paths.hidden}
    return [(str(lost.path), lost.why) for lost in unenforced if lost.path in asked]


def _words(unheld: list[tuple[str, str]]) -> tuple[str, ...]:
    """One line each; but on a machine that holds nothing, not one line for every path."""
    counts = Counter(why for _, why in unheld)
    words = [f"{path}: {why}" for path, why in unheld if counts[why] <= _NAMED]
    words += [f"{count} protected paths: {why}" for why, count in counts.items() if count > _NAMED]
    return tuple(words)
