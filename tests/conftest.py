"""Fixtures of more than one directory: the BigQuery emulator, started once, and a fresh data set for each test."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import pytest

from pipeline.local.bigquery import BigQueryEmulator

_numbers = itertools.count(1)

TOGETHER = {"template"}
"""Directories whose tests share what takes longest to make: one process has them all."""


@pytest.hookimpl(tryfirst=True)  # before xdist looks for the groups
def pytest_collection_modifyitems(items: Sequence[pytest.Item]) -> None:
    """Tests of one file, or of one of those directories, run in the same process: they share its services."""
    for item in items:
        folder = item.path.parent.name
        item.add_marker(pytest.mark.xdist_group(folder if folder in TOGETHER else f"{folder}/{item.path.name}"))


@pytest.fixture(scope="session")
def bigquery() -> Iterator[BigQueryEmulator]:
    """One emulator for the whole session, in memory: `.rest`, `.storage`, `.project`."""
    with BigQueryEmulator() as emulator:
        yield emulator


@pytest.fixture
def dataset(bigquery: BigQueryEmulator) -> str:
    """A new, empty data set in the location US, as `PROJECT.DATASET`."""
    from google.auth.credentials import AnonymousCredentials
    from google.cloud import bigquery as google_bigquery

    client = google_bigquery.Client(
        project=bigquery.project,
        credentials=AnonymousCredentials(),
        client_options={"api_endpoint": bigquery.rest},
    )
    name = f"{bigquery.project}.ds_{next(_numbers):04d}"
    made = google_bigquery.Dataset(name)
    made.location = "US"
    client.create_dataset(made)
    client.close()
    return name
