"""Protected paths: what an agent must not write (or read), however the path is spelled.

A path is judged in several forms: as written (made absolute against the work dir, `.` and `..` taken out)
and as the file system resolves it (links followed); if any is protected, it is. Comparison folds case and
Unicode forms, because on some file systems `.ENV` and `.env` are one file; refusing too much is harmless.

Patterns: `~` is the user's home; a pattern that begins with `/` is anchored, one that begins with `./` or
`../` (or is one of these) is anchored at the work dir, any other matches at every depth; `*` and `?` stay
within one name, `**` crosses. A pattern that matches a folder covers all below it. An anchored pattern that
protects also holds for the place that it resolves to: where `~/.ssh` is a link, what it points at is as
protected. One that allows does not, for the agent could have made the link.

The agent's file tools drop white space around a path, so a path is judged with and without it.

This is the first of three nets. It sees the file tools' own paths, before anything is written. What a shell
command writes it cannot see: that is for the container (the file system itself refuses) and for the tripwire.
This module knows no file system: where a path leads is looked up by a function that the caller gives to
`PathRules.locate` and judged as a value, a `NamedPath`.
"""

from __future__ import annotations

import functools
import posixpath
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import msgspec

from cms.session.protected_defaults import COMMANDS, DEFAULT_EXCEPTIONS, DEFAULT_PROTECTED, LISTS, MOVES

Resolve = Callable[[str], str]


class NamedPath(msgspec.Struct, frozen=True):
    """A path that somebody named, in every form in which it is judged.

    Attributes:
        name: as it was written.
        forms: absolute, as written and as the file system resolves it; none if there is a fault.
        fault: why it could not be resolved; then it counts as protected, and lies nowhere.
        unanswered: that is because the file system did not answer.
    """

    name: str
    forms: tuple[str, ...] = ()
    fault: str = ""
    unanswered: bool = False

    def within(self, folders: Iterable[str]) -> bool:
        """Whether every form of the path lies in one of the folders (given absolute and resolved)."""
        return bool(self.forms) and all(
            any(form == folder or form.startswith(folder.rstrip("/") + "/") for folder in folders)
            for form in self.forms
        )


