"""What is known of the models: which there are, what they take, where they are asked. Pure data and checks.

The data lies in models.yaml, with its sources. A model that is not there, or a tuned endpoint, works too: nothing is
checked for it, and its price is not known.
"""

from __future__ import annotations

import dataclasses
import datetime
import functools
import importlib.resources
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import yaml

from pipeline.errors import ConfigError
from pipeline.gemini.prices import Period, Prices
from pipeline.task import Settings, Task
from pipeline.task.parts import MAX_OUTPUT_TOKENS

TIERS = ("standard", "flex", "priority")
_TIMEOUT_SECS = 120.0
_FLEX_TIMEOUT_SECS = 1800.0  # docs/facts.md: a flex answer may take up to 30 minutes, the longest time-out there is
_IMAGE_TOKENS_UNKNOWN = 1120  # the default of the current generation; an unknown model is planned with it
_SETTINGS_CHECKED = ("temperature", "top_p", "top_k", "seed", "presence_penalty", "frequency_penalty")


@dataclasses.dataclass(frozen=True, slots=True)
class Model:
    """One model.

    Attributes:
        known: whether models.yaml has it.
        image_tokens: input tokens of an image by media resolution; empty for an unknown model.
        levels: thinking levels that it takes, or empty.
        budget: least and most thinking tokens that can be set (beside 0, none, and -1, the model decides), or None.
        least_thinking: the level or the budget that is sent when nobody says; None sends nothing.
        planned_thoughts: thinking tokens that an answer is planned with, by level.
        multi_regions: where to ask instead of `us` and `eu`.
    """

    name: str
    known: bool = False
    status: str = "unknown"
    note: str = ""
    prices: Prices | None = None
    image_tokens: Mapping[str, int] = dataclasses.field(default_factory=dict)
    levels: tuple[str, ...] = ()
    budget: tuple[int, int] | None = None
    least_thinking: str | int | None = None
    planned_thoughts: Mapping[str, int] = dataclasses.field(default_factory=dict)
    ignored: frozenset[str] = frozenset()
    refused: frozenset[str] = frozenset()
    multi_regions: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def tokens_of_image(self, media_resolution: str) -> int:
        """Input tokens of one image; the current generation's default for an unknown model."""
        return self.image_tokens.get(media_resolution, _IMAGE_TOKENS_UNKNOWN)


@functools.cache
def _data() -> Any:
    text = importlib.resources.files("pipeline.gemini").joinpath("models.yaml").read_text("utf-8")
    return yaml.safe_load(text)


@functools.cache
def known() -> Mapping[str, Model]:
    """The models of models.yaml, by id."""
    data = _data()
    return MappingProxyType({name: _model(name, spec, data) for name, spec in data["models"].items()})


def default_model() -> str:
    """The model that is asked when nobody says."""
    return str(_data()["default"])


def find(model: str) -> Model:
    """What is known of a model by its id or full resource name; an empty `Model` when nothing is."""
    name = model.rpartition("publishers/google/models/")[2]
    return known().get(name) or Model(model)


def _model(name: str, spec: Mapping[str, Any], data: Mapping[str, Any]) -> Model:
    generation = data["generations"][spec["generation"]]
    thinking = spec.get("thinking", {})
    prices = None
    if spec.get("prices"):
        periods = tuple(
            Period(
                begins=each.get("from", datetime.date.min),
                input_usd=each["input"],
                output_usd=each["output"],
                recorded=each["recorded"].isoformat(),
                source=each["source"],
            )
            for each in spec["prices"]
        )
        prices = Prices(periods, data["multipliers"] | spec.get("multipliers", {}))
    budget = thinking.get("budget")
    return Model(
        name=name,
        known=True,
        status=spec["status"],
        note=spec.get("note", ""),
        prices=prices,
        image_tokens=generation["image_tokens"],
        levels=tuple(thinking.get("levels", ())),
        budget=(budget[0], budget[1]) if budget else None,
        least_thinking=thinking.get("least"),
        planned_thoughts=generation["planned_thoughts"],
        ignored=frozenset(spec.get("ignored", ())),
        refused=frozenset(spec.get("refused", ())),
        multi_regions=spec.get("multi_regions", {}),
    )


def settings_for(task: Task, model: str | None = None, **flags: Any) -> Settings:
    """The settings of a run: flags, then the task, then defaults; thinking is the least that the model allows.

    Args:
        task: the task.
        model: `--model`, or None for the task's, else the default model.
        flags: fields of `Settings`; None is a flag that was not given.

    Raises:
        ConfigError: a value that cannot be.
    """
    settings = Settings.of(task, model or task.model or default_model(), **flags)
    least = find(settings.model).least_thinking
    if settings.thinking_level is None and settings.thinking_budget is None:
        if isinstance(least, str):
            return dataclasses.replace(settings, thinking_level=least)
        return dataclasses.replace(settings, thinking_budget=least)
    return settings


