"""Files: ours are written whole or not at all, and of a stranger's only a regular one is opened.

Writing is for folders that no agent writes in: beside the place, onto the disk, then into the place. What
lies in an agent's folder is written through `disk.py`. Cheap to import: the fast commands load it.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final

#: What the system says where there is no room, and where something may not be written.
NO_SPACE: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
NO_ACCESS: Final = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})

#: ioctl: let a file have the content of another one, both to be changed by themselves (btrfs, xfs, bcachefs).
_FICLONE: Final = 0x40049409


def open_regular(path: str | bytes | os.PathLike[str], *, at: int | None = None) -> int:
    """A descriptor to read a regular file. A link at its end is not followed, a pipe not waited for.

    Args:
        at: a descriptor of the folder that `path` is relative to.

    Raises:
        OSError: it cannot be opened (ELOOP: it is a link), or is no regular file (EINVAL).
    """
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC, dir_fd=at)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, "not a regular file", os.fsdecode(path))
    return fd


def share_blocks(source: int, target: int) -> bool:
    """Make an empty file a copy that shares its blocks, where the file system can. False: it cannot."""
    if sys.platform != "linux":
        return False
    import fcntl

    try:
        fcntl.ioctl(target, _FICLONE, source)
    except OSError:
        return False
    return True


def create_file(
    path: Path | str,
    data: bytes | Iterable[bytes],
    *,
    mode: int | None = 0o600,
    durable: bool = True,
    at: int | None = None,
) -> None:
    """Write a file that is not there yet. One that cannot be written to its end stays as it is.

    Args:
        mode: its permissions; None: what the umask leaves to everybody.
        durable: it is on the disk when this returns; its name is, too, after `sync_folder`.
        at: a descriptor of the folder that `path` is relative to.

    Raises:
        FileExistsError: there is something of that name, if only a link.
        OSError: it cannot be written.
    """
    private = 0o666 if mode is None else 0o600
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, private, dir_fd=at)
    with os.fdopen(fd, "wb") as file:
        file.writelines([data] if isinstance(data, bytes) else data)
        file.flush()
        if mode is not None:
            os.fchmod(fd, mode)
        if durable:
            os.fsync(fd)


def replace_file(
    path: Path,
    data: bytes | Iterable[bytes],
    *,
    mode: int | None = 0o600,
    durable: bool = True,
    at: int | None = None,
) -> None:
    """Write a file so that whoever reads it, a crash later too, finds the old one or this one as a whole.

    Args:
        mode: as above.
        durable: file and name are on the disk when this returns; False: it may be lost if the power goes.
        at: a descriptor of the folder that the file is in.

    Raises:
        OSError: it cannot be written; what was there is as it was.
    """
    name = f".{path.name[:200]}.{os.urandom(8).hex()}"
    draft = path.with_name(name) if at is None else name
    try:
        create_file(draft, data, mode=mode, durable=durable, at=at)
        os.replace(draft, path if at is None else path.name, src_dir_fd=at, dst_dir_fd=at)
    except BaseException:
        with suppress(OSError):
            os.unlink(draft, dir_fd=at)
        raise
    if durable:
        sync_folder(path.parent if at is None else at)


def rewrite_file(path: Path, data: bytes, *, mode: int | None = None) -> None:
    """Replace a person's own file, behind a link the one it leads to. It keeps its permissions.

    Args:
        mode: its permissions, if they are to be others.

    Raises:
        OSError: it cannot be written; it is then as it was.
    """
    real = Path(os.path.realpath(path))
    if mode is None:
        mode = real.stat().st_mode & 0o7777 if real.exists() else 0o644
    replace_file(real, data, mode=mode)


def sync_folder(folder: Path | int) -> None:
    """The names in a folder are on the disk when this returns. Raises OSError."""
    if isinstance(folder, int):
        os.fsync(folder)
        return
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
