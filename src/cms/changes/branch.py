"""The commits of a task, and a change as a branch of the folder's repository. What is checked out stays.

What a task committed is in its own view of `.git`. Only objects are taken from there, and where its HEAD
stood. They are kept as a pack, checked when it is brought in. Hooks, settings and index are not looked at.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from cms.changes import git
from cms.changes.content import Store, sync_paths
from cms.changes.model import UNBOUND, Change, Commits, Entry, Start
from cms.changes.reading import Reading
from cms.changes.tree import Tree, join
from cms.errors import MachineError, WrongChange

PACK: Final = "commits.pack"
_OBJECTS: Final = b".git/objects"
_MOST_SUBJECTS: Final = 20
#: Bytes of a file that names a commit.
_LONGEST: Final = 4096


def keep_commits(reading: Reading, keep: Path, start: Start) -> Commits | None:
    """Keep what the task committed, durably. None: nothing, or there is no git.

    Raises:
        OSError: it cannot be kept.
    """
    pack = keep / PACK
    base = git.find_repository(Path(os.path.realpath(reading.base)))
    if git.find() is None or base is None:
        return None
    with tempfile.TemporaryDirectory(prefix="git-", dir=keep) as drafts, Tree(reading.after) as tree:
        head, branch = _head_of(tree, reading, base)
        if not head or head == start.commit:
            return None
        lent = Path(drafts)
        _lend_objects(tree, lent)
        with git.ObjectStore([lent, base.common / "objects"], sha256=len(head) == 64) as objects:
            wanted = f"{head}\n" + (f"^{start.commit}\n" if start.commit else "")
            try:
                count = int(objects.ask("rev-list", "--count", "--stdin", input=wanted.encode()))
                subjects = objects.ask(
                    "log", "-z", "--format=%s", f"-n{_MOST_SUBJECTS}", "--stdin", input=wanted.encode()
                )
                data = objects.ask("pack-objects", "--revs", "--stdout", "-q", input=wanted.encode())
            except MachineError:
                return None  # its HEAD names what is not there: nothing was committed that could be kept
    pack.write_bytes(data)
    sync_paths([pack])
    told = tuple(_clean(each) for each in subjects.split(b"\0") if each)
    return Commits(head, branch, count, told)


def bring_branch(keep: Path, branch: str, *, message: str, folder: Path | None = None) -> str:
    """Make a branch: of the task's own commits where it made some, and what it left uncommitted as one more.

    Hooks, filters and the repository's own programs do not run. The author is who git says the user is.

    Args:
        branch: its name, without `refs/heads/`; must not exist.
        message: of the commit that is made of what was not committed.

    Returns:
        The commit that the branch stands at.

    Raises:
        ChangeNotFound: there is none.
        WrongChange: the folder is no git repository, the name cannot be a branch's or is taken, or the
            change is empty.
        MachineError: git is not there or fails.
    """
    from cms.changes.freeze import load  # it keeps commits by this module

    change = load(keep)
    target = Path(os.path.realpath(folder or change.folder))
    repository = git.find_repository(target)
    if repository is None:
        raise WrongChange(f"{target} is in no git repository")
    bringer = _Bringer(keep, change, repository, repository.prefix(target))
    return bringer.bring(branch, message)


class _Bringer:
    def __init__(self, keep: Path, change: Change, repository: git.Repository, prefix: bytes) -> None:
        self.keep = keep
        self.change = change
        self.repository = repository
        self.prefix = prefix
        self.store = Store(keep / "content", UNBOUND)

    def ask(self, *argv: str, data: bytes = b"", index: str = "") -> bytes:
        env = {"GIT_DIR": str(self.repository.git), **({"GIT_INDEX_FILE": index} if index else {})}
        return git.ask(argv, cwd=self.keep, input=data, env=env)

    def bring(self, branch: str, message: str) -> str:
        self._check_name(branch)
        parent = self._bring_commits()
        entries = [entry for entry in self.change.entries if not entry.ignored]
        commit = self._commit(parent, entries, message)
        if not commit or commit == self.change.start.commit:
            raise WrongChange("there is nothing in the change that a branch could hold")
        # Only if there is none: another may have made it since.
        absent = "0" * len(commit)
        self.ask("update-ref", "-m", "cms: a task's change", f"refs/heads/{branch}", commit, absent)
        return commit

    def _check_name(self, branch: str) -> None:
        try:
            self.ask("check-ref-format", "--branch", branch)
        except MachineError:
            raise WrongChange(f"{branch!r} cannot be the name of a branch") from None
        with contextlib.suppress(MachineError):
            self.ask("rev-parse", "--verify", "-q", f"refs/heads/{branch}")
            raise WrongChange(f"there is a branch {branch!r} already")

    def _bring_commits(self) -> str:
        """The task's commits into the repository; the newest of them, or what the task started from."""
        commits = self.change.commits
        if commits is not None:
            self.ask("index-pack", "--stdin", "--strict", data=(self.keep / PACK).read_bytes())
            return commits.head
        start = self.change.start.commit
        if start:
            with contextlib.suppress(MachineError):
                self.ask("cat-file", "-e", f"{start}^{{commit}}")
                return start
        return git.read_head(self.repository)[0]

    def _commit(self, parent: str, entries: Sequence[Entry], message: str) -> str:
        """What was not committed, as one commit on top; the parent, if that is nothing."""
        with tempfile.TemporaryDirectory(prefix="index-", dir=self.keep) as place:
            index = str(Path(place, "index"))
            self.ask("read-tree", parent if parent else "--empty", index=index)
            self.ask("update-index", "-z", "--index-info", data=b"".join(self._lines(entries)), index=index)
            tree = self.ask("write-tree", index=index).decode().strip()
        if parent and tree == self.ask("rev-parse", f"{parent}^{{tree}}").decode().strip():
            return parent
        if not parent and not entries:
            return ""
        argv = ["commit-tree", tree, *(["-p", parent] if parent else [])]
        env = {"GIT_DIR": str(self.repository.git), **_identity(self.repository.top)}
        return git.ask(argv, cwd=self.keep, input=message.encode() + b"\n", env=env).decode().strip()

    def _lines(self, entries: Sequence[Entry]) -> Iterator[bytes]:
        """For `update-index --index-info`: what goes before what comes."""
        absent = b"0" * len(self.change.start.commit or "0" * 40)
        for entry in entries:
            if entry.before is None or entry.before.type != "dir":
                yield b"0 %s\t%s\0" % (absent, self.prefix + entry.path)
        for entry, blob in zip(entries, self._blobs(entries), strict=True):
            if entry.after is not None and blob:
                mode = "120000"
                if entry.after.type == "file":
                    mode = "100755" if entry.after.mode & 0o100 else "100644"
                yield b"%s %s\t%s\0" % (mode.encode(), blob.encode(), self.prefix + entry.path)

    def _blobs(self, entries: Sequence[Entry]) -> list[str]:
        """The objects of what is there after; "" of folders and of what is gone."""
        files = [entry.after for entry in entries if entry.after is not None and entry.after.type == "file"]
        paths = "".join(f"{self.store.path(node.content)}\n" for node in files)
        said = self.ask("hash-object", "-w", "--no-filters", "--stdin-paths", data=os.fsencode(paths))
        of_files = iter(said.decode().split())
        found = []
        for entry in entries:
            if entry.after is None or entry.after.type == "dir":
                found.append("")
            elif entry.after.type == "file":
                found.append(next(of_files))
            else:
                data = entry.after.target
                found.append(self.ask("hash-object", "-w", "--stdin", data=data).decode().strip())
        return found


