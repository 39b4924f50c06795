"""From a plan to a run and its end: tables, worklist, the runs table, the books. No Beam here."""

from __future__ import annotations

import dataclasses
import datetime
import importlib.metadata
import platform
import random
import string
from collections.abc import Mapping, Sequence
from typing import Any, Self

from pipeline import __version__, rivals, worker
from pipeline.asking import Question
from pipeline.bigquery import books, tables, views, worklist
from pipeline.bigquery.client import explained
from pipeline.bigquery.names import TableName
from pipeline.bigquery.query import earliest
from pipeline.bigquery.worklist import Shard
from pipeline.engine import Limits
from pipeline.errors import BooksError, ConfigError
from pipeline.gemini import models
from pipeline.options import Options, flags
from pipeline.plan import Plan
from pipeline.rows import FAILURE_COLUMNS, RUN_COLUMNS, RunState
from pipeline.run_config import RunConfig, Tables

ROWS_PER_SHARD = 4000  # short read sessions, small retries; at 500 rows/s a shard lasts 8 s


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """A run that is ready to start: its tables exist, its rows are settled, it stands in the runs table.

    `begun` is the line that it started with, where another process has started it.
    """

    plan: Plan
    config: RunConfig
    shards: list[Shard]
    rows: int
    begun: Mapping[str, Any] | None = None

    @property
    def run_id(self) -> str:
        return self.config.run_id

    @property
    def over_budget(self) -> int:
        """Rows that the budget kept out of the worklist."""
        if self.begun is not None:  # what the plan says now knows of the run's own answers
            return cut_by_budget(self.begun)
        return self.plan.over_budget

    @property
    def already_answered(self) -> int:
        """Keys of the input that had an answer before this run."""
        return self.plan.count.already_answered if self.begun is None else self.begun["already_answered"] or 0


def cut_by_budget(started: Mapping[str, Any]) -> int:
    """Rows that the budget kept out of a run's worklist, by the line that the run started with."""
    return int((started.get("options") or {}).get("over_budget") or 0)


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
    caps = shares(options, processes)
    now = datetime.datetime.now(datetime.UTC)
    run_id = options.run_id or new_run_id(now)
    job = plan.query_job(run_id)
    _ensure_tables(plan)
    if options.run_id and books.run_lines(plan.endpoint, plan.runs, run_id, job):
        raise ConfigError(
            f"--run_id={run_id}: {plan.runs} has a run of that name already; give another, or leave it out"
        )
    if not options.allow_concurrent_runs:
        rivals.refuse(plan)
    _ensure_views(plan, production)
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
            buckets=worklist.bucket_count(plan.worklist_rows),
            labels=job.labels,
            job=job,
        )
        shards = worklist.shards(plan.endpoint, name, ROWS_PER_SHARD, job)
    config = _config(plan, run_id, now, name, caps)
    run = Run(plan=plan, config=config, shards=shards, rows=written.rows)
    books.append_run(
        plan.endpoint,
        plan.runs,
        {
            "run_id": run_id,
            "state": RunState.STARTED.value,
            "at": datetime.datetime.now(datetime.UTC),
            "task": plan.task.name,
            "fingerprint": plan.fingerprint,
            "settings": plan.identity,
            "worklist": str(name),
            "worklist_rows": written.rows,
            "already_answered": run.already_answered,
            "versions": versions(),
            "options": {
                **given(options),
                **({} if production else {"production": False}),
                "over_budget": run.over_budget,
                "launcher": rivals.launcher(),
            },
        },
    )
    if not options.allow_concurrent_runs:
        _yield_to_rival(run)
    return run


def resumed(plan: Plan, line: Mapping[str, Any]) -> Run:
    """A run that another process has started, and that this one goes on with.

    Args:
        plan: what the same flags would do now; it asks the same question.
        line: the one that the run started with.
    """
    job = plan.query_job(line["run_id"])
    name = TableName.parse(line["worklist"], "the run's worklist")
    with explained("--output_table", plan.answers):
        shards = worklist.shards(plan.endpoint, name, ROWS_PER_SHARD, job)
    config = _config(plan, line["run_id"], line["at"], name, shares(plan.options, 1))
    return Run(plan=plan, config=config, shards=shards, rows=line["worklist_rows"], begun=line)


def _yield_to_rival(run: Run) -> None:
    """Looks again, now that others see this run: two that start at the same moment do not both go on.

    Whoever's line was not yet acknowledged when the other one wrote its own may not have been seen by it, so it yields. At
    worst both do, and nothing is paid.

    Raises:
        ConfigError: the other one goes on.
    """
    plan = run.plan
    try:
        rivals.refuse(plan, besides=run.run_id, before=datetime.datetime.now(datetime.UTC))
    except ConfigError:
        end = {"run_id": run.run_id, "state": RunState.CANCELLED.value, "reason": "another run was there first"}
        books.append_run(plan.endpoint, plan.runs, end | {"fingerprint": plan.fingerprint})
        raise


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
        | {"already_answered": run.already_answered},
    )
    return found


