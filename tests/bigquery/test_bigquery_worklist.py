"""What the worklist's SQL gives, held against the same sums in plain Python."""

from __future__ import annotations

import collections
import datetime
import itertools
import random
import re

import pytest
from table_rows import NOW, answer, append, failure

from pipeline.bigquery import inputs, worklist
from pipeline.bigquery.inputs import Field, TableInfo
from pipeline.bigquery.query import Query, dry_run, run
from pipeline.bigquery.worklist import Done, RetryFailed, Shard, grouped
from pipeline.errors import ConfigError
from pipeline.rows import ANSWER_COLUMNS, FAILURE_COLUMNS

COLUMNS = {
    "observation_id": "STRING",
    "gcs_uri": "STRING",
    "asset_id": "STRING",
    "snapshot_id": "STRING",
    "capture_time": "TIMESTAMP",
    "detection_time": "TIMESTAMP",
    "location": "STRUCT<latitude FLOAT64, longitude FLOAT64>",
}
URIS = (
    "gs://geoai_published_1__us/s1/v0/t1:a b'ü.jpg",
    "gs://bucket/x.JPEG",
    "gs://bucket/x.heif",
    "gs://bucket/x.tiff",
    "gs://bucket/x",
    "gs://bucket/",
    "gs://BUCKET/x.jpg",
    "https://bucket/x.jpg",
    " gs://bucket/x.jpg",
    "  ",
    "",
    None,
)


def some_rows(count: int, seed: int = 0) -> list[dict]:
    """Rows with every fault mixed in, and many of the same key."""
    rng = random.Random(seed)
    rows = []
    for _ in range(count):
        key = rng.choice([None, "", " ", *(f"o1:{rng.randrange(count // 3)}" for _ in range(30))])
        rows.append(
            {
                "observation_id": key,
                "gcs_uri": rng.choice(URIS) if rng.random() < 0.3 else f"gs://bucket/s/{rng.randrange(50)}.jpg",
                "asset_id": rng.choice([None, "a1", "a2"]),
                "snapshot_id": rng.choice([None, "s1", "s2"]),
                "capture_time": rng.choice([None, NOW, NOW - datetime.timedelta(days=1)]),
                "detection_time": rng.choice([None, NOW, NOW - datetime.timedelta(microseconds=1)]),
                "location": rng.choice([None, {"latitude": 1.5, "longitude": -2.25}]),
            }
        )
    return rows


def problem_of(row: dict) -> str | None:
    uri = row["gcs_uri"]
    if not (row["observation_id"] or "").strip():
        return "missing_key"
    if not (uri or "").strip():
        return "missing_uri"
    if not re.match(r"gs://[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]/.", uri):
        return "malformed_uri"
    if not re.search(r"\.(png|jpe?g|webp|heic|heif)\Z", uri.lower()):
        return "unsupported_image_type"
    return None


def age(row: dict) -> tuple:
    """Sorts rows of a key from oldest to newest, NULL before everything, as the SQL does."""
    location = row["location"] or {"latitude": None, "longitude": None}
    columns = ("capture_time", "detection_time", "snapshot_id", "gcs_uri", "asset_id", "snapshot_id", "capture_time")
    values = [*(row[column] for column in columns), location["latitude"], location["longitude"]]
    return tuple((value is not None, value) for value in values)


def expected(rows: list[dict]) -> dict[str, dict]:
    """One row a key, the newest; keys of rows without one are made up of the row itself."""
    groups = collections.defaultdict(list)
    for row in rows:
        missing = problem_of(row) == "missing_key"
        groups[("null", age(row)) if missing else row["observation_id"]].append(row)
    return {key: max(group, key=age) for key, group in groups.items()}


@pytest.fixture
def source(endpoint, make_table):
    def make(rows, **options):
        table = make_table("observations", COLUMNS, rows)
        info = inputs.inspect(endpoint, table)
        return worklist.source(info, columns=inputs.kept_columns(info, None), **options)

    return make


def written(endpoint, name, given, done, *, retry=RetryFailed.RETRYABLE, limit=None, buckets=50, table="w"):
    made = worklist.create(
        endpoint, name(table), given, done, retry=retry, limit=limit, buckets=buckets, labels={"run_id": "R 1"}
    )
    rows = run(endpoint, Query(f"SELECT * FROM {made.table.sql}"))
    assert made.rows == len(rows)
    return rows


