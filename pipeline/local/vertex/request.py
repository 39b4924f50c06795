"""Reads a GenerateContent request as strictly as Vertex AI does: what is asked, or the error it would get. Pure."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import unquote_plus

from pipeline.local.vertex import refusals
from pipeline.local.vertex.config import IMAGE_TOKENS, MODELS, RESOLUTIONS, Config, Model, read_config, tokens_of
from pipeline.local.vertex.faults import Settings
from pipeline.local.vertex.refusals import invalid, unable

MAX_IMAGES: Final = 3000
MAX_INLINE_BYTES: Final = 7_000_000
MAX_FILE_BYTES: Final = 30_000_000
MAX_PROMPT_TOKENS: Final = 1_048_576
IMAGE_TYPES: Final = frozenset({"image/png", "image/jpeg", "image/webp", "image/heic", "image/heif"})
"""Limits of one request and its image types: docs/facts.md."""

LOCATIONS: Final = frozenset(
    {
        "global", "us", "eu", "us-central1", "us-east1", "us-east4", "us-east5", "us-south1", "us-west1", "us-west4",
        "northamerica-northeast1", "southamerica-east1", "europe-central2", "europe-north1", "europe-southwest1",
        "europe-west1", "europe-west2", "europe-west3", "europe-west4", "europe-west8", "europe-west9", "asia-east1",
        "asia-northeast1", "asia-northeast3", "asia-south1", "asia-southeast1", "australia-southeast1",
    }
)  # fmt: skip

_MODEL_PATH: Final = re.compile(
    r"projects/(?P<project>[^/]+)/locations/(?P<location>[^/]+)/"
    r"(?:publishers/google/models/(?P<model>[^/]+)|endpoints/(?P<endpoint>[^/]+))"
)
_PROJECT: Final = re.compile(r"(?:[a-z0-9.-]+:)?[a-z][a-z0-9-]{4,28}[a-z0-9]|\d{6,}")
_LABEL_KEY: Final = re.compile(r"[a-z][a-z0-9_-]{0,62}")
_LABEL_VALUE: Final = re.compile(r"[a-z0-9_-]{0,63}")
_GS_URI: Final = re.compile(r"gs://(?P<bucket>[a-z0-9][a-z0-9._-]{1,220}[a-z0-9])/(?P<object>.+)", re.DOTALL)
_KEPT_CONFIGS: Final = 1024


@dataclasses.dataclass(frozen=True, slots=True)
class Image:
    """One image of a request: where it lies or what it is, and the text that stands before it."""

    uri: str
    data: bytes
    caption: str


@dataclasses.dataclass(frozen=True, slots=True)
class Asked:
    """A checked request.

    Attributes:
        model: Full resource name.
        model_name: Its last part.
        images: Those of the last turn that has any: what is asked about.
        examples: Those of earlier turns.
        text: System instruction and the text of the turn of `images` and after.
    """

    model: str
    model_name: str
    project: str
    images: tuple[Image, ...]
    examples: tuple[Image, ...]
    text: str
    config: Config
    text_tokens: int
    image_tokens: int
    traffic_type: str

    @property
    def prompt_tokens(self) -> int:
        """Input tokens: text, schema and images."""
        return self.text_tokens + self.image_tokens


class Reader:
    """Reads requests; keeps what it has found out about generation configs, as a run sends one over and over."""

    def __init__(self) -> None:
        self._configs: dict[tuple[str, bytes], Config] = {}

    def read(self, request: Any, headers: Mapping[str, str], settings: Settings, *, routed: bool = True) -> Asked:
        """What a GenerateContentRequest (the plain protobuf message) asks.

        Args:
            request: The message.
            headers: The call's metadata by lower-case name.
            settings: Which projects, locations and models there are.
            routed: Whether the routing header is looked at; over REST the path says the same.

        Raises:
            Refused: What Vertex AI would answer instead.
        """
        path = _MODEL_PATH.fullmatch(request.model)
        if path is None:
            raise invalid(f"Invalid resource field value in the request: model {request.model!r}.")
        if routed:
            _check_routing(request.model, headers)
        model = self._model(path, request.model, settings)
        config = self._config(request, path["model"] or "", model)
        turns: list[tuple[list[Image], list[str]]] = []
        image_tokens = 0
        if not request.contents:
            raise unable("it must have at least one contents field", "Add contents and try again")
        for content in request.contents:
            if content.role not in {"user", "model"}:
                raise invalid("Please use a valid role: user, model.")
            if not content.parts:
                raise unable("it must include at least one parts field", "Add a part and try again")
            images: list[Image] = []
            texts: list[str] = []
            caption = ""
            for part in content.parts:
                kind = part.WhichOneof("data")
                if kind == "text":
                    texts.append(part.text)
                    caption = part.text
                    continue
                if kind not in {"file_data", "inline_data"}:
                    raise unable(f"it has a part with {kind or 'no data'}", "Use text and images")
                images.append(_image(part, kind, caption))
                caption = ""
                level = RESOLUTIONS[part.media_resolution.level] if part.HasField("media_resolution") else ""
                image_tokens += IMAGE_TOKENS[model.generation][level] if level else config.image_tokens
            turns.append((images, texts))
        if request.contents[-1].role == "model":
            raise invalid("Please ensure that multiturn requests end with a user role or a function response.")
        if not any(any(texts) for _, texts in turns):
            raise unable("it must have a text parameter", "Add a text parameter and try again")
        asked = max((place for place, (images, _) in enumerate(turns) if images), default=0)
        count = sum(len(images) for images, _ in turns)
        if count > MAX_IMAGES:
            raise invalid(f"Too many images in request: {count}. The maximum is {MAX_IMAGES}.")
        system = [part.text for part in request.system_instruction.parts]
        text_tokens = config.schema_tokens + sum(tokens_of(text) for text in system)
        text_tokens += sum(tokens_of(text) for _, texts in turns for text in texts)
        if text_tokens + image_tokens > MAX_PROMPT_TOKENS:
            raise invalid(
                f"The input token count ({text_tokens + image_tokens}) exceeds the maximum number of tokens allowed "
                f"({MAX_PROMPT_TOKENS})."
            )
        for key, value in request.labels.items():
            if not _LABEL_KEY.fullmatch(key) or not _LABEL_VALUE.fullmatch(value):
                raise invalid(f"Invalid label: {key}={value}.")
        return Asked(
            model=request.model,
            model_name=path["model"] or f"endpoint-{path['endpoint']}",
            project=path["project"],
            images=tuple(turns[asked][0]),
            examples=tuple(image for images, _ in turns[:asked] for image in images),
            text="\n".join(system + [text for _, texts in turns[asked:] for text in texts]),
            config=config,
            text_tokens=text_tokens,
            image_tokens=image_tokens,
            traffic_type=_traffic_type(headers, path["location"]),
        )

    @staticmethod
    def _model(path: re.Match[str], name: str, settings: Settings) -> Model:
        if path["location"] not in (settings.locations or LOCATIONS):
            raise invalid(f"Unsupported region for Vertex AI, select from {sorted(settings.locations or LOCATIONS)}")
        if not _PROJECT.fullmatch(path["project"]) or settings.project not in {None, path["project"]}:
            raise refusals.predict_denied(name)
        if path["endpoint"]:
            if not path["endpoint"].isdigit():
                raise refusals.Refused("NOT_FOUND", f"Endpoint `{name}` not found.")
            return Model()
        if path["model"] in settings.extra_models:
            return MODELS.get(path["model"], Model())
        if path["model"] not in MODELS:
            raise refusals.model_not_found(name)
        return MODELS[path["model"]]

    def _config(self, request: Any, model_name: str, model: Model) -> Config:
        raw = request.generation_config.SerializeToString()
        known = self._configs.get((model_name, raw))
        if known is None:
            known = read_config(request.generation_config, model, raw)
            if len(self._configs) >= _KEPT_CONFIGS:
                self._configs.clear()
            self._configs[model_name, raw] = known
        return known


def object_path(uri: str) -> tuple[str, str] | None:
    """Bucket and object of a gs:// URI, or None."""
    found = _GS_URI.fullmatch(uri)
    return (found["bucket"], found["object"]) if found else None


