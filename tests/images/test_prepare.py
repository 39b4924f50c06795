"""What is sent of an image: its type, size, crop and orientation, and every way in which an object is none."""

from __future__ import annotations

import io
import random
import struct
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline.asking import ImageError
from pipeline.images import prepare
from pipeline.images.box import Box, BoxError, of_row
from pipeline.images.limits import MAX_DECODED_PIXELS, MAX_STORED_PIXELS, Treatment
from pipeline.rows import Reason

AS_IT_IS = Treatment(max_pixels=0)
RED, GREEN, BLUE, WHITE = (200, 20, 20), (20, 160, 20), (20, 20, 200), (255, 255, 255)


def quarters(width=80, height=60, mode="RGB"):
    """Four colours: red, green above blue, white."""
    image = Image.new("RGB", (width, height), RED)
    image.paste(GREEN, (width // 2, 0, width, height // 2))
    image.paste(BLUE, (0, height // 2, width // 2, height))
    image.paste(WHITE, (width // 2, height // 2, width, height))
    return image.convert(mode)


def encoded(image, kind="JPEG", **more):
    buffer = io.BytesIO()
    image.save(buffer, kind, **({"quality": 95} if kind == "JPEG" else {}) | more)
    return buffer.getvalue()


def with_orientation(image, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(image, exif=exif.tobytes())


def opened(inline):
    kind, data = inline
    image = Image.open(io.BytesIO(data))
    assert kind == f"image/{image.format.lower()}"
    return image


def corners(image):
    """The nearest of the four colours, at the middle of each quarter."""
    width, height = image.size
    places = [(width // 4, height // 4), (3 * width // 4, height // 4)]
    places += [(width // 4, 3 * height // 4), (3 * width // 4, 3 * height // 4)]
    pixels = [image.convert("RGB").getpixel(place) for place in places]
    names = {"R": RED, "G": GREEN, "B": BLUE, "W": WHITE}
    return "".join(
        min(names, key=lambda name: sum(abs(a - b) for a, b in zip(pixel, names[name], strict=True)))
        for pixel in pixels
    )


def reason_of(data, treatment=AS_IT_IS, box=None):
    with pytest.raises(ImageError) as raised:
        prepare.prepare(data, treatment, box)
    assert raised.value.problem.error is None, "the image's own fault is not the run's"
    return raised.value.problem.reason


NOISE = random.Random(5).randbytes(3 * 900 * 700)
NOISY = Image.frombytes("RGB", (900, 700), NOISE)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_the_bytes_are_passed_through_where_nothing_has_to_change_whatever_the_name_says(kind):
    data = encoded(quarters(), kind) + b"trailing bytes of some camera"
    assert prepare.prepare(data, Treatment(max_pixels=80 * 60)) == (f"image/{kind.lower()}", data)
    whole = Box(0, 0, 80, 60)
    assert prepare.prepare(data, Treatment(max_pixels=0, margin=0.5), whole)[1] == data


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_a_large_image_is_made_smaller_and_keeps_its_shape(kind):
    small = opened(prepare.prepare(encoded(quarters(800, 600), kind), Treatment(max_pixels=30_000)))
    assert small.size == (200, 150)
    assert small.format == "JPEG"
    assert corners(small) == "RGBW"


def test_the_crop_is_the_box_and_its_margin_in_pixels_of_the_stored_image():
    data = encoded(quarters(800, 600), "PNG")
    box = Box(400, 0, 600, 100)
    cut = opened(prepare.prepare(data, Treatment(0, margin=0.0), box))
    assert (cut.size, corners(cut)) == ((200, 100), "GGGG")
    wide = opened(prepare.prepare(data, Treatment(0, margin=0.5), Box(300, 200, 500, 400)))
    assert (wide.size, corners(wide)) == ((400, 400), "RGBW")


def test_a_crop_out_of_a_jpeg_that_is_decoded_small_shows_the_same_part():
    data = encoded(quarters(1600, 1200))
    cut = opened(prepare.prepare(data, Treatment(10_000, margin=0.0), Box(800, 600, 1600, 1200)))
    assert corners(cut) == "WWWW"
    assert cut.size == (115, 86)


@pytest.mark.parametrize(
    ("orientation", "seen"),
    [(1, "RGBW"), (2, "GRWB"), (3, "WBGR"), (4, "BWRG"), (5, "RBGW"), (6, "BRWG"), (7, "WGBR"), (8, "GWRB")],
)
def test_an_image_is_turned_as_its_exif_says_and_cut_before_that(orientation, seen):
    data = with_orientation(quarters(), orientation)
    turned = opened(prepare.prepare(data, AS_IT_IS))
    assert corners(turned) == seen
    assert turned.size == ((80, 60) if orientation < 5 else (60, 80))
    assert orientation == 1 or not turned.getexif()
    blue = opened(prepare.prepare(data, Treatment(0, margin=0.0), Box(0, 30, 40, 60)))
    assert corners(blue) == "BBBB"


@pytest.mark.parametrize(
    ("mode", "kind"), [("L", "PNG"), ("P", "PNG"), ("1", "PNG"), ("CMYK", "JPEG"), ("LA", "PNG"), ("RGBA", "WEBP")]
)
def test_every_mode_becomes_a_plain_jpeg_when_it_has_to_change(mode, kind):
    image = opened(prepare.prepare(encoded(quarters(400, 400, mode), kind), Treatment(max_pixels=10_000)))
    assert image.mode in ("RGB", "L")
    assert image.size == (100, 100)
    assert image.convert("L").getpixel((75, 75)) > 250


def test_what_is_transparent_is_white_and_sixteen_bits_are_not_clipped():
    clear = Image.new("RGBA", (200, 200), (0, 0, 0, 0))
    assert opened(prepare.prepare(encoded(clear, "PNG"), Treatment(max_pixels=10_000))).getpixel((9, 9)) == WHITE
    deep = Image.new("I;16", (200, 200), 128 * 256)
    shown = opened(prepare.prepare(encoded(deep, "PNG"), Treatment(max_pixels=10_000)))
    assert 126 <= shown.getpixel((50, 50)) <= 130


def test_quality_goes_first_and_then_the_size_until_the_bytes_fit():
    data = encoded(NOISY, "PNG")
    assert len(data) > 1_800_000
    best = opened(prepare.prepare(data, Treatment(0, max_bytes=1_500_000)))
    assert best.size == (900, 700)
    fits = prepare.prepare(data, Treatment(0, max_bytes=120_000))
    assert len(fits[1]) <= 120_000
    assert opened(fits).size[0] < 900


def test_an_empty_object_and_one_that_is_no_image_have_reasons_of_their_own():
    assert reason_of(b"") is Reason.IMAGE_EMPTY
    for data in (b"<html>502 Bad Gateway</html>", b"%PDF-1.7", b"\0" * 100, encoded(quarters(), "GIF"), b"ftyp"):
        assert reason_of(data) is Reason.NOT_AN_IMAGE


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("treatment", [AS_IT_IS, Treatment(max_pixels=2000)])
def test_a_truncated_image_is_corrupt_even_where_its_bytes_would_be_passed_through(kind, treatment):
    data = encoded(NOISY.crop((0, 0, 300, 200)), kind)
    for length in (20, len(data) // 2, len(data) - 40):
        assert reason_of(data[:length], treatment) is Reason.IMAGE_CORRUPT


def png_that_claims(width, height):
    """A PNG of some 60 bytes whose header says so many pixels."""

    def chunk(name, body):
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    "size",
    [(MAX_STORED_PIXELS + 1, 1), (60_000, 60_000), (MAX_DECODED_PIXELS // 5000 + 1, 5000), (2**31 - 1, 2**31 - 1)],
)
def test_a_decompression_bomb_is_known_by_its_header(size):
    assert reason_of(png_that_claims(*size)) is Reason.IMAGE_TOO_LARGE


HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + b"\1" * 400


def test_heic_is_passed_through_and_refused_where_it_would_have_to_change():
    assert prepare.prepare(HEIC, Treatment(max_pixels=100)) == ("image/heic", HEIC)
    assert prepare.prepare(HEIC.replace(b"ftypheic", b"ftypmif1"), AS_IT_IS)[0] == "image/heif"
    assert reason_of(HEIC, Treatment(0, margin=0.1), Box(0, 0, 9, 9)) is Reason.UNDECODABLE_TYPE
    assert reason_of(HEIC, Treatment(0, max_bytes=100)) is Reason.IMAGE_TOO_LARGE


@pytest.mark.parametrize("box", [(80, 0, 90, 10), (-9, -9, 0, 5), (0, 60, 10, 61), (0, -1e300, 5, -1e299)])
def test_a_box_outside_of_the_image_is_unusable_whatever_its_margin(box):
    assert reason_of(encoded(quarters()), Treatment(0, margin=5.0), Box(*box)) is Reason.UNUSABLE_BBOX


def row_with(*numbers):
    return dict(zip(("bbox_lo_x", "bbox_lo_y", "bbox_hi_x", "bbox_hi_y"), numbers, strict=True))


@pytest.mark.parametrize(
    ("numbers", "says"),
    [
        ((None, None, None, None), "null"),
        ((1, 2, 3, None), "null"),
        ((5, 0, 1, 9), "inverted"),
        ((5, 9, 6, 1), "inverted"),
        ((5, 5, 5, 9), "empty"),
        ((0, 0, float("nan"), 1), "not finite"),
        ((0, 0, float("inf"), 1), "not finite"),
    ],
)
def test_a_box_that_is_null_inverted_empty_or_no_number_is_unusable(numbers, says):
    with pytest.raises(BoxError, match=says):
        of_row("bbox", row_with(*numbers))
    with pytest.raises(BoxError, match="null"):
        of_row("bbox", {})


def test_a_box_that_reaches_out_of_the_image_is_cut_off_at_its_edge():
    assert Box(-5, -5, 10.2, 10).pixels((80, 60), 0.0) == (0, 0, 11, 10)
    assert Box(70, 50, 900, 60).pixels((80, 60), 1.0) == (0, 0, 80, 60)
    assert of_row("a.box", {"a_box_lo_x": 1, "a_box_lo_y": 2, "a_box_hi_x": 3, "a_box_hi_y": 4.5}) == Box(1, 2, 3, 4.5)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_any_bytes_are_an_image_or_have_a_reason(data):
    whole = data.draw(st.sampled_from([encoded(quarters(), kind) for kind in ("JPEG", "PNG", "WEBP")]))
    place, more = data.draw(st.integers(0, len(whole) - 1)), data.draw(st.binary(max_size=12))
    damaged = whole[:place] + more + whole[place + len(more) :]
    box = data.draw(st.sampled_from([None, Box(1, 1, 30, 30)]))
    try:
        kind, sent = prepare.prepare(damaged, Treatment(3000, margin=0.1), box)
    except ImageError as error:
        assert error.problem.detail
    else:
        assert kind.startswith("image/") and sent
