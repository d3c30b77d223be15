"""git, held to plain work: no hook, no filter, no program that a repository's configuration names.

A repository's own configuration is a stranger's. For reading objects there is an empty repository of ours, to
which the real objects are lent (`ObjectStore`), so no configuration is read at all. Where git must look at
the real repository, what could run a program is switched off.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Final, NamedTuple

from cms.errors import MachineError

#: Seconds for one call.
PATIENCE: Final = 60.0

_NO_PROGRAMS: Final = (
    "core.hooksPath=/dev/null", "core.fsmonitor=false", "core.attributesFile=/dev/null", "core.pager=cat",
    "core.alternateRefsCommand=", "commit.gpgSign=false", "gc.auto=0", "maintenance.auto=false",
    "protocol.allow=never", "safe.directory=*",
)  # fmt: skip
#: Calls of git that one look for ignored files may take.
_MOST_CALLS: Final = 100
#: Bytes of a file that names a folder.
_LONGEST: Final = 8192
_KEPT: Final = ("PATH", "TMPDIR", "LD_LIBRARY_PATH")
_WHO: Final = (
    "HOME", "XDG_CONFIG_HOME", "EMAIL", "GIT_CONFIG_GLOBAL", "GIT_CONFIG_SYSTEM", "GIT_AUTHOR_NAME",
    "GIT_AUTHOR_EMAIL", "GIT_COMMITTER_NAME", "GIT_COMMITTER_EMAIL",
)  # fmt: skip
_ID: Final = re.compile(rb"[0-9a-f]{40}(?:[0-9a-f]{24})?")


@cache
def find() -> str | None:
    """Where git is, if it is."""
    return shutil.which("git")


def run(
    argv: Sequence[str],
    *,
    cwd: Path,
    input: bytes = b"",  # noqa: A002 (as subprocess names it)
    env: Mapping[str, str] | None = None,
    own_configuration: bool = False,
    seconds: float = PATIENCE,
) -> subprocess.CompletedProcess[bytes]:
    """Run git.

    Args:
        own_configuration: with the user's and the system's.

    Raises:
        OSError: it cannot be started.
        subprocess.TimeoutExpired: it took too long, and was killed.
    """
    program = find()
    if program is None:
        raise FileNotFoundError("git")
    found = {name: os.environ[name] for name in _KEPT if name in os.environ}
    if own_configuration:
        found |= {name: os.environ[name] for name in _WHO if name in os.environ}
    else:
        found |= {"GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": os.devnull, "HOME": os.devnull}
    found |= {
        "LC_ALL": "C",
        "GIT_ATTR_NOSYSTEM": "1",
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_NO_LAZY_FETCH": "1",
        "GIT_NO_REPLACE_OBJECTS": "1",
        "GIT_OPTIONAL_LOCKS": "0",
        **(env or {}),
    }
    options = [word for each in _NO_PROGRAMS for word in ("-c", each)]
    return subprocess.run(
        [program, *options, *argv],
        cwd=cwd,
        env=found,
        input=input,
        capture_output=True,
        check=False,
        timeout=seconds,
    )


def ask(
    argv: Sequence[str],
    *,
    cwd: Path,
    input: bytes = b"",  # noqa: A002
    env: Mapping[str, str] | None = None,
    own_configuration: bool = False,
) -> bytes:
    """What git says.

    Raises:
        MachineError: it is not there, or fails.
    """
    try:
        done = run(argv, cwd=cwd, input=input, env=env, own_configuration=own_configuration)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise MachineError(f"git {argv[0]} did not run: {error}") from error
    if done.returncode != 0:
        said = done.stderr.decode("utf-8", "backslashreplace").strip().splitlines()
        raise MachineError(f"git {argv[0]} failed: {said[-1][:300] if said else done.returncode}")
    return done.stdout


class Repository(NamedTuple):
    """The repository whose work tree a folder lies in.

    Attributes:
        top: the work tree.
        git: its own folder, `.git` or what that names.
    """

    top: Path
    git: Path

    @property
    def common(self) -> Path:
        """Where objects and branches are: of a linked worktree another folder than its own."""
        try:
            told = (self.git / "commondir").read_bytes().decode("utf-8", "surrogateescape").strip()
        except OSError:
            return self.git
        return Path(os.path.normpath(self.git / told))

    def prefix(self, folder: Path) -> bytes:
        """What a path in the folder has before it in the repository: "" or ends with a slash."""
        below = os.fsencode(os.path.relpath(os.path.realpath(folder), os.path.realpath(self.top)))
        return b"" if below == b"." else below + b"/"


def find_repository(folder: Path) -> Repository | None:
    """Without running a program."""
    for place in (folder, *folder.parents):
        found = place / ".git"
        try:
            if found.is_dir():
                return Repository(place, found)
            if found.is_file() and found.stat().st_size < _LONGEST:
                told = found.read_bytes().decode("utf-8", "surrogateescape")
                named = place / told.removeprefix("gitdir:").strip()
                return Repository(place, named) if named.is_dir() else None
        except OSError:
            return None
    return None


def is_id(text: bytes) -> bool:
    """Whether it is the name of an object."""
    return _ID.fullmatch(text) is not None


def read_head(repository: Repository) -> tuple[str, str]:
    """The commit and the branch that are checked out, read without a program; "" what cannot be told."""
    try:
        head = (repository.git / "HEAD").read_bytes().strip()
        if not head.startswith(b"ref: "):
            return (head.decode() if _ID.fullmatch(head) else ""), ""
        name = head[5:]
        branch = name.removeprefix(b"refs/heads/").decode("utf-8", "surrogateescape")
        return read_ref(repository.common, name), branch
    except (OSError, ValueError):
        return "", ""


def read_ref(common: Path, name: bytes) -> str:
    """The commit that a branch stands at, or ""."""
    if any(part in (b"", b".", b"..") for part in name.split(b"/")):
        return ""
    try:
        found = (common / os.fsdecode(name)).read_bytes().strip()
        return found.decode() if _ID.fullmatch(found) else ""
    except OSError:
        pass
    try:
        for line in (common / "packed-refs").read_bytes().splitlines():
            if line.endswith(b" " + name) and _ID.fullmatch(line.partition(b" ")[0]):
                return line.partition(b" ")[0].decode()
    except OSError:
        pass
    return ""


#: What tells that something is under way in a repository, and its name for people.
_UNDER_WAY: Final = {
    "MERGE_HEAD": "a merge",
    "rebase-merge": "a rebase",
    "rebase-apply": "a rebase",
    "CHERRY_PICK_HEAD": "a cherry-pick",
    "REVERT_HEAD": "a revert",
    "BISECT_LOG": "a bisection",
}


def under_way(folder: Path) -> str:
    """What the repository that a folder lies in is in the middle of, or ""."""
    repository = find_repository(folder)
    if repository is None:
        return ""
    return next((word for name, word in _UNDER_WAY.items() if os.path.lexists(repository.git / name)), "")


def find_ignored(folder: Path, paths: Sequence[bytes]) -> frozenset[bytes]:
    """Which of these paths git ignores in a folder (a folder's path ends with a slash). Tracked ones are not.

    Without git or a repository: none.
    """
    found: set[bytes] = set()
    left = list(paths)
    if find() is None or find_repository(folder) is None:
        left = []
    for _ in range(_MOST_CALLS):
        if not left:
            break
        # `./`: a name that begins with a colon would be a pattern.
        asked = b"".join(b"./" + path + b"\0" for path in left)
        try:
            done = run(["check-ignore", "-z", "-v", "-n", "--stdin"], cwd=folder, input=asked)
        except (OSError, subprocess.TimeoutExpired):
            break
        told = done.stdout.split(b"\0")[:-1]
        answers = list(zip(told[2::4], told[3::4], strict=False))
        found |= {path[2:] for pattern, path in answers if pattern and not pattern.startswith(b"!")}
        # It stops at a path in a submodule, or beyond a link: there is nothing to be told of its folder.
        left = left[len(answers) :]
        if left:
            folder_of = left[0].rstrip(b"/").rpartition(b"/")[0] + b"/"
            left = [path for path in left[1:] if not path.startswith(folder_of)]
    return frozenset(found)


class ObjectStore:
    """An empty repository of ours with the objects of others, to read them without their configuration.

    It stands in `keep`, a change's own folder: what a crash leaves goes with the change.
    """

    def __init__(self, objects: Sequence[Path], keep: Path, *, sha256: bool = False) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="git-", dir=keep)
        self.path = Path(self._folder.name)
        for name in ("objects", "refs"):
            (self.path / name).mkdir()
        (self.path / "HEAD").write_text("ref: refs/heads/none\n")
        form = "1\n[extensions]\n\tobjectFormat = sha256\n" if sha256 else "0\n"
        (self.path / "config").write_text(f"[core]\n\tbare = true\n\trepositoryFormatVersion = {form}")
        self.env = {
            "GIT_DIR": str(self.path),
            "GIT_ALTERNATE_OBJECT_DIRECTORIES": os.pathsep.join(_quoted(path) for path in objects),
        }

    def __enter__(self) -> ObjectStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._folder.cleanup()

    def ask(self, *argv: str, input: bytes = b"") -> bytes:  # noqa: A002
        """What git says.

        Raises:
            MachineError: it fails.
        """
        return ask(argv, cwd=self.path, input=input, env=self.env)

    def files(self, commit: str) -> dict[bytes, tuple[int, str]]:
        """The files of a commit: mode and blob of each path."""
        found = {}
        for line in self.ask("ls-tree", "-r", "-z", "--full-tree", commit).split(b"\0"):
            if line:
                told, _, path = line.partition(b"\t")
                mode, _, blob = told.split(b" ")
                found[path] = (int(mode, 8), blob.decode())
        return found

    def blob(self, blob: str) -> bytes:
        """The content of one."""
        return self.ask("cat-file", "blob", blob)


def _quoted(path: Path) -> str:
    """In a list of folders one with a colon or a quote in its name is quoted as C does."""
    text = str(path)
    if os.pathsep not in text and not text.startswith('"'):
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
