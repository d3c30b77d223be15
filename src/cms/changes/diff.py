"""A change as people and programs read it: numbers, a list of files, a patch that `git apply` takes."""

from __future__ import annotations

import hashlib
import stat as modes
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from cms.changes import lines
from cms.changes.content import Store
from cms.changes.freeze import load
from cms.changes.model import UNBOUND, Change, Diffstat, Entry, FileChange, Node
from cms.changes.names import as_base64, as_text, quoted
from cms.units import plural

#: A binary file above this is named in a patch, and not carried by it.
BIGGEST_BINARY: Final = 64 << 20
_BASE85: Final = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz!#$%&()*+-;<=>?@^_`{|}~"


def stat(change: Change) -> Diffstat:
    """The change in numbers."""
    shown = [entry for entry in _shown(change) if not _is_plain_folder(entry)]
    return Diffstat(
        files=len(shown),
        added=sum(entry.added for entry in shown),
        removed=sum(entry.removed for entry in shown),
        ignored=sum(entry.ignored for entry in change.entries),
        left_out=len(change.left_out),
        unknown=sum(entry.base == "unknown" for entry in shown),
        commits=change.commits.count if change.commits else 0,
    )


def stat_text(change: Change, *, width: int = 80, most: int = 200) -> str:
    """As `git diff --stat` shows it, one line a file, and a line with the sums; "" if nothing was changed.

    Args:
        most: lines; then only how many more.
    """
    shown = [entry for entry in _shown(change) if not _is_plain_folder(entry)]
    if not shown:
        return ""
    names = [printable(entry.path) for entry in shown[:most]]
    room = max(min(max(map(len, names)), width - 30), 10)
    biggest = max(entry.added + entry.removed for entry in shown)
    digits = max(len(str(biggest)), 3)
    bar = max(width - room - digits - 6, 10)
    found = []
    for entry, name in zip(shown[:most], names, strict=True):
        short = name if len(name) <= room else "..." + name[3 - room :]
        if entry.binary:
            before, after = (node.size if node else 0 for node in (entry.before, entry.after))
            told = f"{'Bin':>{digits}} {before} -> {after} bytes"
        else:
            scale = min(1.0, bar / biggest) if biggest else 0.0
            plus, minus = (-int(-count * scale // 1) for count in (entry.added, entry.removed))
            told = f"{entry.added + entry.removed:>{digits}} {'+' * plus}{'-' * minus}".rstrip()
        found.append(f" {short:<{room}} | {told}{_remark(entry)}")
    if len(shown) > most:
        found.append(f" ... and {len(shown) - most} more")
    added, removed = (sum(getattr(entry, side) for entry in shown) for side in ("added", "removed"))
    parts = [f"{plural(len(shown), 'file')} changed"]
    if added or not removed:
        parts.append(f"{plural(added, 'insertion')}(+)")
    if removed or not added:
        parts.append(f"{plural(removed, 'deletion')}(-)")
    return "\n".join([*found, f" {', '.join(parts)}"]) + "\n"


def rows(change: Change) -> tuple[FileChange, ...]:
    """A record for each path."""
    renamed = _renamed(change)
    found = []
    for entry in change.entries:
        before, after = entry.before, entry.after
        node = after or before
        origin = renamed.get(entry.path)
        found.append(
            FileChange(
                as_text(entry.path),
                entry.kind,
                node.type if node else "file",
                entry.added,
                entry.removed,
                entry.binary,
                entry.base,
                path_base64=as_base64(entry.path),
                renamed_from=as_text(origin) if origin is not None else None,
                old_mode=f"{_mode(before):06o}" if before else None,
                mode=f"{_mode(after):06o}" if after else None,
                size=after.size if after and after.type != "dir" else None,
                ignored=entry.ignored,
            )
        )
    return tuple(found)


def excerpt(keep: Path, *, most_lines: int = 60, most_bytes: int = 4000) -> str:
    """The stat and the beginning of the patch, for a report: bounded, without control characters.

    Raises:
        ChangeNotFound: there is none.
    """
    change = load(keep)
    text = stat_text(change, most=most_lines // 3)
    left = most_lines - text.count("\n")
    for piece in patch(keep):
        for line in piece.decode("utf-8", "backslashreplace").splitlines():
            safe = printable(line)
            if left <= 0 or len(text) + len(safe) > most_bytes:
                return text[:most_bytes] + "...\n"
            text += safe + "\n"
            left -= 1
    return text


def printable(text: str | bytes) -> str:
    """For a terminal: what is no letter, sign or space is told as an escape."""
    if isinstance(text, bytes):
        text = as_text(text)
    return "".join(
        each if each.isprintable() or each == "\t" else each.encode("unicode_escape").decode()
        for each in text
    )


def _remark(entry: Entry) -> str:
    if entry.base == "unknown":
        return " (base unknown)"
    if entry.kind == "mode" and entry.before is not None and entry.after is not None:
        return f" (mode {_mode(entry.before):06o} => {_mode(entry.after):06o})"
    return " (gone)" if entry.kind == "deleted" else " (new)" if entry.kind == "added" else ""


def _shown(change: Change, *, ignored: bool = False) -> list[Entry]:
    return [entry for entry in change.entries if ignored or not entry.ignored]


def _is_plain_folder(entry: Entry) -> bool:
    """A folder by itself: git knows none."""
    return all(node is None or node.type == "dir" for node in (entry.before, entry.after))


def _renamed(change: Change) -> dict[bytes, bytes]:
    """New paths whose content was deleted at another one, and which one."""
    gone: dict[tuple[str, str], list[bytes]] = {}
    for entry in change.entries:
        node = entry.before
        if entry.kind == "deleted" and node is not None and node.type == "file" and node.size:
            gone.setdefault((node.type, node.content), []).append(entry.path)
    found = {}
    for entry in change.entries:
        if entry.kind == "added" and entry.after is not None and not entry.ignored:
            origins = gone.get((entry.after.type, entry.after.content))
            if origins:
                found[entry.path] = origins.pop(0)
    return found


# --- the patch ------------------------------------------------------------------------------------------


def patch(keep: Path, *, ignored: bool = False) -> Iterator[bytes]:
    """A unified patch, in pieces: `git apply` makes the state after of the state before.

    Entries whose base is unknown come as comments, and so do empty folders and modes that git knows not.

    Raises:
        ChangeNotFound: there is none.
        ChangeUnreadable: a content is gone.
    """
    change = load(keep)
    store = Store(keep / "content", UNBOUND)
    for entry in _shown(change, ignored=ignored):
        if _is_plain_folder(entry):
            yield from _folder_comment(entry)
        elif entry.base == "unknown":
            yield b"# %s: changed, but what was there before the task is not known\n" % quoted(entry.path)
        else:
            yield from _file(entry, store)


def fits_a_patch(change: Change) -> bool:
    """Whether `patch` has all of it: no base is unknown, nothing is too big, no folder is new and empty.

    Commits, what git ignores, and permissions that git knows not, are not asked for.
    """
    shown = _shown(change)
    for place, entry in enumerate(shown):
        if entry.base == "unknown":
            return False
        if any(node is not None and node.size > BIGGEST_BINARY for node in (entry.before, entry.after)):
            return False
        if _is_plain_folder(entry) and entry.kind == "added":
            following = shown[place + 1].path if place + 1 < len(shown) else b""
            if not following.startswith(entry.path + b"/"):
                return False
    return True


def _folder_comment(entry: Entry) -> Iterator[bytes]:
    if entry.kind == "mode" and entry.before is not None and entry.after is not None:
        yield b"# %s/: mode %06o => %06o\n" % (
            quoted(entry.path), _mode(entry.before, git=False), _mode(entry.after, git=False),
        )  # fmt: skip


def _file(entry: Entry, store: Store) -> Iterator[bytes]:
    """One path. A change of the type is a deletion and a creation, as git has it."""
    before, after = (
        None if node is None or node.type == "dir" else node for node in (entry.before, entry.after)
    )
    if before is not None and after is not None and before.type != after.type:
        yield from _one(entry.path, before, None, store)
        yield from _one(entry.path, None, after, store)
    else:
        yield from _one(entry.path, before, after, store)


def _one(path: bytes, before: Node | None, after: Node | None, store: Store) -> Iterator[bytes]:
    old_name, new_name = quoted(b"a/" + path), quoted(b"b/" + path)
    head = b"diff --git %s %s\n" % (old_name, new_name)
    if before is None and after is not None:
        head += b"new file mode %06o\n" % _mode(after)
    elif after is None and before is not None:
        head += b"deleted file mode %06o\n" % _mode(before)
    elif before is not None and after is not None and _mode(before) != _mode(after):
        head += b"old mode %06o\nnew mode %06o\n" % (_mode(before), _mode(after))
    elif before is not None and after is not None and before.content == after.content:
        yield b"# %s: mode %06o => %06o\n" % (
            quoted(path), _mode(before, git=False), _mode(after, git=False),
        )  # fmt: skip
        return
    if before is not None and after is not None and before.content == after.content:
        yield head
        return
    if any(node is not None and node.size > BIGGEST_BINARY for node in (before, after)):
        yield b"# %s: too big for a patch\n" % quoted(path)
        return
    old, new = _data(before, store), _data(after, store)
    yield head + b"index %s..%s\n" % (_blob(before, old), _blob(after, new))
    if _is_binary(before, old) or _is_binary(after, new):
        yield b"GIT binary patch\n"
        yield from _literal(new)
        yield from _literal(old)
        return
    if old == new:
        return  # an empty file that is new or gone
    yield b"--- %s\n+++ %s\n" % (
        b"/dev/null" if before is None else _tabbed(old_name),
        b"/dev/null" if after is None else _tabbed(new_name),
    )
    yield from lines.hunks(lines.split(old), lines.split(new))


def _is_binary(node: Node | None, data: bytes) -> bool:
    return (
        node is not None and node.type == "file" and (lines.is_binary(data) or len(data) > lines.BIGGEST_TEXT)
    )


def _data(node: Node | None, store: Store) -> bytes:
    if node is None:
        return b""
    return node.target if node.type == "link" else store.read(node.content)


def _mode(node: Node, *, git: bool = True) -> int:
    """As git has it: of the permissions, whether a file may be executed."""
    if node.type == "link":
        return modes.S_IFLNK
    if node.type == "dir":
        return modes.S_IFDIR | (0 if git else node.mode)
    if git:
        return modes.S_IFREG | (0o755 if node.mode & 0o100 else 0o644)
    return modes.S_IFREG | node.mode


def _tabbed(name: bytes) -> bytes:
    """A name with a space ends with a tab, or a program takes what follows for a date."""
    return name + b"\t" if b" " in name and not name.startswith(b'"') else name


def _blob(node: Node | None, data: bytes) -> bytes:
    """The name that git has for a content; binary patches are held to it."""
    if node is None:
        return b"0" * 40
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest().encode()


def _literal(data: bytes) -> Iterator[bytes]:
    """A whole content in git's base 85, up to 52 bytes a line."""
    packed = zlib.compress(data)
    yield b"literal %d\n" % len(data)
    for at in range(0, len(packed), 52):
        piece = packed[at : at + 52]
        size = len(piece)
        mark = size + 64 if size <= 26 else size + 70  # A-Z, then a-z
        yield bytes([mark]) + _base85(piece) + b"\n"
    yield b"\n"


def _base85(piece: bytes) -> bytes:
    found = bytearray()
    for at in range(0, len(piece), 4):
        number = int.from_bytes(piece[at : at + 4].ljust(4, b"\0"), "big")
        digits = bytearray()
        for _ in range(5):
            number, rest = divmod(number, 85)
            digits.append(_BASE85[rest])
        found += digits[::-1]
    return bytes(found)
