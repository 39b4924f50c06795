"""What one worker process shares among its DoFn instances: engine, client, sinks and meter.

Made when the first DoFn needs it and kept until the process ends: idle DoFns are torn down after a minute, but the pace
that was learnt and the open connections must survive that. `close_all` ends it, and runs at process exit too.
"""

from __future__ import annotations

import atexit
import concurrent.futures
import contextlib
import dataclasses
import datetime
import functools
import gc
import itertools
import logging
import os
import threading
from collections.abc import Iterator, Sequence

from pipeline import leash, progress
from pipeline.asking import Ask, Picture
from pipeline.bigquery import books, read
from pipeline.bigquery.names import TableName
from pipeline.bigquery.query import earliest
from pipeline.bigquery.worklist import Shard
from pipeline.bigquery.write import RowWriter
from pipeline.engine import Engine, Pace, Send
from pipeline.errors import Halted
from pipeline.gemini.client import Client
from pipeline.images.objects import Objects
from pipeline.images.pool import Pool
from pipeline.images.reading import Reading
from pipeline.images.transport import Transport
from pipeline.images.twins import Twins
from pipeline.meter import Meter
from pipeline.progress import Snapshot
from pipeline.rows import FAILURE_COLUMNS, Answer, Column, Failure, Observation, RunState
from pipeline.run_config import RunConfig
from pipeline.sink import Sink

OVER_BUDGET = "over budget: "
"""How the reason begins of the line in the runs table that says that the meter has stopped a process."""
GRACE_SECS = 5.0
"""How long calls in flight may land after an interrupt."""
_GARBAGE_OBJECTS = 50_000  # so many young objects more than before wake the garbage collector; 10 MB or so
_SEEN_ROWS = 100  # so many answers tell what a row costs better than the plan does

_log = logging.getLogger(__name__)


