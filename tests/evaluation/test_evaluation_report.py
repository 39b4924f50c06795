"""Reports of made-up outcomes, counted again here by plain loops."""

import json
import random
import re
from collections import Counter
from pathlib import Path

import pytest
from textbook import wilson

from pipeline import options
from pipeline.errors import ConfigError
from pipeline.evaluation import comparison, figures, gate, report, text
from pipeline.evaluation.comparison import Side
from pipeline.evaluation.judging import ALL, Outcome, confidences, is_right
from pipeline.evaluation.report import NO_ANSWER
from pipeline.evaluation.truth import Truth
from pipeline.task import parse

TASK = parse(
    """
name: poles
prompt: Look at the pole.
questions:
  kind: {type: label, labels: [wood, steel, none]}
  problems: {type: labels, labels: [rust, lean]}
  lit: {type: boolean, optional: true}
  lamps: {type: integer, minimum: 0, maximum: 9}
  degrees: {type: number, optional: true}
  badge: {type: string, optional: true}
  kind_confidence: {type: number, minimum: 0, maximum: 1}
  confidence: {type: integer, minimum: 0, maximum: 100}
  probability: {type: number}
""",
    "poles.yaml",
)
T_OF_ONE = 12.706204736174698  # Student's 97.5 % point with one degree of freedom
NAMES = ("kind", "problems", "lit", "lamps", "degrees", "badge")


def draw_row(rng):
    return {
        "kind": rng.choice(["wood", "steel", "none"]),
        "problems": [label for label in ("rust", "lean") if rng.random() < 0.3],
        "lit": rng.choice([True, False, None]),
        "lamps": rng.randrange(4),
        "degrees": None if rng.random() < 0.2 else round(rng.uniform(0, 20), 1),
        "badge": rng.choice([None, "A 1", "b2"]),
    }


def draw(seed, rows=240, error=0.25):
    """Truth and outcomes: of every answered value a quarter is drawn anew, and one row in ten has no answer."""
    rng = random.Random(seed)
    truths, outcomes = {}, []
    for number in range(rows):
        key = f"k{number:03}"
        true = draw_row(rng)
        other = draw_row(rng)
        said = {name: other[name] if rng.random() < error else value for name, value in true.items()}
        said |= {"kind_confidence": rng.random(), "confidence": rng.randrange(101), "probability": 0.5}
        if rng.random() < 0.1:
            del true["lamps"]  # nobody labelled it here
        truths[key] = true
        missing = rng.random() < 0.1
        reason = rng.choice(["blocked", "timed_out"]) if missing else None
        outcomes.append(Outcome(key, f"gs://b/{key}.jpg", None if missing else said, reason, 0.001 * (1 + number % 3)))
    return Truth(NAMES, truths), outcomes


TRUTH, OUTCOMES = draw(5)
FOUND = report.make(report.Asked("it", TASK, "f", "m"), TRUTH, OUTCOMES, not_in_input=3, not_asked=2)


def same(name, true, said):
    if name == "badge":
        return (true or "").lower() == (said or "").lower()
    return sorted(true) == sorted(said) if name == "problems" else true == said


def rights(name, outcomes=OUTCOMES, truth=TRUTH):
    """Key to right or wrong, by a plain loop."""
    found = {}
    for outcome in outcomes:
        if name in truth.rows[outcome.key]:
            values = outcome.values
            found[outcome.key] = values is not None and same(name, truth.rows[outcome.key][name], values[name])
    return found


@pytest.mark.parametrize("name", ["kind", "problems", "lit", "lamps", "badge"])
def test_accuracy_counts_every_labelled_row_those_without_an_answer_as_wrong(name):
    mine, counted = FOUND.question(name), rights(name)
    assert (mine.rows, mine.right) == (len(counted), sum(counted.values()))
    assert mine.accuracy.value == mine.right / mine.rows
    assert (mine.accuracy.low, mine.accuracy.high) == pytest.approx(wilson(mine.right, mine.rows))
    dollars = sum(outcome.cost_usd for outcome in OUTCOMES if outcome.key in counted)
    assert mine.usd_per_right == pytest.approx(dollars / mine.right)


def test_a_row_is_right_where_every_question_but_numbers_is():
    by_question = [rights(name) for name in NAMES if name != "degrees"]
    right = sum(all(each.get(outcome.key, True) for each in by_question) for outcome in OUTCOMES)
    assert (FOUND.right, FOUND.judged, FOUND.rows) == (right, 240, 240)
    assert FOUND.cost_usd == pytest.approx(sum(outcome.cost_usd for outcome in OUTCOMES))
    assert FOUND.usd_per_right == pytest.approx(FOUND.cost_usd / right)


