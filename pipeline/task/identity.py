"""What decides an answer: the settings of a run, and the fingerprint under which its answers are kept.

Two runs share their answers, and pay for them once, if and only if their fingerprints are equal. The fingerprint covers
- of the task: prompt, system instruction, reasoning, examples, questions (names, order, kinds, labels, ranges,
  descriptions);
- of the settings: model, media resolution, thinking, sampling, `max_output_tokens`, images per request, and what is
  done to an image before it is sent;
- `FORMAT`, raised when a new version of this package asks differently for the same task.

It leaves out what changes no answer: the task's name, version and description, planned tokens, service tier, location,
pace, price. A setting at None, and a field at its default, is left out too: so a new version can add one without
buying all answers again.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import Any

from pipeline.errors import ConfigError
from pipeline.task.parts import MEDIA_RESOLUTIONS, THINKING_LEVELS
from pipeline.task.task import Task

FORMAT = 1

DEFAULT_MEDIA_RESOLUTION = "low"  # the image's tokens are the price: see README, costs
DEFAULT_MAX_OUTPUT_TOKENS = 2048  # a bound, not a price: only tokens really given are billed


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How the question is asked; None leaves a setting to the model.

    Attributes:
        model: model id, tuned endpoint id or full resource name.
        media_resolution: low, medium, high or ultra_high.
        max_output_tokens: limit of one image's answer, thinking included.
        response_schema: False where a tuned endpoint is asked without the schema of its answer.
        images_per_request: images asked in one call, each for itself.
        unit: "asset" where all images of an asset are one question; None where each image is.
        image_source: "inline" where the image's bytes are sent; None where its URI is. The next three are inline's.
        max_image_pixels: a larger image is made smaller; 0 for none.
        crop_to: path of the column with the box that is cut out; None sends the whole image.
        crop_margin: what is cut out beyond the box on each side, as a share of the box's longer side.
        service_tier: standard, flex or priority; changes price and patience, not answers: not in the fingerprint.
    """

    model: str
    media_resolution: str = DEFAULT_MEDIA_RESOLUTION
    max_output_tokens: int = DEFAULT_MAX_OUTPUT_TOKENS
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    seed: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    thinking_level: str | None = None
    thinking_budget: int | None = None
    response_schema: bool | None = None
    images_per_request: int = 1
    unit: str | None = None
    image_source: str | None = None
    max_image_pixels: int | None = None
    crop_to: str | None = None
    crop_margin: float | None = None
    service_tier: str = "standard"

    def __post_init__(self) -> None:
        for name, choices in (("media_resolution", MEDIA_RESOLUTIONS), ("thinking_level", THINKING_LEVELS)):
            value = getattr(self, name)
            if value is not None and value not in choices:
                raise ConfigError(f"--{name}={value}: expected one of {', '.join(choices)}")
        if self.unit not in (None, "asset"):
            raise ConfigError(f"--unit={self.unit}: expected image or asset")
        if self.unit == "asset" and self.images_per_request > 1:
            raise ConfigError(
                f"--unit=asset and --images_per_request={self.images_per_request} exclude each other: the images of an "
                "asset are one question in one call"
            )
        if self.thinking_level is not None and self.thinking_budget is not None:
            raise ConfigError("--thinking_level and --thinking_budget exclude each other: give one of them")

    @classmethod
    def of(cls, task: Task, model: str, **flags: Any) -> Settings:
        """The settings of a run: what a flag says, else what the task says, else the default.

        Args:
            task: the task, whose `generation` is used.
            model: the model; the task's own is not looked at here.
            flags: fields of `Settings`; None is a flag that was not given.

        Raises:
            ConfigError: a value that cannot be, or two that exclude each other.
        """
        given = {name: value for name, value in flags.items() if value is not None}
        own = task.generation.model_dump(exclude_none=True)
        if "thinking_level" in given or "thinking_budget" in given:
            own = {name: value for name, value in own.items() if not name.startswith("thinking_")}
        return cls(model=model, **own | given)


_NOT_IN_FINGERPRINT = frozenset({"service_tier"})


def identity(task: Task, settings: Settings) -> dict[str, Any]:
    """All that the fingerprint is a hash of, as JSON-able values; see the module's text for what and why."""
    asked: dict[str, Any] = {"format": FORMAT, "prompt": task.prompt}
    if task.system_instruction:
        asked["system_instruction"] = task.system_instruction
    if task.reasoning and task.questions:
        asked["reasoning"] = task.reasoning
    if task.questions:
        # Lists keep the order of questions and of labels, which the model sees and which canonical JSON would lose.
        asked["questions"] = [[name, _question(question)] for name, question in task.questions.items()]
    if task.examples:
        asked["examples"] = [example.model_dump(mode="json", exclude_defaults=True) for example in task.examples]
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if field.name not in _NOT_IN_FINGERPRINT and value is not None:
            asked[field.name] = float(value) if "float" in str(field.type) else value
    if settings.images_per_request == 1:
        del asked["images_per_request"]
    return asked


def _question(question: Any) -> dict[str, Any]:
    spec: dict[str, Any] = question.model_dump(mode="json", exclude_defaults=True)
    if "labels" in spec:
        spec["labels"] = [[label, meaning] if meaning else label for label, meaning in spec["labels"].items()]
    if question.type == "number":
        # 1 and 1.0 are the same bound.
        spec |= {bound: float(spec[bound]) for bound in ("minimum", "maximum") if bound in spec}
    return {"type": question.type, **spec}


def fingerprint(task: Task, settings: Settings) -> str:
    """16 hexadecimal digits: the start of the SHA-256 of `identity` as canonical JSON."""
    canonical = json.dumps(identity(task, settings), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """What differs between two identities, a line each: `media_resolution: "low" -> "high"`. None when nothing does."""
    old, new = _flat(before), _flat(after)
    lines = [
        f"{name}: {_brief(old.get(name))} -> {_brief(new.get(name))}"
        for name in dict.fromkeys([*old, *new])
        if old.get(name) != new.get(name)
    ]
    if not lines and json.dumps(before, sort_keys=True) != json.dumps(after, sort_keys=True):
        lines.append("the order of the questions")
    return lines


def _flat(asked: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in asked.items():
        if name == "questions":
            for question, spec in value:
                flat |= {f"questions.{question}.{field}": each for field, each in spec.items()}
        else:
            flat[name] = value
    return flat


def _brief(value: Any) -> str:
    if value is None:
        return "none"
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else f"{text[:60]}... ({len(text)} characters)"
