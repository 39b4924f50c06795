"""The services that all contenders share, each in its own process: the Vertex AI stand-in and the BigQuery emulator."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.contenders.question import PROJECT
from benchmarks.measure import Watch
from pipeline.bigquery.client import Endpoint
from pipeline.bigquery.query import Query, run
from pipeline.local.bigquery import BigQueryEmulator
from pipeline.local.samples import make_bulk_table
from pipeline.local.vertex import VertexStandIn

DATASET = "bench"
_ROOT = Path(__file__).parents[1]
_START_TIMEOUT_SECS = 90.0
_INTERRUPT_SECS = 15.0


@dataclasses.dataclass(frozen=True)
class Services:
    """Both services, running, and the environment in which contenders find and trust them."""

    vertex: VertexStandIn
    bigquery: BigQueryEmulator
    environment: dict[str, str]
    _numbers: Iterator[int] = dataclasses.field(default_factory=itertools.count)

    def next_number(self) -> int:
        """A number that was not given out before."""
        return next(self._numbers)

    @property
    def endpoint(self) -> Endpoint:
        return Endpoint(PROJECT, "US", self.bigquery.rest, self.bigquery.storage)

    def bulk_table(self, rows: int) -> str:
        """A table of so many images, made when it is first asked for; its full name."""
        name = f"{DATASET}.images_{rows}"
        with self.endpoint.client() as client:
            client.create_dataset(DATASET, exists_ok=True)
            make_bulk_table(client, name, rows)
        return f"{PROJECT}.{name}"

    def row(self, sql: str) -> dict[str, Any]:
        """The one row of a query's result."""
        return dict(run(self.endpoint, Query(sql))[0])


@contextlib.contextmanager
def services() -> Iterator[Services]:
    """Starts both; TLS and tokens that expire after an hour on the stand-in, for gRPC and REST alike."""
    with (
        VertexStandIn(tls=True, rest=True, answers="fixed", check_tokens=True) as vertex,
        BigQueryEmulator() as bigquery,
    ):
        authority = str(vertex.ca_file)
        drop = {"http_proxy", "https_proxy", "all_proxy", "ssl_cert_dir"}
        environment = {name: value for name, value in os.environ.items() if name.lower() not in drop}
        environment |= {
            "GOOGLE_APPLICATION_CREDENTIALS": str(vertex.credentials_file),
            "GOOGLE_CLOUD_PROJECT": PROJECT,
            "GOOGLE_VERTEX_BASE_URL": vertex.rest_url,
            "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH": authority,
            "SSL_CERT_FILE": authority,
            "REQUESTS_CA_BUNDLE": authority,
        }
        yield Services(vertex, bigquery, environment)


@dataclasses.dataclass(frozen=True)
class Child:
    """What is left of a contender: what was sampled of it, and what it printed."""

    watch: Watch
    output: str


def run_child(
    found: Services,
    commands: Sequence[Sequence[str]],
    *,
    secs: float | None = None,
    first_calls: int = 1,
    interrupt: bool = False,
) -> Child:
    """Runs commands side by side as `python -m ...`, to their end or until so long after their first calls.

    Args:
        found: the services.
        commands: what follows `python -m`, one for each process.
        secs: then they are ended; None lets them end by themselves.
        first_calls: so many calls must have come in before `secs` begin.
        interrupt: end them by SIGINT, as a person would, instead of SIGKILL.

    Raises:
        RuntimeError: one failed, with the end of its log.
    """
    with tempfile.TemporaryFile() as log:
        processes = [
            subprocess.Popen(
                [sys.executable, "-m", *command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=_ROOT,
                env=found.environment,
                start_new_session=True,
            )
            for command in commands
        ]
        watch = Watch([process.pid for process in processes])
        ended_here = False
        try:
            if secs is not None:
                _wait_for_calls(found, processes, first_calls)
                deadline = time.monotonic() + secs
                while time.monotonic() < deadline and all(process.poll() is None for process in processes):
                    time.sleep(0.1)
                ended_here = time.monotonic() >= deadline
                if ended_here:
                    for process in processes:
                        os.killpg(process.pid, signal.SIGINT if interrupt else signal.SIGKILL)
            codes = [process.wait(_INTERRUPT_SECS if ended_here else None) for process in processes]
        finally:
            watch.stop()
            for process in processes:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
        log.seek(0)
        output = log.read().decode(errors="replace")
        if any(codes) and not ended_here:
            raise RuntimeError(f"{commands[0]} ended with {codes}; its log ends with:\n{output[-3000:]}")
        return Child(watch, output)


def _wait_for_calls(found: Services, processes: Sequence[subprocess.Popen[bytes]], calls: int) -> None:
    """Returns when so many calls have come in, or when a process has ended."""
    give_up_at = time.monotonic() + _START_TIMEOUT_SECS
    while all(process.poll() is None for process in processes):
        try:
            return found.vertex.wait_for(1.0, calls=calls)
        except TimeoutError:
            if time.monotonic() > give_up_at:
                raise
    return None
