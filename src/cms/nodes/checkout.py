"""A task's repository on its node: fetched once, checked out into a folder of its own, read back as a patch.

Where that is wanted it is pushed to a branch, too.

An agent can write everything in that folder, its `.git` included. So the fetched repository is not in it, but
in the node's own folder, and what was changed is read from the files through that, with no configuration of
the folder's (`changes.git`): a program that an agent has named there runs nowhere.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from cms.batch.remote import BRANCHES, Repo
from cms.changes import git
from cms.errors import CmsError, HomeUnusable
from cms.nodes import artifacts

#: Seconds for a clone, and for the reading of what was changed.
_FETCH: Final = 1800.0
_READ: Final = 600.0
_PROTOCOLS: Final = "https:http:ssh:git:file"
#: What a bundle holds (`cli.repo`).
BUNDLED: Final = "refs/heads/cms"
#: Who commits what nobody else does.
WHO: Final = {
    **{f"GIT_{who}_NAME": "cms" for who in ("AUTHOR", "COMMITTER")},
    **{f"GIT_{who}_EMAIL": "cms@localhost" for who in ("AUTHOR", "COMMITTER")},
}
_COMMIT: Final = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?\Z")
#: What git says where its disk is at fault, and not the repository.
_DISK: Final = re.compile(
    rb"No space left on device|Disk quota exceeded|Read-only file system|diskspace", re.I
)


class CheckoutError(CmsError):
    """A repository cannot be had, or what was changed in it cannot be read."""

    code = "checkout"


class Checkout:
    """One task's folder.

    Attributes:
        folder: where the task works.
        commit: what was checked out there.
    """

    def __init__(self, folder: Path, kept: Path, commit: str) -> None:
        self.folder = folder
        self.commit = commit
        self._kept = kept

    def patch(self) -> str:
        """What was changed since, new files included and ignored ones not; "" if nothing was.

        Raises:
            CheckoutError: it cannot be read.
        """
        with self._index() as env:
            return _diff(["--cached", self.commit], env, self.folder)

    def push(self, url: str, branch: str, message: str) -> str:
        """Have the same as one commit in a branch of the repository it came from; the commit.

        The branch is the task's alone: what an earlier try has pushed there is replaced.

        Raises:
            CheckoutError: it cannot be read, or not be pushed.
        """
        if not branch.startswith(BRANCHES):
            raise CheckoutError(f"branch {branch[:80]!r} is not one for tasks")
        with self._index() as env:
            tree = _plain(["write-tree"], env, self.folder).decode().strip()
            made = ["commit-tree", "-p", self.commit, "-m", message, tree]
            try:  # by whoever the node's user is to git
                commit = _plain(made, env, self.folder, own_configuration=True)
            except CheckoutError:
                commit = _plain(made, {**env, **WHO}, self.folder)
        name = commit.decode().strip()
        _git(["push", "--quiet", "--", url, f"+{name}:refs/heads/{branch}"], self._kept)
        return name

    @contextmanager
    def _index(self) -> Iterator[dict[str, str]]:
        """The environment in which git's index is what the folder has now."""
        index = self._kept.with_name(f"{self.folder.name}.index")
        env = {
            "GIT_DIR": str(self._kept),
            "GIT_WORK_TREE": str(self.folder),
            "GIT_INDEX_FILE": str(index),
        }
        try:
            _plain(["read-tree", self.commit], env, self.folder)
            _plain(["add", "--all", "."], env, self.folder)
            yield env
        finally:
            index.unlink(missing_ok=True)

    def remove(self) -> None:
        """Its work is done and told."""
        shutil.rmtree(self.folder, ignore_errors=True)


def check_out(repo: Repo, node: Path, work: Path, name: str, shared: str) -> Checkout:
    """A repository's files in a folder of their own below `work`, with a `.git` that an agent can work with.

    Args:
        node: the node's folder, where what was fetched is kept.
        name: of the new folder.
        shared: the folder of artifacts.

    Raises:
        CheckoutError: it cannot be fetched, or there is no such commit.
        ArtifactError: its bundle is not there.
        HomeUnusable: this machine has no place for it.
    """
    try:
        return _checked_out_anew(repo, node, work, name, shared)
    except OSError as error:
        raise HomeUnusable(f"{work / name} cannot be made: {error.strerror or error}") from None


def _checked_out_anew(repo: Repo, node: Path, work: Path, name: str, shared: str) -> Checkout:
    source = artifacts.path_of(shared, repo.bundle) if repo.bundle else repo.url
    kept, folder = _kept(node, repo), work / name
    folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _alone(kept):
        if not (kept / "HEAD").exists():
            _git(["init", "--quiet", "--bare", str(kept)], kept.parent)
        commit = _fetch(kept, str(source), repo)
        _git(["-C", str(kept), "update-ref", f"refs/tasks/{name}", commit], kept)
    shutil.rmtree(folder, ignore_errors=True)  # of an earlier try of this node that was cut off
    _git(["init", "--quiet", str(folder)], folder.parent)
    ref = f"refs/tasks/{name}:refs/heads/base"
    _git(["-C", str(folder), "fetch", "--quiet", "--no-tags", f"file://{kept}", ref], work)
    _git(["-C", str(folder), "checkout", "--quiet", "-b", "task", commit], work)
    return Checkout(folder, kept, commit)


