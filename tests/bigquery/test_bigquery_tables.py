from __future__ import annotations

import pytest
from table_rows import NOW, append

from pipeline.bigquery import inputs, tables
from pipeline.bigquery.query import Query, run
from pipeline.errors import ConfigError
from pipeline.rows import ANSWER_COLUMNS, Column

COLUMNS = (
    Column("key", "STRING", "The key.", required=True),
    Column("data", "JSON"),
    Column("n", "INT64"),
    Column("classified_at", "TIMESTAMP", required=True),
)


def ensure(endpoint, table, columns=COLUMNS):
    return tables.ensure_table(endpoint, table, columns, partition_by="classified_at", cluster_by=("key",))


def test_a_missing_table_is_made_with_schema_partitions_and_clustering(endpoint, name):
    assert ensure(endpoint, name("t")) == ["key", "data", "n", "classified_at"]
    with endpoint.client() as client:
        made = client.get_table(str(name("t")))
    assert (made.schema[0].name, made.schema[0].mode) == ("key", "REQUIRED")
    assert (made.time_partitioning.type_, made.time_partitioning.field) == ("DAY", "classified_at")
    assert made.clustering_fields == ["key"]
    assert made.schema[0].description == "The key."
    assert ensure(endpoint, name("t")) == []


def test_columns_of_a_newer_version_are_added_nullable_and_take_rows_at_once(endpoint, name):
    ensure(endpoint, name("t"))
    append(endpoint, name("t"), COLUMNS, [{"key": "old", "classified_at": NOW}])
    newer = (*COLUMNS, Column("tier", "STRING"), Column("more", "JSON"))
    assert ensure(endpoint, name("t"), newer) == ["tier", "more"]
    append(endpoint, name("t"), newer, [{"key": "new", "classified_at": NOW, "tier": "flex", "more": '{"a": 1}'}])
    rows = run(endpoint, Query(f"SELECT key, tier, more FROM {name('t').sql} ORDER BY key"))
    assert rows == [{"key": "new", "tier": "flex", "more": {"a": 1}}, {"key": "old", "tier": None, "more": None}]
    assert ensure(endpoint, name("t"), COLUMNS) == []  # an older version can still write


def test_columns_of_other_types_are_an_error_that_names_them(endpoint, name):
    ensure(endpoint, name("t"))
    other = (COLUMNS[0], Column("data", "STRING"), Column("n", "FLOAT64"), COLUMNS[3])
    with pytest.raises(ConfigError, match=r"^--output_table .*data is JSON, not STRING; n is INT64, not FLOAT64"):
        ensure(endpoint, name("t"), other)


def test_another_kind_of_table_is_never_changed(endpoint, name, make_table):
    table = make_table("observations", {"key": "STRING", "gcs_uri": "STRING"}, [])
    with pytest.raises(ConfigError, match=r"another kind of table, it lacks classified_at; give another name"):
        ensure(endpoint, table)
    assert [field.name for field in inputs.inspect(endpoint, table).fields] == ["key", "gcs_uri"]
    run(endpoint, Query(f"CREATE VIEW {name('v').sql} AS SELECT * FROM {table.sql}"))
    with pytest.raises(ConfigError, match="is a view; give the name of a table"):
        ensure(endpoint, name("v"))


def test_a_required_column_that_we_would_not_fill_is_an_error(endpoint, name):
    ensure(endpoint, name("t"), (*COLUMNS, Column("owner", "STRING", required=True)))
    with pytest.raises(ConfigError, match="owner is REQUIRED"):
        ensure(endpoint, name("t"))


def test_partitions_by_what_is_no_timestamp_are_a_bug_of_ours(endpoint, name):
    with pytest.raises(ValueError, match="cannot be partitioned by n"):
        tables.ensure_table(endpoint, name("t"), COLUMNS, partition_by="n")


def test_the_fixed_columns_of_answers_make_a_table(endpoint, name):
    assert len(ensure(endpoint, name("t"), ANSWER_COLUMNS)) == len(ANSWER_COLUMNS)


def test_the_output_data_set_must_exist_in_the_inputs_location(endpoint, name):
    table = name("t")
    assert tables.check_dataset(endpoint, table, "us") == "US"
    assert tables.check_dataset(endpoint, table, None) == "US"
    with pytest.raises(ConfigError, match=r"lies in US, the input in EU.*bq mk --location=EU"):
        tables.check_dataset(endpoint, table, "EU")
    nowhere = type(table)(table.project, "nowhere", "t")
    with pytest.raises(ConfigError, match=r"`bq mk --location=EU --dataset demo-project:nowhere`"):
        tables.check_dataset(endpoint, nowhere, "EU")


def test_a_table_is_checked_without_changing_it(endpoint, name, make_table):
    assert not tables.check_table(endpoint, name("t"), COLUMNS)
    ensure(endpoint, name("t"))
    assert tables.check_table(endpoint, name("t"), (*COLUMNS, Column("tier", "STRING")))
    assert ensure(endpoint, name("t")) == []
    with pytest.raises(ConfigError, match="another kind of table"):
        tables.check_table(endpoint, make_table("other", {"key": "STRING"}, []), COLUMNS)


def test_whether_a_table_exists(endpoint, name, make_table):
    assert not tables.exists(endpoint, name("t"))
    make_table("t", {"a": "INT64"}, [])
    assert tables.exists(endpoint, name("t"))
