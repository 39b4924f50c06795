"""Runs of the real commands against the real stand-ins, in processes that can be killed, with the books read by SQL.

Shared by `make kills`, `make soak` and tests/books. Every child is forked from one warm server process that has imported
Beam and Google's clients: a run starts in a hundredth of a second, not in five, and is a process of its own all the same.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import io
import multiprocessing
import os
import signal
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from pipeline import __main__, worker
from pipeline.bigquery.client import Endpoint
from pipeline.bigquery.query import Query, run
from pipeline.engine import pace
from pipeline.local.bigquery import BigQueryEmulator
from pipeline.local.vertex import VertexStandIn

BUFFER_ROWS = 500  # what a crash may cost beside the window: docs/scale.md
FAST_START = {"pipeline.engine.pace.START_PER_SEC": 400.0}
_PRELOAD = (
    "benchmarks.books_rig",
    "pipeline.commands.classify",
    "pipeline.batch.run",
    "pipeline.batch.steps",
    "pipeline.submit",
    "apache_beam.runners.portability.fn_api_runner",
    "google.cloud.aiplatform_v1.types",
    "google.cloud.bigquery",
    "google.cloud.bigquery_storage_v1",
    "google.cloud.bigquery_storage_v1.services.big_query_read.transports",
    "google.cloud.bigquery_storage_v1.services.big_query_write.transports",
    "google.cloud.storage",
    "pyarrow",
)
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(list(_PRELOAD))


@dataclasses.dataclass(frozen=True, slots=True)
class Ended:
    """How a command ended: its exit code (minus the signal's number where one ended it) and what it printed."""

    code: int
    out: str
    err: str

    @property
    def summary(self) -> str:
        """The last line of stdout."""
        return self.out.rstrip("\n").rpartition("\n")[2]

    @property
    def run_id(self) -> str:
        return self.summary.rpartition("| run ")[2]


class Child:
    """A command in a process of its own.

    Args:
        argv: the command and its flags.
        constants: constants, or functions, of the package that are different there, by their full names.
        environment: variables that are different there.
    """

    def __init__(
        self, argv: Sequence[str], constants: Mapping[str, Any], environment: Mapping[str, str] | None = None
    ) -> None:
        self._files = tempfile.TemporaryDirectory(prefix="books-")
        self._out, self._err = (Path(self._files.name) / name for name in ("out", "err"))
        given = (list(argv), str(self._out), str(self._err), dict(constants), dict(environment or {}))
        self._process = _context.Process(target=_command, args=given, daemon=True)
        self._process.start()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    def is_alive(self) -> bool:
        return self._process.is_alive()

    def send(self, number: signal.Signals) -> None:
        """Sends it a signal; nothing where it has ended."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def press_ctrl_c(self) -> None:
        """SIGINT to it and to all processes of its group, as a terminal does."""
        os.killpg(self.pid, signal.SIGINT)

    def workers(self) -> list[int]:
        """The worker processes that it has started, by their ids."""
        found = []
        for stat in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):  # one that has ended meanwhile
                if int(stat.read_text().rpartition(")")[2].split()[1]) == self.pid:
                    found.append(int(stat.parent.name))
        return found

    def join(self, secs: float) -> None:
        """Returns when it has ended, or after so many seconds."""
        self._process.join(secs)

    def kill(self) -> Ended:
        """kill -9."""
        self.send(signal.SIGKILL)
        return self.wait()

    def wait(self, timeout_secs: float = 200.0) -> Ended:
        """Returns how it ended.

        Raises:
            TimeoutError: it did not in time; it is killed, and its output is in the error.
        """
        self._process.join(timeout_secs)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
            raise TimeoutError(f"no end after {timeout_secs} s\n{self._read(self._out)}\n{self._read(self._err)}")
        ended = Ended(self._process.exitcode or 0, self._read(self._out), self._read(self._err))
        self._files.cleanup()
        return ended

    @staticmethod
    def _read(path: Path) -> str:
        return path.read_text("utf-8") if path.exists() else ""


class Hang:
    """A function for a child's `constants` that tells when it is called, and never returns."""

    def __init__(self) -> None:
        self._reached = _context.Event()

    def __call__(self, *_: object, **__: object) -> None:
        self._reached.set()
        threading.Event().wait()

    def wait(self, timeout_secs: float = 60.0) -> None:
        """Returns when a child has come to it.

        Raises:
            TimeoutError: it has not.
        """
        if not self._reached.wait(timeout_secs):
            raise TimeoutError(f"no child has come there in {timeout_secs} s")


def _command(argv: list[str], out: str, err: str, constants: dict[str, Any], environment: dict[str, str]) -> None:
    """What a child does: a command, with its output in files; in a process group of its own, as a shell would start it."""
    os.setpgid(0, 0)
    os.environ.update(environment)
    for number, path in ((1, out), (2, err)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    sys.stdout = open(1, "w", closefd=False, buffering=1, encoding="utf-8")  # noqa: SIM115
    sys.stderr = open(2, "w", closefd=False, buffering=1, encoding="utf-8")  # noqa: SIM115
    for name, value in constants.items():
        module, _, constant = name.rpartition(".")
        setattr(importlib.import_module(module), constant, value)
    sys.exit(__main__.main(argv))


class Rig:
    """One data set, its input table, the stand-ins, and the commands.

    Args:
        bigquery: a running emulator.
        vertex: a running stand-in.
        dataset: `PROJECT.DATASET`; made when missing.
        constants: see `Child`. The pace begins fast, unless said otherwise: its gentle start, which the engine's own
            tests see to, would cost seconds at every run.
    """

    def __init__(
        self,
        bigquery: BigQueryEmulator,
        vertex: VertexStandIn,
        dataset: str,
        *,
        constants: Mapping[str, float] = FAST_START,
    ) -> None:
        self.bigquery, self.vertex, self.dataset = bigquery, vertex, dataset
        self.endpoint = Endpoint(bigquery.project, "US", bigquery.rest, bigquery.storage)
        self.input, self.output = f"{dataset}.input", f"{dataset}.answers"
        self._constants = constants
        with self.endpoint.client() as client:
            client.create_dataset(dataset.rpartition(".")[2], exists_ok=True)

    def fill(self, rows: int, *, first: int = 1) -> Self:
        """Makes the input table anew: so many rows `k0000001` ..., each with an image of its own."""
        key = "FORMAT('k%07d', n)"
        self.sql(
            f"CREATE OR REPLACE TABLE `{self.input}` AS SELECT {key} AS observation_id, "
            f"CONCAT('gs://bucket/', {key}, '.jpg') AS gcs_uri, TIMESTAMP '2026-01-01' AS capture_time\n"
            f"FROM UNNEST(GENERATE_ARRAY({first}, {first + rows - 1})) AS n"
        )
        return self

    def argv(self, command: str, *flags: str) -> list[str]:
        """The command line; input and output tables are the rig's unless given."""
        words = [
            command,
            f"--project={self.bigquery.project}",
            f"--bigquery_endpoint={self.bigquery.rest}",
            f"--bigquery_storage_endpoint={self.bigquery.storage}",
        ]
        given = {flag.partition("=")[0] for flag in flags}
        if "--output_table" not in given:
            words.append(f"--output_table={self.output}")
        if command != "audit":
            words.append(f"--vertex_endpoint={self.vertex.endpoint}")
            if not given & {"--input_table", "--input_query"}:
                words.append(f"--input_table={self.input}")
        return [*words, *flags]

    def start(self, *flags: str, command: str = "classify", constants: Mapping[str, float] | None = None) -> Child:
        """Starts a command in a process of its own."""
        return Child(self.argv(command, *flags), {**self._constants, **(constants or {})})

    def run(self, *flags: str, command: str = "classify") -> Ended:
        """Runs a command in this process."""
        out, err = io.StringIO(), io.StringIO()
        before = pace.START_PER_SEC
        pace.START_PER_SEC = self._constants.get("pipeline.engine.pace.START_PER_SEC", before)
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                code = __main__.main(self.argv(command, *flags))
        finally:
            pace.START_PER_SEC = before
            worker.close_all()
        return Ended(code, out.getvalue(), err.getvalue())

    def sql(self, text: str, **parameters: Any) -> list[dict[str, Any]]:
        """Rows of a query; `{answers}` is the output table, `{input}` the input."""
        text = text.replace("{answers}", self.output).replace("{input}", self.input)
        return run(self.endpoint, Query(text, parameters))

    def one(self, text: str, **parameters: Any) -> Any:
        """The one value of a query."""
        return next(iter(self.sql(text, **parameters)[0].values()))

    def states(self, run_id: str) -> list[str]:
        """The lines of a run in the runs table, by their states."""
        lines = self.sql("SELECT state FROM `{answers}_runs` WHERE run_id = @run_id ORDER BY `at`", run_id=run_id)
        return [line["state"] for line in lines]

    def paid(self) -> Counter[str]:
        """How many billed calls named each image, by the stand-in's own log."""
        return Counter(uri for call in self.vertex.log() if call.paid for uri in call.uris)

    def place(self) -> dict[str, int]:
        """Where the distinct keys of the input are, by SQL written for this alone: it shares nothing with `audit`."""
        found = self.sql(
            """SELECT COUNT(*) AS input_rows,
              COUNTIF(latest.n = 1) AS answered,
              COUNTIF(latest.n > 1) AS doubled,
              COUNTIF(latest.n IS NULL AND failed.key IS NOT NULL) AS failed,
              COUNTIF(latest.n IS NULL AND failed.key IS NULL) AS nowhere
            FROM (SELECT DISTINCT observation_id AS key FROM `{input}`) AS input
            LEFT JOIN (SELECT key, COUNT(*) AS n FROM `{answers}_latest` GROUP BY key) AS latest ON latest.key = input.key
            LEFT JOIN (SELECT DISTINCT key FROM `{answers}_failures`) AS failed ON failed.key = input.key"""
        )
        return dict(found[0])

    def wait_for_calls(self, calls: int, timeout_secs: float = 60.0) -> None:
        """Returns when the stand-in has had so many calls since its start or reset."""
        self.vertex.wait_for(timeout_secs, calls=calls)


@contextlib.contextmanager
def services(
    data_dir: Path | None = None, bucket_root: Path | None = None, **settings: Any
) -> Iterator[tuple[BigQueryEmulator, VertexStandIn]]:
    """Both stand-ins, for as long as the block lasts."""
    with BigQueryEmulator(data_dir) as bigquery, VertexStandIn(bucket_root, **settings) as vertex:
        yield bigquery, vertex
