"""The kinds of question that a task can ask: each gives its JSON schema, reads its value, and names its BigQuery column."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictFloat, StrictInt, StrictStr, field_validator
from pydantic_core import PydanticCustomError

Read = Callable[[Any], Any]

INT64_MIN, INT64_MAX = -(2**63), 2**63 - 1
BOX_SCALE = 1000
"""Gemini gives boxes as [ymin, xmin, ymax, xmax] on a scale of 0 to 1000, whatever the image's size (Vertex AI docs)."""

_TRUE, _FALSE = frozenset({"true", "yes"}), frozenset({"false", "no"})
_SEPARATORS = re.compile(r"[\s_\-]+")
# What UTF-8 and BigQuery cannot store: halves of surrogate pairs (JSON escapes can spell them) and NUL.
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")


class WrongValueError(ValueError):
    """A value that is not an answer to its question; the text says what is wrong, for the model and for people."""


def normal_form(label: str) -> str:
    """A label without what models vary: case, width of characters, spaces, underscores and hyphens, quotes, full stop."""
    folded = unicodedata.normalize("NFKC", label).casefold().strip("\"'`. \t\r\n")
    return _SEPARATORS.sub(" ", folded).strip()


def clean_text(text: str) -> str:
    """The text with unstorable characters replaced by U+FFFD."""
    return _UNSTORABLE.sub("\ufffd", text)


def show(value: object) -> str:
    """At most 60 characters of a value, for an error message."""
    shown = repr(value) if isinstance(value, str) else str(value)
    return shown if len(shown) <= 60 else f"{shown[:57]}..."


def _read_labels(value: Any, field: str) -> dict[str, str]:
    pairs = value if isinstance(value, dict) else dict.fromkeys(value, "") if isinstance(value, list | tuple) else None
    if pairs is None:
        raise PydanticCustomError("labels", "must be a list of labels, or a mapping from label to what it means")
    seen: dict[str, str] = {}
    labels = list(pairs) if isinstance(value, dict) else list(value)
    for label in labels:
        if isinstance(label, bool):
            raise PydanticCustomError(
                "labels",
                "has {value}, which is how YAML reads yes, no, on and off: put the label in quotes",
                {"value": str(label).lower()},
            )
        if not isinstance(label, str) or not label.strip():
            raise PydanticCustomError(
                "labels", "has {value}, which is not text: put it in quotes", {"value": show(label)}
            )
        form = normal_form(label)
        if form in seen:
            raise PydanticCustomError(
                "labels",
                "has {a} and {b}, which differ only in case, spaces or hyphens",
                {"a": show(seen[form]), "b": show(label)},
            )
        seen[form] = label
    if not labels and field == "labels":
        raise PydanticCustomError("labels", "is empty: name the labels")
    return {label: (meaning or "") if isinstance(meaning, str | None) else str(meaning) for label, meaning in pairs.items()}


Labels = dict[str, str]


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


class _Question(BaseModel):
    """What all kinds share; `description` goes into the schema, where the model reads it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    description: StrictStr = ""

    def _schema(self, body: dict[str, Any], more: str = "") -> dict[str, Any]:
        description = " ".join(text for text in (self.description.strip(), more) if text)
        return {**body, "description": description} if description else body

    def schema(self) -> dict[str, Any]:
        """The JSON schema of the value, of keywords that Vertex AI's `response_json_schema` knows."""
        raise NotImplementedError

    def reader(self) -> Read:
        """A function from a decoded JSON value to the value kept; it raises `WrongValueError`."""
        raise NotImplementedError

    def column(self, name: str) -> tuple[str, str]:
        """The BigQuery type, and the GoogleSQL expression over the JSON column `answer`."""
        raise NotImplementedError

    def allowed(self) -> str:
        """What may be answered, in words for the model."""
        raise NotImplementedError

    def planned_tokens(self) -> int:
        """Output tokens that an answer is planned with; a guess, `plan --sample` measures."""
        raise NotImplementedError


