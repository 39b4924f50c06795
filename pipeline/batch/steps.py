"""The two graphs of batch jobs, and their DoFns: requests out of the worklist, outcomes out of the results."""

import dataclasses
import io
import logging
import tempfile
import typing
from collections.abc import Iterator

import apache_beam as beam
from apache_beam.pvalue import PCollection

from pipeline import graph
from pipeline.batch import lines, results
from pipeline.batch.store import Folder
from pipeline.bigquery.worklist import Shard
from pipeline.engine import Lane
from pipeline.engine.call import Again, Split
from pipeline.errors import Halted
from pipeline.rows import Answer, Failure, Observation
from pipeline.run_config import RunConfig
from pipeline.transforms import Tagged, WorkerDoFn, WriteRows, tagged
from pipeline.worker import Worker

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class File:
    """Ranges of the worklist that go into one file of requests, or into several where they are too long for one."""

    name: str
    shards: tuple[Shard, ...]
    most_requests: int


@dataclasses.dataclass(frozen=True)
class Collected:
    """A job that has ended: the ranges that its rows are of, where its results lie, and what a row was planned to cost."""

    shards: tuple[Shard, ...]
    results: str
    secs: float
    usd_per_row: float


def build_requests(pipeline: beam.Pipeline, config: RunConfig, files: list[File], folder: Folder) -> None:
    """Worklist in; files of keyed requests out, each with a note that names its parts. Unusable rows become failures."""
    shards = pipeline | "Files" >> beam.Create(files, reshuffle=False) | "Spread" >> beam.Reshuffle()
    unusable = shards | "WriteRequests" >> WriteRequests(config, folder)
    unusable | "WriteFailures" >> WriteRows(config, "failures")


def build_results(pipeline: beam.Pipeline, config: RunConfig, jobs: list[Collected]) -> None:
    """Results in; answers and failures out, by the writers of every run."""
    ended = pipeline | "Jobs" >> beam.Create(jobs, reshuffle=False) | "Spread" >> beam.Reshuffle()
    outcomes = ended | "ReadResults" >> ReadResults(config)
    graph.write(outcomes, config)


@dataclasses.dataclass(eq=False)
class WriteRequests(beam.PTransform):
    """`File` in; a `Failure` for each row that cannot be asked out."""

    config: RunConfig
    folder: Folder

    def expand(self, pcoll: PCollection) -> PCollection:
        failures: PCollection = pcoll | beam.ParDo(_WriteRequestsDoFn(self.config, self.folder))
        return failures


@dataclasses.dataclass(eq=False)
class ReadResults(beam.PTransform):
    """`Collected` in; `.answers` and `.failures` out, for each row of it that has a line and no outcome yet.

    An answer that needs a second call (invalid, cut off, empty) is asked again at once, online, by the engine.
    """

    config: RunConfig

    def expand(self, pcoll: PCollection) -> typing.Any:  # a DoOutputsTuple, an annotation that Beam warns of
        return pcoll | beam.ParDo(_ReadResultsDoFn(self.config)).with_outputs("answers", "failures")


@beam.typehints.with_input_types(File)
@beam.typehints.with_output_types(Failure)
class _WriteRequestsDoFn(WorkerDoFn):
    def __init__(self, config: RunConfig, folder: Folder) -> None:
        super().__init__(config)
        self._folder = folder

    def process(self, file: File) -> Iterator[Failure]:
        builder = self._config.question.builder
        parts = _Parts(self._folder, file)
        with parts:
            for row in _unwritten(self._worker, file.shards):
                if self._worker.interrupted:
                    break  # without a note: the next command writes this file anew
                if row.problem:
                    yield self._worker.unusable(row)
                else:
                    parts.add(lines.request_line(row.key, builder.message(builder.build([row]))))
            else:
                parts.finish()


class _Parts:
    """Writes the lines of a file, in parts that a job may have, and at last the note that they are all there."""

    def __init__(self, folder: Folder, file: File) -> None:
        self._folder, self._file = folder, file
        self._written: list[dict[str, typing.Any]] = []
        self._content: typing.IO[bytes] = io.BytesIO()
        self._rows = self._bytes = 0

    def __enter__(self) -> typing.Self:
        self._content = tempfile.TemporaryFile()
        return self

    def __exit__(self, *_: object) -> None:
        self._content.close()

    def add(self, line: bytes) -> None:
        if self._rows >= self._file.most_requests or self._bytes + len(line) > lines.MAX_BYTES:
            self._close_part()
        self._content.write(line)
        self._rows += 1
        self._bytes += len(line)

    def finish(self) -> None:
        if self._rows:
            self._close_part()
        self._folder.write_json(f"{self._file.name}.json", {"parts": self._written})

    def _close_part(self) -> None:
        name = f"{self._file.name}-{len(self._written):03d}"
        self._folder.write(f"{name}.jsonl", self._content)
        self._written.append({"name": name, "rows": self._rows, "bytes": self._bytes})
        self._content.seek(0)
        self._content.truncate()
        self._rows = self._bytes = 0


@beam.typehints.with_input_types(Collected)
class _ReadResultsDoFn(WorkerDoFn):
    def process(self, job: Collected) -> Iterator[Tagged]:
        shared, tally = self._worker, results.Tally()
        question = results.priced_as_batch(self._config.question)
        # Read whole, whatever has stopped the engine: these answers are paid for.
        rows = results.Open(question, (row for row in _unwritten(shared, job.shards) if not row.problem))
        again = _Again(shared)
        for ask, step in results.settled(question, rows, _output(Folder(job.results)), job.secs * 1e3, tally):
            shared.expect(1)
            shared.reserved_usd = max(0.0, shared.reserved_usd - job.usd_per_row)
            for outcome in results.outcomes(step):
                yield tagged(outcome)
            for each in (ask,) if isinstance(step, Again) else step.jobs if isinstance(step, Split) else ():
                for outcome in again.offer(each):
                    yield tagged(outcome)
        for outcome in again.drain():
            yield tagged(outcome)
        if tally.doubled or tally.unreadable:
            _log.warning(
                "%s: %d lines of rows that had an outcome already, %d lines that cannot be read",
                job.results,
                tally.doubled,
                tally.unreadable,
            )


class _Again:
    """Second calls, online; the engine is opened for the first of them only."""

    def __init__(self, shared: Worker) -> None:
        self._shared = shared
        self._lane: Lane | None = None
        self._refused: str | None = None

    def offer(self, ask: typing.Any) -> Iterator[Answer | Failure]:
        if self._lane is None and self._refused is None:
            try:
                self._lane = self._shared.engine.lane()
            except Halted as error:
                self._refused = str(error)
        why = self._refused or self._shared.stopped
        if why or self._lane is None:
            yield from results.given_up(ask, why or "")
        else:
            ask.go_on_with(self._shared.config.question)  # no longer at the price of a batch
            yield from self._lane.offer(ask)

    def drain(self) -> Iterator[Answer | Failure]:
        if self._lane is not None:
            yield from self._lane.drain()


def _unwritten(shared: Worker, shards: tuple[Shard, ...]) -> Iterator[Observation]:
    for shard in shards:
        yield from shared.unwritten(shard)


def _output(folder: Folder) -> Iterator[lines.Result | None]:
    """The lines of all result files of a job; the service puts them into a folder of its own below ours."""
    for name in folder.results():
        for line in folder.lines(name):
            yield lines.result(line)
