"""What one process shares: at its end, and after a bug."""

from __future__ import annotations

import threading

import pytest

from pipeline import meter, worker
from pipeline.bigquery import books
from pipeline.bigquery.encode import Encoder
from pipeline.bigquery.write import WriteError
from pipeline.rows import Observation


def test_a_worker_closes_while_its_meter_waits_for_bigquery(sampled, monkeypatch):
    """The meter's thread needs the worker once more before it ends, so `close` must not keep it out."""
    real, looking, ended = books.spent, threading.Event(), threading.Event()

    def slow(*args, **options):
        if threading.current_thread().name == "budget-meter":
            looking.set()
            assert ended.wait(10)
        return real(*args, **options)

    close = meter.Meter.close
    monkeypatch.setattr(meter, "POLL_SECS", 0.01)
    monkeypatch.setattr(books, "spent", slow)
    monkeypatch.setattr(meter.Meter, "close", lambda self: (ended.set(), close(self)))
    run = sampled.prepared("--task=describe", "--max_cost_usd=5")
    assert worker.acquire(run.config).engine
    assert looking.wait(10)
    closing = threading.Thread(target=worker.close_all, daemon=True)
    closing.start()
    closing.join(20)
    assert not closing.is_alive()


def test_a_writer_that_a_bug_has_stopped_is_replaced_for_the_bundle_that_is_tried_again(sampled, monkeypatch):
    run = sampled.prepared("--task=describe")
    shared = worker.acquire(run.config)
    unusable = shared.unusable(Observation("k", None, {}, "missing_uri"))

    def written() -> None:
        sink = shared.failures_sink()
        sink.add(unusable)
        sink.wait()

    with monkeypatch.context() as patch, pytest.raises(WriteError, match="bug in the writer: ZeroDivisionError"):
        patch.setattr(Encoder, "encode", lambda *_: 1 / 0)
        written()
    written()
    assert sampled.query("SELECT key FROM `{answers}_failures`") == [{"key": "k"}]
