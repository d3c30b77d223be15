"""Of several errors one is told, by a rule, and none is lost."""

from __future__ import annotations

import logging

import pytest
import trio

from cms.errors import CmsError, StoreError, UsageError
from cms.groups import single_error


def group(*errors: BaseException) -> BaseExceptionGroup[BaseException]:
    return BaseExceptionGroup("several", errors)


@pytest.mark.parametrize(
    ("raised", "told"),
    [
        (group(StoreError("one"), UsageError("two")), "one"),
        (group(StoreError("one"), ValueError("bug")), "bug"),
        (group(group(group(StoreError("one"))), UsageError("two")), "one"),
        (group(ValueError("bug"), group(StoreError("x"), KeyboardInterrupt("ctrl-c"))), "ctrl-c"),
        (group(UsageError("single")), "single"),
    ],
)
def test_one_is_told_and_none_is_lost(
    raised: BaseExceptionGroup[BaseException], told: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR), pytest.raises(BaseException, match=told) as caught, single_error():
        raise raised
    assert not isinstance(caught.value, BaseExceptionGroup)
    notes, logged = " ".join(getattr(caught.value, "__notes__", ())), caplog.text
    for word in ("one", "two", "bug", "ctrl-c", "single"):
        if word in repr(raised) and word != told:
            assert word in notes
            assert word in logged


def test_it_keeps_its_own_cause_and_context() -> None:
    try:
        try:
            raise ValueError("first")
        except ValueError as first:
            raise StoreError("then") from first
    except StoreError as error:
        kept = error
    with pytest.raises(StoreError) as caught, single_error():
        raise group(kept)
    assert isinstance(caught.value.__cause__, ValueError)
    assert isinstance(caught.value.__context__, ValueError)


def test_what_is_no_group_is_left_alone() -> None:
    with pytest.raises(CmsError, match="plain"), single_error():
        raise CmsError("plain")


async def test_out_of_a_nursery(autojump_clock: trio.testing.MockClock) -> None:
    async def fail() -> None:
        with single_error():
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.sleep_forever)
                raise StoreError("no space")

    with pytest.raises(StoreError):
        await fail()


async def test_a_cancellation_reaches_its_scope(autojump_clock: trio.testing.MockClock) -> None:
    with trio.move_on_after(1) as scope:
        with single_error():
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.sleep_forever)
                nursery.start_soon(trio.sleep_forever)
                await trio.sleep_forever()
    assert scope.cancelled_caught


async def test_an_error_beside_a_cancellation_is_told(autojump_clock: trio.testing.MockClock) -> None:
    async def fails_when_cancelled() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise StoreError("at the end")

    async def fail() -> None:
        with trio.move_on_after(1), single_error():
            async with trio.open_nursery() as nursery:
                nursery.start_soon(fails_when_cancelled)
                nursery.start_soon(trio.sleep_forever)

    with pytest.raises(StoreError):
        await fail()