def _identity(top: Path) -> dict[str, str]:
    """Who the user is to git, in the words of the environment.

    Raises:
        MachineError: git does not know it.
    """
    found: dict[str, str] = {}
    for who in ("AUTHOR", "COMMITTER"):
        told = git.ask(["var", f"GIT_{who}_IDENT"], cwd=top, own_configuration=True)
        said = told.decode("utf-8", "surrogateescape")
        match = re.fullmatch(r"(.*) <(.*)> \d+ [+-]\d+\s*", said)
        if match is None:
            raise MachineError(
                "git does not know who you are", hint="git config --global user.email YOU@HOST"
            )
        found |= {f"GIT_{who}_NAME": match[1], f"GIT_{who}_EMAIL": match[2]}
    return found


# --- what is in the task's view of .git ---------------------------------------------------------------


def _head_of(tree: Tree, reading: Reading, base: git.Repository) -> tuple[str, str]:
    """The commit and the branch that the task's HEAD stood at."""
    found = tree.look(b".git")
    if found is not None and stat.S_ISREG(found.st_mode):  # a linked worktree of the repository itself
        worktree = git.find_repository(reading.after)
        return git.read_head(worktree) if worktree is not None else ("", "")
    own = base.top == Path(os.path.realpath(reading.base)) and reading.layer
    head = _read(tree, b"HEAD", base.git if own else None)
    if not head.startswith(b"ref: refs/heads/"):
        return (head.decode() if git.is_id(head) else ""), ""
    name = head[5:]
    if any(part in (b"", b".", b"..") for part in name.split(b"/")):
        return "", ""
    branch = name.removeprefix(b"refs/heads/").decode("utf-8", "backslashreplace")
    commit = _read(tree, name, None)
    if not commit:
        packed = _read(tree, b"packed-refs", base.common if own else None, most=1 << 24)
        for line in packed.splitlines():
            if line.endswith(b" " + name):
                commit = line.partition(b" ")[0]
    if not commit and own:
        commit = git.read_ref(base.common, name).encode()
    return (commit.decode() if git.is_id(commit) else ""), branch


def _read(tree: Tree, name: bytes, below: Path | None, *, most: int = _LONGEST) -> bytes:
    """A small file of `.git`: the task's, or else the repository's."""
    with contextlib.suppress(OSError), os.fdopen(tree.open(b".git/" + name), "rb") as file:
        return file.read(most).strip()
    if below is not None:
        with contextlib.suppress(OSError):
            return (below / os.fsdecode(name)).read_bytes()[:most].strip()
    return b""


def _lend_objects(tree: Tree, folder: Path) -> None:
    """The task's objects, where git can read them: plain files alone, and no list of further places."""
    with contextlib.suppress(OSError):
        for name in tree.names(_OBJECTS):
            place = join(_OBJECTS, name)
            if len(name) != 2 and name != b"pack":
                continue
            with contextlib.suppress(OSError):
                target = folder / os.fsdecode(name)
                target.mkdir()
                for each in tree.names(place):
                    _lend(tree, join(place, each), target / os.fsdecode(each))


def _lend(tree: Tree, path: bytes, target: Path) -> None:
    found = tree.look(path)
    if found is None or not stat.S_ISREG(found.st_mode):
        return
    above, name = tree.place(path)
    try:
        os.link(name, os.fsencode(target), src_dir_fd=above, follow_symlinks=False)
    except OSError:
        with os.fdopen(tree.open(path), "rb") as source, target.open("wb") as copy:
            while piece := source.read(1 << 20):
                copy.write(piece)


def _clean(subject: bytes) -> str:
    text = subject.decode("utf-8", "backslashreplace")
    return "".join(each if each.isprintable() else "?" for each in text)[:200]
