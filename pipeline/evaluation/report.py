"""From true answers and outcomes to the figures of one way of asking. Pure."""

from __future__ import annotations

import collections
import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.evaluation import figures
from pipeline.evaluation.figures import Calibration, ClassFigures, Interval
from pipeline.evaluation.judging import ALL, Outcome, class_of, confidences, right_rows, row_is_right, scored, sureness
from pipeline.evaluation.truth import Truth
from pipeline.task import Task
from pipeline.task.labels import Label, LabelSet
from pipeline.task.values import Boolean, Integer, Number

NO_ANSWER = "(no answer)"
_MAX_DISAGREEMENTS = 1000


@dataclasses.dataclass(frozen=True, slots=True)
class NumberFigures:
    """Errors of a number, said less true, over the `rows` where both are numbers.

    Attributes:
        mae: mean absolute error.
        bias: mean error; above 0 where too much is said.
        worst: largest absolute error.
        null_said: rows where null was said and a number is true.
        null_true: rows where a number was said and null is true.
    """

    rows: int
    mae: Interval | None
    bias: Interval | None
    worst: float | None
    null_said: int
    null_true: int


@dataclasses.dataclass(frozen=True, slots=True)
class QuestionReport:
    """One question's figures.

    Attributes:
        kind: the question's type.
        rows: labelled rows, those without an answer included: they are wrong.
        right: of these, right ones.
        accuracy: share right; None for a number, which has errors instead.
        classes: of a label, a boolean or labels.
        confusion: of a label or a boolean: counts by true class, in the order of `classes`, and said class, in that
            order with `NO_ANSWER` last.
        numbers: of an integer or a number.
        usd_per_right: dollars of these rows by right ones; None where nothing was right, or a price not known.
    """

    name: str
    kind: str
    rows: int
    right: int
    accuracy: Interval | None
    classes: tuple[ClassFigures, ...]
    confusion: tuple[tuple[int, ...], ...]
    numbers: NumberFigures | None
    usd_per_right: float | None


@dataclasses.dataclass(frozen=True, slots=True)
class Disagreement:
    """A row whose answer is not the labels': what was said and what is true, for each question that differs."""

    key: str
    uri: str | None
    differs: Mapping[str, Mapping[str, Any]]


@dataclasses.dataclass(frozen=True, slots=True)
class Report:
    """How right one way of asking is.

    Attributes:
        rows: labelled rows that were asked.
        answered: of these, answered.
        judged: of these, such as have a label for a question with an accuracy.
        right: of these, right in every such question.
        without_answer: the others by reason; they count as wrong.
        not_in_input: labelled keys that the input does not have; they do not count.
        not_asked: labelled rows that were not asked, for want of budget; they do not count.
        all_right: `right` of `judged`.
        cost_usd: what was paid for these rows, in this run or before; None where a price was not known.
        usd_per_right: dollars of judged rows by those that are right in every question.
        disagreements: worst first: most questions wrong, then surest, then largest error of numbers.
        not_scored: labelled questions of a type that has no score.
        shown_before: rows whose image is one of the task's own examples; they count, and should not.
    """

    name: str
    task: str
    fingerprint: str
    model: str
    rows: int
    answered: int
    judged: int
    right: int
    without_answer: Mapping[str, int]
    not_in_input: int
    not_asked: int
    all_right: Interval | None
    cost_usd: float | None
    usd_per_row: float | None
    usd_per_right: float | None
    questions: tuple[QuestionReport, ...]
    calibration: tuple[Calibration, ...]
    disagreements: tuple[Disagreement, ...]
    not_scored: tuple[str, ...] = ()
    shown_before: int = 0

    def question(self, name: str) -> QuestionReport:
        """The figures of one question."""
        return next(each for each in self.questions if each.name == name)

    def as_json(self) -> dict[str, Any]:
        """All of it, JSON-able."""
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True, slots=True)
class Asked:
    """What was asked, and of whom: the head of a report."""

    name: str
    task: Task
    fingerprint: str
    model: str


def make(
    asked: Asked, truth: Truth, outcomes: Sequence[Outcome], *, not_in_input: int = 0, not_asked: int = 0
) -> Report:
    """The figures of one way of asking.

    Args:
        asked: what was asked.
        truth: the true answers.
        outcomes: one for each labelled row that was asked.
        not_in_input: labelled keys that the input does not have.
        not_asked: labelled rows that were not asked.
    """
    task = asked.task
    names = scored(task, truth)
    rights = right_rows(task, truth, outcomes)
    cost = _cost(outcomes)
    all_right = sum(right[ALL] for right in rights.values())
    missing = collections.Counter(outcome.reason or "unknown" for outcome in outcomes if outcome.values is None)
    return Report(
        name=asked.name,
        task=task.name,
        fingerprint=asked.fingerprint,
        model=asked.model,
        rows=len(outcomes),
        answered=sum(outcome.values is not None for outcome in outcomes),
        judged=len(rights),
        right=all_right,
        without_answer=dict(missing.most_common()),
        not_in_input=not_in_input,
        not_asked=not_asked,
        all_right=figures.share(all_right, len(rights)),
        cost_usd=cost,
        usd_per_row=_by(cost, len(outcomes)),
        usd_per_right=_by(_cost([outcome for outcome in outcomes if outcome.key in rights]), all_right),
        questions=tuple(_question(task, name, truth, outcomes) for name in names),
        calibration=tuple(_calibrations(task, outcomes, rights)),
        disagreements=tuple(_disagreements(task, names, truth, outcomes)),
        not_scored=tuple(name for name in truth.questions if name not in names),
        shown_before=sum(outcome.uri in {example.image for example in task.examples} for outcome in outcomes),
    )


