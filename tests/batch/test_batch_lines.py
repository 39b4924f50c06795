"""The lines of batch files: what is written, what may come back, and which row a line is about."""

from __future__ import annotations

import itertools
import json

import pytest

from pipeline.asking import Question
from pipeline.batch import lines, results
from pipeline.engine.call import Again, CallError, Fault, Landed
from pipeline.gemini import models
from pipeline.rows import Answer, Failure, Observation
from pipeline.task import Task

TASK = Task.load("road_signs")
SETTINGS = models.settings_for(TASK, None)
QUESTION = Question(
    task=TASK,
    settings=SETTINGS,
    resource=models.resource_name(SETTINGS.model, "demo-project", "us"),
    run_id="r1",
    prices=models.find(SETTINGS.model).prices,
)
ANSWER = json.dumps({"sign_type": "stop", "condition": "good", "legible_text": "STOP"})
USAGE = {"promptTokenCount": 1000, "candidatesTokenCount": 20, "totalTokenCount": 1020, "trafficType": "ON_DEMAND"}


def row(number):
    return Observation(f"key{number}", f"gs://bucket/{number}.jpg")


def request(observation):
    builder = QUESTION.builder
    return builder.message(builder.build([observation]))


def line(observation, *, key=True, snake=False, **more):
    """A line as the service writes it."""
    sent = json.loads(lines.request_line(observation.key, request(observation)))
    found = {"request": sent["request"], "status": "", "processed_time": "2026-11-23T00:00:00.000+00:00"}
    if snake:
        for part in found["request"]["contents"][0]["parts"]:
            if "fileData" in part:
                part["file_data"] = {"file_uri": part.pop("fileData")["fileUri"]}
    if key:
        found["key"] = sent["key"]
    answer = {
        "candidates": [{"content": {"parts": [{"text": ANSWER}]}, "finishReason": "STOP"}],
        "usageMetadata": USAGE,
    }
    return json.dumps(found | {"response": answer} | more).encode()


def settled(rows, output):
    tally = results.Tally()
    question = results.priced_as_batch(QUESTION)
    opened = results.Open(question, rows)
    steps = [step for _, step in results.settled(question, opened, map(lines.result, output), 1e3, tally)]
    return steps, opened, tally


def test_a_request_is_one_line_with_its_key_and_without_the_model():
    written = lines.request_line("o1:ü\n", request(row(1)))
    assert written.count(b"\n") == 1
    read = json.loads(written)
    assert read["key"] == "o1:ü\n"
    assert "model" not in read["request"]
    assert read["request"]["labels"] == {"run": "r1", "task": "road_signs"}


@pytest.mark.parametrize(("key", "snake"), [(True, False), (False, False), (False, True)])
def test_every_order_of_the_lines_gives_every_row_its_own_answer(key, snake):
    rows = [row(number) for number in range(3)]
    for order in itertools.permutations(rows):
        steps, left, _ = settled(rows, [line(each, key=key, snake=snake) for each in order])
        assert [step.outcomes[0].gcs_uri for step in steps] == [each.gcs_uri for each in order]
        assert len(left) == 0


def test_rows_that_ask_the_same_take_one_answer_each():
    twins = [Observation("a", "gs://bucket/1.jpg"), Observation("b", "gs://bucket/1.jpg")]
    steps, left, tally = settled(twins, [line(twins[0], key=False)] * 3)
    assert sorted(step.outcomes[0].key for step in steps) == ["a", "b"]
    assert (len(left), tally.used, tally.doubled) == (0, 2, 1)


def test_a_response_beats_an_error_of_the_same_row_whichever_comes_first():
    error = line(row(1), status="Internal Server Error", response={})
    for output in ([error, line(row(1))], [line(row(1)), error]):
        steps, _, tally = settled([row(1)], output)
        assert [type(step.outcomes[0]) for step in steps] == [Answer]
        assert tally.used == 1
    (step,), _, _ = settled([row(1)], [error, error])
    assert isinstance(step.outcomes[0], Failure)


def test_lines_that_are_none_and_rows_without_a_line_leave_the_row_open():
    cut = line(row(1))[:200]
    steps, left, tally = settled([row(1)], [cut, b"", b"[]", b'{"request": 1}', line(row(2))])
    assert (steps, len(left)) == ([], 1)
    assert (tally.unreadable, tally.doubled) == (4, 1)


