"""Rows into a table within seconds, through the default stream of the Storage Write API.

    append -> buffer -> (500 rows or 2 s) -> Arrow batch -> append stream -> acknowledged, or sent again

At-least-once: a batch whose acknowledgement was lost is sent again. One thread encodes and sends, one per connection
reads what comes back; callers only append and wait.
"""

from __future__ import annotations

import collections
import logging
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from pipeline.bigquery.client import Endpoint
from pipeline.bigquery.encode import Encoder, Rejected, Row
from pipeline.bigquery.names import TableName
from pipeline.bigquery.stream import (
    INVALID_ARGUMENT,
    LONGEST_DELAY_SECS,
    NOT_FOUND,
    OK,
    Batch,
    Connection,
    check_schema,
    is_final,
)
from pipeline.errors import PipelineError
from pipeline.rows import Column

# A new table or column may be unknown to the write service for minutes; connections break and come back.
GIVE_UP_SECS = 600.0
_APPENDS_IN_FLIGHT = 8
# Rows are paid for: while nothing is acknowledged, no more of them are taken than one flush may lose.
_STALLED_SECS = 5.0

_log = logging.getLogger(__name__)


class WriteError(PipelineError):
    """Rows could not be written; the bundle that they belong to must fail, and be tried again."""


class _Entry(NamedTuple):
    row: Row
    bundle: Bundle
    usd: float


class Bundle:
    """The rows of one caller: what was appended through it, it can wait for. Made by `RowWriter.bundle`."""

    def __init__(self, writer: RowWriter) -> None:
        self._writer = writer
        self._open = 0
        self._rejected: list[Rejected] = []
        self._error: str | None = None

    def append(self, row: Row) -> None:
        """Takes a row; returns at once unless the writer holds `max_pending_rows` already.

        Raises:
            WriteError: Rows of this bundle could not be written.
        """
        self._writer._append(row, self)

    def take_rejected(self) -> list[Rejected]:
        """Returns the rows that BigQuery has refused since last asked."""
        with self._writer._lock:
            taken, self._rejected = self._rejected, []
        return taken

    def wait(self) -> list[Rejected]:
        """Returns when every row is acknowledged or refused, with those refused that were not taken yet.

        Raises:
            WriteError: Some could not be written for `give_up_secs`, or may not be.
        """
        self._writer._wait(self)
        return self.take_rejected()