def test_every_key_is_in_the_worklist_once_as_its_newest_row(endpoint, name, source):
    rows = some_rows(600)
    found = written(endpoint, name, source(rows), Done("f1"))
    right = expected(rows)
    assert len(found) == len({row["key"] for row in found}) == len(right)
    by_key = {row["key"]: row for row in found}
    for key, row in right.items():
        if isinstance(key, tuple):
            continue
        got = by_key[key]
        location = row["location"] or {"latitude": None, "longitude": None}
        assert got["problem"] == problem_of(row)
        assert got["gcs_uri"] == row["gcs_uri"]
        assert [got[column] for column in ("asset_id", "snapshot_id", "capture_time")] == [
            row[column] for column in ("asset_id", "snapshot_id", "capture_time")
        ]
        assert (got["latitude"], got["longitude"]) == (location["latitude"], location["longitude"])
    made_up = [key for key in right if isinstance(key, tuple)]
    null_keys = [row for row in found if re.fullmatch("null:[0-9a-f]{64}", row["key"])]
    assert len(null_keys) == len(made_up) > 5
    assert {row["problem"] for row in null_keys} == {"missing_key"}


def test_the_same_input_gives_the_same_worklist(endpoint, name, source):
    given = source(some_rows(200, seed=3))
    first = written(endpoint, name, given, Done("f1"), limit=40)
    second = written(endpoint, name, given, Done("f1"), limit=40, table="w2")
    assert sorted(map(str, first)) == sorted(map(str, second))
    assert sum(row["problem"] is None for row in first) == 40


@pytest.mark.parametrize("slice_", [2**48, 2**62])
def test_a_limit_counts_rows_that_can_be_asked_and_takes_others_on_its_way(endpoint, name, source, monkeypatch, slice_):
    monkeypatch.setattr(worklist, "_SLICE", slice_)
    rows = [{"observation_id": f"o{n}", "gcs_uri": f"gs://bucket/x.{'gif' if n % 2 else 'jpg'}"} for n in range(100)]
    given = source(rows)
    every = {row["key"] for row in written(endpoint, name, given, Done("f1"))}
    some = written(endpoint, name, given, Done("f1"), limit=20, table="w20")
    assert sum(row["problem"] is None for row in some) == 20
    assert 5 < sum(row["problem"] is not None for row in some) < 40
    for number, limit in enumerate((50, 51)):  # as many as can be asked, or more: nothing is left behind
        assert {
            row["key"] for row in written(endpoint, name, given, Done("f1"), limit=limit, table=f"w{number}")
        } == every
    assert written(endpoint, name, given, Done("f1"), limit=0, table="w_none") == []


@pytest.mark.parametrize("slice_", [2**48, 2**60, 2**62])
def test_a_limit_takes_the_keys_of_the_smallest_hashes(endpoint, name, source, monkeypatch, slice_):
    """Whether they lie in one slice of the hashes or in many."""
    monkeypatch.setattr(worklist, "_SLICE", slice_)
    rows = [{"observation_id": f"o{n}", "gcs_uri": "gs://bucket/x.jpg"} for n in range(100)]
    found = written(endpoint, name, source(rows), Done("f1"), limit=10)
    hashed = run(
        endpoint,
        Query(
            "SELECT n, FARM_FINGERPRINT(CONCAT('o', CAST(n AS STRING))) AS h FROM UNNEST(GENERATE_ARRAY(0, 99)) AS n"
        ),
    )
    smallest = sorted(hashed, key=lambda row: row["h"])[:10]
    assert {row["key"] for row in found} == {f"o{row['n']}" for row in smallest}


def test_shard_is_the_hash_without_its_sign_by_the_number_of_buckets(endpoint, name, source):
    rows = [{"observation_id": f"o{n}", "gcs_uri": "gs://bucket/x.jpg"} for n in range(100)]
    found = written(endpoint, name, source(rows), Done("f1"), buckets=7)
    hashes = run(endpoint, Query(f"SELECT key, FARM_FINGERPRINT(key) AS h FROM {name('w').sql}"))
    right = {row["key"]: (row["h"] & (2**63 - 1)) % 7 for row in hashes}
    assert {row["key"]: row["shard"] for row in found} == right
    assert any(row["h"] < 0 for row in hashes)
    # https://cloud.google.com/bigquery/docs/reference/standard-sql/hash_functions#farm_fingerprint
    assert run(endpoint, Query("SELECT FARM_FINGERPRINT('1footrue') AS h")) == [{"h": -1541654101129638711}]


