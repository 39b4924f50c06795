"""One whole cloud on loopback, and a small table to classify."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from google.cloud.bigquery import Dataset
from loopback_cloud import BUCKET, ROOT, ROWS, Cloud
from PIL import Image

from pipeline.local.bigquery import BigQueryEmulator
from pipeline.local.dataflow import Dataflow
from pipeline.local.storage import Storage
from pipeline.local.vertex import VertexStandIn


@pytest.fixture(scope="session")
def cloud(bigquery: BigQueryEmulator, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    directory = tmp_path_factory.mktemp("cloud")
    pictures = directory / "buckets" / "pictures"
    pictures.mkdir(parents=True)
    for number in range(ROWS):
        Image.new("RGB", (64, 48), (6 * number, 255 - 6 * number, 40)).save(pictures / f"o{number:02d}.jpg")
    metadata = json.loads((ROOT / "templates" / "metadata.json").read_text("utf-8"))
    templates = {f"gs://{BUCKET}/templates/classify.json": {"metadata": metadata}}
    with (
        VertexStandIn(directory / "buckets", latency_secs=0.01) as vertex,
        Storage(BUCKET) as storage,
        Dataflow(templates) as dataflow,
    ):
        cloud = Cloud(bigquery, vertex, storage, dataflow, directory, f"{bigquery.project}.template")
        made = Dataset(cloud.dataset)
        made.location = "US"
        with contextlib.closing(cloud.client()) as client:
            client.create_dataset(made)
        cloud.rows(
            f"CREATE TABLE `{cloud.input_table}` AS SELECT "
            "CONCAT('o', FORMAT('%02d', n)) AS observation_id, "
            "CONCAT('gs://pictures/o', FORMAT('%02d', n), '.jpg') AS gcs_uri, "
            "TIMESTAMP '2026-11-01 12:00:00+00' AS capture_time, 'ASSET_CLASS_ROAD_SIGN' AS asset_type "
            f"FROM UNNEST(GENERATE_ARRAY(0, {ROWS - 1})) AS n"
        )
        yield cloud


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source of the package alone: a stale file list of an earlier build beside it would be staged with it."""
    copy = tmp_path_factory.mktemp("source")
    for name in ("setup.py", "pyproject.toml"):
        shutil.copy(ROOT / name, copy)
    shutil.copytree(ROOT / "pipeline", copy / "pipeline", ignore=shutil.ignore_patterns("__pycache__"))
    return copy


@pytest.fixture(scope="session")
def meanwhile() -> Iterator[ThreadPoolExecutor]:
    """Runs commands beside each other: what they cost is mostly loading Beam, each in a process of its own."""
    with ThreadPoolExecutor() as pool:
        yield pool


@pytest.fixture(scope="session")
def direct_run(cloud: Cloud, meanwhile: ThreadPoolExecutor) -> Future[subprocess.CompletedProcess[str]]:
    return meanwhile.submit(cloud.run, ["-m", "pipeline", "classify", *cloud.question("direct")])


@pytest.fixture(scope="session")
def direct(cloud: Cloud, direct_run: Future[subprocess.CompletedProcess[str]]) -> list[dict[str, Any]]:
    """The answers to the same question by one process on this machine, in the table `direct`."""
    done = direct_run.result()
    assert done.returncode == 0, done.stderr[-3000:]
    return cloud.answers("direct")
