"""A change as a branch of the folder's repository, in place of an apply. What is checked out stays."""

from __future__ import annotations

from pathlib import Path


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
    raise NotImplementedError