STATES = {
    "new": (),
    "answered": (answer("answered"),),
    "answered otherwise": (answer("answered otherwise", fingerprint="f2"),),
    "failed, retryable": (failure("failed, retryable", "timed_out"),),
    "failed, final": (failure("failed, final", "blocked"),),
    "failed, then final": (
        failure("failed, then final", "timed_out", at=NOW - datetime.timedelta(1)),
        failure("failed, then final", "blocked"),
    ),
    "failed, then retryable": (
        failure("failed, then retryable", "timed_out"),
        failure("failed, then retryable", "blocked", at=NOW - datetime.timedelta(1)),
    ),
    "failed, then answered": (
        failure("failed, then answered", "timed_out"),
        answer("failed, then answered", at=NOW - datetime.timedelta(1)),
    ),
    "unusable then, mended since": (failure("unusable then, mended since", "missing_uri"),),
    "unusable": (),
    "unusable, filed": (failure("unusable, filed", "malformed_uri"),),
}
ALWAYS = {"new", "answered otherwise", "unusable then, mended since", "unusable"}
RETRYABLE = ALWAYS | {"failed, retryable", "failed, then retryable"}
EVERYTHING = RETRYABLE | {"failed, final", "failed, then final", "unusable, filed"}


@pytest.fixture
def asked_before(endpoint, ours, source):
    lines = [line for lines in STATES.values() for line in lines]
    append(endpoint, ours["answers"], ANSWER_COLUMNS, [line for line in lines if "classified_at" in line])
    append(endpoint, ours["failures"], FAILURE_COLUMNS, [line for line in lines if "failed_at" in line])
    uri = "gs://bucket/x.jpg"
    rows = [
        {"observation_id": key, "gcs_uri": "nonsense" if key in ("unusable", "unusable, filed") else uri}
        for key in STATES
    ]
    return source([*rows, rows[0]]), Done("f1", ours["answers"], ours["failures"])


@pytest.mark.parametrize(
    ("retry", "taken"),
    [(RetryFailed.NONE, ALWAYS), (RetryFailed.RETRYABLE, RETRYABLE), (RetryFailed.ALL, EVERYTHING)],
)
def test_what_was_asked_before_is_left_out_by_the_retry_policy_and_counted(request, asked_before, retry, taken):
    endpoint, name = request.getfixturevalue("endpoint"), request.getfixturevalue("name")
    given, done = asked_before
    found = written(endpoint, name, given, done, retry=retry)
    assert {row["key"] for row in found} == taken
    count = worklist.count(endpoint, given, done, retry)
    unusable = taken & {"unusable", "unusable, filed"}
    assert count == worklist.Count(
        rows=12,
        keys=11,
        new=3,
        already_answered=2,
        failed_retryable=2,
        failed_final=2,
        unusable={"malformed_uri": 2},
        to_ask=len(taken - unusable),
        to_file=len(unusable),
    )


def test_without_tables_everything_is_new(endpoint, asked_before):
    given, done = asked_before
    count = worklist.count(endpoint, given, Done("f1"), RetryFailed.RETRYABLE)
    assert (count.new, count.already_answered, count.to_ask, count.to_file) == (9, 0, 9, 2)
    only_answers = worklist.count(endpoint, given, Done("f1", done.answers), RetryFailed.RETRYABLE)
    assert (only_answers.new, only_answers.already_answered) == (7, 2)
    only_failures = worklist.count(endpoint, given, Done("f1", None, done.failures), RetryFailed.RETRYABLE)
    assert (only_failures.failed_retryable, only_failures.failed_final) == (3, 2)


def test_counts_conserve_keys_on_random_rows(endpoint, source):
    rows = some_rows(500, seed=7)
    count = worklist.count(endpoint, source(rows), Done("f1"), RetryFailed.RETRYABLE)
    right = expected(rows)
    problems = collections.Counter(filter(None, map(problem_of, right.values())))
    assert (count.rows, count.keys, count.unusable) == (500, len(right), dict(problems))
    assert count.keys == count.new + sum(count.unusable.values())
    assert (count.to_ask, count.to_file) == (count.new, sum(problems.values()))


def test_a_filter_and_a_query_as_input(endpoint, name, make_table):
    rows = [{"id": n, "uri": f"gs://bucket/{n}.png"} for n in range(10)]
    table = make_table("t", {"id": "INT64", "uri": "STRING"}, rows)
    info = inputs.inspect_query(endpoint, f"SELECT id, uri FROM {table.sql} WHERE id < 8")
    given = worklist.source(info, key_column="id", uri_column="uri", where="id > 2 OR id = 0 -- or not")
    found = written(endpoint, name, given, Done("f1"))
    assert {row["key"] for row in found} == {"0", "3", "4", "5", "6", "7"}
    assert set(found[0]) == {"shard", "key", "gcs_uri", "problem"}
    assert dry_run(endpoint, worklist.count_query(given, Done("f1"))) == 0


