"""What the tests of this directory share: an endpoint on the emulator, and tables made of plain rows."""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import pytest

from pipeline.bigquery import tables
from pipeline.bigquery.client import Endpoint
from pipeline.bigquery.names import TableName
from pipeline.bigquery.query import Query, run
from pipeline.local.bigquery import BigQueryEmulator
from pipeline.rows import ANSWER_COLUMNS, FAILURE_COLUMNS, RUN_COLUMNS

MakeTable = Callable[[str, Mapping[str, str], Sequence[Mapping[str, Any]]], TableName]


@pytest.fixture
def endpoint(bigquery: BigQueryEmulator) -> Endpoint:
    return Endpoint(bigquery.project, rest=bigquery.rest, storage=bigquery.storage)


@pytest.fixture(scope="session")
def disk_bigquery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BigQueryEmulator]:
    """An emulator with its data on disk and a data set `ds`, to be killed and started by tests."""
    with BigQueryEmulator(tmp_path_factory.mktemp("bigquery")) as emulator:
        run(Endpoint(emulator.project, rest=emulator.rest, storage=emulator.storage), Query("CREATE SCHEMA ds"))
        yield emulator


@pytest.fixture
def name(dataset: str) -> Callable[[str], TableName]:
    return lambda table: TableName.parse(f"{dataset}.{table}")


def value_of(path: str, kind: str) -> str:
    """GoogleSQL for a value in the JSON `r`; of structs, those of one level."""
    if not kind.startswith("STRUCT<"):
        return f"CAST(JSON_VALUE(r, '{path}') AS {kind})"
    fields = [field.split() for field in kind[len("STRUCT<") : -1].split(", ")]
    inner = ", ".join(f"{value_of(f'{path}.{name}', kind)} AS {name}" for name, kind in fields)
    return f"IF(JSON_QUERY(r, '{path}.{fields[0][0]}') IS NULL, NULL, STRUCT({inner}))"


@pytest.fixture
def make_table(endpoint: Endpoint, name: Callable[[str], TableName]) -> MakeTable:
    """Makes a table of columns {name: GoogleSQL type} and rows of plain values."""

    def make(table: str, columns: Mapping[str, str], rows: Sequence[Mapping[str, Any]]) -> TableName:
        made = name(table)
        typed = ", ".join(f"{value_of(f'$.{column}', kind)} AS {column}" for column, kind in columns.items())
        sql = f"CREATE TABLE {made.sql} AS SELECT {typed} FROM UNNEST(JSON_QUERY_ARRAY(@rows)) AS r"
        run(endpoint, Query(sql, {"rows": json.dumps(list(rows), default=datetime.datetime.isoformat)}))
        return made

    return make


@pytest.fixture
def ours(endpoint: Endpoint, name: Callable[[str], TableName]) -> dict[str, TableName]:
    """Empty tables of answers, failures and runs."""
    made = {}
    for table, columns, partition in (
        ("answers", ANSWER_COLUMNS, "classified_at"),
        ("failures", FAILURE_COLUMNS, "failed_at"),
        ("runs", RUN_COLUMNS, "at"),
    ):
        made[table] = name({"answers": "a", "failures": "a_failures", "runs": "a_runs"}[table])
        tables.ensure_table(endpoint, made[table], columns, partition_by=partition, cluster_by=("run_id",))
    return made
