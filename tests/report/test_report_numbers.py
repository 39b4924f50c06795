"""What the report says is what plain Python counts in the same rows."""

import collections
import dataclasses
import datetime
import html
import itertools
import json
import math
import statistics

import pytest
from report_rows import BEGAN, FINGERPRINT, RUN_ID, answer, failure, random_answers

from pipeline.bigquery.query import run
from pipeline.errors import ConfigError
from pipeline.gemini import models
from pipeline.report import gather, page, queries, scope
from pipeline.report.facts import QuestionFacts, Value
from pipeline.rows import Reason, Usage
from pipeline.task import Task, builtin_names, identity

LATER = datetime.timedelta(minutes=10)


def facts_of(shop, *, rows=1000, map_by=None, **which):
    return gather.gather(scope.find(shop.endpoint, shop.names, **which), rows=rows, map_by=map_by)


@pytest.fixture(scope="module")
def filled(new_shop):
    """200 answers; some written twice, some answered again, failures of three kinds, other questions and runs beside."""
    shop = new_shop()
    answers = random_answers(200)
    appended_twice = answers[:5]
    answered_again = [
        dataclasses.replace(each, classified_at=each.classified_at + datetime.timedelta(hours=1), label="yield")
        for each in answers[5:8]
    ]
    other_question = [dataclasses.replace(each, fingerprint="f" * 16) for each in random_answers(7, seed=3)]
    failures = [
        *(failure(f"x{number}", Reason.BLOCKED) for number in range(4)),
        failure("x9", Reason.UNAVAILABLE),
        failure(answers[0].key, Reason.UNAVAILABLE),  # answered: does not count
        failure(
            "x9", Reason.TIMED_OUT, failed_at=BEGAN + datetime.timedelta(seconds=90), usage=Usage()
        ),  # the newer counts
    ]
    shop.add([*answers, *appended_twice, *answered_again, *other_question], failures)
    keys = [*(each.key for each in answers), "x0", "x1", "x2", "x3", "x9", "never"]
    shop.start_run(keys=keys)
    shop.start_run("20261101_000000_zzzz", keys=["o1"], fingerprint="f" * 16, at=BEGAN - LATER)
    return shop, answers, answered_again


@pytest.fixture(scope="module")
def found(filled):
    """The facts of all its runs."""
    return facts_of(filled[0])


def test_totals_count_each_line_once_and_each_key_once(filled, found):
    _, answers, again = filled
    assert found.answered == 200
    assert found.failed == 5
    assert found.totals["answer_lines"] == 203
    assert found.totals["failure_lines"] == 7
    paid = [*answers, *again]
    assert found.totals["total_tokens"] == sum(each.usage.total_tokens for each in paid) + 6 * 100
    assert found.totals["cost_usd"] == pytest.approx(math.fsum(each.usage.cost_usd for each in paid) + 6 * 0.00003)
    assert found.totals["failures_usd"] == pytest.approx(6 * 0.00003)
    assert found.totals["asked_again"] == sum(each.attempts > 1 for each in paid)


def test_the_books_are_those_of_audit(found):
    books = found.books
    assert (books.rows, books.answered, books.failed, books.not_asked, books.stray) == (206, 200, 5, 1, 0)
    assert found.runs[0].answered == 200, "nobody has written its end, so it is counted"
    assert found.runs[0].balances


def test_values_of_every_question_are_counted(filled, found):
    _, answers, again = filled
    newest = {each.key: each for each in [*answers, *again]}.values()
    said = [json.loads(each.answer) for each in newest]
    by_name = {each.question.name: each for each in found.questions}
    for name in ("kind", "count", "visible", "text"):
        texts = {"count": str, "visible": lambda value: str(value).lower()}.get(name, str)
        wanted = collections.Counter(None if each[name] is None else texts(each[name]) for each in said)
        assert {value.text: value.answers for value in by_name[name].values} == wanted, name
    several = collections.Counter(value for each in said for value in each["problems"] or [None])
    assert {value.text: value.answers for value in by_name["problems"].values} == several
    assert by_name["kind"].unsaid == ("other",)
    assert [value.text for value in by_name["count"].values] == ["0", "1", "2", None]
    degrees = [each["degrees"] for each in said if each["degrees"] is not None]
    bins = by_name["degrees"].histogram.bins
    assert sum(n for _, _, n in bins) == len(degrees)
    low, high = min(degrees), max(degrees)
    width = (high - low) / queries.BINS
    wanted = collections.Counter(
        min(queries.BINS - 1, math.floor(queries.BINS * (x - low) / (high - low))) for x in degrees
    )
    assert {round((start - low) / width): n for start, _, n in bins} == wanted


def test_labels_take_the_newest_answer(filled, found):
    _, answers, again = filled
    newest = {each.key: each.label for each in [*answers, *again]}
    assert {value.text: value.answers for value in found.labels} == collections.Counter(newest.values())


def test_measures_and_latency_bins(filled, found):
    _, answers, again = filled
    newest = list({each.key: each for each in [*answers, *again]}.values())
    latency = sorted(each.latency_ms for each in newest)
    measured = found.measures["latency_ms"]
    assert measured["mean"] == pytest.approx(statistics.fmean(latency))
    assert measured["largest"] == pytest.approx(latency[-1])
    assert latency[95] <= measured["p50"] <= latency[105]
    wanted = collections.Counter(math.floor(math.log10(x) * queries.BINS_PER_DECADE) for x in latency)
    assert {round(math.log10(low) * queries.BINS_PER_DECADE): n for low, _, n in found.latency.bins} == wanted