def _cost(outcomes: Sequence[Outcome]) -> float | None:
    costs = [outcome.cost_usd for outcome in outcomes]
    return None if None in costs else math.fsum(each for each in costs if each is not None)


def _by(dollars: float | None, count: int) -> float | None:
    return None if dollars is None or count == 0 else dollars / count


def _question(task: Task, name: str, truth: Truth, outcomes: Sequence[Outcome]) -> QuestionReport:
    question = task.questions[name]
    mine = [outcome for outcome in outcomes if name in truth.rows[outcome.key]]
    right = sum(row_is_right(task, name, truth.rows[outcome.key], outcome) for outcome in mine)
    true = [truth.rows[outcome.key][name] for outcome in mine]
    said = [NO_ANSWER if outcome.values is None else outcome.values.get(name) for outcome in mine]
    classes: tuple[ClassFigures, ...] = ()
    confusion: tuple[tuple[int, ...], ...] = ()
    if isinstance(question, Label | Boolean):
        classes, confusion = _single(question, [class_of(each) for each in true], [class_of(each) for each in said])
    elif isinstance(question, LabelSet):
        classes = _several(question, true, said)
    is_number = isinstance(question, Integer | Number)
    has_accuracy = not isinstance(question, Number)
    return QuestionReport(
        name=name,
        kind=question.type,
        rows=len(mine),
        right=right,
        accuracy=figures.share(right, len(mine)) if has_accuracy else None,
        classes=classes,
        confusion=confusion,
        numbers=_numbers(true, said) if is_number else None,
        usd_per_right=_by(_cost(mine), right) if has_accuracy else None,
    )


def _single(
    question: Label | Boolean, true: Sequence[str], said: Sequence[str]
) -> tuple[tuple[ClassFigures, ...], tuple[tuple[int, ...], ...]]:
    order = list(question.labels) if isinstance(question, Label) else ["true", "false", "null"]
    labels = [label for label in order if label in true or label in said]
    trues, saids = collections.Counter(true), collections.Counter(said)
    both = collections.Counter(a for a, b in zip(true, said, strict=True) if a == b)
    classes = tuple(
        figures.class_figures(label, true=trues[label], said=saids[label], right=both[label]) for label in labels
    )
    return classes, tuple(map(tuple, figures.confusion(true, said, labels, NO_ANSWER)))


def _several(question: LabelSet, true: Sequence[Any], said: Sequence[Any]) -> tuple[ClassFigures, ...]:
    """Each label by itself: it was true or not, and said or not."""
    sets = [(set(a), set() if b in (NO_ANSWER, None) else set(b)) for a, b in zip(true, said, strict=True)]
    found = []
    for label in question.labels:
        counts = {
            "true": sum(label in a for a, _ in sets),
            "said": sum(label in b for _, b in sets),
            "right": sum(label in a and label in b for a, b in sets),
        }
        if counts["true"] or counts["said"]:
            found.append(figures.class_figures(label, **counts))
    return tuple(found)


def _numbers(true: Sequence[Any], said: Sequence[Any]) -> NumberFigures:
    answered = [(a, b) for a, b in zip(true, said, strict=True) if b != NO_ANSWER]
    errors = [float(b - a) for a, b in answered if a is not None and b is not None]
    mae = figures.mean([abs(error) for error in errors])
    if mae is not None and mae.low is not None:
        mae = dataclasses.replace(mae, low=max(0.0, mae.low))
    return NumberFigures(
        rows=len(errors),
        mae=mae,
        bias=figures.mean(errors),
        worst=max(map(abs, errors), default=None),
        null_said=sum(b is None and a is not None for a, b in answered),
        null_true=sum(a is None and b is not None for a, b in answered),
    )


def _calibrations(
    task: Task, outcomes: Sequence[Outcome], rights: Mapping[str, Mapping[str, bool]]
) -> list[Calibration]:
    found = []
    for name, of in confidences(task).items():
        pairs = [
            (sure, rights[outcome.key][of])
            for outcome in outcomes
            if of in rights.get(outcome.key, {}) and (sure := sureness(task, name, outcome)) is not None
        ]
        made = figures.calibration(name, of, [sure for sure, _ in pairs], [right for _, right in pairs])
        if made is not None:
            found.append(made)
    return found


def _disagreements(task: Task, names: Sequence[str], truth: Truth, outcomes: Sequence[Outcome]) -> list[Disagreement]:
    ranked = []
    asked_for = list(confidences(task))
    for outcome in outcomes:
        if outcome.values is None:
            continue
        true = truth.rows[outcome.key]
        wrong = [name for name in names if name in true and not row_is_right(task, name, true, outcome)]
        if not wrong:
            continue
        said = outcome.values
        differs = {name: {"said": said.get(name), "true": true[name]} for name in wrong}
        plain = sum(not isinstance(task.questions[name], Number) for name in wrong)
        sure = max((sureness(task, name, outcome) or 0.0 for name in asked_for), default=0.0)
        error = math.fsum(
            abs(said[name] - true[name]) / max(1.0, abs(true[name]))
            for name in wrong
            if isinstance(task.questions[name], Integer | Number)
            and said.get(name) is not None
            and true[name] is not None
        )
        ranked.append(((-plain, -sure, -error, outcome.key), Disagreement(outcome.key, outcome.uri, differs)))
    ranked.sort(key=lambda pair: pair[0])
    return [each for _, each in ranked[:_MAX_DISAGREEMENTS]]
