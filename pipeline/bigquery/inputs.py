"""What an input table or query holds, and which of its columns go along."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from pipeline.bigquery import names
from pipeline.bigquery.client import Endpoint, explained, short_retry
from pipeline.bigquery.names import TableName
from pipeline.errors import ConfigError
from pipeline.rows import ANSWER_COLUMNS, IMAGES, Column

# The REST API still speaks legacy SQL's type names.
STANDARD_TYPES = {"INTEGER": "INT64", "FLOAT": "FLOAT64", "BOOLEAN": "BOOL", "RECORD": "STRUCT"}
_KEPT_AS_THEY_ARE = ("STRING", "INT64", "FLOAT64", "BOOL", "TIMESTAMP", "DATE")
_DEFAULT_KEPT = ("asset_id", "asset_type", "snapshot_id", "capture_time", "map_url")
_WORKLIST_COLUMNS = frozenset({"shard", "key", "gcs_uri", "problem", IMAGES})
_OWN_PREFIX = "wl_"  # of columns that the worklist's SQL makes on its way
_LOCATIONS = ("location", "capture_location")  # the latter in panorama tables, which have no asset


@dataclasses.dataclass(frozen=True, slots=True)
class Field:
    """One column or struct field of an input. `type` is GoogleSQL's name; `repeated` makes it an array."""

    name: str
    type: str
    repeated: bool = False
    fields: tuple[Field, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class TableInfo:
    """What is known of an input before anything is read.

    Args:
        sql: What comes after FROM: a quoted table, or a query in parentheses.
        fields: Its columns.
        location: Where it lies, such as `US`; None where BigQuery does not say.
        rows: Rows of a table; None for a view or a query.
    """

    sql: str
    fields: tuple[Field, ...]
    location: str | None
    rows: int | None = None

    def find(self, path: str) -> Field | None:
        """The field of that name or dotted path, in any case; None when there is none or it lies in an array."""
        fields = self.fields
        found: Field | None = None
        for part in path.split("."):
            if found is not None and found.repeated:
                return None
            found = next((field for field in fields if field.name.lower() == part.lower()), None)
            if found is None:
                return None
            fields = found.fields
        return found


@dataclasses.dataclass(frozen=True, slots=True)
class KeptColumn:
    """An input column that goes along: its flat name, its type in the answers table, and its GoogleSQL expression.

    The expression gives a STRING where the type is JSON.
    """

    name: str
    type: str
    expr: str


def inspect(endpoint: Endpoint, table: TableName, flag: str = "--input_table") -> TableInfo:
    """Returns the columns and the location of a table, view or table of a linked data set; reads no data.

    Raises:
        ConfigError: It does not exist or may not be read.
    """
    with explained(flag, table), endpoint.client() as client:
        found = client.get_table(str(table), retry=short_retry())
        rows = None if found.num_rows is None or found.table_type != "TABLE" else int(found.num_rows)
        return TableInfo(table.sql, _fields(found.schema), found.location or None, rows)


def inspect_query(endpoint: Endpoint, sql: str, flag: str = "--input_query") -> TableInfo:
    """Returns the columns and the location of a query's result, by a dry run that costs nothing.

    Raises:
        ConfigError: It is not one valid SELECT.
    """
    from google.cloud import bigquery

    text = sql.strip().rstrip(";")
    with explained(flag, _shortened(text)), endpoint.client() as client:
        job = client.query(f"SELECT * FROM (\n{text}\n)", job_config=bigquery.QueryJobConfig(dry_run=True))
        return TableInfo(f"(\n{text}\n)", _fields(job.schema or ()), job.location)


def kept_columns(info: TableInfo, requested: Sequence[str] | None) -> list[KeptColumn]:
    """Returns the input columns to store beside each answer, in order, each once.

    A struct or array is kept as JSON, but `location` as `latitude` and `longitude`; a field of a struct is named by its
    path, `bbox.lo.x`, and kept as `bbox_lo_x`. Types that answers do not have (NUMERIC, DATETIME, ...) become text.

    Args:
        info: The input.
        requested: Names or paths; None takes the default where present: asset_id, asset_type, snapshot_id,
            capture_time, map_url, location.

    Raises:
        ConfigError: A requested column does not exist, or its name is taken by a column of the answers table.
    """
    if requested is None:
        wanted = [name for name in _DEFAULT_KEPT if info.find(name) is not None]
        wanted += [name for name in _LOCATIONS if _is_location(info.find(name))][:1]
    else:
        wanted = list(requested)
    kept: dict[str, KeptColumn] = {}
    for path in wanted:
        for column in _columns_of(info, path, "--keep_columns"):
            kept.setdefault(column.name.lower(), column)
    taken = {column.name for column in ANSWER_COLUMNS} | _WORKLIST_COLUMNS
    clash = sorted(
        name for each in kept.values() if (name := each.name.lower()) in taken or name.startswith(_OWN_PREFIX)
    )
    if clash:
        raise ConfigError(
            f"--keep_columns: {', '.join(clash)}: the pipeline has a column of that name already; "
            "leave it out, or rename it with --input_query"
        )
    return list(kept.values())


def prompt_columns(info: TableInfo, requested: Sequence[str]) -> list[KeptColumn]:
    """Returns the input columns that a prompt names, one for each, by the rules of `kept_columns`; `location` stays whole.

    Raises:
        ConfigError: The input has no such column, or its name is one that the worklist has itself.
    """
    clash = [name for name in requested if name.lower() in _WORKLIST_COLUMNS or name.lower().startswith(_OWN_PREFIX)]
    if clash:
        raise ConfigError(
            f"--task: its prompt names {{{clash[0]}}}, which is a name of the pipeline's own; give the column another one "
            "with --input_query"
        )
    return [_column_of(info, path, "--task: its prompt names a column") for path in requested]


def number_columns(paths: Sequence[str]) -> list[KeptColumn]:
    """Returns columns of numbers, FLOAT64 under their flat names, whatever kind of number they are."""
    return [KeptColumn(path.replace(".", "_"), "FLOAT64", f"CAST({names.quoted(path)} AS FLOAT64)") for path in paths]


def _columns_of(info: TableInfo, path: str, flag: str) -> list[KeptColumn]:
    """The column, or its two where it is a place."""
    if "." not in path and path.lower() in _LOCATIONS and _is_location(info.find(path)):
        inner = (f"{path}.latitude", f"{path}.longitude")
        return [KeptColumn(part.rsplit(".", 1)[1], "FLOAT64", names.quoted(part)) for part in inner]
    return [_column_of(info, path, flag)]


def _column_of(info: TableInfo, path: str, flag: str) -> KeptColumn:
    field = info.find(path)
    if field is None:
        there = ", ".join(found.name for found in info.fields)
        raise ConfigError(f"{flag}: the input has no column {path!r}; it has {there}")
    expr = names.quoted(path, flag)
    name = path.replace(".", "_")
    if field.repeated or field.type in ("STRUCT", "JSON"):
        return KeptColumn(name, "JSON", f"TO_JSON_STRING({expr})")
    if field.type in _KEPT_AS_THEY_ARE:
        return KeptColumn(name, field.type, expr)
    return KeptColumn(name, "STRING", as_text(expr, field.type))


def as_text(expr: str, kind: str) -> str:
    """GoogleSQL that gives a scalar of that type as STRING."""
    functions = {"STRING": "{}", "BYTES": "TO_BASE64({})", "GEOGRAPHY": "ST_ASTEXT({})", "RANGE": "FORMAT('%t', {})"}
    return functions.get(kind, "CAST({} AS STRING)").format(expr)


def _is_location(field: Field | None) -> bool:
    return field is not None and not field.repeated and {"latitude", "longitude"} <= {f.name for f in field.fields}


def _fields(schema: Sequence[Any]) -> tuple[Field, ...]:
    return tuple(
        Field(
            field.name,
            STANDARD_TYPES.get(field.field_type, field.field_type),
            field.mode == "REPEATED",
            _fields(field.fields),
        )
        for field in schema
    )


def _shortened(text: str) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= 60 else flat[:57] + "..."


def answer_columns(kept: Sequence[KeptColumn]) -> tuple[Column, ...]:
    """The columns of an answers table: the fixed ones, then the kept ones."""
    return (*ANSWER_COLUMNS, *(Column(column.name, column.type, "From the input.") for column in kept))
