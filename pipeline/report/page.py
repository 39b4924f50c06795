"""From facts to the page. The template escapes everything that comes from rows; what stands where is in `parts`."""

from __future__ import annotations

import base64
import hashlib
import importlib.resources
import importlib.util
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline import __version__
from pipeline.errors import ConfigError
from pipeline.report import mapping, parts, words
from pipeline.report.facts import Facts

_PACKAGES = {"jinja2": "Jinja2", "vl_convert": "vl-convert-python"}


def check_installed() -> None:
    """What draws the report is an extra: workers do not need it.

    Raises:
        ConfigError: a package is missing.
    """
    missing = [package for module, package in _PACKAGES.items() if importlib.util.find_spec(module) is None]
    if missing:
        raise ConfigError(f"the report needs {' and '.join(missing)}: pip install 'gemini-image-pipeline[report]'")


def render(facts: Facts, evaluation: Sequence[Mapping[str, Any]] = ()) -> str:
    """The whole page as one HTML text that refers to nothing outside of itself.

    Args:
        facts: what to show.
        evaluation: reports from `evaluation.read`.
    """
    import jinja2

    loader = jinja2.PackageLoader("pipeline.report", "")
    environment = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    named = (
        "count",
        "plain",
        "usd",
        "time",
        "rate",
        "percent",
        "moment",
        "interval",
        "bounds",
        "plain_bounds",
        "share",
    )
    for name in (*named, "counted", "tone", "advice", "web_url", "image_url"):
        environment.filters[name] = getattr(words, name)
    script, style = _asset("page.js"), _asset("page.css")
    found_map = mapping.places(facts.map, parts.map_summary(facts)) if facts.map else None
    columns = parts.columns(facts)
    return environment.get_template("page.html.j2").render(
        facts=facts,
        evaluation=list(evaluation),
        version=__version__,
        model=facts.scope.settings.get("model") or "",
        script=_trusted(script),
        script_hash="sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        style=_trusted(style),
        sections=_sections(found_map is not None, bool(evaluation)),
        tiles=parts.tiles(facts),
        standing=parts.standing(facts),
        question_charts=parts.question_charts(facts),
        map=found_map,
        map_note=parts.map_note(facts, found_map),
        spend=parts.spend(facts),
        measures=parts.measures(facts),
        charts=parts.time_charts(facts),
        rows_note=parts.rows_note(facts),
        row_labels=parts.row_labels(facts),
        columns=columns,
        table=[(row, list(zip(columns[1:], cells, strict=True))) for row, cells in parts.table(facts)],
        settings=parts.settings(facts),
    )


def _asset(name: str) -> str:
    return importlib.resources.files("pipeline.report").joinpath(name).read_text("utf-8")


def _trusted(text: str) -> Any:
    from markupsafe import Markup

    return Markup(text)  # noqa: S704 - our own files, nothing of the rows is in them


def _sections(has_map: bool, has_accuracy: bool) -> list[tuple[str, str]]:
    found = [("books", "Books"), ("answers", "Answers")]
    found += [("map", "Map")] if has_map else []
    found += [("accuracy", "Accuracy")] if has_accuracy else []
    found += [
        ("failures", "Failures"),
        ("money", "Money and time"),
        ("rows", "Row by row"),
        ("question", "What was asked"),
    ]
    return found