def test_the_price_is_the_batch_price_though_the_line_says_on_demand():
    (step,), _, _ = settled([row(1)], [line(row(1))])
    full = QUESTION.prices.cost(1000, 20, 0, at=QUESTION.clock())
    assert step.outcomes[0].usage.cost_usd == pytest.approx(full / 2)
    assert results.outcomes(step)[0].traffic_type == "BATCH"
    assert results.priced_as_batch(QUESTION).fingerprint == QUESTION.fingerprint


@pytest.mark.parametrize(
    ("status", "code", "fault"),
    [
        (
            'Bad Request: {"error": {"code": 400, "message": "x", "status": "INVALID_ARGUMENT"}}',
            "INVALID_ARGUMENT",
            Fault.INVALID,
        ),
        ('{"code": 404, "message": "no object"}', "NOT_FOUND", Fault.NOT_FOUND),
        ("Forbidden: no access", "PERMISSION_DENIED", Fault.DENIED),
        ("RESOURCE_EXHAUSTED: quota", "RESOURCE_EXHAUSTED", Fault.RATE_LIMITED),
        ("Too Many Requests", "RESOURCE_EXHAUSTED", Fault.RATE_LIMITED),
        ("DEADLINE_EXCEEDED", "DEADLINE_EXCEEDED", Fault.TIMED_OUT),
        ("Internal Server Error: {}", "INTERNAL", Fault.UNAVAILABLE),
        ("something else", "UNKNOWN", Fault.UNAVAILABLE),
        ({"code": 503, "message": "later"}, "UNAVAILABLE", Fault.UNAVAILABLE),
    ],
)
def test_an_error_in_whatever_form_is_a_status_by_name(status, code, fault):
    read = lines.result(line(row(1), status=status, response={}))
    assert (read.error.code, lines.fault(read.error)) == (code, fault)


@pytest.mark.parametrize("response", [None, {}, [], "text", {"candidates": "none"}])
def test_a_line_with_no_response_and_no_error_is_an_error(response):
    read = lines.result(line(row(1), response=response))
    assert (read.response, read.error.code) == (None, "UNKNOWN")


@pytest.mark.parametrize(
    "response",
    [
        {"candidates": [{"finishReason": "IMAGE_SAFETY"}], "usageMetadata": USAGE},
        {"promptFeedback": {"blockReason": "SOMETHING_NEW"}, "usageMetadata": USAGE},
    ],
)
def test_a_reason_that_this_client_does_not_know_is_kept_by_its_name(response):
    (step,), _, _ = settled([row(1)], [line(row(1), response=response)])
    assert step.outcomes[0].reason == "blocked"
    assert any(name in step.outcomes[0].detail for name in ("IMAGE_SAFETY", "SOMETHING_NEW"))


def test_an_invalid_answer_is_to_be_asked_again_and_where_it_may_not_be_its_cost_is_kept():
    bad = {"candidates": [{"content": {"parts": [{"text": "no"}]}, "finishReason": "STOP"}], "usageMetadata": USAGE}
    question = results.priced_as_batch(QUESTION)
    output = [lines.result(line(row(1), response=bad))]
    ((ask, step),) = results.settled(question, results.Open(question, [row(1)]), output, 1e3, results.Tally())
    assert isinstance(step, Again)
    (failure,) = results.given_up(ask, "over budget")
    assert (failure.reason, failure.attempts, failure.usage.total_tokens) == ("unavailable", 1, 1020)
    assert failure.usage.cost_usd > 0
    assert not isinstance(step, Landed)


def test_a_second_call_whose_answer_never_comes_is_booked_at_the_online_price():
    bad = {"candidates": [{"content": {"parts": [{"text": "no"}]}, "finishReason": "STOP"}], "usageMetadata": USAGE}
    question = results.priced_as_batch(QUESTION)
    output = [lines.result(line(row(1), response=bad))]
    ((ask, _),) = results.settled(question, results.Open(question, [row(1)]), output, 1e3, results.Tally())
    ask.go_on_with(QUESTION)
    ask.timed_out()
    (failure,) = ask.failed(Fault.TIMED_OUT, CallError("DEADLINE_EXCEEDED", "x"), 1, 1).outcomes
    batch, online = (
        question.prices.cost(1000, 20, 0, at=QUESTION.clock()) / 2,
        QUESTION.planned_usage([row(1)]).cost_usd,
    )
    assert failure.usage.cost_usd == pytest.approx(batch + online)
    assert (failure.attempts, failure.calls) == (2, 2)
