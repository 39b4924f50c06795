"""A shop of answers for each test, and one Chromium for the session."""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, sync_playwright
from report_rows import Shop

from pipeline import __main__
from pipeline.bigquery.client import Endpoint
from pipeline.bigquery.names import TableName
from pipeline.local.bigquery import BigQueryEmulator


@pytest.fixture(scope="session")
def new_shop(bigquery: BigQueryEmulator) -> Callable[[], Shop]:
    """Makes a shop with empty tables in a data set of its own."""
    from google.cloud import bigquery as google_bigquery

    endpoint = Endpoint(bigquery.project, "US", bigquery.rest, bigquery.storage)
    numbers = itertools.count(1)

    def make() -> Shop:
        name = google_bigquery.Dataset(f"{bigquery.project}.report_{next(numbers):03d}")
        name.location = "US"
        with endpoint.client() as client:
            client.create_dataset(name)
        made = Shop(endpoint, TableName.parse(f"{bigquery.project}.{name.dataset_id}.answers"))
        made.make()
        return made

    return make


@pytest.fixture
def shop(new_shop: Callable[[], Shop]) -> Shop:
    return new_shop()


@pytest.fixture
def report(shop: Shop, tmp_path: Path) -> Callable[..., tuple[int, Path]]:
    """Runs `report` on the shop; returns its exit code and its file."""

    def make(*flags: str) -> tuple[int, Path]:
        out = tmp_path / "report.html"
        words = [
            f"--project={shop.endpoint.project}",
            f"--output_table={shop.answers}",
            f"--bigquery_endpoint={shop.endpoint.rest}",
            f"--bigquery_storage_endpoint={shop.endpoint.storage}",
            f"--out={out}",
        ]
        return __main__.main(["report", *words, *flags]), out

    return make


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    """The system's Chromium, headless.

    Raises:
        RuntimeError: there is none; the tests must not pass without one.
    """
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        raise RuntimeError("these tests open the report in Chromium, and there is none: run tests/system-packages.sh")
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []  # Chromium's sandbox does not start as root
    with sync_playwright() as playwright, playwright.chromium.launch(executable_path=path, args=arguments) as browser:
        yield browser


@pytest.fixture
def open_page(chromium: Browser) -> Iterator[Callable[..., Page]]:
    """Opens a file without a network, in a window of its own; keywords are those of `Browser.new_context`.

    `page.asked` are the URLs that were asked for, `page.said` what the console was told.
    """
    contexts = []

    def opened(path: Path, **settings: Any) -> Page:
        context = chromium.new_context(**{"offline": True, "viewport": {"width": 1280, "height": 900}, **settings})
        contexts.append(context)
        page = context.new_page()
        page.asked, page.said = [], []  # type: ignore[attr-defined]
        page.on("request", lambda request: page.asked.append(request.url))  # type: ignore[attr-defined]
        page.on("console", lambda message: page.said.append(message.text))  # type: ignore[attr-defined]
        page.on("pageerror", lambda error: page.said.append(str(error)))  # type: ignore[attr-defined]
        page.goto(path.as_uri())
        return page

    yield opened
    for context in contexts:
        context.close()