def checked_out(repo: Repo, node: Path, work: Path, name: str) -> Checkout:
    """The folder of an earlier try, which is gone on with.

    Raises:
        CheckoutError: it is not there.
    """
    kept = _kept(node, repo)
    commit = _git(["-C", str(kept), "rev-parse", "--verify", f"refs/tasks/{name}"], node).strip()
    return Checkout(work / name, kept, commit)


def read_branch(url: str, branch: str, commit: str) -> str:
    """What a task has pushed (`Checkout.push`), as a patch.

    Raises:
        CheckoutError: it cannot be fetched, or is something else by now.
    """
    with tempfile.TemporaryDirectory(prefix="cms-branch-") as name:
        folder = Path(name)
        _git(["init", "--quiet", "--bare", name], folder)
        wanted = f"+refs/heads/{branch}:refs/cms/pushed"
        _git(["fetch", "--quiet", "--no-tags", "--depth=2", "--", url, wanted], folder)
        if _git(["rev-parse", "--verify", "refs/cms/pushed"], folder).strip() != commit:
            raise CheckoutError(f"branch {branch} is no longer what the task pushed")
        return _diff([f"{commit}^", commit], {"GIT_DIR": name}, folder)


def _diff(what: list[str], env: dict[str, str], cwd: Path) -> str:
    argv = ["diff", "--binary", "--full-index", "--no-ext-diff", "--no-textconv", *what]
    made = _plain(argv, env, cwd)
    try:
        return made.decode()
    except UnicodeDecodeError:
        pass
    # There is text in another encoding. As binary it goes in git's own letters.
    with tempfile.TemporaryDirectory(prefix="cms-diff-") as name:
        _git(["init", "--quiet", "--bare", name], Path(name))
        Path(name, "info").mkdir(exist_ok=True)
        Path(name, "info", "attributes").write_text("* -diff\n")
        lent = {**env, "GIT_DIR": name, "GIT_OBJECT_DIRECTORY": f"{env['GIT_DIR']}/objects"}
        return _plain(argv, lent, cwd).decode("utf-8", "replace")


def _kept(node: Path, repo: Repo) -> Path:
    return node / "repos" / f"{hashlib.sha256((repo.bundle or repo.url).encode()).hexdigest()[:32]}.git"


def _fetch(kept: Path, source: str, repo: Repo) -> str:
    """Have the commit there; its id."""
    what = repo.ref or "HEAD"
    if _COMMIT.match(what) and _has(kept, what):
        return what
    if repo.bundle:
        what = BUNDLED
    _git(["-C", str(kept), "fetch", "--quiet", "--no-tags", "--", source, f"+{what}:refs/cms/fetched"], kept)
    return _git(["-C", str(kept), "rev-parse", "--verify", "refs/cms/fetched^{commit}"], kept).strip()


def _has(kept: Path, commit: str) -> bool:
    try:
        _git(["-C", str(kept), "cat-file", "-e", f"{commit}^{{commit}}"], kept)
    except CheckoutError:
        return False
    return True


@contextmanager
def _alone(kept: Path) -> Iterator[None]:
    """One fetch at a time into a repository, whichever thread wants it."""
    kept.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = os.open(kept.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _git(argv: Sequence[str], cwd: Path) -> str:
    """git with its user's own configuration (who may fetch stands there), asking nobody anything."""
    env = {
        **os.environ,
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_ALLOW_PROTOCOL": _PROTOCOLS,
        "GIT_SSH_COMMAND": os.environ.get("GIT_SSH_COMMAND", "ssh -o BatchMode=yes"),
        "LC_ALL": "C",
    }
    plain = ["-c", "core.hooksPath=/dev/null", "-c", "init.templateDir=", "-c", "protocol.file.allow=always"]
    try:
        done = subprocess.run(
            ["git", *plain, *argv], cwd=cwd, env=env, stdin=subprocess.DEVNULL, capture_output=True,
            timeout=_FETCH, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CheckoutError(f"git did not run: {error}") from None
    if done.returncode != 0:
        kind = HomeUnusable if _DISK.search(done.stderr) else CheckoutError
        raise kind(_said(done.stderr))
    return done.stdout.decode()


def _plain(argv: Sequence[str], env: dict[str, str], cwd: Path, *, own_configuration: bool = False) -> bytes:
    try:
        done = git.run(argv, cwd=cwd, env=env, own_configuration=own_configuration, seconds=_READ)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CheckoutError(f"what was changed cannot be read: {error}") from None
    if done.returncode != 0:
        raise CheckoutError(f"what was changed cannot be read: {_said(done.stderr)}")
    return done.stdout


def _said(stderr: bytes) -> str:
    lines = [line for line in stderr.decode("utf-8", "backslashreplace").splitlines() if line.strip()]
    told = next((line for line in lines if line.startswith(("fatal:", "error:"))), lines[-1] if lines else "")
    return f"git: {told[:300]}" if told else "git failed without a message"
