"""Puts an answer, or what a fault makes of it, into a GenerateContentResponse. Pure."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Sequence
from typing import Any, Final

from pipeline.local.pictures.seen import Seen
from pipeline.local.vertex import answers
from pipeline.local.vertex.answers import View
from pipeline.local.vertex.config import tokens_of
from pipeline.local.vertex.faults import Settings, is_noisy
from pipeline.local.vertex.request import Asked, Image
from pipeline.local.vertex.shapes import Shape

_KEY_NAMES: Final = frozenset({"image", "key", "id", "image_id", "image_key"})
_NOT_A_LABEL: Final = "something_else_entirely"
_CHARS_PER_TOKEN: Final = 4


def response(
    message: Any,
    asked: Asked,
    seen: Sequence[Seen],
    *,
    settings: Settings,
    faults: Sequence[str | None],
    number: int,
) -> Any:
    """The response to a request.

    Args:
        message: The class GenerateContentResponse, plain protobuf.
        asked: The request.
        seen: What each of `asked.images` shows.
        settings: For the noise.
        faults: For each of `asked.images` its fault, or None; the first that concerns the whole answer decides it.
        number: Of the call; it makes the response id.
    """
    reply = message(model_version=f"stand-in-of-{asked.model_name}", response_id=f"stand-in-{number}")
    whole = next((fault for fault in faults if fault), "")
    word, _, value = whole.partition(":")
    text = _text(asked, seen, settings, faults)
    output = 0
    if word == "blocked":
        reply.prompt_feedback.block_reason = _number(reply.prompt_feedback, "block_reason", value or "SAFETY")
        reply.prompt_feedback.block_reason_message = "The prompt was blocked: the stand-in was told so."
    elif word != "empty":
        candidate = reply.candidates.add()
        candidate.content.role = "model"
        output = _fill(candidate, text, asked, word, value)
    if word != "no_usage":
        _count(reply.usage_metadata, asked, output, thought=word != "blocked")
    return reply


def _fill(candidate: Any, text: str, asked: Asked, word: str, value: str) -> int:
    """Fills a candidate's content and finish reason; returns its output tokens."""
    wanted = int(value) if word == "long" else tokens_of(text)
    room = asked.config.max_output_tokens - asked.config.thoughts_tokens
    reason = value if word == "finish" else "MAX_TOKENS" if wanted > room else "STOP"
    candidate.finish_reason = _number(candidate, "finish_reason", reason)
    if reason == "MAX_TOKENS":
        wanted = max(0, min(wanted, room))
        text = text[: max(0, min(len(text) // 2, wanted * _CHARS_PER_TOKEN))]
    elif reason != "STOP":
        candidate.finish_message = f"The stand-in was told to finish with {reason}."
        return 0
    if word == "no_text" or not text:
        return 0
    if word == "thought_parts":
        candidate.content.parts.add(text="Looking at the image first.", thought=True)
    if word in {"split_parts", "thought_parts"}:
        third = len(text) // 3
        for part in (text[:third], text[third : 2 * third], text[2 * third :]):
            candidate.content.parts.add(text=part)
    else:
        candidate.content.parts.add(text=text)
    return wanted


def _count(usage: Any, asked: Asked, output: int, *, thought: bool) -> None:
    thoughts = asked.config.thoughts_tokens if thought else 0
    usage.prompt_token_count = asked.prompt_tokens
    usage.candidates_token_count = output
    usage.thoughts_token_count = thoughts
    usage.total_token_count = asked.prompt_tokens + output + thoughts
    for modality, tokens in ((1, asked.text_tokens), (2, asked.image_tokens)):  # Modality.TEXT, Modality.IMAGE
        if tokens:
            usage.prompt_tokens_details.add(modality=modality, token_count=tokens)
    usage.traffic_type = _number(usage, "traffic_type", asked.traffic_type)


def _number(message: Any, field: str, name: str) -> int:
    """The number of an enum's value; a number by itself is one that this client does not know yet."""
    if name.isdigit():
        return int(name)
    values = message.DESCRIPTOR.fields_by_name[field].enum_type.values_by_name
    if name not in values:
        raise ValueError(f"{field} has no value {name!r}; a number is taken too")
    return int(values[name].number)


def _text(asked: Asked, seen: Sequence[Seen], settings: Settings, faults: Sequence[str | None]) -> str:
    """The model's text."""
    shape = asked.config.shape
    views = [_view(image, one, asked, settings) for image, one in zip(asked.images, seen, strict=True)]
    if shape is None:
        text = " ".join(answers.describe(one) for one in seen) or "There is no image."
        return json.dumps({"description": text}) if asked.config.mime_type == "application/json" else text
    if not views:
        views = [_view(Image("", b"", ""), Seen(kind="other"), asked, settings)]
    key = _key_property(shape, len(asked.images))
    if key:
        value: Any = _pack(shape, key, asked.images, views, faults)
    else:
        value = answers.answer(shape, min(views, key=_flaws))
    word = next((fault for fault in faults if fault), "")
    if word == "wrong_label":
        value = _mislabelled(value, shape)
    if asked.config.mime_type == "text/x.enum":
        return str(value)
    text = json.dumps(value, ensure_ascii=False)
    match word:
        case "malformed_json":
            return text[:-1] + ",," + text[-1:]
        case "truncated_json":
            return text[: len(text) * 2 // 3]
        case "fenced_json":
            return f"```json\n{text}\n```"
        case "prose":
            return f"Here is the answer:\n{text}\nLet me know if you need more."
    return text


def _view(image: Image, seen: Seen, asked: Asked, settings: Settings) -> View:
    identity = image.uri or f"{len(image.data)}:{image.data[:64]!r}"
    return View(
        seen=seen,
        subject=_subject(asked.text, asked.config.shape),
        identity=identity,
        noisy=lambda question: is_noisy(identity, question, settings),
    )


_subject = functools.lru_cache(maxsize=4096)(answers.subject_of)


def _flaws(view: View) -> int:
    """Of several images of one thing the clearest is answered from."""
    return view.seen.blurred + view.seen.dark + view.seen.obstructed + (not view.there)


def _key_property(shape: Shape, images: int) -> str:
    """The property that names the image, where the answer is a list with an object for each."""
    if shape.type != "array" or shape.items is None or shape.items.type != "object" or images < 2:
        return ""
    for name, child in shape.items.properties:
        if child.type == "string" and (name in _KEY_NAMES or len(child.enum) == images):
            return name
    return ""


def _pack(
    shape: Shape, key: str, images: Sequence[Image], views: Sequence[View], faults: Sequence[str | None]
) -> list[Any]:
    assert shape.items is not None  # noqa: S101 - `_key_property` has looked
    names = dict(shape.items.properties)[key].enum
    entries = []
    for place, (image, view, fault) in enumerate(zip(images, views, faults, strict=True)):
        entry = answers.answer(shape.items, view)
        entry[key] = _key_of(image.caption, names, place)
        if fault == "missing_key":
            continue
        if fault == "unknown_key":
            entry[key] = f"{entry[key]}_unknown"
        entries += [entry] * (2 if fault == "doubled_key" else 1)
    return entries


def _key_of(caption: str, names: Sequence[Any], place: int) -> str:
    """What the request calls an image: the name that its caption begins with."""
    words = re.split(r"[\s:]", caption.strip(), maxsplit=1)
    if words[0] and (not names or words[0] in names):
        return words[0]
    return str(names[place]) if place < len(names) else str(place + 1)


def _mislabelled(value: Any, shape: Shape) -> Any:
    """The answer with labels that are not in the list."""
    if shape.type == "object":
        inner = dict(shape.properties)
        return {name: _mislabelled(child, inner[name]) for name, child in value.items()}
    if shape.type == "array" and shape.items is not None:
        return [_mislabelled(child, shape.items) for child in value]
    return _NOT_A_LABEL if shape.enum and shape.type == "string" else value