def test_failures_by_reason_leave_out_what_is_answered_and_take_the_newest_reason(found):
    assert {each.name: each.failed for each in found.reasons} == {"blocked": 4, "timed_out": 1}
    assert [each.cost_usd for each in found.reasons] == pytest.approx([4 * 0.00003, 0.00003]), "of earlier reasons, too"
    assert len(found.reasons[0].examples) == queries.EXAMPLES
    assert {row["key"] for row in found.reasons[0].examples} < {"x0", "x1", "x2", "x3"}
    assert found.reasons[0].examples[0]["map_url"] == "https://www.google.com/maps/@?api=1"


def test_throughput_has_every_step_and_every_line(found):
    found = found.throughput
    assert found.run_id == RUN_ID
    assert sum(answers for _, answers, _ in found.steps) == 203
    assert sum(failures for _, _, failures in found.steps) == 7
    starts = [start for start, _, _ in found.steps]
    assert {b - a for a, b in itertools.pairwise(starts)} == {datetime.timedelta(seconds=found.step_secs)}


def test_the_map_has_every_place_once_and_its_labels(filled, found):
    shop, answers, again = filled
    newest = {each.key: each for each in [*answers, *again]}.values()
    found = found.map
    assert found.cells is None and found.located == found.shown == 200
    assert found.coloured_by == "kind"
    wanted = {(each.label, round(each.columns["latitude"], 5)) for each in newest}
    assert {(spot.said, round(spot.latitude, 5)) for spot in found.spots} == wanted
    by_text = facts_of(shop, map_by="visible").map
    assert {spot.said for spot in by_text.spots} == {"true", "false"}


def test_many_places_are_joined_in_cells_and_none_is_lost(shop, monkeypatch):
    monkeypatch.setattr(queries, "EXACT_PLACES", 50)
    shop.add(random_answers(400))
    shop.start_run()
    found = facts_of(shop).map
    assert found.cells
    assert found.shown == found.located == 400
    assert len(found.spots) < 400


def test_a_run_is_reported_by_itself(shop):
    shop.start_run(keys=["a", "b"])
    shop.add([answer("a", {"kind": "stop"}), answer("b", {"kind": "stop"})])
    second = "20261124_090000_efgh"
    shop.start_run(second, keys=["z1", "z2"], at=BEGAN + LATER)
    late = BEGAN + LATER + datetime.timedelta(seconds=5)
    shop.add([answer("z1", {"kind": "stop"}, run_id=second, classified_at=late)])
    shop.end_run(second, answered=1, failed=0, not_asked=1, worklist_rows=2, at=late + LATER)
    alone = facts_of(shop, run_id=second)
    assert (alone.answered, alone.failed, alone.books.not_asked) == (1, 0, 1)
    assert [each.run_id for each in alone.runs] == [second]
    whole = facts_of(shop)
    assert whole.answered == 3
    assert [each.run_id for each in whole.runs] == [second, RUN_ID]
    with shop.endpoint.client() as client:
        client.delete_table(str(shop.answers.beside(f"_worklist_{second}")))
    expired = facts_of(shop)
    assert expired.books is None
    assert expired.answered == 3


def test_another_question_is_reported_by_its_fingerprint(filled):
    found = facts_of(filled[0], fingerprint="f" * 16)
    assert found.answered == 7
    assert scope.find(filled[0].endpoint, filled[0].names).fingerprint == FINGERPRINT


def test_a_sample_has_every_label_and_is_the_same_every_time(shop):
    answers = random_answers(300)
    rare = [dataclasses.replace(each, label="rare") for each in answers[:2]]
    shop.add([*rare, *answers[2:]])
    shop.start_run()
    query = queries.sample(scope.find(shop.endpoint, shop.names), 20)
    first, second = (run(shop.endpoint, query) for _ in range(2))
    assert len(first) == 20
    assert collections.Counter(row["label"] for row in first)["rare"] == 2
    assert [row["key"] for row in first] == [row["key"] for row in second]


@pytest.mark.parametrize(
    ("which", "says"),
    [
        ({"run_id": "nobody"}, "--run_id=nobody"),
        ({"fingerprint": "nothing"}, "--fingerprint=nothing"),
        ({"map_by": "colour"}, "--map_by=colour: expected a question of the task: kind, problems"),
    ],
)
def test_what_is_not_there_is_one_line(filled, which, says):
    with pytest.raises(ConfigError, match=says):
        facts_of(filled[0], **which)


@pytest.mark.parametrize("name", builtin_names())
def test_every_task_that_comes_with_the_package_has_a_page(found, name):
    """Some have no system instruction, or no questions."""
    task = Task.load(name)
    asked = dataclasses.replace(found.scope, settings=identity(task, models.settings_for(task)))
    questions = tuple(QuestionFacts(each, (Value(None, 1),), 0, each.labels) for each in asked.questions)
    text = page.render(dataclasses.replace(found, scope=asked, questions=questions))
    assert ("System instruction" in text) == bool(task.system_instruction)
    assert task.prompt.split("\n")[0][:20] in html.unescape(text)


def test_the_end_of_a_run_is_the_first_one_that_has_its_sums():
    lines = [{"state": state, "answered": n} for state, n in (("started", None), ("halted", None), ("halted", 7))]
    assert scope.end_line([*lines, {"state": "halted", "answered": 8}]) == lines[2]
    assert scope.end_line(lines[:2]) == lines[1]
    assert scope.end_line(lines[:1]) is None
