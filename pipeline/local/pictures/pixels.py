"""Tells from an image's pixels what the pictures of `drawing` show: colours, shapes, counts, angles, lettering.

It is right about most drawn pictures and makes something up, always the same, of any other.
"""

from __future__ import annotations

import dataclasses
import functools
import io
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.local.pictures import drawing, signs
from pipeline.local.pictures.seen import Planes, Seen, extent, standard, thousandths
from pipeline.local.pictures.street import leaves_of, see_pole, see_sign

MAX_PIXELS: Final = 100_000_000  # larger ones are refused before they are decoded
_DARKENED: Final = 0.3  # what `drawing` makes of a dark picture's brightness
_SHARP_EDGE: Final = 34  # the 200th steepest step between neighbours, in a picture with an asset
_SHARP_GRAIN: Final = 1.6  # the mean step, on asphalt
_PLATE: Final = (120, 30)


def look(data: bytes) -> Seen:
    """What an encoded image shows.

    Raises:
        ValueError: It is no image that can be decoded.
    """
    try:
        with Image.open(io.BytesIO(data)) as opened:
            size = opened.size
            if size[0] * size[1] > MAX_PIXELS:
                raise ValueError(f"{size[0]} x {size[1]} pixels are too many")
            opened.draft("RGB", drawing.SIZE)
            image = opened.convert("RGB")
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(str(error)) from error
    if image.width != drawing.SIZE[0]:
        image = image.resize((drawing.SIZE[0], max(8, round(image.height * drawing.SIZE[0] / image.width))))
    dark = bool(np.percentile(np.asarray(image.convert("L"))[::4, ::4], 95) < 82)
    planes = Planes(image, 1 / _DARKENED if dark else 1.0)
    steps = np.abs(np.diff(planes.grey, axis=1))
    truck = np.ones_like(planes.red, dtype=bool)
    for plane, value in zip((planes.red, planes.green, planes.blue), drawing.TRUCK, strict=True):
        truck &= np.abs(plane - value) < 8
    seen = _of_kind(planes)
    if seen.kind == "maintenance_cover":
        blurred = bool(steps.mean() < _SHARP_GRAIN)
    else:
        blurred = bool(np.partition(steps.ravel(), -200)[-200] < _SHARP_EDGE)
    if blurred:  # blur takes contrast, and letters
        seen = dataclasses.replace(seen, text="", condition="good" if seen.condition == "faded" else seen.condition)
    return dataclasses.replace(
        seen,
        blurred=blurred,
        dark=dark,
        obstructed=bool(truck.mean() > 0.22),
        size=size,
    )


def _of_kind(planes: Planes) -> Seen:
    red, green, blue = planes.red, planes.green, planes.blue
    road = (planes.spread < 10) & (red > 84) & (red < 150)
    if road.mean() > 0.4:
        return _cover(planes)
    wood = (red < 136) & (red - blue > 40) & (red - green > 16) & (green - blue > 10)
    if wood.mean() > 0.008:
        return see_pole(planes, wood)
    leaf = leaves_of(red, green, blue)
    face = ((planes.spread >= 46) | (planes.least >= 224)) & ~leaf
    if face.mean() > 0.004:
        return see_sign(planes, face, leaf)
    return Seen(kind="other", colour=_colour_word(planes))


# --- covers


def _cover(planes: Planes) -> Seen:
    red, blue, light, spread = planes.red, planes.blue, planes.light, planes.spread
    rusty = (red - blue > 30) & (red < 150)
    iron = ((light < 82) & (spread <= 14) & (light > 44)) | rusty
    hole = light < 20
    if iron.mean() < 0.01:
        return Seen(kind="maintenance_cover", cover_type="none", condition="", outline="", colour="grey")
    left, top, right, bottom = extent(iron)
    wide, high = right - left, bottom - top
    area = np.zeros_like(iron)
    area[top:bottom, left:right] = True
    corner = max(4, min(wide, high) // 12)
    corners = iron | hole
    at_corners = [
        corners[y : y + corner, x : x + corner].mean() for y in (top, bottom - corner) for x in (left, right - corner)
    ]
    round_one = float(np.mean(at_corners)) < 0.5
    holes_inside = hole[top + 8 : bottom - 8, left + 8 : right - 8]
    columns = holes_inside.mean(axis=0) > 0.6
    slots = int((np.diff(columns.astype(np.int8)) == 1).sum() + columns[:1].sum())
    small = min(wide, high) < 120
    cover_type = "drain" if slots >= 3 else "valve" if small else "manhole" if round_one else "chamber"
    outside = hole & ~area
    beside = int(outside[top:bottom, max(0, left - wide // 2) : right + wide // 2].sum())
    bright = (light > 180) & area
    condition = "good"
    if beside > 0.08 * wide * high:
        condition = "displaced"
    elif bright.sum() > 0.012 * wide * high:
        condition = "damaged"
    elif (rusty & area).mean() > 0.3 * area.mean():
        condition = "worn"
    margin = np.ones_like(iron)
    margin[max(0, top - 4) : bottom + 4, max(0, left - wide // 2 - 12) : right + wide // 2 + 12] = False
    thin = (light < 62) & margin
    patch = (light > 90) & (light < 108) & (spread < 10) & ~area
    surface = "patched" if patch.sum() > 5000 else "cracked" if thin.sum() > 120 else ""
    return Seen(
        kind="maintenance_cover",
        cover_type=cover_type,
        condition=condition,
        surface=surface,
        text="" if cover_type in {"drain", "valve"} else _lettering(light, (left, top, right, bottom)),
        colour="brown" if condition == "worn" else "grey",
        outline="round" if round_one else "rectangular",
        box=thousandths((left, top, right, bottom), planes),
    )


@functools.cache
def _plates() -> tuple[tuple[str, ...], NDArray[np.float64]]:
    texts = tuple(text for of_type in drawing.COVER_TEXTS.values() for text in of_type if text)
    plates = [np.asarray(drawing.cover_plate(text).resize(_PLATE), dtype=np.float64) for text in texts]
    return texts, np.stack([standard(plate) for plate in plates])


def _lettering(light: NDArray[np.int16], box: tuple[int, int, int, int]) -> str:
    """The cast word that looks most like the middle of the cover."""
    left, top, right, bottom = box
    wide, high = right - left, bottom - top
    x0, x1 = left + round(wide * 0.125), right - round(wide * 0.125)
    y0, y1 = top + round(high * 0.405), bottom - round(high * 0.405)
    plate = Image.fromarray(np.clip(light[y0:y1, x0:x1], 0, 255).astype(np.uint8)).resize(_PLATE)
    texts, plates = _plates()
    likeness = plates @ standard(np.asarray(plate, dtype=np.float64))
    return texts[int(likeness.argmax())] if likeness.max() > 0.35 else ""


def _colour_word(planes: Planes) -> str:
    """The nearest word for the mean colour."""
    words = {
        "red": signs.RED,
        "yellow": signs.YELLOW,
        "green": signs.GREEN,
        "blue": signs.BLUE,
        "white": signs.WHITE,
        "black": signs.BLACK,
        "brown": drawing.WOOD,
        "grey": drawing.ASPHALT,
    }
    mean = [float(plane.mean()) for plane in (planes.red, planes.green, planes.blue)]
    return min(words, key=lambda word: sum(abs(a - b) for a, b in zip(mean, words[word], strict=True)))