def test_rows_without_an_answer_are_counted_by_reason():
    counted = {}
    for outcome in OUTCOMES:
        if outcome.values is None:
            counted[outcome.reason] = counted.get(outcome.reason, 0) + 1
    assert FOUND.without_answer == counted
    assert FOUND.answered == 240 - sum(counted.values())
    assert (FOUND.not_in_input, FOUND.not_asked) == (3, 2)


@pytest.mark.parametrize("name", ["kind", "lit"])
def test_precision_recall_f1_and_confusion_are_those_of_a_plain_count(name):
    mine = FOUND.question(name)
    words = {True: "true", False: "false", None: "null"}
    labels = [each.label for each in mine.classes]
    counted = {}
    for outcome in OUTCOMES:
        true = TRUTH.rows[outcome.key][name]
        said = NO_ANSWER if outcome.values is None else outcome.values[name]
        pair = (words.get(true, true), words.get(said, said))
        counted[pair] = counted.get(pair, 0) + 1
    for each, line in zip(mine.classes, mine.confusion, strict=True):
        assert list(line) == [counted.get((each.label, said), 0) for said in [*labels, NO_ANSWER]]
        true = sum(count for (a, _), count in counted.items() if a == each.label)
        said = sum(count for (_, b), count in counted.items() if b == each.label)
        right = counted.get((each.label, each.label), 0)
        assert (each.true, each.said, each.right) == (true, said, right)
        assert each.precision.value == pytest.approx(right / said)
        assert each.recall.value == pytest.approx(right / true)
        assert each.f1.value == pytest.approx(2 * right / (true + said))
        assert (each.precision.low, each.precision.high) == pytest.approx(wilson(right, said))
        assert (each.recall.low, each.recall.high) == pytest.approx(wilson(right, true))
    assert sum(map(sum, mine.confusion)) == mine.rows


def test_of_several_labels_each_is_counted_by_itself():
    for each in FOUND.question("problems").classes:
        true = [each.label in TRUTH.rows[outcome.key]["problems"] for outcome in OUTCOMES]
        said = [outcome.values is not None and each.label in outcome.values["problems"] for outcome in OUTCOMES]
        both = sum(a and b for a, b in zip(true, said, strict=True))
        assert (each.true, each.said, each.right) == (sum(true), sum(said), both)


@pytest.mark.parametrize("name", ["lamps", "degrees"])
def test_errors_of_numbers_are_over_rows_where_both_are_numbers(name):
    errors, null_said, null_true = [], 0, 0
    for outcome in OUTCOMES:
        if outcome.values is None or name not in TRUTH.rows[outcome.key]:
            continue
        true, said = TRUTH.rows[outcome.key][name], outcome.values[name]
        if true is not None and said is not None:
            errors.append(said - true)
        null_said += said is None and true is not None
        null_true += true is None and said is not None
    found = FOUND.question(name).numbers
    assert (found.rows, found.null_said, found.null_true) == (len(errors), null_said, null_true)
    assert found.mae.value == pytest.approx(sum(map(abs, errors)) / len(errors))
    assert found.bias.value == pytest.approx(sum(errors) / len(errors))
    assert found.worst == max(map(abs, errors))
    assert 0 <= found.mae.low <= found.mae.value <= found.mae.high


def test_a_number_has_errors_and_no_accuracy():
    assert FOUND.question("degrees").accuracy is None
    assert FOUND.question("lamps").accuracy is not None


def test_a_confidence_is_held_against_its_own_question_or_the_whole_row_and_needs_bounds():
    assert confidences(TASK) == {"kind_confidence": "kind", "confidence": ALL}
    of_kind, of_all = FOUND.calibration
    answered = [outcome for outcome in OUTCOMES if outcome.values is not None]
    kind = rights("kind")
    brier = [(outcome.values["kind_confidence"] - kind[outcome.key]) ** 2 for outcome in answered]
    assert of_kind.brier == pytest.approx(sum(brier) / len(brier))
    by_question = [rights(name) for name in NAMES if name != "degrees"]
    whole = {outcome.key: all(each.get(outcome.key, True) for each in by_question) for outcome in answered}
    brier = [(outcome.values["confidence"] / 100 - whole[outcome.key]) ** 2 for outcome in answered]
    assert of_all.brier == pytest.approx(sum(brier) / len(brier))


