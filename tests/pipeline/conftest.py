"""The whole pipeline against real connections: the BigQuery emulator, the Vertex AI stand-in, drawn pictures."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline import __main__, launch, options, planning, worker
from pipeline.bigquery.client import Endpoint
from pipeline.bigquery.query import Query, run
from pipeline.local import samples
from pipeline.local.bigquery import BigQueryEmulator
from pipeline.local.vertex import VertexStandIn

PICTURES = 40


@dataclasses.dataclass(frozen=True)
class Result:
    """How a command ended: exit code, stdout and stderr."""

    code: int
    out: str
    err: str

    @property
    def summary(self) -> str:
        return self.out.strip().splitlines()[-1]


class Cloud:
    """One test's cloud: a data set, its input, the stand-in, and commands that run in this process."""

    def __init__(self, bigquery: BigQueryEmulator, vertex: VertexStandIn, dataset: str, capsys: Any) -> None:
        self.vertex, self.dataset = vertex, dataset
        self.endpoint = Endpoint(bigquery.project, "US", bigquery.rest, bigquery.storage)
        self.input = f"{dataset}.latest_observations"
        self.output = f"{dataset}.answers"
        self._capsys = capsys
        self.services = [
            f"--project={bigquery.project}",
            f"--bigquery_endpoint={bigquery.rest}",
            f"--bigquery_storage_endpoint={bigquery.storage}",
            f"--vertex_endpoint={vertex.endpoint}",
        ]

    def run(self, command: str, *flags: str) -> Result:
        """A command with the services' flags; `--input_table` and `--output_table` are the test's unless given."""
        given = {flag.partition("=")[0] for flag in flags}
        words = [*self.services, *flags]
        if not given & {"--input_table", "--input_query"} and command != "audit":
            words.append(f"--input_table={self.input}")
        if "--output_table" not in given:
            words.append(f"--output_table={self.output}")
        self._capsys.readouterr()
        code = __main__.main([command, *words])
        captured = self._capsys.readouterr()
        return Result(code, captured.out, captured.err)

    def classify(self, *flags: str) -> Result:
        return self.run("classify", *flags)

    def query(self, sql: str, **parameters: Any) -> list[dict[str, Any]]:
        """Rows of a query; `{answers}` and `{dataset}` are filled in."""
        text = sql.replace("{answers}", self.output).replace("{dataset}", self.dataset)
        return run(self.endpoint, Query(text, parameters))

    def prepared(self, *flags: str) -> launch.Run:
        """A run that is ready to start, for tests that build their own pipeline."""
        given, _ = options.parse(
            [*self.services, f"--input_table={self.input}", f"--output_table={self.output}", *flags]
        )
        return launch.prepare(planning.make(given), processes=1)


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[samples.Sample]]:
    root = tmp_path_factory.mktemp("buckets")
    return root, samples.draw_samples(root, PICTURES)


@pytest.fixture(scope="session")
def stand_in(pictures: tuple[Path, list[samples.Sample]]) -> Iterator[VertexStandIn]:
    with VertexStandIn(pictures[0]) as vertex:
        yield vertex


@pytest.fixture
def cloud(bigquery: BigQueryEmulator, stand_in: VertexStandIn, dataset: str, capsys: Any) -> Iterator[Cloud]:
    stand_in.reset()
    yield Cloud(bigquery, stand_in, dataset, capsys)
    worker.close_all()


@pytest.fixture
def sampled(cloud: Cloud, pictures: tuple[Path, list[samples.Sample]]) -> Cloud:
    """The cloud with the drawn pictures' table as input."""
    with cloud.endpoint.client() as client:
        samples.fill_tables(client, pictures[1], dataset=cloud.dataset.partition(".")[2])
    return cloud
