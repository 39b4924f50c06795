"""One shard of a worklist, row by row, through the Storage Read API; and what of it a run has written already."""

from __future__ import annotations

import datetime
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from pipeline.bigquery.client import Endpoint
from pipeline.bigquery.names import TableName
from pipeline.bigquery.query import Job, Query, earliest, run
from pipeline.bigquery.worklist import Shard, sizes
from pipeline.rows import Observation

if TYPE_CHECKING:
    import pyarrow as pa

GIVE_UP_SECS = 600.0
_FIRST_DELAY_SECS = 0.5
_LONGEST_DELAY_SECS = 10.0
_FIXED = ("key", "gcs_uri", "problem")


def read_shard(
    endpoint: Endpoint,
    worklist: TableName,
    shard: Shard,
    columns: Sequence[str],
    give_up_secs: float = GIVE_UP_SECS,
) -> Iterator[Observation]:
    """Yields each row of the shard once, in no order; memory holds one Arrow batch and the shard's keys.

    A session is opened when the first row is asked for and lasts as long as the shard. When it is lost, another is
    opened and the rows that were yielded already are left out.

    Args:
        endpoint: Where.
        worklist: The table that `worklist.create` wrote.
        shard: Which part of it.
        columns: Names of the kept and prompt columns.
        give_up_secs: How long to try again when nothing arrives, in seconds.

    Raises:
        google.api_core.exceptions.GoogleAPICallError: The table is gone, may not be read, or nothing has arrived for
            `give_up_secs`.
    """
    from google.api_core import exceptions

    passing = (
        exceptions.ServerError,  # unavailable, internal, unknown, data loss, deadline
        exceptions.Aborted,
        exceptions.Cancelled,
        exceptions.TooManyRequests,
        exceptions.RetryError,
    )
    seen: set[str] = set()
    delay = _FIRST_DELAY_SECS
    last_row = time.monotonic()
    while True:
        try:
            with endpoint.reader() as reader:
                for batch in _batches(reader, endpoint, worklist, shard, columns):
                    for observation in observations(batch, columns):
                        if observation.key not in seen:
                            seen.add(observation.key)
                            yield observation
                    last_row, delay = time.monotonic(), _FIRST_DELAY_SECS
            return
        except (*passing, exceptions.NotFound) as error:
            # Not found after rows have come: the session, not the table.
            lost_session = not isinstance(error, exceptions.NotFound) or bool(seen)
            if not lost_session or time.monotonic() - last_row > give_up_secs:
                raise
        time.sleep(delay)
        delay = min(2 * delay, _LONGEST_DELAY_SECS)


def _batches(
    reader: Any, endpoint: Endpoint, worklist: TableName, shard: Shard, columns: Sequence[str]
) -> Iterator[pa.RecordBatch]:
    import pyarrow as pa
    from google.cloud.bigquery_storage_v1 import types

    session = reader.create_read_session(
        parent=f"projects/{endpoint.project}",
        read_session=types.ReadSession(
            table=worklist.path,
            data_format=types.DataFormat.ARROW,
            read_options=types.ReadSession.TableReadOptions(
                selected_fields=[*_FIXED, *columns],
                row_restriction=f"shard >= {int(shard.lo)} AND shard <= {int(shard.hi)}",
            ),
        ),
        max_stream_count=1,
    )
    if not session.streams:
        return
    schema = pa.ipc.read_schema(pa.py_buffer(session.arrow_schema.serialized_schema))
    for message in reader.read_rows(session.streams[0].name):  # resumes by offset where the service lets it
        yield pa.ipc.read_record_batch(pa.py_buffer(message.arrow_record_batch.serialized_record_batch), schema)


def observations(batch: pa.RecordBatch, columns: Sequence[str]) -> Iterator[Observation]:
    """Yields one Observation a row of the batch. Timestamps come as UTC, whatever the zone's name."""
    keys, uris, problems = (batch.column(name).to_pylist() for name in _FIXED)
    values = zip(*(_values(batch.column(name)) for name in columns), strict=True) if columns else ((),) * len(keys)
    for key, uri, problem, row in zip(keys, uris, problems, values, strict=True):
        yield Observation(key, uri, dict(zip(columns, row, strict=True)), problem)


def _values(column: pa.Array) -> list[Any]:
    import pyarrow as pa

    if not pa.types.is_timestamp(column.type):
        values: list[Any] = column.to_pylist()
        return values
    # Arrow's own conversion looks the zone up for every value.
    naive = column.cast(pa.timestamp("us", tz="UTC")).cast(pa.timestamp("us")).to_pylist()
    return [None if value is None else value.replace(tzinfo=datetime.UTC) for value in naive]


def keys_written(
    endpoint: Endpoint,
    worklist: TableName,
    shard: Shard,
    *,
    answers: TableName,
    failures: TableName,
    run_id: str,
    since: datetime.datetime,
    job: Job | None = None,
) -> set[str]:
    """Returns the keys of this shard that the run has answered or filed as failures already.

    A retried bundle asks this first, so that it pays again only for what was in flight.

    Args:
        endpoint: Where.
        worklist: The run's worklist.
        shard: Which part of it.
        answers: The answers table.
        failures: The failures table.
        run_id: The run.
        since: When the run started; what is more than a day older is not read.
        job: Labels and limit of the query's bill.
    """
    sql = f"""SELECT key FROM {worklist.sql}
WHERE shard BETWEEN {int(shard.lo)} AND {int(shard.hi)} AND key IN ({_written(answers, failures)})"""
    return {row["key"] for row in run(endpoint, Query(sql, {"run_id": run_id, "since": earliest(since)}), job)}


def rows_left(
    endpoint: Endpoint,
    worklist: TableName,
    *,
    answers: TableName,
    failures: TableName,
    run_id: str,
    since: datetime.datetime,
    job: Job | None = None,
) -> list[tuple[int, int]]:
    """Returns how many rows the run has neither answered nor filed, by their value of `shard`; arguments as above."""
    sql = f"SELECT shard FROM {worklist.sql} WHERE key NOT IN ({_written(answers, failures)})"
    return sizes(endpoint, Query(sql, {"run_id": run_id, "since": earliest(since)}), job)


def _written(answers: TableName, failures: TableName) -> str:
    return f"""
  SELECT key FROM {answers.sql} WHERE run_id = @run_id AND classified_at >= @since
  UNION DISTINCT
  SELECT key FROM {failures.sql} WHERE run_id = @run_id AND failed_at >= @since
"""
