"""BigQuery on loopback: the package bqemulator (DuckDB behind BigQuery's REST and gRPC APIs) in a child process.

`python -m pipeline.local.bigquery DATA_DIR|:memory: REST_PORT GRPC_PORT` runs it by hand (port 0: a free one).

bqemulator 1.4.0 is repaired here where it stands in our way, each repair with its reason. What is lost: GEOGRAPHY and
time travel. It is no proof of BigQuery's strictness; see README.
"""

from __future__ import annotations

import asyncio
import collections
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from pipeline.local.child import first_line

START_TIMEOUT_SECS = 120.0  # 4-5 s on an idle machine; many times that on a busy one
STOP_TIMEOUT_SECS = 15.0
MAX_OPEN_APPEND_STREAMS = 256
MAX_READ_SESSIONS = 64
MAX_ROWS_PER_MESSAGE = 1000
LINKED_LABEL = "linked_from"
"""A data set with this label is shown as a linked one, from the data set `PROJECT--DATASET` that the label names."""

_WITH_PARENT = "--die-with-parent"


class BigQueryEmulator:
    """A BigQuery emulator in a child process, for as long as the `with` block or the parent process lives.

    Example:
        with BigQueryEmulator(data_dir) as bigquery:
            Endpoint("demo-project", rest=bigquery.rest, storage=bigquery.storage)

    After `stop` (SIGTERM) or `kill` (SIGKILL), `start` brings it back on the same ports and, unless it is in memory,
    with the same data.

    Args:
        data_dir: Where the tables live; None keeps them in memory.
        project: The project that requests without one mean.

    Raises:
        RuntimeError: It does not start; with the last lines of its log.
    """

    def __init__(self, data_dir: str | Path | None = None, *, project: str = "demo-project") -> None:
        self.data_dir = None if data_dir is None else Path(data_dir).resolve()
        self._project = project
        self._ports = (0, 0)
        self._process: subprocess.Popen[str] | None = None
        self._log: IO[bytes] | None = None

    @property
    def rest(self) -> str:
        """The REST endpoint, `http://127.0.0.1:PORT`."""
        return f"http://127.0.0.1:{self._ports[0]}"

    @property
    def storage(self) -> str:
        """The Storage Read and Write endpoint, `127.0.0.1:PORT`."""
        return f"127.0.0.1:{self._ports[1]}"

    @property
    def project(self) -> str:
        """The project that the data sets of the demo and the tests live in."""
        return self._project

    @property
    def pid(self) -> int:
        """The child's process id, for tests that limit what it may use; 0 where it does not run."""
        return self._process.pid if self._process is not None else 0

    def start(self) -> Self:
        """Starts the child and returns when both ports answer."""
        if self._process is not None:
            return self
        # The log is read only when the start fails; a file, as an unread pipe would block the child.
        self._log = tempfile.TemporaryFile()  # noqa: SIM115
        where = ":memory:" if self.data_dir is None else str(self.data_dir)
        command = [sys.executable, "-m", __name__, where, *map(str, self._ports), _WITH_PARENT]
        self._process = subprocess.Popen(  # noqa: S603
            command,
            stdin=subprocess.PIPE,  # held open: its end is how the child learns that the parent is gone
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            cwd=Path(__file__).parents[2],
            env={**os.environ, "BQEMU_DEFAULT_PROJECT_ID": self._project},
            start_new_session=True,  # Ctrl-C goes to the whole group: the parent must still be able to write then
        )
        line = first_line(self._process, START_TIMEOUT_SECS)
        if not line:
            log = self._read_log()
            self.kill()
            raise RuntimeError(f"the BigQuery emulator did not start ({where}); its log ends with:\n{log}")
        ports = json.loads(line)
        self._ports = (ports["rest"], ports["grpc"])
        return self

    def stop(self) -> None:
        """Ends the child in order; data on disk stay."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """Ends the child with SIGKILL, as a crash would; what was acknowledged before is still on disk."""
        self._end(signal.SIGKILL)

    def _end(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(how)
        try:
            process.wait(STOP_TIMEOUT_SECS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for pipe in (process.stdin, process.stdout, self._log):
            if pipe is not None:
                pipe.close()

    def _read_log(self) -> str:
        if self._log is None:
            return ""
        self._log.seek(0)
        return self._log.read().decode(errors="replace")[-4000:]

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def _repair() -> None:
    """Repairs bqemulator 1.4.0 before its server is made."""
    # By name: replacing a method is what a type checker rightly refuses.
    write_servicer: Any = import_module("bqemulator.grpc_api.write_servicer")
    read_servicer: Any = import_module("bqemulator.grpc_api.read_servicer")
    read_session: Any = import_module("bqemulator.streaming.read_session")
    engine_class = import_module("bqemulator.storage.engine").DuckDBEngine
    snapshot_class = import_module("bqemulator.versioning.snapshots").SnapshotManager
    tabledata = import_module("bqemulator.api.routes.tabledata")
    datasets: Any = import_module("bqemulator.api.routes.datasets")
    changed = import_module("bqemulator.domain.events").TableDataChanged

    # It wants DuckDB's spatial extension from the network at every start.
    engine_class._load_spatial = lambda _: None

    # Its Storage Write forgets the inner fields of STRUCT columns.
    def arrow_schema(table: Any) -> Any:
        return tabledata._build_arrow_schema(tabledata._fields_raw_from_schema(table.schema_.fields))

    write_servicer._table_arrow_schema = arrow_schema

    # It knows no linked data sets, which is what a subscription to Street View Insights makes.
    to_rest = datasets._dataset_to_rest

    def with_link(dataset: Any) -> dict[str, Any]:
        body: dict[str, Any] = to_rest(dataset)
        project, _, name = (dataset.labels or {}).get(LINKED_LABEL, "").partition("--")
        if name:
            body["type"] = "LINKED"
            body["linkedDatasetSource"] = {"sourceDataset": {"projectId": project, "datasetId": name}}
        return body

    datasets._dataset_to_rest = with_link

    # It copies the whole table at every change (time travel), which makes n appends cost n * n.
    def only_announce(self: Any, project_id: str, dataset_id: str, table_id: str) -> None:
        self._events.publish(changed(project_id, dataset_id, table_id))

    snapshot_class.record_change = only_announce

    for module, repository in (("memory", "MemoryCatalogRepository"), ("duckdb", "DuckDBCatalogRepository")):
        _add_columns_to_the_table_too(getattr(import_module(f"bqemulator.catalog.{module}_repository"), repository))

    # It keeps the rows of every read session until it ends.
    read_session._SESSIONS = _Newest(MAX_READ_SESSIONS)

    # It sends up to 65,536 rows in one message, more bytes than its own limit lets through.
    rows_of_stream = read_session.get_stream_data

    def in_small_batches(session_name: str, stream: str) -> Any:
        rows = rows_of_stream(session_name, stream)
        return None if rows is None else rows.from_batches(rows.to_batches(MAX_ROWS_PER_MESSAGE), rows.schema)

    read_servicer.get_stream_data = in_small_batches

    # One DuckDB connection is used by several threads at once, so that one's result can be fetched by another. The
    # event loop's thread keeps it; the others (a few read-only REST routes) get one of their own to the same data.
    owner = threading.get_ident()
    local = threading.local()
    shared = engine_class.connection.fget

    def connection_of_thread(self: Any) -> Any:
        if threading.get_ident() == owner:
            return shared(self)
        mine = getattr(local, "connection", None)
        if mine is None:
            mine = local.connection = shared(self).cursor()
            mine.execute("SET TimeZone = 'UTC'")
        return mine

    engine_class.connection = property(connection_of_thread)


def _add_columns_to_the_table_too(repository: Any) -> None:
    """Makes new columns of a schema known to DuckDB's table, not to bqemulator's catalogue only."""
    update = repository.update_table
    columns_of = import_module("bqemulator.storage.type_map").bq_schema_to_duckdb_columns
    quoted_name = import_module("bqemulator.storage.sql_identifiers").quoted_table_ref

    def update_with_columns(self: Any, table: Any) -> Any:
        before = self.get_table(table.project_id, table.dataset_id, table.table_id)
        if before is not None and table.table_type == "TABLE" and self._engine is not None:
            new = [{"name": f.name, "type": f.type} for f in table.schema_.fields[len(before.schema_.fields) :]]
            for name, kind in columns_of(new):
                name_in_sql = quoted_name(table.project_id, table.dataset_id, table.table_id)
                self._engine.execute(f'ALTER TABLE {name_in_sql} ADD COLUMN IF NOT EXISTS "{name}" {kind}')
        return update(self, table)

    repository.update_table = update_with_columns


def _append_on_loop(loop: asyncio.AbstractEventLoop) -> None:
    """Makes Storage Write insert on the event loop's thread, as all the rest does: see `connection_of_thread`."""
    handler_class = import_module("bqemulator.grpc_api.write_servicer").BigQueryWriteHandler
    insert = handler_class._flush_to_target

    async def locked_insert(self: Any, stream: Any, rows: Any) -> None:
        async with self._ctx.engine.write_lock():
            insert(self, stream, rows)

    def insert_on_loop(self: Any, stream: Any, rows: Any) -> None:
        if threading.get_ident() == threading.main_thread().ident:  # BatchCommit runs on the loop already
            insert(self, stream, rows)
        else:
            asyncio.run_coroutine_threadsafe(locked_insert(self, stream, rows), loop).result()

    handler_class._flush_to_target = insert_on_loop


