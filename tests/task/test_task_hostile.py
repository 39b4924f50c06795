"""Task files that nobody would write by hand: every one is a task that can be asked, or mistakes with line and field."""

from __future__ import annotations

import json

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.task import Settings, TaskError, fingerprint, parse

GOOD = {
    "name": "signs",
    "version": 2,
    "prompt": "Which sign is this {asset_type}?",
    "system_instruction": "You inspect.",
    "reasoning": "Why?",
    "questions": {
        "kind": {"type": "label", "labels": {"stop": "An octagon", "other": ""}},
        "marks": {"type": "labels", "labels": ["rust", "paint"]},
        "lit": {"type": "boolean", "optional": True, "description": "Whether it shines."},
        "speed": {"type": "integer", "minimum": 0, "maximum": 130},
        "lean": {"type": "number", "maximum": 90.5},
        "text": {"type": "string"},
        "spots": {"type": "boxes"},
    },
    "examples": [
        {
            "image": "gs://bucket/a.jpg",
            "columns": {"asset_type": "sign"},
            "answer": {
                "reasoning": "So.",
                "kind": "stop",
                "marks": [],
                "lit": None,
                "speed": 3,
                "lean": 1.5,
                "text": "A",
                "spots": [],
            },
        }
    ],
    "generation": {"temperature": 0, "seed": 3, "thinking_level": "low"},
    "planned_output_tokens": 9,
}
START = "name: a\nprompt: p\n"
BOMB = "".join(f"{name}: &{name} [{', '.join([f'*{chr(ord(name) - 1)}'] * 9)}]\n" for name in "bcdefgh")


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        (START + "x: " + 3000 * "[" + 3000 * "]", 1, "nested more than 40 deep"),
        (START + "x: " + 2000 * "{a: " + "1" + 2000 * "}", 1, "nested more than 40 deep"),
        (START + "x: " + 50 * "[" + 50 * "]", 3, "nested more than 40 deep"),
        (START + "examples: &x [*x]", 3, "an alias stands within what it stands for"),
        ("a: &a [x, x, x]\n" + BOMB + START, 6, "more than 100,000 values"),
        (START + "<<: 5", 3, "expected a mapping or list of mappings for merging"),
        (START + "? [a, b]\n: 1", 3, "the file has a list or a mapping as a key"),
        (START + "questions:\n  yes: {type: boolean}", 4, "questions has the key 'yes', which YAML does not read as text"),
        (START + "questions:\n  1: {type: boolean}", 4, "questions has the key '1'"),
        (START + "questions:\n  k: {type: label, labels:\n    {no: x, b: y}}", 5, "questions.k.labels has the key 'no'"),
        ("name: a\nprompt: p\0", 2, "not YAML: the character U+0000 is not allowed"),
        ('name: a\nprompt: "p\\0"', 2, "prompt has the character U+0000"),
        ('name: a\nprompt: "p\\ud800"', 2, "prompt has the character U+D800"),
        (START + 'questions: {k: {type: label, labels: ["\\udc00", b]}}', 3, "questions.k.labels[0] has the character"),
        (START + "version: 2026-13-45", 3, "version has '2026-13-45', which cannot be read (month must be in 1..12)"),
        (START + "version: 0x" + 5000 * "F", 3, "version has '0xFFF"),
        (START + "version: " + 5000 * "9", 3, "version has '999"),
        (START + "questions: {n: {type: number, minimum: .nan}}", 3, "questions.n.minimum has '.nan', which is no finite"),
        (START + "questions: {n: {type: integer, maximum: 1" + 20 * "0" + "}}", 3, "a whole number of 64 bits"),
        (START + "examples: [{image: gs://b/a.jpg, answer: !!set {a}}]", 3, "examples[0].answer has the tag !!set"),
        (START + "examples: [{image: gs://b/a.jpg, answer: [1]}]", 3, "examples[0].answer must be a mapping with"),
        (START + "model: !!python/name:os.system", 3, "model has the tag !!python/name:os.system"),
        (START + "generation: {seed: 3000000000}", 3, "generation.seed must be at most"),
        ("name: a\nprompt:\n", 2, "prompt is empty: give it a value"),
    ],
)  # fmt: skip
def test_what_cannot_be_a_task_is_refused_with_its_line(text, line, said):
    with pytest.raises(TaskError) as caught:
        parse(text, "a.yaml")
    problem = next((problem for problem in caught.value.problems if said in problem), str(caught.value.problems))
    assert problem.startswith(f"a.yaml, line {line}: ")
    assert said in problem
    assert len(problem) < 400


def test_aliases_and_merges_of_a_sane_size_are_welcome():
    text = (
        "  a: {type: label, labels: &kinds [x, y]}\n  b: &b {type: label, labels: *kinds}\n  c: {<<: *b, labels: [z]}\n"
    )
    task = parse(START + "questions:\n" + text, "a.yaml")
    assert [list(question.labels) for question in task.questions.values()] == [["x", "y"], ["x", "y"], ["z"]]


def survives(task):
    """All that a run does with a task before the first answer."""
    kept = Settings.of(task, "m")
    schema = json.dumps(task.response_schema, allow_nan=False)
    texts = [task.name, task.prompt, task.system_instruction, schema, fingerprint(task, kept)]
    texts += [f"{task.example_answer(each)}{task.prompt_for(each.columns)}" for each in task.examples]
    "".join(texts).encode()
    assert 0 < task.planned_answer_tokens() < 10**9
    for name, _, expression in task.view_columns():
        assert f"'$.{name}'" in expression


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([2**31, 2**63, -(2**63) - 1, 10**30])
    | st.floats()
    | st.text(st.characters(), max_size=9)
    | st.sampled_from(["", "yes", "{", "{a}", "{{", "label", "gs://b/c.png", "x\u202ey", "\0", "\ud800", "2026-01-01"])
    | st.dates()
    | st.binary(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3) | st.integers(), inner, max_size=3),
    max_leaves=6,
)
PLACES = [
    (name, *rest)
    for name, value in GOOD.items()
    for rest in [(), *((inner,) for inner in (value if isinstance(value, dict) else ()))]
] + [("questions", name, field) for name, spec in GOOD["questions"].items() for field in spec]
PLACES += [("examples", 0, field) for field in GOOD["examples"][0]] + [("examples", 0, "answer", "speed")]


def changed(tree, place, value):
    if not place:
        return value
    copy = dict(tree) if isinstance(tree, dict) else list(tree)
    copy[place[0]] = changed(tree[place[0]], place[1:], value)
    return copy


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(PLACES), VALUES, st.booleans())
def test_any_value_in_any_field_is_a_task_or_a_mistake_with_its_line(place, value, unicode):
    text = yaml.dump(changed(GOOD, place, value), allow_unicode=unicode, sort_keys=False)
    try:
        task = parse(text, "a.yaml")
    except TaskError as error:
        assert all(problem.startswith("a.yaml, line ") and "\n" not in problem for problem in error.problems)
    else:
        survives(task)


@settings(max_examples=150, deadline=None)
@given(st.text() | st.text("[]{}&*a: \n-?!|<\"'#,", max_size=40))
def test_any_text_is_a_task_or_a_mistake(text):
    try:
        survives(parse(text, "a.yaml"))
    except TaskError as error:
        assert error.problems