def _check_routing(model: str, headers: Mapping[str, str]) -> None:
    routing = headers.get("x-goog-request-params")
    if routing is None:
        raise invalid("Missing routing header: x-goog-request-params must name the model of the request.")
    values = dict(pair.partition("=")[::2] for pair in routing.split("&"))
    if unquote_plus(values.get("model", "")) != model:
        raise invalid(
            f"Routing header x-goog-request-params {routing!r} does not match the request: it must be model= and the "
            f"URL-encoded name {model!r}."
        )


def _image(part: Any, kind: str, caption: str) -> Image:
    blob = part.file_data if kind == "file_data" else part.inline_data
    if not blob.mime_type:
        field = "fileData" if kind == "file_data" else "inlineData"
        raise unable(f"it has an empty mimeType parameter in {field}", "Add a value to the parameter and try again")
    if blob.mime_type not in IMAGE_TYPES:
        raise unable(
            f"it has a mimeType parameter with value {blob.mime_type}, which is not supported",
            "Update the mimeType and try again",
        )
    if kind == "inline_data":
        if not blob.data:
            raise refusals.image_invalid()
        if len(blob.data) > MAX_INLINE_BYTES:
            raise invalid(f"Inline image has {len(blob.data)} bytes; the maximum is {MAX_INLINE_BYTES}.")
        return Image("", blob.data, caption)
    if object_path(blob.file_uri) is None:
        raise invalid(
            f"Cannot fetch content from the provided URL {blob.file_uri!r}. Please ensure the URL is valid and "
            "accessible by Vertex AI."
        )
    return Image(blob.file_uri, b"", caption)


def _traffic_type(headers: Mapping[str, str], location: str) -> str:
    tier = headers.get("x-vertex-ai-llm-shared-request-type", "")
    if tier == "flex":
        if location != "global":
            raise invalid("Flex PayGo is only supported at the global endpoint.")
        return "ON_DEMAND_FLEX"
    if tier == "priority":
        return "ON_DEMAND_PRIORITY"
    if tier not in {"", "standard"}:
        raise invalid(f"Unknown value of x-vertex-ai-llm-shared-request-type: {tier!r}.")
    return "ON_DEMAND"
