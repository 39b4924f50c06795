"""Checks that read and write tables the way a run does."""

from __future__ import annotations

import datetime

from pipeline import planning
from pipeline.bigquery import query, read, tables, worklist
from pipeline.bigquery.client import explained
from pipeline.bigquery.query import Query
from pipeline.bigquery.write import RowWriter
from pipeline.checkup.patient import Patient
from pipeline.errors import ConfigError

ROWS = 3  # one bad image among them must not look like a bad project
GIVE_UP_SECS = 30.0  # a run tries for minutes; who asks a doctor waits for the answer


def copy_rows(patient: Patient) -> str:
    """Writes a worklist of a few rows, as every run does: CREATE TABLE AS SELECT over the input."""
    options, endpoint = patient.options, patient.known_endpoint
    table = patient.new_table("rows")
    flag = "--input_table" if options.input_table else "--input_query"
    job = query.Job({"pipeline": "gemini_image_pipeline"}, options.maximum_bytes_billed)
    try:
        with planning.input_explained(options, endpoint, patient.known_source):
            made = worklist.create(
                endpoint,
                table,
                patient.known_source,
                worklist.Done("doctor"),
                retry=worklist.RetryFailed.ALL,
                limit=ROWS,
                labels={"pipeline": "gemini_image_pipeline"},
                job=job,
            )
    except ConfigError as error:
        if not patient.is_linked:
            raise
        raise ConfigError(
            f"{error}. The input is a linked data set: where its publisher forbids that results of queries are copied "
            "(data egress controls), no worklist can be written; ask the publisher to allow it"
        ) from error
    patient.copied = table
    if not made.rows:
        raise ConfigError(
            f"{flag}: no row passes{f' --where={options.where}' if options.where else ''}; is it the right table?"
        )
    return f"CREATE TABLE AS SELECT wrote {made.rows} rows of the input"


def read_rows(patient: Patient) -> str:
    """Reads them back through the Storage Read API, as workers do."""
    table, endpoint = patient.copied, patient.known_endpoint
    assert table is not None  # noqa: S101 - `copy_rows` comes first
    outputs = patient.known_source.outputs
    with explained("Storage Read of", table):
        shards = worklist.shards(endpoint, table, ROWS)
        rows = [row for shard in shards for row in read.read_shard(endpoint, table, shard, outputs, GIVE_UP_SECS)]
    patient.rows = tuple(row for row in rows if not row.problem)
    if not patient.rows:
        problems = ", ".join(sorted({str(row.problem) for row in rows}))
        raise ConfigError(
            f"{len(rows)} rows were read and none is usable ({problems}); look at --key_column and --uri_column"
        )
    return f"{len(rows)} rows arrived, such as {patient.rows[0].key}"


def write_row(patient: Patient) -> str:
    """Makes a table with the columns of the answers, appends a row through the Storage Write API, and counts it."""
    endpoint, table = patient.known_endpoint, patient.new_table("written")
    tables.ensure_table(
        endpoint,
        table,
        patient.answer_columns,
        partition_by="classified_at",
        cluster_by=("fingerprint", "key"),
        description="Made by `python -m pipeline doctor`, which deletes it again.",
    )
    row = {"key": "doctor", "task": patient.known_task.name, "classified_at": datetime.datetime.now(datetime.UTC)}
    writer = RowWriter(endpoint, table, patient.answer_columns, give_up_secs=GIVE_UP_SECS)
    with explained("--output_table", patient.answers):
        writer.open()
        try:
            bundle = writer.bundle()
            bundle.append(row)
            refused = bundle.wait()
        finally:
            writer.close()
        if refused:
            raise ConfigError(f"BigQuery refuses a row of ours: {refused[0].error}")
        found = query.run(endpoint, Query(f"SELECT COUNT(*) AS row_count FROM {table.sql}"))[0]["row_count"]
    if found != 1:
        raise ConfigError(f"1 row was acknowledged and {found} are there: {table}")
    return "a table was made, a row appended and counted"
