"""A prompt with the row's columns in braces: `Is this {asset_type} damaged?`"""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Mapping
from typing import Any

_TOKEN = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")
_COLUMN = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class TemplateError(ValueError):
    """A brace that is neither a column nor doubled."""


def as_text(value: Any) -> str:
    """A column's value as the model reads it: null is `unknown`, times are ISO 8601, nested values are JSON."""
    if isinstance(value, str):
        return value
    if value is None:
        return "unknown"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, datetime.datetime | datetime.date):
        return value.isoformat()
    if isinstance(value, Mapping | list | tuple):
        return json.dumps(value, ensure_ascii=False, default=as_text)
    return str(value)


class Template:
    """A parsed prompt.

    Literal braces are doubled, as in Python's format strings: `{{` and `}}`.

    Args:
        text: the prompt with `{column}` where a row's value goes.

    Raises:
        TemplateError: a single brace, or a name that cannot be a column.
    """

    def __init__(self, text: str) -> None:
        self._pieces: list[str] = [""]  # literal, column, literal, column, ..., literal
        at = 0
        for token in _TOKEN.finditer(text):
            self._pieces[-1] += text[at : token.start()]
            at = token.end()
            brace, name = token.group(0), token.group(1)
            if brace in ("{{", "}}"):
                self._pieces[-1] += brace[0]
            elif name is not None and _COLUMN.fullmatch(name):
                self._pieces += [name, ""]
            else:
                raise TemplateError(
                    f"{brace} is not a column in braces, such as {{asset_type}}; literal braces are doubled: {{{{ }}}}"
                )
        self._pieces[-1] += text[at:]
        self.columns: tuple[str, ...] = tuple(dict.fromkeys(self._pieces[1::2]))
        """The columns that the prompt names, once each, in order."""

    def render(self, columns: Mapping[str, Any]) -> str:
        """The prompt of one row; a `KeyError` here is a bug, since columns are checked before the run."""
        pieces = self._pieces
        if len(pieces) == 1:
            return pieces[0]
        return "".join([piece if place % 2 == 0 else as_text(columns[piece]) for place, piece in enumerate(pieces)])

    def generic(self) -> str:
        """The prompt of several rows at once: `[asset_type of the image]` where a value would stand."""
        return "".join(
            piece if place % 2 == 0 else f"[{piece} of the image]" for place, piece in enumerate(self._pieces)
        )

    def facts(self, columns: Mapping[str, Any]) -> str:
        """What `generic` left out of one row: `asset_type: POLE; pitch: 3.5`; empty when no column is named."""
        return "; ".join(f"{name}: {as_text(columns[name])}" for name in self.columns)
