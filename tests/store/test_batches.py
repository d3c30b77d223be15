"""Batches in the store. (What a whole batch does with them: tests/fleet/batch.)"""

from __future__ import annotations

import sqlite3

import pytest

from cms.batch.model import BatchOptions, BatchRecord, BatchStatus
from cms.config import Settings
from cms.errors import StoreError
from cms.store import batches
from cms.store.store import open_store


@pytest.mark.parametrize("damage", ["rest = '{'", "rest = '{}'", "status = 'of the future'"])
async def test_a_record_that_cannot_be_read_is_an_error_of_the_store(settings: Settings, damage: str) -> None:
    async with open_store(settings) as store:
        record = BatchRecord(
            id="b-1", created=1.0, status=BatchStatus.RUNNING, options=BatchOptions(work_dir="/w")
        )
        await store.write(batches.create, record)
        assert (await store.read(batches.find, "b")).id == "b-1"
    db = sqlite3.connect(settings.database)
    db.execute(f"UPDATE batches SET {damage}")  # noqa: S608 - words of ours
    db.commit()
    db.close()
    async with open_store(settings) as store:
        with pytest.raises(StoreError, match="a batch in the store cannot be read"):
            await store.read(batches.find, "b-1")
