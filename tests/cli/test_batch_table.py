"""Tables of batches in files: Parquet, which a library of its own reads."""

from __future__ import annotations

import sys
from datetime import date
from decimal import Decimal
from pathlib import Path

import pytest

from cms.batch.model import BatchOptions
from cms.batch.rows import BadTable, Row
from cms.cli.batch_table import open_rows
from cms.errors import UsageError


def options(path: Path, *filters: str) -> BatchOptions:
    return BatchOptions(work_dir="/", data=str(path), filter=filters)


def read(batch: BatchOptions) -> list[Row]:
    with open_rows(batch) as rows:
        assert rows is not None
        return list(rows)


def test_rows_of_parquet(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="the extra `parquet` is not installed")
    parquet = pytest.importorskip("pyarrow.parquet")
    columns = {
        "id": [1, 2, 3],
        "title": ["a", "ü\nb", None],
        "when": [date(2026, 1, 2)] * 3,
        "price": [Decimal("1.50")] * 3,
    }
    parquet.write_table(pyarrow.table(columns), tmp_path / "t.parquet")
    found = read(options(tmp_path / "t.parquet", "id>1"))
    assert [row.number for row in found] == [2, 3]
    assert found[0].fields == {"id": "2", "title": "ü\nb", "when": "2026-01-02", "price": "1.50"}
    assert found[1].fields["title"] == ""
    (tmp_path / "no.parquet").write_bytes(b"PAR1 not")
    with pytest.raises(BadTable, match="not Parquet"):
        read(options(tmp_path / "no.parquet"))


def test_without_the_library_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (tmp_path / "t.parquet").write_bytes(b"PAR1")
    with pytest.raises(UsageError) as told:
        read(options(tmp_path / "t.parquet"))
    assert "claude-multi-session[parquet]" in told.value.hint
