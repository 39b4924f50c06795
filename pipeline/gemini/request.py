"""Builds GenerateContent requests as bytes. Pure.

A request is a protobuf message, and the bytes of a message are those of its fields, one after the other, in any order.
So what is the same for all rows (model, instruction, settings, schema, examples, labels) is serialised once, and a
row's own content is appended to it: about a tenth of the time that building the whole message takes. The class comes
from the generated Vertex AI client, whose import takes seconds: it is loaded when the first builder is made.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.rows import IMAGES, Observation
from pipeline.task import Settings, Task, mime_type
from pipeline.task.parts import MAX_OUTPUT_TOKENS

METHOD = "/google.cloud.aiplatform.v1.PredictionService/GenerateContent"

_CONTENTS_TAG = b"\x12"  # field 2, length-delimited; a test compares it with the descriptor
_LEVELS = {"low": "LOW", "medium": "MEDIUM", "high": "HIGH", "minimal": "MINIMAL"}
_NOT_IN_LABELS = re.compile(r"[^a-z0-9_-]")
_SETTINGS = ("temperature", "top_p", "top_k", "seed", "presence_penalty", "frequency_penalty")

# Part of what is asked: another wording buys answers anew (`task.identity.FORMAT`).
_ONE_ASSET = (
    "The {count} images above show one and the same object, the newest first. Answer once, from all of them together."
)

Inline = tuple[str, bytes]
"""An image to send in the request itself: MIME type and bytes."""


@functools.cache
def request_class() -> Any:
    """The plain protobuf class of GenerateContentRequest (upb; proto-plus around it costs ten times more)."""
    from google.cloud.aiplatform_v1.types import prediction_service

    return prediction_service.GenerateContentRequest.pb()


@functools.cache
def response_class() -> Any:
    """The plain protobuf class of GenerateContentResponse."""
    from google.cloud.aiplatform_v1.types import prediction_service

    return prediction_service.GenerateContentResponse.pb()


def image_keys(count: int) -> tuple[str, ...]:
    """What the images of one request are called; short, so that the model copies them without mistakes."""
    return tuple(f"image_{number}" for number in range(1, count + 1))


def request_labels(run_id: str, task: str) -> dict[str, str]:
    """Labels that split the bill by run and task: lower case, 63 characters (Vertex AI, custom metadata labels)."""
    return {name: _NOT_IN_LABELS.sub("_", value.lower())[:63] for name, value in (("run", run_id), ("task", task))}


class RequestBuilder:
    """Builds the requests of one run.

    Args:
        task: what is asked.
        settings: how.
        resource: full name of the model.
        labels: billing labels of each call, from `request_labels`.
    """

    def __init__(self, task: Task, settings: Settings, resource: str, labels: Mapping[str, str]) -> None:
        self._task = task
        self._settings = settings
        self._resource = resource
        self._labels = dict(labels)
        self._ultra = settings.media_resolution == "ultra_high"
        self._heads: dict[tuple[int, int], bytes] = {}
        request = request_class()()
        self._new_content = type(request.contents.add())
        self._fixed_prompt = None if task.columns else task.prompt_for({})

    def build(
        self,
        rows: Sequence[Observation],
        *,
        correction: str | None = None,
        max_output_tokens: int | None = None,
        inline: Sequence[Sequence[Inline]] | None = None,
    ) -> bytes:
        """A serialised GenerateContentRequest for one image, or for several.

        Args:
            rows: the images, at least one; each has a gs:// URI with a known extension, or is given inline.
            correction: what was wrong with the last answer, to be said after the prompt.
            max_output_tokens: limit of the whole answer; default: the settings' for each image.
            inline: for each row what is sent instead of its URIs, in their order; None for the URIs themselves.
        """
        count = len(rows)
        limit = max_output_tokens or min(self._settings.max_output_tokens * count, MAX_OUTPUT_TOKENS)
        head = self._heads.get((count, limit))
        if head is None:
            head = self._heads[count, limit] = self._head(count, limit)
        content = self._new_content(role="user")
        parts = content.parts
        if count == 1:
            uris = self.uris(rows[0])
            for place, uri in enumerate(uris):
                self._add_image(parts, uri, inline[0][place] if inline else None)
            if len(uris) > 1:
                parts.add().text = _ONE_ASSET.format(count=len(uris))
            parts.add().text = self._fixed_prompt or self._task.prompt_for(rows[0].columns)
        else:
            keys = image_keys(count)
            for place, (key, row) in enumerate(zip(keys, rows, strict=True)):
                facts = self._task.pack_facts(row.columns)
                parts.add().text = f"{key} ({facts}):" if facts else f"{key}:"
                self._add_image(parts, row.gcs_uri or "", inline[place][0] if inline else None)
            parts.add().text = self._task.pack_prompt(keys)
        if correction:
            # In the same turn: the image is sent once, and current models refuse a request whose last turn is theirs.
            parts.add().text = correction
        body: bytes = content.SerializeToString()
        return b"".join((head, _CONTENTS_TAG, _varint(len(body)), body))

    def message(self, request: bytes) -> Any:
        """The request as a protobuf message, to look at or to turn into JSON."""
        return request_class().FromString(request)

    def uris(self, row: Observation) -> list[str]:
        """The images of a row: its own, or those of its asset, the newest first."""
        if self._settings.unit == "asset":
            listed: list[str] = json.loads(row.columns[IMAGES])
            return listed
        return [row.gcs_uri or ""]

    def _add_image(self, parts: Any, uri: str, inline: Inline | None) -> None:
        part = parts.add()
        if inline:
            part.inline_data.mime_type, part.inline_data.data = inline
        else:
            part.file_data.file_uri = uri
            part.file_data.mime_type = mime_type(uri) or ""
        if self._ultra:
            part.media_resolution.level = part.media_resolution.MEDIA_RESOLUTION_ULTRA_HIGH

    def _head(self, count: int, limit: int) -> bytes:
        task, settings = self._task, self._settings
        request = request_class()(model=self._resource, labels=self._labels)
        if task.system_instruction:
            request.system_instruction.parts.add().text = task.system_instruction
        config = request.generation_config
        config.max_output_tokens = limit
        for name in _SETTINGS:
            value = getattr(settings, name)
            if value is not None:
                setattr(config, name, value)
        if not self._ultra:  # ultra_high exists for a part only, not for a request
            level = f"MEDIA_RESOLUTION_{_LEVELS[settings.media_resolution]}"
            config.media_resolution = config.MediaResolution.Value(level)
        thinking = config.thinking_config
        if settings.thinking_level is not None:
            thinking.thinking_level = thinking.ThinkingLevel.Value(_LEVELS[settings.thinking_level])
        elif settings.thinking_budget is not None:
            thinking.thinking_budget = settings.thinking_budget
        else:
            config.ClearField("thinking_config")
        schema = task.response_schema if count == 1 else task.pack_schema(image_keys(count))
        if schema is not None and settings.response_schema is not False:
            from google.protobuf import json_format

            config.response_mime_type = "application/json"
            json_format.Parse(json.dumps(schema), config.response_json_schema)
        for example in task.examples if count == 1 else ():
            self._add_example(request, example)
        head: bytes = request.SerializeToString(deterministic=True)
        return head

    def _add_example(self, request: Any, example: Any) -> None:
        turn = request.contents.add(role="user")
        self._add_image(turn.parts, example.image, None)
        turn.parts.add().text = self._task.prompt_for(example.columns)
        request.contents.add(role="model").parts.add().text = self._task.example_answer(example)


def _varint(number: int) -> bytes:
    """Protobuf's variable-length integer."""
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)
