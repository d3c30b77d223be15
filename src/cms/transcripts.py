"""Where claude keeps a conversation: what of its environment says so, and whether the conversation is there.

Without its transcript a conversation cannot be gone on with: claude removes old ones (after 30 days), and
writes none where its folder cannot be written.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from cms.session.model import SessionRecord

#: What says where claude's folder is.
_KEPT: Final = ("HOME", "CLAUDE_CONFIG_DIR")


def kept_environ(environ: Mapping[str, str]) -> dict[str, str]:
    """What a conversation needs from the environment that it was begun in."""
    return {name: environ[name] for name in _KEPT if name in environ}


def environ_of(record: SessionRecord, environ: Mapping[str, str]) -> Mapping[str, str]:
    """An environment in which the session's conversation is found, whoever asks now."""
    if not record.begun_in:
        return environ  # of an earlier version, which did not keep it
    return {**{name: value for name, value in environ.items() if name not in _KEPT}, **record.begun_in}


def has_transcript(record: SessionRecord, environ: Mapping[str, str]) -> bool:
    """Whether the session's conversation is there. It looks at the disk: not on trio's thread.

    Args:
        environ: of whoever asks.
    """
    if not record.claude_session_id:
        return False
    return find_transcript(record.claude_session_id, environ_of(record, environ)) is not None


def find_transcript(conversation_id: str, environ: Mapping[str, str]) -> Path | None:
    """Where a conversation is kept; None: nowhere. It looks at the disk, as `has_transcript`."""
    try:
        for project in projects_folder(environ).iterdir():
            # (One without a byte is what a full disk leaves.)
            if (path := project / f"{conversation_id}.jsonl").is_file() and path.stat().st_size:
                return path
    except OSError:
        pass
    return None


def projects_folder(environ: Mapping[str, str]) -> Path:
    """The folder with a folder of conversations for each work dir."""
    folder = environ.get("CLAUDE_CONFIG_DIR") or Path(environ.get("HOME") or Path.home(), ".claude")
    return Path(folder, "projects")
