"""Two ways of asking the same images: which is better, whether that is more than noise, and what each costs. Pure."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from pipeline.evaluation import figures
from pipeline.evaluation.figures import Interval, Paired
from pipeline.evaluation.judging import ALL, Outcome, right_rows
from pipeline.evaluation.report import Report
from pipeline.evaluation.truth import Truth
from pipeline.task import Task
from pipeline.task.values import Number


@dataclasses.dataclass(frozen=True, slots=True)
class Side:
    """One of the two: its report and what the report was made of."""

    report: Report
    task: Task
    truth: Truth
    outcomes: Sequence[Outcome]


@dataclasses.dataclass(frozen=True, slots=True)
class PairedErrors:
    """Errors of a number by two ways of asking, over the `rows` where both said one: B's absolute error less A's.

    `p_value` is of a permutation test of the mean, adjusted like those of the other questions; `better` as in `Paired`.
    """

    question: str
    rows: int
    difference: Interval
    p_value: float
    p_adjusted: float
    better: str | None


_Test = TypeVar("_Test", Paired, PairedErrors)


@dataclasses.dataclass(frozen=True, slots=True)
class Comparison:
    """A and B on the rows that both were asked about.

    Attributes:
        tests: a line for whole rows (`all`) where there is more than one question, and one for each question.
        errors: one for each question of type number.
        price_ratio: dollars of B by dollars of A; None where they are not known.
    """

    a: str
    b: str
    rows: int
    tests: tuple[Paired, ...]
    errors: tuple[PairedErrors, ...]
    price_ratio: float | None

    def as_json(self) -> dict[str, Any]:
        """All of it, JSON-able."""
        return dataclasses.asdict(self)


def compare(a: Side, b: Side) -> Comparison:
    """Test two ways of asking on the same images; rows without an answer count as wrong, for either."""
    names = [name for name in a.truth.questions if name in b.truth.questions]
    rights = [right_rows(side.task, side.truth.only(names), side.outcomes) for side in (a, b)]
    keys = [key for key in rights[0] if key in rights[1]]
    tests = [test for name in (*_all(names), *names) if (test := _paired(name, keys, *rights)) is not None]
    errors = [error for name in names if (error := _errors(name, a, b)) is not None]
    corrected = figures.holm([*(test.p_value for test in tests), *(error.p_value for error in errors)])
    costs = a.report.usd_per_row, b.report.usd_per_row
    return Comparison(
        a=a.report.name,
        b=b.report.name,
        rows=len({each.key for each in a.outcomes} & {each.key for each in b.outcomes}),
        tests=tuple(map(_settled, tests, corrected)),
        errors=tuple(map(_settled, errors, corrected[len(tests) :])),
        price_ratio=costs[1] / costs[0] if costs[0] and costs[1] is not None else None,
    )


def sentences(found: Comparison) -> list[str]:
    """What the tests say, a line each, for people."""
    lines = [_said(found, test) for test in found.tests]
    for test in found.errors:
        which = {"a": found.a, "b": found.b}.get(test.better or "")
        by = f"by {abs(test.difference.value):.3g} on average"
        says = f"{which} errs less, {by}, more than noise" if which else "no difference that is more than noise"
        lines.append(
            f"{test.question}: {says} ({test.rows:,} rows where both said a number; p = {test.p_adjusted:.2g})"
        )
    ratio = found.price_ratio
    lines.append(
        "price: not known" if ratio is None else f"price: {found.b} costs {ratio:.2f} times what {found.a} costs"
    )
    return lines


def _said(found: Comparison, test: Paired) -> str:
    name = "whole rows" if test.question == ALL else test.question
    counts = f"{test.only_b:,} rows right by {found.b} alone, {test.only_a:,} by {found.a} alone, of {test.rows:,}"
    if test.better is None:
        return f"{name}: no difference that is more than noise ({counts}; p = {test.p_adjusted:.2g})"
    which = found.a if test.better == "a" else found.b
    points = f"{100 * abs(test.difference.value):.1f} points"
    return f"{name}: {which} is better by {points}, more than noise ({counts}; p = {test.p_adjusted:.2g})"


def _all(names: Sequence[str]) -> tuple[str, ...]:
    return (ALL,) if len(names) > 1 else ()


def _paired(
    name: str, keys: Sequence[str], a: Mapping[str, Mapping[str, bool]], b: Mapping[str, Mapping[str, bool]]
) -> Paired | None:
    mine = [key for key in keys if name in a[key] and name in b[key]]
    if not mine:
        return None
    return figures.paired(name, [a[key][name] for key in mine], [b[key][name] for key in mine])


def _errors(name: str, a: Side, b: Side) -> PairedErrors | None:
    if not isinstance(a.task.questions[name], Number) or not isinstance(b.task.questions[name], Number):
        return None
    ours, theirs = _absolute(name, a), _absolute(name, b)
    keys = [key for key in ours if key in theirs]
    differences = [theirs[key] - ours[key] for key in keys]
    difference = figures.mean(differences)
    if difference is None:
        return None
    p_value = figures.sign_flips(differences)
    return PairedErrors(name, len(keys), difference, p_value, p_value, None)


def _absolute(name: str, side: Side) -> dict[str, float]:
    found = {}
    for outcome in side.outcomes:
        true = side.truth.rows[outcome.key].get(name)
        said = None if outcome.values is None else outcome.values.get(name)
        if true is not None and said is not None:
            found[outcome.key] = abs(said - true)
    return found


def _settled(test: _Test, p_adjusted: float) -> _Test:
    """The test with its adjusted p-value, and what follows for which is better."""
    better = None
    if p_adjusted < 1 - figures.CONFIDENCE:
        gain = test.difference.value if isinstance(test, Paired) else -test.difference.value
        better = "b" if gain > 0 else "a"
    return dataclasses.replace(test, p_adjusted=p_adjusted, better=better)
