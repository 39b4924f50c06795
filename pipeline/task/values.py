"""Questions that are answered with a value: yes or no, a number, a text."""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal, Self

from pydantic import StrictFloat, StrictInt, model_validator
from pydantic_core import PydanticCustomError

from pipeline.task.base import OptionalQuestion, Read, WrongValueError, clean_text, show

INT64_MIN, INT64_MAX = -(2**63), 2**63 - 1

_TRUE, _FALSE = frozenset({"true", "yes"}), frozenset({"false", "no"})


class Boolean(OptionalQuestion):
    """Yes or no."""

    type: Literal["boolean"]

    def answer_schema(self) -> dict[str, Any]:
        return self.described({"type": self.json_type("boolean")})

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

        return self.or_null(read)

    def column(self, name: str) -> tuple[str, str]:
        return "BOOL", f"SAFE_CAST(JSON_VALUE(answer, '$.{name}') AS BOOL)"

    def allowed(self) -> str:
        return f"true or false{self.null_allowed()}"

    def planned_tokens(self) -> int:
        return 6


def number(value: Any) -> int | float:
    """A finite number, quoted or not.

    Raises:
        WrongValueError: it is none.
    """
    if isinstance(value, str):
        try:
            value = float(value) if any(mark in value for mark in ".eE") else int(value)
        except ValueError:
            raise WrongValueError(f"{show(value)} is not a number") from None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise WrongValueError(f"{show(value)} is not a number")
    if isinstance(value, float) and not math.isfinite(value):
        raise WrongValueError(f"{show(value)} is not a number")
    return value


class _Ranged(OptionalQuestion):
    """A number between two bounds, both included."""

    LOWEST: ClassVar[float]
    HIGHEST: ClassVar[float]

    def bounds(self) -> tuple[Any, Any]:
        """The least and the greatest number allowed; None where there is no bound."""
        low, high = getattr(self, "minimum", None), getattr(self, "maximum", None)
        return (None if low == self.LOWEST else low), (None if high == self.HIGHEST else high)

    def bounded(self, kind: str) -> dict[str, Any]:
        """The JSON schema of a kind of number with these bounds."""
        low, high = self.bounds()
        schema = {"type": self.json_type(kind)}
        schema |= {} if low is None else {"minimum": low}
        schema |= {} if high is None else {"maximum": high}
        return self.described(schema)

    def within(self) -> str:
        """The bounds in words."""
        low, high = self.bounds()
        if low is not None and high is not None:
            return f" from {low} to {high}"
        return "" if low is None and high is None else f" of at least {low}" if high is None else f" of at most {high}"

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        low, high = self.bounds()
        if low is not None and high is not None and low > high:
            raise PydanticCustomError(
                "range", "has a minimum, {low}, above its maximum, {high}", {"low": low, "high": high}
            )
        return self


class Integer(_Ranged):
    """A whole number, both bounds included."""

    type: Literal["integer"]
    LOWEST: ClassVar[float] = INT64_MIN
    HIGHEST: ClassVar[float] = INT64_MAX
    minimum: StrictInt = INT64_MIN
    maximum: StrictInt = INT64_MAX

    def answer_schema(self) -> dict[str, Any]:
        return self.bounded("integer")

    def reader(self) -> Read:
        low, high = self.minimum, self.maximum

        def read(value: Any) -> int:
            found = number(value)
            if found != int(found):
                raise WrongValueError(f"{show(value)} is not a whole number")
            if not low <= found <= high:
                raise WrongValueError(f"{show(value)} is not {self.allowed()}")
            return int(found)

        return self.or_null(read)

    def column(self, name: str) -> tuple[str, str]:
        return "INT64", f"SAFE_CAST(JSON_VALUE(answer, '$.{name}') AS INT64)"

    def allowed(self) -> str:
        return f"a whole number{self.within()}{self.null_allowed()}"

    def planned_tokens(self) -> int:
        return 6


class Number(_Ranged):
    """A number, both bounds included."""

    type: Literal["number"]
    LOWEST: ClassVar[float] = -math.inf
    HIGHEST: ClassVar[float] = math.inf
    minimum: StrictFloat | StrictInt = -math.inf
    maximum: StrictFloat | StrictInt = math.inf

    def answer_schema(self) -> dict[str, Any]:
        return self.bounded("number")

    def reader(self) -> Read:
        low, high = self.minimum, self.maximum

        def read(value: Any) -> float:
            try:
                found = float(number(value))
            except OverflowError:
                raise WrongValueError(f"{show(value)} is too large a number") from None
            if not low <= found <= high:
                raise WrongValueError(f"{show(value)} is not {self.allowed()}")
            return found

        return self.or_null(read)

    def column(self, name: str) -> tuple[str, str]:
        return "FLOAT64", f"SAFE_CAST(JSON_VALUE(answer, '$.{name}') AS FLOAT64)"

    def allowed(self) -> str:
        return f"a number{self.within()}{self.null_allowed()}"

    def planned_tokens(self) -> int:
        return 8


class Text(OptionalQuestion):
    """Free text."""

    type: Literal["string"]

    def answer_schema(self) -> dict[str, Any]:
        return self.described({"type": self.json_type("string")})

    def reader(self) -> Read:
        def read(value: Any) -> str:
            if isinstance(value, str):
                return clean_text(value)
            if isinstance(value, int | float) and not isinstance(value, bool):
                return str(value)  # a house number, read as a number
            raise WrongValueError(f"{show(value)} is not text")

        return self.or_null(read)

    def column(self, name: str) -> tuple[str, str]:
        return "STRING", f"JSON_VALUE(answer, '$.{name}')"

    def allowed(self) -> str:
        return f"text{self.null_allowed()}"

    def planned_tokens(self) -> int:
        return 24
