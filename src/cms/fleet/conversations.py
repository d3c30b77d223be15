"""Conversations that claude keeps, begun by whomever: found, described by their beginning, in use or not.

What is read is a person's own, but an agent of theirs may have written it: nothing follows a link, all is
bounded. Everything here touches the disk: call it in a thread.

That a claude is in a conversation is told by claude's own list of what runs, `sessions/PID.json` (2.1.332),
where the process that a file names is still the one that wrote it, and by command lines that name it. A
claude on another machine, or one of an older version that began it by itself, is not seen.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec

from cms.disk import read_part
from cms.errors import UNREADABLE
from cms.protocol.conversation import Tally
from cms.session.conversation import Conversation
from cms.transcripts import projects_folder

#: Bytes of a record in which its folder and its first words are looked for.
_BEGINNING: Final = 256 * 1024
#: Records that are looked into for one list: many have no message.
_LOOKED_INTO: Final = 500
_MOST_WORDS: Final = 300
_MOST_NOTE: Final = 64 * 1024


class _Running(msgspec.Struct, frozen=True, rename="camel"):
    """What a running claude says of itself."""

    pid: int
    session_id: str = ""
    proc_start: str = ""


def find_conversations(environ: Mapping[str, str], start: str, limit: int) -> list[Conversation]:
    """The latest, newest first; those without a message left out, unless they are looked for.

    Args:
        start: how their ids begin.
    """
    found: list[Conversation] = []
    for path, changed in _newest(projects_folder(environ), start)[:_LOOKED_INTO]:
        if len(found) >= limit:
            break
        tally = Tally()
        with suppress(OSError):
            tally.feed(read_part(path, 0, _BEGINNING).splitlines())
        if tally.cwd and (tally.first or start):
            words = " ".join(tally.first.split())[:_MOST_WORDS]
            found.append(Conversation(path.stem, tally.cwd, changed, words))
    return found


def _newest(projects: Path, start: str) -> list[tuple[Path, float]]:
    found: list[tuple[Path, float]] = []
    for folder in _entries(projects):
        for entry in _entries(Path(folder)):
            if entry.name.endswith(".jsonl") and entry.name.startswith(start):
                with suppress(OSError):
                    if entry.is_file(follow_symlinks=False):
                        found.append((Path(entry), entry.stat(follow_symlinks=False).st_mtime))
    return sorted(found, key=lambda one: one[1], reverse=True)


def _entries(folder: Path) -> Iterator[os.DirEntry[str]]:
    with suppress(OSError), os.scandir(folder) as entries:
        yield from entries


def who_has(conversation_id: str, environ: Mapping[str, str]) -> int:
    """The pid of a claude that is in it, as far as can be seen; 0: none."""
    for entry in _entries(projects_folder(environ).parent / "sessions"):
        if entry.name.endswith(".json"):
            with suppress(OSError, *UNREADABLE):
                one = msgspec.json.decode(read_part(Path(entry), 0, _MOST_NOTE), type=_Running)
                if one.session_id == conversation_id and one.proc_start == _started(one.pid):
                    return one.pid
    named = conversation_id.encode()
    for process in _entries(Path("/proc")):
        if process.name.isdecimal() and int(process.name) != os.getpid():
            with suppress(OSError):
                words = read_part(Path(process, "cmdline"), 0, _MOST_NOTE).split(b"\0")
                if any(word.endswith(named) for word in words) and any(
                    b"claude" in word for word in words[:2]
                ):
                    return int(process.name)
    return 0


def _started(pid: int) -> str:
    """When the process began, in the kernel's own words; none of an id that nobody has."""
    try:
        stat = Path("/proc", str(pid), "stat").read_text()
    except OSError:
        return "nobody"
    return stat.rpartition(")")[2].split()[19]
