"""What the launcher tells every worker of a run."""

from __future__ import annotations

import dataclasses
import datetime

from pipeline import leash
from pipeline.asking import Question
from pipeline.bigquery.client import Endpoint
from pipeline.bigquery.names import TableName
from pipeline.bigquery.query import Job
from pipeline.engine import Limits
from pipeline.gemini.client import VertexEndpoint
from pipeline.rows import Column


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tables:
    """The tables of a run."""

    worklist: TableName
    answers: TableName
    failures: TableName
    runs: TableName


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunConfig:
    """All that a worker needs to know of a run; small, picklable, made by the launcher.

    Attributes:
        answer_columns: the answers table's columns, kept ones included.
        worklist_columns: the worklist's own columns beside key, URI and problem.
        requests_per_minute: this process's share of the job's cap, or None.
        tokens_per_minute: likewise.
        budget_usd: what the fingerprint may cost in all, or None.
        spent_before_usd: what it had cost until `bigquery.query.earliest(started_at)`, from when on the meter asks again.
        usd_per_row: planned dollars of a row that is asked online, or None when the price is not known.
        job: how the queries of workers are labelled and limited.
        progress_folder: where other processes of this machine tell the launcher how far they are, or None.
        launcher_pid: the launcher's own process, which has no need to.
        launcher_address: where a worker process of the same machine learns that its launcher stops, or None.
    """

    run_id: str
    started_at: datetime.datetime
    question: Question
    vertex: VertexEndpoint
    bigquery: Endpoint
    tables: Tables
    answer_columns: tuple[Column, ...]
    worklist_columns: tuple[str, ...]
    limits: Limits
    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    budget_usd: float | None = None
    spent_before_usd: float = 0.0
    usd_per_row: float | None = None
    job: Job = dataclasses.field(default_factory=Job)
    progress_folder: str | None = None
    launcher_pid: int | None = None
    launcher_address: leash.Address | None = None
