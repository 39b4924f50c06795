"""Draws the faces of road signs; their colours and texts are what `pixels` goes by."""

from __future__ import annotations

import functools
from typing import Final

from PIL import Image, ImageDraw, ImageFont

FACE_HEIGHT: Final = 240  # sign faces are drawn this high and scaled down, which smooths their edges

SIGN_TEXTS: Final = {
    "stop": ("STOP",),
    "yield": ("YIELD",),
    "speed_limit": ("SPEED LIMIT 25", "SPEED LIMIT 35", "SPEED LIMIT 50"),
    "no_entry": ("DO NOT ENTER",),
    "no_parking": ("NO PARKING",),
    "warning": ("",),
    "pedestrian_crossing": ("",),
    "one_way": ("ONE WAY",),
    "street_name": ("MAPLE ST", "OAK AVE", "MAIN ST"),
    "parking": ("P",),
}

WHITE, BLACK = (250, 250, 250), (18, 18, 18)
RED, YELLOW, LIME = (200, 25, 35), (250, 205, 40), (190, 235, 30)
GREEN, BLUE = (0, 120, 80), (25, 75, 190)


@functools.cache
def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's own typeface: no file of the machine is needed."""
    return ImageFont.load_default(size)


@functools.cache
def sign_face(sign_type: str, text: str) -> Image.Image:
    """A sign's face, FACE_HEIGHT high, transparent outside its outline; white edge, as real ones have."""
    high = FACE_HEIGHT
    wide = {"street_name": high * 3, "one_way": high * 2, "speed_limit": high * 4 // 5}.get(sign_type, high)
    face = Image.new("RGBA", (wide, high), (0, 0, 0, 0))
    pen = ImageDraw.Draw(face)
    mid_x, mid_y, edge = wide / 2, high / 2, high * 0.045
    match sign_type:
        case "stop":
            for inset, colour in ((0.0, WHITE), (edge, RED)):
                pen.regular_polygon((mid_x, mid_y, (mid_y - inset) * 1.08), 8, rotation=22.5, fill=colour)
            _write(pen, text, (mid_x, mid_y), 74, WHITE)
        case "yield":
            for inset, colour in ((0.0, WHITE), (edge, RED), (edge * 6, WHITE)):
                top, middle = inset * 0.6, inset * 0.85
                pen.polygon([(middle, top), (wide - middle, top), (mid_x, high - inset * 1.1)], fill=colour)
            _write(pen, text, (mid_x, high * 0.27), 30, RED)
        case "speed_limit":
            _plate(pen, (wide, high), WHITE, BLACK)
            first, second, number = text.split()
            for word, y, size in ((first, 0.19, 42), (second, 0.37, 42), (number, 0.69, 104)):
                _write(pen, word, (mid_x, high * y), size, BLACK)
        case "no_entry":
            pen.ellipse((0, 0, wide - 1, high - 1), fill=WHITE)
            pen.ellipse((edge, edge, wide - edge, high - edge), fill=RED)
            pen.rectangle((wide * 0.16, high * 0.41, wide * 0.84, high * 0.59), fill=WHITE)
            _write(pen, "DO NOT", (mid_x, high * 0.27), 38, WHITE)
            _write(pen, "ENTER", (mid_x, high * 0.73), 38, WHITE)
        case "no_parking":
            _plate(pen, (wide, high), WHITE, RED)
            _write(pen, "P", (mid_x, high * 0.37), 110, BLACK)
            pen.ellipse((wide * 0.24, high * 0.1, wide * 0.76, high * 0.62), outline=RED, width=16)
            pen.line((wide * 0.32, high * 0.19, wide * 0.68, high * 0.54), fill=RED, width=16)
            _write(pen, "NO PARKING", (mid_x, high * 0.8), 32, RED)
        case "warning":
            for inset, colour in ((0.0, WHITE), (edge, YELLOW)):
                pen.polygon([(mid_x, inset), (wide - inset, mid_y), (mid_x, high - inset), (inset, mid_y)], fill=colour)
            pen.arc((wide * 0.3, high * 0.34, wide * 0.66, high * 0.9), 180, 300, fill=BLACK, width=22)
            pen.polygon(
                [(wide * 0.52, high * 0.28), (wide * 0.74, high * 0.44), (wide * 0.53, high * 0.56)], fill=BLACK
            )
        case "pedestrian_crossing":
            for inset, colour in ((0.0, WHITE), (edge, LIME)):
                pen.polygon(
                    [(mid_x, inset), (wide - inset, high * 0.35), (wide - inset, high - inset),
                     (inset, high - inset), (inset, high * 0.35)],
                    fill=colour,
                )  # fmt: skip
            pen.ellipse((mid_x - 17, high * 0.22, mid_x + 17, high * 0.22 + 34), fill=BLACK)
            pen.line((mid_x, high * 0.36, mid_x, high * 0.64), fill=BLACK, width=24)
            for foot, hand in ((-42, -48), (42, 48)):
                pen.line((mid_x, high * 0.62, mid_x + foot, high * 0.9), fill=BLACK, width=17)
                pen.line((mid_x, high * 0.42, mid_x + hand, high * 0.58), fill=BLACK, width=13)
        case "one_way":
            _plate(pen, (wide, high), BLACK, WHITE)
            pen.polygon(
                [(wide * 0.08, high * 0.36), (wide * 0.72, high * 0.36), (wide * 0.72, high * 0.16),
                 (wide * 0.94, high * 0.5), (wide * 0.72, high * 0.84), (wide * 0.72, high * 0.64),
                 (wide * 0.08, high * 0.64)],
                fill=WHITE,
            )  # fmt: skip
            _write(pen, text, (wide * 0.42, mid_y), 52, BLACK)
        case "street_name":
            _plate(pen, (wide, high), GREEN, WHITE)
            _write(pen, text, (mid_x, mid_y), 140, WHITE)
        case "parking":
            _plate(pen, (wide, high), BLUE, WHITE)
            _write(pen, text, (mid_x, mid_y), 180, WHITE)
        case _:
            raise ValueError(f"no such sign: {sign_type!r}")
    return face


def _plate(
    pen: ImageDraw.ImageDraw, size: tuple[int, int], colour: tuple[int, int, int], inner: tuple[int, int, int]
) -> None:
    """A rectangle with a white edge and a thin inner line."""
    wide, high = size
    pen.rounded_rectangle((0, 0, wide - 1, high - 1), 14, fill=WHITE)
    pen.rounded_rectangle((9, 9, wide - 10, high - 10), 12, fill=colour, outline=inner, width=6)


def _write(
    pen: ImageDraw.ImageDraw, text: str, middle: tuple[float, float], size: int, colour: tuple[int, int, int]
) -> None:
    pen.text(middle, text, fill=colour, font=font(size), anchor="mm", stroke_width=max(1, size // 26))
