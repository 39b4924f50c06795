"""How large an image may be, in bytes and pixels, and what follows from the flags. Pure."""

from __future__ import annotations

import dataclasses

from pipeline.errors import ConfigError
from pipeline.task import Settings

MAX_OBJECT_BYTES = 30 * 1024 * 1024
"""Of an object in Cloud Storage. Vertex AI itself says "max allowed file size of 31457280" of an image
(github.com/googleapis/js-genai/issues/1391)."""

MAX_INLINE_BYTES = 7_000_000
"""Of an image in a request: 7 MB, docs/facts.md; read as the smaller of the two megabytes."""

MAX_REQUEST_BYTES = 19_000_000
"""Of all images of a request: 20 MB, less what is left for text
(firebase.google.com/docs/vertex-ai/input-file-requirements: "the maximum total request size is 20 MB")."""

LEAST_BYTES_PER_IMAGE = 100_000
"""Where a request's images would have to be smaller than that, as many in one request make no sense."""

MAX_STORED_PIXELS = 100_000_000
"""What the header of an image may claim. Checked before anything is decoded: a file of 1 MB can claim gigapixels."""

MAX_DECODED_PIXELS = 50_000_000
"""What is decoded at once, 4 bytes a pixel: 200 MB. A JPEG is decoded at a half, a quarter or an eighth of its size where
that is enough; other types are decoded whole."""

_TOKEN_SIDE = 48
"""Pixels on a side that become one token. Google does not publish it for Gemini; it is what Gemma 4 does, with the same
budgets of 280, 560 and 1,120 tokens an image: patches of 16 pixels, pooled by three
(keras.io/keras_hub/api/models/gemma4/gemma4_image_converter)."""

_SAFETY = 4
"""As that is a guess for Gemini, an image keeps twice as many pixels on a side."""

_MOST_PIXELS = 3072 * 3072
"""The service makes larger images smaller itself (firebase.google.com/docs/vertex-ai/input-file-requirements)."""

DEFAULT_MARGIN = 0.1
_MOST_MARGIN = 100.0
_LEAST_PIXELS = 1024


@dataclasses.dataclass(frozen=True, slots=True)
class Treatment:
    """What is done to an image before it is sent.

    Attributes:
        max_pixels: a larger one is made smaller; 0 for none.
        max_bytes: it is compressed, then made smaller, until it has no more.
        margin: what stays beyond the box, as a share of the box's longer side; None where there is no cropping.
    """

    max_pixels: int
    max_bytes: int = MAX_INLINE_BYTES
    margin: float | None = None


def useful_pixels(image_tokens: int) -> int:
    """Pixels of an image that a model with so many tokens for it may make use of."""
    return min(_MOST_PIXELS, _SAFETY * _TOKEN_SIDE**2 * image_tokens)


def max_bytes(images: int) -> int:
    """Bytes that each of so many images of one request may have."""
    return min(MAX_INLINE_BYTES, MAX_REQUEST_BYTES // max(1, images))


def treatment(settings: Settings, images: int) -> Treatment:
    """What the settings of a run say, for requests with so many images."""
    return Treatment(settings.max_image_pixels or 0, max_bytes(images), settings.crop_margin)


def check(settings: Settings, images: int) -> None:
    """Compares the settings with what a request can hold and what makes sense, before any money is spent.

    Args:
        settings: of a run that sends images inline.
        images: that one request may have.

    Raises:
        ConfigError: one line for the first flag that cannot be.
    """
    if settings.max_image_pixels and settings.max_image_pixels < _LEAST_PIXELS:
        raise ConfigError(
            f"--max_image_pixels={settings.max_image_pixels}: expected at least {_LEAST_PIXELS:,} (width times height), or 0 "
            "to leave images as large as they are"
        )
    if settings.crop_margin is not None and not settings.crop_margin <= _MOST_MARGIN:
        raise ConfigError(
            f"--crop_margin={settings.crop_margin:g}: expected a share of the box's longer side, such as 0.1"
        )
    if max_bytes(images) < LEAST_BYTES_PER_IMAGE:
        flag = "--max_images_per_asset" if settings.unit == "asset" else "--images_per_request"
        most = MAX_REQUEST_BYTES // LEAST_BYTES_PER_IMAGE
        raise ConfigError(
            f"{flag}={images}: with --image_source=inline a request holds {MAX_REQUEST_BYTES // 1_000_000} MB of images; "
            f"give at most {most}, or --image_source=uri"
        )
    if settings.unit == "asset" and settings.crop_margin is not None:
        raise ConfigError(
            "--crop_to_bbox with --unit=asset: an asset's images have a box each, and its row has one; leave one of them out"
        )
