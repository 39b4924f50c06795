"""Charts as SVG text, drawn here by Vega-Lite: a few KB each, no script in the page, and every mark has its own words.

vl-convert renders to SVG without a browser or network; a chart library in the page would weigh 1 to 4 MB instead.
Colours are CSS variables, so that one drawing serves light and dark. Pure but for that rendering.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any

from markupsafe import Markup, escape

from pipeline.report.facts import Histogram, Throughput

WIDE, NARROW = 540, 330  # pixels: half of the page, and a telephone
_HEIGHT = 210

_CONFIG: Mapping[str, Any] = {
    "font": "system-ui, sans-serif",
    "view": {"stroke": None},
    "axis": {
        "labelColor": "var(--muted)",
        "titleColor": "var(--muted)",
        "titleFontWeight": "normal",
        "labelFontSize": 12,
        "titleFontSize": 12,
        "gridColor": "var(--grid)",
        "domainColor": "var(--grid)",
        "tickColor": "var(--grid)",
    },
}


@dataclasses.dataclass(frozen=True, slots=True)
class Chart:
    """A drawing, and the same in words: `heads` and `rows` are its numbers as a table."""

    svg: Markup
    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def histogram(found: Histogram, summary: str, unit: str, show: Callable[[float], str]) -> Chart | None:
    """Bars over a number; None where all answers have the same one, or there are none.

    Args:
        found: the bins.
        summary: what the chart shows, for those who do not see it.
        unit: title of the axis.
        show: writes a number of the axis.
    """
    if not found.bins or found.bins[0][0] == found.bins[-1][1]:
        return None
    bars = [
        {"low": low, "high": high, "n": n, "say": f"{show(low)} to {show(high)}: {n:,} answers"}
        for low, high, n in found.bins
    ]
    scale = {"type": "log", "nice": False} if found.is_log else {"zero": False, "nice": False}
    spec = {
        "data": {"values": bars},
        "mark": {"type": "rect", "color": "var(--accent)", "stroke": "var(--card)", "strokeWidth": 1},
        "encoding": {
            "x": {
                "field": "low",
                "type": "quantitative",
                "scale": scale,
                "title": unit,
                "axis": {"grid": False, "tickCount": 6, "format": "~s" if not found.is_log else "~f"},
            },
            "x2": {"field": "high"},
            "y": {"field": "n", "type": "quantitative", "title": "answers", "axis": {"tickCount": 4, "format": "~s"}},
            "y2": {"datum": 0},
            "description": {"field": "say"},
        },
    }
    rows = tuple((f"{show(low)} to {show(high)}", f"{n:,}") for low, high, n in found.bins)
    return Chart(_both_widths(spec, summary), (unit, "answers"), rows)


def throughput(found: Throughput, summary: str) -> Chart | None:
    """Rows a second over time, failures on top; None where all was written in one step."""
    if len(found.steps) < 2:
        return None
    bars: list[dict[str, Any]] = []
    rows: list[tuple[str, ...]] = []
    for start, answers, failures in found.steps:
        begin = start.timestamp() * 1000
        end = begin + found.step_secs * 1000
        rate, failed = answers / found.step_secs, failures / found.step_secs
        say = f"{start:%Y-%m-%d %H:%M:%S} UTC, {found.step_secs:,} s: {answers:,} answered, {failures:,} failed"
        bars.append({"begin": begin, "end": end, "low": 0, "high": rate, "what": "answered", "say": say})
        bars.append({"begin": begin, "end": end, "low": rate, "high": rate + failed, "what": "failed", "say": say})
        rows.append((f"{start:%Y-%m-%d %H:%M:%S}", f"{answers:,}", f"{failures:,}"))
    spec = {
        "data": {"values": [bar for bar in bars if bar["high"] > bar["low"]]},
        "mark": {"type": "rect"},
        "encoding": {
            "x": {
                "field": "begin",
                "type": "temporal",
                "scale": {"type": "utc"},
                "title": "time (UTC)",
                "axis": {
                    "grid": False,
                    "tickCount": 4,
                    "format": _time_format(found),
                    "labelOverlap": "greedy",
                    "labelSeparation": 12,
                },
            },
            "x2": {"field": "end"},
            "y": {"field": "low", "type": "quantitative", "title": "rows a second", "axis": {"tickCount": 4}},
            "y2": {"field": "high"},
            "color": {
                "field": "what",
                "type": "nominal",
                "legend": None,
                "scale": {"domain": ["answered", "failed"], "range": ["var(--accent)", "var(--bad)"]},
            },
            "description": {"field": "say"},
        },
    }
    return Chart(_both_widths(spec, summary), ("from (UTC)", "answered", "failed"), tuple(rows))


def _time_format(found: Throughput) -> str:
    """As much of the time as tells the axis' ends apart."""
    secs = found.step_secs * len(found.steps)
    return "%H:%M:%S" if secs < 600 else "%H:%M" if secs < 86_400 else "%b %d %H:%M" if secs < 10 * 86_400 else "%b %d"


def _both_widths(spec: Mapping[str, Any], summary: str) -> Markup:
    return draw(spec, WIDE, summary, "wide") + draw(spec, NARROW, summary, "narrow")


def draw(spec: Mapping[str, Any], width: int, summary: str, kind: str) -> Markup:
    """An `img` of SVG: its marks keep their words for the pointer, `summary` is what is read aloud."""
    import vl_convert

    full = {
        "height": _HEIGHT,
        "width": width,
        "background": None,
        "padding": {"left": 2, "right": 16, "top": 6, "bottom": 2},
        "autosize": {"type": "fit", "contains": "padding"},
        "config": _CONFIG,
        **spec,
    }
    drawn = vl_convert.vegalite_to_svg(full)
    head = f'<svg role="img" aria-label="{escape(summary)}" class="chart {kind}"'
    found = re.match(r"<svg\b[^>]*?\bclass=\"marks\"", drawn)
    if found is None:  # then its text would not be what is known to be safe here
        raise ValueError(f"vl-convert drew something else than expected: {drawn[:200]}")
    # Marks within an image have neither role nor name of their own; their words stay, for the pointer. Text has no "<".
    mark = r'(<path) aria-label="([^"]*)" role="graphics-symbol" aria-roledescription="[^"]*"'
    drawn = re.sub(mark, r'\1 data-say="\2"', drawn[found.end() :])
    return Markup(head + drawn)  # noqa: S704 - Vega escapes all text; tested with hostile labels
