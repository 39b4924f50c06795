"""Draws street-like pictures: road signs, utility poles, maintenance covers. Deterministic; needs Pillow alone.

What is in a picture is a `Scene`. The colours of backgrounds stay dull and those of assets are their own, so that
`pixels` can tell what is there by looking: it is no proof of a model, it is a picture with a known truth.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import random
from typing import Final

from PIL import Image, ImageDraw, ImageEnhance, ImageFilter

from pipeline.local.pictures.signs import BLACK, font, sign_face

SIZE: Final = (480, 360)

SIGN_CONDITIONS: Final = ("good", "faded", "damaged", "obscured")
COVER_TEXTS: Final = {
    "manhole": ("SEWER", "WATER", "STORM"),
    "chamber": ("TELECOM", "GAS"),
    "drain": ("",),
    "valve": ("",),
}
COVER_SHAPE: Final = {"manhole": "round", "chamber": "rectangular", "drain": "rectangular", "valve": "round"}
COVER_CONDITIONS: Final = ("good", "worn", "damaged", "displaced")
SURFACES: Final = ("", "cracked", "patched")
BADGE_LETTERS: Final = "ABCEHKLMPRTX"
BADGE_CELL: Final = (14, 20)  # width and height of one character of a badge, pixels

LEAF, RUST = (60, 95, 20), (150, 82, 34)
WOOD, TRANSFORMER, LAMP, BOX, BADGE = (112, 76, 46), (58, 66, 80), (255, 226, 120), (64, 116, 92), (245, 205, 40)
ASPHALT, PATCH, SURFACE_CRACK, HOLE = (126, 126, 128), (98, 98, 101), (30, 30, 32), (6, 6, 8)
IRON, IRON_RUST, PATTERN, LETTERS, CRACK = (66, 66, 72), (112, 66, 38), (84, 84, 92), (152, 152, 160), (222, 216, 200)
TRUCK: Final = (176, 178, 182)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """What one picture shows.

    Attributes:
        kind: "road_sign", "utility_pole" or "maintenance_cover".
        sign_type: One of SIGN_TEXTS.
        text: What stands on the sign, the pole's badge or the cover.
        condition: One of SIGN_CONDITIONS or COVER_CONDITIONS.
        transformers, lamps, junction_boxes: How many hang on the pole.
        lean_degrees: The pole's angle from the vertical.
        cover_type: One of COVER_TEXTS.
        surface: What is wrong with the surface around a cover, one of SURFACES.
        blurred, dark, obstructed: What is wrong with the picture.
        scale: How large the asset is, 1.0 being its usual size.
        offset: Where it stands between left (-1.0) and right (1.0).
    """

    kind: str
    sign_type: str = ""
    text: str = ""
    condition: str = "good"
    transformers: int = 0
    lamps: int = 0
    junction_boxes: int = 0
    lean_degrees: int = 0
    cover_type: str = ""
    surface: str = ""
    blurred: bool = False
    dark: bool = False
    obstructed: bool = False
    scale: float = 1.0
    offset: float = 0.0


@dataclasses.dataclass(frozen=True, slots=True)
class Drawn:
    """A picture and its asset's box (left, top, right, bottom) in pixels."""

    image: Image.Image
    box: tuple[int, int, int, int]


def draw(scene: Scene, rng: random.Random) -> Drawn:
    """The picture of a scene; the same for the same `rng` state."""
    if scene.kind == "maintenance_cover":
        drawn = _draw_cover(scene, rng)
    else:
        image = _street(rng)
        drawn = Drawn(image, _draw_sign(image, scene, rng) if scene.kind == "road_sign" else _draw_pole(image, scene))
    image = drawn.image
    if scene.obstructed:
        _draw_truck(image, rng)
    if scene.blurred:
        image = image.filter(ImageFilter.GaussianBlur(5))
    if scene.dark:
        image = ImageEnhance.Brightness(image).enhance(0.3)
    return Drawn(image, drawn.box)


