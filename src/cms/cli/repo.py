"""`repo` of a task that is a folder: the repository that a person has there, as it is, for nodes elsewhere.

What is not committed goes along: it becomes a commit that is in no branch, made beside the repository, with
none of its configuration read. The bundle is named by what it holds, so it is made and kept once.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from cms.changes import git
from cms.errors import CmsError, UsageError
from cms.nodes import artifacts
from cms.nodes.checkout import BUNDLED, WHO

_SECONDS = 600.0
_SHA256 = 64  # digits of a commit's name in a repository of that form
_WHO = {
    **WHO,
    **{f"GIT_{who}_DATE": "2000-01-01T00:00:00Z" for who in ("AUTHOR", "COMMITTER")},
}


def settled(text: str, shared: str) -> str:
    """What is to be checked out, as nodes can read it: a URL as it is, a folder as a bundle.

    Args:
        text: as of `folders.check_repo`.

    Raises:
        UsageError: there is no repository, or no folder of artifacts to put it.
    """
    if not text.startswith("/"):
        return text
    folder = Path(text)
    found = git.find_repository(folder)
    if found is None:
        raise UsageError(f"--repo: {folder} is not in a git repository", hint="a folder, URL or URL#REF")
    if not shared:
        raise UsageError(
            "--repo with a folder needs a folder that all hosts share", hint="add --artifacts DIR"
        )
    try:
        digest, commit = _bundle(found, shared)
    except (OSError, CmsError) as error:
        raise UsageError(f"--repo: {folder} cannot be bundled: {error}") from None
    return f"bundle:{digest}#{commit}"


def _bundle(found: git.Repository, shared: str) -> tuple[str, str]:
    """Returns the digest of the bundle, and the commit in it."""
    head, _ = git.read_head(found)
    with git.ObjectStore(
        [found.common / "objects"], Path(tempfile.gettempdir()), sha256=len(head) == _SHA256
    ) as store:
        if (found.common / "shallow").is_file():
            shutil.copy(found.common / "shallow", store.path / "shallow")
        env = {**_WHO, **store.env, "GIT_WORK_TREE": str(found.top)}

        def ask(*words: str) -> str:
            done = git.run(words, cwd=found.top, env=env, seconds=_SECONDS)
            if done.returncode != 0:
                raise CmsError(done.stderr.decode("utf-8", "backslashreplace").strip()[:300])
            return done.stdout.decode().strip()

        if head:
            ask("read-tree", head)
        ask("add", "--all", ".")
        tree = ask("write-tree")
        commit = head
        if not head or ask("rev-parse", f"{head}^{{tree}}") != tree:
            commit = ask("commit-tree", *(("-p", head) if head else ()), "-m", "Not committed", tree)
        ask("update-ref", BUNDLED, commit)
        ask("bundle", "create", "--quiet", str(store.path / "bundle"), BUNDLED)
        return artifacts.store(shared, (store.path / "bundle").read_bytes()), commit
