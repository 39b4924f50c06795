"""Runs the report's queries, a few at a time, and turns their lines into facts."""

from __future__ import annotations

import dataclasses
import datetime
import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from pipeline.bigquery import books
from pipeline.bigquery.client import explained
from pipeline.bigquery.names import TableName
from pipeline.bigquery.query import Query, run
from pipeline.errors import ConfigError
from pipeline.report import queries
from pipeline.report.facts import (
    Facts,
    Histogram,
    Map,
    QuestionFacts,
    Reason,
    Row,
    RunFacts,
    Spot,
    Throughput,
    Value,
)
from pipeline.report.mapping import COLOURS
from pipeline.report.scope import Question, Scope, end_line, started_line

_AT_ONCE = 6  # queries; BigQuery's own time for each is a second or two, whatever its size
_MAX_STEPS = 120  # of the throughput's time axis
_STEPS_SECS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 43200, 86400)
_MAX_RUNS = 50  # newest runs that are listed
_LABELS_A_CELL = 4
_MAX_TEXTS = 10  # most frequent texts of a question that is answered with free text


def gather(scope: Scope, *, rows: int, map_by: str | None = None) -> Facts:
    """Asks BigQuery for everything, a few queries at a time.

    Args:
        scope: what the report is of.
        rows: rows of the table at most.
        map_by: the question that colours the map; None for the label.

    Raises:
        ConfigError: the tables cannot be read, or there is no such question.
    """
    names = [each.name for each in scope.questions]
    if map_by is not None and map_by not in names:
        raise ConfigError(f"--map_by={map_by}: expected a question of the task: {', '.join(names) or 'it has none'}")
    numbers = queries.numbers(scope.questions)
    wanted: dict[str, Query] = {
        "totals": queries.totals(scope),
        "labels": queries.labels(scope),
        "quantiles": queries.quantiles(scope),
        "histogram": queries.histogram(
            scope, [("output_tokens", "output_tokens + IFNULL(thoughts_tokens, 0)"), *numbers]
        ),
        "latency": queries.latency(scope),
        "services": queries.by_service(scope),
        "last_run": queries.last_run_with_rows(scope),
        "reasons": queries.reasons(scope),
        "examples": queries.examples(scope),
        "rows": queries.sample(scope, rows),
    }
    if queries.has_values(scope.questions):
        wanted["values"] = queries.values(scope, scope.questions)
    if scope.has_places:
        wanted["places"] = queries.places(scope)
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        books_of_newest = pool.submit(_books, scope)
        found = _all(pool, scope, wanted)
        later: dict[str, Query] = {}
        step = _step(found["last_run"])
        if step:
            later["throughput"] = queries.throughput(scope, found["last_run"][0]["run_id"], step)
        bounds = found["places"][0] if scope.has_places else {"located": 0}
        said = _different(found, map_by)
        cells = _cells(bounds["located"], said)
        if bounds["located"]:
            each = queries.MAX_SPOTS if cells is None else queries.MAX_SPOTS // min(said, COLOURS + 1)
            later["spots"] = queries.spots(scope, queries.said(scope, map_by), _cell(bounds, cells), each)
        found |= _all(pool, scope, later)
    histograms = _histograms(found["histogram"])
    counted = books_of_newest.result()
    runs = [_run(run_id, lines) for run_id, lines in list(scope.runs.items())[:_MAX_RUNS]]
    if counted is not None and runs[0].answered is None:  # it still runs, or nobody has written its end
        runs[0] = dataclasses.replace(
            runs[0],
            answered=counted.answered,
            failed=counted.failed,
            not_asked=counted.not_asked,
            cost_usd=counted.cost_usd,
        )
    return Facts(
        scope=scope,
        made_at=datetime.datetime.now(datetime.UTC),
        totals=found["totals"][0],
        books=counted,
        runs=tuple(runs),
        runs_left_out=max(0, len(scope.runs) - _MAX_RUNS),
        labels=tuple(Value(line["label"], line["answers"]) for line in found["labels"]),
        questions=_questions(scope.questions, found.get("values", []), histograms),
        measures={line["measure"]: line for line in found["quantiles"]},
        latency=_latency(found["latency"]),
        output_tokens=histograms.get("output_tokens", Histogram(())),
        services=tuple(found["services"]),
        throughput=_throughput(found["last_run"], found.get("throughput", []), step),
        reasons=_reasons(found["reasons"], found["examples"]),
        map=_map(map_by or _label_question(scope), bounds["located"], cells, found.get("spots", [])),
        rows=tuple(sorted(found["rows"], key=lambda row: (row["classified_at"], row["key"]))),
    )


def _all(pool: ThreadPoolExecutor, scope: Scope, wanted: Mapping[str, Query]) -> dict[str, list[dict[str, Any]]]:
    def ask(query: Query) -> list[dict[str, Any]]:
        with explained("--output_table", scope.answers):
            return run(scope.endpoint, query)

    asked = {name: pool.submit(ask, query) for name, query in wanted.items()}
    return {name: future.result() for name, future in asked.items()}


def _books(scope: Scope) -> books.Books | None:
    """The books of the newest run, counted anew; None where its worklist has expired."""
    from google.api_core.exceptions import NotFound

    run_id, lines = next(iter(scope.runs.items()))
    started = started_line(lines)
    if not started["worklist"]:
        return None
    try:
        return books.audit(
            scope.endpoint,
            worklist=TableName.parse(started["worklist"], "the run's worklist"),
            answers=scope.answers,
            failures=scope.failures,
            run_id=run_id,
            since=started["at"],
        )
    except NotFound:
        return None