class RowWriter:
    """Appends rows to one table; one per process and table, shared by threads.

    Args:
        endpoint: Where.
        table: The table; it may be seconds old.
        columns: Its columns. Keys of a row that are no column are left out.
        flush_rows: Rows of one append; so many are sent without waiting for more.
        flush_secs: A row waits at most so long before it is sent.
        max_pending_rows: Appending waits while so many rows are unacknowledged, or `flush_rows` while BigQuery refuses
            or is silent.
        give_up_secs: How long to go on when nothing is acknowledged, in seconds.
        ack_timeout_secs: A connection that acknowledges nothing for so long is replaced.
        first_delay_secs: Pause before the first further attempt; doubles up to 5 s.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        table: TableName,
        columns: Sequence[Column],
        *,
        flush_rows: int = 500,
        flush_secs: float = 2.0,
        max_pending_rows: int = 10_000,
        give_up_secs: float = GIVE_UP_SECS,
        ack_timeout_secs: float = 120.0,
        first_delay_secs: float = 0.25,
    ) -> None:
        self._endpoint, self._table, self._columns = endpoint, table, tuple(columns)
        self._encoder = Encoder(columns)
        self._flush_rows, self._flush_secs, self._max_pending = flush_rows, flush_secs, max_pending_rows
        self._give_up_secs, self._ack_timeout_secs = give_up_secs, ack_timeout_secs
        self._first_delay = self._delay = first_delay_secs
        self._lock = threading.Lock()
        self._work = threading.Condition(self._lock)  # for the sending thread
        self._progress = threading.Condition(self._lock)  # for those who wait for rows
        self._buffer: collections.deque[_Entry] = collections.deque()
        self._oldest = 0.0  # when the first row of the buffer came
        self._again: collections.deque[Batch] = collections.deque()
        self._connection: Connection | None = None
        self._appended = self._taken = self._flush_to = 0  # rows by number: into the buffer, out of it, to be hurried
        self._closing = False
        self._not_before = 0.0
        self._failing_since: float | None = None
        self._last_error = ""
        self._in_hand: list[_Entry] = []  # taken from the buffer, not on a connection yet
        self._pending_rows, self._pending_usd = 0, 0.0
        self._client: Any = None
        self._thread: threading.Thread | None = None

    # What callers use.

    def open(self) -> None:
        """Opens the stream and checks that the table has our columns, before anything is paid for; idempotent.

        A table or column that the write service does not know yet is waited for, up to `give_up_secs`.

        Raises:
            ConfigError: A column has another type.
            google.api_core.exceptions.GoogleAPICallError: The table may not be written, or is still not known.
        """
        with self._lock:
            if self._thread is not None:
                return
            client = self._client = self._client or self._endpoint.writer()
        check_schema(client, self._table, self._columns, self._give_up_secs, self._first_delay)
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._send_forever, name=f"append {self._table}", daemon=True)
                self._thread.start()

    def bundle(self) -> Bundle:
        """A new handle; rows appended through it can be waited for on their own."""
        return Bundle(self)

    @property
    def pending_usd(self) -> float:
        """Dollars (`cost_usd`) of rows that are not acknowledged yet, so in no table's sum."""
        with self._lock:
            return self._pending_usd

    @property
    def pending_rows(self) -> int:
        """Rows that are not acknowledged yet."""
        with self._lock:
            return self._pending_rows

    @property
    def closed(self) -> bool:
        """Whether it takes no rows any more: by `close`, or by a bug in its thread."""
        return self._closing

    def flush(self) -> None:
        """Sends what is buffered and returns when nothing is pending."""
        with self._lock:
            self._hurry()
            while self._pending_rows:
                self._progress.wait()

    def close(self) -> None:
        """Flushes, and ends connection and threads; idempotent."""
        self.flush()
        with self._lock:
            self._closing = True
            self._work.notify()
            thread = self._thread
        if thread is not None:
            thread.join()
        if self._client is not None:
            self._client.transport.close()

    # What bundles use.

    def _append(self, row: Row, bundle: Bundle) -> None:
        usd = row.get("cost_usd") or 0.0
        with self._lock:
            if self._thread is None or self._closing:
                raise ValueError(f"append to {self._table} before open() or after close()")
            while self._pending_rows >= self._most_pending() and bundle._error is None:
                self._hurry()
                self._progress.wait()
            _raise(bundle)
            if not self._buffer:
                self._oldest = time.monotonic()
            self._buffer.append(_Entry(row, bundle, usd))
            self._appended += 1
            self._pending_rows += 1
            self._pending_usd += usd
            bundle._open += 1
            if len(self._buffer) in (1, self._flush_rows):
                self._work.notify()

    def _most_pending(self) -> int:
        """Rows that may be unacknowledged: many while acknowledgements come, one flush's worth while they do not."""
        connection = self._connection
        stalled = self._failing_since is not None or (
            connection is not None
            and bool(connection.in_flight)
            and time.monotonic() - connection.last_heard > _STALLED_SECS
        )
        return min(self._flush_rows, self._max_pending) if stalled else self._max_pending

    def _wait(self, bundle: Bundle) -> None:
        with self._lock:
            if bundle._open:
                self._hurry()
            while bundle._open and bundle._error is None:
                self._progress.wait()
            _raise(bundle)

    # The sending thread.

    def _send_forever(self) -> None:
        try:
            while (taken := self._next()) is not None:
                for batch in self._encoded(taken) if isinstance(taken, list) else [taken]:
                    self._send(batch)
                self._in_hand = []
        except BaseException as error:  # noqa: BLE001  a thread's boundary: else those who wait would wait for ever
            _log.exception("the thread that appends to %s has stopped", self._table)
            with self._lock:
                self._closing = True
                self._fail_all(f"bug in the writer: {error!r}")
                for entry in self._in_hand:
                    entry.bundle._error = f"bug in the writer: {error!r}"
                self._pending_rows, self._pending_usd = 0, 0.0
                self._progress.notify_all()
        finally:
            with self._lock:
                connection, self._connection = self._connection, None
            if connection is not None:
                connection.close()
                connection.join()

    def _next(self) -> list[_Entry] | Batch | None:
        """Waits for what to send next: rows to encode, a batch to send again, or None at the end."""
        with self._lock:
            while True:
                now = time.monotonic()
                wait = self._watch(now)
                flying = len(self._connection.in_flight) if self._connection else 0
                if now >= self._not_before and flying < _APPENDS_IN_FLIGHT:
                    if self._again:
                        batch = self._again.popleft()
                        self._in_hand = batch.entries
                        return batch
                    due = self._oldest + self._flush_secs
                    if self._buffer:
                        if len(self._buffer) >= self._flush_rows or now >= due or self._taken < self._flush_to:
                            count = min(len(self._buffer), self._flush_rows)
                            self._taken += count
                            self._in_hand = [self._buffer.popleft() for _ in range(count)]
                            self._oldest = now
                            return self._in_hand
                        wait = min(wait, due - now)
                elif now < self._not_before:
                    wait = min(wait, self._not_before - now)
                if self._closing and not self._pending_rows:
                    return None
                self._work.wait(max(wait, 0.001))

    def _watch(self, now: float) -> float:
        """Gives up or drops a silent connection when it is time; returns seconds until it must look again."""
        wait = 3600.0
        if self._failing_since is not None:
            left = self._failing_since + self._give_up_secs - now
            if left <= 0:
                self._fail_all(f"nothing was acknowledged for {self._give_up_secs:g} s")
            else:
                wait = min(wait, left)
        if self._connection is not None and self._connection.in_flight:
            left = self._connection.last_heard + self._ack_timeout_secs - now
            if left <= 0:
                self._lose(self._connection, "no acknowledgement")
            else:
                wait = min(wait, left)
        return wait

    def _encoded(self, entries: list[_Entry]) -> Iterator[Batch]:
        parts, errors = self._encoder.encode([entry.row for entry in entries])
        if errors:
            with self._lock:
                self._reject([(entries[index], error) for index, error in sorted(errors.items())])
        for part in parts:
            yield Batch([entries[index] for index in part.indices], part.payload)

    def _send(self, batch: Batch) -> None:
        with self._lock:
            if self._connection is None:
                schema = self._encoder.serialized_schema
                self._connection = Connection(self._client, self._table, schema, self._on_response, self._on_end)
            self._connection.send(batch)

    # What comes back; called by a connection's reading thread.

    def _on_response(self, connection: Connection, response: Any) -> None:
        with self._lock:
            if connection is not self._connection:
                return  # it was given up, and its batches are on their way again
            connection.last_heard = time.monotonic()
            if not connection.in_flight:
                return
            batch = connection.in_flight.popleft()
            error = response.error
            named = {int(row.index): row.message for row in response.row_errors}
            bad = {index: said for index, said in named.items() if 0 <= index < len(batch.entries)}
            if bad:
                self._reject([(batch.entries[index], said) for index, said in bad.items()])
                # The service took none of them: the others go again, without those.
                rest = [entry for index, entry in enumerate(batch.entries) if index not in bad]
                self._buffer.extendleft(rest)
                self._taken -= len(rest)
                self._flush_to = max(self._flush_to, self._taken + len(rest))
                self._succeeded()
            elif error.code == OK:
                self._succeeded()
                self._resolve(batch.entries)
            elif is_final(error.code, error.message):
                self._fail(batch.entries, error.message)
            else:
                self._again.append(batch)
                self._back_off(f"{error.code}: {error.message}")
                if error.code in (INVALID_ARGUMENT, NOT_FOUND):  # a new schema needs a new connection
                    self._lose(connection, error.message)
            self._work.notify()

    def _on_end(self, connection: Connection, code: int, message: str) -> None:
        with self._lock:
            if connection is not self._connection:
                return
            if code != OK and is_final(code, message) and connection.in_flight:
                self._fail([entry for batch in connection.in_flight for entry in batch.entries], message)
                connection.in_flight.clear()
            self._lose(connection, message)

    # Bookkeeping; all with the lock held.

    def _lose(self, connection: Connection, why: str) -> None:
        if connection.in_flight:
            self._back_off(why)
            self._again.extendleft(reversed(connection.in_flight))
            connection.in_flight.clear()
        self._connection = None
        connection.close()
        self._work.notify()

    def _back_off(self, why: str) -> None:
        now = time.monotonic()
        if self._failing_since is None:
            self._failing_since = now
            _log.warning("appending to %s: trying again: %s", self._table, why)
        self._last_error = why
        self._not_before = now + self._delay
        self._delay = min(2 * self._delay, LONGEST_DELAY_SECS)

    def _hurry(self) -> None:
        """Sends what is in the buffer now without waiting for more; what comes later waits as usual."""
        self._flush_to = self._appended
        self._work.notify()

    def _succeeded(self) -> None:
        self._failing_since, self._not_before, self._delay = None, 0.0, self._first_delay

    def _reject(self, refused: list[tuple[_Entry, str]]) -> None:
        for entry, error in refused:
            entry.bundle._rejected.append(Rejected(entry.row, error))
        self._resolve([entry for entry, _ in refused])

    def _fail(self, entries: Sequence[_Entry], why: str) -> None:
        for entry in entries:
            entry.bundle._error = f"{len(entries)} rows could not be appended to {self._table}: {why}"
        self._resolve(entries)

    def _fail_all(self, why: str) -> None:
        entries = list(self._buffer)
        for batch in (*self._again, *(self._connection.in_flight if self._connection else ())):
            entries += batch.entries
        self._buffer.clear()
        self._taken = self._appended
        self._again.clear()
        if self._connection is not None:
            self._connection.in_flight.clear()
            self._lose(self._connection, why)
        self._fail(entries, f"{why}; the last error was: {self._last_error}")
        self._succeeded()

    def _resolve(self, entries: Sequence[_Entry]) -> None:
        for entry in entries:
            entry.bundle._open -= 1
            self._pending_usd -= entry.usd
        self._pending_rows -= len(entries)
        if not self._pending_rows:
            self._pending_usd = 0.0  # sheds the rounding of many additions
        self._progress.notify_all()


def _raise(bundle: Bundle) -> None:
    if bundle._error is not None:
        raise WriteError(bundle._error)


def append_now(endpoint: Endpoint, table: TableName, columns: Sequence[Column], rows: Sequence[Row]) -> None:
    """Appends a few rows and returns when they are acknowledged; for lines of the runs table.

    Raises:
        WriteError: They could not be written.
        ValueError: BigQuery refuses one of them.
    """
    writer = RowWriter(endpoint, table, columns)
    writer.open()
    try:
        bundle = writer.bundle()
        for row in rows:
            bundle.append(row)
        refused = bundle.wait()
    finally:
        writer.close()
    if refused:
        raise ValueError(f"{table} refuses a row: {refused[0].error}")
