"""Shapes what was seen in an image into the answer that a request's schema asks for. Pure and deterministic.

A property is answered by the words in its name (`street_lamps`, `lean_degrees`, `condition`); where several things have
one, such as a condition, by what the prompt is about. Labels are chosen by name, then by the meanings in the property's
description. What is not known is made up by hash.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import re
from collections.abc import Callable, Sequence
from typing import Any, Final

from pipeline.local.pictures.seen import Seen
from pipeline.local.vertex.shapes import Shape

_WORDS: Final = re.compile(r"[a-z]+")
_ABOUT: Final = {
    "road_sign": re.compile(r"\bsigns?\b"),
    "utility_pole": re.compile(r"\bpoles?\b"),
    "maintenance_cover": re.compile(r"\b(?:covers?|manholes?)\b"),
}
_FALLBACKS: Final = ("unclear", "unknown", "other", "none")

_SIGN_WORDS: Final = {
    "stop": ("stop",),
    "yield": ("yield", "give way", "warning"),
    "speed_limit": ("speed limit", "speed", "regulatory", "prohibition"),
    "no_entry": ("no entry", "do not enter", "prohibition", "prohibitory", "regulatory"),
    "no_parking": ("no parking", "prohibition", "prohibitory", "regulatory"),
    "warning": ("curve", "warning", "danger"),
    "pedestrian_crossing": ("pedestrian crossing", "pedestrian", "crossing", "warning"),
    "one_way": ("one way", "mandatory", "direction", "regulatory"),
    "street_name": ("street name", "direction", "guide", "information"),
    "parking": ("parking", "information", "informational"),
    "other": ("other",),
}
_CONDITION_WORDS: Final = {
    "faded": ("faded", "worn", "weathered", "fair", "poor"),
    "obscured": ("obscured", "obstructed", "hidden", "poor"),
    "damaged": ("damaged", "broken", "cracked", "poor"),
    "displaced": ("displaced", "open", "missing", "damaged", "poor"),
    "worn": ("worn", "rusted", "rusty", "fair"),
    "good": ("good", "ok", "intact", "normal"),
    "": ("unclear", "unknown", "none"),
}
_NAMES: Final = {
    "road_sign": "road sign",
    "utility_pole": "utility pole",
    "maintenance_cover": "maintenance cover",
    "other": "street",
}


@dataclasses.dataclass(frozen=True, slots=True)
class View:
    """One image as one question sees it: what it shows, what the question is about, and whether to err on purpose."""

    seen: Seen
    subject: str
    identity: str
    noisy: Callable[[str], bool]

    @property
    def there(self) -> bool:
        """Whether the image shows what the question is about."""
        return self.subject == self.seen.kind or not self.subject


def subject_of(prompt: str, shape: Shape | None) -> str:
    """What a question is about: the kind that its prompt and its properties name most often, or nothing."""
    names = " ".join(name.replace("_", " ") for name, _ in shape.properties) if shape else ""
    counts = {kind: len(word.findall(f"{prompt.lower()} {names}")) for kind, word in _ABOUT.items()}
    most = max(counts, key=lambda kind: counts[kind])
    return most if counts[most] else ""


def answer(shape: Shape, view: View, name: str = "") -> Any:
    """The value of one node of the schema for one image."""
    if shape.type == "object":
        return {child: answer(inner, view, child) for child, inner in shape.properties}
    value = _value(shape, view, name)
    return _spoilt(value, shape, view, name) if name and view.noisy(name) else value


def describe(seen: Seen) -> str:
    """A few sentences on an image, for questions without a schema."""
    parts = [f"A street-level image of a {_NAMES[seen.kind]}."]
    if seen.kind == "road_sign":
        text = f' with the text "{seen.text}"' if seen.text else ""
        parts.append(
            f"A {seen.colour} {seen.outline} {seen.sign_type.replace('_', ' ')} sign{text} stands on a metal post "
            f"beside a road; its condition is {seen.condition}."
        )
    elif seen.kind == "utility_pole":
        parts.append(
            f"A wooden utility pole with {_some(seen.transformers, 'transformer')}, {_some(seen.lamps, 'street lamp')} "
            f"and {_some(seen.junction_boxes, 'junction box')} leans by {seen.lean_degrees:g} degrees."
        )
        parts.append(f"Its badge reads {seen.text}." if seen.text else "No badge can be read.")
    elif seen.kind == "maintenance_cover":
        parts.append(
            f"A {seen.outline} iron {seen.cover_type} lies in asphalt; its condition is {seen.condition or 'unclear'}."
        )
        parts += [f'It is marked "{seen.text}".'] if seen.text else []
    else:
        parts.append(f"It is mostly {seen.colour}; no street furniture stands out.")
    parts += [f"The picture is {word}." for word in _problems(seen)]
    return " ".join(parts)


def _some(count: int, thing: str) -> str:
    plural = thing if count == 1 else f"{thing}es" if thing.endswith("x") else f"{thing}s"
    return f"{count or 'no'} {plural}"


def _value(shape: Shape, view: View, name: str) -> Any:
    if shape.type == "array":
        return _array(shape, view, name)
    if shape.enum:
        wanted = _wanted(view, set(_WORDS.findall(name)))
        return _pick(shape, wanted, view.identity + name)
    if shape.type == "boolean":
        return _boolean(view, name)
    if shape.type in {"integer", "number"}:
        return _number(shape, view, name)
    return _text(shape, view, name)


def _wanted(view: View, words: set[str]) -> Sequence[str]:
    """What the label should be, best first."""
    seen = view.seen
    if words & {"lean", "leaning", "tilt", "inclination"}:
        if not view.there:
            return ("unclear",)
        degrees = seen.lean_degrees
        return (
            ("severe",) if degrees > 10 else ("slight", "moderate") if degrees >= 3 else ("upright", "none", "straight")
        )
    if words & {"sharpness", "blur", "quality"}:
        return ("blurred", "poor", "low") if seen.blurred else ("sharp", "good", "high")
    if words & {"light", "lighting", "exposure", "brightness"}:
        return ("dark", "underexposed") if seen.dark else ("normal", "good", "well lit")
    if words & {"condition", "state", "damage"}:
        return _CONDITION_WORDS.get(seen.condition, (seen.condition,)) if view.there else _CONDITION_WORDS[""]
    if words & {"shape", "outline", "form"}:
        if not view.there:
            return ("unclear", "none")
        return {"round": ("round", "circle", "circular"), "rectangular": ("rectangular", "square")}.get(
            seen.outline, (seen.outline,)
        )
    if words & {"colour", "color"}:
        return (seen.colour,)
    if words & {"surface", "pavement"}:
        return (seen.surface or "none",)
    if not view.there:
        return ("none", "no", "other", "unclear")
    own = {
        "road_sign": _SIGN_WORDS.get(seen.sign_type, ("other",)),
        "maintenance_cover": (seen.cover_type,),
        "utility_pole": (),
        "other": (),
    }
    return (*(own[seen.kind] if view.subject else ()), _NAMES[seen.kind], *own[seen.kind])


def _pick(shape: Shape, wanted: Sequence[str], identity: str) -> Any:
    """The label that fits best."""
    labels = {_plain(str(label)): label for label in shape.enum}
    for word in wanted:
        if word in labels:
            return labels[word]
    for word in wanted:
        for plain, label in labels.items():
            if word and (word in plain.split() or plain in word.split()):
                return label
    for word in wanted:
        for label, meaning in _meanings(shape).items():
            if word and word in meaning:
                return label
    for word in _FALLBACKS:
        if word in labels:
            return labels[word]
    return shape.enum[_digest(identity) % len(shape.enum)]


@functools.lru_cache(maxsize=512)
def _meanings(shape: Shape) -> dict[Any, str]:
    """What a description says of each label, where it has the form `label: meaning. label: meaning.`"""
    found = {}
    for label in shape.enum:
        start = shape.description.find(f"{label}: ")
        if start >= 0:
            found[label] = shape.description[start + len(str(label)) + 2 :].split(". ")[0].lower()
    return found


def _plain(label: str) -> str:
    return " ".join(label.lower().replace("_", " ").replace("-", " ").split())


def _boolean(view: View, name: str) -> bool:
    seen, words = view.seen, set(_WORDS.findall(name))
    if words & {"usable", "fit", "clear", "readable"}:
        return not _problems(seen)
    if words & {"blurred", "blurry"}:
        return seen.blurred
    if words & {"dark"}:
        return seen.dark
    if words & {"obstructed", "obscured", "hidden"}:
        return seen.obstructed or seen.condition == "obscured"
    if words & {"damaged", "damage", "broken"}:
        return view.there and seen.condition in {"damaged", "displaced"}
    if words & {"leaning", "leans", "tilted"}:
        return view.there and seen.lean_degrees >= 3
    for of, count in (("transformer", seen.transformers), ("lamp", seen.lamps), ("light", seen.lamps)):
        if any(word.startswith(of) for word in words):
            return count > 0
    for kind, pattern in _ABOUT.items():
        if pattern.search(name.replace("_", " ")):
            return seen.kind == kind
    if words & {"text", "badge", "legible"}:
        return bool(seen.text)
    return view.there


def _number(shape: Shape, view: View, name: str) -> Any:
    seen, words = view.seen, set(_WORDS.findall(name))
    low = shape.minimum if shape.minimum is not None else 0
    high = shape.maximum if shape.maximum is not None else max(100, low)
    value: float | None = None
    if words & {"confidence", "probability", "certainty"}:
        sure = 0.9 + _digest(view.identity + name) % 1000 / 10_100
        value = low + (high - low) * sure
    elif words & {"sharpness", "sharp", "quality"}:
        value = low + (high - low) * (0.25 if seen.blurred else 1.0)
    elif words & {"lean", "degrees", "angle", "tilt"}:
        if shape.nullable and not view.there:
            return None
        value = seen.lean_degrees if view.there else 0
    elif any(word.startswith("transformer") for word in words):
        value = seen.transformers
    elif any(word.startswith(("lamp", "light", "luminaire")) for word in words):
        value = seen.lamps
    elif words & {"junction", "box", "boxes", "enclosures"}:
        value = seen.junction_boxes
    elif any(pattern.search(name.replace("_", " ")) for pattern in _ABOUT.values()):
        value = float(any(seen.kind == kind and at.search(name.replace("_", " ")) for kind, at in _ABOUT.items()))
    elif any(word.startswith(("speed", "limit")) for word in words) and seen.text.split()[-1:]:
        digits = seen.text.split()[-1]
        value = float(digits) if digits.isdigit() else None
    if value is None:
        if shape.nullable:
            return None
        value = low + _digest(view.identity + name) % (int(high - low) + 1)
    value = min(max(value, low), high)
    return round(value) if shape.type == "integer" else round(float(value), 3)


def _text(shape: Shape, view: View, name: str) -> str | None:
    seen, words = view.seen, set(_WORDS.findall(name))
    if name == "text":  # by itself it is the answer to a free question
        return describe(seen)
    if words & {"text", "badge", "words", "legible", "inscription", "plate"}:
        text = seen.text if view.there else ""
        return text or (None if shape.nullable else "")
    if (
        words & {"reasoning", "reason", "explanation", "rationale", "description", "summary", "caption", "describe"}
        or not name
    ):
        return describe(seen)
    if words & {"condition", "state", "shape", "colour", "color", "type", "kind", "surface"}:
        return next(iter(_wanted(view, words)), "unknown")
    return None if shape.nullable else describe(seen)


def _array(shape: Shape, view: View, name: str) -> list[Any]:
    item = shape.items
    if item is None:
        return []
    low, high = shape.min_items or 0, shape.max_items
    if item.type == "object":
        found: list[Any] = [_boxed(item, view)] if view.seen.kind != "other" else []
    elif item.enum:
        words = set(_WORDS.findall(name))
        about_surface = words & {"surface", "pavement", "road"}
        wanted = [view.seen.surface] * bool(view.seen.surface) if about_surface else _problems(view.seen)
        labels = {_plain(str(label)): label for label in item.enum}
        found = [labels[word] for word in wanted if word in labels]
    elif item.type in {"integer", "number"} and low == 4:
        left, top, right, bottom = view.seen.box
        found = [top, left, bottom, right]
    elif item.type == "string":
        found = [view.seen.text] if view.seen.text else []
    else:
        found = []
    while len(found) < low:
        found.append(answer(item, view))
    return found[:high] if high is not None else found


def _boxed(item: Shape, view: View) -> dict[str, Any]:
    """The main object as an object with a box; its label is what the whole image shows."""
    seen = view.seen
    value: dict[str, Any] = {}
    for child, inner in item.properties:
        if inner.enum:
            whole = dataclasses.replace(view, subject="")
            value[child] = _pick(inner, _wanted(whole, set()), view.identity + child)
        elif inner.type == "string" and child in {"label", "name", "class", "object"}:
            value[child] = _NAMES[seen.kind]
        else:
            value[child] = _value(inner, view, child)
    return value


def _problems(seen: Seen) -> list[str]:
    return [word for word in ("blurred", "dark", "obstructed") if getattr(seen, word)]


def _spoilt(value: Any, shape: Shape, view: View, name: str) -> Any:
    """Another allowed value in place of the right one."""
    dice = _digest(f"{view.identity}\n{name}\nspoilt")
    if shape.enum:
        others = [label for label in shape.enum if label != value]
        return others[dice % len(others)] if others else value
    if shape.type == "boolean":
        return not value
    if shape.type in {"integer", "number"}:
        if re.search("confidence|probability|certainty", name):
            low, high = shape.minimum or 0.0, shape.maximum if shape.maximum is not None else 1.0
            return low + (high - low) * (0.5 + dice % 300 / 1000)
        step = 1 if shape.maximum is None or (value or 0) + 1 <= shape.maximum else -1
        return (value or 0) + step
    if shape.type == "array":
        if value:
            return value[1:]
        return [shape.items.enum[dice % len(shape.items.enum)]] if shape.items and shape.items.enum else value
    return f"{value or 'X'}?"


def _digest(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=6).digest(), "big")
