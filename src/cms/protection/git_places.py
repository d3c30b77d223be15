"""What git reads its settings from and what it executes, for the repositories of a session's folders.

A person's next `git status` runs what these name. So they are protected like the hooks, wherever they are:
- the settings of the system, the user, the repository and the work tree, and what they include, every
  condition taken as met;
- the folder of hooks (`core.hooksPath`), the files of attributes, the folder of templates;
- the programs and scripts that a setting names: helpers, filters, drivers, editors, aliases. Each value is
  searched for the files that its words name, for new keys come with every version of git;
- what a repository shares: the folder that a `.git` file or `commondir` names, its other work trees, its
  submodules.

git itself is never asked: in an agent's folder it would run what stands there. All is read as a stranger's
(`disk.read_small`), bounded in files and bytes. Nothing is opened by what is found here, it is only closed.

Everything here touches the disk: call it in a thread.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from cms.disk import read_small
from cms.protection.git_config import Entry, from_environment, parse

#: Bytes of one file, files in all, files that one file may include in turn, and repositories in all.
_LONGEST: Final = 256 * 1024
_MOST_FILES: Final = 500
_DEEPEST: Final = 10
MOST_REPOSITORIES: Final = 300
#: Words of values that are looked up on the disk.
_MOST_WORDS: Final = 3000

#: Values that name a file of data, or no file at all.
_DATA: Final = re.compile(
    r"core\.(excludesfile|worktree|bare|filemode|repositoryformatversion)|commit\.template|mailmap\..*|blame\..*|fsck\..*"
    r"|user\..*|author\..*|committer\..*|(remote|branch|submodule|url)\..*\.(url|pushurl|fetch|push|merge|remote|"
    r"active|path|branch|insteadof|pushinsteadof)|color\..*|advice\..*|safe\.directory|init\.defaultbranch"
)
#: Values that are commands: what they name is protected before it is there.
_COMMANDS: Final = re.compile(
    r"core\.(fsmonitor|sshcommand|editor|pager|askpass|gitproxy|alternaterefscommand)|sequence\.editor"
    r"|credential\.(.*\.)?helper|diff\.(external|.*\.(command|textconv))|merge\..*\.driver"
    r"|filter\..*\.(clean|smudge|process)|gpg\.(.*\.)?(program|defaultkeycommand)|alias\..*|pager\..*"
    r"|interactive\.difffilter|uploadpack\.packobjectshook|.*\.(cmd|command)"
)
_FOLDERS: Final = ("core.hookspath", "init.templatedir")
_FILES: Final = ("core.attributesfile", "gpg.ssh.allowedsignersfile", "gpg.ssh.revocationfile")
#: githooks(5), for hooks that lie in the middle of other files.
_HOOKS: Final = (
    "applypatch-msg", "pre-applypatch", "post-applypatch", "pre-commit", "pre-merge-commit",
    "prepare-commit-msg", "commit-msg", "post-commit", "pre-rebase", "post-checkout", "post-merge",
    "pre-push", "pre-receive", "update", "proc-receive", "post-receive", "post-update",
    "reference-transaction",
    "push-to-checkout", "pre-auto-gc", "post-rewrite", "sendemail-validate", "fsmonitor-watchman",
    "p4-changelist", "p4-prepare-changelist", "p4-post-changelist", "p4-pre-submit", "post-index-change",
)  # fmt: skip


def find_git_places(
    folders: Sequence[Path], repositories: Iterable[Path], environ: Mapping[str, str]
) -> tuple[Path, ...]:
    """Everything of that kind, whether it exists or not.

    Args:
        folders: where the session works.
        repositories: what was found there (`survey`); those that the folders lie in are looked for here.
        environ: the session's.
    """
    finder = _Finder(folders, environ)
    above = (parent / ".git" for folder in folders for parent in folder.parents)
    for entry in dict.fromkeys((*repositories, *filter(os.path.lexists, above))):
        finder.add(entry)
    if folder := environ.get("GIT_DIR", ""):
        finder.add(folders[0] / folder)
    return tuple(path for path in finder.found if not finder.is_needed(path))


def find_git_programs(repository: Path, environ: Mapping[str, str]) -> tuple[str, ...]:
    """What git would run of a repository's own: hooks that are there, and settings that name commands.

    Args:
        repository: its `.git`, or a folder that is one by itself.
    """
    finder = _Finder((repository.parent,), environ, everywhere=False)
    finder.add(repository)
    hooks = (hook for path in finder.found if path.name == "hooks" for hook in _entries(path))
    ready = (f"hook {hook.name}" for hook in hooks if hook.suffix != ".sample" and os.access(hook, os.X_OK))
    commands = (
        entry.key
        for entry in finder.own
        if entry.value not in ("", "true", "false")
        and (entry.key == "core.hookspath" or _COMMANDS.fullmatch(entry.key))
    )
    return tuple(dict.fromkeys((*ready, *commands)))


class _Finder:
    """Of `find_git_places`.

    Attributes:
        found: the places.
        own: the settings of the repositories themselves.
    """

    def __init__(
        self, folders: Sequence[Path], environ: Mapping[str, str], *, everywhere: bool = True
    ) -> None:
        self.found: dict[Path, None] = {}
        self.own: list[Entry] = []
        self._home = Path(environ.get("HOME") or "~").expanduser()
        self._needed = [*map(_real, folders), _real(self._home)]
        self._folders = folders
        self._common = environ.get("GIT_COMMON_DIR", "")
        self._files = _MOST_FILES
        self._words = _MOST_WORDS
        self._read: dict[Path, tuple[Entry, ...]] = {}
        self._repositories: set[tuple[Path, Path]] = set()
        self._everywhere = self._of_user_and_system(environ) if everywhere else []
        for top in folders:
            self._name(self._everywhere, top)

    def _of_user_and_system(self, environ: Mapping[str, str]) -> list[Entry]:
        config = Path(environ.get("XDG_CONFIG_HOME") or self._home / ".config") / "git"
        files = [Path("/etc/gitconfig"), config / "config", self._home / ".gitconfig"]
        if git := shutil.which("git", path=environ.get("PATH")):
            files.append(Path(git).parent.parent / "etc" / "gitconfig")
        named = (environ.get(name, "") for name in ("GIT_CONFIG_SYSTEM", "GIT_CONFIG_GLOBAL", "GIT_CONFIG"))
        files += [self._folders[0] / name for name in named if name]
        self.found[config / "attributes"] = None
        entries = [entry for file in files for entry in self._settings(file)]
        handed = list(from_environment(environ))
        return [*entries, *handed, *self._included(handed, self._folders[0], 0)]

    def add(self, entry: Path) -> None:
        """A `.git`, or a folder that is a repository by itself."""
        top = entry.parent if entry.name == ".git" else entry
        folder = entry
        if entry.name == ".git" and (entry.is_symlink() or not entry.is_dir()):
            self.found[entry] = None  # it says where the hooks are
            text = _text(entry)
            folder = entry.parent / text.removeprefix("gitdir:").strip() if text else entry
        self._repository(_normal(folder), top)

    def _repository(self, folder: Path, top: Path) -> None:
        if len(self._repositories) >= MOST_REPOSITORIES or (folder, top) in self._repositories:
            return
        self._repositories.add((folder, top))
        common = folder
        if named := self._common or _text(folder / "commondir").strip():
            common = _normal(folder / named)
        if common == Path("/"):
            return
        self.found[folder / "commondir"] = None
        for name in ("commondir", "config", "hooks", "info/attributes"):
            self.found[common / name] = None
        entries = [*self._settings(common / "config"), *self._settings(folder / "config.worktree")]
        self.own += entries
        for entry in entries:
            if entry.key == "core.worktree" and entry.value:
                top = _normal(folder / entry.value)
        self._name((*self._everywhere, *entries), top)
        for tree in _entries(common / "worktrees"):
            named = _text(tree / "gitdir").strip()
            self._repository(tree, Path(named).parent if named.startswith("/") else top)
        for module in _modules(common / "modules", 4):
            self._repository(module, top)

    def _settings(self, file: Path, depth: int = 0) -> tuple[Entry, ...]:
        """The settings of a file, and of those that it includes."""
        self.found[file] = None
        if file not in self._read:
            if self._files <= 0 or depth > _DEEPEST:
                return ()
            self._files -= 1
            self._read[file] = ()  # what includes itself
            own = tuple(parse(_text(file)))
            self._read[file] = (*own, *self._included(own, file.parent, depth))
        return self._read[file]

    def _included(self, entries: Iterable[Entry], base: Path, depth: int) -> list[Entry]:
        files = [
            self._path(entry.value, base)
            for entry in entries
            if entry.value
            and (entry.key == "include.path" or re.fullmatch(r"includeif\..*\.path", entry.key))
        ]
        return [found for file in files for found in self._settings(file, depth + 1)]

    def _name(self, entries: Iterable[Entry], top: Path) -> None:
        """What settings name, for commands that run at the top of a work tree."""
        for entry in entries:
            if not entry.value or entry.key.startswith("include"):
                continue
            if entry.key in _FOLDERS:
                self._folder(self._path(entry.value, top))
            elif entry.key in _FILES:
                self.found[self._path(entry.value, top)] = None
            elif not _DATA.fullmatch(entry.key):
                self.found.update(dict.fromkeys(self._programs(entry, top)))

    def _folder(self, folder: Path) -> None:
        if folder.name == "_" and not self.is_needed(folder.parent):
            folder = folder.parent  # husky: the hooks run what lies beside their folder
        if self.is_needed(folder):
            self.found.update((folder / name, None) for name in _HOOKS)
        else:
            self.found[folder] = None

    def is_needed(self, folder: Path) -> bool:
        """Whether the session works in it, or the home lies there: it cannot be closed as a whole."""
        real = _real(folder)
        return any(one.is_relative_to(real) for one in self._needed)

    def _programs(self, entry: Entry, top: Path) -> Iterator[Path]:
        words = [word for word in re.split(r"[\s'\"`;|&()<>=$!,]+", entry.value)[:50] if word]
        for number, word in enumerate(dict.fromkeys((entry.value, *words))):
            if "://" in word or ("/" not in word and number < 2):
                continue  # a single word is looked for in the folders of PATH
            self._words -= 1
            path = self._path(word, top)
            certain = word == words[0] and _COMMANDS.fullmatch(entry.key) is not None
            if self._words >= 0 and (certain or os.path.isfile(path)):  # noqa: PTH113 (a name can be too long)
                yield path

    def _path(self, value: str, base: Path) -> Path:
        """As git reads a path: `~` is the home, and all else is relative to `base`."""
        value = value.removeprefix(":(optional)")
        if value == "~" or value.startswith("~/"):
            return _normal(self._home / value[2:])
        return _normal(base / value)


def _text(path: Path) -> str:
    """The text of a regular file of bounded size, wherever a link leads; "" for anything else."""
    try:
        return read_small(path, _LONGEST).decode("utf-8", "surrogateescape").replace("\0", "")
    except (OSError, ValueError):
        return ""


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())[:MOST_REPOSITORIES]
    except OSError:
        return []


def _modules(folder: Path, depth: int) -> Iterator[Path]:
    """The git folders of submodules: their names may have slashes, and each may have its own submodules."""
    for entry in _entries(folder) if depth else ():
        if (entry / "HEAD").is_file():
            yield entry
        elif entry.is_dir() and not entry.is_symlink():
            yield from _modules(entry, depth - 1)


def _normal(path: Path) -> Path:
    return Path(os.path.normpath(path))


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path))