def end_line(
    found: books.Books,
    run_id: str,
    state: RunState,
    reason: str | None,
    started_at: datetime.datetime,
    ended_at: datetime.datetime | None = None,
) -> dict[str, Any]:
    """The line that ends a run in the runs table; `ended_at` is None for a run that ends now."""
    now = datetime.datetime.now(datetime.UTC)
    secs = max(0.0, ((ended_at or now) - started_at).total_seconds())  # the worker's clock may be behind
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


@dataclasses.dataclass(frozen=True, slots=True)
class Told:
    """What the runs table says of why a run left rows unasked, wherever its workers lived."""

    halted: str | None = None
    over_budget: str | None = None

    @classmethod
    def by(cls, lines: Sequence[Mapping[str, Any]]) -> Self:
        """Reads the lines of one run."""
        reasons = [(line["state"], line["reason"] or "") for line in lines]
        halted = next((reason or "no reason given" for state, reason in reasons if state == RunState.HALTED), None)
        over = next((reason for _, reason in reasons if reason.startswith(worker.OVER_BUDGET)), None)
        return cls(halted, over)


def told(run: Run) -> Told:
    """What the workers of a run have told the runs table."""
    plan = run.plan
    return Told.by(books.run_lines(plan.endpoint, plan.runs, run.run_id, plan.query_job(run.run_id)))


def check_books(found: books.Books, *, whole: bool) -> None:
    """Compares what was found with what must be.

    Args:
        found: a run's books.
        whole: whether the run ended without any reason to leave rows unasked.

    Raises:
        BooksError: rows are missing, or some are there that the run never had; it names them.
    """
    if found.stray:
        raise BooksError(f"{found.stray:,} keys were written by this run that are not in its worklist: a bug")
    if whole and found.not_asked:
        raise BooksError(
            f"the books do not balance: {found.not_asked:,} rows of the worklist have neither an answer nor a failure "
            f"though nothing stopped the run, such as {', '.join(found.missing)}; the same command asks them"
        )


def note_job(run: Run, job_id: str) -> None:
    """Remember which Dataflow job the run became."""
    line = {"run_id": run.run_id, "state": RunState.STARTED.value, "options": {"dataflow_job": job_id}}
    books.append_run(run.plan.endpoint, run.plan.runs, line | {"fingerprint": run.plan.fingerprint})


def _config(
    plan: Plan, run_id: str, now: datetime.datetime, name: TableName, caps: tuple[float | None, float | None]
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
        worklist_columns=plan.source.outputs,
        limits=Limits(
            max_in_flight=options.max_in_flight,
            max_attempts=options.max_attempts,
            call_timeout_secs=timeout,
            row_deadline_secs=max(600.0, 5 * timeout),
        ),
        requests_per_minute=caps[0],
        tokens_per_minute=caps[1],
        budget_usd=options.max_cost_usd,
        spent_before_usd=_spent_before(plan, run_id, now),
        usd_per_row=plan.usd_online,
        job=plan.query_job(run_id),
    )


def _spent_before(plan: Plan, run_id: str, started: datetime.datetime) -> float:
    """What the meter of the run that started then does not ask for again and again; 0 without a budget, which alone has one."""
    if plan.options.max_cost_usd is None:
        return 0.0
    return books.spent(
        plan.endpoint,
        answers=plan.answers,
        failures=plan.failures,
        fingerprint=plan.fingerprint,
        until=earliest(started),
        job=plan.query_job(run_id),
    )


def shares(options: Options, processes: int | None) -> tuple[float | None, float | None]:
    """Each process's part of the caps in requests and tokens a minute.

    Raises:
        ConfigError: there is a cap, and nobody knows by how many to divide it.
    """
    caps = (options.requests_per_minute, options.tokens_per_minute)
    if processes is None:
        if any(caps):
            raise ConfigError(
                "--requests_per_minute and --tokens_per_minute are divided among the worker processes, whose number is "
                "not known: add --max_num_workers=N (--num_workers=N where --autoscaling_algorithm=NONE), and either a "
                "--machine_type that ends in its number of vCPUs or --experiments=no_use_multiple_sdk_containers"
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
    endpoint, answers, options, promote = plan.endpoint, plan.answers, plan.options, plan.options.promote
    if not production:
        views.ensure_plain_views(endpoint, answers, plan.failures)
        return
    by = options.asset_column if options.unit == "asset" else "key"
    views.ensure_views(endpoint, answers, plan.failures, plan.fingerprint, promote=promote, by=by)
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
            by=by,
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