def fold_name(path: str) -> str:
    """The form in which paths are compared: compatibility-composed and case-folded."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", path).casefold())


def _segment(pattern: str) -> str:
    parts = []
    # `**` inside of a name is one `*`: two in a row would make matching quadratic, and say nothing more.
    for char in re.sub(r"\*+", "*", pattern):
        if char == "*":
            parts.append("[^/]*")
        elif char == "?":
            parts.append("[^/]")
        else:
            parts.append(re.escape(char))
    return "".join(parts)


def compile_pattern(pattern: str, home: str, work_dir: str = "/") -> re.Pattern[str]:
    """A pattern as an expression that fully matches a folded absolute path, or one below it."""
    return _expression(_anchored(pattern, home, work_dir))


@functools.lru_cache(1024)  # sessions share nearly all of them, and making them took 5 ms of each start
def _expression(pattern: str, below: str = "(?:/.*)?") -> re.Pattern[str]:
    segments = [s for s in fold_name(pattern).split("/") if s not in ("", ".")]
    if not segments and not pattern.startswith("/"):
        return re.compile("(?!)")  # names nothing, so it means nothing: least of all everything
    expression = "" if pattern.startswith("/") else _DEPTHS
    for before, segment in zip([None, *segments], segments, strict=False):
        if segment != "**":
            expression += "/" + _segment(segment)
        elif before != "**":
            expression += _DEPTHS
    return re.compile(expression + below, re.DOTALL)


_DEPTHS = "(?:/[^/]+)*"

#: What JavaScript's `trim` takes off.
_SPACE = (
    "\t\n\v\f\r \u00a0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
    "\u2028\u2029\u202f\u205f\u3000\ufeff"
)

#: What following links may raise: OSError, RuntimeError for a loop (before Python 3.13), and ValueError for a
#: name that cannot be encoded.
_UNRESOLVABLE = (OSError, RuntimeError, ValueError)

#: No system opens a longer path; matching one would only cost time.
_LONGEST = 4096


def _anchored(pattern: str, home: str, work_dir: str) -> str:
    """The pattern with `~`, `.` and `..` at its beginning replaced by what they stand for."""
    if pattern == "~" or pattern.startswith("~/"):
        pattern = home + pattern[1:]
    # normpath keeps two slashes at the beginning.
    pattern = anchor(pattern, work_dir)
    return "/" + posixpath.normpath(pattern).lstrip("/") if pattern.startswith("/") else pattern


def anchor(pattern: str, work_dir: str) -> str:
    """The pattern with `.` and `..` at its beginning replaced by what they stand for."""
    if pattern.split("/")[0] not in (".", ".."):
        return pattern
    return posixpath.normpath(posixpath.join(work_dir, pattern))


class _Protected(msgspec.Struct, frozen=True):
    """A pattern that protects, and what of that it does not mean.

    Attributes:
        plain: the pattern, `~` and `./` made absolute.
        places: folded, of a pattern that means one path and all below it.
        expressions: of any other.
    """

    pattern: str
    plain: str
    places: tuple[str, ...]
    expressions: tuple[re.Pattern[str], ...]
    exceptions: tuple[re.Pattern[str], ...] = ()


class _Table(msgspec.Struct, frozen=True):
    """Patterns that protect, in the order in which they count, and how they are found.

    Attributes:
        at: by place, the numbers of those that mean it: most mean one, so they need not be tried each.
        wild: those with expressions, each with its number.
    """

    protected: tuple[_Protected, ...]
    at: Mapping[str, Sequence[int]]
    wild: tuple[tuple[int, _Protected], ...]

    def hits(self, folded: str, above: Iterable[str]) -> Iterator[_Protected]:
        """Those that mean a path, which is given with all folders that it lies in."""
        numbers = [number for place in above for number in self.at.get(place, ())]
        numbers += [n for n, one in self.wild if any(each.fullmatch(folded) for each in one.expressions)]
        return (self.protected[number] for number in sorted(numbers))


@functools.lru_cache(32)  # sessions share their defaults, which were most of what one of them held
def _table(protected: tuple[_Protected, ...]) -> _Table:
    at: dict[str, list[int]] = {}
    for number, one in enumerate(protected):
        for place in one.places:
            at.setdefault(place, []).append(number)
    return _Table(protected, at, tuple((n, one) for n, one in enumerate(protected) if one.expressions))


def _and_above(folded: str) -> list[str]:
    """An absolute path and all folders that it lies in."""
    ends = [at for at, char in enumerate(folded) if char == "/" and at]
    return ["/", *(folded[:end] for end in ends), folded]


def places_of(patterns: Iterable[str], home: str, work_dir: str) -> tuple[str, ...]:
    """The absolute paths among patterns: those that name one place, or all below it (`~/data/**`)."""
    anchored = (_anchored(pattern, home, work_dir).removesuffix("/**") for pattern in patterns)
    return tuple(path for path in anchored if path.startswith("/") and not set(path) & set("*?"))


def moved_places(
    patterns: Iterable[str], environ: Mapping[str, str], home: str, work_dir: str
) -> tuple[str, ...]:
    """Where the environment says that what the patterns protect is, besides the place that they name.

    Relative values are taken from the work dir, as the tools take them that run there. What would cover the
    whole home, or lies in the system's folders, is left out.
    """
    if _MOVING.isdisjoint(environ):
        return ()
    anchored = [_anchored(pattern, home, work_dir) for pattern in patterns]
    known = set(anchored)
    system = tuple(f"{one}/" for one in DEFAULT_PROTECTED if one.startswith("/") and one in known)
    found: dict[str, None] = {}
    for name, place in MOVES:
        variable, _, below = name.partition("/")
        if variable not in environ:
            continue
        stood = _anchored(place, home, work_dir)
        folded = fold_name(stood)
        for value in _named_by(variable, environ):
            base = posixpath.normpath(posixpath.join(work_dir, _anchored(value, home, work_dir), below))
            for pattern in anchored:
                if pattern.startswith(f"{stood}/"):
                    moved = base.rstrip("/") + pattern[len(stood) :]
                elif _expression(pattern).fullmatch(folded):
                    moved = base
                else:
                    continue
                if moved not in known and not f"{home}/".startswith(moved.rstrip("/") + "/"):
                    found[moved] = None
    return tuple(one for one in found if not one.startswith(system))


_MOVING = frozenset(name.partition("/")[0] for name, _ in MOVES)


def _named_by(variable: str, environ: Mapping[str, str]) -> Iterator[str]:
    """The paths in a variable's value; `$NAME` in it is replaced, as shells do in BASH_ENV."""
    value = re.sub(
        r"\$(?:\{(\w+)\}|(\w+))",
        lambda found: environ.get(found[1] or found[2], ""),
        environ[variable],
    )
    if variable in COMMANDS:
        yield from (word for word in value.split() if "/" in word)
    elif value:
        yield from filter(None, value.split(":") if variable in LISTS else (value,))


