"""One query: its text, its parameters, its price in bytes, its rows."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pipeline.bigquery import names
from pipeline.errors import ConfigError

if TYPE_CHECKING:
    from google.cloud import bigquery

    from pipeline.bigquery.client import Endpoint


Parameter = str | int | float | bool | datetime.datetime | tuple[str, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Query:
    """GoogleSQL and its named parameters (str, int, float, bool, an aware datetime, or a tuple of str: an array)."""

    sql: str
    parameters: Mapping[str, Parameter] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, slots=True)
class Job:
    """How queries are run and billed.

    Args:
        labels: Labels of the job, for the bill; made valid here.
        maximum_bytes_billed: BigQuery refuses a query that would bill more; None leaves it to the project.
    """

    labels: Mapping[str, str] = dataclasses.field(default_factory=dict)
    maximum_bytes_billed: int | None = None


CLOCKS_DIFFER_BY = datetime.timedelta(days=1)
"""At most: rows carry the time of the machine that asked for them, a run that of its launcher."""


def earliest(started: datetime.datetime) -> datetime.datetime:
    """Returns from when on rows of a run are looked for: only to read fewer partitions, its id says which rows are its own."""
    return started - CLOCKS_DIFFER_BY


_TYPES = {str: "STRING", bool: "BOOL", int: "INT64", float: "FLOAT64", datetime.datetime: "TIMESTAMP"}


def run(endpoint: Endpoint, query: Query, job: Job | None = None) -> list[dict[str, Any]]:
    """Runs a query to its end and returns its rows as dictionaries; meant for few rows."""
    with endpoint.client() as client:
        done = client.query(query.sql, job_config=_config(query, job or Job()))
        return [dict(row.items()) for row in done.result()]


def dry_run(endpoint: Endpoint, query: Query, job: Job | None = None) -> int:
    """Returns the bytes that a query would read, without running it; free of charge.

    Raises:
        ConfigError: It is a script of several statements, as a `--where` that ends ours would make it.
    """
    with endpoint.client() as client:
        config = _config(query, job or Job())
        config.dry_run = True
        config.use_query_cache = False
        planned = client.query(query.sql, job_config=config)
        if planned.statement_type == "SCRIPT":
            raise ConfigError("--where or --input_query: it makes several statements; give one condition or one query")
        return int(planned.total_bytes_processed or 0)


def _config(query: Query, job: Job) -> bigquery.QueryJobConfig:
    from google.cloud import bigquery

    config = bigquery.QueryJobConfig(
        use_legacy_sql=False,
        labels={key: names.label_value(value) for key, value in job.labels.items()},
        query_parameters=[
            bigquery.ArrayQueryParameter(name, "STRING", value)
            if isinstance(value, tuple)
            else bigquery.ScalarQueryParameter(name, _TYPES[type(value)], value)
            for name, value in query.parameters.items()
        ],
    )
    if job.maximum_bytes_billed is not None:
        config.maximum_bytes_billed = job.maximum_bytes_billed
    return config