def check(settings: Settings, location: str, *, price_given: bool = False) -> list[str]:
    """Compare the settings with what the model takes, before any money is spent.

    Args:
        settings: of the run.
        location: the Vertex AI location that will be asked.
        price_given: whether `--price_usd_per_mtok` makes up for a price that is not recorded.

    Returns:
        Warnings, a line each: a closed model, settings that it ignores, a price that is not known.

    Raises:
        ConfigError: the model would answer with an error.
    """
    model = find(settings.model)
    _check_ranges(settings)
    if settings.response_schema is False and (not is_endpoint(settings.model) or settings.images_per_request > 1):
        raise ConfigError(
            "--task: its generation.response_schema is false, which is for a tuned endpoint as --model that is asked one "
            "image in a call; any other knows the questions from the schema alone: take it out"
        )
    warnings = [f"{model.name}: {model.note}"] if model.note else []
    if not model.known:
        warnings.append(f"{settings.model}: not in the list of models, so its settings are not checked")
    if model.prices is None and not price_given:
        warnings.append(f"{model.name}: its price is not known; --price_usd_per_mtok=IN,OUT gives it")
    for name in _SETTINGS_CHECKED:
        if getattr(settings, name) is None:
            continue
        if name in model.refused:
            raise ConfigError(f"{name}: {model.name} answers it with an error; leave it out")
        if name in model.ignored:
            warnings.append(f"{name}: {model.name} ignores it")
    if model.known:
        _check_thinking(settings, model)
        if settings.media_resolution not in model.image_tokens:
            raise ConfigError(
                f"--media_resolution={settings.media_resolution}: {model.name} takes {', '.join(model.image_tokens)}"
            )
    if settings.service_tier not in TIERS:
        raise ConfigError(f"--service_tier={settings.service_tier}: expected one of {', '.join(TIERS)}")
    if settings.service_tier == "flex" and location != "global":
        raise ConfigError(
            f"--service_tier=flex: it is served at the global endpoint only, not at {location}; "
            "add --vertex_location=global if these images may be processed anywhere"
        )
    return warnings


def _check_ranges(settings: Settings) -> None:
    bounds: dict[str, tuple[float, float]] = {
        "temperature": (0, 2),
        "top_p": (0, 1),
        "max_output_tokens": (1, MAX_OUTPUT_TOKENS),
        "images_per_request": (1, 3000),  # docs/facts.md: images a request
    }
    for name, (low, high) in bounds.items():
        value = getattr(settings, name)
        if value is not None and not low <= value <= high:
            raise ConfigError(f"--{name}={value}: expected {low} to {high:,}")


def _check_thinking(settings: Settings, model: Model) -> None:
    level, budget = settings.thinking_level, settings.thinking_budget
    if level is not None and level not in model.levels:
        fix = f"it takes {', '.join(model.levels)}" if model.levels else "it takes --thinking_budget instead"
        raise ConfigError(f"--thinking_level={level}: {model.name} answers it with an error; {fix}")
    if budget is not None:
        if model.budget is None:
            raise ConfigError(
                f"--thinking_budget={budget}: {model.name} takes --thinking_level instead: {', '.join(model.levels)}"
            )
        low, high = model.budget
        if budget not in (-1, 0) and not low <= budget <= high:
            raise ConfigError(
                f"--thinking_budget={budget}: {model.name} takes {low} to {high:,}, 0 for none, -1 for its own choice"
            )


def request_timeout_secs(service_tier: str) -> float:
    """How long one call may take when nobody says."""
    return _FLEX_TIMEOUT_SECS if service_tier == "flex" else _TIMEOUT_SECS


_SHORT = re.compile(r"[a-z0-9][a-z0-9.@_-]*")
_RESOURCE = re.compile(r"projects/[^/]+/locations/([^/]+)/(publishers/[^/]+/models/[^/]+|endpoints/[^/]+)")


def location_for(data_location: str, settings: Settings, asked: str | None = None) -> str:
    """Where to ask, so that images are processed where their table lies.

    The table's multi-region when it is one, a region's own otherwise, except that regions of the US and of the EU
    become `us` and `eu`, where current models are served. Never `global`, unless it is asked for. London and Zurich are
    not in the EU and stay themselves.

    Args:
        data_location: the BigQuery location of the input, such as US, EU or europe-west4.
        settings: of the run; a full resource name as model has its own location.
        asked: `--vertex_location`, which wins.

    Raises:
        ConfigError: `asked` contradicts the location in the model's resource name, or the model is the number of a
            tuned endpoint, which lies in one place, and nobody says in which.
    """
    named = _RESOURCE.fullmatch(settings.model)
    if named:
        if asked and asked != named[1]:
            raise ConfigError(f"--vertex_location={asked}: the model's own name says {named[1]}; leave one out")
        return named[1]
    if asked:
        return asked.lower()
    if _endpoint_id(settings.model):
        raise ConfigError(
            f"--model={settings.model}: a tuned endpoint lies in one place; add --vertex_location: us or eu "
            "for a Gemini 3 model, else its region"
        )
    location = data_location.lower()
    if location.startswith("us-"):
        location = "us"
    elif location.startswith("europe-") and location not in ("europe-west2", "europe-west6"):
        location = "eu"
    return find(settings.model).multi_regions.get(location, location)


def is_endpoint(model: str) -> bool:
    """Whether a model is a tuned one, by its endpoint's number or full resource name."""
    return bool(_endpoint_id(model)) or (_RESOURCE.fullmatch(model) is not None and "/endpoints/" in model)


def _endpoint_id(model: str) -> str:
    number = model.removeprefix("endpoints/")
    return number if number.isdigit() else ""


def resource_name(model: str, project: str, location: str) -> str:
    """The full name of a model: of a short id, of a tuned model's endpoint id, or of itself.

    Raises:
        ConfigError: the text is none of these.
    """
    if _RESOURCE.fullmatch(model):
        return model
    bare = model.removeprefix("publishers/google/models/").removeprefix("models/")
    base = f"projects/{project}/locations/{location}"
    if _endpoint_id(model):
        return f"{base}/endpoints/{_endpoint_id(model)}"
    if _SHORT.fullmatch(bare):
        return f"{base}/publishers/google/models/{bare}"
    raise ConfigError(
        f"--model={model}: expected a model id such as {default_model()}, the number of a tuned endpoint, "
        "or projects/P/locations/L/endpoints/N"
    )


def is_published(model: str, project: str, location: str) -> bool:
    """Whether it is a publisher's model, not a tuned one; other arguments and errors as `resource_name`."""
    return "/publishers/" in resource_name(model, project, location)
