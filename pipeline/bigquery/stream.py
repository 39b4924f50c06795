"""One connection to a default write stream, and what its errors mean; `write.py` decides what to do about them."""

from __future__ import annotations

import collections
import logging
import queue
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from pipeline.bigquery.names import TableName
from pipeline.errors import ConfigError
from pipeline.rows import Column

LONGEST_DELAY_SECS = 5.0
OK, INVALID_ARGUMENT, NOT_FOUND, INTERNAL = 0, 3, 5, 13  # https://grpc.github.io/grpc/core/md_doc_statuscodes.html
_FINAL_CODES = frozenset({7, 9, 12, 16})  # PERMISSION_DENIED, FAILED_PRECONDITION, UNIMPLEMENTED, UNAUTHENTICATED
_TRACE_ID = "gemini-image-pipeline"
_RPC_TIMEOUT_SECS = 30.0
_JOIN_SECS = 5.0

_log = logging.getLogger(__name__)


class Batch(NamedTuple):
    """Rows of one request (opaque here), and their serialized Arrow batch."""

    entries: list[Any]
    payload: bytes


class Connection:
    """An open append stream: batches go out in order, responses come back in the same order.

    Args:
        client: A `BigQueryWriteClient`.
        table: Its default stream is appended to.
        schema: The serialized Arrow schema of all batches.
        on_response: Called for each `AppendRowsResponse`, from this connection's own thread.
        on_end: Called once with a gRPC status code and a message, when no more responses will come.
    """

    def __init__(
        self,
        client: Any,
        table: TableName,
        schema: bytes,
        on_response: Callable[[Connection, Any], None],
        on_end: Callable[[Connection, int, str], None],
    ) -> None:
        from google.api_core.gapic_v1 import routing_header

        self.in_flight: collections.deque[Batch] = collections.deque()
        self.last_heard = time.monotonic()
        self._stream, self._schema = stream_name(table), schema
        self._on_response, self._on_end = on_response, on_end
        self._queue: queue.SimpleQueue[Batch | None] = queue.SimpleQueue()
        to_metadata: Any = routing_header.to_grpc_metadata
        metadata = (to_metadata((("write_stream", self._stream),)),)
        # The generated method would wait for the first response before it returns; the transport's does not.
        self._call = client.transport.append_rows(self._requests(), metadata=metadata)
        self._reader = threading.Thread(target=self._read, name=f"acknowledgements {table}", daemon=True)
        self._reader.start()

    def send(self, batch: Batch) -> None:
        """Puts a batch on its way; it is in flight until its response or the end."""
        if not self.in_flight:
            self.last_heard = time.monotonic()
        self.in_flight.append(batch)
        self._queue.put(batch)

    def close(self) -> None:
        """Ends the stream at once; what is in flight may or may not arrive."""
        self._queue.put(None)
        self._call.cancel()

    def join(self) -> None:
        """After `close`, waits for the connection's thread; not to be called with a lock that the callbacks take.

        A daemon thread that Python's end interrupts in gRPC keeps the call's lock for ever, and whoever collects the
        call then waits for that lock: the process would never end.
        """
        self._reader.join(_JOIN_SECS)

    def _requests(self) -> Iterator[Any]:
        from google.cloud.bigquery_storage_v1 import types

        data = types.AppendRowsRequest.ArrowData(writer_schema=types.ArrowSchema(serialized_schema=self._schema))
        trace_id = _TRACE_ID
        while (batch := self._queue.get()) is not None:
            data.rows = types.ArrowRecordBatch(serialized_record_batch=batch.payload)
            yield types.AppendRowsRequest(write_stream=self._stream, arrow_rows=data, trace_id=trace_id)
            data = types.AppendRowsRequest.ArrowData()  # the schema goes with the first request of a connection
            trace_id = ""

    def _read(self) -> None:
        import grpc

        try:
            for response in self._call:
                self._on_response(self, response)
        except grpc.RpcError as error:
            self._on_end(self, error.code().value[0], f"{error.code().name}: {error.details()}")
        except Exception as error:  # noqa: BLE001  a thread's boundary: else what is in flight waits for ever
            _log.exception("a response of %s could not be read", self._stream)
            self._on_end(self, INTERNAL, repr(error))
        else:
            self._on_end(self, OK, "the service closed the stream")


def stream_name(table: TableName) -> str:
    """The name of a table's default stream."""
    return f"{table.path}/streams/_default"


def is_final(code: int, message: str) -> bool:
    """Whether sending the same again cannot help.

    A table or column that the service does not know may be minutes old: that is worth waiting for.
    """
    if code == INVALID_ARGUMENT:
        return not re.search(r"schema|field|column", message, re.IGNORECASE)
    return code in _FINAL_CODES


def check_schema(
    client: Any, table: TableName, columns: Sequence[Column], give_up_secs: float, first_delay_secs: float
) -> None:
    """Returns when the write service knows the table and all of these columns.

    Raises:
        ConfigError: A column has another type.
        google.api_core.exceptions.GoogleAPICallError: The table may not be written, or is not known for `give_up_secs`.
    """
    from google.api_core import exceptions
    from google.cloud.bigquery_storage_v1 import types

    final = (exceptions.Forbidden, exceptions.Unauthorized, exceptions.BadRequest)
    request = types.GetWriteStreamRequest(name=stream_name(table), view=types.WriteStreamView.FULL)
    give_up_at, delay = time.monotonic() + give_up_secs, first_delay_secs
    error: exceptions.GoogleAPICallError
    while True:
        try:
            missing = _missing(client.get_write_stream(request, retry=None, timeout=_RPC_TIMEOUT_SECS), table, columns)
            if not missing:
                return
            unknown: Any = exceptions.NotFound
            error = unknown(f"the write service does not know {', '.join(missing)} of {table}")
        except final:
            raise
        except exceptions.GoogleAPICallError as failed:
            error = failed
        if time.monotonic() + delay > give_up_at:
            raise error
        time.sleep(delay)
        delay = min(2 * delay, LONGEST_DELAY_SECS)


def _missing(stream: Any, table: TableName, columns: Sequence[Column]) -> list[str]:
    """The columns that the service does not know (yet)."""
    there = {field.name.lower(): field.type_.name.replace("DOUBLE", "FLOAT64") for field in stream.table_schema.fields}
    other = [
        f"{column.name} is {kind}, not {column.type}"
        for column in columns
        if (kind := there.get(column.name.lower(), column.type)) != column.type
    ]
    if other:
        raise ConfigError(f"{table}: columns differ: {'; '.join(other)}; give another table")
    return [column.name for column in columns if column.name.lower() not in there]
