"""What a run did, by SQL over the tables, at any time: the books, the money, and the runs table."""

from __future__ import annotations

import dataclasses
import datetime
import json
from collections.abc import Mapping
from typing import Any

from pipeline.bigquery.client import Endpoint
from pipeline.bigquery.names import TableName
from pipeline.bigquery.query import Job, Parameter, Query, earliest, run
from pipeline.bigquery.write import append_now
from pipeline.rows import RUN_COLUMNS, RunState

_JSON_COLUMNS = tuple(column.name for column in RUN_COLUMNS if column.type == "JSON")
MISSING_SAMPLE = 10


@dataclasses.dataclass(frozen=True, slots=True)
class Books:
    """A run's account: `rows` = `answered` + `failed` + `not_asked`, in distinct keys of its worklist.

    Args:
        rows: Distinct keys of the worklist.
        answered: Of these, answered by this run; a key that also failed counts here.
        failed: Of these, filed as failures by this run and not answered.
        not_asked: The others.
        stray: Keys that this run wrote though they are not in its worklist; a bug where it is not 0.
        total_tokens: Tokens of the run's answers and failures.
        cost_usd: Dollars of these; None where no price was known.
        by_reason: Failed keys by reason, most first.
        missing: Some of the keys that were not asked.
    """

    rows: int
    answered: int
    failed: int
    not_asked: int
    stray: int
    total_tokens: int
    cost_usd: float | None
    by_reason: Mapping[str, int]
    missing: tuple[str, ...]


def audit(
    endpoint: Endpoint,
    *,
    worklist: TableName,
    answers: TableName,
    failures: TableName,
    run_id: str,
    since: datetime.datetime,
    job: Job | None = None,
) -> Books:
    """Returns a run's books, however it ended, even while it runs.

    A line that was appended twice counts once; a key that was paid twice is in the sums twice.

    Args:
        endpoint: Where.
        worklist: The run's worklist.
        answers: The answers table.
        failures: The failures table.
        run_id: The run.
        since: When the run started; what is more than a day older is not read.
        job: Labels and limit of the queries' bill.
    """
    parameters: dict[str, Parameter] = {"run_id": run_id, "since": earliest(since)}
    written = _written(worklist, answers, failures)
    totals = run(endpoint, Query(f"{written}\n{_TOTALS}", parameters), job)[0]
    reasons: dict[str, int] = {}
    missing: tuple[str, ...] = ()
    if totals["failed"]:
        lines = run(endpoint, Query(f"{written}\n{_REASONS}", parameters), job)
        reasons = {line["reason"]: line["failed"] for line in lines}
    if totals["not_asked"]:
        lines = run(endpoint, Query(f"{written}\n{_MISSING}", parameters), job)
        missing = tuple(line["key"] for line in lines)
    return Books(
        rows=totals["asked"],
        answered=totals["answered"],
        failed=totals["failed"],
        not_asked=totals["not_asked"],
        stray=totals["stray"],
        total_tokens=totals["total_tokens"] or 0,
        cost_usd=(totals["cost_usd"] or 0.0) if totals["priced"] or not totals["paid"] else None,
        by_reason=reasons,
        missing=missing,
    )


def _written(worklist: TableName, answers: TableName, failures: TableName) -> str:
    return f"""WITH asked AS (
  SELECT DISTINCT key FROM {worklist.sql}
), answered AS (
  SELECT DISTINCT key, classified_at AS `at`, total_tokens, cost_usd
  FROM {answers.sql} WHERE run_id = @run_id AND classified_at >= @since
), failed AS (
  SELECT DISTINCT key, failed_at AS `at`, reason, total_tokens, cost_usd
  FROM {failures.sql} WHERE run_id = @run_id AND failed_at >= @since
), standing AS (
  SELECT
    COALESCE(asked.key, written.key) AS key,
    asked.key IS NOT NULL AS is_asked,
    COALESCE(written.is_answered, FALSE) AS is_answered,
    written.key IS NOT NULL AS is_written
  FROM asked FULL JOIN (
    SELECT key, LOGICAL_OR(is_answer) AS is_answered
    FROM (SELECT key, TRUE AS is_answer FROM answered UNION ALL SELECT key, FALSE AS is_answer FROM failed)
    GROUP BY key
  ) AS written ON written.key = asked.key
)"""


_TOTALS = """, paid AS (
  SELECT total_tokens, cost_usd FROM answered UNION ALL SELECT total_tokens, cost_usd FROM failed
)
SELECT
  COUNTIF(is_asked) AS asked,
  COUNTIF(is_asked AND is_answered) AS answered,
  COUNTIF(is_asked AND is_written AND NOT is_answered) AS failed,
  COUNTIF(is_asked AND NOT is_written) AS not_asked,
  COUNTIF(NOT is_asked) AS stray,
  (SELECT SUM(total_tokens) FROM paid) AS total_tokens,
  (SELECT SUM(cost_usd) FROM paid) AS cost_usd,
  (SELECT COUNT(*) FROM paid) AS paid,
  (SELECT COUNT(cost_usd) FROM paid) AS priced
FROM standing"""

