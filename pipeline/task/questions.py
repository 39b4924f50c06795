"""The kinds of question that a task can ask."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from pipeline.task.base import Question
from pipeline.task.labels import Boxes, Label, LabelSet
from pipeline.task.values import Boolean, Integer, Number, Text

AnyQuestion = Annotated[
    Label | LabelSet | Boolean | Integer | Number | Text | Boxes,
    Field(discriminator="type"),
]

KINDS: dict[str, type[Question]] = {
    "label": Label,
    "labels": LabelSet,
    "boolean": Boolean,
    "integer": Integer,
    "number": Number,
    "string": Text,
    "boxes": Boxes,
}
"""The kinds by the word that a task file has for them."""
