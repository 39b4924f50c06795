"""The map: circles where the answers are, coloured by what they say. No tiles: it needs no network and tells nobody."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from pipeline.report.charts import draw
from pipeline.report.facts import Map, Spot

WIDTH = 860  # pixels
COLOURS = 10  # categories with a colour of their own; --c0 to --c9 in page.css, --c-rest for the others
_LEAST_SPAN_DEGREES = 0.002  # some 200 m: a single place is a map too
_KM_PER_DEGREE = 111.32  # of latitude; of longitude at the equator
_MARGIN = 1.08
_SPOT = 60.0  # square pixels of the circle of one answer
_MOST = 8.0  # times as large is the largest circle where each has a place of its own


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


@dataclasses.dataclass(frozen=True, slots=True)
class _Frame:
    """Bounds in degrees, the height in pixels, and how many pixels the longer side of the places takes."""

    x: tuple[float, float]
    y: tuple[float, float]
    height: int
    width_km: float
    extent_px: float


def places(found: Map, summary: str) -> MapChart:
    """Circles where the answers are, in a frame that is true to scale; the rarest categories lie on top."""
    counts = {_name(spot.said): spot.total for spot in found.spots}
    ordered = sorted(counts, key=lambda name: (-counts[name], name))
    own = ordered if len(ordered) == COLOURS + 1 else ordered[:COLOURS]
    rest = ordered[len(own) :]
    names = own + (["other"] if rest else [])
    layers, categories = [], []
    frame = _frame(found.spots)
    most = max(spot.answers for spot in found.spots)
    largest = _MOST * _SPOT if found.cells is None else math.pi / 4 * (frame.extent_px / found.cells) ** 2
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
        layers.append(_spots(points, colour, most, largest))
    spec = {
        "height": frame.height,
        "layer": layers,
        "encoding": {
            "x": {
                "type": "quantitative",
                "scale": {"domain": list(frame.x), "nice": False, "zero": False},
                "title": "longitude",
                "axis": {"tickCount": 6},
            },
            "y": {
                "type": "quantitative",
                "scale": {"domain": list(frame.y), "nice": False, "zero": False},
                "title": "latitude",
                "axis": {"tickCount": 5},
            },
        },
    }
    return MapChart(draw(spec, WIDTH, summary, ""), tuple(categories), frame.width_km)


def _spots(points: Sequence[Mapping[str, Any]], colour: str, most: int, largest: float) -> dict[str, Any]:
    """One category's circles, as many times larger as there are more answers; a cell's do not cover its neighbours."""
    smallest = min(_SPOT, largest / 4)
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
                "scale": {"domain": [1, max(most, 2)], "range": [smallest, min(largest, smallest * max(most, 2))]},
            },
            "description": {"field": "say"},
        },
    }


def _frame(spots: Sequence[Spot]) -> _Frame:
    """A frame that is true to scale: no flatter than 1:2.6 and no taller than 1:1.3, whatever the places' outline."""
    ys, xs = [spot.latitude for spot in spots], [spot.longitude for spot in spots]
    middle_y, middle_x = (max(ys) + min(ys)) / 2, (max(xs) + min(xs)) / 2
    shrink = max(math.cos(math.radians(middle_y)), 0.05)
    # Both in degrees of latitude.
    place_height = max(max(ys) - min(ys), _LEAST_SPAN_DEGREES)
    place_width = max((max(xs) - min(xs)) * shrink, _LEAST_SPAN_DEGREES)
    tall, wide = place_height * _MARGIN, place_width * _MARGIN
    wide, tall = max(wide, 1.3 * tall), max(tall, wide / 2.6)
    return _Frame(
        x=(middle_x - wide / shrink / 2, middle_x + wide / shrink / 2),
        y=(middle_y - tall / 2, middle_y + tall / 2),
        height=round(WIDTH * tall / wide),
        width_km=wide * _KM_PER_DEGREE,
        extent_px=max(place_height, place_width) * WIDTH / wide,
    )


def _name(said: str | None) -> str:
    return "(nothing)" if said in (None, "") else str(said)
