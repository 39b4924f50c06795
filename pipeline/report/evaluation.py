"""Reads the figures that `evaluate --json` wrote, for the page. Pure but for reading the file."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline import files
from pipeline.errors import ConfigError

MAX_DISAGREEMENTS = 100  # rows that are shown; the file has more


def read(path: str) -> list[dict[str, Any]]:
    """The reports of a file that `evaluate --json=PATH` wrote: one, or two where two ways of asking were compared.

    Raises:
        ConfigError: it cannot be read, or is no such file.
    """
    try:
        content = json.loads(files.read_text(path, "--evaluation"))
        return [_report(each) for each in content["evaluations"]]
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"--evaluation={path}: is not what `python -m pipeline evaluate --json=PATH` writes ({type(error).__name__}: "
            f"{error})"
        ) from error


def _report(found: Mapping[str, Any]) -> dict[str, Any]:
    """A report with what the page needs; KeyError or TypeError where it is none."""
    shown = ("name", "model", "fingerprint", "rows", "answered", "all_right")
    disagreements = found["disagreements"]
    return {
        **{name: found[name] for name in shown},
        "questions": [_question(each) for each in found["questions"]],
        "disagreements": [
            {
                "key": each["key"],
                "uri": each["uri"],
                "differs": {name: _pair(pair) for name, pair in each["differs"].items()},
            }
            for each in disagreements[:MAX_DISAGREEMENTS]
        ],
        "left_out": max(0, len(disagreements) - MAX_DISAGREEMENTS),
    }


def _question(found: Mapping[str, Any]) -> dict[str, Any]:
    names = ("name", "kind", "rows", "right", "accuracy", "classes", "numbers")
    lines = zip(found["classes"], found["confusion"], strict=True) if found["confusion"] else ()
    return {
        **{name: found[name] for name in names},
        "confusion": [(true["label"], _cells(place, line, true["true"])) for place, (true, line) in enumerate(lines)],
    }


def _cells(right: int, line: Sequence[int], true: int) -> list[dict[str, Any]]:
    """A line of the confusion matrix; `heat` is the share of the true class, in per cent."""
    return [
        {"rows": rows, "is_right": place == right, "heat": round(100 * rows / max(true, 1))}
        for place, rows in enumerate(line)
    ]


def _pair(found: Mapping[str, Any]) -> dict[str, str | None]:
    from pipeline.report.words import value_text

    return {side: value_text(found[side]) for side in ("said", "true")}
