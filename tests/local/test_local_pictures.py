"""What is drawn can be told from the pixels, the same on every machine."""

import dataclasses
import hashlib
import io
import random

import pytest
from PIL import Image

from pipeline.local.pictures.drawing import COVER_TEXTS, SIZE, Scene, draw
from pipeline.local.pictures.pixels import look
from pipeline.local.pictures.signs import SIGN_TEXTS

SIGNS = [(sign_type, text) for sign_type, texts in SIGN_TEXTS.items() for text in texts]
COVERS = [(cover_type, text) for cover_type, texts in COVER_TEXTS.items() for text in texts]


def jpeg(scene, seed=1):
    buffer = io.BytesIO()
    draw(scene, random.Random(seed)).image.save(buffer, "JPEG", quality=88)
    return buffer.getvalue()


def test_the_same_seed_draws_the_same_picture():
    scene = Scene(kind="maintenance_cover", cover_type="manhole", text="WATER", surface="cracked", condition="damaged")
    once, twice = (draw(scene, random.Random(5)).image.tobytes() for _ in range(2))
    assert hashlib.sha256(once).digest() == hashlib.sha256(twice).digest()


@pytest.mark.parametrize(("sign_type", "text"), SIGNS)
@pytest.mark.parametrize("scale", [0.85, 1.2])
def test_signs_are_told_by_face_and_text(sign_type, text, scale):
    seen = look(jpeg(Scene(kind="road_sign", sign_type=sign_type, text=text, scale=scale, offset=-0.7)))
    assert (seen.kind, seen.sign_type, seen.text, seen.condition) == ("road_sign", sign_type, text, "good")


@pytest.mark.parametrize("condition", ["good", "faded", "damaged", "obscured"])
@pytest.mark.parametrize("sign_type", ["stop", "warning", "no_parking", "parking"])
def test_a_signs_condition_shows(sign_type, condition):
    scene = Scene(kind="road_sign", sign_type=sign_type, text=SIGN_TEXTS[sign_type][0], condition=condition)
    seen = look(jpeg(scene))
    assert (seen.sign_type, seen.condition) == (sign_type, condition)


@pytest.mark.parametrize("transformers", [0, 1, 2, 3])
@pytest.mark.parametrize("lamps", [0, 1, 2])
@pytest.mark.parametrize("lean_degrees", [0, 6, 14])
def test_what_hangs_on_a_pole_is_counted(transformers, lamps, lean_degrees):
    boxes = (transformers + lamps) % 3
    scene = Scene(
        kind="utility_pole",
        text="H4172",
        transformers=transformers,
        lamps=lamps,
        junction_boxes=boxes,
        lean_degrees=lean_degrees,
        offset=0.4,
    )
    seen = look(jpeg(scene))
    assert (seen.transformers, seen.lamps, seen.junction_boxes) == (transformers, lamps, boxes)
    assert seen.lean_degrees == pytest.approx(lean_degrees, abs=0.6)
    assert seen.text == "H4172"


@pytest.mark.parametrize(("cover_type", "text"), COVERS)
@pytest.mark.parametrize("condition", ["good", "worn", "damaged", "displaced"])
@pytest.mark.parametrize("surface", ["", "cracked", "patched"])
def test_covers_are_told_by_shape_and_lettering(cover_type, text, condition, surface):
    scene = Scene(kind="maintenance_cover", cover_type=cover_type, text=text, condition=condition, surface=surface)
    seen = look(jpeg(scene))
    assert (seen.cover_type, seen.condition, seen.surface) == (cover_type, condition, surface)
    assert seen.text == text


@pytest.mark.parametrize("flaw", ["", "blurred", "dark", "obstructed"])
@pytest.mark.parametrize(
    "scene",
    [
        Scene(kind="road_sign", sign_type="stop", text="STOP"),
        Scene(kind="utility_pole", lamps=1),
        Scene(kind="maintenance_cover", cover_type="valve"),
    ],
    ids=lambda scene: scene.kind,
)
def test_what_is_wrong_with_a_picture_shows(scene, flaw):
    flaws = {"blurred": flaw == "blurred", "dark": flaw == "dark", "obstructed": flaw == "obstructed"}
    seen = look(jpeg(dataclasses.replace(scene, **flaws)))
    assert {name: getattr(seen, name) for name in flaws} == flaws
    assert flaw == "obstructed" or seen.kind == scene.kind


def test_the_box_of_the_asset_is_found():
    drawn = draw(Scene(kind="road_sign", sign_type="stop", text="STOP", offset=0.5), random.Random(1))
    buffer = io.BytesIO()
    drawn.image.save(buffer, "PNG")
    found = look(buffer.getvalue()).box
    for edge, true, size in zip(found, drawn.box, (*SIZE, *SIZE), strict=True):
        assert edge / 1000 * size == pytest.approx(true, abs=6)


def test_other_pictures_are_something_else():
    for colour, word in (((200, 25, 35), "red"), ((120, 122, 124), "grey")):
        buffer = io.BytesIO()
        Image.new("RGB", (1200, 300), colour).save(buffer, "PNG")
        seen = look(buffer.getvalue())
        assert seen.size == (1200, 300)
        assert seen.colour == word


@pytest.mark.parametrize("data", [b"", b"<html>", jpeg(Scene(kind="utility_pole"))[:500]])
def test_what_is_no_image_is_an_error(data):
    with pytest.raises(ValueError, match=r"\w"):
        look(data)


def test_a_decompression_bomb_is_not_decoded():
    buffer = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(buffer, "PNG")
    with pytest.raises(ValueError, match="pixels"):
        look(buffer.getvalue())