class Worker:
    """The shared parts of one process, each opened when it is first needed; thread-safe."""

    def __init__(self, config: RunConfig) -> None:
        self.config = config
        self._lock = threading.RLock()
        self._resources = contextlib.ExitStack()
        self._engine: Engine | None = None
        self._stopping: tuple[str, float] | None = None
        self._meter: Meter | None = None
        self._pool: Pool | None = None
        self._twins: Twins | None = None
        self._writers: dict[str, RowWriter] = {}
        self._tally = Snapshot()
        self._asked = 0
        self._rejections_told = 0
        self.reserved_usd = 0.0  # of the budget, for batch jobs that are under way
        self.fault: Exception | None = None  # the first error of BigQuery that failed a bundle, as it was raised

    @property
    def engine(self) -> Engine:
        """The engine; made at the first use, unless another process has halted the run.

        Raises:
            Halted: the runs table says so; nothing is asked.
            ConfigError: there are no credentials.
        """
        with self._lock:
            if self._engine is None:
                self._engine = self._open_engine()
                if self._stopping is not None:  # told before there was one
                    self._engine.stop(*self._stopping)
            return self._engine

    @property
    def stopped(self) -> str | None:
        """Why no more calls are made, or None."""
        ended = self._engine.ended if self._engine is not None else None
        return ended or (self._stopping[0] if self._stopping is not None else None)

    @property
    def interrupted(self) -> bool:
        """Whether this process was told to stop, as it is by an interrupt; a budget or a halt ends calls only."""
        return self._stopping is not None

    @property
    def halted(self) -> str | None:
        """Why this process halted the run, or None."""
        return self._engine.halted if self._engine is not None else None

    def read_shard(self, shard: Shard) -> Iterator[Observation]:
        """The shard's rows that this run has neither answered nor filed; ends early when the run was stopped."""
        if self.stopped:
            return
        for row in self.unwritten(shard):
            if self.stopped is not None:
                return
            yield row

    def unwritten(self, shard: Shard) -> Iterator[Observation]:
        """The same to the end, whatever has stopped the engine: batch jobs are written and read without it."""
        config, tables = self.config, self.config.tables
        with self.remembered():
            written = read.keys_written(
                config.bigquery,
                tables.worklist,
                shard,
                answers=tables.answers,
                failures=tables.failures,
                run_id=config.run_id,
                since=config.started_at,
                job=config.job,
            )
            for row in read.read_shard(config.bigquery, tables.worklist, shard, config.worklist_columns):
                if row.key not in written:
                    yield row

    def open_shard(self, shard: Shard) -> Iterator[Observation]:
        """`read_shard`, which begins at once, on a thread of its own: opening a shard takes BigQuery seconds.

        Raises:
            Exception: what `read_shard` raises, when the first row is asked for.
        """
        rows = self.read_shard(shard)
        first: concurrent.futures.Future[list[Observation]] = concurrent.futures.Future()

        def open_it() -> None:
            try:
                first.set_result(list(itertools.islice(rows, 1)))
            except BaseException as error:  # noqa: BLE001 - raised again on the bundle's thread
                first.set_exception(error)

        def opened() -> Iterator[Observation]:
            read_ahead = first.result()
            if self.stopped is None:
                yield from read_ahead
                yield from rows

        # Not an executor's thread: the process would wait for it at its end.
        threading.Thread(target=open_it, name="open shard", daemon=True).start()
        return opened()

    @contextlib.contextmanager
    def remembered(self) -> Iterator[None]:
        """Keeps the first error of the block: a runner passes errors on as text, and the launcher wants to explain it."""
        try:
            yield
        except Exception as error:
            self.fault = self.fault or error
            raise

    def ask(self, rows: Sequence[Observation], pictures: Sequence[Picture] = ()) -> Ask:
        """One call that asks for these rows, with their pictures where they are sent inline."""
        self.expect(len(rows))
        return Ask(self.config.question, tuple(rows), pictures=tuple(pictures))

    def reading(self) -> Reading | None:
        """A bundle's own reading of images that are sent inline; None where their URIs are sent.

        Raises:
            Halted, ConfigError: as `engine`.
        """
        question = self.config.question
        if question.settings.image_source != "inline":
            return None
        engine = self.engine
        assert self._pool is not None and self._twins is not None  # noqa: S101 - made with the engine
        return Reading(
            question,
            self._pool,
            self._twins,
            ask=self.ask,
            expect=self.expect,
            stopped=lambda: engine.ended is not None,
            patience_secs=self.config.limits.call_timeout_secs,
        )

    def expect(self, rows: int) -> None:
        """Count rows that were asked otherwise than by `ask`, before their outcomes land: the budget compares the two."""
        with self._lock:
            self._asked += rows

    def unusable(self, row: Observation) -> Failure:
        """The failure of a row that the worklist found unusable; no call is made."""
        self.expect(1)  # it will land: a row that lands unexpected would hide the cost of one that was asked
        return self.config.question.unusable(row)

    def answers_sink(self) -> Sink:
        """A bundle's own view of the answers table."""
        return self._sink(self.config.tables.answers, self.config.answer_columns)

    def failures_sink(self) -> Sink:
        """A bundle's own view of the failures table."""
        return self._sink(self.config.tables.failures, FAILURE_COLUMNS)

    def landed(self, row: Answer | Failure) -> None:
        """Count an outcome, for progress and for the budget."""
        with self._lock:
            tally, cost = self._tally, row.usage.cost_usd
            is_answer = isinstance(row, Answer)
            self._tally = dataclasses.replace(
                tally,
                answered=tally.answered + is_answer,
                failed=tally.failed + (not is_answer),
                tokens=tally.tokens + row.usage.total_tokens,
                cost_usd=None if tally.cost_usd is None or cost is None else tally.cost_usd + cost,
            )

    def snapshot(self) -> Snapshot:
        """Where this process stands."""
        if self._engine is None:
            return self._tally
        stats = self._engine.stats()
        return dataclasses.replace(
            self._tally, in_flight=stats.in_flight, pace=stats.rate_per_sec, rejected=stats.rejected
        )

    def new_rejections(self) -> int:
        """Calls that the server has turned away with a 429 since this was last asked."""
        with self._lock:
            rejected, told = self.snapshot().rejected, self._rejections_told
            self._rejections_told = rejected
            return rejected - told

    def pending_usd(self) -> float:
        """Dollars of rows that are not yet acknowledged by BigQuery."""
        with self._lock:
            return sum(writer.pending_usd for writer in self._writers.values())

    def stop(self, reason: str, grace_secs: float) -> None:
        """No new calls; those in flight may land within the grace. The first reason counts."""
        self._stopping = self._stopping or (reason, grace_secs)
        if self._engine is not None:
            self._engine.stop(reason, grace_secs)

    def close(self) -> None:
        """Close all; what was answered is flushed first."""
        with self._lock:
            resources = self._resources.pop_all()
        resources.close()  # without the lock: the meter's thread, which is waited for, may be about to take it

    def _open_engine(self) -> Engine:
        config = self.config
        with self.remembered():
            reason = books.halted(config.bigquery, config.tables.runs, config.run_id, config.job)
        if reason:
            raise Halted(f"run {config.run_id} was halted: {reason}")
        _spare_the_garbage_collector()
        client = Client(config.vertex, config.question.settings, project=config.bigquery.project)
        self._resources.callback(client.close)
        if config.budget_usd is not None:
            self._meter = self._open_meter(config.budget_usd)
        engine = Engine(
            self._transport(client.send),
            pace=Pace(requests_per_minute=config.requests_per_minute, tokens_per_minute=config.tokens_per_minute),
            limits=config.limits,
            refresh_token=client.refresh,
            on_halt=lambda reason: self._note(RunState.HALTED, reason),
            gate=self._meter.gate if self._meter else None,
        )
        self._resources.callback(engine.close)
        if config.progress_folder and os.getpid() != config.launcher_pid:
            self._resources.enter_context(progress.told_to(config.progress_folder, self.snapshot))
        return engine

    def _transport(self, send: Send) -> Send:
        """How calls are made: with inline images, by way of what reads them."""
        question = self.config.question
        if question.settings.image_source != "inline":
            return send
        self._pool = Pool(question, Objects(self.config.bigquery.project).read)
        self._twins = Twins(self._pool.changed)
        self._resources.callback(self._pool.close)
        return Transport(send, self._pool)

    def _open_meter(self, budget_usd: float) -> Meter:
        config, tables = self.config, self.config.tables
        meter = Meter(
            budget_usd,
            # Before the run counted whole, since its day before by partitions: a poll reads days, not the table's history.
            in_tables=lambda: (
                config.spent_before_usd
                + books.spent(
                    config.bigquery,
                    answers=tables.answers,
                    failures=tables.failures,
                    fingerprint=config.question.fingerprint,
                    since=earliest(config.started_at),
                    job=config.job,
                )
            ),
            landed=lambda: self._tally.cost_usd or 0.0,
            pending=self.pending_usd,
            expected=self._expected_usd,
            on_used_up=lambda reason: self._note(RunState.STARTED, OVER_BUDGET + reason),
        )
        self._resources.callback(meter.close)
        return meter

    def _expected_usd(self) -> float:
        """Dollars expected of what was asked and has not landed: as planned, or as the answers so far cost if that is more;
        and those that are reserved."""
        tally, each = self._tally, self.config.usd_per_row or 0.0
        if tally.done >= _SEEN_ROWS and tally.cost_usd:
            each = max(each, tally.cost_usd / tally.done)
        return (self._asked - tally.done) * each + self.reserved_usd

    def _sink(self, table: TableName, columns: Sequence[Column]) -> Sink:
        return Sink(self._writer(table, columns), self.config.question, landed=self.landed, remembered=self.remembered)

    def _writer(self, table: TableName, columns: Sequence[Column]) -> RowWriter:
        with self._lock:
            writer = self._writers.get(str(table))
            if writer is None or writer.closed:  # by a bug: the bundle is tried again
                writer = RowWriter(self.config.bigquery, table, columns)
                with self.remembered():
                    writer.open()
                self._writers[str(table)] = writer
                self._resources.callback(writer.close)
            return writer

    def _note(self, state: RunState, reason: str) -> None:
        """Tell the other processes, the launcher and the next run."""
        config = self.config
        now = datetime.datetime.now(datetime.UTC)
        line = {"run_id": config.run_id, "state": state.value, "at": now, "reason": reason}
        line |= {"task": config.question.task.name, "fingerprint": config.question.fingerprint}
        try:
            books.append_run(config.bigquery, config.tables.runs, line)
        except Exception:  # noqa: BLE001 - the run ends all the same; its own reason must not be hidden by this error
            _log.exception("run %s: %s; but the runs table could not be told", config.run_id, reason)


