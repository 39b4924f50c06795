"""Finds road signs and utility poles, and what is on them, by the colours that `drawing` gives them."""

from __future__ import annotations

import functools
import math
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.local.pictures import drawing, signs
from pipeline.local.pictures.seen import Mask, Planes, Seen, count, extent, standard, thousandths

_FACE: Final = (64, 64)


def leaves_of(red: Any, green: Any, blue: Any) -> Any:
    return (green > red + 14) & (green - blue > 48) & (green < 130)


# --- signs


@functools.cache
def _faces() -> list[tuple[str, str, float, NDArray[np.float64], NDArray[np.float64]]]:
    """Type, text, width / height, colours and opacity of every sign that is drawn."""
    faces = []
    for sign_type, texts in signs.SIGN_TEXTS.items():
        for text in texts:
            face = signs.sign_face(sign_type, text)
            small = np.asarray(face.resize(_FACE, Image.Resampling.BOX), dtype=np.float64)
            faces.append((sign_type, text, face.width / face.height, small[..., :3], small[..., 3] / 255))
    return faces


def see_sign(planes: Planes, mask: Mask, leaves: Mask) -> Seen:
    box = extent(mask)
    left, top, right, bottom = box
    face = np.asarray(planes.image(box).resize(_FACE, Image.Resampling.BOX), dtype=np.float64)
    inside = np.asarray(
        Image.fromarray(mask[top:bottom, left:right].astype(np.uint8) * 255).resize(_FACE, Image.Resampling.BOX)
    )
    inside = inside > 100
    red, green, blue = face[..., 0], face[..., 1], face[..., 2]
    leaf = leaves_of(red, green, blue)
    rust = (np.abs(red - drawing.RUST[0]) < 30) & (np.abs(green - drawing.RUST[1]) < 26) & (blue < 70)
    best, best_score, contrast = ("other", ""), -2.0, 1.0
    aspect = (right - left) / max(1, bottom - top)
    for sign_type, text, wanted_aspect, colours, opacity in _faces():
        weight = opacity * ~leaf * ~rust
        total = weight.sum()
        if total < 100:
            continue
        weights = np.repeat((weight / total / 3)[..., None], 3, axis=2)
        here, there = face - (face * weights).sum(), colours - (colours * weights).sum()
        here_size, there_size = math.sqrt((here**2 * weights).sum()), math.sqrt((there**2 * weights).sum())
        likeness = (here * there * weights).sum() / max(1e-6, here_size * there_size)
        solid = opacity > 0.5
        overlap = (inside & solid & ~leaf).sum() / max(1, ((inside | solid) & ~leaf).sum())
        score = likeness + 0.3 * overlap - 0.5 * abs(math.log(aspect / wanted_aspect)) * (1 if not leaf.any() else 0.4)
        if score > best_score:
            best, best_score, contrast = (sign_type, text), score, here_size / max(1e-6, there_size)
    condition = "good"
    if leaves.sum() > 0.08 * (right - left) * (bottom - top):
        condition = "obscured"
    elif rust.mean() > 0.02:
        condition = "damaged"
    elif contrast < 0.75:
        condition = "faded"
    return Seen(
        kind="road_sign",
        sign_type=best[0],
        text=best[1],
        condition=condition,
        colour=_SIGN_COLOURS.get(best[0], "white"),
        outline=_SIGN_OUTLINES.get(best[0], "rectangle"),
        box=thousandths(box, planes),
    )


_SIGN_COLOURS: Final = {
    "stop": "red",
    "yield": "red",
    "no_entry": "red",
    "warning": "yellow",
    "pedestrian_crossing": "yellow",
    "one_way": "black",
    "street_name": "green",
    "parking": "blue",
}
_SIGN_OUTLINES: Final = {
    "stop": "octagon",
    "yield": "triangle",
    "no_entry": "circle",
    "warning": "diamond",
    "pedestrian_crossing": "pentagon",
}


# --- poles


def see_pole(planes: Planes, wood: Mask) -> Seen:
    red, green, blue = planes.red, planes.green, planes.blue
    cans = (planes.light < 112) & (blue - red > 10)
    lamps = (red > 224) & (red - blue > 84) & (green >= 212)
    boxes = (green - red > 26) & (green - blue > 8) & (red < 110)
    badge = (red > 200) & (green > 160) & (green < 218) & (blue < 112)
    return Seen(
        kind="utility_pole",
        condition="good",
        text=_badge(planes, badge),
        transformers=count(cans, 500),
        lamps=count(lamps, 220),
        junction_boxes=count(boxes, 300),
        lean_degrees=_lean(wood),
        colour="brown",
        outline="pole",
        box=thousandths(extent(wood), planes),
    )


def _lean(wood: Mask) -> float:
    """Degrees between the pole and the vertical, by the middle of its wood in the rows below the crossarms."""
    first = wood.shape[0] * 2 // 5
    lower = wood[first:-4]
    counts = lower.sum(axis=1)
    middles = (lower * np.arange(wood.shape[1])).sum(axis=1) / np.maximum(counts, 1)
    whole = (counts >= 7) & (counts <= 24)
    if whole.sum() < 30:
        return 0.0
    slope = _slope(np.flatnonzero(whole), middles[whole])
    return abs(round(math.degrees(math.atan(slope)), 1))


def _slope(rows: NDArray[Any], middles: NDArray[Any]) -> float:
    """Of the straight line through most points: what is fixed to the pole hides some of it."""
    for _ in range(3):
        slope, start = np.polyfit(rows, middles, 1)
        off = np.abs(middles - (slope * rows + start))
        near = off <= max(1.5, float(np.percentile(off, 80)))
        rows, middles = rows[near], middles[near]
    return float(slope)


@functools.cache
def _glyphs() -> tuple[str, NDArray[np.float64]]:
    letters = drawing.BADGE_LETTERS + "0123456789"
    cells = [np.asarray(drawing.glyph(letter), dtype=np.float64) for letter in letters]
    return letters, np.stack([standard(cell) for cell in cells])


def _badge(planes: Planes, mask: Mask) -> str:
    """The characters of the badge, cell by cell; they are all equally wide."""
    rows = mask.sum(axis=1)
    if rows.max() < 20:
        return ""
    full = np.flatnonzero(rows >= 0.35 * rows.max())
    middle = int(np.median(full))
    columns = np.flatnonzero(mask[max(0, middle - 12) : middle + 13].sum(axis=0) >= 4)
    wide, high = drawing.BADGE_CELL
    left, right, top, bottom = columns.min(), columns.max() + 1, full.min(), full.max() + 1
    cells = round((right - left - 8) / wide)
    if not 1 <= cells <= 12:
        return ""
    letters, glyphs = _glyphs()
    x0, y0 = round((left + right) / 2 - cells * wide / 2), round((top + bottom) / 2 - high / 2)
    best_text, best_score = "", 0.6
    for x in (x0 - 1, x0, x0 + 1):
        for y in (y0 - 1, y0, y0 + 1):
            strip = planes.grey[y : y + high, x : x + cells * wide].astype(np.float64)
            if strip.shape != (high, cells * wide):
                continue
            likeness = [glyphs @ standard(cell) for cell in np.split(strip, cells, axis=1)]
            score = float(np.mean([each.max() for each in likeness]))
            if score > best_score:
                best_text, best_score = "".join(letters[int(each.argmax())] for each in likeness), score
    return best_text
