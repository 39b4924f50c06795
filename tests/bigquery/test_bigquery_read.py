from __future__ import annotations

import datetime

import pytest
from google.api_core import exceptions
from table_rows import NOW, SINCE, answer, append, failure

from pipeline.bigquery import inputs, read, worklist
from pipeline.bigquery.client import Endpoint
from pipeline.bigquery.names import TableName
from pipeline.bigquery.query import Query, run
from pipeline.bigquery.worklist import Done, RetryFailed, Shard
from pipeline.rows import ANSWER_COLUMNS, FAILURE_COLUMNS, Observation

COLUMNS = ("asset_type", "capture_time", "latitude", "tags")


@pytest.fixture
def listed(endpoint, name, make_table):
    """A worklist of 200 rows, one of them unusable."""
    rows = [
        {
            "observation_id": f"o{n}",
            "gcs_uri": f"gs://bucket/{n}.jpg" if n else None,
            "asset_type": "pole" if n % 2 else None,
            "capture_time": NOW + datetime.timedelta(microseconds=n) if n % 3 else None,
            "latitude": n / 8,
        }
        for n in range(200)
    ]
    kinds = ("STRING", "STRING", "STRING", "TIMESTAMP", "FLOAT64")
    table = make_table("t", dict(zip(rows[0], kinds, strict=True)), rows)
    info = inputs.inspect_query(endpoint, f"SELECT *, ['a', 'b'] AS tags FROM {table.sql}")
    given = worklist.source(info, columns=inputs.kept_columns(info, COLUMNS))
    made = worklist.create(endpoint, name("w"), given, Done("f1"), retry=RetryFailed.ALL, limit=None, buckets=20)
    return made.table, rows


def test_the_shards_together_give_every_row_once_with_its_columns(endpoint, listed):
    table, rows = listed
    shards = worklist.shards(endpoint, table, 30)
    found = [row for shard in shards for row in read.read_shard(endpoint, table, shard, COLUMNS)]
    right = [
        Observation(
            row["observation_id"],
            row["gcs_uri"],
            {**{name: row[name] for name in COLUMNS[:3]}, "tags": '["a","b"]'},
            None if row["gcs_uri"] else "missing_uri",
        )
        for row in rows
    ]
    assert len(shards) > 3
    assert sorted(found, key=lambda row: row.key) == sorted(right, key=lambda row: row.key)


def test_without_columns_rows_have_key_and_uri(endpoint, listed):
    table, _ = listed
    found = list(read.read_shard(endpoint, table, Shard(0, 19, 200), ()))
    assert len(found) == 200
    assert {tuple(row.columns) for row in found} == {()}


def test_an_empty_shard_gives_nothing(endpoint, listed):
    assert list(read.read_shard(endpoint, listed[0], Shard(500, 600, 0), COLUMNS)) == []


def test_a_worklist_that_is_gone_is_raised_at_once(endpoint, name):
    with pytest.raises(exceptions.GoogleAPICallError):
        list(read.read_shard(endpoint, name("nope"), Shard(0, 1, 1), COLUMNS))


def test_a_session_that_is_lost_half_way_is_replaced_and_no_row_comes_twice(disk_bigquery):
    endpoint = Endpoint(disk_bigquery.project, rest=disk_bigquery.rest, storage=disk_bigquery.storage)
    table = TableName("demo-project", "ds", "w")
    # Long texts, so that the rows do not fit into what is read ahead.
    sql = (
        f"CREATE TABLE {table.sql} AS SELECT 0 AS shard, CAST(n AS STRING) AS key, 'u' AS gcs_uri, "
        "CAST(NULL AS STRING) AS problem, REPEAT('x', 5000) AS text FROM UNNEST(GENERATE_ARRAY(1, 8000)) AS n"
    )
    run(endpoint, Query(sql))
    rows = read.read_shard(endpoint, table, Shard(0, 0, 8000), ("text",))
    keys = [next(rows).key for _ in range(10)]
    disk_bigquery.kill()
    disk_bigquery.start()
    keys += [row.key for row in rows]
    assert len(keys) == len(set(keys)) == 8000


def test_the_keys_that_a_run_has_written_already_are_those_of_the_shard(endpoint, listed, ours):
    table, _ = listed
    other_run = answer("o7", run_id="r2")
    before = answer("o8", at=SINCE - datetime.timedelta(days=2))
    behind = answer("o1", at=SINCE - datetime.timedelta(minutes=10))  # by a clock that is behind the launcher's
    append(endpoint, ours["answers"], ANSWER_COLUMNS, [behind, behind, answer("o2"), other_run, before])
    append(endpoint, ours["failures"], FAILURE_COLUMNS, [failure("o2"), failure("o3"), failure("stray")])

    def written(shard: Shard) -> set[str]:
        return read.keys_written(
            endpoint, table, shard, answers=ours["answers"], failures=ours["failures"], run_id="r1", since=SINCE
        )

    assert written(Shard(0, 19, 200)) == {"o1", "o2", "o3"}
    shard_of = {row["key"]: row["shard"] for row in run(endpoint, Query(f"SELECT key, shard FROM {table.sql}"))}
    for lo in range(20):
        assert written(Shard(lo, lo, 0)) == {key for key in ("o1", "o2", "o3") if shard_of[key] == lo}
