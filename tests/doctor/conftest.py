"""What `doctor` is tried on: the emulator behind a front that can refuse, and the Vertex AI stand-in."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from doctor_world import RestFront

from pipeline import __main__
from pipeline.bigquery.client import Endpoint
from pipeline.bigquery.query import Query, run
from pipeline.local import samples
from pipeline.local.bigquery import BigQueryEmulator
from pipeline.local.vertex import VertexStandIn

PICTURES = 12


@dataclasses.dataclass(frozen=True)
class Findings:
    """What doctor printed: exit code, lines, and each check's state and text by its name."""

    code: int
    out: str
    checks: dict[str, tuple[str, str]]

    def state(self, name: str) -> str:
        return self.checks[name][0]

    @property
    def failed(self) -> list[str]:
        return [name for name, (state, _) in self.checks.items() if state == "FAIL"]

    def text(self, name: str) -> str:
        return self.checks[name][1]


@dataclasses.dataclass(frozen=True)
class Clinic:
    """A data set with an input of drawn pictures, the services, and `doctor` on them."""

    dataset: str
    endpoint: Endpoint
    front: RestFront
    vertex: VertexStandIn
    run: Callable[..., Findings]

    def tables(self) -> set[str]:
        rows = run(self.endpoint, Query(f"SELECT table_name FROM `{self.dataset}`.INFORMATION_SCHEMA.TABLES"))
        return {row["table_name"] for row in rows}


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[samples.Sample]]:
    root = tmp_path_factory.mktemp("buckets")
    return root, samples.draw_samples(root, PICTURES)


@pytest.fixture(scope="session")
def session_vertex(drawn: tuple[Path, list[samples.Sample]]) -> Iterator[VertexStandIn]:
    with VertexStandIn(drawn[0]) as vertex:
        yield vertex


@pytest.fixture
def clinic(
    bigquery: BigQueryEmulator,
    session_vertex: VertexStandIn,
    dataset: str,
    drawn: tuple[Path, list[samples.Sample]],
    capsys: Any,
) -> Iterator[Clinic]:
    session_vertex.reset()
    endpoint = Endpoint(bigquery.project, "US", bigquery.rest, bigquery.storage)
    with endpoint.client() as client:
        samples.fill_tables(client, drawn[1], dataset=dataset.partition(".")[2])
    front = RestFront(bigquery.rest)

    def doctor(*flags: str) -> Findings:
        defaults = {
            "--project": bigquery.project,
            "--input_table": f"{dataset}.latest_observations",
            "--output_table": f"{dataset}.answers",
            "--bigquery_endpoint": front.url,
            "--bigquery_storage_endpoint": bigquery.storage,
            "--vertex_endpoint": session_vertex.endpoint,
            "--task": "road_signs",
        }
        given = defaults | dict(flag.split("=", 1) for flag in flags)
        capsys.readouterr()
        code = __main__.main(["doctor", *(f"{name}={value}" for name, value in given.items())])
        printed = capsys.readouterr()
        lines = [line for line in printed.out.splitlines() if line[:5].strip() in ("ok", "FAIL", "-")]
        checks = {line[6:20].strip(): (line[:5].strip(), line[21:]) for line in lines}
        return Findings(code, printed.out + printed.err, checks)

    with front.serving():
        yield Clinic(dataset, endpoint, front, session_vertex, doctor)