def test_the_worst_disagreements_come_first_and_name_said_and_true():
    wrong = {}
    for name in NAMES:
        for key, right in rights(name).items():
            if not right and OUTCOMES[int(key[1:])].values is not None:
                wrong.setdefault(key, set()).add(name)
    assert {each.key: set(each.differs) for each in FOUND.disagreements} == wrong
    counts = [len(set(each.differs) - {"degrees"}) for each in FOUND.disagreements]
    assert counts == sorted(counts, reverse=True)
    first = FOUND.disagreements[0]
    assert first.uri == f"gs://b/{first.key}.jpg"
    for name, pair in first.differs.items():
        assert pair == {"said": OUTCOMES[int(first.key[1:])].values[name], "true": TRUTH.rows[first.key][name]}


def test_the_surest_of_equally_wrong_rows_is_the_worst():
    truth = Truth(("kind",), {"a": {"kind": "wood"}, "b": {"kind": "wood"}})
    said = [Outcome(key, None, {"kind": "steel", "confidence": sure}) for key, sure in (("a", 20), ("b", 90))]
    found = report.make(report.Asked("it", TASK, "f", "m"), truth, said)
    assert [each.key for each in found.disagreements] == ["b", "a"]


def test_an_unknown_price_makes_no_dollars():
    found = report.make(
        report.Asked("it", TASK, "f", "m"), TRUTH, [*OUTCOMES[:5], Outcome("k005", None, None, "x", None)]
    )
    assert (found.cost_usd, found.usd_per_row, found.usd_per_right) == (None, None, None)


def test_a_report_is_json():
    assert json.loads(json.dumps(FOUND.as_json()))["questions"][0]["classes"][0]["label"] == "wood"


@pytest.mark.parametrize(
    ("name", "true", "said", "right"),
    [
        ("badge", "Main  St", "MAIN ST", True),
        ("badge", "A1", "A2", False),
        ("badge", None, "", True),
        ("problems", ["rust", "lean"], ["lean", "rust"], True),
        ("problems", ["rust"], [], False),
        ("degrees", 0.3, 0.1 + 0.2, True),
        ("degrees", None, None, True),
        ("degrees", None, 0.0, False),
        ("lit", None, False, False),
        ("lamps", 1, 1, True),
    ],
)
def test_right_is_what_people_would_call_right(name, true, said, right):
    assert is_right(TASK.questions[name], true, said) is right


def test_the_documented_flags_are_the_options():
    text = (Path(__file__).parents[2] / "docs" / "tasks.md").read_text("utf-8")
    assert options.markdown(options.EvaluateOptions) in text
    assert options.markdown(options.TuningOptions) in text


def single(name, pairs):
    """The report of one question, of (true, said) pairs; a said that is `NO_ANSWER` is a row without an answer."""
    truth = Truth((name,), {f"k{place}": {name: true} for place, (true, _) in enumerate(pairs)})
    outcomes = [
        Outcome(f"k{place}", None, None, "blocked") if said is NO_ANSWER else Outcome(f"k{place}", None, {name: said})
        for place, (_, said) in enumerate(pairs)
    ]
    return report.make(report.Asked("it", TASK, "f", "m"), truth, outcomes)


def test_one_row_is_a_report_and_so_are_rows_that_were_never_answered():
    found = single("kind", [("wood", "wood")])
    (kind,) = found.questions
    assert kind.accuracy == figures.share(1, 1)
    assert [(each.label, each.true, each.said) for each in kind.classes] == [("wood", 1, 1)]
    found = single("kind", 3 * [("wood", NO_ANSWER)])
    (kind,) = found.questions
    assert (kind.right, kind.accuracy.value, kind.confusion) == (0, 0, ((0, 3),))
    assert kind.classes[0].precision is None
    assert (found.disagreements, found.usd_per_right) == ((), None)
    (lamps,) = single("lamps", 3 * [(1, NO_ANSWER)]).questions
    assert lamps.numbers == report.NumberFigures(0, None, None, None, 0, 0)


def test_a_question_that_no_asked_row_is_labelled_for_has_no_figures():
    truth = Truth(("kind", "lit"), {"a": {"kind": "wood"}, "b": {"lit": True}})
    found = report.make(report.Asked("it", TASK, "f", "m"), truth, [Outcome("a", None, {"kind": "wood"})], not_asked=1)
    assert found.question("lit").accuracy is None
    assert [row[0] for row in next(text.tables(found, 80))[2]] == ["kind"]


