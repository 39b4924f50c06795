"""`python -m pipeline audit --output_table=... --run_id=...`: the books of a run, at any time, wherever it ran."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from pipeline import console, options, planning
from pipeline.batch.journal import Unfinished
from pipeline.bigquery import books, tables
from pipeline.bigquery.client import Endpoint, explained
from pipeline.bigquery.names import TableName
from pipeline.bigquery.query import Job
from pipeline.errors import ConfigError, Halted, Interrupted
from pipeline.launch import Told, check_books, cut_by_budget, end_line
from pipeline.options import Options
from pipeline.rivals import Life, life_of
from pipeline.rows import RunState
from pipeline.running import conclude

_USAGE = """usage: python -m pipeline audit --project=P --output_table=P.D.T [--run_id=R]

Counts, by SQL, the distinct keys of the run's worklist that are answered, failed and not asked, with tokens and dollars.
Without --run_id it is the newest run. It works at any time, wherever the run lived and however it ended; a run that is
over, but whose end nobody has written (a Dataflow job, a process that was killed), is ended by it in the runs table, once;
otherwise nothing is written. Exit codes are those of classify: 0 done, or it goes on; 1 the books do not balance, with the
missing keys; 3 too many failures; 4 halted; 130 it ended before it was done."""

_SHOWN = (
    *("project", "output_table", "failures_table", "runs_table", "run_id", "max_failure_ratio", "maximum_bytes_billed"),
    *("bigquery_endpoint", "bigquery_storage_endpoint"),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class AuditOptions(Options):
    """The flags of `audit`: those of `classify`, of which it reads few."""

    run_id: str | None = options.named_run("Run to count. Default: the newest.")


def main(argv: Sequence[str]) -> int:
    """Print the books of a run, and append them to the runs table as its end where it has none and is over.

    Returns:
        0, or 3 when more rows failed than --max_failure_ratio allows.

    Raises:
        BooksError: rows are missing although the run has finished, or rows are there that it never had.
        Halted: the run was halted.
        Interrupted: the run ended before it was done.
    """
    if "--help" in argv or "-h" in argv:
        print(f"{_USAGE}\n{options.help_text(AuditOptions, _SHOWN)}")
        return 0
    given, rest = options.parse(argv, AuditOptions)
    if rest:
        raise options.unknown_flag(rest[0])
    answers, failures, runs = planning.table_names(given)
    endpoint = Endpoint(planning.project_of(given), None, given.bigquery_endpoint, given.bigquery_storage_endpoint)
    location = tables.check_dataset(endpoint, answers, None)
    endpoint = Endpoint(endpoint.project, location, endpoint.rest, endpoint.storage)
    with explained("--runs_table", runs):
        started, lines = _find(endpoint, runs, given.run_id)
    run_id, job = started["run_id"], Job(maximum_bytes_billed=given.maximum_bytes_billed)
    worklist = TableName.parse(started["worklist"], "the run's worklist")
    with explained("--run_id", run_id):
        found = books.audit(
            endpoint, worklist=worklist, answers=answers, failures=failures, run_id=run_id, since=started["at"], job=job
        )
    told = Told.by(lines)
    ends = [line["state"] for line in lines if line["state"] != RunState.STARTED]
    life = Life.DEAD if ends else life_of(endpoint, answers, failures, started, job)
    end, reason = _end(found, ends, told, life)
    if Unfinished.by(lines) is not None and found.not_asked:
        end, reason = RunState.STARTED, "audited"
        console.note(
            f"batch run {run_id} is not over, whatever became of its launcher: the same command collects its jobs"
        )
    console.table(
        "Books", ("what", "how much"), _table(found, [*(line["state"] for line in lines)], life if not ends else None)
    )
    # A halted worker ends a run without its sums; a second line with sums would double what the runs table adds up to.
    is_closed = any(line["state"] != RunState.STARTED and line["answered"] is not None for line in lines)
    if end is not RunState.STARTED and not is_closed:
        last = books.last_sign_of_life(endpoint, answers, failures, run_id=run_id, since=started["at"], job=job)
        line = end_line(found, run_id, end, reason, started["at"], last or started["at"])
        same = {name: started[name] for name in ("task", "fingerprint", "worklist", "already_answered")}
        books.append_run(endpoint, runs, line | same)
    code = conclude(
        run_id,
        found,
        given,
        already_answered=started["already_answered"] or 0,
        over_budget=cut_by_budget(started) + (found.not_asked if told.over_budget else 0),
        not_asked=0 if told.over_budget else found.not_asked,
    )
    check_books(found, whole=end is RunState.FINISHED and not told.over_budget)
    if end is RunState.HALTED:
        raise Halted(f"run {run_id} was halted: {told.halted}")
    if end is RunState.CANCELLED and found.not_asked:
        raise Interrupted(f"run {run_id} ended before it was done: the same command asks the rest")
    return code


def _end(found: books.Books, ends: Sequence[str], told: Told, life: Life) -> tuple[RunState, str]:
    """The state that the run has, and why. STARTED is one that may go on: it gets no end from here."""
    if told.halted:
        return RunState.HALTED, told.halted
    if RunState.CANCELLED in ends:
        return RunState.CANCELLED, "audited"
    if ends or found.not_asked == 0 or (told.over_budget and life is not Life.ALIVE):
        return RunState.FINISHED, told.over_budget or "audited"
    if life is Life.DEAD:
        return RunState.CANCELLED, "audited: its process is gone"
    return RunState.STARTED, "audited"


def _find(endpoint: Endpoint, runs: TableName, run_id: str | None) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The line that the run started with, and all its lines."""
    if run_id is None:
        newest = books.last_run(endpoint, runs)
        if newest is None:
            raise ConfigError(f"{runs} has no run; is it the right table?")
        run_id = str(newest["run_id"])
    lines = books.run_lines(endpoint, runs, run_id)
    started = next((line for line in lines if line["state"] == RunState.STARTED and line["worklist"]), None)
    if started is None:
        raise ConfigError(f"--run_id={run_id}: {runs} has no such run")
    return started, lines


def _table(found: books.Books, states: Sequence[str], life: Life | None) -> list[tuple[str, str]]:
    cost = "not known" if found.cost_usd is None else f"${found.cost_usd:,.6f}"
    return [
        ("worklist", f"{found.rows:,}"),
        ("answered", f"{found.answered:,}"),
        ("failed", f"{found.failed:,}"),
        ("not asked", f"{found.not_asked:,}"),
        ("tokens", f"{found.total_tokens:,}"),
        ("cost", cost),
        ("states", ", ".join(states) + (f" ({life})" if life else "")),
    ]
