"""PTransforms and DoFns: wiring only. What they do lives below: `bundle`, `worker`, `asking`, `engine`, `bigquery`."""

import dataclasses
import typing
from collections.abc import Iterator

import apache_beam as beam
from apache_beam.metrics.metric import Metrics
from apache_beam.pvalue import PCollection, TaggedOutput
from apache_beam.transforms.window import GlobalWindow
from apache_beam.utils.timestamp import MIN_TIMESTAMP, Timestamp
from apache_beam.utils.windowed_value import WindowedValue

from pipeline import worker
from pipeline.bigquery.worklist import Shard
from pipeline.bundle import Bundle
from pipeline.engine import Lane
from pipeline.rows import Answer, Failure, Observation
from pipeline.run_config import RunConfig
from pipeline.sink import Sink
from pipeline.worker import Worker

Tagged = (
    TaggedOutput[typing.Literal["answers"], Answer] | TaggedOutput[typing.Literal["failures"], Failure]
)  # Beam reads each output's element type from here
_GLOBAL = (GlobalWindow(),)
_NAMESPACE = "gemini"
_METRICS_EVERY_ROWS = 256  # counters are updated by the hundred: one update a row would cost more than the engine


def tagged(outcome: Answer | Failure, timestamp: Timestamp = MIN_TIMESTAMP) -> Tagged:
    """An outcome on its way to `.answers` or `.failures`."""
    tag = "answers" if isinstance(outcome, Answer) else "failures"
    return typing.cast(Tagged, TaggedOutput(tag, WindowedValue(outcome, timestamp, _GLOBAL)))


class WorkerDoFn(beam.DoFn):
    """A DoFn that uses what its process shares; nothing is opened before `setup`, nothing of it is pickled."""

    def __init__(self, config: RunConfig):
        self._config = config

    def setup(self) -> None:
        self._worker: Worker = worker.acquire(self._config)


@dataclasses.dataclass(eq=False)
class ReadShard(beam.PTransform):
    """Shards in, their observations out: one for each row of the worklist that this run has not written yet."""

    config: RunConfig

    def expand(self, pcoll: PCollection) -> PCollection:
        rows: PCollection = pcoll | beam.ParDo(_ReadShardDoFn(self.config))
        return rows


@beam.typehints.with_input_types(Shard)
@beam.typehints.with_output_types(Observation)
class _ReadShardDoFn(WorkerDoFn):
    """One shard behind: a shard is opened when it comes in, and read out when the next one comes, or the bundle's end."""

    _opened: Iterator[Observation]

    def start_bundle(self) -> None:
        self._opened = iter(())  # a bundle that failed has left a shard unread

    def process(self, shard: Shard) -> Iterator[Observation]:
        rows, self._opened = self._opened, self._worker.open_shard(shard)
        yield from rows

    def finish_bundle(self) -> Iterator[WindowedValue]:
        for row in self._opened:
            yield WindowedValue(row, MIN_TIMESTAMP, _GLOBAL)

    def teardown(self) -> None:
        self._opened = iter(())


@dataclasses.dataclass(eq=False)
class Classify(beam.PTransform):
    """Observations in; out come `.answers` and `.failures`, together one for each observation that was asked.

    An observation is in neither when the run stopped before it: over budget, interrupted or halted.

    Raises:
        ValueError: when the input is windowed. An element in several windows would be paid for in each.

    Example:
        outcomes = rows | "Classify" >> Classify(config)
        outcomes.answers | ...
    """

    config: RunConfig

    def expand(self, pcoll: PCollection) -> typing.Any:  # a DoOutputsTuple, an annotation that Beam warns of
        if not pcoll.windowing.is_default():
            raise ValueError(
                f"Classify takes the default global window, not {pcoll.windowing.windowfn}: "
                "an image in several windows would be paid for several times"
            )
        return pcoll | beam.ParDo(_ClassifyDoFn(self.config)).with_outputs("answers", "failures")


