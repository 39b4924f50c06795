"""What one process shares, at its end."""

from __future__ import annotations

import threading

from pipeline import meter, worker
from pipeline.bigquery import books


def test_a_worker_closes_while_its_meter_waits_for_bigquery(sampled, monkeypatch):
    """The meter's thread needs the worker once more before it ends, so `close` must not keep it out."""
    real, looking, ended = books.spent, threading.Event(), threading.Event()
    looks = 0

    def slow(*args, **options):
        nonlocal looks
        looks += 1
        if looks > 1:
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
