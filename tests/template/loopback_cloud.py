"""One whole cloud on loopback: BigQuery, Vertex AI, Cloud Storage and Dataflow, and a small table to classify."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from google.auth.credentials import AnonymousCredentials
from google.cloud import bigquery as google_bigquery

from pipeline.local.bigquery import BigQueryEmulator
from pipeline.local.dataflow import Dataflow
from pipeline.local.storage import Storage
from pipeline.local.vertex import VertexStandIn

ROOT = Path(__file__).parents[2]
ROWS = 40
BUCKET = "staging"
COLUMNS = "key, gcs_uri, asset_type, task, label, classification, finish_reason, model_version, cost_usd, attempts"


@dataclasses.dataclass(frozen=True)
class Cloud:
    """The services of the tests, and how to start our program against them."""

    bigquery: BigQueryEmulator
    vertex: VertexStandIn
    storage: Storage
    dataflow: Dataflow
    directory: Path
    dataset: str

    @property
    def input_table(self) -> str:
        return f"{self.dataset}.observations"

    def table(self, name: str) -> str:
        return f"{self.dataset}.{name}"

    @property
    def endpoints(self) -> list[str]:
        """The flags that every command needs here."""
        return [
            f"--project={self.bigquery.project}",
            f"--bigquery_endpoint={self.bigquery.rest}",
            f"--bigquery_storage_endpoint={self.bigquery.storage}",
        ]

    def question(self, answers: str) -> list[str]:
        """The flags of a small job that writes to the table `answers`."""
        return [
            f"--input_table={self.input_table}",
            f"--output_table={self.table(answers)}",
            f"--vertex_endpoint={self.vertex.endpoint}",
            "--task=describe",
            "--keep_columns=asset_type,capture_time",
            *self.endpoints,
        ]

    @property
    def on_dataflow(self) -> list[str]:
        """The flags that a person adds to run on Dataflow."""
        return [
            "--runner=DataflowRunner",
            "--region=us-central1",
            f"--temp_location=gs://{BUCKET}/tmp",
            "--max_num_workers=2",
            *self.dataflow.flags,
        ]

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, **self.dataflow.environment(self.directory), **self.storage.environment}

    def run(
        self, words: Sequence[str | Path], *, cwd: Path = ROOT, environment: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a program with this interpreter, as somebody would who has this cloud instead of Google's."""
        variables = {**self.environment, "PYTHONPATH": str(cwd), **(environment or {})}
        return subprocess.run(
            [sys.executable, *words], cwd=cwd, env=variables, capture_output=True, text=True, check=False
        )

    def client(self) -> google_bigquery.Client:
        return google_bigquery.Client(
            project=self.bigquery.project,
            credentials=AnonymousCredentials(),
            client_options={"api_endpoint": self.bigquery.rest},
        )

    def rows(self, sql: str) -> list[dict[str, Any]]:
        with contextlib.closing(self.client()) as client:
            return [dict(row) for row in client.query(sql).result()]

    def answers(self, table: str) -> list[dict[str, Any]]:
        """The answers of one table, without what differs from run to run."""
        return self.rows(f"SELECT {COLUMNS} FROM `{self.table(table)}` ORDER BY key")

    def runs(self, answers: str) -> list[dict[str, Any]]:
        return self.rows(f"SELECT * FROM `{self.table(answers)}_runs` ORDER BY `at`")
