"""Examples for supervised tuning on Vertex AI: what the pipeline would ask of an image, and the answer to learn. Pure.

Each line of a data set is one example, as the documentation describes it ("Prepare supervised fine-tuning data for
Gemini models", "Image tuning"; read in November 2026): `contents` with a user's turn and the model's, an optional
`systemInstruction`, and `generationConfig` with the media resolution. The user's turn is built by the code that builds
requests, so that the tuned model is asked later exactly what it has learnt.
"""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.errors import ConfigError
from pipeline.gemini.request import RequestBuilder
from pipeline.rows import Observation
from pipeline.task import Invalid, Settings, Task
from pipeline.task.task import CHARS_PER_TOKEN, REASONING

# "About supervised fine-tuning for Gemini models" and "Image tuning", limitations (last updated 2026-09-25).
MAX_IMAGES = 30
MAX_VALIDATION = 5000
ANY_VALIDATION = 1000  # more than these must be at most `VALIDATION_TO_TRAIN` of the training examples
VALIDATION_TO_TRAIN = 0.3
MAX_EXAMPLES = 300_000
MAX_TOKENS = 131_072
MAX_FILE_BYTES = 10**9
RECOMMENDED_EXAMPLES = 100

_IMAGE_TYPES = ("image/jpeg", "image/png", "image/webp", "image/heic", "image/heif")
_RESOLUTIONS = ("MEDIA_RESOLUTION_LOW", "MEDIA_RESOLUTION_MEDIUM", "MEDIA_RESOLUTION_HIGH")


@dataclasses.dataclass(frozen=True, slots=True)
class Example:
    """One line to be.

    Attributes:
        key: the row's key.
        images: the URIs of its images.
        group: what must stay together in one file, such as an asset.
        stratum: the row's label, of which both files get their share.
        line: the example as JSON-able values.
    """

    key: str
    images: tuple[str, ...]
    group: str
    stratum: str
    line: Mapping[str, Any]

    @property
    def text(self) -> str:
        """Its line of the file."""
        return json.dumps(self.line, ensure_ascii=False, separators=(",", ":")) + "\n"


@dataclasses.dataclass(frozen=True, slots=True)
class Split:
    """The two files."""

    train: tuple[Example, ...]
    validation: tuple[Example, ...]

    def strata(self) -> list[tuple[str, int, int]]:
        """(label, examples to train, examples to validate), sorted by label."""
        train = collections.Counter(each.stratum for each in self.train)
        validation = collections.Counter(each.stratum for each in self.validation)
        return [(stratum, train[stratum], validation[stratum]) for stratum in sorted({*train, *validation})]


class Maker:
    """Makes the examples of one task.

    Args:
        task: what is asked; its own examples are left out, as the tuned model is to do without them.
        settings: how; only the media resolution matters.

    Raises:
        ConfigError: a media resolution that tuning does not know, or a part of the image.
    """

    def __init__(self, task: Task, settings: Settings) -> None:
        if settings.media_resolution == "ultra_high":
            raise ConfigError("--media_resolution=ultra_high: tuning takes low, medium or high")
        if settings.crop_to is not None:
            raise ConfigError(
                "--crop_to_bbox: tuning takes whole images from Cloud Storage; write the crops there first"
            )
        fields = {name: getattr(task, name) for name in type(task).model_fields}
        self._task = Task(**{**fields, "examples": ()})
        self._builder = RequestBuilder(self._task, settings, "tuning", {})

    def example(self, row: Observation, answer: str, group: str) -> Example:
        """The example of a row and the text that answers it.

        Args:
            row: with an image of a known type.
            answer: the text that the model is to give: JSON, or any text for a free-text task.
            group: what the row must stay together with.

        Raises:
            ConfigError: the answer is none to this task.
        """
        parsed = self._task.parse(answer)
        if isinstance(parsed, Invalid):
            raise ConfigError(f"the answer of {row.key} cannot be learnt: {parsed.why}")
        line = self._line(row, parsed.answer_json or answer)
        images = tuple(part["fileData"]["fileUri"] for part in line["contents"][0]["parts"] if "fileData" in part)
        return Example(row.key, images, group, parsed.label or "", line)

    def answer_of(self, values: Mapping[str, Any]) -> str | None:
        """The text that gives these true values, or None where a question has none: the model would learn to skip it."""
        if any(name not in values for name in self._task.questions):
            return None
        return json.dumps({name: values[name] for name in self._task.questions}, ensure_ascii=False)

    def _line(self, row: Observation, answer: str) -> dict[str, Any]:
        from google.protobuf import json_format

        message = self._builder.message(self._builder.build([row]))
        asked = json_format.MessageToDict(message)
        line: dict[str, Any] = {}
        if "systemInstruction" in asked:
            line["systemInstruction"] = {"role": "system", "parts": asked["systemInstruction"]["parts"]}
        answered = {"role": "model", "parts": [{"text": _without_empty_reasoning(answer)}]}
        line["contents"] = [*asked["contents"], answered]
        line["generationConfig"] = {"mediaResolution": asked["generationConfig"]["mediaResolution"]}
        return line


