"""What models there are, and whether they take a generation_config. Pure."""

from __future__ import annotations

import dataclasses
from typing import Any, Final

from pipeline.local.vertex.refusals import invalid, unable
from pipeline.local.vertex.shapes import Shape, from_json_schema, from_openapi

MAX_OUTPUT_TOKENS: Final = 65_536
_LEVELS: Final = ("", "LOW", "MEDIUM", "HIGH", "MINIMAL")
RESOLUTIONS: Final = ("", "LOW", "MEDIUM", "HIGH", "ULTRA_HIGH")
IMAGE_TOKENS: Final = {
    "3": {"": 1120, "LOW": 280, "MEDIUM": 560, "HIGH": 1120, "ULTRA_HIGH": 2240},
    "2.5": {"": 258, "LOW": 64, "MEDIUM": 256, "HIGH": 258, "ULTRA_HIGH": 258},
}
"""Tokens an image by model generation and media_resolution; docs/facts.md."""

_THOUGHTS_TOKENS: Final = {"MINIMAL": 0, "LOW": 24, "MEDIUM": 64, "HIGH": 160}
"""Made up: real thinking varies."""


@dataclasses.dataclass(frozen=True, slots=True)
class Model:
    """What the stand-in knows of a model: its generation and how it may be told to think."""

    generation: str = "3"
    levels: tuple[str, ...] = ("MINIMAL", "LOW", "MEDIUM", "HIGH")
    default_level: str = "MINIMAL"
    penalties: bool = True


MODELS: Final = {
    "gemini-2.5-flash": Model("2.5", (), "LOW"),
    "gemini-2.5-flash-lite": Model("2.5", (), "MINIMAL"),
    "gemini-3.1-flash-lite": Model(),
    "gemini-3.5-flash-lite": Model(penalties=False),
    "gemini-3.5-flash": Model(default_level="LOW"),
    "gemini-3.8-flash": Model(levels=("LOW", "MEDIUM", "HIGH"), default_level="LOW"),
}


@dataclasses.dataclass(frozen=True, slots=True)
class Config:
    """A checked generation_config, shared by all requests that carry the same one."""

    shape: Shape | None
    mime_type: str
    max_output_tokens: int
    thoughts_tokens: int
    image_tokens: int
    schema_tokens: int
    raw: bytes


def tokens_of(text: str) -> int:
    """About as many tokens as a model counts: four characters each."""
    return -(-len(text) // 4)


def read_config(config: Any, model: Model, raw: bytes) -> Config:
    _check_range(config, "temperature", "temperature", 0.0, 2.0)
    _check_range(config, "top_p", "topP", 0.0, 1.0)
    _check_range(config, "max_output_tokens", "maxOutputTokens", 1, MAX_OUTPUT_TOKENS)
    _check_range(config, "candidate_count", "candidateCount", 1, 8)
    for name in ("presence_penalty", "frequency_penalty"):
        if config.HasField(name) and not model.penalties:
            raise invalid(f"{name} is not supported for this model.")
    shape, schema_tokens = _read_schema(config)
    mime_type = config.response_mime_type or "text/plain"
    if mime_type not in {"text/plain", "application/json", "text/x.enum"}:
        raise invalid(f"Unsupported response MIME type: {mime_type}.")
    if shape is not None and mime_type == "text/plain":
        raise invalid("response_schema needs response_mime_type application/json or text/x.enum.")
    if mime_type == "text/x.enum" and (shape is None or shape.type != "string" or not shape.enum):
        raise invalid("response_mime_type text/x.enum needs a response_schema of type string with an enum.")
    level = RESOLUTIONS[config.media_resolution] if config.media_resolution < len(RESOLUTIONS) else None
    if level is None or level == "ULTRA_HIGH":
        raise invalid(f"Unsupported media resolution: {config.media_resolution}.")
    return Config(
        shape=shape,
        mime_type=mime_type,
        max_output_tokens=config.max_output_tokens or MAX_OUTPUT_TOKENS,
        thoughts_tokens=_thoughts(config.thinking_config, model),
        image_tokens=IMAGE_TOKENS[model.generation][level],
        schema_tokens=schema_tokens,
        raw=raw,
    )


def _read_schema(config: Any) -> tuple[Shape | None, int]:
    as_json = config.HasField("response_json_schema")
    as_openapi = config.HasField("response_schema")
    if as_json and as_openapi:
        raise invalid("Only one of response_schema and response_json_schema can be set.")
    if as_json:
        from google.protobuf import json_format

        schema = json_format.MessageToDict(config.response_json_schema)
        return from_json_schema(schema), tokens_of(str(schema))
    if as_openapi:
        return from_openapi(config.response_schema), tokens_of(str(config.response_schema))
    return None, 0


def _check_range(config: Any, name: str, shown: str, low: float, high: float) -> None:
    if config.HasField(name) and not low <= getattr(config, name) <= high:
        raise unable(
            f"it has a {shown} value of {getattr(config, name):g} but the supported range is from {low:g} to {high:g}",
            "Update the value and try again",
        )


def _thoughts(thinking: Any, model: Model) -> int:
    """Thinking tokens of each answer."""
    has_level, has_budget = thinking.HasField("thinking_level"), thinking.HasField("thinking_budget")
    if has_level and has_budget:
        raise invalid("You can only set only one of thinking budget and thinking level.")
    if has_level:
        if not model.levels:
            raise invalid("Thinking level is not supported for this model.")
        number = thinking.thinking_level
        level = _LEVELS[number] if number < len(_LEVELS) else ""
        if level not in model.levels:
            raise invalid(
                f"Thinking level {level or number} is not supported for this model. "
                "Please retry with other thinking level."
            )
        return _THOUGHTS_TOKENS[level]
    if has_budget:
        if not -1 <= thinking.thinking_budget <= 24_576:
            raise invalid("The thinking budget is invalid. Please choose a value between 0 and 24576, or -1.")
        return min(thinking.thinking_budget, _THOUGHTS_TOKENS["MEDIUM"]) if thinking.thinking_budget >= 0 else 64
    return _THOUGHTS_TOKENS[model.default_level]
