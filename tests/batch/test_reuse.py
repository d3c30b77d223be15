"""What a task's result rests on, in one key."""

from __future__ import annotations

import msgspec
import pytest

from cms.batch.model import TaskOptions
from cms.batch.reuse import key_of
from cms.session.model import Attachment, SessionOptions

PHOTO = Attachment("0" * 32, "photo.png", "image", "image/png", 3, "abc")
TASK = TaskOptions(SessionOptions("a", "/work"), "Look.", attachments=(PHOTO,))


def key(task: TaskOptions = TASK, prompt: str = "Look.", context: str = "", around: str = "v1") -> str:
    return key_of(task, prompt, context, around)


def changed(**changes: object) -> str:
    return key(msgspec.structs.replace(TASK, attachments=(msgspec.structs.replace(PHOTO, **changes),)))


def test_its_name_and_where_a_copy_lies_are_no_part_of_it() -> None:
    session = msgspec.structs.replace(TASK.session, name="b", tags=("x",))
    assert key(msgspec.structs.replace(TASK, session=session)) == key()
    assert changed(id="1" * 32) == key()


@pytest.mark.parametrize(
    "other",
    [
        key(prompt="Look again."),
        key(context="There."),
        key(around="v2"),
        key(msgspec.structs.replace(TASK, attachments=())),
        changed(sha256="abd"),
        changed(name="other.png"),
    ],
)
def test_all_else_is(other: str) -> None:
    assert other != key()
