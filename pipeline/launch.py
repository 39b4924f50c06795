"""From a plan to a run and its end: tables, worklist, the first real call, the runs table, the books. No Beam here."""

from __future__ import annotations

import dataclasses
import datetime
import importlib.metadata
import platform
import random
import socket
import string
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline import __version__, worker
from pipeline.asking import Question
from pipeline.bigquery import books, tables, views, worklist
from pipeline.bigquery.client import explained
from pipeline.bigquery.names import TableName
from pipeline.engine import EngineHalted, Limits
from pipeline.errors import ConfigError
from pipeline.gemini import models
from pipeline.options import Options, flags
from pipeline.planning import Plan
from pipeline.rows import FAILURE_COLUMNS, RUN_COLUMNS, Answer, Failure, Observation, Reason, RunState
from pipeline.worker import RunConfig, Shard, Tables

ROWS_PER_SHARD = 4000  # short read sessions, small retries; at 500 rows/s a shard lasts 8 s
_FIRST_ROWS = 3  # one bad image among the first must not look like a bad project
_RUN_LEVEL = frozenset({Reason.IMAGE_DENIED, Reason.IMAGE_NOT_FOUND, Reason.INVALID_REQUEST})
_ALIVE_SECS = 600.0  # a run on another machine that wrote nothing for so long is taken for dead


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """A run that is ready to start: its tables exist, its rows are settled, it stands in the runs table."""

    plan: Plan
    config: RunConfig
    shards: list[Shard]
    rows: int

    @property
    def run_id(self) -> str:
        return self.config.run_id


def new_run_id(now: datetime.datetime) -> str:
    """The time for people, a few letters so that two runs of one second differ."""
    return f"{now:%Y%m%d_%H%M%S}_{''.join(random.choices(string.ascii_lowercase, k=4))}"


def prepare(plan: Plan, processes: int | None, *, production: bool = True) -> Run:
    """Make what is missing of tables and views, write the worklist down, and open the books.

    Args:
        plan: what to do.
        processes: worker processes at most, by which caps are divided; None when it is not known.
        production: whether the run may become what `<answers>_current` and the task's view show; an evaluation may not.

    Raises:
        ConfigError: a table that is not ours, another run that is alive, or a cap that cannot be divided.
    """
    options = plan.options
    shares = _shares(options, processes)
    now = datetime.datetime.now(datetime.UTC)
    run_id = options.run_id or new_run_id(now)
    _ensure_tables(plan)
    _ensure_views(plan, production)
    if not options.allow_concurrent_runs:
        _refuse_second(plan, now)
    job = plan.query_job(run_id)
    done = dataclasses.replace(plan.done, answers=plan.answers, failures=plan.failures)
    name = TableName(plan.answers.project, plan.answers.dataset, f"{plan.answers.table}_worklist_{run_id}")
    with explained("--output_table", plan.answers):
        written = worklist.create(
            plan.endpoint,
            name,
            plan.source,
            done,
            retry=worklist.RetryFailed(options.retry_failed),
            limit=plan.limit,
            labels=job.labels,
            job=job,
        )
        shards = worklist.shards(plan.endpoint, name, ROWS_PER_SHARD, job)
    config = _config(plan, run_id, now, name, shares)
    books.append_run(
        plan.endpoint,
        plan.runs,
        {
            "run_id": run_id,
            "state": RunState.STARTED.value,
            "at": now,
            "task": plan.task.name,
            "fingerprint": plan.fingerprint,
            "settings": plan.identity,
            "worklist": str(name),
            "worklist_rows": written.rows,
            "already_answered": plan.count.already_answered,
            "versions": versions(),
            "options": {**given(options), "launcher": launcher()},
        },
    )
    return Run(plan=plan, config=config, shards=shards, rows=written.rows)


def first_call(run: Run) -> Answer | None:
    """Ask the first row for real, and keep its answer: wrong credentials, model or region show here for a fraction of a cent.

    A row that fails by itself is followed by the next, up to three.

    Raises:
        ConfigError: the service refuses every one of them for a reason that may be the run's.
    """
    shared = worker.acquire(run.config)
    try:
        outcomes: list[Answer | Failure] = []
        for row in _first_rows(run, shared):
            lane = shared.engine.lane()
            outcomes += lane.offer(shared.ask([row]))
            outcomes += lane.drain()
            if any(isinstance(outcome, Answer) for outcome in outcomes):
                break
        failures = [outcome for outcome in outcomes if isinstance(outcome, Failure)]
        refused = bool(failures) and all(failure.reason in _RUN_LEVEL for failure in failures)
        if refused and len(failures) == len(outcomes) < run.rows:
            raise ConfigError(
                f"the first {len(failures)} rows were all refused, which points to the model, its location or the "
                f"access to the images: {failures[0].detail}"
            )
        for outcome in outcomes:
            sink = shared.answers_sink() if isinstance(outcome, Answer) else shared.failures_sink()
            sink.add(outcome)
            sink.wait()
        return next((outcome for outcome in outcomes if isinstance(outcome, Answer)), None)
    except EngineHalted as error:
        raise ConfigError(f"the first call failed, nothing was spent: {error}") from error
    finally:
        worker.release(run.config)


