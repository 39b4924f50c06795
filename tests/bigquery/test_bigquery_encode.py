from __future__ import annotations

import datetime

import pyarrow as pa
import pytest
from table_rows import NOW

from pipeline.bigquery.encode import Encoder
from pipeline.rows import Column

COLUMNS = (
    Column("key", "STRING", required=True),
    Column("data", "JSON"),
    Column("n", "INT64"),
    Column("x", "FLOAT64"),
    Column("yes", "BOOL"),
    Column("at", "TIMESTAMP"),
    Column("day", "DATE"),
)


def read(encoder, part):
    return pa.ipc.open_stream(encoder.serialized_schema + part.payload).read_all().to_pylist()


def test_rows_go_through_arrow_unchanged():
    row = {"key": "ä", "data": '{"a": [1]}', "n": -(2**63), "x": 1, "yes": True, "at": NOW, "day": NOW.date()}
    encoder = Encoder(COLUMNS)
    (part,), errors = encoder.encode([row, {"key": "b", "unknown": 1}])
    assert errors == {}
    assert read(encoder, part) == [row, {**dict.fromkeys(row), "key": "b"}]


def test_a_time_of_another_zone_is_the_same_moment():
    encoder = Encoder(COLUMNS)
    there = NOW.astimezone(datetime.timezone(datetime.timedelta(hours=9)))
    (part,), _ = encoder.encode([{"key": "a", "at": there}])
    assert read(encoder, part)[0]["at"] == NOW


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ({"key": None}, "key: is missing"),
        ({}, "key: is missing"),
        ({"key": "\ud800"}, "surrogates not allowed"),
        ({"key": "b", "data": "{"}, "data: "),
        ({"key": "b", "data": '{"a": NaN}'}, "NaN is no JSON"),
        ({"key": "b", "data": {"a": 1}}, "dict is no JSON text"),
        ({"key": "b", "data": "[" * 100_000}, "data: "),
        ({"key": "b", "n": 2**63}, "n: "),
        ({"key": "b", "n": "x"}, "n: "),
        ({"key": "b", "x": "x"}, "x: "),
        ({"key": "b", "yes": "maybe"}, "yes: "),
        ({"key": "b", "at": "yesterday"}, "at: "),
        ({"key": 7}, "key: "),
    ],
)
def test_a_value_that_does_not_fit_rejects_its_row_alone(bad, said):
    encoder = Encoder(COLUMNS)
    parts, errors = encoder.encode([{"key": "a"}, bad, {"key": "c"}])
    assert list(errors) == [1]
    assert said in errors[1]
    assert [row["key"] for part in parts for row in read(encoder, part)] == ["a", "c"]
    assert [part.indices for part in parts] == [(0, 2)]


def test_several_bad_values_of_several_columns_are_all_named():
    rows = [{"key": "a", "n": "x"}, {"key": None}, {"key": "c"}, {"key": "\udfff", "data": "{"}]
    parts, errors = Encoder(COLUMNS).encode(rows)
    assert sorted(errors) == [0, 1, 3]
    assert [part.indices for part in parts] == [(2,)]


def test_when_every_row_is_bad_nothing_is_sent():
    assert Encoder(COLUMNS).encode([{"key": None}, {"key": None}]) == ([], {0: "key: is missing", 1: "key: is missing"})


def test_a_batch_that_is_too_large_is_split_and_a_row_that_is_too_large_is_rejected():
    encoder = Encoder(COLUMNS, max_bytes=5000)
    sizes = [10, 2000, 2000, 9000, 2000, 10]
    parts, errors = encoder.encode([{"key": str(index), "data": f'"{"x" * size}"'} for index, size in enumerate(sizes)])
    assert list(errors) == [3]
    assert "bytes, BigQuery takes 5,000 in one request" in errors[3]
    assert sorted(index for part in parts for index in part.indices) == [0, 1, 2, 4, 5]
    assert all(len(part.payload) <= 5000 for part in parts)
    assert [row["key"] for part in parts for row in read(encoder, part)] == [
        str(index) for part in parts for index in part.indices
    ]
