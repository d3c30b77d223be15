"""The scratch folder of a session: where `claude` puts its temporary files, so that none is left behind.

Left to itself claude uses `/tmp/claude-UID` and leaves folders there for every session. We give each session
a folder of its own by a name that follows from the session, so that what a SIGKILL of ours leaves is found
and cleared by the next supervisor. The folder stands in the system's place for such things and not in our
home, because the home is hidden from the agent.

A session sees its own and nobody else's, where the machine can hide them: in there are sockets, of claude's
and of tmux, at which one could speak for another.

All sessions of a user have theirs in one folder, whatever home they are of, so that one mount hides them all
from each. Nobody removes that folder: it is mounted over in the containers of every other cms of this user.
It has a name that anybody can guess. It is used only if it is a real folder of ours, and closed to
everybody else; where it is not ours a session gets a folder with a name that nobody can guess.
"""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from cms.disk import ask_disk
from cms.errors import DiskTimeout
from cms.files import create_file


def make_scratch(session_id: str) -> Path:
    """Make (or find) a session's scratch folder.

    Raises:
        OSError: there is no room for it anywhere.
    """
    return _make(_folder(session_id))


def make_config_folder(session_id: str) -> Path:
    """Make an empty folder beside it, for what the session reads and does not write.

    Raises:
        OSError: there is no room for it anywhere.
    """
    folder = _config_folder(session_id)
    shutil.rmtree(folder, ignore_errors=True)  # a crash may have left one
    folder = _make(folder)
    if any(folder.iterdir()):
        return Path(tempfile.mkdtemp(prefix="cms-"))
    return folder


def write_files(files: Mapping[Path, bytes]) -> None:
    """Write files that are not there yet, for their user alone to read.

    Raises:
        OSError: one is there, or cannot be written.
    """
    for path, data in files.items():
        create_file(path, data, durable=False)


def _make(folder: Path) -> Path:
    try:
        _make_parent()
        folder.mkdir(mode=0o700, exist_ok=True)
        if not _is_ours(folder):
            raise PermissionError
    except OSError:
        return Path(tempfile.mkdtemp(prefix="cms-"))
    return folder


def _parent() -> Path:
    return Path(tempfile.gettempdir()) / f"cms-{os.getuid()}"


def _make_parent() -> Path:
    """Make the folder of all sessions, or close it to others if it is ours and open.

    Raises:
        OSError: it is somebody else's, or no folder, or there is no room.
    """
    parent = _parent()
    parent.mkdir(mode=0o700, exist_ok=True)
    fd = os.open(parent, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if os.fstat(fd).st_uid != os.getuid():
            raise PermissionError(f"{parent} belongs to somebody else")
        # Not gone past: from a folder with a name that nobody can guess, a crash leaves what nobody finds.
        os.fchmod(fd, 0o700)
    finally:
        os.close(fd)
    return parent


def _folder(session_id: str) -> Path:
    # Enough of the UUID to be unique among all sessions, and short, for the sockets below it.
    return _parent() / session_id[:13]


def _config_folder(session_id: str) -> Path:
    return _parent() / f"{session_id[:13]}.config"


def hidden_scratch() -> tuple[Path, ...]:
    """The folder with the scratch folders of all sessions, made if need be: for a container to hide."""
    try:
        return (_make_parent(),)
    except OSError:
        return ()


def left_scratch() -> frozenset[str]:
    """How the ids of those sessions begin that have a folder there, of whatever home they are."""
    try:
        return frozenset(entry.removesuffix(".config") for entry in os.listdir(_make_parent()))  # noqa: PTH208
    except OSError:
        return frozenset()


def clear_scratch(session_id: str) -> None:
    """Remove the scratch folders of a session that ended when nobody was there to do it."""
    for folder in (_folder(session_id), _config_folder(session_id)):
        with suppress(OSError):
            if _is_ours(folder.parent) and _is_ours(folder):
                remove_scratch(folder)


def _is_ours(folder: Path) -> bool:
    info = folder.lstat()
    return stat.S_ISDIR(info.st_mode) and info.st_uid == os.getuid() and not info.st_mode & 0o077


@asynccontextmanager
async def session_folders(session_id: str) -> AsyncIterator[tuple[Path, Path]]:
    """A session's scratch folder and its configuration folder, for as long as its process lives.

    Raises:
        OSError, DiskTimeout: there is no room for them anywhere.
    """
    scratch, config = await ask_disk(lambda: _make_both(session_id), "a scratch folder")
    try:
        yield scratch, config
    finally:
        with suppress(DiskTimeout):  # what does not answer stays, too
            await ask_disk(lambda: remove_scratch(config, scratch), "a scratch folder")


def _make_both(session_id: str) -> tuple[Path, Path]:
    """In one question to the disk, as they are removed in one."""
    scratch = make_scratch(session_id)
    try:
        return scratch, make_config_folder(session_id)
    except BaseException:
        remove_scratch(scratch)
        raise


def remove_scratch(*folders: Path) -> None:
    """Remove them. What cannot be removed stays; no session fails for it."""
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
