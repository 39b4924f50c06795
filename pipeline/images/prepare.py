"""From an object's bytes to what is sent: type, size, crop, orientation. Pure; Pillow decodes.

The original bytes are sent where nothing has to change; they are decoded all the same, to see that they can be. All else
is sent as a new JPEG without metadata.
"""

from __future__ import annotations

import io
import warnings
from typing import Any

from PIL import Image

from pipeline.asking import ImageError, Problem
from pipeline.gemini.request import Inline
from pipeline.images.box import Box, BoxError
from pipeline.images.limits import MAX_DECODED_PIXELS, MAX_STORED_PIXELS, Treatment
from pipeline.rows import Reason

# The limit here is lower than the one that Pillow warns of; it would print its warning once more.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)

_DECODED = ("JPEG", "PNG", "WEBP")  # no decoder of another type is ever run
_HEIF_BRANDS = {b"heic": "image/heic", b"heix": "image/heic", b"heim": "image/heic", b"heis": "image/heic"}
_HEIF_BRANDS |= {b"mif1": "image/heif", b"msf1": "image/heif"}

_ORIENTATION_TAG = 0x0112
# How an image with an EXIF orientation is turned so that its first row is its top: Exif 2.32, 4.6.4.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# JPEG quality and chroma subsampling (0: none), the first that is small enough. Signs are coloured letters on coloured
# ground: the chroma goes last.
_ENCODINGS = ((92, 0), (85, 0), (85, 2), (75, 2))
_LONGEST_SIDE = 65_500  # of a JPEG that libjpeg writes
_SHRINK = 0.75  # of each side, where no encoding is small enough


def mime_type(data: bytes) -> str | None:
    """The type of an image by its first bytes; None for a type that Gemini does not take."""
    if data.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    return _HEIF_BRANDS.get(data[8:12]) if data[4:8] == b"ftyp" else None


def prepare(data: bytes, treatment: Treatment, box: Box | None = None) -> Inline:
    """One image as it is to be sent: MIME type and bytes.

    Args:
        data: the object.
        treatment: what to do.
        box: what to cut out, in pixels of the stored image; None for nothing.

    Raises:
        ImageError: it is empty, damaged, too large, no image, or the box does not lie in it.
    """
    if not data:
        raise _error(Reason.IMAGE_EMPTY, "the object has no bytes")
    kind = mime_type(data)
    if kind is None:
        raise _error(Reason.NOT_AN_IMAGE, f"no JPEG, PNG, WebP, HEIC or HEIF begins with {data[:24]!r}")
    if kind in ("image/heic", "image/heif"):
        return _as_it_is(kind, data, treatment, box)
    try:
        with Image.open(io.BytesIO(data), formats=_DECODED) as image:
            return _treated(image, kind, data, treatment, box)
    except ImageError:
        raise
    except BoxError as error:
        raise _error(Reason.UNUSABLE_BBOX, str(error)) from error
    except Image.DecompressionBombError as error:
        raise _error(Reason.IMAGE_TOO_LARGE, f"its header claims too many pixels: {error}") from error
    except Exception as error:  # decoders of broken files raise whatever they like
        raise _error(Reason.IMAGE_CORRUPT, f"it cannot be decoded: {type(error).__name__}: {error}"[:300]) from error


def _as_it_is(kind: str, data: bytes, treatment: Treatment, box: Box | None) -> Inline:
    """HEIC and HEIF, which Gemini takes and Pillow cannot decode; the service makes a large one smaller itself."""
    if box is not None:
        raise _error(Reason.UNDECODABLE_TYPE, f"{kind} can be sent as it is, but not cropped")
    if len(data) > treatment.max_bytes:
        raise _error(
            Reason.IMAGE_TOO_LARGE,
            f"{kind} can be sent as it is only, and {len(data):,} bytes are more than the {treatment.max_bytes:,} allowed",
        )
    return kind, data


