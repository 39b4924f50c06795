"""A Storage Write service on loopback that is as strict as BigQuery's, and fails when it is told to.

The emulator takes what it gets; this one checks each row and names the bad ones in `row_errors`, forgets tables for a
while, closes streams, stays silent. Requests come over real gRPC.
"""

from __future__ import annotations

import collections
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Self

import grpc
import pyarrow as pa
from google.cloud.bigquery_storage_v1 import types

from pipeline.rows import Column

_SERVICE = "google.cloud.bigquery.storage.v1.BigQueryWrite"
_TYPES = {"FLOAT64": "DOUBLE"}
MAX_REQUEST_BYTES = 10_000_000


class StrictWriter:
    """One table's default stream.

    Attributes:
        columns: What the service knows of the table; None makes the table unknown. May be changed at any time.
        rows: Rows that were appended, in order.
        faults: What to do to the next requests instead of appending, first to first: a `(code, message)` in the
            response, a `grpc.StatusCode` that ends the stream, "lost ack" (appends, then ends it), or "silence".
        hold: Responses wait until it is set.
        requests: Sizes of the appends that came, in rows.
        streams: How many streams were opened.
    """

    def __init__(self, columns: Sequence[Column]) -> None:
        self.columns: Sequence[Column] | None = columns
        self.rows: list[dict[str, Any]] = []
        self.faults: collections.deque[Any] = collections.deque()
        self.hold = threading.Event()
        self.hold.set()
        self.arrived = threading.Semaphore(0)  # one release a request
        self.requests: list[int] = []
        self.lookups = threading.Semaphore(0)  # one release a GetWriteStream
        self.streams = 0
        self._lock = threading.Lock()
        self._port = 0

    def __enter__(self) -> Self:
        self._pool = ThreadPoolExecutor(32)
        self._server = grpc.server(self._pool, options=[("grpc.max_receive_message_length", -1)])
        handlers = {
            "GetWriteStream": grpc.unary_unary_rpc_method_handler(
                self._get, types.GetWriteStreamRequest.deserialize, types.WriteStream.serialize
            ),
            "AppendRows": grpc.stream_stream_rpc_method_handler(
                self._append, types.AppendRowsRequest.deserialize, types.AppendRowsResponse.serialize
            ),
        }
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(_SERVICE, handlers),))
        self._port = self._server.add_insecure_port("127.0.0.1:0")
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.hold.set()
        self._server.stop(None).wait()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._port}"

    def _get(self, request: types.GetWriteStreamRequest, context: grpc.ServicerContext) -> types.WriteStream:
        columns = self.columns
        self.lookups.release()
        if columns is None:
            context.abort(grpc.StatusCode.NOT_FOUND, "Requested entity was not found")
        assert request.view == types.WriteStreamView.FULL
        fields = [
            types.TableFieldSchema(name=column.name, type_=_TYPES.get(column.type, column.type)) for column in columns
        ]
        return types.WriteStream(name=request.name, table_schema=types.TableSchema(fields=fields))

    def _append(self, requests: Iterator[Any], context: grpc.ServicerContext) -> Iterator[types.AppendRowsResponse]:
        metadata = dict(context.invocation_metadata())
        assert metadata["x-goog-request-params"].startswith("write_stream=projects/")
        with self._lock:
            self.streams += 1
        schema = b""
        for request in requests:
            if self.columns is None:
                context.abort(grpc.StatusCode.NOT_FOUND, "Requested entity was not found")
            assert len(types.AppendRowsRequest.serialize(request)) <= MAX_REQUEST_BYTES
            schema = request.arrow_rows.writer_schema.serialized_schema or schema
            assert schema, "the first request of a connection carries the schema"
            rows = pa.ipc.open_stream(schema + request.arrow_rows.rows.serialized_record_batch).read_all()
            with self._lock:
                self.requests.append(rows.num_rows)
                fault = self.faults.popleft() if self.faults else None
            self.arrived.release()
            if isinstance(fault, grpc.StatusCode):
                context.abort(fault, "told to")
            if fault == "silence":
                while context.is_active():
                    threading.Event().wait(0.01)
                return
            self.hold.wait()
            response = self._refused(fault) if isinstance(fault, tuple) else self._take(rows)
            if fault == "lost ack":
                context.abort(grpc.StatusCode.UNAVAILABLE, "connection reset")
            yield response

    @staticmethod
    def _refused(fault: tuple[Any, ...]) -> types.AppendRowsResponse:
        """`(code, message)`, or with the indices of rows that it names as bad."""
        named = [types.RowError(index=index, message="cannot take it") for index in fault[2]] if len(fault) > 2 else []
        return types.AppendRowsResponse(error={"code": fault[0], "message": fault[1]}, row_errors=named)

    def _take(self, table: pa.Table) -> types.AppendRowsResponse:
        known = {column.name for column in self.columns or ()}
        extra = [name for name in table.column_names if name not in known]
        if extra:
            return self._refused((3, f"Input schema has more fields than BigQuery schema, extra fields: '{extra}'"))
        rows = table.to_pylist()
        bad = [index for index, row in enumerate(rows) if "bad" in str(row["key"])]
        if bad:
            errors = [types.RowError(index=index, message=f"cannot take row {index}") for index in bad]
            return types.AppendRowsResponse(error={"code": 3, "message": "Errors found"}, row_errors=errors)
        with self._lock:
            self.rows += rows
        return types.AppendRowsResponse(append_result=types.AppendRowsResponse.AppendResult())
