"""Edits as values, done to any folder by a program that imports nothing of ours: it runs in an overlay, too.

python edits.py FOLDER FILE    # FILE: JSON, a list of [word, path, argument], bytes as latin-1
"""

# Paths are bytes here, which pathlib does not take.
# ruff: noqa: PTH101, PTH103, PTH108, PTH112, PTH114, PTH115, PTH118, PTH211

from __future__ import annotations

import contextlib
import json
import os
import shutil
import stat
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

#: word, path, what else the word needs.
Edit: TypeAlias = tuple[str, bytes, bytes]
#: What a path is: type, permissions, content or target.
Snapshot: TypeAlias = dict[bytes, tuple[str, int, bytes]]


def do(folder: bytes, edits: Sequence[Edit]) -> None:
    """Do what can be done of them."""
    for word, path, more in edits:
        with contextlib.suppress(OSError, shutil.Error):
            _do(
                os.path.join(folder, path),
                word,
                os.path.join(folder, more) if word in ("rename", "link") else more,
            )


def _do(path: bytes, word: str, more: bytes) -> None:
    if word in ("write", "append"):
        how = os.O_TRUNC if word == "write" else os.O_APPEND
        # A pipe may stand there: one that is opened for writing waits for its reader.
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NONBLOCK | how, 0o666), "wb") as file:
            file.write(more)
    elif word == "mkdir":
        os.makedirs(path, exist_ok=True)
    elif word == "remove":
        shutil.rmtree(path) if os.path.isdir(path) and not os.path.islink(path) else os.unlink(path)
    elif word == "rename":
        shutil.move(os.fsdecode(path), os.fsdecode(more))
    elif word == "link":
        os.link(path, more, follow_symlinks=False)
    elif word == "symlink":
        os.symlink(more, path)
    elif word == "chmod" and not os.path.islink(path):
        mode = int(more, 8)
        os.chmod(path, mode | 0o300 if os.path.isdir(path) else mode)
    elif word == "fifo":
        os.mkfifo(path)


def snapshot(folder: Path) -> Snapshot:
    """All that is in a folder, but what is no file, folder or link."""
    found: Snapshot = {}
    root = os.fsencode(folder)
    for place, folders, files in os.walk(root):
        for name in (*folders, *files):
            path = os.path.join(place, name)
            state = os.lstat(path)
            mode = stat.S_IMODE(state.st_mode)
            key = os.path.relpath(path, root)
            if stat.S_ISLNK(state.st_mode):
                found[key] = ("link", 0, os.readlink(path))
            elif stat.S_ISDIR(state.st_mode):
                found[key] = ("dir", mode, b"")
            elif stat.S_ISREG(state.st_mode):
                found[key] = ("file", mode, Path(os.fsdecode(path)).read_bytes())
    return found


if __name__ == "__main__":
    given = json.loads(Path(sys.argv[2]).read_text())
    do(os.fsencode(sys.argv[1]), [(w, p.encode("latin-1"), m.encode("latin-1")) for w, p, m in given])
