"""A launcher whose clock is ahead of the workers', as a laptop's may be of Dataflow's."""

from __future__ import annotations

import datetime
import types

from pipeline import launch


class _Ahead(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return datetime.datetime.now(tz) + datetime.timedelta(minutes=10)


def test_rows_of_workers_whose_clock_is_behind_the_launchers_are_counted(sampled, monkeypatch):
    monkeypatch.setattr(launch, "datetime", types.SimpleNamespace(datetime=_Ahead, UTC=datetime.UTC))
    done = sampled.classify("--task=describe", "--quiet", "--max_cost_usd=5")
    assert done.code == 0, done.err
    assert done.summary.startswith("rows 40 = answered 40 + failed 0 ")
