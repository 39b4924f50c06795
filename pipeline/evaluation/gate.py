"""What a full run demands of its evaluation: `--min_accuracy`, `--min_recall`. Pure."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence

from pipeline.errors import ConfigError
from pipeline.evaluation import figures
from pipeline.evaluation.figures import Interval
from pipeline.evaluation.judging import class_of, with_accuracy
from pipeline.evaluation.report import Report
from pipeline.evaluation.truth import Truth
from pipeline.task import Task
from pipeline.task.base import Question
from pipeline.task.labels import Label, LabelSet
from pipeline.task.values import Boolean

_ACCURACY = re.compile(r"(?:(?P<question>[a-z][a-z0-9_]*):)?(?P<least>[0-9.]+)")
_RECALL = re.compile(r"(?P<question>[a-z][a-z0-9_]*)=(?P<label>.+):(?P<least>[0-9.]+)")


@dataclasses.dataclass(frozen=True, slots=True)
class Demand:
    """At least `least`, at the lower 95 % bound: accuracy of a question, or recall of one of its labels."""

    question: str
    least: float
    label: str | None = None

    def __str__(self) -> str:
        return f"accuracy of {self.question}" if self.label is None else f"recall of {self.question}={self.label}"

    def figure(self, report: Report) -> Interval | None:
        """What the report says of it."""
        question = report.question(self.question)
        if self.label is None:
            return question.accuracy
        return next((each.recall for each in question.classes if each.label == self.label), None)


def demands(
    min_accuracy: Sequence[str] | None, min_recall: Sequence[str] | None, task: Task, truth: Truth
) -> list[Demand]:
    """What the flags demand, checked against the task and the labels before anything is spent.

    A bare accuracy is demanded of every labelled question that has one.

    Raises:
        ConfigError: a demand of another form, of a question or label that is not there or not labelled, or one that so
            few labels cannot show even if every answer is right.
    """
    names = with_accuracy(task, truth)
    found: list[Demand] = []
    for text in min_accuracy or ():
        match = _ACCURACY.fullmatch(text)
        if match is None:
            raise ConfigError(f"--min_accuracy={text}: expected a share such as 0.9, or QUESTION:0.9")
        least = _least("--min_accuracy", text, match["least"])
        if match["question"] is None and not names:
            raise ConfigError(f"--min_accuracy={text}: none of the labelled questions has an accuracy")
        asked = names if match["question"] is None else (_known("--min_accuracy", text, match["question"], names),)
        found += [Demand(name, least) for name in asked]
    for text in min_recall or ():
        match = _RECALL.fullmatch(text)
        if match is None:
            raise ConfigError(f"--min_recall={text}: expected QUESTION=LABEL:SHARE such as condition=damaged:0.8")
        name = _known("--min_recall", text, match["question"], names)
        label = _label(text, match["label"], task.questions[name])
        found.append(Demand(name, _least("--min_recall", text, match["least"]), label))
    for demand in found:
        _check_count(demand, truth)
    return found


def shortfalls(found: Sequence[Demand], report: Report) -> list[str]:
    """A clause for each demand that the report does not show to be met."""
    lines = []
    for demand in found:
        figure = demand.figure(report)
        low = figure.low if figure is not None else None
        if figure is None or low is None or low < demand.least:
            value = "has no rows" if figure is None else f"is {figure.value:.3f}, at least {low or 0.0:.3f}"
            lines.append(f"the {demand} {value} (95 %), wanted {demand.least:g}")
    return lines


def _least(flag: str, text: str, number: str) -> float:
    try:
        least = float(number)
    except ValueError:
        least = 0.0
    if not 0 < least < 1:
        raise ConfigError(f"{flag}={text}: expected a share above 0 and below 1")
    return least


def _known(flag: str, text: str, name: str, names: Sequence[str]) -> str:
    if name not in names:
        raise ConfigError(
            f"{flag}={text}: {name} is not a labelled question with an accuracy; there are {', '.join(names)}"
        )
    return name


def _label(text: str, label: str, question: Question) -> str:
    if isinstance(question, Label | LabelSet):
        labels = list(question.labels)
    elif isinstance(question, Boolean):
        labels = ["true", "false"]
    else:
        raise ConfigError(f"--min_recall={text}: a recall is of a label, of labels or of a boolean")
    if label not in labels:
        raise ConfigError(f"--min_recall={text}: {label} is not one of {', '.join(labels)}")
    return label


def _check_count(demand: Demand, truth: Truth) -> None:
    values = [row[demand.question] for row in truth.rows.values() if demand.question in row]
    rows, flag = len(values), "--min_accuracy"
    if demand.label is not None:
        rows = sum(demand.label in (value if isinstance(value, list) else [class_of(value)]) for value in values)
        flag = "--min_recall"
    needed = figures.rows_needed(demand.least)
    if rows < needed:
        raise ConfigError(
            f"{flag}: {rows:,} labelled rows cannot show the {demand} to be {demand.least:g} even if every answer is "
            f"right: label {needed:,} such rows or more, or demand less"
        )