class Label(_Question):
    """One label of a list."""

    type: Literal["label"]
    labels: Labels

    @field_validator("labels", mode="before")
    @classmethod
    def _check(cls, value: Any) -> dict[str, str]:
        return _read_labels(value, "labels")

    def schema(self) -> dict[str, Any]:
        return self._schema({"type": "string", "enum": list(self.labels)}, _meanings(self.labels))

    def reader(self) -> Read:
        return _label_reader(self.labels)

    def column(self, name: str) -> tuple[str, str]:
        return "STRING", f"JSON_VALUE(answer, '$.{name}')"

    def allowed(self) -> str:
        return f"exactly one of: {', '.join(self.labels)}"

    def planned_tokens(self) -> int:
        return 8


class LabelSet(_Question):
    """Any number of labels of a list, none included."""

    type: Literal["labels"]
    labels: Labels

    @field_validator("labels", mode="before")
    @classmethod
    def _check(cls, value: Any) -> dict[str, str]:
        return _read_labels(value, "labels")

    def schema(self) -> dict[str, Any]:
        items = {"type": "string", "enum": list(self.labels)}
        return self._schema({"type": "array", "items": items}, _meanings(self.labels))

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


class _Optional(_Question):
    """Kinds that may be null where the image does not tell."""

    optional: StrictBool = False

    def _type(self, name: str) -> Any:
        # A list of types with "null" is how response_json_schema spells a nullable value (response_schema cannot).
        return [name, "null"] if self.optional else name

    def _or_null(self, read: Read) -> Read:
        if not self.optional:
            return read
        return lambda value: None if value is None else read(value)

    def _null(self) -> str:
        return ", or null if the image does not tell" if self.optional else ""


class Boolean(_Optional):
    """Yes or no."""

    type: Literal["boolean"]

    def schema(self) -> dict[str, Any]:
        return self._schema({"type": self._type("boolean")})

    def reader(self) -> Read:
        def read(value: Any) -> bool:
            if isinstance(value, bool):
                return value
            if isinstance(value, str):
                word = value.strip().casefold()
                if word in _TRUE:
                    return True
                if word in _FALSE:
                    return False
            raise WrongValueError(f"{show(value)} is neither true nor false")

        return self._or_null(read)

    def column(self, name: str) -> tuple[str, str]:
        return "BOOL", f"SAFE_CAST(JSON_VALUE(answer, '$.{name}') AS BOOL)"

    def allowed(self) -> str:
        return f"true or false{self._null()}"

    def planned_tokens(self) -> int:
        return 6


def _number(value: Any) -> int | float:
    if isinstance(value, str):
        try:
            value = float(value) if any(mark in value for mark in ".eE") else int(value)
        except ValueError:
            raise WrongValueError(f"{show(value)} is not a number") from None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise WrongValueError(f"{show(value)} is not a number")
    return value


class Integer(_Optional):
    """A whole number, both bounds included."""

    type: Literal["integer"]
    minimum: StrictInt = INT64_MIN
    maximum: StrictInt = INT64_MAX

    @field_validator("maximum")
    @classmethod
    def _ordered(cls, value: int, info: Any) -> int:
        return _ordered(value, info)

    def schema(self) -> dict[str, Any]:
        return self._schema({"type": self._type("integer"), **_bounds(self, INT64_MIN, INT64_MAX)})

    def reader(self) -> Read:
        low, high = self.minimum, self.maximum

        def read(value: Any) -> int:
            number = _number(value)
            if number != int(number):
                raise WrongValueError(f"{show(value)} is not a whole number")
            if not low <= number <= high:
                raise WrongValueError(f"{show(value)} is not {self.allowed()}")
            return int(number)

        return self._or_null(read)

    def column(self, name: str) -> tuple[str, str]:
        return "INT64", f"SAFE_CAST(JSON_VALUE(answer, '$.{name}') AS INT64)"

    def allowed(self) -> str:
        return f"a whole number{_range(self, INT64_MIN, INT64_MAX)}{self._null()}"

    def planned_tokens(self) -> int:
        return 6