def _without_empty_reasoning(answer: str) -> str:
    """Labels have no reasoning; a null would be learnt."""
    if not answer.startswith("{"):
        return answer
    values = json.loads(answer)
    if values.get(REASONING, "") is None:
        del values[REASONING]
        return json.dumps(values, ensure_ascii=False, separators=(",", ":"))
    return answer


def distinct(examples: Sequence[Example]) -> list[Example]:
    """One example for each set of images, that of the smallest key: the same image twice would be learnt twice."""
    seen: set[str] = set()
    kept = []
    for each in sorted(examples, key=lambda example: example.key):
        if not seen.intersection(each.images):
            seen.update(each.images)
            kept.append(each)
    return kept


def split(examples: Sequence[Example], share: float) -> Split:
    """Examples to train and to validate: of every label about `share`, groups whole, the same ones every time.

    Groups are taken by the hash of their name, so that neither order nor luck decides. A label with two groups or
    more has examples in both files.

    Args:
        examples: of distinct images.
        share: of each label, at least 0 and below 1; less where the service would not take so many.
    """
    of_all = VALIDATION_TO_TRAIN / (1 + VALIDATION_TO_TRAIN) * len(examples)
    share = min(share, min(MAX_VALIDATION, max(ANY_VALIDATION, of_all)) / max(1, len(examples)))
    groups: dict[str, list[Example]] = {}
    for each in sorted(examples, key=lambda example: example.key):
        groups.setdefault(each.group, []).append(each)
    strata: dict[str, list[str]] = {}
    for name, members in groups.items():
        strata.setdefault(members[0].stratum, []).append(name)
    validation: set[str] = set()
    for names in strata.values():
        validation |= _taken(sorted(names, key=order), groups, share)
    ordered = sorted(examples, key=lambda example: order(example.key))  # labels well mixed
    train = tuple(each for each in ordered if each.group not in validation)
    held = tuple(each for each in ordered if each.group in validation)
    return Split(train, held[: most_validation(len(train))])  # groups are whole, so a share may be passed by a few


def most_validation(train: int) -> int:
    """Examples that the service takes for validation beside so many for training."""
    return min(MAX_VALIDATION, max(ANY_VALIDATION, int(VALIDATION_TO_TRAIN * train)))


def _taken(names: Sequence[str], groups: Mapping[str, Sequence[Example]], share: float) -> set[str]:
    """Of the groups of one label, in order, those to validate; at least one of two, and never all."""
    if share <= 0 or len(names) < 2:
        return set()
    wanted = share * sum(len(groups[name]) for name in names)
    taken: set[str] = set()
    count = 0
    for name in names[:-1]:
        size = len(groups[name])
        if taken and count + size / 2 > wanted:
            break
        taken.add(name)
        count += size
    return taken


def order(text: str) -> bytes:
    """A place in an order that has nothing to do with the text."""
    return hashlib.sha256(text.encode()).digest()


