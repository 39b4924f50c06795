"""Our own tables: made when missing, checked when there, given the columns that a newer version has."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pipeline.bigquery.client import Endpoint, explained, short_retry
from pipeline.bigquery.inputs import STANDARD_TYPES
from pipeline.bigquery.names import TableName
from pipeline.errors import ConfigError
from pipeline.rows import Column

if TYPE_CHECKING:
    from google.cloud import bigquery


def check_dataset(endpoint: Endpoint, table: TableName, location: str | None, flag: str = "--output_table") -> str:
    """Returns the location of the data set that a table is to lie in.

    Raises:
        ConfigError: The data set does not exist, or does not lie where the input lies.
    """
    from google.api_core.exceptions import NotFound

    with explained(flag, table), endpoint.client() as client:
        try:
            found = client.get_dataset(table.dataset_name, retry=short_retry())
        except NotFound:
            raise ConfigError(
                f"{flag} {table}: there is no data set {table.dataset_name}; make it with "
                f"`bq mk --location={location or 'US'} --dataset {table.project}:{table.dataset}`"
            ) from None
    if location is not None and found.location.lower() != location.lower():
        raise ConfigError(
            f"{flag} {table}: its data set lies in {found.location}, the input in {location}, and BigQuery cannot join "
            f"them; give one in {location}, e.g. `bq mk --location={location} --dataset {table.project}:NAME`"
        )
    return str(found.location)


def ensure_table(
    endpoint: Endpoint,
    table: TableName,
    columns: Sequence[Column],
    *,
    partition_by: str,
    cluster_by: Sequence[str] = (),
    description: str = "",
    flag: str = "--output_table",
) -> list[str]:
    """Makes our table, or checks the one that is there and adds the columns that it lacks, NULLABLE.

    Returns:
        The names of the columns that were added: all of them when the table was made, none when it was as it should be.

    Raises:
        ConfigError: What is there is no table of ours, or has columns of other types; the message names them.
        ValueError: It would be partitioned or clustered by what is no such column; BigQuery would refuse that.
    """
    types = {column.name: column.type for column in columns}
    if types.get(partition_by) != "TIMESTAMP" or any(types.get(name) != "STRING" for name in cluster_by):
        raise ValueError(f"{table} cannot be partitioned by {partition_by} and clustered by {', '.join(cluster_by)}")
    from google.api_core.exceptions import Conflict, NotFound, PreconditionFailed
    from google.cloud import bigquery

    with explained(flag, table), endpoint.client() as client:
        for _ in range(3):  # another run may make or change it at the same moment: look again then
            try:
                found = client.get_table(str(table), retry=short_retry())
            except NotFound:
                made = bigquery.Table(str(table), schema=[_schema_field(column) for column in columns])
                made.time_partitioning = bigquery.TimePartitioning("DAY", field=partition_by)
                made.clustering_fields = list(cluster_by) or None
                made.description = description
                try:
                    client.create_table(made)
                except Conflict:
                    continue
                return [column.name for column in columns]
            missing = _missing(found, columns, flag)
            if not missing:
                return []
            added = [dataclasses.replace(column, required=False) for column in missing]
            found.schema = [*found.schema, *map(_schema_field, added)]
            try:
                client.update_table(found, ["schema"])
            except PreconditionFailed:
                continue
            return [column.name for column in missing]
    raise ConfigError(f"{flag} {table}: something else keeps changing this table; try again")


def _missing(found: bigquery.Table, columns: Sequence[Column], flag: str) -> list[Column]:
    """The columns that a table lacks, once it is known to be one of ours."""
    there = {field.name.lower(): field for field in found.schema}
    name = found.reference
    if found.table_type != "TABLE":
        raise ConfigError(f"{flag} {name}: is a {found.table_type.lower()}; give the name of a table, or of none yet")
    missing = [column for column in columns if column.name.lower() not in there]
    lacking = [column.name for column in missing if column.required]
    if lacking:
        raise ConfigError(f"{flag} {name}: is another kind of table, it lacks {', '.join(lacking)}; give another name")
    other = [
        f"{column.name} is {_described(there[column.name.lower()])}, not {column.type}"
        for column in columns
        if column not in missing and _described(there[column.name.lower()]) != column.type
    ]
    ours = {column.name.lower() for column in columns}
    other += [
        f"{field.name} is REQUIRED and would not be filled"
        for field in found.schema
        if field.mode == "REQUIRED" and field.name.lower() not in ours
    ]
    if other:
        raise ConfigError(f"{flag} {name}: columns differ: {'; '.join(other)}; give another table, or --keep_columns")
    return missing


def _described(field: bigquery.SchemaField) -> str:
    kind = STANDARD_TYPES.get(field.field_type, field.field_type)
    return f"ARRAY<{kind}>" if field.mode == "REPEATED" else kind


def _schema_field(column: Column) -> bigquery.SchemaField:
    from google.cloud import bigquery

    mode = "REQUIRED" if column.required else "NULLABLE"
    return bigquery.SchemaField(column.name, column.type, mode=mode, description=column.description)


def check_table(endpoint: Endpoint, table: TableName, columns: Sequence[Column], flag: str = "--output_table") -> bool:
    """Whether our table is there already; changes nothing.

    Raises:
        ConfigError: What is there is no table of ours, or has columns of other types; the message names them.
    """
    from google.api_core.exceptions import NotFound

    with explained(flag, table), endpoint.client() as client:
        try:
            found = client.get_table(str(table), retry=short_retry())
        except NotFound:
            return False
        _missing(found, columns, flag)
        return True


def exists(endpoint: Endpoint, table: TableName, flag: str = "--output_table") -> bool:
    """Whether there is a table or view of that name (in a data set that exists or not)."""
    from google.api_core.exceptions import NotFound

    with explained(flag, table), endpoint.client() as client:
        try:
            client.get_table(str(table), retry=short_retry())
        except NotFound:
            return False
    return True