def finish(run: Run, state: RunState, reason: str | None = None) -> books.Books:
    """The books of a run, by SQL over its tables, appended to the runs table."""
    config, tables_ = run.config, run.config.tables
    found = books.audit(
        run.plan.endpoint,
        worklist=tables_.worklist,
        answers=tables_.answers,
        failures=tables_.failures,
        run_id=run.run_id,
        since=config.started_at,
        job=run.plan.query_job(run.run_id),
    )
    books.append_run(
        run.plan.endpoint,
        tables_.runs,
        end_line(found, run.run_id, state, reason, config.started_at)
        | {"task": run.plan.task.name, "fingerprint": run.plan.fingerprint, "worklist": str(tables_.worklist)}
        | {"already_answered": run.plan.count.already_answered},
    )
    return found


def end_line(
    found: books.Books, run_id: str, state: RunState, reason: str | None, started_at: datetime.datetime
) -> dict[str, Any]:
    """The line that ends a run in the runs table."""
    now = datetime.datetime.now(datetime.UTC)
    secs = (now - started_at).total_seconds()
    return {
        "run_id": run_id,
        "state": state.value,
        "at": now,
        "reason": reason,
        "worklist_rows": found.rows,
        "answered": found.answered,
        "failed": found.failed,
        "not_asked": found.not_asked,
        "total_tokens": found.total_tokens,
        "cost_usd": found.cost_usd,
        "secs": secs,
        "images_per_sec": (found.answered + found.failed) / secs if secs > 0 else None,
        "versions": versions(),
    }


def halted(run: Run) -> str | None:
    """Why a worker halted the run, or None; the runs table knows it, wherever the worker lived."""
    return books.halted(run.plan.endpoint, run.plan.runs, run.run_id)


def note_job(run: Run, job_id: str) -> None:
    """Remember which Dataflow job the run became."""
    line = {"run_id": run.run_id, "state": RunState.STARTED.value, "options": {"dataflow_job": job_id}}
    books.append_run(run.plan.endpoint, run.plan.runs, line | {"fingerprint": run.plan.fingerprint})


def _first_rows(run: Run, shared: worker.Worker) -> Sequence[Observation]:
    rows = []
    for shard in run.shards:
        for row in shared.read_shard(shard):
            if not row.problem:
                rows.append(row)
            if len(rows) == _FIRST_ROWS:
                return rows
    return rows


def _config(
    plan: Plan, run_id: str, now: datetime.datetime, name: TableName, shares: tuple[float | None, float | None]
) -> RunConfig:
    options, settings = plan.options, plan.settings
    timeout = options.request_timeout_secs or models.request_timeout_secs(settings.service_tier)
    return RunConfig(
        run_id=run_id,
        started_at=now,
        question=Question(
            task=plan.task,
            settings=settings,
            run_id=run_id,
            prices=plan.prices,
            resource=models.resource_name(settings.model, plan.endpoint.project, plan.vertex.location),
            kept_columns=tuple(column.name for column in plan.kept),
        ),
        vertex=plan.vertex,
        bigquery=plan.endpoint,
        tables=Tables(worklist=name, answers=plan.answers, failures=plan.failures, runs=plan.runs),
        answer_columns=plan.answer_columns,
        worklist_columns=tuple(column.name for column in plan.source.columns),
        limits=Limits(
            max_in_flight=options.max_in_flight,
            max_attempts=options.max_attempts,
            call_timeout_secs=timeout,
            row_deadline_secs=max(600.0, 5 * timeout),
        ),
        requests_per_minute=shares[0],
        tokens_per_minute=shares[1],
        budget_usd=options.max_cost_usd,
        spent_before_usd=plan.spent_usd,
        usd_per_row=plan.usd_per_row,
    )


