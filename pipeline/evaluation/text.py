"""The figures as tables for the terminal. Pure: (title, heads, rows) triples."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from pipeline.evaluation.comparison import Comparison
from pipeline.evaluation.figures import Calibration, Interval
from pipeline.evaluation.judging import ALL, class_of
from pipeline.evaluation.report import NO_ANSWER, QuestionReport, Report

Table = tuple[str, Sequence[str], Sequence[Sequence[str]]]

_DISAGREEMENTS = 10
_MISTAKES = 15
_GAP = 2  # between two columns


def tables(report: Report, width: int) -> Iterator[Table]:
    """All tables of a report, that of accuracies first where there are some, for a terminal of so many characters a line."""
    if any(question.accuracy is not None for question in report.questions):
        yield _questions(report)
    for question in report.questions:
        if question.classes:
            yield _classes(question)
        if len(question.confusion) > 1:
            matrix = _confusion(question)
            yield matrix if _width(matrix) <= width else _mistakes(question)
    numbers = [question for question in report.questions if question.numbers is not None]
    if numbers:
        yield _numbers(numbers)
    for each in report.calibration:
        yield _calibration(each)


def notes(report: Report) -> list[str]:
    """What is to be said beside the tables, a line each."""
    lines = [f"{report.name}: {report.rows:,} labelled rows, {report.answered:,} answered, {_money(report)}"]
    if report.without_answer:
        missing = ", ".join(f"{count:,} {reason}" for reason, count in report.without_answer.items())
        lines.append(f"{report.rows - report.answered:,} rows without an answer count as wrong: {missing}")
    if report.not_in_input:
        lines.append(
            f"{report.not_in_input:,} labelled keys are not in the input, or left out by --where: they do not count"
        )
    if report.not_asked:
        lines.append(f"{report.not_asked:,} labelled rows were not asked and do not count")
    if report.shown_before:
        lines.append(
            f"warning: {report.shown_before:,} labelled rows are examples of task {report.task}, which shows the model "
            "their answers: take them out of one of the two"
        )
    if report.not_scored:
        lines.append(f"labelled, but boxes have no score: {', '.join(report.not_scored)}")
    return lines


def disagreements(report: Report) -> list[str]:
    """The worst rows, two lines each: what was said for what is true, and the image. Lines, so that URIs stay whole."""
    shown = report.disagreements[:_DISAGREEMENTS]
    if not shown:
        return []
    lines = [f"the worst {len(shown)} of {len(report.disagreements):,} disagreements, what was said for what is true:"]
    for each in shown:
        differs = "; ".join(
            f"{name}: {_value(pair['said'])} for {_value(pair['true'])}" for name, pair in each.differs.items()
        )
        lines += [f"  {each.key}  {differs}", f"    {each.uri or ''}"]
    return lines


def comparison_table(found: Comparison) -> Table:
    """The paired tests of two ways of asking."""
    rows = [
        (
            "whole rows" if test.question == ALL else test.question,
            *(f"{count:,}" for count in (test.rows, test.both, test.only_a, test.only_b, test.neither)),
            _points(test.difference),
            f"{test.p_adjusted:.2g}",
        )
        for test in found.tests
    ]
    heads = ("question", "rows", "both", found.a, found.b, "neither", "points (95 %)", "p (Holm)")
    return (
        f"The same rows asked in two ways: right by both, by {found.a} alone, by {found.b} alone, by neither",
        heads,
        rows,
    )


def _questions(report: Report) -> Table:
    rows = [
        (each.name, each.kind, f"{each.rows:,}", f"{each.right:,}", _share(each.accuracy), _dollars(each.usd_per_right))
        for each in report.questions
        if each.accuracy is not None
    ]
    if len(rows) > 1 and report.all_right is not None:
        dollars = _dollars(report.usd_per_right)
        share = _share(report.all_right)
        rows.append(("whole rows", "", f"{report.judged:,}", f"{report.right:,}", share, dollars))
    heads = ("question", "type", "rows", "right", "accuracy (95 %)", "$ per 1,000 right")
    return f"Accuracy of {report.name}", heads, rows


def _classes(question: QuestionReport) -> Table:
    rows = [
        (
            each.label,
            f"{each.true:,}",
            f"{each.said:,}",
            *(_share(x, 2) for x in (each.precision, each.recall, each.f1)),
        )
        for each in question.classes
    ]
    return question.name, ("class", "true", "said", "precision (95 %)", "recall (95 %)", "F1 (95 %)"), rows


def _confusion(question: QuestionReport) -> Table:
    labels = [each.label for each in question.classes]
    said = [*labels, NO_ANSWER]
    used = [place for place in range(len(said)) if any(line[place] for line in question.confusion)]
    rows = [
        (label, *(f"{line[place]:,}" if line[place] else "" for place in used))
        for label, line in zip(labels, question.confusion, strict=True)
    ]
    return f"{question.name}: true (down) and said (across)", ("", *(said[place] for place in used)), rows


def _width(table: Table) -> int:
    """Characters of a line of a table that is not folded."""
    _, heads, rows = table
    return sum(max(map(len, column)) + _GAP for column in zip(heads, *rows, strict=True)) - _GAP


def _mistakes(question: QuestionReport) -> Table:
    """The confusion matrix as a list, for more labels than stand beside each other: what was taken for what, how often."""
    labels = [each.label for each in question.classes]
    found = [
        (count, true, said)
        for true, line in zip(labels, question.confusion, strict=True)
        for said, count in zip([*labels, NO_ANSWER], line, strict=True)
        if count and true != said
    ]
    found.sort(key=lambda each: -each[0])
    rows = [(true, said, f"{count:,}") for count, true, said in found[:_MISTAKES]]
    rest = sum(count for count, _, _ in found[_MISTAKES:])
    more = f"; {rest:,} more rows in --json" if rest else ""
    return f"{question.name}: what was taken for what, most often first{more}", ("true", "said", "rows"), rows


def _numbers(questions: list[QuestionReport]) -> Table:
    rows = []
    for question in questions:
        found = question.numbers
        if found is not None:
            worst = "" if found.worst is None else f"{found.worst:g}"
            nulls = f"{found.null_said:,}", f"{found.null_true:,}"
            rows.append((question.name, f"{found.rows:,}", _number(found.mae), _number(found.bias), worst, *nulls))
    heads = ("number", "rows", "abs. error (95 %)", "bias (95 %)", "worst", "missed", "invented")
    return "Errors, said less true", heads, rows


def _calibration(found: Calibration) -> Table:
    rows = [
        (f"{each.low:.1f}-{each.high:.1f}", f"{each.rows:,}", f"{each.confidence:.2f}", f"{each.right:.2f}")
        for each in found.bins
    ]
    of = "the whole row" if found.of == ALL else found.of
    title = f"{found.confidence} of {of}: Brier {found.brier:.3f}, expected error {found.expected_error:.3f}"
    return title, ("confidence", "rows", "mean", "right"), rows


def _money(report: Report) -> str:
    if report.cost_usd is None:
        return "price not known: --price_usd_per_mtok=IN,OUT prices what is asked from then on"
    right = "" if report.usd_per_right is None else f", ${report.usd_per_right:,.6f} per row that is right in all"
    return f"${report.cost_usd:,.4f} paid for them so far{right}"


def _value(value: Any) -> str:
    """A value as the task file would have it."""
    return class_of(value) if value is None or isinstance(value, bool) else repr(value)


def _share(found: Interval | None, digits: int = 3) -> str:
    if found is None:
        return ""
    bounds = "" if found.low is None or found.high is None else f" ({found.low:.{digits}f}-{found.high:.{digits}f})"
    return f"{found.value:.{digits}f}{bounds}"


def _number(found: Interval | None) -> str:
    if found is None:
        return ""
    half = "" if found.high is None else f" ± {found.high - found.value:.2g}"
    return f"{found.value:.3g}{half}"


def _points(found: Interval) -> str:
    bounds = "" if found.low is None or found.high is None else f" ({100 * found.low:+.1f}, {100 * found.high:+.1f})"
    return f"{100 * found.value:+.1f}{bounds}"


def _dollars(each: float | None) -> str:
    return "" if each is None else f"{1000 * each:,.4f}"
