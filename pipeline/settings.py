"""From flags to the settings with which a task is asked, and to the columns that these need."""

from __future__ import annotations

import dataclasses

from pipeline.bigquery import inputs
from pipeline.errors import ConfigError
from pipeline.gemini import models
from pipeline.images import box, limits
from pipeline.options import Options
from pipeline.task import Settings, Task

_NUMBERS = ("FLOAT64", "INT64", "NUMERIC", "BIGNUMERIC")


def settings_of(options: Options, task: Task) -> Settings:
    """How the task is asked by these flags.

    Raises:
        ConfigError: a value that cannot be, or flags that exclude each other.
    """
    settings = models.settings_for(
        task,
        options.model,
        media_resolution=options.media_resolution,
        max_output_tokens=options.max_output_tokens,
        temperature=options.temperature,
        thinking_budget=options.thinking_budget,
        thinking_level=options.thinking_level,
        images_per_request=options.images_per_request,
        unit="asset" if options.unit == "asset" else None,
        service_tier=options.service_tier,
    )
    if options.image_source == "uri":
        given = {"crop_to_bbox": options.crop_to_bbox or None} | {
            name: getattr(options, name) for name in ("crop_margin", "max_image_pixels")
        }
        for name, value in given.items():
            if value is not None:
                raise ConfigError(
                    f"--{name}: Vertex AI reads an image by its URI as it is; add --image_source=inline, so that the worker "
                    "reads it and sends its bytes"
                )
        return settings
    if options.crop_margin is not None and not options.crop_to_bbox:
        raise ConfigError(f"--crop_margin={options.crop_margin:g}: nothing is cropped; add --crop_to_bbox")
    pixels = options.max_image_pixels
    if pixels is None:
        tokens = models.find(settings.model).tokens_of_image(settings.media_resolution)
        pixels = limits.useful_pixels(tokens)
    margin = limits.DEFAULT_MARGIN if options.crop_margin is None else options.crop_margin
    settings = dataclasses.replace(
        settings,
        image_source="inline",
        max_image_pixels=pixels,
        crop_to=options.bbox_column if options.crop_to_bbox else None,
        crop_margin=margin if options.crop_to_bbox else None,
    )
    limits.check(settings, options.max_images_per_asset if options.unit == "asset" else options.images_per_request)
    return settings


def box_columns(settings: Settings, info: inputs.TableInfo) -> list[inputs.KeptColumn]:
    """The columns of the box that is cut out of an image; none where there is no cropping.

    Raises:
        ConfigError: the input has no such column.
    """
    if settings.crop_to is None:
        return []
    paths = box.paths(settings.crop_to)
    for path in paths:
        field = info.find(path)
        if field is None or field.repeated or field.type not in _NUMBERS:
            kind = "has no" if field is None else f"has a {field.type} as"
            raise ConfigError(
                f"--crop_to_bbox: the input {kind} {path}; --bbox_column names a column STRUCT<lo STRUCT<x, y>, hi STRUCT<x, "
                "y>> of numbers, which --input_query can make"
            )
    return inputs.number_columns(paths)
