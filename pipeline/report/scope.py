"""What a report is of: one run, or everything that was asked with one fingerprint."""

from __future__ import annotations

import dataclasses
import datetime
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.bigquery import books, inputs
from pipeline.bigquery.client import Endpoint, explained
from pipeline.bigquery.names import TableName
from pipeline.bigquery.query import Parameter, Query, earliest, run
from pipeline.errors import ConfigError
from pipeline.rows import RunState

_QUESTION = re.compile(r"[a-z][a-z0-9_]{0,99}")  # what task files allow; it goes into a JSON path
_OPTIONAL = ("map_url", "asset_type", "latitude", "longitude")


@dataclasses.dataclass(frozen=True, slots=True)
class Question:
    """A question of the task. `labels` are its labels in the task's order, or empty."""

    name: str
    kind: str
    description: str = ""
    labels: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scope:
    """Which rows are reported.

    Attributes:
        run_id: one run, or None for all runs of the fingerprint.
        since: a day before the first of these runs started; what is older is not read.
        runs: their lines in the runs table, newest run first.
        settings: what the fingerprint is a hash of; empty where no run tells.
        columns: which of map_url, asset_type, latitude and longitude the answers have.
    """

    endpoint: Endpoint
    answers: TableName
    failures: TableName
    task: str
    fingerprint: str
    run_id: str | None
    since: datetime.datetime
    runs: Mapping[str, Sequence[Mapping[str, Any]]]
    settings: Mapping[str, Any]
    columns: frozenset[str]

    @property
    def parameters(self) -> dict[str, Parameter]:
        """The parameters of every query."""
        given: dict[str, Parameter] = {"fingerprint": self.fingerprint, "since": self.since}
        return given if self.run_id is None else given | {"run_id": self.run_id}

    @property
    def has_places(self) -> bool:
        return {"latitude", "longitude"} <= self.columns

    @property
    def questions(self) -> tuple[Question, ...]:
        """The task's questions in their order; none of a free-text task."""
        found = []
        for name, spec in self.settings.get("questions") or ():
            if _QUESTION.fullmatch(name):
                labels = tuple(each if isinstance(each, str) else each[0] for each in spec.get("labels") or ())
                found.append(Question(name, spec.get("type", "string"), spec.get("description") or "", labels))
        return tuple(found)


def find(
    endpoint: Endpoint,
    tables: tuple[TableName, TableName, TableName],
    *,
    run_id: str | None = None,
    fingerprint: str | None = None,
) -> Scope:
    """The scope of a report: a run, a fingerprint, or the fingerprint of the newest run.

    Args:
        endpoint: where.
        tables: answers, failures, runs.
        run_id: only this run.
        fingerprint: all runs of this fingerprint.

    Raises:
        ConfigError: there is no such run, or the tables are not ours.
    """
    answers, failures, runs = tables
    with explained("--output_table", answers):
        fields = {field.name: field.type for field in inputs.inspect(endpoint, answers, "--output_table").fields}
    with explained("--runs_table", runs):
        lines = books.run_lines(endpoint, runs, run_id) if run_id else []
        started = next((line for line in lines if line["worklist"]), None) or (
            None if run_id else books.last_run(endpoint, runs, fingerprint)
        )
        if started is None:
            raise ConfigError(_no_run(runs, run_id, fingerprint))
        mine = _lines_of(endpoint, runs, started["fingerprint"])
    by_run: dict[str, list[dict[str, Any]]] = {}
    for line in mine:
        if run_id in (None, line["run_id"]):
            by_run.setdefault(line["run_id"], []).append(line)
    newest_first = dict(sorted(by_run.items(), key=lambda pair: pair[1][0]["at"], reverse=True))
    return Scope(
        endpoint=endpoint,
        answers=answers,
        failures=failures,
        task=started["task"] or "",
        fingerprint=started["fingerprint"],
        run_id=run_id,
        since=earliest(min(line["at"] for lines in by_run.values() for line in lines)),
        runs=newest_first,
        settings=next((line["settings"] for line in mine if isinstance(line.get("settings"), dict)), {}),
        columns=frozenset(name for name in _OPTIONAL if name in fields),
    )


def _lines_of(endpoint: Endpoint, runs: TableName, fingerprint: str) -> list[dict[str, Any]]:
    """What the runs table says of a fingerprint, oldest first; JSON columns are parsed."""
    sql = f"SELECT * FROM {runs.sql} WHERE fingerprint = @fingerprint ORDER BY `at`"
    lines = run(endpoint, Query(sql, {"fingerprint": fingerprint}))
    for line in lines:
        for name in ("settings", "options", "versions"):
            if isinstance(line[name], str):
                line[name] = json.loads(line[name])
    return lines


def _no_run(runs: TableName, run_id: str | None, fingerprint: str | None) -> str:
    if run_id:
        return f"--run_id={run_id}: {runs} has no such run"
    if fingerprint:
        return f"--fingerprint={fingerprint}: {runs} has no run of it"
    return f"{runs} has no run; is --output_table the right table?"


def started_line(lines: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """The line that a run started with: the one that names its worklist, else its first."""
    return next((line for line in lines if line["state"] == RunState.STARTED and line["worklist"]), lines[0])


def end_line(lines: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The first line that ends the run with its sums; None while it runs, or where nobody has written its end."""
    ends = [line for line in lines if line["state"] != RunState.STARTED]
    return next((line for line in ends if line["answered"] is not None), ends[-1] if ends else None)
