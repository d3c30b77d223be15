"""Files that go with messages: given to the daemon first, then named by the message.

They are read here, at the command's end: as the person's, or where a session asks, as what it may read. A
link is not followed: an agent could have put it there, and what it leads to would be shown to the model.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from cms.errors import UsageError
from cms.files import open_regular
from cms.rpc.verbs import Verb
from cms.session.attachments import MOST_OF_ANY, check_all
from cms.session.model import Attachment, Record
from cms.units import size


class KeepParams(Record, frozen=True):
    """Keep a file for a message. `label`: what it is called there."""

    label: str
    data: bytes


class KeepResult(Record, frozen=True):
    attachment: Attachment


ATTACHMENTS_KEEP = Verb("attachments.keep", KeepParams, KeepResult, inside=True)

Ask = Callable[[Verb[KeepParams, KeepResult], KeepParams], KeepResult]


def attach(ask: Ask, given: Sequence[tuple[str, bytes]]) -> tuple[Attachment, ...]:
    """Have files kept for one message.

    Args:
        ask: gives the daemon's answer.
        given: what they are called and hold (`read_all`).

    Raises:
        UsageError: one cannot be attached, or they are too many.
    """
    kept = [ask(ATTACHMENTS_KEEP, KeepParams(label=name, data=data)).attachment for name, data in given]
    check_all(kept)
    return tuple(kept)


def read_all(paths: Sequence[str]) -> list[tuple[str, bytes]]:
    """What they are called, and what they hold. Raises as `read_file`."""
    return [(Path(path).name, read_file(Path(path).expanduser())) for path in paths]


def read_file(path: Path) -> bytes:
    """A file that is to be attached.

    Raises:
        UsageError: it is not there, a link, no regular file, or too big.
    """
    try:
        with os.fdopen(open_regular(path), "rb") as file:
            data = file.read(MOST_OF_ANY + 1)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise UsageError(
                f"{path} cannot be attached: it is a link", hint="give the file it leads to"
            ) from None
        raise UsageError(f"{path} cannot be attached: {error.strerror}") from None
    if len(data) > MOST_OF_ANY:
        raise UsageError(f"{path} is too big to attach: {size(MOST_OF_ANY)} are the most")
    return data
