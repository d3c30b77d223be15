"""A work tree of a folder's commit, in a folder of ours: for a task that begins from what is committed."""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path
from typing import Final

from cms.changes import git

#: The file in which a folder names, as in .gitignore, what of its untracked files comes along.
INCLUDE: Final = ".worktreeinclude"
#: Of the repository's own settings: what work in it needs, and what runs nothing.
_SETTINGS: Final = ("user.name", "user.email", "remote.origin.url")


def why_no_checkout(folder: Path) -> str:
    """Why there can be none of that folder; "": there can. Starts no program."""
    repository = git.find_repository(Path(os.path.realpath(folder)))
    if repository is None or repository.top != Path(os.path.realpath(folder)):
        return f"{folder} is not the top of a git repository"
    if not git.read_head(repository)[0]:
        return "its repository has no commit yet"
    return "" if git.find() else "git is not installed"


def check_out(folder: Path, target: Path, commit: str, branch: str) -> tuple[bytes, ...]:
    """Make a repository of its own in a new folder, at that commit, with what `.worktreeinclude` names.

    No hook, filter or program of the repository runs. Objects are hard links, where that can be.

    Returns:
        The files that were copied beside what is committed.

    Raises:
        MachineError: git fails.
        OSError: there is no room.
    """
    allowed = {"GIT_ALLOW_PROTOCOL": "file"}
    git.ask(
        ["clone", "-q", "--no-checkout", "--template=", str(folder), str(target)], cwd=folder, env=allowed
    )
    for key in _SETTINGS:
        said = git.run(["config", "--local", "--get", key], cwd=folder).stdout.rstrip(b"\n")
        if said:
            git.ask(["config", "--local", key, os.fsdecode(said)], cwd=target)
    git.ask(["checkout", "-q", *(("-B", branch) if branch else ("--detach",)), commit], cwd=target)
    if not (folder / INCLUDE).is_file():
        return ()
    listed = git.ask(
        ["ls-files", "-z", "--others", "--ignored", f"--exclude-from={folder / INCLUDE}"], cwd=folder
    )
    return tuple(name for name in sorted(listed.split(b"\0")) if name and _copy(folder, target, name))


def _copy(folder: Path, target: Path, name: bytes) -> bool:
    source, copy = folder / os.fsdecode(name), target / os.fsdecode(name)
    mode = source.lstat().st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISLNK(mode):
        return False
    copy.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(source, copy, follow_symlinks=False)
    return True
