"""One stand-in for each module, and for each test a data set of its own on the session's emulator."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from benchmarks.books_rig import FAST_START, Rig
from pipeline.local.bigquery import BigQueryEmulator
from pipeline.local.vertex import VertexStandIn


@pytest.fixture(scope="module")
def vertex() -> Iterator[VertexStandIn]:
    """Answers without looking at pictures; each test begins with `reset`."""
    with VertexStandIn(answers="fixed") as stand_in:
        yield stand_in


@pytest.fixture(autouse=True)
def fast_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pace's gentle start is what tests/engine is for; here it would only take time."""
    for name, value in FAST_START.items():
        monkeypatch.setattr(name, value)


@pytest.fixture
def rig(bigquery: BigQueryEmulator, vertex: VertexStandIn, dataset: str) -> Rig:
    vertex.reset(answers="fixed", latency_secs=0.02)
    return Rig(bigquery, vertex, dataset)
