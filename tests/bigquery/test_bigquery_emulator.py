"""The launcher of the BigQuery emulator: what the demo and all tests stand on."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from pipeline.bigquery import tables
from pipeline.bigquery.client import Endpoint
from pipeline.bigquery.names import TableName
from pipeline.bigquery.query import Query, run
from pipeline.bigquery.write import RowWriter
from pipeline.local.bigquery import BigQueryEmulator
from pipeline.rows import Column

ROOT = Path(__file__).parents[2]
COLUMNS = (Column("key", "STRING", required=True), Column("at", "TIMESTAMP"))


def test_data_on_disk_survive_a_kill_on_the_same_ports(disk_bigquery):
    ports = disk_bigquery.rest, disk_bigquery.storage
    endpoint = Endpoint(disk_bigquery.project, rest=ports[0], storage=ports[1])
    run(endpoint, Query("CREATE TABLE ds.survivor AS SELECT 1 AS a"))
    disk_bigquery.kill()
    disk_bigquery.start()
    assert (disk_bigquery.rest, disk_bigquery.storage) == ports
    assert run(endpoint, Query("SELECT a FROM ds.survivor")) == [{"a": 1}]


def test_a_second_emulator_on_the_same_data_says_why_it_does_not_start(disk_bigquery):
    with pytest.raises(RuntimeError, match=r"(?s)did not start \(.*lock"), BigQueryEmulator(disk_bigquery.data_dir):
        pass


def test_the_emulator_dies_with_its_parent():
    program = (
        "import sys\n"
        "from pipeline.local.bigquery import BigQueryEmulator\n"
        "with BigQueryEmulator() as emulator:\n"
        "    print(emulator._process.pid, flush=True)\n"
        "    sys.stdin.read()\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", program], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    child = int(parent.stdout.readline())
    waiting = os.pidfd_open(child)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    assert select.select([waiting], [], [], 30)[0], "the emulator outlives its parent"
    os.close(waiting)
    parent.stdin.close()
    parent.stdout.close()


def test_many_append_streams_and_queries_at_once_neither_block_nor_mix(endpoint, name):
    table = name("t")
    tables.ensure_table(endpoint, table, COLUMNS, partition_by="at")

    def work(part: int) -> None:
        writer = RowWriter(endpoint, table, COLUMNS, flush_rows=20)
        writer.open()
        bundle = writer.bundle()
        for number in range(100):
            bundle.append({"key": f"{part}-{number}"})
        bundle.wait()
        writer.close()

    threads = [threading.Thread(target=work, args=(part,)) for part in range(12)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        counted = run(endpoint, Query(f"SELECT COUNT(*) AS n, 'x' AS x FROM {table.sql}"))
        assert set(counted[0]) == {"n", "x"}
        tables.exists(endpoint, TableName(table.project, table.dataset, "other"))
    for thread in threads:
        thread.join()
    counted = run(endpoint, Query(f"SELECT COUNT(DISTINCT key) AS n FROM {table.sql}"))
    assert counted == [{"n": 1200}]


def test_struct_columns_survive_storage_write(endpoint, dataset):
    import pyarrow as pa
    from google.cloud import bigquery
    from google.cloud.bigquery_storage_v1 import types

    point = [bigquery.SchemaField("x", "FLOAT64"), bigquery.SchemaField("y", "FLOAT64")]
    with endpoint.client() as client:
        client.create_table(
            bigquery.Table(
                f"{dataset}.nested",
                schema=[bigquery.SchemaField("key", "STRING"), bigquery.SchemaField("place", "STRUCT", fields=point)],
            )
        )
    name = TableName.parse(f"{dataset}.nested")
    schema = pa.schema([("key", pa.string()), ("place", pa.struct([("x", pa.float64()), ("y", pa.float64())]))])
    batch = pa.RecordBatch.from_pylist([{"key": "a", "place": {"x": 1.0, "y": 2.0}}, {"key": "b"}], schema=schema)
    request = types.AppendRowsRequest(write_stream=f"{name.path}/streams/_default")
    request.arrow_rows.writer_schema.serialized_schema = schema.serialize().to_pybytes()
    request.arrow_rows.rows.serialized_record_batch = batch.serialize().to_pybytes()
    with endpoint.writer() as writer:
        assert [response.error.code for response in writer.append_rows(iter([request]))] == [0]
    rows = run(endpoint, Query(f"SELECT key, place.x AS x FROM {name.sql} ORDER BY key"))
    assert rows == [{"key": "a", "x": 1.0}, {"key": "b", "x": None}]
