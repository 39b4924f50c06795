"""What the drawn samples really show, as answers to the built-in tasks: for evaluation."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from pipeline.local.pictures.drawing import COVER_SHAPE, Scene

_SIGN_TYPES: Final = {
    "no_entry": "prohibition",
    "no_parking": "prohibition",
    "pedestrian_crossing": "warning",
    "one_way": "mandatory",
    "street_name": "direction",
    "parking": "information",
}
"""What the task road_signs calls a drawn sign, where it has another word."""


def _true_sign(scene: Scene) -> dict[str, Any]:
    if scene.kind != "road_sign":
        return {"sign_type": "none", "condition": "unclear", "legible_text": ""}
    return {
        "sign_type": _SIGN_TYPES.get(scene.sign_type, scene.sign_type),
        "condition": "worn" if scene.condition == "faded" else scene.condition,
        "legible_text": "" if scene.blurred else scene.text,
    }


def _true_pole(scene: Scene) -> dict[str, Any]:
    there = scene.kind == "utility_pole"
    lean = "severe" if scene.lean_degrees > 10 else "slight" if scene.lean_degrees >= 3 else "upright"
    return {
        "pole_visible": there,
        "transformers": scene.transformers,
        "street_lamps": scene.lamps,
        "junction_boxes": scene.junction_boxes,
        "lean": lean if there else "unclear",
        "lean_degrees": float(scene.lean_degrees) if there else None,
        "badge_text": (scene.text or None) if there and not scene.blurred else None,
    }


def _true_cover(scene: Scene) -> dict[str, Any]:
    there = scene.kind == "maintenance_cover"
    return {
        "cover_type": scene.cover_type if there else "none",
        "shape": COVER_SHAPE[scene.cover_type] if there else "unclear",
        "condition": scene.condition if there else "unclear",
        "surface_problems": [scene.surface] if there and scene.surface else [],
        "utility_text": (scene.text or None) if there and not scene.blurred else None,
    }


def _true_quality(scene: Scene) -> dict[str, Any]:
    problems = [word for word in ("blurred", "dark", "obstructed") if getattr(scene, word)]
    return {"usable": not problems, "problems": problems, "sharpness": 2 if scene.blurred else 5}


TRUTH: Final[Mapping[str, Callable[[Scene], dict[str, Any]]]] = {
    "road_signs": _true_sign,
    "utility_poles": _true_pole,
    "maintenance_covers": _true_cover,
    "image_quality": _true_quality,
}
"""For each built-in task with questions, the true answers about a scene."""

TRUTH_FIELDS: Final[Mapping[str, Mapping[str, Any]]] = {
    "road_signs": {"sign_type": "STRING", "condition": "STRING", "legible_text": "STRING"},
    "utility_poles": {
        "pole_visible": "BOOL",
        "transformers": "INT64",
        "street_lamps": "INT64",
        "junction_boxes": "INT64",
        "lean": "STRING",
        "lean_degrees": "FLOAT64",
        "badge_text": "STRING",
    },
    "maintenance_covers": {
        "cover_type": "STRING",
        "shape": "STRING",
        "condition": "STRING",
        "surface_problems": ["STRING"],
        "utility_text": "STRING",
    },
    "image_quality": {"usable": "BOOL", "problems": ["STRING"], "sharpness": "INT64"},
}


def write_truth(folder: Path, scenes: Mapping[str, Scene]) -> dict[str, Path]:
    """Writes `truth_<task>.csv` for each task of `TRUTH`; lists are JSON, an empty cell is null. Returns the paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = {}
    for task, truth in TRUTH.items():
        paths[task] = folder / f"truth_{task}.csv"
        with paths[task].open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, ["observation_id", *TRUTH_FIELDS[task]])
            writer.writeheader()
            for key, scene in scenes.items():
                cells = {name: _cell(value) for name, value in truth(scene).items()}
                writer.writerow({"observation_id": key, **cells})
    return paths


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    return json.dumps(value) if isinstance(value, list) else str(value)
