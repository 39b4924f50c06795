"""Batch runs against real connections: JobService over gRPC, Cloud Storage and BigQuery emulators, the Vertex AI stand-in."""

from __future__ import annotations

import dataclasses
import importlib
import multiprocessing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import batch_launcher
import pytest

from pipeline import __main__, worker
from pipeline.bigquery.client import Endpoint
from pipeline.bigquery.query import Query, run
from pipeline.local import samples
from pipeline.local.batch import BatchStandIn
from pipeline.local.bigquery import BigQueryEmulator
from pipeline.local.storage import Storage
from pipeline.local.vertex import VertexStandIn

PICTURES = 24

_launchers = multiprocessing.get_context("forkserver")  # a fork of a process that has Beam already: no 5 s a launcher
_launchers.set_forkserver_preload(["pipeline.submit", "pipeline.batch.run", "pipeline.batch.steps"])


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
    """One test's cloud: an input of 24 pictures, the services, and commands in this process or in one that is killed."""

    def __init__(
        self,
        bigquery: BigQueryEmulator,
        vertex: VertexStandIn,
        storage: Storage,
        service: BatchStandIn,
        dataset: str,
        capsys: Any,
    ) -> None:
        self.vertex, self.storage, self.service, self.dataset = vertex, storage, service, dataset
        self.endpoint = Endpoint(bigquery.project, "US", bigquery.rest, bigquery.storage)
        self.output = f"{dataset}.answers"
        self._capsys = capsys
        self.flags = [
            f"--project={bigquery.project}",
            f"--bigquery_endpoint={bigquery.rest}",
            f"--bigquery_storage_endpoint={bigquery.storage}",
            f"--vertex_endpoint={service.endpoint}",
            f"--input_table={dataset}.latest_observations",
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

    def launcher(self, *flags: str) -> Any:
        """A process of its own that runs the command, to be killed."""
        argv = ["classify", "--mode=batch", *self.flags, *flags]
        process = _launchers.Process(target=batch_launcher.command, args=(argv, self.storage.environment), daemon=True)
        process.start()
        return process

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
    with Storage("batches") as service:
        yield service


@pytest.fixture
def cloud(
    bigquery: BigQueryEmulator,
    stand_in: VertexStandIn,
    storage: Storage,
    dataset: str,
    pictures: tuple[Path, list[samples.Sample]],
    capsys: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Cloud]:
    stand_in.reset()
    for name, value in storage.environment.items():
        monkeypatch.setenv(name, value)
    with BatchStandIn(stand_in, storage) as service:
        cloud = Cloud(bigquery, stand_in, storage, service, dataset, capsys)
        with cloud.endpoint.client() as client:
            samples.fill_tables(client, pictures[1], dataset=dataset.partition(".")[2])
        yield cloud
        worker.close_all()
