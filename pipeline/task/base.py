"""What all kinds of question share. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from pydantic import BaseModel, ConfigDict, StrictBool, StrictStr

Read = Callable[[Any], Any]

# What UTF-8 and BigQuery cannot store: halves of surrogate pairs (JSON escapes can spell them) and NUL.
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")


class WrongValueError(ValueError):
    """A value that is not an answer to its question; the text says what is wrong, for the model and for people."""


def unstorable(text: str) -> str:
    """The first unstorable character of a text; nothing where there is none."""
    found = _UNSTORABLE.search(text)
    return found.group() if found else ""


def clean_text(text: str) -> str:
    """The text with unstorable characters replaced by U+FFFD."""
    return _UNSTORABLE.sub("\ufffd", text)


def show(value: object) -> str:
    """At most 60 characters of a value, for an error message."""
    shown = repr(value) if isinstance(value, str) else str(value)
    return shown if len(shown) <= 60 else f"{shown[:57]}..."


class Question(BaseModel):
    """One question; `description` goes into the schema, where the model reads it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    description: StrictStr = ""

    def described(self, body: dict[str, Any], more: str = "") -> dict[str, Any]:
        """A JSON schema with this question's description in it."""
        description = " ".join(text for text in (self.description.strip(), more) if text)
        return {**body, "description": description} if description else body

    def answer_schema(self) -> dict[str, Any]:
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


class OptionalQuestion(Question):
    """A question whose answer may be null, if it says `optional`, where the image does not tell."""

    optional: StrictBool = False

    def json_type(self, name: str) -> Any:
        """The JSON schema's type."""
        # A list of types with "null" is how response_json_schema spells a nullable value (response_schema cannot).
        return [name, "null"] if self.optional else name

    def or_null(self, read: Read) -> Read:
        """A reader that lets null pass, if it may."""
        if not self.optional:
            return read
        return lambda value: None if value is None else read(value)

    def null_allowed(self) -> str:
        """The end of `allowed`."""
        return ", or null if the image does not tell" if self.optional else ""
