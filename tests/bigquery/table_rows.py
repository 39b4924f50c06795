"""Plain rows for the tests of this directory, as SQL literals and as lines of our tables."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.bigquery.client import Endpoint
from pipeline.bigquery.names import TableName
from pipeline.bigquery.write import RowWriter
from pipeline.rows import Column, Reason

NOW = datetime.datetime(2026, 5, 1, 12, tzinfo=datetime.UTC)
SINCE = NOW - datetime.timedelta(hours=1)


def append(endpoint: Endpoint, table: TableName, columns: Sequence[Column], rows: Sequence[Mapping[str, Any]]) -> None:
    writer = RowWriter(endpoint, table, columns)
    writer.open()
    bundle = writer.bundle()
    for row in rows:
        bundle.append(row)
    assert bundle.wait() == []
    writer.close()


def answer(key: str, *, fingerprint: str = "f1", at: datetime.datetime = NOW, **more: Any) -> dict[str, Any]:
    return {"key": key, "fingerprint": fingerprint, "task": "t", "run_id": "r1", "classified_at": at, **more}


def failure(key: str, reason: str = "unavailable", *, at: datetime.datetime = NOW, **more: Any) -> dict[str, Any]:
    row = {"key": key, "fingerprint": "f1", "task": "t", "run_id": "r1", "failed_at": at, "reason": reason}
    return {**row, "retryable": Reason(reason).retryable, **more}