@pytest.mark.parametrize(("kind", "value"), [("INT64", "7"), ("BOOL", "true"), ("DATE", "2026-01-02")])
def test_any_scalar_can_be_the_key(request, kind, value):
    endpoint, name = request.getfixturevalue("endpoint"), request.getfixturevalue("name")
    table = request.getfixturevalue("make_table")("t", {"k": kind, "uri": "STRING"}, [])
    run(endpoint, Query(f"INSERT INTO {table.sql} (k, uri) VALUES (CAST('{value}' AS {kind}), 'gs://bucket/a.jpg')"))
    given = worklist.source(inputs.inspect(endpoint, table), key_column="k", uri_column="uri")
    assert [row["key"] for row in written(endpoint, name, given, Done("f1"))] == [value]


INFO = TableInfo("t", (Field("id", "STRING"), Field("tags", "STRING", repeated=True), Field("j", "JSON")), "US")


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        (
            {"key_column": "nope", "uri_column": "id"},
            r"^--key_column nope: the input has no such column; it has id, tags",
        ),
        ({"key_column": "id", "uri_column": "nope"}, r"^--uri_column nope: "),
        ({"key_column": "tags", "uri_column": "id"}, r"--key_column tags: is ARRAY<STRING>"),
        ({"key_column": "id", "uri_column": "j"}, r"--uri_column j: is JSON; give a column of one plain value"),
    ],
)
def test_a_key_or_uri_that_is_no_plain_column_is_an_error(columns, said):
    with pytest.raises(ConfigError, match=said):
        worklist.source(INFO, **columns)


def test_the_statement_expires_and_partitions_the_table_and_labels_it():
    info = TableInfo("`p`.`d`.`t`", (Field("observation_id", "STRING"), Field("gcs_uri", "STRING")), "US")
    table = inputs.TableName("p", "d", "w")
    rows = worklist.rows_query(worklist.source(info), Done("f1"), RetryFailed.NONE, 5, 40)
    sql = worklist.create_query(table, rows, 40, {"run_id": "Run.1"}).sql
    assert "PARTITION BY RANGE_BUCKET(shard, GENERATE_ARRAY(0, 40, 1))" in sql
    assert "INTERVAL 30 DAY" in sql
    assert "labels = [('run_id', 'run_1')]" in sql
    assert not re.search(r"\bLIMIT\b", sql), "an ORDER BY with a LIMIT of millions runs out of memory"
    # A window over everything does not scale, but over the 65,535 slices it does.
    assert re.findall(r"OVER \(ORDER BY \w+", sql) == ["OVER (ORDER BY wl_slice"]


def test_a_fingerprint_never_reaches_sql_unchecked():
    info = TableInfo("t", (Field("observation_id", "STRING"), Field("gcs_uri", "STRING")), "US")
    with pytest.raises(ValueError, match="may only hold"):
        worklist.count_query(worklist.source(info), Done("x' OR 'a' = 'a"))


@pytest.mark.parametrize("size", [1, 30, 1000])
def test_shards_hold_every_row_once_in_even_parts(endpoint, name, source, size):
    rows = [{"observation_id": f"o{n}", "gcs_uri": "gs://bucket/x.jpg"} for n in range(300)]
    found = written(endpoint, name, source(rows), Done("f1"), buckets=40)
    shards = worklist.shards(endpoint, name("w"), size)
    sizes = [sum(shard.lo <= row["shard"] <= shard.hi for row in found) for shard in shards]
    assert sizes == [shard.rows for shard in shards]
    assert sum(sizes) == 300
    assert all(one.hi < other.lo for one, other in itertools.pairwise(shards))
    if size == 30:
        assert max(sizes[:-1]) <= 45


def test_an_empty_worklist_has_no_shards(endpoint, name, source):
    assert written(endpoint, name, source([]), Done("f1")) == []
    assert worklist.shards(endpoint, name("w"), 100) == []


def test_shards_are_grouped_towards_the_wanted_size():
    assert list(grouped([(0, 4), (2, 4), (3, 1), (9, 20), (10, 1)], 8)) == [
        Shard(0, 2, 8),
        Shard(3, 3, 1),
        Shard(9, 9, 20),
        Shard(10, 10, 1),
    ]


@pytest.mark.parametrize(("rows", "buckets"), [(0, 1), (10, 1), (16_000, 16), (4_000_000, 4000), (100_000_000, 4000)])
def test_the_number_of_buckets_follows_the_rows(rows, buckets):
    assert worklist.bucket_count(rows) == buckets
