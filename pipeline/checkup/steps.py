"""The checks in their order, and what they find out for one another."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

from pipeline import planning
from pipeline.bigquery import inputs, query, tables
from pipeline.bigquery.client import Endpoint, explained, short_retry
from pipeline.bigquery.names import TableName
from pipeline.bigquery.query import Query
from pipeline.checkup import calls, storage
from pipeline.checkup.patient import Patient
from pipeline.errors import ConfigError
from pipeline.rows import FAILURE_COLUMNS, RUN_COLUMNS
from pipeline.settings import settings_of
from pipeline.task import fingerprint

__all__ = ["STEPS", "Patient", "Step"]

# What reading a table takes beside a job: https://cloud.google.com/bigquery/docs/access-control#bigquery
_READ = ("bigquery.tables.get", "bigquery.tables.getData")


@dataclasses.dataclass(frozen=True, slots=True)
class Step:
    """One check.

    Attributes:
        check: tries it; returns what it saw, in one line.
        needs: names of the steps without which it cannot be tried.
    """

    name: str
    check: Callable[[Patient], str]
    needs: Sequence[str] = ()


def _question(patient: Patient) -> str:
    options = patient.options
    task = planning.task_of(options)
    patient.task = task
    patient.settings = settings_of(options, task)
    mark = fingerprint(task, patient.settings)
    return f"task {task.name}, {patient.settings.model}, {patient.settings.media_resolution} resolution, {mark}"


def _bigquery(patient: Patient) -> str:
    options = patient.options
    project = planning.project_of(options)
    patient.endpoint = Endpoint(project, None, options.bigquery_endpoint, options.bigquery_storage_endpoint)
    with explained("--project", project):
        query.run(patient.endpoint, Query("SELECT 1 AS one"))
    return f"the API is enabled and {project} runs queries"


def _input(patient: Patient) -> str:
    options, endpoint = patient.options, patient.known_endpoint
    planning.check_input(options)
    if options.input_query is not None:
        patient.info = inputs.inspect_query(endpoint, options.input_query)
        return f"the query is valid and lies in {patient.info.location}"
    table = TableName.parse(options.input_table or "", "--input_table")
    patient.info = inputs.inspect(endpoint, table)
    _check_permissions(endpoint, table)
    kind = _look_at_dataset(patient, table)
    rows = "a view" if patient.info.rows is None else f"{patient.info.rows:,} rows"
    return f"{table}: {rows} in {patient.info.location or 'an unknown location'}{kind}"


def _check_permissions(endpoint: Endpoint, table: TableName) -> None:
    """Raises ConfigError where BigQuery says which permissions on the table are missing."""
    from google.api_core.exceptions import GoogleAPICallError

    with endpoint.client() as client:
        try:
            granted = client.test_iam_permissions(str(table), list(_READ), retry=short_retry()).get("permissions", [])
        except GoogleAPICallError:
            return  # not offered for this table: reading it is what tells
    missing = [permission for permission in _READ if permission not in granted]
    if missing:
        raise ConfigError(
            f"--input_table {table}: {', '.join(missing)} is missing; grant roles/bigquery.dataViewer on its data set"
        )


def _look_at_dataset(patient: Patient, table: TableName) -> str:
    """Where the input's data set lies, whether a subscription made it, and what its publisher forbids."""
    from google.api_core.exceptions import GoogleAPICallError

    with patient.known_endpoint.client() as client:
        try:
            found = client.get_dataset(table.dataset_name, retry=short_retry())
        except GoogleAPICallError:
            return ""  # who may read a table need not see its data set
    info, properties = patient.known_info, found.to_api_repr()
    patient.info = dataclasses.replace(info, location=info.location or found.location)
    patient.is_linked = properties.get("type") == "LINKED"
    if not patient.is_linked:
        return ""
    return ", a linked data set" + (" whose publisher restricts exports" if properties.get("restrictions") else "")


def _output(patient: Patient) -> str:
    answers, failures, runs = planning.table_names(patient.options)
    patient.answers = answers
    endpoint, info = patient.known_endpoint, patient.info
    location = tables.check_dataset(endpoint, answers, info.location if info else None)
    for flag, name in (("--failures_table", failures), ("--runs_table", runs)):
        tables.check_dataset(endpoint, name, location, flag)
    patient.endpoint = dataclasses.replace(endpoint, location=location)
    patient.location = location
    if info is None:
        return f"{answers.dataset_name} lies in {location}; whether the input lies there too is not known"
    return f"{answers.dataset_name} lies in {location}, like the input"


def _columns(patient: Patient) -> str:
    options = patient.options
    kept, patient.source = planning.source_of(options, patient.known_settings, patient.known_info, patient.known_task)
    patient.answer_columns = inputs.answer_columns(kept)
    patient.kept = tuple(column.name for column in kept)
    answers, failures, runs = planning.table_names(options)
    there = [
        name
        for flag, name, columns in (
            ("--output_table", answers, patient.answer_columns),
            ("--failures_table", failures, FAILURE_COLUMNS),
            ("--runs_table", runs, RUN_COLUMNS),
        )
        if tables.check_table(patient.known_endpoint, name, columns, flag)
    ]
    ours = f"{len(there)} of 3 output tables are there and fit" if there else "the output tables are yet to be made"
    kept_names = ", ".join(column.name for column in kept) or "no other column"
    return f"key {options.key_column}, image {options.uri_column}, kept: {kept_names}; {ours}"


STEPS = (
    Step("question", _question),
    Step("credentials", calls.credentials),
    Step("BigQuery", _bigquery, ("credentials",)),
    Step("input", _input, ("BigQuery",)),
    Step("output", _output, ("BigQuery",)),
    Step("columns", _columns, ("question", "input", "output")),
    Step("read by query", storage.copy_rows, ("columns",)),
    Step("Storage Read", storage.read_rows, ("read by query",)),
    Step("Storage Write", storage.write_row, ("columns",)),
    Step("model", calls.call_model, ("question", "credentials")),
    Step("image", calls.ask_about_image, ("Storage Read", "model")),
)
"""In this order; what is tried costs one query over the columns of the input and about two calls to the model."""