_REASONS = """, newest AS (
  SELECT key, ANY_VALUE(reason HAVING MAX `at`) AS reason FROM failed GROUP BY key
)
SELECT newest.reason AS reason, COUNT(*) AS failed
FROM newest JOIN standing ON standing.key = newest.key
WHERE is_asked AND NOT is_answered GROUP BY reason ORDER BY failed DESC, reason"""

_MISSING = f"SELECT key FROM standing WHERE is_asked AND NOT is_written ORDER BY key LIMIT {MISSING_SAMPLE}"


def spent(
    endpoint: Endpoint,
    *,
    answers: TableName,
    failures: TableName | None,
    fingerprint: str,
    since: datetime.datetime | None = None,
    until: datetime.datetime | None = None,
    job: Job | None = None,
) -> float:
    """Returns the dollars of a fingerprint's answers and failures; a line that was appended twice counts twice.

    Args:
        endpoint: Where.
        answers: The answers table.
        failures: The failures table; None where there is none.
        fingerprint: What was asked.
        since: Only lines of this time and later, which reads less; None for all.
        until: Only lines of before this time; None for all.
        job: Labels and limit of the query's bill.
    """
    parameters: dict[str, Parameter] = {"fingerprint": fingerprint}
    when = ""
    if since is not None:
        parameters["since"] = since
        when += " AND {at} >= @since"
    if until is not None:
        parameters["until"] = until
        when += " AND {at} < @until"
    mine = f"WHERE fingerprint = @fingerprint{when}"
    paid = f"SELECT cost_usd FROM {answers.sql} {mine.format(at='classified_at')}"
    if failures is not None:
        paid += f"\n  UNION ALL SELECT cost_usd FROM {failures.sql} {mine.format(at='failed_at')}"
    sql = f"SELECT SUM(cost_usd) AS usd FROM (\n  {paid}\n)"
    return float(run(endpoint, Query(sql, parameters), job)[0]["usd"] or 0.0)


@dataclasses.dataclass(frozen=True, slots=True)
class OtherFingerprint:
    """Answers that the table holds for the same task, asked otherwise.

    Args:
        fingerprint: Of these answers.
        answers: Distinct keys.
        last_at: When the last one arrived.
        settings: What the fingerprint is a hash of; None where no run tells.
        bought: Whether a run has asked for them in earnest: samples and evaluations alone leave it False.
    """

    fingerprint: str
    answers: int
    last_at: datetime.datetime
    settings: Mapping[str, Any] | None
    bought: bool = True


def other_fingerprints(
    endpoint: Endpoint,
    *,
    answers: TableName,
    runs: TableName | None,
    task: str,
    fingerprint: str,
    job: Job | None = None,
) -> list[OtherFingerprint]:
    """Returns the fingerprints other than this one that have answers for the task, newest first.

    An empty `fingerprint` is none, so that all are returned; `runs` is None where there is no runs table.
    """
    found = f"""SELECT fingerprint, COUNT(DISTINCT key) AS answers, MAX(classified_at) AS last_at
  FROM {answers.sql} WHERE task = @task AND fingerprint != @fingerprint GROUP BY fingerprint"""
    told = "SELECT CAST(NULL AS STRING) AS fingerprint, CAST(NULL AS STRING) AS settings, FALSE AS bought"
    if runs is not None:
        told = f"""SELECT fingerprint, ANY_VALUE(TO_JSON_STRING(settings) HAVING MAX `at`) AS settings,
    LOGICAL_OR(COALESCE(JSON_VALUE(options, '$.production'), 'true') != 'false') AS bought
  FROM {runs.sql} WHERE settings IS NOT NULL GROUP BY fingerprint"""
    sql = f"""SELECT found.fingerprint, found.answers, found.last_at, told.settings, COALESCE(told.bought, TRUE) AS bought
FROM (
  {found}
) AS found LEFT JOIN (
  {told}
) AS told ON told.fingerprint = found.fingerprint
ORDER BY last_at DESC"""
    lines = run(endpoint, Query(sql, {"task": task, "fingerprint": fingerprint}), job)
    return [
        OtherFingerprint(
            line["fingerprint"], line["answers"], line["last_at"], _parsed(line["settings"]), line["bought"]
        )
        for line in lines
    ]


