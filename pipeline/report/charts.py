"""Charts as SVG text, drawn here by Vega-Lite: a few KB each, no script in the page, and every mark has its own words.

vl-convert renders to SVG without a browser or network; a chart library in the page would weigh 1 to 4 MB instead.
Colours are CSS variables, so that one drawing serves light and dark. Pure but for that rendering.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from markupsafe import Markup, escape

from pipeline.report.facts import Histogram, Map, Throughput

WIDE, NARROW = 540, 330  # pixels: half of the page, and a telephone
MAP_WIDTH = 860
COLOURS = 10  # categories with a colour of their own; --c0 to --c9 in page.css, --c-rest for the others
_HEIGHT = 210
_LEAST_SPAN_DEGREES = 0.002  # some 200 m: a single place is a map too
_METRES_PER_DEGREE = 111_320.0  # of latitude; of longitude at the equator

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


@dataclasses.dataclass(frozen=True, slots=True)
class Category:
    """What a colour stands for. `layer` is the class of its marks, `colour` the name of a CSS variable."""

    name: str
    layer: str
    colour: str
    answers: int


@dataclasses.dataclass(frozen=True, slots=True)
class MapChart:
    """The map, its legend, and how wide it is on the ground."""

    svg: Markup
    categories: tuple[Category, ...]
    width_km: float


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


def places(found: Map, summary: str) -> MapChart:
    """Circles where the answers are, in a frame that is true to scale; the rarest categories lie on top."""
    counts: dict[str, int] = {}
    for spot in found.spots:
        counts[_name(spot.said)] = counts.get(_name(spot.said), 0) + spot.answers
    ordered = sorted(counts, key=lambda name: (-counts[name], name))
    own = ordered if len(ordered) == COLOURS + 1 else ordered[:COLOURS]
    rest = ordered[len(own) :]
    names = own + (["other"] if rest else [])
    layers, categories = [], []
    frame, width_km, height = _frame(found)
    most = max(spot.answers for spot in found.spots)
    for place, name in enumerate(names):
        members = rest if place == len(own) else [name]
        points = [
            {
                "x": round(spot.longitude, 6),
                "y": round(spot.latitude, 6),
                "n": spot.answers,
                "say": f"{_name(spot.said)}: {spot.answers:,} at {spot.latitude:.5f}, {spot.longitude:.5f}",
            }
            for spot in found.spots
            if _name(spot.said) in members
        ]
        colour = "--c-rest" if place >= COLOURS else f"--c{place}"
        shown = f"{len(rest)} others" if place == len(own) else name
        categories.append(Category(shown, f"layer_{place}_marks", colour, sum(counts[each] for each in members)))
        layers.append(_spots(points, colour, most))
    spec = {
        "height": height,
        "layer": layers,
        "encoding": {
            "x": {
                "type": "quantitative",
                "scale": {"domain": frame[0], "nice": False, "zero": False},
                "title": "longitude",
                "axis": {"tickCount": 6},
            },
            "y": {
                "type": "quantitative",
                "scale": {"domain": frame[1], "nice": False, "zero": False},
                "title": "latitude",
                "axis": {"tickCount": 5},
            },
        },
    }
    return MapChart(_svg(spec, MAP_WIDTH, summary, ""), tuple(categories), width_km)


def _spots(points: Sequence[Mapping[str, Any]], colour: str, most: int) -> dict[str, Any]:
    return {
        "data": {"values": list(points)},
        "mark": {
            "type": "circle",
            "color": f"var({colour})",
            "opacity": 0.85,
            "stroke": "var(--card)",
            "strokeWidth": 0.7,
            "clip": True,
        },
        "encoding": {
            "x": {"field": "x"},
            "y": {"field": "y"},
            "size": {
                "field": "n",
                "type": "quantitative",
                "legend": None,
                # Areas, as many times larger as there are more answers, up to a point.
                "scale": {"type": "linear", "domain": [1, max(most, 2)], "range": [60, 60 * min(max(most, 2), 8)]},
            },
            "description": {"field": "say"},
        },
    }


def _frame(found: Map) -> tuple[tuple[list[float], list[float]], float, int]:
    """Bounds in degrees of longitude and latitude with a margin, the width in km, the height in pixels."""
    souths, wests = [spot.latitude for spot in found.spots], [spot.longitude for spot in found.spots]
    middle_y, middle_x = (max(souths) + min(souths)) / 2, (max(wests) + min(wests)) / 2
    shrink = max(math.cos(math.radians(middle_y)), 0.05)
    tall = max(max(souths) - min(souths), _LEAST_SPAN_DEGREES) * 1.08
    wide = max((max(wests) - min(wests)) * shrink, _LEAST_SPAN_DEGREES) * 1.08
    # No flatter than 1:2.6 and no taller than 1:1.3, whatever the places' outline.
    wide, tall = max(wide, 1.3 * tall), max(tall, wide / 2.6)
    height = round(MAP_WIDTH * tall / wide)
    x = [middle_x - wide / shrink / 2, middle_x + wide / shrink / 2]
    return (x, [middle_y - tall / 2, middle_y + tall / 2]), wide * _METRES_PER_DEGREE / 1000, height


def _name(said: str | None) -> str:
    return "(nothing)" if said in (None, "") else str(said)


def _both_widths(spec: Mapping[str, Any], summary: str) -> Markup:
    return _svg(spec, WIDE, summary, "wide") + _svg(spec, NARROW, summary, "narrow")


def _svg(spec: Mapping[str, Any], width: int, summary: str, kind: str) -> Markup:
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
    return Markup(head + drawn[found.end() :])  # noqa: S704 - Vega escapes all text; tested with hostile labels
