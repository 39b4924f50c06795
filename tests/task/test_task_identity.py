"""The fingerprint: pinned, so that nobody's answers are bought again by accident."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys

import pytest

from pipeline.errors import ConfigError
from pipeline.task import Settings, Task, builtin_names, differences, fingerprint, identity, parse

TASK = Task.model_validate(
    {
        "name": "poles",
        "version": 3,
        "description": "for people",
        "system_instruction": "You inspect.",
        "prompt": "Look at {asset_type}.",
        "reasoning": True,
        "questions": {
            "kind": {"type": "label", "labels": {"pole": "stands", "other": ""}},
            "lean": {"type": "number", "minimum": 0, "optional": True},
        },
        "examples": [
            {
                "image": "gs://b/a.jpg",
                "answer": {"reasoning": "r", "kind": "pole", "lean": 1},
                "columns": {"asset_type": "X"},
            }
        ],
        "generation": {"temperature": 0.5},
        "planned_output_tokens": 30,
    }
)
SETTINGS = Settings.of(TASK, "gemini-3.5-flash-lite", thinking_level="minimal")

# What a fingerprint is a hash of. A change here makes every user buy all answers again: raise identity.FORMAT, say so
# in the changelog, and only then change this.
PINNED = {
    "format": 1,
    "system_instruction": "You inspect.",
    "prompt": "Look at {asset_type}.",
    "reasoning": True,
    "questions": [
        ["kind", {"type": "label", "labels": [["pole", "stands"], "other"]}],
        ["lean", {"type": "number", "minimum": 0.0, "optional": True}],
    ],
    "examples": [
        {
            "image": "gs://b/a.jpg",
            "answer": {"reasoning": "r", "kind": "pole", "lean": 1},
            "columns": {"asset_type": "X"},
        }
    ],
    "model": "gemini-3.5-flash-lite",
    "media_resolution": "low",
    "max_output_tokens": 2048,
    "temperature": 0.5,
    "thinking_level": "minimal",
}


def test_what_the_fingerprint_covers_is_pinned():
    assert identity(TASK, SETTINGS) == PINNED
    assert fingerprint(TASK, SETTINGS) == "5e84c90d6b93f190"


@pytest.mark.parametrize(
    ("name", "pinned"),
    [
        ("describe", "0bdd5cc096a903c9"),
        ("image_quality", "81c2f9696d9b9383"),
        ("maintenance_covers", "e84bbab88416fe07"),
        ("road_signs", "0369b92e3f6317e7"),
        ("utility_poles", "30d78691bd22bef7"),
    ],
)
def test_the_fingerprints_of_the_built_in_tasks_are_pinned(name, pinned):
    """A changed prompt or label of a built-in task changes this: raise its version and say so in the changelog."""
    assert fingerprint(Task.load(name), Settings.of(Task.load(name), "gemini-3.5-flash-lite")) == pinned


def test_all_built_in_tasks_are_pinned_here():
    marks = {fingerprint(Task.load(name), SETTINGS) for name in builtin_names()}
    assert len(marks) == len(builtin_names()) == 5


def test_a_fingerprint_is_the_same_in_another_process():
    code = (
        "from pipeline.task import *; task = Task.load('road_signs'); print(fingerprint(task, Settings.of(task, 'm')))"
    )
    marks = {
        subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        ).stdout
        for seed in ("1", "2")
    }
    task = Task.load("road_signs")
    assert marks == {f"{fingerprint(task, Settings.of(task, 'm'))}\n"}


def changed(**fields):
    return TASK.model_validate({**TASK.model_dump(), **fields})


KIND = {"type": "label", "labels": {"pole": "stands", "other": ""}}
LEAN = {"type": "number", "minimum": 0, "optional": True}


@pytest.mark.parametrize(
    "fields",
    [
        {"prompt": "Look at {asset_type}!"},
        {"system_instruction": ""},
        {"reasoning": "Say why."},
        {"examples": []},
        {"questions": {"lean": LEAN, "kind": KIND}},
        {"questions": {"kind": {**KIND, "labels": {"other": "", "pole": "stands"}}, "lean": LEAN}},
        {"questions": {"kind": {**KIND, "labels": ["pole", "other"]}, "lean": LEAN}},
        {"questions": {"kind": {**KIND, "description": "What it is."}, "lean": LEAN}},
        {"questions": {"kind": KIND, "lean": {**LEAN, "minimum": 1}}},
        {"questions": {"kind": KIND, "lean": {**LEAN, "maximum": 90}}},
        {"questions": {"kind": KIND, "lean": {**LEAN, "optional": False}}},
    ],
)
def test_what_changes_the_question_changes_the_fingerprint(fields):
    assert fingerprint(changed(**fields), SETTINGS) != fingerprint(TASK, SETTINGS)


@pytest.mark.parametrize(
    "fields",
    [
        {"name": "other"},
        {"version": 4},
        {"description": "else"},
        {"planned_output_tokens": None},
        {"prompt": "  Look at {asset_type}.\n"},
        {"model": "gemini-3.5-flash-lite"},
        {"questions": {"kind": {**KIND, "labels": {"pole": "stands", "other": None}}, "lean": LEAN}},
        {"questions": {"kind": {**KIND, "description": ""}, "lean": {**LEAN, "minimum": 0.0}}},
    ],
)
def test_what_changes_no_answer_keeps_the_fingerprint(fields):
    assert fingerprint(changed(**fields), SETTINGS) == fingerprint(TASK, SETTINGS)


@pytest.mark.parametrize(
    "fields",
    [
        {"model": "gemini-3.8-flash"},
        {"media_resolution": "high"},
        {"max_output_tokens": 4096},
        {"temperature": None},
        {"temperature": 1.0},
        {"top_p": 0.9},
        {"top_k": 40},
        {"seed": 1},
        {"presence_penalty": 0.5},
        {"frequency_penalty": 0.5},
        {"thinking_level": "low"},
        {"thinking_level": None, "thinking_budget": 0},
        {"images_per_request": 4},
        {"unit": "asset"},
        {"image_source": "inline"},
        {"max_image_pixels": 0},
        {"crop_to": "bbox"},
        {"crop_margin": 0.0},
        {"response_schema": False},
    ],
)
def test_every_setting_that_changes_an_answer_changes_the_fingerprint(fields):
    assert fingerprint(TASK, dataclasses.replace(SETTINGS, **fields)) != fingerprint(TASK, SETTINGS)


def test_the_service_tier_changes_the_price_not_the_fingerprint():
    assert fingerprint(TASK, dataclasses.replace(SETTINGS, service_tier="flex")) == fingerprint(TASK, SETTINGS)


def test_all_settings_are_looked_at_above():
    tested = {
        "model", "media_resolution", "max_output_tokens", "temperature", "top_p", "top_k", "seed", "presence_penalty",
        "frequency_penalty", "thinking_level", "thinking_budget", "images_per_request", "unit", "service_tier",
        "image_source", "max_image_pixels", "crop_to", "crop_margin", "response_schema",
    }  # fmt: skip
    assert {field.name for field in dataclasses.fields(Settings)} == tested


def test_an_integer_temperature_is_the_same_as_a_float():
    one, same = (dataclasses.replace(SETTINGS, temperature=value) for value in (1, 1.0))
    assert fingerprint(TASK, one) == fingerprint(TASK, same)


def test_a_yaml_file_and_the_same_task_in_python_have_one_fingerprint():
    text = "name: x\nprompt: |\n  Look.\nquestions:\n  lit: {type: boolean}\n"
    same = Task.model_validate({"name": "y", "prompt": "Look.", "questions": {"lit": {"type": "boolean"}}})
    settings = Settings(model="m")
    assert fingerprint(parse(text, "x.yaml"), settings) == fingerprint(same, settings)


def test_differences_name_what_changed_and_survive_json():
    after = identity(
        changed(prompt="Look at {asset_type}!", questions={"kind": {"type": "label", "labels": ["pole"]}}, examples=[]),
        dataclasses.replace(SETTINGS, media_resolution="high"),
    )
    lines = differences(json.loads(json.dumps(identity(TASK, SETTINGS))), after)
    assert 'prompt: "Look at {asset_type}." -> "Look at {asset_type}!"' in lines
    assert 'media_resolution: "low" -> "high"' in lines
    assert 'questions.kind.labels: [["pole", "stands"], "other"] -> ["pole"]' in lines
    assert 'questions.lean.type: "number" -> none' in lines
    assert any(line.startswith("examples: ") for line in lines)
    assert differences(PINNED, identity(TASK, SETTINGS)) == []


def test_a_changed_order_of_questions_is_a_difference():
    flipped = {**PINNED, "questions": PINNED["questions"][::-1]}
    assert differences(PINNED, flipped) == ["the order of the questions"]


def test_flags_win_over_the_task_which_wins_over_defaults():
    task = Task.model_validate(
        {"name": "a", "prompt": "b", "generation": {"media_resolution": "high", "thinking_budget": 5, "top_k": 3}}
    )
    settings = Settings.of(task, "m", media_resolution=None, thinking_level="low", max_output_tokens=10, top_k=4)
    assert settings == Settings(model="m", media_resolution="high", thinking_level="low", max_output_tokens=10, top_k=4)


@pytest.mark.parametrize(
    "flags",
    [
        {"media_resolution": "best"},
        {"thinking_level": "deep"},
        {"thinking_level": "low", "thinking_budget": 3},
    ],
)
def test_settings_that_cannot_be_are_refused_by_the_flags_name(flags):
    with pytest.raises(ConfigError, match=f"^--{next(iter(flags))}"):
        Settings.of(TASK, "m", **flags)
