"""What stood in a file before we changed it, and how to get back there.

Notes and backups lie in the `setup` folder of CMS_HOME, readable by the user alone: Claude Code's files hold
credentials of other servers.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import msgspec

from cms.disk import read_small
from cms.errors import HomeUnusable, MachineError
from cms.files import rewrite_file
from cms.session.model import Record

#: Bytes. Claude Code's own file holds all of its history, and reaches some ten million.
MAX_FILE: Final = 256 * 1024 * 1024


class Before(Record, frozen=True):
    """What a path was before setup changed it.

    Attributes:
        path: the file, links resolved.
        existed: whether there was one.
        backup: where its bytes are; "" if there was none.
        after: SHA-256 of what setup left there. As long as the file is that, going back is exact.
        made: folders that did not exist before.
    """

    path: str
    existed: bool
    backup: str
    after: str = ""
    made: tuple[str, ...] = ()


class _Notes(Record, frozen=True):
    files: tuple[Before, ...] = ()


class Notebook:
    """The `setup` folder of a home."""

    def __init__(self, home: Path) -> None:
        self.folder = home / "setup"
        self._file = self.folder / "notes.json"

    def of(self, path: Path) -> Before | None:
        """What is known of a path, None if setup has not changed it."""
        real = str(_real(path))
        return next((before for before in self._load().files if before.path == real), None)

    def backup_path(self, path: Path) -> Path:
        """Where the next backup of that file goes."""
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        return self.folder / "backups" / f"{stamp}-{secrets.token_hex(3)}{path.name}"

    def keep(self, path: Path, made: Iterable[Path] = ()) -> Before:
        """Back a file up before it is changed. What is known of it already stays known.

        Raises:
            MachineError: it cannot be read, or the backup cannot be written.
        """
        data = read(path)
        known = self.of(path)
        if known is not None and data is not None and known.after == digest(data):
            return known  # it is as we left it: the backup and the way back are those from the first time
        backup = self.backup_path(path)
        if data is not None:
            self._make_folder(backup.parent)
            write(backup, data, mode=0o600)
        before = Before(
            path=str(_real(path)),
            existed=data is not None,
            backup=str(backup) if data is not None else "",
            made=tuple(str(folder) for folder in made if not folder.exists()),
        )
        self._save(before)
        return before

    def settle(self, path: Path) -> None:
        """Note what setup has left at a path."""
        known, data = self.of(path), read(path)
        if known is not None and data is not None:
            self._save(msgspec.structs.replace(known, after=digest(data)))

    def way_back(self, path: Path) -> Before | None:
        """The note of a path that is still as setup left it; None where something has changed since."""
        known, data = self.of(path), read(path)
        if known is None or data is None or known.after != digest(data):
            return None
        if known.existed and not Path(known.backup).is_file():
            return None
        return known

    def go_back(self, before: Before) -> None:
        """Make the path what it was, to the byte.

        Raises:
            MachineError: it cannot be written.
        """
        path = Path(before.path)
        if before.existed:
            data = read(Path(before.backup))
            if data is None:
                raise MachineError(f"the backup {before.backup} is gone")
            write(path, data)
        else:
            path.unlink(missing_ok=True)

    def forget(self, path: Path, *, drop_backup: bool) -> None:
        """Setup has nothing at that path any more. Removes what is left of the notes when they are empty."""
        real = str(_real(path))
        notes = self._load()
        known = next((before for before in notes.files if before.path == real), None)
        if known is None:
            return
        if drop_backup and known.backup:
            Path(known.backup).unlink(missing_ok=True)
        rest = tuple(before for before in notes.files if before.path != real)
        if rest:
            self._write(_Notes(rest))
            return
        self._file.unlink(missing_ok=True)
        for folder in (self.folder / "backups", self.folder, self.folder.parent):
            remove_if_empty(folder)

    def _load(self) -> _Notes:
        data = read(self._file)
        try:
            return _Notes() if data is None else msgspec.json.decode(data, type=_Notes)
        except msgspec.DecodeError as error:
            raise MachineError(f"{self._file} cannot be read: {error}", hint="move it away") from error

    def _save(self, before: Before) -> None:
        rest = tuple(one for one in self._load().files if one.path != before.path)
        self._write(_Notes((*rest, before)))

    def _write(self, notes: _Notes) -> None:
        self._make_folder(self.folder)
        write(self._file, msgspec.json.format(msgspec.json.encode(notes)) + b"\n", mode=0o600)

    def _make_folder(self, folder: Path) -> None:
        try:
            for one in (self.folder.parent, self.folder, folder):
                one.mkdir(mode=0o700, parents=True, exist_ok=True)  # what `parents` makes is open to others
        except OSError as error:
            raise HomeUnusable(
                f"cannot use {folder}: {error.strerror}", hint="set CMS_HOME to a folder that can be written"
            ) from error


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def read(path: Path) -> bytes | None:
    """A file's bytes, None if there is none. What lies in a project may be an agent's, a pipe for instance.

    Raises:
        MachineError: it cannot be read, or is no regular file, or far too long for settings.
    """
    try:
        return read_small(path, MAX_FILE)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise MachineError(f"cannot read {path}: {error.strerror}") from error


def write(path: Path, data: bytes, *, mode: int | None = None) -> None:
    """Replace a file in one step; a link's target is replaced, not the link. Its mode stays, or is `mode`.

    Raises:
        MachineError: it cannot be written; it is then as it was.
    """
    try:
        rewrite_file(path, data, mode=mode)
    except OSError as error:
        raise MachineError(f"cannot write {path}: {error.strerror}") from error


def remove_if_empty(folder: Path) -> None:
    try:
        folder.rmdir()
    except OSError:
        pass  # not empty, or not there


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path))