def faults(found: Split) -> list[str]:
    """What the tuning service would refuse, and an image that is in both files; empty when all is well."""
    problems = []
    for name, examples in (("train", found.train), ("validation", found.validation)):
        for number, each in enumerate(examples, start=1):
            problems += [f"{name}.jsonl, line {number}: {fault}" for fault in line_faults(each.text)]
        size = sum(len(each.text.encode()) for each in examples)
        if size > MAX_FILE_BYTES:
            problems.append(f"{name}.jsonl has {size:,} bytes, the service takes {MAX_FILE_BYTES:,}")
    if len(found.train) > MAX_EXAMPLES:
        problems.append(f"train.jsonl has {len(found.train):,} examples, the service takes {MAX_EXAMPLES:,}")
    if len(found.validation) > most_validation(len(found.train)):
        most = most_validation(len(found.train))
        problems.append(
            f"validation.jsonl has {len(found.validation):,} examples, the service takes {most:,} beside these"
        )
    if not found.train:
        problems.append("train.jsonl has no examples")
    images = [{image for each in examples for image in each.images} for examples in (found.train, found.validation)]
    groups = [{each.group for each in examples} for examples in (found.train, found.validation)]
    problems += [f"{image} is in both files" for image in sorted(images[0] & images[1])]
    problems += [f"group {group} is in both files" for group in sorted(groups[0] & groups[1])]
    return problems


def line_faults(text: str) -> list[str]:
    """What the documented format does not allow in one line."""
    try:
        line = json.loads(text)
    except ValueError as error:
        return [f"not JSON: {error}"]
    if not isinstance(line, dict):
        return ["not a JSON object"]
    problems = [f"unknown field {name}" for name in line if name not in _FIELDS]
    contents = line.get("contents")
    if not isinstance(contents, list) or not contents:
        return [*problems, "contents is missing"]
    roles = [turn.get("role") if isinstance(turn, dict) else None for turn in contents]
    if roles != ["user", "model"] * (len(roles) // 2) or not roles:
        problems.append(f"turns are of {roles}, not user and model in turn")
    images = 0
    for turn in [*contents, *([line["systemInstruction"]] if "systemInstruction" in line else [])]:
        parts = turn.get("parts") if isinstance(turn, dict) else None
        if not isinstance(parts, list) or not parts:
            problems.append("a turn without parts")
            continue
        problems += [fault for part in parts for fault in _part_faults(part)]
        files = sum(isinstance(part, dict) and "fileData" in part for part in parts)
        if files and turn.get("role") != "user":
            problems.append("an image outside of the user's turn")
        images += files
    if images > MAX_IMAGES:
        problems.append(f"{images} images, the service takes {MAX_IMAGES}")
    config = line.get("generationConfig", {})
    if not isinstance(config, dict) or set(config) - {"mediaResolution"}:
        problems.append("generationConfig has more than mediaResolution")
    elif config and config["mediaResolution"] not in _RESOLUTIONS:
        problems.append(f"mediaResolution {config['mediaResolution']} is not one of {', '.join(_RESOLUTIONS)}")
    if len(text) // CHARS_PER_TOKEN > MAX_TOKENS:
        problems.append(f"about {len(text) // CHARS_PER_TOKEN:,} tokens of text, the service takes {MAX_TOKENS:,}")
    return problems


_FIELDS = ("systemInstruction", "contents", "generationConfig")


def _part_faults(part: Any) -> list[str]:
    if not isinstance(part, dict) or len(part) != 1:
        return ["a part that is not one of text and fileData"]
    (kind, value), *_ = part.items()
    if kind == "text":
        return [] if isinstance(value, str) and value.strip() else ["an empty text"]
    if kind != "fileData" or not isinstance(value, dict):
        return [f"a part of {kind}"]
    problems = [] if set(value) == {"mimeType", "fileUri"} else ["fileData needs mimeType and fileUri, and no more"]
    if value.get("mimeType") not in _IMAGE_TYPES:
        problems.append(f"mimeType {value.get('mimeType')} is not one of {', '.join(_IMAGE_TYPES)}")
    if not str(value.get("fileUri", "")).startswith("gs://"):
        problems.append(f"fileUri {value.get('fileUri')} is not a gs:// URI")
    return problems