def append_run(endpoint: Endpoint, runs: TableName, line: Mapping[str, Any]) -> None:
    """Appends one line to the runs table and returns when it is acknowledged; `at` is now where it is not given.

    Raises:
        ValueError: It has a key that is no column of `RUN_COLUMNS`.
        WriteError: It could not be written.
    """
    unknown = set(line) - {column.name for column in RUN_COLUMNS}
    if unknown:
        raise ValueError(f"no columns of the runs table: {', '.join(sorted(unknown))}")
    row = {"at": datetime.datetime.now(datetime.UTC), **line}
    for name in _JSON_COLUMNS:
        if row.get(name) is not None and not isinstance(row[name], str):
            row[name] = json.dumps(row[name], default=str)
    append_now(endpoint, runs, RUN_COLUMNS, [row])


def run_lines(endpoint: Endpoint, runs: TableName, run_id: str, job: Job | None = None) -> list[dict[str, Any]]:
    """Returns what the runs table says of one run, oldest first; JSON columns are parsed."""
    return _lines(
        endpoint, Query(f"SELECT * FROM {runs.sql} WHERE run_id = @run_id ORDER BY `at`", {"run_id": run_id}), job
    )


def last_run(
    endpoint: Endpoint, runs: TableName, fingerprint: str | None = None, job: Job | None = None
) -> dict[str, Any] | None:
    """Returns the line that the newest run started with, of one fingerprint or of all; None where there is none."""
    mine = "" if fingerprint is None else "WHERE fingerprint = @fingerprint"
    sql = f"SELECT * FROM ({_first_lines(runs)}) {mine} ORDER BY `at` DESC LIMIT 1"
    query = Query(sql, {} if fingerprint is None else {"fingerprint": fingerprint})
    return next(iter(_lines(endpoint, query, job)), None)


def open_runs(endpoint: Endpoint, runs: TableName, fingerprint: str, job: Job | None = None) -> list[dict[str, Any]]:
    """Returns the lines that runs of this fingerprint started with and that no later line has ended, newest first.

    A run whose launcher was killed stays open until `audit` writes its end.
    """
    sql = f"""SELECT * FROM ({_first_lines(runs)}) WHERE fingerprint = @fingerprint
  AND run_id NOT IN (SELECT run_id FROM {runs.sql} WHERE state != '{RunState.STARTED}')
ORDER BY `at` DESC"""
    return _lines(endpoint, Query(sql, {"fingerprint": fingerprint}), job)


def _first_lines(runs: TableName) -> str:
    """The first line of each run: later ones of the same state add to it. It alone has a worklist: a worker's clock may say
    that its own line came before it."""
    return (
        f"SELECT * FROM {runs.sql} WHERE state = '{RunState.STARTED}' "
        "QUALIFY ROW_NUMBER() OVER (PARTITION BY run_id ORDER BY worklist IS NULL, `at`) = 1"
    )


def last_sign_of_life(
    endpoint: Endpoint,
    answers: TableName,
    failures: TableName,
    *,
    run_id: str,
    since: datetime.datetime,
    job: Job | None = None,
) -> datetime.datetime | None:
    """Returns when a run last answered or filed a row; None where it has not yet.

    Args:
        endpoint: Where.
        answers: The answers table.
        failures: The failures table.
        run_id: The run.
        since: When it started; what is more than a day older is not read.
        job: Labels and limit of the query's bill.
    """
    sql = f"""SELECT MAX(`at`) AS newest FROM (
  SELECT classified_at AS `at` FROM {answers.sql} WHERE run_id = @run_id AND classified_at >= @since
  UNION ALL SELECT failed_at AS `at` FROM {failures.sql} WHERE run_id = @run_id AND failed_at >= @since
)"""
    parameters: dict[str, Parameter] = {"run_id": run_id, "since": earliest(since)}
    newest: datetime.datetime | None = run(endpoint, Query(sql, parameters), job)[0]["newest"]
    return newest


def halted(endpoint: Endpoint, runs: TableName, run_id: str, job: Job | None = None) -> str | None:
    """Returns why a run was halted, None where it was not; for workers that the launcher cannot reach."""
    sql = (
        f"SELECT COALESCE(reason, 'no reason given') AS reason FROM {runs.sql}\n"
        f"WHERE run_id = @run_id AND state = '{RunState.HALTED}' ORDER BY `at` DESC LIMIT 1"
    )
    return next((line["reason"] for line in run(endpoint, Query(sql, {"run_id": run_id}), job)), None)


def _lines(endpoint: Endpoint, query: Query, job: Job | None) -> list[dict[str, Any]]:
    lines = run(endpoint, query, job)
    for line in lines:
        for name in _JSON_COLUMNS:
            line[name] = _parsed(line.get(name))
    return lines


def _parsed(value: Any) -> Any:
    return json.loads(value) if isinstance(value, str) else value
