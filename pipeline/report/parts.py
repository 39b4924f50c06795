"""What stands where on the page, in which words. Pure: the template escapes it all."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from pipeline.report import charts, words
from pipeline.report.facts import Facts
from pipeline.report.mapping import MapChart

_MAX_LABELS = 200  # of the table's filter
_MANY_FAILED = 0.01  # shown in red: the default of --max_failure_ratio
_MEASURES = (
    ("latency", "latency_ms", words.millis),
    ("input tokens", "prompt_tokens", words.plain),
    ("output tokens", "output_tokens", words.plain),
    ("thinking tokens", "thoughts_tokens", words.plain),
    ("cost", "cost_usd", words.usd),
    ("attempts", "attempts", words.plain),
)
_NOT_SETTINGS = ("prompt", "system_instruction", "questions", "format")


class Column(NamedTuple):
    """A column of the table of answers."""

    name: str
    is_number: bool = False
    is_whole: bool = False  # never broken into lines


class Cell(NamedTuple):
    """What stands in a cell, and what it is sorted by; None is null."""

    text: str | None
    value: float | str = ""


def standing(facts: Facts) -> dict[str, Any]:
    """The books of what is reported: of one run as `audit` counts them, else of everything asked so far."""
    newest = facts.books
    not_asked, stray = (newest.not_asked, newest.stray) if newest else (facts.runs[0].not_asked or 0, 0)
    answered, failed = facts.answered, facts.failed
    if facts.scope.run_id is not None and newest is not None:
        answered, failed = newest.answered, newest.failed
    rows = facts.totals["keys"] + not_asked
    if facts.scope.run_id is not None:
        rows = newest.rows if newest else facts.runs[0].rows or 0
        note = "Distinct keys of the run's worklist, counted by SQL; where a key is answered and failed, the answer counts."
    elif newest is None:
        note = "Distinct keys of all runs. The newest run's worklist has expired, so its own line tells what it did not ask."
    else:
        note = (
            "Distinct keys of all runs of this question, counted by SQL; not asked are those that the newest run left."
        )
    balances = rows == answered + failed + not_asked and not stray
    if newest is not None:
        balances = balances and newest.rows == newest.answered + newest.failed + newest.not_asked
    return {
        "rows": rows,
        "answered": answered,
        "failed": failed,
        "not_asked": not_asked,
        "stray": stray,
        "balances": balances,
        "note": note,
        "parts": [("answered", answered, "--accent"), ("failed", failed, "--bad"), ("not asked", not_asked, "--idle")],
    }


def tiles(facts: Facts) -> list[dict[str, str]]:
    totals, standing_now = facts.totals, standing(facts)
    asked = standing_now["answered"] + standing_now["failed"]
    failed_share = standing_now["failed"] / asked if asked else 0.0
    cost = _cost(facts)
    latency = facts.measures.get("latency_ms")
    per_1000 = None if cost is None or not facts.answered else 1000 * cost / facts.answered
    timed = next((run for run in facts.runs if run.images_per_sec), None)
    rows = "in the newest run that ended" if timed else "no run has ended"
    slowest = f"99 % within {words.millis(latency['p99'])}" if latency else "no answers"
    share = words.percent(1 - failed_share if asked else None)
    return [
        _tile("Answered", words.count(standing_now["answered"]), f"{share} of those asked"),
        _tile(
            "Failed",
            words.count(standing_now["failed"]),
            words.percent(failed_share),
            "bad" if failed_share > _MANY_FAILED else "",
        ),
        _tile("Spent", words.usd(cost), f"{words.usd(per_1000)} for 1,000 answers"),
        _tile(
            "Tokens", words.count(totals["total_tokens"]), f"{words.count(_by(totals['total_tokens'], asked))} a row"
        ),
        _tile("Median latency", words.millis(latency["p50"] if latency else None), slowest),
        _tile("Images a second", words.rate(timed.images_per_sec if timed else None), rows),
    ]


def _tile(what: str, value: str, note: str, tone: str = "") -> dict[str, str]:
    return {"what": what, "value": value, "note": note, "tone": tone}


def _cost(facts: Facts) -> float | None:
    """Dollars of everything that was written; None where a price was not known."""
    lines = facts.totals["answer_lines"] + facts.totals["failure_lines"]
    if lines == 0:
        return 0.0
    return facts.totals["cost_usd"] if facts.totals["priced"] else None


def _by(total: float | None, count: int) -> float | None:
    return None if total is None or not count else total / count


def question_charts(facts: Facts) -> dict[str, charts.Chart | None]:
    return {
        each.question.name: charts.histogram(
            each.histogram, f"How many answers say which {each.question.name}", each.question.name, words.plain
        )
        for each in facts.questions
        if each.histogram is not None
    }


def map_summary(facts: Facts) -> str:
    assert facts.map is not None  # noqa: S101 - asked for only where there is one
    return (
        f"Map of {facts.map.shown:,} answers, coloured by {facts.map.coloured_by}; the table below has them row by row"
    )


def map_note(facts: Facts, drawn: MapChart | None) -> str:
    if drawn is None or facts.map is None:
        return ""
    size = f"{drawn.width_km:,.1f} km" if drawn.width_km < 100 else f"{drawn.width_km:,.0f} km"
    parts = [f"{facts.map.located:,} answers with a place; the map is {size} wide, north is up."]
    if facts.map.cells is None:
        parts.append("A larger circle is several answers at one place.")
    else:
        parts.append("Neighbours that say the same are one circle, the larger the more they are.")
    if facts.map.shown < facts.map.located:
        parts.append(f"The {facts.map.located - facts.map.shown:,} answers of the smallest circles are left out.")
    return " ".join(parts)


def spend(facts: Facts) -> list[tuple[str, str]]:
    totals, cost = facts.totals, _cost(facts)
    lines = [
        ("All calls", words.usd(cost)),
        ("1,000 answers", words.usd(None if cost is None or not facts.answered else 1000 * cost / facts.answered)),
        ("Rows that failed", words.usd(totals["failures_usd"] or (0.0 if cost is not None else None))),
        ("Input tokens", words.count(totals["prompt_tokens"])),
        ("Output tokens", words.count(totals["output_tokens"])),
        ("Thinking tokens", words.count(totals["thoughts_tokens"])),
        ("Answers that took a second call", words.count(totals["asked_again"])),
    ]
    again = totals["answer_lines"] - totals["answered"]
    if again:
        lines.append(("Keys answered once more", words.count(again)))
    unpriced = totals["answer_lines"] + totals["failure_lines"] - totals["priced"]
    if unpriced:
        lines.append(("Rows without a known price", words.count(unpriced)))
    return lines


def measures(facts: Facts) -> list[tuple[str, list[str]]]:
    found = []
    for name, column, show in _MEASURES:
        line = facts.measures.get(column)
        if line:
            found.append((name, [show(line[each]) for each in ("mean", "p50", "p90", "p99", "largest")]))
    return found


def time_charts(facts: Facts) -> list[tuple[str, charts.Chart | None, str]]:
    """(title, chart, note) of the section about time."""
    found: list[tuple[str, charts.Chart | None, str]] = []
    if facts.latency.bins:
        in_secs = type(facts.latency)(
            tuple((low / 1000, high / 1000, n) for low, high, n in facts.latency.bins), is_log=True
        )
        drawn = charts.histogram(
            in_secs, "How long calls took", "seconds from the call to its answer, logarithmic", words.secs
        )
        found.append(("Latency", drawn, ""))
    if facts.output_tokens.bins:
        drawn = charts.histogram(facts.output_tokens, "Tokens of an answer", "output and thinking tokens", words.plain)
        same = words.plain(facts.output_tokens.bins[0][0])
        found.append(("Output tokens", drawn, "" if drawn else f"Every answer has {same}."))
    if facts.throughput is not None:
        drawn = charts.throughput(facts.throughput, "Rows answered and failed a second, over time")
        steps = words.time(facts.throughput.step_secs)
        note = f"Rows written by {facts.throughput.run_id}, in steps of {steps}; failures in red."
        found.append(
            ("Throughput", drawn, note if drawn else f"All rows of {facts.throughput.run_id} were written at once.")
        )
    return found


def rows_note(facts: Facts) -> str:
    shown = len(facts.rows)
    if not shown:
        return "There are no answers yet."
    if shown == facts.answered:
        return f"All {shown:,} answers."
    per_label = "of each label as many as there is room for, " if len(facts.labels) > 1 else ""
    return (
        f"{shown:,} of {facts.answered:,} answers, {per_label}a random choice that stays the same. "
        f"All are in {facts.scope.answers}_latest; --rows=N shows more here."
    )


def row_labels(facts: Facts) -> list[str]:
    found = list(dict.fromkeys(row["label"] or "" for row in facts.rows))
    return sorted(found)[:_MAX_LABELS] if len(found) > 1 else []


def columns(facts: Facts) -> list[Column]:
    asked = [each.question for each in facts.questions]
    said = [Column(each.name, each.kind in ("integer", "number")) for each in asked] or [Column("answer")]
    kind = [Column("asset type")] if "asset_type" in facts.scope.columns else []
    return [
        Column("key"),
        *said,
        *kind,
        Column("latency", True),
        Column("tokens", True),
        Column("cost", True),
        Column("answered (UTC)", is_whole=True),
    ]


def table(facts: Facts) -> list[tuple[Mapping[str, Any], list[Cell]]]:
    return [(row, _cells(facts, row)) for row in facts.rows]


def _cells(facts: Facts, row: Mapping[str, Any]) -> list[Cell]:
    """The cells of a row but for its key, in the order of `_columns`."""
    cells = []
    if facts.questions:
        said = json.loads(row["answer"]) if row["answer"] else {}
        said = said if isinstance(said, dict) else {}
        for each in facts.questions:
            value = said.get(each.question.name)
            number = float(value) if isinstance(value, int | float) and not isinstance(value, bool) else ""
            cells.append(Cell(words.value_text(value), number))
    else:
        cells.append(Cell(row["text"]))
    if "asset_type" in facts.scope.columns:
        kind = row["asset_type"]
        cells.append(Cell(kind.removeprefix("ASSET_CLASS_").lower().replace("_", " ") if kind else None))
    cells += [
        Cell(words.millis(row["latency_ms"]), row["latency_ms"] or ""),
        Cell(words.count(row["total_tokens"]), row["total_tokens"] or ""),
        Cell(words.usd(row["cost_usd"]), "" if row["cost_usd"] is None else row["cost_usd"]),
        Cell(f"{row['classified_at']:%Y-%m-%d %H:%M:%S}"),
    ]
    return cells


def settings(facts: Facts) -> list[tuple[str, str]]:
    """The settings of the question, but for those that stand elsewhere on the page."""
    return [
        (name, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)[:2000])
        for name, value in facts.scope.settings.items()
        if name not in _NOT_SETTINGS
    ]