def _run(run_id: str, lines: Sequence[Row]) -> RunFacts:
    started, ended = started_line(lines), end_line(lines) or {}
    jobs = [line["options"].get("dataflow_job") for line in lines if isinstance(line.get("options"), dict)]
    return RunFacts(
        run_id=run_id,
        state=str(ended.get("state") or started["state"]),
        reason=ended.get("reason"),
        started_at=started["at"],
        secs=ended.get("secs"),
        rows=started["worklist_rows"] if started["worklist_rows"] is not None else ended.get("worklist_rows"),
        answered=ended.get("answered"),
        failed=ended.get("failed"),
        not_asked=ended.get("not_asked"),
        cost_usd=ended.get("cost_usd"),
        images_per_sec=ended.get("images_per_sec"),
        dataflow_job=next((job for job in jobs if job), None),
    )


def _questions(
    asked: Sequence[Question], lines: Sequence[Row], histograms: Mapping[str, Histogram]
) -> tuple[QuestionFacts, ...]:
    found = []
    for question in asked:
        mine = [line for line in lines if line["question"] == question.name]
        shown = mine[:_MAX_TEXTS] if question.kind == "string" else mine
        if question.kind == "integer":
            shown = sorted(shown, key=lambda line: float(line["value"] or "inf"))
        values = tuple(Value(line["value"], line["answers"]) for line in shown)
        others = (mine[0]["others"] - len(shown)) if mine else 0
        said = {value.text for value in values}
        unsaid = tuple(label for label in question.labels if label not in said) if not others else ()
        found.append(QuestionFacts(question, values, others, unsaid, histograms.get(question.name)))
    return tuple(found)


def _histograms(lines: Sequence[Row]) -> dict[str, Histogram]:
    bins: dict[str, list[tuple[float, float, int]]] = {}
    for line in lines:
        low, high = line["low"], line["high"]
        width = (high - low) / queries.BINS
        start = low + width * line["place"]
        bins.setdefault(line["measure"], []).append((start, start + width, line["answers"]))
    return {measure: Histogram(tuple(found)) for measure, found in bins.items()}


def _latency(lines: Sequence[Row]) -> Histogram:
    per = queries.BINS_PER_DECADE
    bins = tuple((10 ** (line["place"] / per), 10 ** ((line["place"] + 1) / per), line["answers"]) for line in lines)
    return Histogram(bins, is_log=True)


def _step(last_run: Sequence[Row]) -> int:
    """Seconds of a step of the throughput's axis; 0 where no run has written anything."""
    if not last_run:
        return 0
    secs = (last_run[0]["last_at"] - last_run[0]["first_at"]).total_seconds()
    return next((step for step in _STEPS_SECS if secs / step <= _MAX_STEPS), _STEPS_SECS[-1])


def _throughput(last_run: Sequence[Row], lines: Sequence[Row], step_secs: int) -> Throughput | None:
    if not lines:
        return None
    by_step = {line["step"]: line for line in lines}
    steps = []
    for step in range(min(by_step), max(by_step) + 1):
        line = by_step.get(step, {"answers": 0, "failures": 0})
        start = datetime.datetime.fromtimestamp(step * step_secs, datetime.UTC)
        steps.append((start, line["answers"], line["failures"]))
    return Throughput(last_run[0]["run_id"], step_secs, tuple(steps))


def _reasons(lines: Sequence[Row], examples: Sequence[Row]) -> tuple[Reason, ...]:
    return tuple(
        Reason(
            line["reason"],
            bool(line["retryable"]),
            line["failed"],
            line["cost_usd"],
            tuple(example for example in examples if example["reason"] == line["reason"]),
        )
        for line in lines
    )


def _label_question(scope: Scope) -> str:
    """What the label is the answer to: the task's first question with labels."""
    return next((each.name for each in scope.questions if each.kind == "label"), "label")


def _different(found: Mapping[str, Sequence[Row]], map_by: str | None) -> int:
    """How many different things the map's colours have to tell apart, at least 1."""
    if map_by is None:
        return max(1, len(found["labels"]))
    different: list[int] = [line["others"] for line in found.get("values", ()) if line["question"] == map_by]
    return max([1, *different])


def _cells(located: int, said: int) -> int | None:
    """Cells along the longer side, so many that the spots suffice where every cell has answers; None: no cells."""
    if located <= queries.EXACT_PLACES:
        return None
    # A cell seldom holds more than a few of the different labels.
    return round(math.sqrt(queries.MAX_SPOTS / min(said, _LABELS_A_CELL)))


def _cell(bounds: Row, cells: int | None) -> tuple[float, float]:
    """Height and width of a map's cell in degrees; square on the ground."""
    if cells is None:
        return (1e-7, 1e-7)  # a centimetre: each place has its own
    tall, wide = bounds["north"] - bounds["south"], bounds["east"] - bounds["west"]
    shrink = max(math.cos(math.radians((bounds["north"] + bounds["south"]) / 2)), 0.01)
    height = max(tall, wide * shrink, 1e-6) / cells
    return (height, height / shrink)


def _map(coloured_by: str, located: int, cells: int | None, lines: Sequence[Row]) -> Map | None:
    if not lines:
        return None
    spots = tuple(
        Spot(line["said"], line["latitude"], line["longitude"], line["answers"], line["total"]) for line in lines
    )
    return Map(coloured_by, located, cells, spots)