def test_rows_whose_answers_the_task_shows_the_model_are_said():
    shown = "{image: gs://b/a.jpg, answer: {kind: x}}"
    task = parse(f"{{name: t, prompt: y, questions: {{kind: {{type: label, labels: [x]}}}}, examples: [{shown}]}}", "x")
    truth = Truth(("kind",), {key: {"kind": "x"} for key in "ab"})
    outcomes = [Outcome(key, f"gs://b/{key}.jpg", {"kind": "x"}) for key in "ab"]
    found = report.make(report.Asked("it", task, "f", "m"), truth, outcomes)
    assert found.shown_before == 1
    assert any(line.startswith("warning: 1 labelled rows are examples of task t") for line in text.notes(found))
    assert not any("examples" in line for line in text.notes(FOUND))


def test_numbers_alone_have_a_table_of_errors_and_no_empty_one_of_accuracies():
    found = single("degrees", [(1.0, 1.5), (2.0, 2.0), (None, 3.0), (4.0, None)])
    ((title, heads, rows),) = text.tables(found, 80)
    assert title == "Errors, said less true"
    assert rows == [("degrees", "2", f"0.25 ± {T_OF_ONE * 0.25:.2g}", f"0.25 ± {T_OF_ONE * 0.25:.2g}", "0.5", "1", "1")]
    assert heads[-2:] == ("missed", "invented")


