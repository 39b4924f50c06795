"""Questions that are answered with labels of a list: one, several, or with a box each."""

from __future__ import annotations

import re
import unicodedata
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic_core import PydanticCustomError

from pipeline.task.base import Question, Read, WrongValueError, show
from pipeline.task.values import Text, number

Labels = dict[str, str]
"""Label to what it means, or to nothing."""

BOX_SCALE = 1000
"""Gemini's boxes are [ymin, xmin, ymax, xmax] on a scale of 0 to 1000, whatever the image's size (Vertex AI docs)."""

_SEPARATORS = re.compile(r"[\s_\-]+")


def normal_form(label: str) -> str:
    """A label without what models vary: case, width, spaces, underscores and hyphens, quotes, full stop."""
    folded = unicodedata.normalize("NFKC", label).casefold().strip("\"'`. \t\r\n")
    return _SEPARATORS.sub(" ", folded).strip()


def _read_labels(value: Any) -> Labels:
    if not isinstance(value, dict | list | tuple):
        raise PydanticCustomError("labels", "must be a list of labels, or a mapping from label to what it means")
    seen: dict[str, str] = {}
    for label in value:
        if isinstance(label, bool):
            word = {"value": str(label).lower()}
            said = "has {value}, which is how YAML reads yes, no, on and off: put the label in quotes"
            raise PydanticCustomError("labels", said, word)
        if isinstance(label, dict) and label:
            said = "has {value} in a list: labels with meanings are a mapping, so leave the dashes out"
            raise PydanticCustomError("labels", said, {"value": show(label)})
        if not isinstance(label, str) or not label.strip():
            raise PydanticCustomError(
                "labels", "has {value}, which is not text: put it in quotes", {"value": show(label)}
            )
        form = normal_form(label)
        if form in seen:
            both = {"a": show(seen[form]), "b": show(label)}
            raise PydanticCustomError("labels", "has {a} and {b}, which differ only in case, spaces or hyphens", both)
        seen[form] = label
    if isinstance(value, dict):
        return {label: "" if meaning is None else str(meaning).strip() for label, meaning in value.items()}
    return dict.fromkeys(value, "")


def _some(labels: Labels) -> Labels:
    if not labels:
        raise PydanticCustomError("labels", "is empty: name the labels")
    return labels


AnyLabels = Annotated[Labels, BeforeValidator(_read_labels)]
SomeLabels = Annotated[Labels, BeforeValidator(_read_labels), AfterValidator(_some)]


def _label_reader(labels: Labels) -> Read:
    exact = {label: label for label in labels}
    forms = {normal_form(label): label for label in labels}
    allowed = ", ".join(labels)

    def read(value: Any) -> str:
        if isinstance(value, str):
            found = exact.get(value) or forms.get(normal_form(value))
            if found is not None:
                return found
        raise WrongValueError(f"{show(value)} is not one of: {allowed}")

    return read


def _meanings(labels: Labels) -> str:
    return " ".join(f"{label}: {meaning.rstrip('.')}." for label, meaning in labels.items() if meaning)


class Label(Question):
    """One label of a list."""

    type: Literal["label"]
    labels: SomeLabels

    def answer_schema(self) -> dict[str, Any]:
        return self.described({"type": "string", "enum": list(self.labels)}, _meanings(self.labels))

    def reader(self) -> Read:
        return _label_reader(self.labels)

    def column(self, name: str) -> tuple[str, str]:
        return "STRING", f"JSON_VALUE(answer, '$.{name}')"

    def allowed(self) -> str:
        return f"exactly one of: {', '.join(self.labels)}"

    def planned_tokens(self) -> int:
        return 8


class LabelSet(Question):
    """Any number of labels of a list, none included."""

    type: Literal["labels"]
    labels: SomeLabels

    def answer_schema(self) -> dict[str, Any]:
        items = {"type": "string", "enum": list(self.labels)}
        return self.described({"type": "array", "items": items}, _meanings(self.labels))

    def reader(self) -> Read:
        one = _label_reader(self.labels)
        order = {label: place for place, label in enumerate(self.labels)}

        def read(value: Any) -> list[str]:
            if isinstance(value, str):
                value = [value]
            if not isinstance(value, list):
                raise WrongValueError(f"{show(value)} is not a list of labels")
            return sorted({one(item) for item in value}, key=order.__getitem__)

        return read

    def column(self, name: str) -> tuple[str, str]:
        return "ARRAY<STRING>", f"JSON_VALUE_ARRAY(answer, '$.{name}')"

    def allowed(self) -> str:
        return f"a list, empty or of: {', '.join(self.labels)}"

    def planned_tokens(self) -> int:
        return 20


class Boxes(Question):
    """Things found in the image, each with its box on a scale of 0 to 1000 and, if `labels` are given, its label."""

    type: Literal["boxes"]
    labels: AnyLabels = Field(default_factory=dict)

    def answer_schema(self) -> dict[str, Any]:
        coordinate = {"type": "integer", "minimum": 0, "maximum": BOX_SCALE}
        box = {
            "type": "array",
            "items": coordinate,
            "minItems": 4,
            "maxItems": 4,
            "description": "ymin, xmin, ymax, xmax",
        }
        label = {"type": "string", **({"enum": list(self.labels)} if self.labels else {})}
        item = {
            "type": "object",
            "properties": {"label": label, "box_2d": box},
            "required": ["label", "box_2d"],
            "propertyOrdering": ["label", "box_2d"],
        }
        return self.described({"type": "array", "items": item}, _meanings(self.labels))

    def reader(self) -> Read:
        read_label = _label_reader(self.labels) if self.labels else Text(type="string").reader()

        def read_box(item: Any) -> dict[str, Any]:
            if not isinstance(item, dict) or "label" not in item or "box_2d" not in item:
                raise WrongValueError(f"{show(item)} is not an object with label and box_2d")
            box = item["box_2d"]
            if not isinstance(box, list) or len(box) != 4:
                raise WrongValueError(f"{show(box)} is not [ymin, xmin, ymax, xmax]")
            top, left, bottom, right = (round(number(edge)) for edge in box)
            if not (0 <= top <= bottom <= BOX_SCALE and 0 <= left <= right <= BOX_SCALE):
                raise WrongValueError(f"{show(box)} is not [ymin, xmin, ymax, xmax] within 0 and {BOX_SCALE}")
            return {"label": read_label(item["label"]), "box_2d": [top, left, bottom, right]}

        def read(value: Any) -> list[dict[str, Any]]:
            if not isinstance(value, list):
                raise WrongValueError(f"{show(value)} is not a list of boxes")
            return [read_box(item) for item in value]

        return read

    def column(self, name: str) -> tuple[str, str]:
        return "JSON", f"JSON_QUERY(answer, '$.{name}')"

    def allowed(self) -> str:
        label = f"a label of: {', '.join(self.labels)}" if self.labels else "a label"
        return f"a list of objects with {label} and box_2d, [ymin, xmin, ymax, xmax] within 0 and {BOX_SCALE}"

    def planned_tokens(self) -> int:
        return 60
