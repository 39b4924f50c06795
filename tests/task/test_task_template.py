"""Prompts with the row's columns in braces."""

from __future__ import annotations

import datetime

import pytest

from pipeline.task import Task
from pipeline.task.template import Template, TemplateError


@pytest.mark.parametrize(
    ("text", "columns", "rendered"),
    [
        ("Look.", {}, "Look."),
        ("Is this {a}?", {"a": "POLE"}, "Is this POLE?"),
        ("{a}{b}{a}", {"a": "1", "b": "2"}, "121"),
        ('Answer {{"kind": ...}} for {a}', {"a": "x"}, 'Answer {"kind": ...} for x'),
        ("{{{a}}}", {"a": "x"}, "{x}"),
        ("{a}", {"a": None}, "unknown"),
        ("{a}", {"a": True}, "true"),
        ("{a}", {"a": 1.5}, "1.5"),
        ("{a}", {"a": "{b}"}, "{b}"),  # a value is never a template
        ("{t}", {"t": datetime.datetime(2026, 1, 2, 3, 4, tzinfo=datetime.UTC)}, "2026-01-02T03:04:00+00:00"),
        ("{box}", {"box": {"lo": {"x": 1}, "hi": [2, None]}}, '{"lo": {"x": 1}, "hi": [2, null]}'),
    ],
)
def test_a_row_fills_the_prompt(text, columns, rendered):
    assert Template(text).render(columns) == rendered


@pytest.mark.parametrize(
    "text", ["{", "}", "{}", "{a", "a}", "{a b}", "{a.b}", "{a!r}", "{a:>3}", "{1}", "{{a}", "{a}}"]
)
def test_a_brace_that_is_no_column_is_an_error(text):
    with pytest.raises(TemplateError, match="doubled"):
        Template(text)


def test_a_column_that_a_row_does_not_have_is_a_bug():
    with pytest.raises(KeyError):
        Template("{a}").render({})


def test_the_prompt_of_several_images_says_each_value_beside_its_image():
    task = Task.model_validate(
        {"name": "a", "prompt": "Is the {kind} of {when} good?", "questions": {"good": {"type": "boolean"}}}
    )
    prompt = task.pack_prompt(("image_1", "image_2"))
    assert prompt.startswith("Is the [kind of the image] of [when of the image] good?\n\n")
    assert "image_1, image_2" in prompt
    assert "good" in prompt
    assert task.pack_facts({"kind": "POLE", "when": None}) == "kind: POLE; when: unknown"
