"""What a folder holds, as one short word: two looks that give the same one saw the same.

Of a repository: the commit that is checked out, and the content of everything in its work tree that git
does not ignore. Of any other folder: the content of all of it, if that is not much. What cannot be told for
sure is an error, never a guess.

Touches the disk, and runs git: call it in a thread. The repository is a stranger's: git reads its index with
an empty configuration of ours, so that nothing which the repository names is run; no link is followed.
"""

from __future__ import annotations

import hashlib
import os
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from cms.changes import git
from cms.errors import CmsError
from cms.files import open_regular

#: Files that are read for one look, and their bytes in all.
MOST_FILES: Final = 5000
MOST_BYTES: Final = 256 * 1024 * 1024
#: Seconds for one call of git.
_PATIENCE: Final = 20.0
_PIECE: Final = 1 << 20


class Untold(CmsError):
    """What a folder holds cannot be told."""


def folder_state(folder: Path) -> str:
    """A word for what the folder, and the repository that it lies in, hold.

    Raises:
        Untold: why it cannot be said.
    """
    try:
        repository = git.find_repository(folder)
        if repository is None:
            return _Reading().all_below(folder)
        return _of_repository(repository)
    except (OSError, subprocess.TimeoutExpired, UnicodeError) as error:
        raise Untold(f"what {folder} holds cannot be told: {error}") from error


def _of_repository(repository: git.Repository) -> str:
    commit, branch = git.read_head(repository)
    with tempfile.TemporaryDirectory(prefix="cms-state-") as name:
        ours = Path(name)
        (ours / "objects").mkdir()
        (ours / "refs").mkdir()
        (ours / "HEAD").write_text("ref: refs/heads/none\n")
        env = {
            "GIT_DIR": name,
            "GIT_WORK_TREE": str(repository.top),
            "GIT_INDEX_FILE": str(repository.git / "index"),
        }
        excludes = repository.common / "info" / "exclude"
        exclude = [f"--exclude-from={excludes}"] if excludes.is_file() and not excludes.is_symlink() else []

        def ask(*argv: str) -> list[bytes]:
            done = git.run(argv, cwd=repository.top, env=env, own_configuration=True, seconds=_PATIENCE)
            if done.returncode:
                said = done.stderr.decode(errors="replace").strip().splitlines()
                raise Untold(f"git cannot read {repository.top}: {said[-1] if said else done.returncode}")
            return done.stdout.split(b"\0")[:-1]

        content: dict[bytes, bytes] = {}
        for line in ask("ls-files", "-z", "--stage"):
            facts, _, path = line.partition(b"\t")
            if facts.startswith(b"160000") or facts.endswith((b" 1", b" 2", b" 3")):
                raise Untold(f"{repository.top} has submodules, or a merge under way")
            content[path] = facts
        odd = set(ask("diff-files", "-z", "--name-only", "--no-ext-diff"))
        odd.update(ask("ls-files", "-z", "--others", "--exclude-standard", *exclude))
    reading = _Reading()
    for path in odd:
        if path.endswith(b"/"):
            raise Untold(f"{repository.top} holds another repository: {os.fsdecode(path)}")
        found = reading.blob(repository.top / os.fsdecode(path))
        if found is None:
            content.pop(path, None)
        else:
            content[path] = found + b" 0"
    whole = hashlib.sha256(f"{commit} {branch}\0".encode(errors="surrogateescape"))
    for path in sorted(content):
        whole.update(content[path] + b"\t" + path + b"\0")
    return whole.hexdigest()


class _Reading:
    """Reads files up to a bound."""

    def __init__(self) -> None:
        self._files = 0
        self._bytes = 0

    def all_below(self, folder: Path) -> str:
        whole = hashlib.sha256()
        for path in self._walk(folder):
            whole.update(os.fsencode(path.relative_to(folder)) + b"\0" + (self.blob(path) or b"") + b"\0")
        return whole.hexdigest()

    def _walk(self, folder: Path) -> Iterator[Path]:
        with os.scandir(folder) as entries:
            found = sorted(entries, key=lambda entry: entry.name)
        for entry in found:
            yield Path(entry.path)
            if entry.is_dir(follow_symlinks=False):
                yield from self._walk(Path(entry.path))

    def blob(self, path: Path) -> bytes | None:
        """Its mode and content as git names them; None: it is not there.

        Raises:
            Untold: there is too much, or it is no file.
        """
        self._files += 1
        try:
            found = path.lstat()
        except FileNotFoundError:
            return None
        self._bytes += found.st_size if stat.S_ISREG(found.st_mode) else 0
        if self._files > MOST_FILES or self._bytes > MOST_BYTES:
            raise Untold(f"there is too much in {path.parent} that git does not keep to look at all of it")
        if stat.S_ISLNK(found.st_mode):
            return b"120000 " + _name(os.fsencode(path.readlink()))
        if stat.S_ISDIR(found.st_mode):
            return b"40000"
        if not stat.S_ISREG(found.st_mode):
            raise Untold(f"{path} is neither a file nor a folder")
        fd = open_regular(path)
        try:
            size = os.fstat(fd).st_size
            digest = hashlib.sha1(b"blob %d\0" % size)  # noqa: S324 - git's names
            while data := os.read(fd, _PIECE):
                digest.update(data)
        finally:
            os.close(fd)
        mode = b"100755 " if found.st_mode & stat.S_IXUSR else b"100644 "
        return mode + digest.hexdigest().encode()


def _name(data: bytes) -> bytes:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest().encode()  # noqa: S324 - git's names