@beam.typehints.with_input_types(Observation)
class _ClassifyDoFn(WorkerDoFn):
    """Keeps calls in flight across the elements of its bundle and emits each outcome as it lands."""

    _bundle: Bundle
    _unfinished = False

    def start_bundle(self) -> None:
        self._give_up()
        self._bundle = Bundle(self._worker)
        self._unfinished = True
        self._timestamps: dict[str, list[Timestamp]] = {}
        self._tally = _Tally(self._worker)

    def process(
        self,
        row: Observation,
        timestamp: Timestamp = beam.DoFn.TimestampParam,  # type: ignore[assignment]  # Beam's way to ask for it
    ) -> Iterator[Tagged]:
        if timestamp != MIN_TIMESTAMP:
            self._timestamps.setdefault(row.key, []).append(timestamp)
        for outcome in self._bundle.offer(row):
            yield self._emit(outcome)
        if self._tally.due:
            self._tally.flush(self._bundle.lane)

    def finish_bundle(self) -> Iterator[Tagged]:
        try:
            for outcome in self._bundle.drain():
                yield self._emit(outcome)
        finally:
            self._tally.flush(self._bundle.lane)
        self._unfinished = False

    def teardown(self) -> None:
        self._give_up()

    def _give_up(self) -> None:
        """A bundle that failed has no `finish_bundle`: nothing of it is to be asked again."""
        if self._unfinished:
            self._bundle.close()
            self._unfinished = False

    def _emit(self, outcome: Answer | Failure) -> Tagged:
        """The outcome under its tag, at the timestamp of its own row: another row is in `process` when it lands."""
        stamps = self._timestamps.get(outcome.key)
        timestamp = MIN_TIMESTAMP
        if stamps:
            timestamp = stamps.pop()
            if not stamps:
                del self._timestamps[outcome.key]
        self._tally.add(outcome)
        return tagged(outcome, timestamp)


class _Tally:
    """Beam metrics of one bundle, added on the bundle's thread (elsewhere they would be lost), by the hundred rows."""

    def __init__(self, shared: Worker) -> None:
        self._worker = shared
        self._rows: list[Answer | Failure] = []
        self._throttled_ms = 0

    @property
    def due(self) -> bool:
        return len(self._rows) >= _METRICS_EVERY_ROWS

    def add(self, outcome: Answer | Failure) -> None:
        self._rows.append(outcome)

    def flush(self, lane: Lane) -> None:
        rows, self._rows = self._rows, []
        answers = [row for row in rows if isinstance(row, Answer)]
        _counter("answered", len(answers))
        _counter("failed", len(rows) - len(answers))
        _counter("prompt_tokens", sum(row.usage.prompt_tokens for row in rows))
        _counter("output_tokens", sum(row.usage.output_tokens + row.usage.thoughts_tokens for row in rows))
        _counter("cost_microusd", round(1e6 * sum(row.usage.cost_usd or 0.0 for row in rows)))
        latency = Metrics.distribution(_NAMESPACE, "latency_ms")
        for answer in answers:
            if answer.latency_ms is not None:
                latency.update(round(answer.latency_ms))
        now = self._worker.snapshot()
        _counter("rejected", self._worker.new_rejections())
        Metrics.distribution(_NAMESPACE, "in_flight").update(now.in_flight)  # of this process, at this moment
        if now.pace is not None:
            Metrics.distribution(_NAMESPACE, "pace_per_min").update(round(60 * now.pace))
        # Dataflow's autoscaler reads this name: time spent waiting for the pace is no reason for more workers.
        _counter("cumulativeThrottlingSeconds", self._throttled_secs(lane))

    def _throttled_secs(self, lane: Lane) -> int:
        """Whole seconds; what is left over stays for the next time."""
        secs, self._throttled_ms = divmod(self._throttled_ms + lane.throttled_ms(), 1000)
        return secs


def _counter(name: str, value: int) -> None:
    if value:
        Metrics.counter(_NAMESPACE, name).inc(value)


@dataclasses.dataclass(eq=False)
class WriteRows(beam.PTransform):
    """Answers or failures in; they are durable in BigQuery when their bundle ends.

    Out comes a `Failure` for each answer that BigQuery itself refuses, with the model's text kept in it.

    Raises:
        Exception: an append that failed for good fails the bundle, so that the runner tries it again.
    """

    config: RunConfig
    kind: typing.Literal["answers", "failures"]

    def expand(self, pcoll: PCollection) -> PCollection:
        do_fn = _WriteAnswersDoFn if self.kind == "answers" else _WriteFailuresDoFn
        rejected: PCollection = pcoll | beam.ParDo(do_fn(self.config))
        return rejected


class _WriteRowsDoFn(WorkerDoFn):
    _sink: Sink

    def process(self, row: Answer | Failure) -> None:
        self._sink.add(row)

    def finish_bundle(self) -> Iterator[WindowedValue]:
        for failure in self._sink.wait():
            yield WindowedValue(failure, MIN_TIMESTAMP, _GLOBAL)


@beam.typehints.with_input_types(Answer)
@beam.typehints.with_output_types(Failure)
class _WriteAnswersDoFn(_WriteRowsDoFn):
    def start_bundle(self) -> None:
        self._sink = self._worker.answers_sink()


@beam.typehints.with_input_types(Failure)
@beam.typehints.with_output_types(Failure)
class _WriteFailuresDoFn(_WriteRowsDoFn):
    def start_bundle(self) -> None:
        self._sink = self._worker.failures_sink()
