"""What is right and what is wrong: each answer beside its label. Pure."""

from __future__ import annotations

import dataclasses
import math
import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.evaluation.truth import Truth
from pipeline.task import Task
from pipeline.task.base import Question
from pipeline.task.labels import Boxes, LabelSet
from pipeline.task.values import Integer, Number, Text

ALL = "all"
"""What a whole row is called: right where every question is."""

_CONFIDENCE = re.compile(r"(?:(?P<of>.+)_)?(?:confidence|certainty|probability)")


@dataclasses.dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one labelled row: its values by question, or None and the reason of the failure.

    `cost_usd` is all that was paid for it; None where a price was not known.
    """

    key: str
    uri: str | None
    values: Mapping[str, Any] | None
    reason: str | None = None
    cost_usd: float | None = 0.0


def scored(task: Task, truth: Truth) -> tuple[str, ...]:
    """The labelled questions that have a score: all but boxes."""
    return tuple(name for name in truth.questions if not isinstance(task.questions[name], Boxes))


def with_accuracy(task: Task, truth: Truth) -> tuple[str, ...]:
    """The labelled questions that are right or wrong: all but boxes and numbers, which have an error."""
    return tuple(name for name in scored(task, truth) if not isinstance(task.questions[name], Number))


def is_right(question: Question, true: Any, said: Any) -> bool:
    """Whether what was said is what is true: texts up to case, width and spaces, lists as sets, numbers as numbers."""
    if isinstance(question, Text):
        return _plain(true) == _plain(said)
    if isinstance(question, LabelSet):
        return set(true) == set(said or ())
    if isinstance(question, Number) and true is not None and said is not None:
        return math.isclose(true, said, rel_tol=1e-9, abs_tol=1e-9)
    return bool(true == said)


def right_rows(task: Task, truth: Truth, outcomes: Sequence[Outcome]) -> dict[str, dict[str, bool]]:
    """For each key and labelled question with an accuracy, and for `ALL`, whether it is right."""
    names = with_accuracy(task, truth)
    rights: dict[str, dict[str, bool]] = {}
    for outcome in outcomes:
        true = truth.rows.get(outcome.key, {})
        right = {name: row_is_right(task, name, true, outcome) for name in names if name in true}
        if right:
            rights[outcome.key] = right | {ALL: all(right.values())}
    return rights


def row_is_right(task: Task, name: str, true: Mapping[str, Any], outcome: Outcome) -> bool:
    """Whether an outcome answers one question right; without an answer it does not."""
    values = outcome.values
    return values is not None and is_right(task.questions[name], true[name], values.get(name))


def class_of(value: Any) -> str:
    """The name of a class: a label as it is, true, false or null."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return "null" if value is None else str(value)


def confidences(task: Task) -> dict[str, str]:
    """Questions that ask how sure the model is, and what of: `NAME_confidence` of the question NAME.

    A bare `confidence` is of the whole row. It counts as one if it is a number between two bounds.
    """
    found = {}
    for name, question in task.questions.items():
        match = _CONFIDENCE.fullmatch(name)
        if match and isinstance(question, Integer | Number) and None not in question.bounds():
            of = match["of"] or ALL
            if of in task.questions or of == ALL:
                found[name] = of
    return found


def sureness(task: Task, name: str, outcome: Outcome) -> float | None:
    """A confidence on a scale of 0 to 1."""
    low, high = task.questions[name].bounds()  # type: ignore[union-attr]  # `confidences` has looked
    said = None if outcome.values is None else outcome.values.get(name)
    return None if said is None or high == low else (said - low) / (high - low)


def _plain(text: str | None) -> str:
    return " ".join(unicodedata.normalize("NFKC", text or "").casefold().split())