class PathRules:
    """Which paths are protected, for one session.

    Args:
        work_dir: absolute; relative paths are taken from here.
        home: the user's home folder, for `~`.
        protect: patterns added to the defaults.
        allow: patterns taken out again; they win.
        resolve: follows links, for what the patterns name; used only here.
        environ: the session's, for the variables that move what is protected.
        found: paths that are protected like the defaults.
    """

    def __init__(
        self,
        *,
        work_dir: str,
        home: str,
        resolve: Resolve,
        protect: Iterable[str] = (),
        allow: Iterable[str] = (),
        defaults: Iterable[str] = DEFAULT_PROTECTED,
        environ: Mapping[str, str] = {},
        found: Iterable[str] = (),
    ) -> None:
        self._work_dir = work_dir
        self._home = home
        real_home, real_work_dir = _resolved(home, resolve), _resolved(work_dir, resolve)
        here = (fold_name(work_dir), fold_name(real_work_dir))
        around = {place for one in here for place in _and_above(one)}
        usual, asked = tuple(defaults), tuple(protect)
        moved = moved_places(usual, environ, home, work_dir)
        protected = [self._compile(pattern, resolve) for pattern in (*usual, *moved, *found)]
        for number, one in enumerate(protected):
            exceptions = [_expression(text, "") for text in DEFAULT_EXCEPTIONS.get(one.pattern, ())]
            # Somebody whose project lies in /opt or /etc wants work done there: a default that covers the
            # whole work dir does not mean that, but all else that it covers. What a person asked for by name
            # always holds.
            if not around.isdisjoint(one.places) or any(
                each.fullmatch(place) for each in one.expressions for place in here
            ):
                exceptions += [_expression(place) for place in here]
            if exceptions:
                protected[number] = msgspec.structs.replace(one, exceptions=tuple(exceptions))
        asked += moved_places(asked, environ, home, work_dir)
        protected += [self._compile(pattern, resolve) for pattern in asked]
        # Those of this session alone are few, and come after the defaults.
        self._tables = (_table(tuple(protected[: len(usual)])), _table(tuple(protected[len(usual) :])))
        self._allowed = [
            compile_pattern(pattern, *places)
            for pattern in allow
            for places in ((home, work_dir), (real_home, real_work_dir))
        ]

    @property
    def any_protected(self) -> bool:
        """Whether anything is."""
        return any(table.protected for table in self._tables)

    @property
    def any_allowed(self) -> bool:
        """Whether something was taken out."""
        return bool(self._allowed)

    @property
    def patterns(self) -> tuple[str, ...]:
        """What is protected, to look for it: `~` and `./` made absolute, and all else as it was written."""
        return tuple(dict.fromkeys(one.plain for table in self._tables for one in table.protected))

    def _compile(self, pattern: str, resolve: Resolve) -> _Protected:
        """The pattern as written, and as its fixed part resolves."""
        plain = _anchored(pattern, self._home, self._work_dir)
        if not plain.startswith("/"):
            return _Protected(pattern, plain, (), (_expression(plain),))
        if "*" not in plain and "?" not in plain:
            return _of_place(pattern, plain, _resolved(plain, resolve))
        names = plain.split("/")
        fixed = next(n for n, name in enumerate(names) if "*" in name or "?" in name)
        real = _resolved("/".join(names[:fixed]) or "/", resolve)
        both = dict.fromkeys((plain, "/".join([real.rstrip("/"), *names[fixed:]])))
        return _Protected(pattern, plain, (), tuple(map(_expression, both)))

    def absolute(self, path: str) -> str:
        """The path as written, made absolute and plain."""
        if path == "~" or path.startswith("~/"):
            path = self._home + path[1:]
        # POSIX lets two slashes at the beginning mean something else, and normpath keeps them; they do not.
        return posixpath.normpath("/" + posixpath.join(self._work_dir, path).lstrip("/"))

    def locate(self, path: str, resolve: Resolve) -> NamedPath:
        """The path in the forms in which it is judged. What `resolve` raises is its fault."""
        if "\0" in path:
            return NamedPath(path, fault="a path with a NUL byte")
        if len(path) > _LONGEST:
            return NamedPath(path, fault="a path longer than any file's")
        forms: list[str] = []
        try:
            for written in dict.fromkeys((path, path.strip(_SPACE))):
                plain = self.absolute(written)
                forms += plain, resolve(plain)
                if ".." in written:
                    # For the system, `link/..` is not where the text says.
                    forms.append(resolve(posixpath.join(self._work_dir, written)))
        except _UNRESOLVABLE as error:
            return NamedPath(path, fault=f"a path that cannot be resolved ({error})")
        return NamedPath(path, tuple(dict.fromkeys(forms)))

    def match(self, path: NamedPath) -> str:
        """The pattern that protects this path, or "". One with a fault is protected by that."""
        for form in path.forms:
            folded = fold_name(form)
            if any(allowed.fullmatch(folded) for allowed in self._allowed):
                continue
            above = _and_above(folded)
            for one in (hit for table in self._tables for hit in table.hits(folded, above)):
                if not any(exception.fullmatch(folded) for exception in one.exceptions):
                    return one.pattern
        return path.fault

    def allows(self, path: NamedPath) -> bool:
        """Whether every form of the path was taken out of the protected ones by name."""
        return bool(path.forms) and all(
            any(one.fullmatch(fold_name(form)) for one in self._allowed) for form in path.forms
        )


@functools.lru_cache(2048)  # as `_expression`
def _of_place(pattern: str, plain: str, real: str) -> _Protected:
    places = dict.fromkeys((fold_name(plain), fold_name(real.rstrip("/") or "/")))
    return _Protected(pattern, plain, tuple(places), ())


def _resolved(path: str, resolve: Resolve) -> str:
    """Where it leads, or the path itself where nobody knows."""
    try:
        return resolve(path)
    except _UNRESOLVABLE:
        return path