def _shares(options: Options, processes: int | None) -> tuple[float | None, float | None]:
    """Each process's part of the caps in requests and tokens a minute."""
    caps = (options.requests_per_minute, options.tokens_per_minute)
    if processes is None:
        if any(caps):
            raise ConfigError(
                "--requests_per_minute and --tokens_per_minute are divided among the worker processes, whose number is "
                "not known: add --max_num_workers=N, and either a --machine_type that ends in its number of vCPUs or "
                "--experiments=no_use_multiple_sdk_containers"
            )
        processes = 1
    return tuple(cap / processes if cap else None for cap in caps)  # type: ignore[return-value]  # a pair


def _ensure_tables(plan: Plan) -> None:
    tables.ensure_table(
        plan.endpoint,
        plan.answers,
        plan.answer_columns,
        partition_by="classified_at",
        cluster_by=("fingerprint", "key"),
        description="Answers, several a key where it was asked several times; query the views _latest and _current.",
    )
    tables.ensure_table(
        plan.endpoint,
        plan.failures,
        FAILURE_COLUMNS,
        partition_by="failed_at",
        cluster_by=("fingerprint", "key"),
        description="Rows that could not be answered, and why.",
        flag="--failures_table",
    )
    tables.ensure_table(
        plan.endpoint,
        plan.runs,
        RUN_COLUMNS,
        partition_by="at",
        cluster_by=("run_id",),
        description="What each run did, append-only.",
        flag="--runs_table",
    )


def _ensure_views(plan: Plan, production: bool) -> None:
    endpoint, answers, promote = plan.endpoint, plan.answers, plan.options.promote
    if not production:
        views.ensure_plain_views(endpoint, answers, plan.failures)
        return
    views.ensure_views(endpoint, answers, plan.failures, plan.fingerprint, promote=promote)
    typed = plan.task.view_columns()
    if typed:  # a free-text task's answer is its text, which stands in every view
        views.ensure_task_view(
            endpoint,
            answers,
            plan.task.name,
            fingerprint=plan.fingerprint,
            typed=typed,
            columns=[column.name for column in plan.answer_columns],
            promote=promote,
        )


def _refuse_second(plan: Plan, now: datetime.datetime) -> None:
    """Two runs of the same question at once would pay for the same rows twice.

    Raises:
        ConfigError: a run of this fingerprint has not ended and may be alive: its process on this machine is, or it runs
            elsewhere and wrote something in the last ten minutes.
    """
    for line in books.open_runs(plan.endpoint, plan.runs, plan.fingerprint):
        origin = (line.get("options") or {}).get("launcher") or {}
        here = origin.get("boot") and origin["boot"] == _boot_id() and origin.get("host") == socket.gethostname()
        if here:
            alive = _started(origin.get("pid", 0)) == origin.get("started")
        else:
            last = books.last_sign_of_life(
                plan.endpoint, plan.answers, plan.failures, run_id=line["run_id"], since=line["at"]
            )
            alive = (now - (last or line["at"])).total_seconds() < _ALIVE_SECS
        if alive:
            raise ConfigError(
                f"run {line['run_id']} of the same question started at {line['at']:%Y-%m-%d %H:%M} UTC and has not ended; "
                "wait for it, stop it, or add --allow_concurrent_runs (rows that both ask are paid twice)"
            )


def reason_rows(found: books.Books) -> list[tuple[str, str]]:
    """Failures by reason, for people."""
    return [(reason, f"{rows:,}") for reason, rows in found.by_reason.items()]


def versions() -> dict[str, str]:
    """Versions that decide how a run behaves."""
    packages = (
        "apache-beam",
        "google-cloud-aiplatform",
        "google-cloud-bigquery",
        "google-cloud-bigquery-storage",
        "grpcio",
    )
    found = {name: importlib.metadata.version(name) for name in packages}
    return {"pipeline": __version__, "python": platform.python_version(), **found}


def given(options: Options) -> dict[str, Any]:
    """The flags that differ from their defaults."""
    return {
        field.name: value
        for field, _ in flags()
        if (value := getattr(options, field.name)) != field.default and value is not None
    }


def launcher() -> Mapping[str, Any]:
    """Where this process lives, so that a later one on the same machine can tell whether it still does."""
    import os

    return {"host": socket.gethostname(), "boot": _boot_id(), "pid": os.getpid(), "started": _started(os.getpid())}


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    except OSError:
        return ""


def _started(pid: int) -> str:
    """When a process started, in the kernel's own ticks: a pid alone may be somebody else's by now."""
    try:
        return Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()[19]
    except OSError:
        return ""
