"""A bundle that fails and is run afresh, as Dataflow does it, pays again only for what was in flight or not yet flushed."""

import logging

import apache_beam as beam
import pytest
from apache_beam.options.pipeline_options import PipelineOptions

from benchmarks.books_rig import BUFFER_ROWS
from pipeline import graph, launch, options, planning, worker
from pipeline.rows import RunState
from pipeline.transforms import Classify, ReadShard, WriteRows

WINDOW = 32
ROWS = 1200


class _FailAfter(beam.DoFn):
    """Fails at the k-th element of its first bundle in this process."""

    failed = False

    def __init__(self, elements):
        self._elements = elements

    def start_bundle(self):
        self._left = self._elements

    def process(self, row):
        self._left -= 1
        if self._left <= 0 and not _FailAfter.failed:
            _FailAfter.failed = True
            raise RuntimeError("the machine is gone")
        yield row


@pytest.fixture
def run(rig):
    _FailAfter.failed = False
    words = rig.fill(ROWS).argv("classify", f"--max_in_flight={WINDOW}", f"--limit={ROWS}", "--quiet")[1:]
    given, _ = options.parse(words)
    yield launch.prepare(planning.make(given), processes=1)
    worker.close_all()


def pipeline():
    made = PipelineOptions(["--runner=apache_beam.runners.portability.fn_api_runner.FnApiRunner"])
    return beam.Pipeline(options=made)


def build_with_failure(p, run, after):
    """The graph of `graph.build`, with a step before the sink that fails once."""
    shards = p | beam.Create(run.shards, reshuffle=False) | beam.Reshuffle()
    outcomes = shards | ReadShard(run.config) | Classify(run.config)
    answers = outcomes.answers | beam.ParDo(_FailAfter(after))
    answers | "WriteAnswers" >> WriteRows(run.config, "answers")
    outcomes.failures | "WriteFailures" >> WriteRows(run.config, "failures")


@pytest.mark.parametrize("after", [1, 700, ROWS])
def test_a_bundle_that_fails_is_asked_again_only_for_what_is_not_in_the_tables(rig, run, after, caplog):
    caplog.set_level(logging.CRITICAL, logger="apache_beam")
    first = pipeline()
    build_with_failure(first, run, after)
    with pytest.raises(RuntimeError, match="the machine is gone"):
        first.run().wait_until_finish()
    worker.close_all()  # the process of that bundle ends; what it had received is flushed, as at any end but a crash
    durable = rig.one("SELECT COUNT(DISTINCT key) FROM `{answers}`")
    paid = sum(rig.paid().values())
    assert paid - durable <= 3 * WINDOW, "in flight, or landed and not handed on"

    again = pipeline()
    graph.build(again, run.config, run.shards)
    again.run().wait_until_finish()
    worker.close_all()
    found = launch.finish(run, RunState.FINISHED)
    assert (found.rows, found.answered, found.not_asked, found.stray) == (ROWS, ROWS, 0, 0)
    assert rig.place() == {"input_rows": ROWS, "answered": ROWS, "doubled": 0, "failed": 0, "nowhere": 0}
    assert sum(rig.paid().values()) == paid + ROWS - durable


def test_a_bundle_that_is_run_afresh_in_the_same_process_pays_at_most_for_window_and_buffer(rig, run, caplog):
    """As a runner does that keeps its worker: nothing is closed, the writer's buffer is not waited for."""
    caplog.set_level(logging.CRITICAL, logger="apache_beam")
    first = pipeline()
    build_with_failure(first, run, 900)
    with pytest.raises(RuntimeError, match="the machine is gone"):
        first.run().wait_until_finish()
    again = pipeline()
    graph.build(again, run.config, run.shards)
    again.run().wait_until_finish()
    worker.close_all()
    assert rig.place() == {"input_rows": ROWS, "answered": ROWS, "doubled": 0, "failed": 0, "nowhere": 0}
    assert sum(rig.paid().values()) <= ROWS + 3 * WINDOW + BUFFER_ROWS


def test_a_bundle_that_was_written_whole_and_lost_is_not_asked_again(rig, run):
    for _ in range(2):
        p = pipeline()
        graph.build(p, run.config, run.shards)
        p.run().wait_until_finish()
    worker.close_all()
    assert set(rig.paid().values()) == {1}
    assert rig.one("SELECT COUNT(*) FROM `{answers}`") == ROWS
