"""What can be found in an image, and the tools to find it: planes, boxes, blobs."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Plane = NDArray[np.int16]
Mask = NDArray[np.bool_]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What was found in one image; `kind` is "road_sign", "utility_pole", "maintenance_cover" or "other".

    `box` is the main object's (left, top, right, bottom) in thousandths of the image; `colour` and `outline` are words.
    The other fields are those of `drawing.Scene`.
    """

    kind: str
    sign_type: str = ""
    cover_type: str = ""
    text: str = ""
    condition: str = ""
    surface: str = ""
    transformers: int = 0
    lamps: int = 0
    junction_boxes: int = 0
    lean_degrees: float = 0.0
    colour: str = "grey"
    outline: str = ""
    blurred: bool = False
    dark: bool = False
    obstructed: bool = False
    box: tuple[int, int, int, int] = (0, 0, 1000, 1000)
    size: tuple[int, int] = (0, 0)


class Planes:
    """An image as planes of one colour each: numpy adds up whole planes ten times faster than triples."""

    def __init__(self, image: Image.Image, gain: float = 1.0) -> None:
        planes = [np.asarray(band, dtype=np.int16) for band in image.split()]
        if gain != 1.0:
            planes = [np.minimum(plane * gain, 255).astype(np.int16) for plane in planes]
        self.red, self.green, self.blue = planes
        self.light: Plane = np.maximum(np.maximum(self.red, self.green), self.blue)
        self.least: Plane = np.minimum(np.minimum(self.red, self.green), self.blue)
        self.spread: Plane = self.light - self.least

    @functools.cached_property
    def grey(self) -> Plane:
        """Mean of the three colours."""
        mean: Plane = (self.red + self.green + self.blue) // 3
        return mean

    def image(self, box: tuple[int, int, int, int]) -> Image.Image:
        """A part of the image."""
        left, top, right, bottom = box
        return Image.merge(
            "RGB",
            [Image.fromarray(p[top:bottom, left:right].astype(np.uint8)) for p in (self.red, self.green, self.blue)],
        )


def extent(mask: Mask) -> tuple[int, int, int, int]:
    """The box around nearly all of a mask: stray pixels are left out."""
    rows, columns = np.cumsum(mask.sum(axis=1)), np.cumsum(mask.sum(axis=0))
    least, most = 0.004 * rows[-1], 0.996 * rows[-1]
    top, bottom = np.searchsorted(rows, least), np.searchsorted(rows, most)
    left, right = np.searchsorted(columns, least), np.searchsorted(columns, most)
    return int(left), int(top), int(right) + 1, int(bottom) + 1


def thousandths(box: tuple[int, int, int, int], planes: Planes) -> tuple[int, int, int, int]:
    high, wide = planes.red.shape
    left, top, right, bottom = box
    return (left * 1000 // wide, top * 1000 // high, right * 1000 // wide, bottom * 1000 // high)


def count(mask: Mask, least: int) -> int:
    """Connected blobs of at least so many pixels."""
    step = 3
    coarse = mask[::step, ::step]
    cells = {(int(y), int(x)) for y, x in np.argwhere(coarse)}
    blobs = 0
    while cells:
        todo, size = [cells.pop()], 0
        while todo:
            y, x = todo.pop()
            size += 1
            for near in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
                if near in cells:
                    cells.remove(near)
                    todo.append(near)
        blobs += size * step * step >= least
    return blobs


def standard(cell: NDArray[np.float64]) -> NDArray[np.float64]:
    flat = cell.ravel() - cell.mean()
    return np.asarray(flat / max(1e-6, float(np.linalg.norm(flat))))
