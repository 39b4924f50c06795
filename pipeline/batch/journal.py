"""What the runs table says of batch runs: lines of state `started` whose options name the folder and the jobs."""

from __future__ import annotations

import dataclasses
import datetime
import json
from collections.abc import Mapping, Sequence
from typing import Any, Self

from pipeline import rivals
from pipeline.batch.service import Job
from pipeline.bigquery import books, query, tables
from pipeline.launch import Run
from pipeline.plan import Plan
from pipeline.rows import RunState
from pipeline.worker import OVER_BUDGET

_KEPT_DAYS = 30  # as long as a worklist


@dataclasses.dataclass(frozen=True)
class Unfinished:
    """A batch run whose books nobody has closed.

    Attributes:
        line: the one that it started with.
        folder: gs:// URI of its requests and results.
        collected: the parts whose results are in the tables, by their jobs' display names.
        launchers: where its launchers live, as `rivals.launcher` says it, oldest first.
    """

    line: Mapping[str, Any]
    folder: str
    collected: frozenset[str]
    launchers: tuple[Mapping[str, Any], ...]

    @property
    def run_id(self) -> str:
        return str(self.line["run_id"])

    @classmethod
    def by(cls, lines: Sequence[Mapping[str, Any]]) -> Self | None:
        """Reads the lines of one run, oldest first; None where it is no batch run, or is over."""
        told = [line.get("options") or {} for line in lines]
        begun = [options["batch"] for options in told if "batch" in options]
        # A halted process tells the table at once, but only the launcher closes the books.
        over = any(line["state"] != RunState.STARTED and line["worklist_rows"] is not None for line in lines)
        if not begun or over:
            return None
        jobs = [options["batch_job"] for options in told if "batch_job" in options]
        collected = frozenset(job["part"] for job in jobs if job.get("collected"))
        return cls(lines[0], begun[0]["folder"], collected, tuple(each["launcher"] for each in begun))


def unfinished(plan: Plan) -> Unfinished | None:
    """The newest batch run of this question whose books nobody has closed, however its launcher ended."""
    if not tables.exists(plan.endpoint, plan.runs, "--runs_table"):
        return None
    sql = f"""SELECT * FROM {plan.runs.sql}
WHERE fingerprint = @fingerprint AND `at` >= @since ORDER BY `at`"""
    since = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=_KEPT_DAYS)
    asked = query.Query(sql, {"fingerprint": plan.fingerprint, "since": since})
    runs: dict[str, list[dict[str, Any]]] = {}
    for line in query.run(plan.endpoint, asked, plan.query_job()):
        if isinstance(line["options"], str):
            line["options"] = json.loads(line["options"])
        runs.setdefault(line["run_id"], []).append(line)
    found = [each for lines in runs.values() if (each := Unfinished.by(lines)) is not None]
    return found[-1] if found else None


def note_batch(run: Run, folder: str) -> None:
    """The run is a batch run, and this process is its launcher now."""
    _note(run, {"batch": {"folder": folder, "launcher": rivals.launcher()}})


def note_made(run: Run, job: Job) -> None:
    """A job was made."""
    _note_job(run, job, collected=False)


def note_collected(run: Run, job: Job) -> None:
    """A job's results are in the tables."""
    _note_job(run, job, collected=True)


def note_over_budget(run: Run, why: str) -> None:
    """Rows are left unasked, as a worker says it whose meter stops it."""
    _note(run, {}, reason=OVER_BUDGET + why)


def _note_job(run: Run, job: Job, *, collected: bool) -> None:
    told = {"name": job.name, "part": job.part, "state": job.state, "collected": collected}
    _note(run, {"batch_job": told})


def _note(run: Run, options: Mapping[str, Any], reason: str | None = None) -> None:
    line: dict[str, Any] = {"run_id": run.run_id, "state": RunState.STARTED.value, "task": run.plan.task.name}
    line |= {"reason": reason, "options": options}
    books.append_run(run.plan.endpoint, run.plan.runs, line | {"fingerprint": run.plan.fingerprint})
