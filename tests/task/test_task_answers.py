"""From the model's text to a checked answer: what is forgiven, what is not, and what comes out."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.task import Invalid, Parsed, Task

TASK = Task.model_validate(
    {
        "name": "poles",
        "prompt": "Look.",
        "reasoning": True,
        "questions": {
            "kind": {"type": "label", "labels": ["Stop Sign", "yield", "no_entry", "30 km/h"]},
            "defects": {"type": "labels", "labels": ["rust", "graffiti", "lean"]},
            "lit": {"type": "boolean"},
            "lamps": {"type": "integer", "minimum": 0, "maximum": 9},
            "lean": {"type": "number", "minimum": -90, "maximum": 90, "optional": True},
            "text": {"type": "string", "optional": True},
            "found": {"type": "boxes", "labels": ["lamp", "sign"]},
            "second_kind": {"type": "label", "labels": ["a", "b"]},
        },
    }
)
GOOD = {
    "reasoning": "A red octagon.",
    "kind": "Stop Sign",
    "defects": ["rust"],
    "lit": False,
    "lamps": 2,
    "lean": 1.5,
    "text": "STOP",
    "found": [{"label": "lamp", "box_2d": [0, 10, 500, 1000]}],
    "second_kind": "b",
}
FREE = Task(name="free", prompt="Describe.")


def parse(**changes):
    return TASK.parse(json.dumps({**GOOD, **changes}))


def test_a_right_answer_comes_out_as_it_came_in_with_its_label():
    parsed = TASK.parse(json.dumps(GOOD))
    assert isinstance(parsed, Parsed)
    assert json.loads(parsed.answer_json) == GOOD == parsed.values
    assert list(parsed.values) == list(GOOD)
    assert parsed.label == "Stop Sign"  # of the first label question


TEXT = json.dumps(GOOD)


@pytest.mark.parametrize(
    "text",
    [
        TEXT,
        f"\ufeff{TEXT}",
        f"  \n{TEXT}\n\n",
        f"```json\n{TEXT}\n```",
        f"```\n{TEXT}\n```\n",
        f"```JSON\r\n{TEXT}\r\n```",
        f"Here is the answer:\n```json\n{TEXT}\n```\nI hope this helps!",
        f"Here it is: {TEXT}",
        f"{TEXT} Anything else?",
        f"```json\n{TEXT}",
        f"[{TEXT}]",
        f"As requested [JSON]:\n```json\n{TEXT}\n```",
        json.dumps(GOOD, indent=2),
        json.dumps(GOOD, ensure_ascii=True),
        json.dumps({key.upper(): value for key, value in GOOD.items()}),
        json.dumps(dict(reversed(GOOD.items()))),
        json.dumps({**GOOD, "extra": {"deep": [1, 2]}, "confidence": 0.9}),
    ],
)
def test_the_form_of_an_answer_is_forgiven(text):
    parsed = TASK.parse(text)
    assert parsed == TASK.parse(TEXT)
    assert json.loads(parsed.answer_json) == GOOD


@pytest.mark.parametrize("cut", range(1, len(TEXT)))
def test_truncated_json_is_never_an_answer(cut):
    assert isinstance(TASK.parse(TEXT[:cut]), Invalid)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "not JSON"),
        ("   ", "not JSON"),
        ("A red octagon.", "not JSON"),
        (TEXT[:-5], "cut off"),
        (TEXT[:40], "cut off"),
        (f"```json\n{TEXT[:-3]}\n```", "cut off"),
        ("{'kind': 'yield'}", "not JSON"),
        ("[]", "not a JSON object"),
        ("null", "not JSON"),
        ('"Stop Sign"', "not JSON"),
        ("3", "not a JSON object"),
        (f"[{TEXT}, {TEXT}]", "not a JSON object"),
        ("[" * 100_000, "not JSON"),
        ('{"lamps": NaN}', "not JSON"),
        ('{"lamps": ' + "9" * 5000 + "}", "not JSON"),
    ],
)
def test_what_is_no_json_object_is_invalid_and_says_why(text, why):
    parsed = TASK.parse(text)
    assert isinstance(parsed, Invalid)
    if text not in ("null", '"Stop Sign"'):
        assert why in parsed.why


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ({"kind": "stop sign"}, {"kind": "Stop Sign"}),
        ({"kind": " STOP_SIGN. "}, {"kind": "Stop Sign"}),
        ({"kind": "Stop-Sign"}, {"kind": "Stop Sign"}),
        ({"kind": "No Entry"}, {"kind": "no_entry"}),
        ({"kind": "30\u00a0km/h"}, {"kind": "30 km/h"}),
        ({"kind": "'yield'"}, {"kind": "yield"}),
        ({"defects": []}, {"defects": []}),
        ({"defects": ["lean", "Rust", "lean"]}, {"defects": ["rust", "lean"]}),
        ({"defects": "graffiti"}, {"defects": ["graffiti"]}),
        ({"lit": "true"}, {"lit": True}),
        ({"lit": "No"}, {"lit": False}),
        ({"lamps": 9}, {"lamps": 9}),
        ({"lamps": "3"}, {"lamps": 3}),
        ({"lamps": 3.0}, {"lamps": 3}),
        ({"lean": -90}, {"lean": -90.0}),
        ({"lean": "12.5"}, {"lean": 12.5}),
        ({"lean": None}, {"lean": None}),
        ({"text": None}, {"text": None}),
        ({"text": 17}, {"text": "17"}),
        ({"text": ""}, {"text": ""}),
        ({"text": "\ud83d\ude00 \ud83d"}, {"text": "😀 \ufffd"}),
        ({"text": "a\x00b"}, {"text": "a\ufffdb"}),
        ({"found": []}, {"found": []}),
        (
            {"found": [{"label": "LAMP", "box_2d": [1.4, 2.6, "3", 4], "score": 1}]},
            {"found": [{"label": "lamp", "box_2d": [1, 3, 3, 4]}]},
        ),
    ],
)
def test_variants_of_a_value_are_kept_in_one_form(given, kept):
    parsed = parse(**given)
    assert isinstance(parsed, Parsed), parsed
    assert parsed.values == {**GOOD, **kept}
    parsed.answer_json.encode()  # BigQuery stores UTF-8


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"kind": "roundabout"}, "kind: 'roundabout' is not one of: Stop Sign, yield, no_entry, 30 km/h"),
        ({"kind": ["yield"]}, "kind: ['yield'] is not one of"),
        ({"kind": None}, "kind: None is not one of"),
        ({"kind": ""}, "kind: '' is not one of"),
        ({"defects": ["rust", "dirt"]}, "defects: 'dirt' is not one of: rust, graffiti, lean"),
        ({"defects": None}, "defects: None is not a list of labels"),
        ({"defects": {"rust": True}}, "is not a list of labels"),
        ({"lit": 1}, "lit: 1 is neither true nor false"),
        ({"lit": None}, "lit: None is neither"),
        ({"lit": "maybe"}, "lit: 'maybe' is neither"),
        ({"lamps": 10}, "lamps: 10 is not a whole number from 0 to 9"),
        ({"lamps": -1}, "lamps: -1 is not a whole number from 0 to 9"),
        ({"lamps": 2.5}, "lamps: 2.5 is not a whole number"),
        ({"lamps": True}, "lamps: True is not a number"),
        ({"lamps": None}, "lamps: None is not a number"),
        ({"lamps": "two"}, "lamps: 'two' is not a number"),
        ({"lamps": 10**400}, "lamps: 1000"),
        ({"lean": 90.5}, "lean: 90.5 is not a number from -90 to 90, or null"),
        ({"lean": 10**400}, "is too large a number"),
        ({"lean": "1e999"}, "is not a number"),
        ({"text": ["a"]}, "text: ['a'] is not text"),
        ({"text": True}, "text: True is not text"),
        ({"found": {}}, "found: {} is not a list of boxes"),
        ({"found": [{"label": "lamp"}]}, "is not an object with label and box_2d"),
        ({"found": [{"label": "lamp", "box_2d": [1, 2, 3]}]}, "is not [ymin, xmin, ymax, xmax]"),
        ({"found": [{"label": "lamp", "box_2d": [0, 0, 10, 1001]}]}, "within 0 and 1000"),
        ({"found": [{"label": "lamp", "box_2d": [20, 0, 10, 10]}]}, "within 0 and 1000"),
        ({"found": [{"label": "tree", "box_2d": [0, 0, 10, 10]}]}, "found: 'tree' is not one of: lamp, sign"),
    ],
)
def test_a_wrong_value_is_invalid_and_says_what_is_allowed(given, why):
    parsed = parse(**given)
    assert isinstance(parsed, Invalid)
    assert why in parsed.why
    assert len(parsed.why) < 300


@pytest.mark.parametrize("name", list(GOOD))
def test_a_missing_answer_is_invalid_unless_it_may_be_null(name):
    parsed = TASK.parse(json.dumps({key: value for key, value in GOOD.items() if key != name}))
    if name in ("lean", "text", "reasoning"):
        assert parsed.values == {**GOOD, name: None}
    else:
        assert parsed == Invalid(f"{name} is missing")


def test_any_text_answers_a_free_text_task_but_none_does_not():
    assert FREE.parse("A street.") == Parsed(None, None, None)
    assert FREE.parse('{"kind": "yield"}') == Parsed(None, None, None)
    assert isinstance(FREE.parse(" \n"), Invalid)


def test_a_correction_says_what_was_wrong_and_what_is_allowed():
    text = TASK.correction("kind: 'roundabout' is not one of: ...")
    assert "'roundabout'" in text
    assert "- kind is exactly one of: Stop Sign, yield, no_entry, 30 km/h" in text
    assert "- lamps is a whole number from 0 to 9" in text
    assert "- lean is a number from -90 to 90, or null if the image does not tell" in text


ANSWERS = st.fixed_dictionaries(
    {
        "reasoning": st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00")),
        "kind": st.sampled_from(["Stop Sign", "yield", "no_entry", "30 km/h"]),
        "defects": st.sets(st.sampled_from(["rust", "graffiti", "lean"])).map(
            lambda labels: [label for label in ("rust", "graffiti", "lean") if label in labels]
        ),
        "lit": st.booleans(),
        "lamps": st.integers(0, 9),
        "lean": st.none() | st.floats(-90, 90),
        "text": st.none() | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00")),
        "found": st.lists(
            st.tuples(st.sampled_from(["lamp", "sign"]), *[st.integers(0, 1000)] * 4).map(
                lambda box: {
                    "label": box[0],
                    "box_2d": [*map(min, box[1:3], box[3:5]), *map(max, box[1:3], box[3:5])],
                }
            )
        ),
        "second_kind": st.sampled_from(["a", "b"]),
    }
)
WRAPPERS = st.sampled_from(["{}", "```json\n{}\n```", "\ufeff{}", "Sure:\n```\n{}\n```\nDone."])


@settings(max_examples=150, deadline=None)
@given(ANSWERS, st.booleans(), st.none() | st.just(2), WRAPPERS)
def test_every_possible_answer_survives_the_round_trip(answer, ascii_only, indent, wrapper):
    text = wrapper.replace("{}", json.dumps(answer, ensure_ascii=ascii_only, indent=indent))
    parsed = TASK.parse(text)
    assert isinstance(parsed, Parsed), parsed
    assert parsed.values == answer
    assert json.loads(parsed.answer_json) == answer
    assert TASK.parse(parsed.answer_json) == parsed


@settings(max_examples=150, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.sampled_from(list(GOOD)), inner),
    )
)
def test_any_json_and_any_text_is_read_without_an_exception(value):
    for text in (json.dumps(value), str(value)):
        parsed = TASK.parse(text)
        assert isinstance(parsed, Invalid | Parsed)
        packed = TASK.parse_pack(text, ("image_1", "image_2"))
        assert isinstance(packed, Invalid | dict)


@pytest.mark.parametrize("depth", [51, *range(900, 1000)])
def test_an_answer_that_python_can_only_just_decode_is_invalid(depth):
    deep = f"{depth * '['}{depth * ']'}"
    for name in ("lean", "found"):
        text = json.dumps({**GOOD, "found": []})[:-1] + f', "{name}": {deep}}}'
        assert isinstance(TASK.parse(text), Invalid)
        assert isinstance(TASK.parse_pack(f'[{{"image": "image_1", {text[1:]}]', ("image_1",)), Invalid)


KEYS = ("image_1", "image_2", "image_3")


def pack(*items):
    return TASK.parse_pack(json.dumps(list(items)), KEYS)


def test_an_answer_to_several_images_is_told_apart_by_key_whatever_the_order():
    parts = pack(
        {"image": "image_3", **GOOD, "kind": "yield"}, {"image": "image_1", **GOOD}, {"image": "image_2", **GOOD}
    )
    assert set(parts) == set(KEYS)
    assert parts["image_3"].answer.label == "yield"
    assert json.loads(parts["image_1"].text) == GOOD


def test_a_missing_image_is_left_out_and_a_wrong_value_concerns_its_own_image():
    parts = pack({"image": "image_1", **GOOD}, {"image": "image_2", **GOOD, "lamps": 99})
    assert set(parts) == {"image_1", "image_2"}
    assert isinstance(parts["image_1"].answer, Parsed)
    assert "lamps: 99" in parts["image_2"].answer.why
    assert json.loads(parts["image_2"].text)["lamps"] == 99


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (json.dumps([{"image": "image_1", **GOOD}, {"image": "image_1", **GOOD}]), "image_1 is answered twice"),
        (json.dumps([{"image": "image_9", **GOOD}]), "'image_9' is not one of the images"),
        (json.dumps([{**GOOD}]), "None is not one of the images"),
        (json.dumps([GOOD, 3]), "is not one of the images"),
        (json.dumps(GOOD), "not an array"),
        ("sorry", "not JSON"),
        (json.dumps([{"image": "image_1", **GOOD}])[:-3], "cut off"),
    ],
)
def test_parts_that_cannot_be_told_apart_are_invalid_as_a_whole(text, why):
    parts = TASK.parse_pack(text, KEYS)
    assert isinstance(parts, Invalid)
    assert why in parts.why


def test_a_wrapped_array_is_forgiven():
    text = json.dumps({"answers": [{"image": "image_2", **GOOD}]})
    assert set(TASK.parse_pack(f"```json\n{text}\n```", KEYS)) == {"image_2"}


def test_free_text_of_several_images_is_the_text_of_each():
    text = json.dumps([{"image": "image_1", "text": "A street."}, {"image": "image_2", "text": " "}])
    parts = FREE.parse_pack(text, ("image_1", "image_2"))
    assert parts["image_1"].text == "A street."
    assert parts["image_1"].answer == Parsed()
    assert isinstance(parts["image_2"].answer, Invalid)


def test_infinite_numbers_are_no_numbers():
    assert isinstance(TASK.parse(json.dumps({**GOOD, "lean": math.inf})), Invalid)
