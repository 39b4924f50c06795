"""Batch runs against real connections: JobService over gRPC, Cloud Storage and BigQuery emulators, the Vertex AI stand-in."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.books_rig import Child
from pipeline import __main__, worker
from pipeline.bigquery.client import Endpoint
from pipeline.bigquery.query import Query, run
from pipeline.local import samples
from pipeline.local.batch import BatchStandIn
from pipeline.local.bigquery import BigQueryEmulator
from pipeline.local.storage import Storage
from pipeline.local.vertex import VertexStandIn

PICTURES = 24
FAST = {"pipeline.batch.watch.FIRST_POLL_SECS": 0.02}


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
    """One test's cloud: the input of 24 pictures, which all share, the services, and commands in this process or in one
    that is killed."""

    def __init__(
        self,
        bigquery: BigQueryEmulator,
        vertex: VertexStandIn,
        storage: Storage,
        service: BatchStandIn,
        dataset: str,
        observations: str,
        capsys: Any,
    ) -> None:
        self.vertex, self.storage, self.service, self.observations = vertex, storage, service, observations
        self.endpoint = Endpoint(bigquery.project, "US", bigquery.rest, bigquery.storage)
        self.output = f"{dataset}.answers"
        self._capsys = capsys
        self.flags = [
            f"--project={bigquery.project}",
            f"--bigquery_endpoint={bigquery.rest}",
            f"--bigquery_storage_endpoint={bigquery.storage}",
            f"--vertex_endpoint={service.endpoint}",
            f"--input_table={observations}",
            f"--output_table={self.output}",
            f"--batch_folder=gs://batches/{dataset.rpartition('.')[2]}",
            "--max_failure_ratio=1",
        ]

    def run_raising(self, command: str, *flags: str) -> int:
        """A command in this process, with its errors as they are raised."""
        return int(importlib.import_module(f"pipeline.commands.{command}").main([*self.flags, *flags]))

    def run(self, command: str, *flags: str) -> Result:
        self._capsys.readouterr()
        own = {flag.partition("=")[0] for flag in flags}
        words = [flag for flag in self.flags if flag.partition("=")[0] not in own]
        if command == "audit":
            words = [word for word in words if not word.startswith(("--batch", "--input"))]
        code = __main__.main([command, *words, *flags])
        captured = self._capsys.readouterr()
        return Result(code, captured.out, captured.err)

    def classify(self, *flags: str) -> Result:
        return self.run("classify", "--mode=batch", *flags)

    def launcher(self, *flags: str, **constants: Any) -> Child:
        """A process of its own that runs the command, to be killed."""
        argv = ["classify", "--mode=batch", *self.flags, *flags]
        return Child(argv, {**FAST, **constants}, self.storage.environment)

    def query(self, sql: str, **parameters: Any) -> list[dict[str, Any]]:
        """Rows of a query; `{answers}` is filled in."""
        return run(self.endpoint, Query(sql.replace("{answers}", self.output), parameters))

    def answers(self) -> int:
        """Answers so far; 0 where there is no table yet."""
        return self.count("")[0]

    def count(self, table: str) -> tuple[int, int]:
        """Rows and distinct keys of a table of the output, by its suffix."""
        found = self.query(f"SELECT COUNT(*) AS n, COUNT(DISTINCT key) AS keys FROM `{self.output}{table}`")[0]
        return found["n"], found["keys"]


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[samples.Sample]]:
    root = tmp_path_factory.mktemp("buckets")
    return root, samples.draw_samples(root, PICTURES)


@pytest.fixture(scope="session")
def stand_in(pictures: tuple[Path, list[samples.Sample]]) -> Iterator[VertexStandIn]:
    with VertexStandIn(pictures[0]) as vertex:
        yield vertex


@pytest.fixture(scope="session")
def storage() -> Iterator[Storage]:
    with Storage("batches", "bulk") as service:
        yield service


@pytest.fixture(scope="session")
def observations(bigquery: BigQueryEmulator, pictures: tuple[Path, list[samples.Sample]]) -> str:
    """The input table; no test changes it."""
    with Endpoint(bigquery.project, "US", bigquery.rest, bigquery.storage).client() as client:
        return samples.fill_tables(client, pictures[1], dataset="batch_input")


@pytest.fixture
def cloud(
    bigquery: BigQueryEmulator,
    stand_in: VertexStandIn,
    storage: Storage,
    dataset: str,
    observations: str,
    capsys: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Cloud]:
    stand_in.reset()
    for name, value in storage.environment.items():
        monkeypatch.setenv(name, value)
    for name, value in FAST.items():
        monkeypatch.setattr(name, value)
    with BatchStandIn(stand_in, storage) as service:
        yield Cloud(bigquery, stand_in, storage, service, dataset, observations, capsys)
        worker.close_all()
