"""A change as a branch of the repository, on top of what the task committed. What is checked out stays."""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from cms.changes import git
from cms.changes.commits import PACK
from cms.changes.content import Store
from cms.changes.freeze import load
from cms.changes.model import UNBOUND, Change, Entry
from cms.errors import MachineError, WrongChange


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
    change = load(keep)
    target = Path(os.path.realpath(folder or change.folder))
    repository = git.find_repository(target)
    if repository is None:
        raise WrongChange(f"{target} is not in a git repository")
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
            raise WrongChange("the change has nothing that a branch can hold")
        # Only if there is none: another may have made it since.
        absent = "0" * len(commit)
        self.ask("update-ref", "-m", "cms: a task's change", f"refs/heads/{branch}", commit, absent)
        return commit

    def _check_name(self, branch: str) -> None:
        try:
            self.ask("check-ref-format", "--branch", branch)
        except MachineError:
            raise WrongChange(f"{branch!r} is not a valid branch name") from None
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
