"""Fixtures of more than one directory: the BigQuery emulator, started once, and a fresh data set for each test."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from pipeline.local.bigquery import BigQueryEmulator

_numbers = itertools.count(1)


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
