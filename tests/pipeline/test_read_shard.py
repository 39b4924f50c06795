"""ReadShard by Beam's rules: one shard behind, each row once, and nothing left of a bundle that failed."""

from __future__ import annotations

import dataclasses
import itertools
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from google.api_core import exceptions

from pipeline import launch, worker
from pipeline.bigquery import read, worklist
from pipeline.bigquery.names import TableName
from pipeline.bigquery.worklist import Shard
from pipeline.rows import Observation
from pipeline.transforms import _ReadShardDoFn

EMPTY = Shard(90_000, 90_001, 0)


class Shards:
    """Looks on while `read.read_shard` opens and closes shards, which it does as ever."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.opened: list[Shard] = []
        self.closed: list[Shard] = []
        self._changed = threading.Condition()
        real = read.read_shard

        def watched(endpoint: Any, worklist: TableName, shard: Shard, *more: Any) -> Iterator[Observation]:
            self._note(self.opened, shard)
            try:
                yield from real(endpoint, worklist, shard, *more)
            finally:
                self._note(self.closed, shard)

        monkeypatch.setattr(read, "read_shard", watched)

    def wait(self, noted: list[Shard], count: int) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: len(noted) >= count, timeout=30), (self.opened, self.closed)

    def _note(self, noted: list[Shard], shard: Shard) -> None:
        with self._changed:
            noted.append(shard)
            self._changed.notify_all()


@pytest.fixture
def run(sampled: Any, monkeypatch: pytest.MonkeyPatch) -> launch.Run:
    """A run whose 40 rows lie in several shards."""
    monkeypatch.setattr(worklist, "ROWS_PER_BUCKET", 5)
    monkeypatch.setattr(launch, "ROWS_PER_SHARD", 8)
    prepared = sampled.prepared()
    assert len(prepared.shards) >= 4
    return prepared


@pytest.fixture
def shards(monkeypatch: pytest.MonkeyPatch) -> Shards:
    return Shards(monkeypatch)


@pytest.fixture
def do_fn(run: launch.Run) -> Iterator[_ReadShardDoFn]:
    made = _ReadShardDoFn(run.config)
    made.setup()
    yield made
    made.teardown()


def bundle(do_fn: _ReadShardDoFn, shards: list[Shard]) -> list[str]:
    """Keys of the rows of one bundle, as a runner would get them."""
    do_fn.start_bundle()
    rows = [row for shard in shards for row in do_fn.process(shard)]
    return [row.key for row in (*rows, *(late.value for late in do_fn.finish_bundle()))]


def openers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "open shard"]


def test_each_row_comes_once_whatever_the_bundles(run, do_fn):
    count, whole = len(run.shards), [EMPTY, *run.shards[:2], EMPTY, EMPTY, *run.shards[2:], EMPTY]
    for sizes in ([len(whole)], [1] * len(whole), [2, 1, len(whole)]):
        left = iter(whole)
        keys = [key for size in sizes for key in bundle(do_fn, list(itertools.islice(left, size)))]
        assert len(keys) == len(set(keys)) == run.rows == 40, (sizes, count)
    assert bundle(do_fn, []) == bundle(do_fn, [EMPTY]) == []


def test_a_shard_is_opened_while_the_one_before_is_read(run, do_fn, shards):
    do_fn.start_bundle()
    assert list(do_fn.process(run.shards[0])) == []
    shards.wait(shards.opened, 1)
    rows = do_fn.process(run.shards[1])
    next(rows)
    shards.wait(shards.opened, 2)
    assert shards.opened == run.shards[:2]
    assert shards.closed == []
    assert len(list(rows)) == run.shards[0].rows - 1
    assert shards.closed == run.shards[:1]


def test_a_shard_that_cannot_be_opened_fails_its_bundle_with_the_real_error_and_no_later_one(run, do_fn, shards):
    gone = dataclasses.replace(run.config.tables, worklist=TableName("demo-project", "imagery", "gone"))
    shared = do_fn._worker
    right, shared.config = shared.config, dataclasses.replace(run.config, tables=gone)
    do_fn.start_bundle()
    assert list(do_fn.process(run.shards[0])) == [], "it is raised when its rows are wanted"
    shared.config = right
    with pytest.raises(exceptions.NotFound) as raised:
        list(do_fn.process(run.shards[1]))
    assert shared.fault is raised.value, "the launcher explains it"
    keys = [key for shard in run.shards for key in bundle(do_fn, [shard])]
    assert len(keys) == len(set(keys)) == 40

    shared.config = dataclasses.replace(run.config, tables=gone)
    do_fn.start_bundle()
    list(do_fn.process(run.shards[0]))
    with pytest.raises(exceptions.NotFound):
        list(do_fn.finish_bundle())
    shared.config = right


def test_nothing_stays_open_of_a_bundle_that_failed_half_way(run, do_fn, shards):
    do_fn.start_bundle()
    list(do_fn.process(run.shards[0]))
    rows = do_fn.process(run.shards[1])
    next(rows)  # and then a step downstream raises: Beam reads no further, and calls no finish_bundle
    shards.wait(shards.opened, 2)
    del rows
    assert len(bundle(do_fn, run.shards)) == 40, "the same DoFn, used again, begins afresh"
    shards.wait(shards.closed, 2 + len(run.shards))
    do_fn.start_bundle()
    list(do_fn.process(run.shards[0]))
    do_fn.teardown()
    shards.wait(shards.closed, 3 + len(run.shards))
    do_fn.setup()
    for thread in openers():
        thread.join(30)
    assert openers() == []


def test_a_run_that_was_stopped_opens_no_shard_and_reads_none_further(run, do_fn, shards):
    do_fn.start_bundle()
    list(do_fn.process(run.shards[0]))
    shards.wait(shards.opened, 1)
    rows = do_fn.process(run.shards[1])
    next(rows)
    shards.wait(shards.opened, 2)
    assert do_fn._worker.engine.ended is None
    worker.stop_all("enough", 0.0)
    assert list(rows) == []
    assert list(do_fn.process(run.shards[2])) == []
    assert list(do_fn.finish_bundle()) == []
    assert shards.opened == run.shards[:2]


def test_rows_that_the_run_has_written_already_are_left_out(run, do_fn):
    answered = list(do_fn._worker.read_shard(run.shards[1]))[:3]
    sink = do_fn._worker.failures_sink()
    for row in answered:
        sink.add(run.config.question.unusable(dataclasses.replace(row, problem="missing_uri")))
    sink.wait()
    assert set(bundle(do_fn, run.shards)).isdisjoint(row.key for row in answered)


def test_a_stop_that_comes_before_the_first_call_is_not_forgotten(run, do_fn, shards):
    worker.stop_all("interrupted", 0.0)
    assert bundle(do_fn, run.shards) == []
    assert shards.opened == []
    lane = do_fn._worker.engine.lane()
    assert list(lane.offer(do_fn._worker.ask([Observation("k", "gs://b/o.jpg")]))) == []
    assert do_fn._worker.snapshot().in_flight == 0
    assert do_fn._worker.stopped == "interrupted"