def _treated(image: Any, kind: str, data: bytes, treatment: Treatment, box: Box | None) -> Inline:
    stored = image.size
    if stored[0] * stored[1] > MAX_STORED_PIXELS:
        raise _error(
            Reason.IMAGE_TOO_LARGE,
            f"its header says {stored[0]:,} x {stored[1]:,} pixels, more than {MAX_STORED_PIXELS:,}",
        )
    whole = (0, 0, *stored)
    cut = box.pixels(stored, treatment.margin or 0.0) if box else whole
    size = cut[2] - cut[0], cut[3] - cut[1]
    target = _within(size, treatment.max_pixels)
    turn = _TURNS.get(_orientation(image))
    if cut == whole and target == size and turn is None and len(data) <= treatment.max_bytes:
        _decode(image, (1, 1))  # a JPEG's smallest size: all of it is read, most of it is not computed
        return kind, data
    _decode(image, (stored[0] * target[0] // size[0], stored[1] * target[1] // size[1]))
    if cut != whole:
        image = image.crop(_scaled(cut, stored, image.size))
    image = _plain(image)
    if image.size[0] > target[0] or image.size[1] > target[1]:
        image = image.resize(target, Image.Resampling.LANCZOS)
    if turn is not None:
        image = image.transpose(turn)
    return "image/jpeg", _encoded(image, treatment.max_bytes)


def _decode(image: Any, least: tuple[int, int]) -> None:
    """Decodes a JPEG at the smallest of its sizes (1, 1/2, 1/4, 1/8) that is no smaller than `least`, and others whole."""
    image.draft(image.mode, least)
    width, height = image.size
    if width * height > MAX_DECODED_PIXELS:
        raise _error(
            Reason.IMAGE_TOO_LARGE,
            f"{width:,} x {height:,} pixels would have to be decoded, more than {MAX_DECODED_PIXELS:,}",
        )
    image.load()


def _within(size: tuple[int, int], most: int) -> tuple[int, int]:
    """The size with the same shape and at most so many pixels, 0 for any number, that a JPEG can have."""
    width, height = size
    scale = min(1.0, _LONGEST_SIDE / max(size))
    if most:
        scale = min(scale, (most / (width * height)) ** 0.5)
    if scale == 1.0:
        return size
    return max(1, int(width * scale)), max(1, int(height * scale))


def _scaled(
    cut: tuple[int, int, int, int], stored: tuple[int, int], decoded: tuple[int, int]
) -> tuple[int, int, int, int]:
    """The cut in the pixels of an image that was decoded at a smaller size; at least one pixel."""
    if stored == decoded:
        return cut
    wide, high = decoded[0] / stored[0], decoded[1] / stored[1]
    left, top = min(int(cut[0] * wide), decoded[0] - 1), min(int(cut[1] * high), decoded[1] - 1)
    return left, top, max(left + 1, round(cut[2] * wide)), max(top + 1, round(cut[3] * high))


def _orientation(image: Any) -> int:
    """The EXIF orientation, 1 to 8; 1 where there is none that can be read."""
    try:
        return int(image.getexif().get(_ORIENTATION_TAG, 1))
    except Exception:  # noqa: BLE001 - damaged metadata raises whatever it likes, and says nothing of the pixels
        return 1


def _plain(image: Any) -> Any:
    """The image in red, green and blue, or grey; what is transparent is white."""
    if image.mode in ("RGB", "L"):
        return image
    if image.mode.startswith("I"):  # 16 bits of grey, which Pillow would clip
        return image.point(lambda value: value * (1 / 256)).convert("L")
    if "A" in image.mode or "transparency" in image.info:
        seen = image.convert("RGBA")
        white = Image.new("RGBA", seen.size, "white")
        white.alpha_composite(seen)
        return white.convert("RGB")
    return image.convert("RGB")


def _encoded(image: Any, most: int) -> bytes:
    """A JPEG of at most so many bytes: the best quality first, then a smaller size."""
    while True:
        for quality, subsampling in _ENCODINGS:
            buffer = io.BytesIO()
            image.save(buffer, "JPEG", quality=quality, subsampling=subsampling)
            if buffer.tell() <= most:
                return buffer.getvalue()
        width, height = image.size
        if width * height <= 1:
            raise _error(Reason.IMAGE_TOO_LARGE, f"not even one pixel fits into {most:,} bytes")
        image = image.resize((max(1, int(width * _SHRINK)), max(1, int(height * _SHRINK))), Image.Resampling.LANCZOS)


def _error(reason: Reason, detail: str) -> ImageError:
    return ImageError(Problem(reason, detail))
