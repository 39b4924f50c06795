"""Rows as dictionaries into Arrow batches that BigQuery takes; the row that does not fit is named. Pure."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

import pyarrow as pa

from pipeline.rows import Column

# BigQuery refuses a request of more than 10 MB; schema and envelope come on top.
# https://cloud.google.com/bigquery/quotas#write-api-limits
MAX_BATCH_BYTES = 9_000_000

# https://cloud.google.com/bigquery/docs/supported-data-types#supported_apache_arrow_data_types
_ARROW: dict[str, pa.DataType] = {
    "STRING": pa.string(),
    "INT64": pa.int64(),
    "FLOAT64": pa.float64(),
    "BOOL": pa.bool_(),
    "TIMESTAMP": pa.timestamp("us", tz="UTC"),
    "DATE": pa.date32(),
    "JSON": pa.string(),
}

Row = Mapping[str, Any]


@dataclasses.dataclass(frozen=True, slots=True)
class Rejected:
    """A row that BigQuery does not take, and why."""

    row: Row
    error: str


@dataclasses.dataclass(frozen=True, slots=True)
class Encoded:
    """One request's worth of rows: the indices of those in it, in order, and the serialized batch."""

    indices: tuple[int, ...]
    payload: bytes


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")


_JSON = json.JSONDecoder(parse_constant=_refuse)


class Encoder:
    """Encodes rows of a table's columns; keys of a row that are no column are left out, missing ones are NULL."""

    def __init__(self, columns: Sequence[Column], max_bytes: int | None = None) -> None:
        self._columns = tuple(columns)
        self._max_bytes = MAX_BATCH_BYTES if max_bytes is None else max_bytes
        self._schema = pa.schema([(column.name, _ARROW[column.type]) for column in columns])
        self.serialized_schema: bytes = self._schema.serialize().to_pybytes()

    def encode(self, rows: Sequence[Row]) -> tuple[list[Encoded], dict[int, str]]:
        """Returns the batches that hold every row once, but those named in the second value: index -> error.

        More than one batch comes out only where one would be too large for a request.
        """
        errors: dict[int, str] = {}
        arrays = [self._array(column, rows, errors) for column in self._columns]
        if errors:
            kept = [index for index in range(len(rows)) if index not in errors]
            encoded, more = self.encode([rows[index] for index in kept]) if kept else ([], {})
            errors.update({kept[index]: error for index, error in more.items()})
            return [Encoded(tuple(kept[index] for index in part.indices), part.payload) for part in encoded], errors
        batch = pa.RecordBatch.from_arrays(arrays, schema=self._schema)
        parts: list[Encoded] = []
        self._split(batch, 0, parts, errors)
        return parts, errors

    def _split(self, batch: pa.RecordBatch, start: int, parts: list[Encoded], errors: dict[int, str]) -> None:
        payload = batch.serialize().to_pybytes()
        rows = batch.num_rows
        if len(payload) <= self._max_bytes:
            parts.append(Encoded(tuple(range(start, start + rows)), payload))
        elif rows == 1:
            errors[start] = f"the row has {len(payload):,} bytes, BigQuery takes {self._max_bytes:,} in one request"
        else:
            half = rows // 2
            self._split(batch.slice(0, half), start, parts, errors)
            self._split(batch.slice(half), start + half, parts, errors)

    def _array(self, column: Column, rows: Sequence[Row], errors: dict[int, str]) -> pa.Array | None:
        """The column's values; None and entries in `errors` where some row's value does not fit."""
        name, kind = column.name, self._schema.field(column.name).type
        values = [row.get(name) for row in rows]
        check = _CHECKS.get(column.type)
        if check is None and not column.required:
            try:
                return pa.array(values, type=kind)
            except (ValueError, TypeError, OverflowError):  # Arrow's own errors are among these
                pass
        for index, value in enumerate(values):
            try:
                if value is not None:
                    if check is not None:
                        check(value)
                elif column.required:
                    raise ValueError("is missing")
            except (ValueError, TypeError, RecursionError) as error:
                errors.setdefault(index, f"{name}: {error}")
        try:
            return pa.array(values, type=kind)
        except (ValueError, TypeError, OverflowError):
            for index, value in enumerate(values):
                try:
                    pa.array([value], type=kind)
                except (ValueError, TypeError, OverflowError) as error:
                    errors.setdefault(index, f"{name}: {error}")
        return None


def _check_json(value: Any) -> None:
    if not isinstance(value, str):
        raise TypeError(f"{type(value).__name__} is no JSON text")
    _JSON.decode(value)


_CHECKS: dict[str, Callable[[Any], None]] = {"JSON": _check_json}
