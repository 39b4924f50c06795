"""From the model's text to a checked answer. Pure; it forgives form (fences, case, quoted numbers), never content."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pipeline.task.base import Read, WrongValueError, clean_text, show

PACK_KEY = "image"
"""Property that names the image in an answer to several; no question may be called so."""
PACK_TEXT = "text"
"""Property that holds a free-text task's answer in an answer to several."""

_FENCE = re.compile(r"```[A-Za-z0-9_-]*\s")
_START = re.compile(r"[\[{]")
_MAX_DEPTH = 50  # of an answer; a task's own are four deep
_BLANK = "\ufeff\u200b \t\r\n\x00"


@dataclasses.dataclass(frozen=True, slots=True)
class Parsed:
    """A checked answer; all fields are None for a free-text task, whose answer is its text."""

    answer_json: str | None = None
    label: str | None = None
    values: Mapping[str, Any] | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Invalid:
    """A text that is no answer, and why: a clause for the model and for people."""

    why: str


@dataclasses.dataclass(frozen=True, slots=True)
class Packed:
    """One image's part of an answer to several: the text to keep, and what it says."""

    text: str
    answer: Parsed | Invalid


def read_json(text: str) -> Any:
    """The JSON value in a model's text, code fences, byte order marks and prose around it ignored.

    Raises:
        WrongValueError: there is none, it is cut off, or it is nested too deeply to be looked at.
    """
    value = _decoded(text.strip(_BLANK))
    if text.count("[") + text.count("{") > _MAX_DEPTH and _is_deep(value):
        raise WrongValueError("it is nested too deeply")
    return value


def _decoded(bare: str) -> Any:
    try:
        return _decode(bare)
    except ValueError as error:
        first = error
    fence = _FENCE.search(bare)
    start = _START.search(bare, fence.end() if fence else 0)
    if start is None:
        raise WrongValueError("it is not JSON") from first
    try:
        return _DECODER.raw_decode(bare, start.start())[0]  # what follows, such as the closing fence, is left
    except json.JSONDecodeError as error:
        cut_off = error.pos >= len(bare.rstrip("`\n ")) or error.msg.startswith("Unterminated")
        raise WrongValueError(
            "the JSON is cut off" if cut_off else f"it is not JSON: {error.msg} at character {error.pos}"
        ) from error
    except (ValueError, RecursionError) as error:
        raise WrongValueError("it is not JSON that can be read") from error


def _is_deep(value: Any) -> bool:
    """Whether there is something below `_MAX_DEPTH` levels; without recursion, which is what is to be avoided."""
    level = [value]
    for _ in range(_MAX_DEPTH):
        inner = [each.values() if isinstance(each, dict) else each for each in level if isinstance(each, dict | list)]
        level = [child for children in inner for child in children]
    return bool(level)


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


_DECODER = json.JSONDecoder(parse_constant=_no_constant)


def _decode(text: str) -> Any:
    try:
        return _DECODER.decode(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


class Reader:
    """Reads the answers of one task.

    Args:
        readers: for each property of the answer, in order, its reader; empty for a free-text task.
        label: the property whose value is the row's label, or None.
        optional: properties that may be missing, and are then null.
    """

    def __init__(self, readers: Mapping[str, Read], label: str | None, optional: frozenset[str]) -> None:
        self._readers = tuple(readers.items())
        self._names = {name.casefold(): name for name in readers}
        self._label = label
        self._optional = optional
        self._encode: Callable[[Any], str] = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode

    def read(self, text: str) -> Parsed | Invalid:
        """The answer that a text gives."""
        if not self._readers:
            return Parsed() if text.strip(_BLANK) else Invalid("it is empty")
        try:
            return self._checked(read_json(text))
        except WrongValueError as wrong:
            return Invalid(str(wrong))

    def read_pack(self, text: str, keys: Sequence[str]) -> dict[str, Packed] | Invalid:
        """What an answer to several images says of each.

        Args:
            text: the model's text, an array of objects.
            keys: what the images were called in the request.

        Returns:
            The parts by key; a key that is missing was left out by the model. `Invalid` where the parts cannot be
            told apart: no array, or a key that is doubled or unknown.
        """
        try:
            items = read_json(text)
        except WrongValueError as wrong:
            return Invalid(str(wrong))
        if isinstance(items, dict) and len(items) == 1 and PACK_KEY not in items:
            items = next(iter(items.values()))  # {"images": [...]}
        if not isinstance(items, list):
            return Invalid("it is not an array with an object for each image")
        wanted = frozenset(keys)
        parts: dict[str, Packed] = {}
        for item in items:
            key = item.get(PACK_KEY) if isinstance(item, dict) else None
            if not isinstance(key, str) or key not in wanted:
                return Invalid(f"{show(key)} is not one of the images")
            if key in parts:
                return Invalid(f"{key} is answered twice")
            parts[key] = self._part({name: value for name, value in item.items() if name != PACK_KEY})
        return parts

    def _part(self, item: dict[str, Any]) -> Packed:
        if not self._readers:
            text = item.get(PACK_TEXT)
            if not isinstance(text, str) or not text.strip(_BLANK):
                return Packed("", Invalid("it is empty"))
            return Packed(clean_text(text), Parsed())
        try:
            parsed = self._checked(item)
        except WrongValueError as wrong:
            return Packed(clean_text(self._encode(item)), Invalid(str(wrong)))
        return Packed(parsed.answer_json or "", parsed)

    def _checked(self, found: Any) -> Parsed:
        if isinstance(found, list) and len(found) == 1:
            found = found[0]
        if not isinstance(found, dict):
            raise WrongValueError("it is not a JSON object")
        if any(name not in found for name, _ in self._readers):
            found = {self._names.get(name.casefold(), name): value for name, value in found.items()}
        values: dict[str, Any] = {}
        for name, read in self._readers:
            if name in found:
                try:
                    values[name] = read(found[name])
                except WrongValueError as wrong:
                    raise WrongValueError(f"{name}: {wrong}") from None
            elif name in self._optional:
                values[name] = None
            else:
                raise WrongValueError(f"{name} is missing")
        return Parsed(self._encode(values), values[self._label] if self._label else None, values)