class _Newest(collections.OrderedDict[str, Any]):
    """A dictionary that forgets its oldest entries."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self._size = size

    def __setitem__(self, key: str, value: Any) -> None:
        super().__setitem__(key, value)
        while len(self) > self._size:
            self.popitem(last=False)


async def _serve(data_dir: str, rest_port: int, grpc_port: int, with_parent: bool) -> None:
    """Serves until SIGTERM or SIGINT, or until the parent is gone; prints both ports as JSON when it is ready."""
    # It prints log lines to stdout as soon as it is imported; stdout is for the line that says that it is ready.
    ready = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    from bqemulator.config import LogLevel, PersistenceMode, Settings
    from bqemulator.server import EmulatorServer

    loop = asyncio.get_running_loop()
    # Every open append stream holds one thread of this pool; the default of a few would deadlock.
    loop.set_default_executor(ThreadPoolExecutor(MAX_OPEN_APPEND_STREAMS))
    _repair()
    _append_on_loop(loop)
    stopped = asyncio.Event()
    for signum in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(signum, stopped.set)
    in_memory = data_dir == ":memory:"
    settings = Settings(
        rest_port=rest_port,
        grpc_port=grpc_port,
        log_level=LogLevel.ERROR,
        enable_format_extensions=False,
        query_cache_ttl_seconds=0,
        persistence_mode=PersistenceMode.EPHEMERAL if in_memory else PersistenceMode.PERSISTENT,
        data_dir=None if in_memory else Path(data_dir),
    )
    server = EmulatorServer(settings)
    await server.start()
    with ready:
        json.dump({"rest": server.rest_port, "grpc": server.grpc_port}, ready)
        ready.write("\n")
    if with_parent:
        threading.Thread(target=_exit_at_end_of_stdin, daemon=True).start()
    await stopped.wait()
    # DuckDB is in order after any commit: open append streams need not be waited for.
    await asyncio.wait_for(server._engine.stop(), STOP_TIMEOUT_SECS)
    os._exit(0)


def _exit_at_end_of_stdin() -> None:
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    arguments = [argument for argument in sys.argv[1:] if argument != _WITH_PARENT]
    asyncio.run(_serve(arguments[0], int(arguments[1]), int(arguments[2]), _WITH_PARENT in sys.argv))
