"""A data set with the drawn pictures, their true answers, and a stand-in that errs at a known rate."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline import __main__, worker
from pipeline.bigquery.client import Endpoint
from pipeline.bigquery.query import Query, run
from pipeline.local import samples
from pipeline.local.bigquery import BigQueryEmulator
from pipeline.local.vertex import VertexStandIn

PICTURES = 120
DRAWN = "drawn"


@dataclasses.dataclass(frozen=True)
class Result:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def last(self) -> str:
        return self.out.strip().splitlines()[-1]


class Town:
    """One test's data set for answers, beside the pictures' rows and truth; commands run in this process."""

    def __init__(
        self,
        bigquery: BigQueryEmulator,
        vertex: VertexStandIn,
        dataset: str,
        pictures: list[samples.Sample],
        capsys: Any,
    ) -> None:
        self.vertex, self.pictures, self.dataset = vertex, pictures, dataset
        self.endpoint = Endpoint(bigquery.project, "US", bigquery.rest, bigquery.storage)
        self.answers = f"{dataset}.answers"
        self.input = f"{bigquery.project}.{DRAWN}.{samples.TABLE}"
        self._truth = f"{bigquery.project}.{DRAWN}.truth"
        self._capsys = capsys
        self._services = [
            f"--project={bigquery.project}",
            f"--bigquery_endpoint={bigquery.rest}",
            f"--bigquery_storage_endpoint={bigquery.storage}",
            f"--vertex_endpoint={vertex.endpoint}",
            f"--input_table={self.input}",
            f"--output_table={self.answers}",
        ]

    def run(self, command: str, *flags: str) -> Result:
        self._capsys.readouterr()
        code = __main__.main([command, *self._services, *flags])
        captured = self._capsys.readouterr()
        return Result(code, captured.out, captured.err)

    def query(self, sql: str) -> list[dict[str, Any]]:
        """Rows of a query; `{}` is the data set."""
        return run(self.endpoint, Query(sql.replace("{}", self.dataset)))

    def labels(self, task: str) -> str:
        """The flag that names the true answers to a built-in task."""
        return f"--labels_table={self._truth}_{task}"


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[samples.Sample]]:
    root = tmp_path_factory.mktemp("evaluated")
    return root, samples.draw_samples(root, PICTURES)


@pytest.fixture(scope="session")
def vertex(drawn: tuple[Path, list[samples.Sample]]) -> Iterator[VertexStandIn]:
    with VertexStandIn(drawn[0]) as stand_in:
        yield stand_in


@pytest.fixture(scope="session")
def filled(bigquery: BigQueryEmulator, drawn: tuple[Path, list[samples.Sample]]) -> list[samples.Sample]:
    """The pictures, with their rows and truth in the data set `DRAWN`, which tests only read."""
    endpoint = Endpoint(bigquery.project, "US", bigquery.rest, bigquery.storage)
    with endpoint.client() as client:
        samples.fill_tables(client, drawn[1], dataset=DRAWN)
    return drawn[1]


@pytest.fixture
def town(
    bigquery: BigQueryEmulator, vertex: VertexStandIn, dataset: str, filled: list[samples.Sample], capsys: Any
) -> Iterator[Town]:
    vertex.reset()
    yield Town(bigquery, vertex, dataset, filled, capsys)
    worker.close_all()
