"""Texts, line by line: what differs, as counts, as hunks, and merged three-way.

Lines are bytes with their ends, so any encoding will do. difflib compares what is left when the common
beginning and end are off; more than `_MOST` lines of that are told as replaced whole, for it takes time that
grows with their square.
"""

from __future__ import annotations

import difflib
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from cms.changes import git

#: Bytes above which a file is not looked at as text.
BIGGEST_TEXT: Final = 8 << 20
#: Where git looks for a NUL byte.
_LOOKED_AT: Final = 8000
_MOST: Final = 20_000
_CONTEXT: Final = 3


class Block(NamedTuple):
    """Lines `old_from` up to `old_to` became lines `new_from` up to `new_to`; counted from 0."""

    old_from: int
    old_to: int
    new_from: int
    new_to: int


def is_binary(data: bytes) -> bool:
    """As git sees it: there is a NUL byte near the beginning."""
    return b"\0" in data[:_LOOKED_AT]


def split(data: bytes) -> list[bytes]:
    """Lines with their ends; only a newline ends one."""
    lines = data.split(b"\n")
    last = lines.pop()
    found = [line + b"\n" for line in lines]
    return [*found, last] if last else found


def compare(old: list[bytes], new: list[bytes]) -> list[Block]:
    """What differs, in order."""
    most = min(len(old), len(new))
    start = 0
    while start < most and old[start] == new[start]:
        start += 1
    end = 0
    most -= start
    while end < most and old[-1 - end] == new[-1 - end]:
        end += 1
    left, right = old[start : len(old) - end], new[start : len(new) - end]
    if not left and not right:
        return []
    if not left or not right or len(left) + len(right) > _MOST:
        return [Block(start, start + len(left), start, start + len(right))]
    matcher = difflib.SequenceMatcher(None, left, right)
    return [
        Block(start + a, start + b, start + c, start + d)
        for word, a, b, c, d in matcher.get_opcodes()
        if word != "equal"
    ]


def count(old: bytes, new: bytes) -> tuple[int, int]:
    """Lines added and removed."""
    blocks = compare(split(old), split(new))
    return sum(b.new_to - b.new_from for b in blocks), sum(b.old_to - b.old_from for b in blocks)


def hunks(old: list[bytes], new: list[bytes]) -> Iterator[bytes]:
    """The hunks of a unified diff, with three lines around each."""
    group: list[Block] = []
    for block in compare(old, new):
        if group and block.old_from - group[-1].old_to > 2 * _CONTEXT:
            yield _hunk(old, new, group)
            group = []
        group.append(block)
    if group:
        yield _hunk(old, new, group)


def _hunk(old: list[bytes], new: list[bytes], group: list[Block]) -> bytes:
    before = min(_CONTEXT, group[0].old_from)
    after = min(_CONTEXT, len(old) - group[-1].old_to)
    old_from, old_to = group[0].old_from - before, group[-1].old_to + after
    new_from, new_to = group[0].new_from - before, group[-1].new_to + after
    found = [f"@@ -{_span(old_from, old_to)} +{_span(new_from, new_to)} @@\n".encode()]
    at = old_from
    for block in group:
        found += [_marked(b" ", line) for line in old[at : block.old_from]]
        found += [_marked(b"-", line) for line in old[block.old_from : block.old_to]]
        found += [_marked(b"+", line) for line in new[block.new_from : block.new_to]]
        at = block.old_to
    found += [_marked(b" ", line) for line in old[at:old_to]]
    return b"".join(found)


def _span(start: int, end: int) -> str:
    if end - start == 1:
        return str(start + 1)
    return f"{start + 1 if end > start else start},{end - start}"


def _marked(mark: bytes, line: bytes) -> bytes:
    return mark + line if line.endswith(b"\n") else mark + line + b"\n\\ No newline at end of file\n"


# --- three-way --------------------------------------------------------------------------------------


class Merged(NamedTuple):
    """What came of a merge: the text, with markers if there are `conflicts`."""

    text: bytes
    conflicts: int


def merge(
    ours: bytes,
    base: bytes,
    theirs: bytes,
    labels: tuple[str, str, str],
    keep: Path,
    *,
    theirs_wins: bool = False,
) -> Merged:
    """Merge two texts that came of a third: by git where it is there, else by ourselves.

    Args:
        ours: what is in the folder now.
        labels: of ours, of the base, of theirs, for the markers.
        keep: a change's own folder, for what git reads: what a crash leaves goes with the change.
        theirs_wins: where both changed the same lines, theirs are taken, and that is no conflict.
    """
    return _merge_by_git(ours, base, theirs, labels, keep, theirs_wins) or merge_lines(
        ours, base, theirs, labels, theirs_wins=theirs_wins
    )


def _merge_by_git(
    ours: bytes, base: bytes, theirs: bytes, labels: tuple[str, str, str], keep: Path, theirs_wins: bool
) -> Merged | None:
    if git.find() is None:
        return None
    with tempfile.TemporaryDirectory(prefix="merge-", dir=keep) as folder:
        place = Path(folder)
        for name, data in (("ours", ours), ("base", base), ("theirs", theirs)):
            (place / name).write_bytes(data)
        argv = ["merge-file", "-p", "-q", *(["--theirs"] if theirs_wins else [])]
        for label in labels:
            argv += ["-L", label]
        try:
            done = git.run([*argv, "ours", "base", "theirs"], cwd=place)
        except (OSError, subprocess.SubprocessError):
            return None
    if not 0 <= done.returncode < 128:
        return None
    return Merged(done.stdout, done.returncode)


def merge_lines(
    ours: bytes, base: bytes, theirs: bytes, labels: tuple[str, str, str], *, theirs_wins: bool = False
) -> Merged:
    """The same without git. Two changes of the same lines, or of adjacent ones, are a conflict."""
    origin, left, right = split(base), split(ours), split(theirs)
    mine, yours = compare(origin, left), compare(origin, right)
    text: list[bytes] = []
    conflicts = 0
    at = 0
    while mine or yours:
        first = min(block.old_from for block in (mine[:1] + yours[:1]))
        text += origin[at:first]
        end = first
        taken: tuple[list[Block], list[Block]] = ([], [])
        while True:
            for blocks, got in ((mine, taken[0]), (yours, taken[1])):
                if blocks and blocks[0].old_from <= end:
                    end = max(end, blocks[0].old_to)
                    got.append(blocks.pop(0))
                    break
            else:
                break
        one = _side(origin, left, taken[0], first, end)
        other = _side(origin, right, taken[1], first, end)
        if not taken[1] or one == other:
            text += one
        elif not taken[0] or theirs_wins:
            text += other
        else:
            conflicts += 1
            text += [
                _line(f"<<<<<<< {labels[0]}"), *_ended(one), b"=======\n", *_ended(other),
                _line(f">>>>>>> {labels[2]}"),
            ]  # fmt: skip
        at = end
    text += origin[at:]
    return Merged(b"".join(text), conflicts)


def _side(origin: list[bytes], lines: list[bytes], blocks: list[Block], first: int, end: int) -> list[bytes]:
    """What one side made of the base's lines `first` up to `end`."""
    if not blocks:
        return origin[first:end]
    start = blocks[0].new_from - (blocks[0].old_from - first)
    return lines[start : blocks[-1].new_to + (end - blocks[-1].old_to)]


def _line(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape") + b"\n"


def _ended(lines: list[bytes]) -> list[bytes]:
    return [line if line.endswith(b"\n") else line + b"\n" for line in lines]
