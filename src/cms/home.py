"""The folder that everything of a user lives in (`CMS_HOME`): the store, the raw logs, the daemon's socket.

Whoever opens one of them prepares the folder first, the same way, by whatever door it came. Cheap to import:
the fast commands load it.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from cms.errors import HomeUnusable

if TYPE_CHECKING:
    from pathlib import Path


def prepare_home(home: Path) -> None:
    """Make the home folder exist, ours and private (0700).

    A folder that others may enter is closed to them, not refused: the tool that this one follows made it
    with the default mode. One that belongs to somebody else is refused even to root: its owner could read
    every prompt and put another socket in the place of ours.

    Raises:
        HomeUnusable: it cannot be created, written, or belongs to somebody else.
    """
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = home.stat()
        if found.st_uid != os.geteuid():
            raise HomeUnusable(
                f"{home} belongs to another user (uid {found.st_uid})",
                hint="set CMS_HOME to one of your folders",
            )
        if found.st_mode & 0o077:
            home.chmod(0o700)
        if not os.access(home, os.R_OK | os.W_OK | os.X_OK):
            raise PermissionError(13, "Permission denied")
    except OSError as error:
        raise HomeUnusable(
            f"cannot use {home}: {error.strerror or error}",
            hint="make it a folder that you can write, or set CMS_HOME to another",
        ) from error