def test_a_wide_confusion_matrix_is_a_list_of_mistakes_that_fits():
    names = [f"a_long_label_{letter}" for letter in "abcdefghij"]
    question = f"{{type: label, labels: [{', '.join(names)}]}}"
    task = parse(f"{{name: x, prompt: y, questions: {{kind: {question}}}}}", "x")
    pairs = [(true, names[(place * place // 3) % 10]) for place, true in enumerate(names * 5)]
    truth = Truth(("kind",), {f"k{place}": {"kind": true} for place, (true, _) in enumerate(pairs)})
    outcomes = [Outcome(f"k{place}", None, {"kind": said}) for place, (_, said) in enumerate(pairs)]
    found = report.make(report.Asked("it", task, "f", "m"), truth, outcomes)
    counted = Counter(pair for pair in pairs if pair[0] != pair[1])
    title, heads, rows = list(text.tables(found, 80))[2]
    assert title.startswith("kind: what was taken for what")
    assert heads == ("true", "said", "rows")
    assert [int(row[2]) for row in rows] == sorted(counted.values(), reverse=True)[:15]
    assert all(counted[row[0], row[1]] == int(row[2]) for row in rows)
    assert f"{sum(counted.values()) - sum(int(row[2]) for row in rows)} more rows" in title
    assert list(text.tables(found, 300))[2][0] == "kind: true (down) and said (across)"


def test_values_are_shown_as_a_task_file_has_them_and_control_characters_are_not():
    found = single("badge", [("A\u202e1", "\x1b[2J"), (None, "B")])
    lines = text.disagreements(found)
    assert "badge: '\\x1b[2J' for 'A\\u202e1'" in lines[1] + lines[3]
    assert "badge: 'B' for null" in lines[1] + lines[3]
    assert not any("\x1b" in line or "\u202e" in line for line in lines)


# --- demands


def test_a_bare_accuracy_is_demanded_of_every_question_that_has_one():
    found = gate.demands(("0.6",), ("kind=wood:0.5", "lit=true:0.5", "problems=rust:0.4"), TASK, TRUTH)
    assert [str(each) for each in found] == [
        "accuracy of kind",
        "accuracy of problems",
        "accuracy of lit",
        "accuracy of lamps",
        "accuracy of badge",
        "recall of kind=wood",
        "recall of lit=true",
        "recall of problems=rust",
    ]


def test_a_demand_is_met_by_the_lower_bound_not_by_the_figure():
    low, value = FOUND.question("kind").accuracy.low, FOUND.question("kind").accuracy.value
    between = (low + value) / 2
    assert gate.shortfalls(gate.demands((f"kind:{low:.6f}"[:-1],), None, TASK, TRUTH), FOUND) == []
    (line,) = gate.shortfalls(gate.demands((f"kind:{between:.4f}",), None, TASK, TRUTH), FOUND)
    assert line == f"the accuracy of kind is {value:.3f}, at least {low:.3f} (95 %), wanted {between:.4g}"


@pytest.mark.parametrize(
    ("accuracy", "recall", "says"),
    [
        (("high",), None, "--min_accuracy=high: expected a share such as 0.9"),
        (("1.0",), None, "expected a share above 0 and below 1"),
        (("1.2.3",), None, "expected a share above 0 and below 1"),
        (("color:0.9",), None, "color is not a labelled question with an accuracy"),
        (("degrees:0.9",), None, "degrees is not a labelled question with an accuracy"),
        (None, ("kind:0.9",), "expected QUESTION=LABEL:SHARE"),
        (None, ("kind=concrete:0.9",), "concrete is not one of wood, steel, none"),
        (None, ("badge=A1:0.9",), "a recall is of a label"),
        (
            ("0.99",),
            None,
            "240 labelled rows cannot show the accuracy of kind to be 0.99 even if every answer is right: label 381",
        ),
        (None, ("kind=wood:0.98",), "labelled rows cannot show the recall of kind=wood to be 0.98"),
    ],
)
def test_a_demand_that_cannot_be_met_or_read_is_refused_before_anything_is_asked(accuracy, recall, says):
    with pytest.raises(ConfigError, match=re.escape(says)):
        gate.demands(accuracy, recall, TASK, TRUTH)


# --- comparison


def side(name, outcomes, truth=TRUTH):
    return Side(report.make(report.Asked(name, TASK, name, "m"), truth, outcomes), TASK, truth, outcomes)


def test_two_ways_are_compared_row_by_row_and_priced():
    other = [
        Outcome(
            each.key, each.uri, each.values and {**each.values, **TRUTH.rows[each.key]}, each.reason, 2 * each.cost_usd
        )
        for each in OUTCOMES
    ]  # all right, but for the rows without an answer
    found = comparison.compare(side("A", OUTCOMES), side("B", other))
    assert found.price_ratio == pytest.approx(2)
    assert [test.question for test in found.tests] == [ALL, *(name for name in NAMES if name != "degrees")]
    for test in found.tests[1:]:
        a, b = rights(test.question), rights(test.question, other)
        assert test.rows == len(a)
        assert test.only_b == sum(b[key] and not a[key] for key in a) > 0
        assert test.only_a == sum(a[key] and not b[key] for key in a) == 0
        assert test.better == "b"
    (errors,) = found.errors
    assert (errors.question, errors.better) == ("degrees", "b")
    lines = comparison.sentences(found)
    assert lines[0].startswith("whole rows: B is better by ")
    assert lines[-1] == "price: B costs 2.00 times what A costs"


def test_a_way_that_errs_as_often_elsewhere_is_no_better_than_noise():
    swapped = list(OUTCOMES)
    mine = rights("kind")
    good = [number for number, each in enumerate(OUTCOMES) if mine[each.key]][:3]
    for number in good:  # three rows spoilt: p = 0.25
        each = OUTCOMES[number]
        wrong = "steel" if TRUTH.rows[each.key]["kind"] == "wood" else "wood"
        swapped[number] = Outcome(each.key, each.uri, {**each.values, "kind": wrong}, None, each.cost_usd)
    kind = TRUTH.only(["kind"])
    found = comparison.compare(side("A", OUTCOMES, kind), side("B", swapped, kind))
    (test,) = found.tests
    assert (test.only_a, test.only_b, test.better) == (3, 0, None)
    assert test.p_value == pytest.approx(0.25)
    assert "no difference that is more than noise" in comparison.sentences(found)[0]


def test_the_way_that_errs_less_on_average_is_the_better_one_even_where_it_errs_more_often():
    keys = [f"k{number:02}" for number in range(40)]
    truth = Truth(("degrees",), {key: {"degrees": 0.0} for key in keys})
    errors = {key: (1.0, 1.1) if number % 4 else (9.0, 1.0) for number, key in enumerate(keys)}
    sides = [
        side(name, [Outcome(key, None, {"degrees": errors[key][place]}) for key in keys], truth)
        for place, name in enumerate("AB")
    ]
    found = comparison.compare(*sides)
    (test,) = found.errors
    assert test.difference.value == pytest.approx((30 * 0.1 - 10 * 8.0) / 40)
    assert test.better == "b"
    assert test.difference.high < 0
    assert "degrees: B errs less, by 1.93 on average, more than noise (40 rows" in comparison.sentences(found)[0]


def test_only_questions_that_both_tasks_ask_are_compared():
    only_kind = Side(side("B", OUTCOMES).report, TASK, TRUTH.only(["kind"]), OUTCOMES)
    found = comparison.compare(side("A", OUTCOMES), only_kind)
    assert [test.question for test in found.tests] == ["kind"]
    assert found.errors == ()
