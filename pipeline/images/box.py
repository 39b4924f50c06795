"""Where an image is cut: from a row's box to whole pixels. Pure.

The box is in pixels of the image as it is stored: before it is turned as its EXIF orientation says.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

_ENDS = ("lo", "hi")
_AXES = ("x", "y")


class BoxError(ValueError):
    """A box that cuts nothing out; the text says why."""


@dataclasses.dataclass(frozen=True, slots=True)
class Box:
    """A box in pixels, `x` to the right and `y` down; `lo` is its corner nearest to the origin."""

    left: float
    top: float
    right: float
    bottom: float

    def pixels(self, size: tuple[int, int], margin: float) -> tuple[int, int, int, int]:
        """What to cut out of an image of that size: (left, top, right, bottom) in whole pixels, none outside of it.

        Args:
            size: width and height.
            margin: what to add on each side, as a share of the box's longer side.

        Raises:
            BoxError: no part of the box lies in the image.
        """
        width, height = size
        if not (self.left < width and self.top < height and self.right > 0 and self.bottom > 0):
            raise BoxError(f"the box {self} lies outside of the image, which has {width} x {height} pixels")
        more = margin * max(self.right - self.left, self.bottom - self.top)
        return (
            max(0, math.floor(self.left - more)),
            max(0, math.floor(self.top - more)),
            min(width, math.ceil(self.right + more)),
            min(height, math.ceil(self.bottom + more)),
        )

    def __str__(self) -> str:
        return f"({self.left:g}, {self.top:g}) to ({self.right:g}, {self.bottom:g})"


def paths(column: str) -> list[str]:
    """The four numbers of a box column, as paths into its struct."""
    return [f"{column}.{end}.{axis}" for end in _ENDS for axis in _AXES]


def of_row(column: str, columns: Mapping[str, Any]) -> Box:
    """The box of a row, by the flat names under which the worklist has its numbers.

    Raises:
        BoxError: it is null, not finite, empty or inverted.
    """
    numbers = [columns.get(path.replace(".", "_")) for path in paths(column)]
    found = [float(number) for number in numbers if number is not None]
    if len(found) < len(numbers):
        raise BoxError(f"{column} is null")
    box = Box(*found)
    if not all(map(math.isfinite, found)):
        raise BoxError(f"the box {box} is not finite")
    if not (box.left < box.right and box.top < box.bottom):
        raise BoxError(f"the box {box} is empty or inverted")
    return box