class Number(_Optional):
    """A number, both bounds included."""

    type: Literal["number"]
    minimum: StrictFloat | StrictInt = -math.inf
    maximum: StrictFloat | StrictInt = math.inf

    @field_validator("maximum")
    @classmethod
    def _ordered(cls, value: float, info: Any) -> float:
        return _ordered(value, info)

    def schema(self) -> dict[str, Any]:
        return self._schema({"type": self._type("number"), **_bounds(self, -math.inf, math.inf)})

    def reader(self) -> Read:
        low, high = self.minimum, self.maximum

        def read(value: Any) -> float:
            try:
                number = float(_number(value))
            except OverflowError:
                raise WrongValueError(f"{show(value)} is too large a number") from None
            if not low <= number <= high:
                raise WrongValueError(f"{show(value)} is not {self.allowed()}")
            return number

        return self._or_null(read)

    def column(self, name: str) -> tuple[str, str]:
        return "FLOAT64", f"SAFE_CAST(JSON_VALUE(answer, '$.{name}') AS FLOAT64)"

    def allowed(self) -> str:
        return f"a number{_range(self, -math.inf, math.inf)}{self._null()}"

    def planned_tokens(self) -> int:
        return 8


class Text(_Optional):
    """Free text."""

    type: Literal["string"]

    def schema(self) -> dict[str, Any]:
        return self._schema({"type": self._type("string")})

    def reader(self) -> Read:
        def read(value: Any) -> str:
            if isinstance(value, str):
                return clean_text(value)
            if isinstance(value, int | float) and not isinstance(value, bool):
                return str(value)  # a house number, read as a number
            raise WrongValueError(f"{show(value)} is not text")

        return self._or_null(read)

    def column(self, name: str) -> tuple[str, str]:
        return "STRING", f"JSON_VALUE(answer, '$.{name}')"

    def allowed(self) -> str:
        return f"text{self._null()}"

    def planned_tokens(self) -> int:
        return 24


class Boxes(_Question):
    """Things found in the image, each with its box on a scale of 0 to 1000 and, if `labels` are given, its label."""

    type: Literal["boxes"]
    labels: Labels = Field(default_factory=dict)

    @field_validator("labels", mode="before")
    @classmethod
    def _check(cls, value: Any) -> dict[str, str]:
        return _read_labels(value, "boxes.labels")

    def schema(self) -> dict[str, Any]:
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
        return self._schema({"type": "array", "items": item}, _meanings(self.labels))

    def reader(self) -> Read:
        read_label = _label_reader(self.labels) if self.labels else Text(type="string").reader()

        def read_box(item: Any) -> dict[str, Any]:
            if not isinstance(item, dict) or "label" not in item or "box_2d" not in item:
                raise WrongValueError(f"{show(item)} is not an object with label and box_2d")
            box = item["box_2d"]
            if not isinstance(box, list) or len(box) != 4:
                raise WrongValueError(f"{show(box)} is not [ymin, xmin, ymax, xmax]")
            top, left, bottom, right = (round(_number(edge)) for edge in box)
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


def _ordered(value: Any, info: Any) -> Any:
    low = info.data.get("minimum")
    if low is not None and value < low:
        raise PydanticCustomError("range", "is {high}, below minimum, which is {low}", {"high": value, "low": low})
    return value


def _bounds(question: Integer | Number, lowest: float, highest: float) -> dict[str, Any]:
    low = {"minimum": question.minimum} if question.minimum != lowest else {}
    return low | ({"maximum": question.maximum} if question.maximum != highest else {})


def _range(question: Integer | Number, lowest: float, highest: float) -> str:
    low, high = question.minimum != lowest, question.maximum != highest
    if low and high:
        return f" from {question.minimum} to {question.maximum}"
    return f" of at least {question.minimum}" if low else f" of at most {question.maximum}" if high else ""


AnyQuestion = Annotated[
    Label | LabelSet | Boolean | Integer | Number | Text | Boxes,
    Field(discriminator="type"),
]
KINDS = ("label", "labels", "boolean", "integer", "number", "string", "boxes")