@functools.cache
def _sky() -> Image.Image:
    """Sky and ground behind a street; the ground begins at 64 % of the height."""
    high = SIZE[1]
    horizon = int(high * 0.64)
    column = Image.new("RGB", (1, high))
    for y in range(high):
        part = min(1.0, y / horizon)
        colour = (int(168 + 36 * part), int(182 + 25 * part), int(200 + 12 * part))
        column.putpixel((0, y), colour if y < horizon else (128, 134, 108))
    return column.resize(SIZE)


def _street(rng: random.Random) -> Image.Image:
    wide, high = SIZE
    image = _sky().copy()
    pen = ImageDraw.Draw(image)
    horizon = int(high * 0.64)
    for _ in range(rng.randint(1, 3)):  # clouds
        x, y = rng.randint(0, wide), rng.randint(10, 90)
        for _ in range(3):
            w = rng.randint(40, 90)
            pen.ellipse((x, y, x + w, y + w // 4), fill=(205, 209, 213))
            x, y = x + rng.randint(15, 35), y + rng.randint(-6, 6)
    x = rng.randint(-60, 0)
    while x < wide:  # buildings
        w, h = rng.randint(60, 120), rng.randint(30, 62)
        pen.rectangle(
            (x, horizon - h, x + w, horizon), fill=rng.choice(((178, 168, 156), (152, 146, 142), (190, 183, 173)))
        )
        for window in range(x + 10, x + w - 12, 22):
            pen.rectangle((window, horizon - h + 9, window + 10, horizon - h + 23), fill=(126, 133, 140))
        x += w + rng.randint(4, 40)
    left, right = rng.randint(-80, 120), rng.randint(360, 560)
    middle = rng.randint(170, 310)
    pen.polygon([(middle - 26, horizon), (middle + 26, horizon), (right, high), (left, high)], fill=(116, 116, 119))
    for part in (0.1, 0.35, 0.65):
        y0, y1 = horizon + (high - horizon) * part, horizon + (high - horizon) * (part + 0.14)
        x0, x1 = (middle + ((left + right) / 2 - middle) * ((y - horizon) / (high - horizon)) for y in (y0, y1))
        pen.line((x0, y0, x1, y1), fill=(198, 197, 192), width=int(2 + 5 * part))
    return image


def _draw_sign(image: Image.Image, scene: Scene, rng: random.Random) -> tuple[int, int, int, int]:
    wide, high = SIZE
    face = sign_face(scene.sign_type, scene.text).copy()
    alpha = face.getchannel("A")
    match scene.condition:
        case "faded":
            face = Image.blend(face.convert("RGB"), Image.new("RGB", face.size, (196, 196, 196)), 0.42).convert("RGBA")
        case "damaged":
            pen = ImageDraw.Draw(face)
            for _ in range(7):
                x, y, r = rng.uniform(0.15, 0.85) * face.width, rng.uniform(0.2, 0.8) * face.height, rng.randint(13, 24)
                pen.ellipse((x - r, y - r, x + r, y + r * 0.8), fill=RUST)
    face.putalpha(alpha)
    face_high = round((52 if scene.sign_type == "street_name" else 104) * scene.scale)
    face = face.resize((face.width * face_high // face.height, face_high), Image.Resampling.LANCZOS, reducing_gap=2.0)
    x = round(wide / 2 + scene.offset * (wide - face.width - 60) / 2)
    top = rng.randint(34, 64)
    left = x - face.width // 2
    pen = ImageDraw.Draw(image)
    pen.rectangle((x - 4, top + face_high // 2, x + 4, high - 34), fill=(136, 137, 140))
    image.paste(face, (left, top), face)
    if scene.condition == "obscured":
        side = rng.choice((-1, 1))
        for _ in range(42):
            cx = x + side * face.width * rng.uniform(0.08, 0.75)
            cy, r = top + face_high * rng.uniform(-0.1, 1.1), rng.randint(6, 11)
            pen.ellipse((cx - r, cy - r, cx + r, cy + r * 0.7), fill=LEAF)
    return (left, top, left + face.width, top + face_high)


def _draw_pole(image: Image.Image, scene: Scene) -> tuple[int, int, int, int]:
    wide, high = SIZE
    pen = ImageDraw.Draw(image)
    foot, top, bottom = wide / 2 + scene.offset * 130, 22, high - 26
    slope = math.tan(math.radians(scene.lean_degrees)) * (1 if scene.offset <= 0 else -1)

    def at(y: float) -> float:
        """The pole's middle at the height y."""
        return foot + (bottom - y) * slope

    pen.polygon([(at(top) - 5, top), (at(top) + 5, top), (foot + 8, bottom), (foot - 8, bottom)], fill=WOOD)
    for y, half in ((top + 14, 62), (top + 36, 46)):
        pen.line((at(y) - half, y - half * slope, at(y) + half, y + half * slope), fill=WOOD, width=6)
        for share in (-0.9, -0.45, 0.45, 0.9):
            x = at(y) + share * half
            pen.rectangle(
                (x - 2, y - 9 + share * half * slope, x + 2, y - 3 + share * half * slope), fill=(140, 142, 146)
            )
    for number in range(scene.transformers):
        x, y = at(112) + (-29, 29, -29)[number], (84, 84, 146)[number]
        pen.rounded_rectangle((x - 15, y, x + 15, y + 46), 6, fill=TRANSFORMER)
    for number in range(scene.lamps):
        side, y = ((1, 160), (-1, 172))[number] if scene.transformers < 3 else ((1, 160), (1, 196))[number]
        end = at(y) + side * 72
        pen.line((at(y), y, end, y - 8), fill=(138, 139, 142), width=4)
        pen.ellipse((end - 19, y - 13, end + 19, y + 3), fill=LAMP)
    for number in range(scene.junction_boxes):
        x, y = at(262) + (-21, 21)[number], 246
        pen.rectangle((x - 11, y, x + 11, y + 32), fill=BOX)
    if scene.text:
        _draw_badge(image, scene.text, round(at(218)), 208)
    box = (min(at(top) - 64, foot - 10), top, max(at(top) + 64, foot + 10), bottom)
    return (max(0, round(box[0])), box[1], min(wide, round(box[2])), box[3])


@functools.cache
def glyph(character: str) -> Image.Image:
    """One character of a badge, in greys, as large as its cell."""
    wide, high = BADGE_CELL
    cell = Image.new("L", (wide * 4, high * 4), 190)
    ImageDraw.Draw(cell).text(
        (wide * 2, high * 2), character, fill=18, font=font(high * 4 - 8), anchor="mm", stroke_width=2
    )
    return cell.resize(BADGE_CELL, Image.Resampling.LANCZOS)


def _draw_badge(image: Image.Image, text: str, x: int, y: int) -> None:
    """A yellow plate with equally wide characters, middle at x, top at y."""
    wide, high = BADGE_CELL
    left = x - wide * len(text) // 2
    ImageDraw.Draw(image).rectangle((left - 4, y - 4, left + wide * len(text) + 3, y + high + 3), fill=BADGE)
    ink = Image.new("RGB", BADGE_CELL, BLACK)
    for number, character in enumerate(text):
        mask = glyph(character).point(lambda grey: max(0, min(255, (190 - grey) * 255 // 172)))
        image.paste(ink, (left + number * wide, y), mask)


def _draw_truck(image: Image.Image, rng: random.Random) -> None:
    """A lorry's side across half of the picture."""
    wide, high = SIZE
    left = rng.choice((0, wide // 2))
    ImageDraw.Draw(image).rectangle((left, 20, left + wide // 2, high - 40), fill=TRUCK)


@functools.cache
def _asphalt() -> Image.Image:
    wide, high = SIZE
    grain = Image.frombytes("L", (wide // 2, high // 2), random.Random(7).randbytes(wide * high // 4)).resize(SIZE)
    return Image.merge("RGB", [grain.point(lambda value, base=base: base + (value - 128) // 9) for base in ASPHALT])


def _draw_cover(scene: Scene, rng: random.Random) -> Drawn:
    wide, high = SIZE
    image = _asphalt().copy()
    pen = ImageDraw.Draw(image)
    r = round((46 if scene.cover_type == "valve" else 104) * scene.scale)
    x, y = round(wide / 2 + scene.offset * 80), high // 2 + rng.randint(-12, 12)
    if scene.surface == "patched":
        pen.rectangle((x - r - 34, y - r - 26, x + r + 40, y + r + 24), fill=PATCH)
    if scene.surface == "cracked":
        for side in (-1, 1):
            pen.line(_crack((x + side * (r + 16), 8), high - 16, rng, down=True), fill=SURFACE_CRACK, width=4)
    round_one = COVER_SHAPE[scene.cover_type] == "round"
    outline = pen.ellipse if round_one else pen.rectangle
    shift = r // 2 if scene.condition == "displaced" else 0
    if shift:
        outline((x - r, y - r, x + r, y + r), fill=HOLE)
        x += shift if scene.offset <= 0 else -shift
    outline((x - r, y - r, x + r, y + r), fill=IRON)
    outline((x - r + 6, y - r + 6, x + r - 6, y + r - 6), fill=IRON_RUST if scene.condition == "worn" else IRON)
    if scene.cover_type == "drain":
        for slot in range(-r + 18, r - 17, 26):
            pen.rectangle((x + slot, y - r + 16, x + slot + 9, y + r - 16), fill=HOLE)
    elif scene.cover_type != "valve":
        step = max(12, r // 6)
        for gx in range(-r, r + 1, step):
            for gy in range(-r, r + 1, step):
                inside = gx * gx + gy * gy < (r * 0.8) ** 2 if round_one else max(abs(gx), abs(gy)) < r * 0.8
                if inside and abs(gy) > r * 0.24:
                    pen.rectangle((x + gx - 3, y + gy - 3, x + gx + 3, y + gy + 3), fill=PATTERN)
    if scene.text:
        plate = cover_plate(scene.text)
        plate = plate.resize((round(r * 1.5), round(r * 0.38)), Image.Resampling.LANCZOS)
        image.paste(Image.new("RGB", plate.size, LETTERS), (x - plate.width // 2, y - plate.height // 2), plate)
    if scene.condition == "damaged":
        for part in (-0.45, 0.45):
            pen.line(_crack((x - r * 0.7, y + r * part), r * 1.4, rng, down=False), fill=CRACK, width=4)
    low, top = (min(x - shift, x), max(x - shift, x)) if scene.offset <= 0 else (x, x + shift)
    return Drawn(image, (max(0, low - r), y - r, min(wide, top + r), y + r))


def _crack(start: tuple[float, float], length: float, rng: random.Random, *, down: bool) -> list[tuple[float, float]]:
    """A jagged line of `length` from `start`, downwards or to the right."""
    points, gone = [start], 0.0
    while gone < length:
        gone += min(rng.uniform(12, 26), length - gone)
        jag = rng.uniform(-7, 7)
        points.append((start[0] + jag, start[1] + gone) if down else (start[0] + gone, start[1] + jag))
    return points


@functools.cache
def cover_plate(text: str) -> Image.Image:
    """The raised lettering of a cover as a mask, four times as wide as high."""
    plate = Image.new("L", (400, 100), 0)
    ImageDraw.Draw(plate).text((200, 50), text, fill=255, font=font(78), anchor="mm", stroke_width=3)
    return plate
