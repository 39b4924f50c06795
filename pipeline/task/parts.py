"""Parts of a task file beside its questions: generation settings and examples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    StrictStr,
    field_validator,
)
from pydantic_core import PydanticCustomError

MEDIA_RESOLUTIONS = ("low", "medium", "high", "ultra_high")
THINKING_LEVELS = ("minimal", "low", "medium", "high")
MAX_OUTPUT_TOKENS = 65_536  # docs/facts.md: limits a request, all models
MAX_INT32 = 2**31 - 1  # of the request's own message: google.cloud.aiplatform_v1.GenerationConfig

_MIME_TYPES = {
    "jpg": "image/jpeg",
    "jpeg": "image/jpeg",
    "png": "image/png",
    "webp": "image/webp",
    "heic": "image/heic",
    "heif": "image/heif",
}  # docs/facts.md: the image types that Gemini takes
_EXTENSIONS = ", ".join(f".{extension}" for extension in _MIME_TYPES)


def mime_type(uri: str) -> str | None:
    """The MIME type of an image by its URI's extension; None for one that Gemini does not take."""
    return _MIME_TYPES.get(uri.rpartition(".")[2].lower())


def _one_of(choices: Sequence[str]) -> Any:
    def check(value: Any) -> Any:
        value = value.lower() if isinstance(value, str) else value
        if value is not None and value not in choices:
            raise PydanticCustomError("choice", "must be one of {choices}", {"choices": ", ".join(choices)})
        return value

    return BeforeValidator(check)


class Generation(BaseModel):
    """How the model is to answer; None leaves a setting to the flags, then to the model.

    `response_schema: false` sends no schema: for a tuned endpoint, which has learnt the form of the answer.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    media_resolution: Annotated[str | None, _one_of(MEDIA_RESOLUTIONS)] = None
    max_output_tokens: int | None = Field(default=None, ge=1, le=MAX_OUTPUT_TOKENS, strict=True)
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, ge=0, le=1)
    top_k: int | None = Field(default=None, ge=1, le=MAX_INT32, strict=True)
    seed: int | None = Field(default=None, ge=-MAX_INT32 - 1, le=MAX_INT32, strict=True)
    presence_penalty: float | None = Field(default=None, ge=-2, le=2)
    frequency_penalty: float | None = Field(default=None, ge=-2, le=2)
    thinking_level: Annotated[str | None, _one_of(THINKING_LEVELS)] = None
    thinking_budget: int | None = Field(default=None, ge=-1, le=MAX_INT32, strict=True)
    response_schema: Annotated[StrictBool | None, AfterValidator(lambda sent: sent and None)] = (
        None  # True is the default
    )


def _mapping_or_text(value: Any) -> Any:
    if not isinstance(value, dict | str):
        raise PydanticCustomError("answer", "must be a mapping with an answer to each question, or a text")
    return value


class Example(BaseModel):
    """An image with its right answer, shown to the model before the question; `columns` fills the prompt for it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    image: StrictStr
    answer: Annotated[dict[str, Any] | StrictStr, BeforeValidator(_mapping_or_text)]
    columns: dict[str, Any] = Field(default_factory=dict)

    @field_validator("image")
    @classmethod
    def _is_image(cls, value: str) -> str:
        if not value.startswith("gs://") or mime_type(value) is None:
            raise PydanticCustomError(
                "image", "must be a gs:// URI that ends in one of {types}", {"types": _EXTENSIONS}
            )
        return value


class MisfitError(ValueError):
    """Parts of a task that do not fit together; `where` is the path of the field at fault."""

    def __init__(self, where: tuple[str | int, ...], message: str) -> None:
        super().__init__(message)
        self.where = where
