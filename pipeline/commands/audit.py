"""`python -m pipeline audit --output_table=... --run_id=...`: the books of a run, at any time, wherever it ran."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pipeline import console, options, planning
from pipeline.bigquery import books, tables
from pipeline.bigquery.client import Endpoint, explained
from pipeline.bigquery.names import TableName
from pipeline.commands.classify import conclude
from pipeline.errors import BooksError, ConfigError
from pipeline.launch import end_line
from pipeline.rows import RunState

_USAGE = """usage: python -m pipeline audit --project=P --output_table=P.D.T [--run_id=R]

Counts, by SQL, the distinct keys of the run's worklist that are answered, failed and not asked, with tokens and dollars.
Without --run_id it is the newest run. When every row is accounted for and nobody has written the run's end yet, as after a
Dataflow job, it is appended to the runs table. Exit codes are those of classify; 1 when the books do not balance."""


def main(argv: Sequence[str]) -> int:
    """Print the books of a run, and append its end where it has none.

    Returns:
        0, or 3 when more rows failed than --max_failure_ratio allows.

    Raises:
        BooksError: rows are missing although the run has ended, or rows are there that it never had.
    """
    if "--help" in argv or "-h" in argv:
        print(_USAGE)
        return 0
    given, rest = options.parse(argv)
    if rest:
        raise options.unknown_flag(rest[0])
    answers, failures, runs = planning.table_names(given)
    endpoint = Endpoint(planning.project_of(given), None, given.bigquery_endpoint, given.bigquery_storage_endpoint)
    location = tables.check_dataset(endpoint, answers, None)
    endpoint = Endpoint(endpoint.project, location, endpoint.rest, endpoint.storage)
    with explained("--runs_table", runs):
        started, lines = _find(endpoint, runs, given.run_id)
    run_id = started["run_id"]
    worklist = TableName.parse(started["worklist"], "the run's worklist")
    with explained("--run_id", run_id):
        found = books.audit(
            endpoint, worklist=worklist, answers=answers, failures=failures, run_id=run_id, since=started["at"]
        )
    states = [line["state"] for line in lines]
    ended = any(state != RunState.STARTED for state in states)
    console.table("Books", ("what", "how much"), _table(found, states))
    if found.not_asked == 0 and not ended:
        line = end_line(found, run_id, RunState.FINISHED, "audited", started["at"])
        same = {name: started[name] for name in ("task", "fingerprint", "worklist", "already_answered")}
        books.append_run(endpoint, runs, line | same)
    code = conclude(run_id, found, given, already_answered=started["already_answered"] or 0, over_budget=0)
    _check(found, RunState.FINISHED in states and not _had_budget(started))
    return code


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


def _had_budget(started: dict[str, Any]) -> bool:
    given = started.get("options")
    return isinstance(given, dict) and "max_cost_usd" in given


def _table(found: books.Books, states: Sequence[str]) -> list[tuple[str, str]]:
    cost = "not known" if found.cost_usd is None else f"${found.cost_usd:,.6f}"
    return [
        ("worklist", f"{found.rows:,}"),
        ("answered", f"{found.answered:,}"),
        ("failed", f"{found.failed:,}"),
        ("not asked", f"{found.not_asked:,}"),
        ("tokens", f"{found.total_tokens:,}"),
        ("cost", cost),
        ("states", ", ".join(states)),
    ]


def _check(found: books.Books, must_be_whole: bool) -> None:
    """Raises BooksError where the books do not balance."""
    if found.stray:
        raise BooksError(f"{found.stray:,} keys were written that are not in the worklist")
    if must_be_whole and found.not_asked:
        raise BooksError(
            f"{found.not_asked:,} rows are missing though the run has finished, such as {', '.join(found.missing)}"
        )