def _spare_the_garbage_collector() -> None:
    """Set aside what lives as long as the process: 200,000 objects of Beam's and Google's modules.

    Else every full collection looks at each of them, for 0.1-0.2 s in which no call is sent and none lands; and young
    objects, which here live as long as their call, are looked at again and again. Measured: 0.8 s of CPU for 10,000
    images with Python's defaults, 0.2 s with these.
    """
    if gc.get_freeze_count() == 0:
        gc.collect()
        gc.freeze()
        gc.set_threshold(_GARBAGE_OBJECTS, 20, 20)


_workers: dict[str, Worker] = {}
_lock = threading.Lock()


def acquire(config: RunConfig) -> Worker:
    """The process's worker of a run, which stays open until `close_all`."""
    with _lock:
        found = _workers.get(config.run_id)
        if found is None:
            found = _workers[config.run_id] = Worker(config)
            if config.launcher_address is not None:
                leash.watch(config.launcher_address, functools.partial(found.stop, "interrupted", GRACE_SECS))
        return found


def stop_all(reason: str, grace_secs: float) -> None:
    """Stop every worker of this process."""
    for each in list(_workers.values()):
        each.stop(reason, grace_secs)


def close_all() -> None:
    """Close every worker of this process; runs at process exit too."""
    with _lock:
        closing = list(_workers.values())
        _workers.clear()
    for each in closing:
        each.close()


atexit.register(close_all)
