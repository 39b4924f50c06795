"""What becomes of a row: answers, failures, corrections, doubled limits, packs, and what all of it cost."""

from __future__ import annotations

import dataclasses
import datetime
import json
import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.asking import Ask, Question, shares
from pipeline.engine.call import Again, CallError, Fault, Landed, Split
from pipeline.gemini import models
from pipeline.gemini.prices import parse_prices
from pipeline.gemini.request import request_class, response_class
from pipeline.rows import Answer, Failure, Observation, Reason, Usage
from pipeline.task import Task

NOW = datetime.datetime(2026, 11, 23, 12, tzinfo=datetime.UTC)
SIGNS = Task.load("road_signs")
GOOD = {"sign_type": "stop", "condition": "good", "legible_text": "STOP"}
RESOURCE = "projects/p/locations/us/publishers/google/models/gemini-3.5-flash-lite"


def noon() -> datetime.datetime:
    return NOW


def question(task=SIGNS, **more):
    tier = {"service_tier": more.pop("tier")} if "tier" in more else {}
    chosen = models.settings_for(task, **tier)
    return Question(
        **{
            "task": task,
            "settings": chosen,
            "resource": RESOURCE,
            "run_id": "run_1",
            "kept_columns": ("asset_id", "capture_time"),
            "prices": parse_prices("1,10"),
            "clock": noon,
            **more,
        }
    )


def rows(count):
    return tuple(
        Observation(f"k{number}", f"gs://b/{number}.jpg", {"asset_id": f"a{number}", "capture_time": NOW, "pitch": 1.5})
        for number in range(1, count + 1)
    )


def response(content=None, finish_reason=1, *, block_reason=None, prompt=100, output=10, thoughts=5, extra=0):
    message = response_class()(model_version="gemini-3.5-flash-lite-001")
    if block_reason is None:
        candidate = message.candidates.add(finish_reason=finish_reason)
        if content is not None:
            text = content if isinstance(content, str) else json.dumps(content)
            candidate.content.parts.add(text=text)
    else:
        message.prompt_feedback.block_reason = block_reason
    usage = message.usage_metadata
    usage.prompt_token_count, usage.candidates_token_count, usage.thoughts_token_count = prompt, output, thoughts
    usage.total_token_count = prompt + output + thoughts + extra
    usage.traffic_type = 1
    return message


def prompt_of(ask):
    return [part.text for part in request_class().FromString(ask.request()).contents[-1].parts]


def limit_of(ask):
    return request_class().FromString(ask.request()).generation_config.max_output_tokens


CALL_USD = (100 * 1 + 15 * 10) / 1e6


def calls(number):
    """What so many calls have cost."""
    return Usage(100 * number, 10 * number, 5 * number, 115 * number, pytest.approx(number * CALL_USD))


def test_an_answer_carries_its_provenance():
    [row] = rows(1)
    asked = question()
    step = Ask(asked, (row,)).answered(response(GOOD), 812.5, attempts=2, calls=3)
    assert step == Landed(
        (
            Answer(
                key="k1",
                gcs_uri="gs://b/1.jpg",
                columns={"asset_id": "a1", "capture_time": NOW},  # the kept ones only
                task="road_signs",
                fingerprint=asked.fingerprint,
                classification=json.dumps(GOOD),
                answer=json.dumps(GOOD, separators=(",", ":")),
                label="stop",
                model="gemini-3.5-flash-lite",
                model_version="gemini-3.5-flash-lite-001",
                finish_reason="STOP",
                traffic_type="ON_DEMAND",
                usage=calls(1),
                latency_ms=812.5,
                attempts=2,
                run_id="run_1",
                classified_at=NOW,
            ),
        ),
        tokens=115,
    )


def test_a_free_text_answer_is_the_text():
    [answer] = Ask(question(Task.load("describe")), rows(1)).answered(response("A street."), 1.0, 1, 1).outcomes
    assert (answer.classification, answer.answer, answer.label) == ("A street.", None, None)


def test_an_unknown_price_leaves_the_cost_open():
    ask = Ask(question(prices=None), rows(1))
    ask.answered(response("not json"), 1.0, 1, 1)
    ask.timed_out()
    [answer] = ask.answered(response(GOOD), 1.0, 2, 2).outcomes
    assert answer.usage.cost_usd is None
    assert answer.usage.prompt_tokens > 200


def test_a_kept_column_that_a_row_does_not_have_is_null():
    [answer] = Ask(question(kept_columns=("heading",)), rows(1)).answered(response(GOOD), 1.0, 1, 1).outcomes
    assert answer.columns == {"heading": None}


def test_an_invalid_answer_is_corrected_once_then_a_failure_that_keeps_the_text():
    ask = Ask(question(), rows(1))
    assert prompt_of(ask)[1:] == [SIGNS.prompt]
    assert ask.answered(response({**GOOD, "sign_type": "halt"}), 1.0, 1, 1) == Again(115)
    _, prompt, correction = prompt_of(ask)
    assert prompt == SIGNS.prompt
    assert "'halt' is not one of: stop, yield" in correction
    assert "- condition is exactly one of: good, worn" in correction
    step = ask.answered(response({**GOOD, "sign_type": "Halt!"}), 1.0, 2, 2)
    [failure] = step.outcomes
    assert failure == Failure(
        key="k1",
        gcs_uri="gs://b/1.jpg",
        task="road_signs",
        fingerprint=ask._question.fingerprint,
        reason=Reason.INVALID_ANSWER,
        detail=failure.detail,
        attempts=2,
        calls=2,
        usage=calls(2),
        model="gemini-3.5-flash-lite",
        classification=json.dumps({**GOOD, "sign_type": "Halt!"}),
        run_id="run_1",
        failed_at=NOW,
        columns=rows(1)[0].columns,  # all of them
    )
    assert failure.detail.startswith("sign_type: 'Halt!' is not one of")


def test_a_corrected_answer_counts_the_tokens_of_both_calls():
    ask = Ask(question(), rows(1))
    ask.answered(response("{"), 1.0, 1, 1)
    [answer] = ask.answered(response(GOOD), 1.0, 2, 2).outcomes
    assert answer.usage == calls(2)
    assert answer.attempts == 2


def test_a_cut_off_answer_is_asked_again_with_a_doubled_limit_once():
    ask = Ask(question(), rows(1))
    assert limit_of(ask) == 1024
    assert ask.answered(response("half", finish_reason=2), 1.0, 1, 1) == Again(115)
    assert limit_of(ask) == 2048
    [failure] = ask.answered(response("half of it", finish_reason=2), 1.0, 2, 2).outcomes
    assert (failure.reason, failure.classification) == (Reason.MAX_TOKENS, "half of it")
    assert failure.detail == "the answer is longer than 2,048 tokens, thinking included"
    assert failure.usage == calls(2)


def test_a_limit_that_is_the_models_own_is_not_doubled():
    asked = question()
    asked = dataclasses.replace(asked, settings=dataclasses.replace(asked.settings, max_output_tokens=65_536))
    [failure] = Ask(asked, rows(1)).answered(response("half", finish_reason=2), 1.0, 1, 1).outcomes
    assert failure.reason is Reason.MAX_TOKENS


def test_a_correction_and_a_doubled_limit_add_up():
    ask = Ask(question(), rows(1))
    ask.answered(response("half", finish_reason=2), 1.0, 1, 1)
    assert isinstance(ask.answered(response("{"), 1.0, 2, 2), Again)
    assert limit_of(ask) == 2048
    assert len(prompt_of(ask)) == 3
    [answer] = ask.answered(response(GOOD), 1.0, 3, 3).outcomes
    assert answer.usage == calls(3)


def test_an_empty_answer_is_asked_again_unchanged_once():
    ask = Ask(question(), rows(1))
    before = ask.request()
    assert ask.answered(response(), 1.0, 1, 1) == Again(115)
    assert ask.request() == before
    [failure] = ask.answered(response(), 1.0, 2, 2).outcomes
    assert (failure.reason, failure.classification) == (Reason.EMPTY_ANSWER, None)
    assert failure.reason.retryable


@pytest.mark.parametrize(
    ("message", "detail"),
    [
        (response("part of", finish_reason=3), "SAFETY"),
        (response(finish_reason=4), "RECITATION"),
        (response(finish_reason=99), "FINISH_REASON_99"),
        (response(block_reason=6), "BLOCKED_JAILBREAK"),
        (response(block_reason=42), "BLOCKED_REASON_42"),
    ],
)
def test_a_block_is_final(message, detail):
    [failure] = Ask(question(), rows(1)).answered(message, 1.0, 1, 1).outcomes
    assert (failure.reason, failure.detail) == (Reason.BLOCKED, detail)
    assert not failure.reason.retryable
    assert failure.usage == calls(1)


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (Fault.NOT_FOUND, Reason.IMAGE_NOT_FOUND),
        (Fault.DENIED, Reason.IMAGE_DENIED),
        (Fault.INVALID, Reason.INVALID_REQUEST),
        (Fault.UNAVAILABLE, Reason.UNAVAILABLE),
        (Fault.TIMED_OUT, Reason.TIMED_OUT),
        (Fault.RATE_LIMITED, Reason.RATE_LIMITED),
    ],
)
def test_a_call_that_was_given_up_is_a_failure_with_what_the_service_said(fault, reason):
    error = CallError("NOT_FOUND", "no such object", reason="X")
    [failure] = Ask(question(), rows(1)).failed(fault, error, 3, 5).outcomes
    assert (failure.reason, failure.detail) == (reason, "NOT_FOUND (X): no such object")
    assert (failure.attempts, failure.calls) == (3, 5)
    assert failure.usage == Usage()


def test_every_fault_of_the_engine_has_a_reason():
    for fault in Fault:
        assert Ask(question(), rows(1)).failed(fault, CallError("X", ""), 1, 1).outcomes[0].reason in Reason


def test_a_call_whose_answer_never_came_is_charged_as_planned():
    asked = question()
    plan = asked.planned(1)
    ask = Ask(asked, rows(1))
    assert ask.tokens() == plan.total_tokens
    ask.timed_out()
    [failure] = ask.failed(Fault.TIMED_OUT, CallError("DEADLINE_EXCEEDED", ""), 1, 1).outcomes
    assert failure.usage.prompt_tokens == plan.prompt_tokens
    assert failure.usage.cost_usd == pytest.approx(plan.cost(asked.prices, at=NOW))
    assert failure.usage.cost_usd > 0


def test_an_answer_without_usage_is_charged_as_planned_and_settles_nothing():
    step = Ask(question(), rows(1)).answered(response(GOOD, prompt=0, output=0, thoughts=0), 1.0, 1, 1)
    assert step.tokens == 0
    assert step.outcomes[0].usage.cost_usd == pytest.approx(question().planned(1).cost(question().prices, at=NOW))


def test_a_flex_answer_is_priced_by_what_served_it():
    prices = models.find("gemini-3.5-flash-lite").prices
    flex = question(prices=prices, tier="flex")
    message = response(GOOD)
    message.usage_metadata.traffic_type = 4
    [cheap] = Ask(flex, rows(1)).answered(message, 1.0, 1, 1).outcomes
    [full] = Ask(flex, rows(1)).answered(response(GOOD), 1.0, 1, 1).outcomes
    assert (cheap.traffic_type, full.traffic_type) == ("ON_DEMAND_FLEX", "ON_DEMAND")
    assert cheap.usage.cost_usd == pytest.approx(full.usage.cost_usd / 2)


@pytest.mark.parametrize("reason", ["missing_key", "missing_uri", "malformed_uri", "unsupported_image_type"])
def test_a_row_that_cannot_be_asked_fails_without_a_call(reason):
    row = Observation("null:ab", None, {"asset_id": "a"}, problem=reason)
    failure = question().unusable(row)
    assert (failure.reason, failure.attempts, failure.calls, failure.usage) == (reason, 0, 0, Usage())
    assert failure.detail
    assert failure.row()["row"] == '{"asset_id": "a"}'


def test_a_question_survives_pickling_with_what_was_made_of_it():
    asked = question(clock=noon)
    Ask(asked, rows(1)).request(), asked.fingerprint, asked.planned(1)
    again = pickle.loads(pickle.dumps(asked))
    assert again == asked
    assert Ask(again, rows(1)).request() == Ask(asked, rows(1)).request()


# --- packs -----------------------------------------------------------------------------------------------------------


def part(number, **changes):
    return {"image": f"image_{number}", **GOOD, **changes}


def keys(jobs):
    return [[row.key for row in job._rows] for job in jobs]


def test_a_pack_answers_each_row_and_shares_what_it_cost():
    ask = Ask(question(), rows(3))
    assert ask.rows == 3
    parts = [part(3, sign_type="yield"), part(1), part(2)]
    step = ask.answered(response(parts, prompt=100, output=11, thoughts=2, extra=1), 50.0, 2, 3)
    assert isinstance(step, Landed)
    assert [(answer.key, answer.label) for answer in step.outcomes] == [("k1", "stop"), ("k2", "stop"), ("k3", "yield")]
    assert json.loads(step.outcomes[0].classification) == GOOD
    assert [answer.usage.prompt_tokens for answer in step.outcomes] == [34, 33, 33]
    assert [answer.usage.output_tokens for answer in step.outcomes] == [4, 4, 3]
    assert sum(answer.usage.total_tokens for answer in step.outcomes) == step.tokens == 114
    assert sum(answer.usage.cost_usd for answer in step.outcomes) == pytest.approx((100 + 13 * 10) / 1e6)
    assert {(answer.attempts, answer.latency_ms) for answer in step.outcomes} == {(2, 50.0)}


@pytest.mark.parametrize(
    "message",
    [
        response([part(1), part(2), part(3), part(4), part(4)]),  # doubled
        response([part(1), part(2), part(3), part(9)]),  # unknown
        response("I cannot do this."),
        response([part(1), part(2), part(3), part(4)], finish_reason=2),
        response(finish_reason=3),
        response(block_reason=1),
        response(),
        response([]),
    ],
)
def test_a_pack_that_cannot_be_told_apart_is_split_in_halves(message):
    step = Ask(question(), rows(4)).answered(message, 1.0, 1, 1)
    assert isinstance(step, Split)
    assert keys(step.jobs) == [["k1", "k2"], ["k3", "k4"]]
    assert (step.outcomes, step.tokens) == ((), 115)


@pytest.mark.parametrize("fault", [fault for fault in Fault if fault is not Fault.RATE_LIMITED])
def test_a_pack_that_failed_is_split_in_halves(fault):
    step = Ask(question(), rows(5)).failed(fault, CallError("NOT_FOUND", ""), 1, 1)
    assert keys(step.jobs) == [["k1", "k2", "k3"], ["k4", "k5"]]


def test_a_pack_without_quota_fails_as_a_whole():
    step = Ask(question(), rows(3)).failed(Fault.RATE_LIMITED, CallError("RESOURCE_EXHAUSTED", ""), 0, 9)
    assert [(failure.key, failure.reason) for failure in step.outcomes] == [
        (f"k{number}", Reason.RATE_LIMITED) for number in (1, 2, 3)
    ]


def test_images_that_the_model_left_out_are_asked_again_and_the_others_keep_their_answers():
    step = Ask(question(), rows(4)).answered(response([part(2)]), 1.0, 1, 1)
    assert [answer.key for answer in step.outcomes] == ["k2"]
    assert keys(step.jobs) == [["k1", "k3"], ["k4"]]


def test_a_wrong_value_in_a_pack_is_corrected_alone_once():
    step = Ask(question(), rows(2)).answered(response([part(1), part(2, sign_type="halt")]), 1.0, 1, 1)
    assert [answer.key for answer in step.outcomes] == ["k1"]
    [alone] = step.jobs
    assert "'halt' is not one of" in prompt_of(alone)[-1]
    [failure] = alone.answered(response({**GOOD, "sign_type": "halt"}), 1.0, 1, 1).outcomes
    assert (failure.key, failure.reason) == ("k2", Reason.INVALID_ANSWER)
    assert (failure.attempts, failure.calls) == (2, 2)  # those of the pack included


def test_a_part_of_a_pack_brings_its_share_of_what_the_pack_cost():
    step = Ask(question(), rows(2)).answered(response(block_reason=1), 1.0, 2, 4)
    first, second = step.jobs
    [answer] = first.answered(response(GOOD), 1.0, 1, 1).outcomes
    [failure] = second.answered(response(block_reason=1), 1.0, 1, 1).outcomes
    assert answer.usage == Usage(150, 15, 8, 173, pytest.approx(1.5 * CALL_USD))
    assert failure.usage == Usage(150, 15, 7, 172, pytest.approx(1.5 * CALL_USD))
    assert (answer.attempts, failure.calls) == (3, 5)


def test_a_free_text_pack_answers_with_the_text_of_each():
    parts = [{"image": "image_2", "text": "two"}, {"image": "image_1", "text": "one"}]
    step = Ask(question(Task.load("describe")), rows(2)).answered(response(parts), 1.0, 1, 1)
    assert [(answer.key, answer.classification, answer.answer) for answer in step.outcomes] == [
        ("k1", "one", None),
        ("k2", "two", None),
    ]


@given(st.integers(0, 10**9), st.integers(0, 10**6), st.integers(0, 10**6), st.integers(0, 1000), st.integers(1, 60))
def test_shares_add_up_exactly(prompt, output, thoughts, rest, count):
    usage = Usage(prompt, output, thoughts, prompt + output + thoughts + rest, 1.0)
    parts = shares(usage, count)
    assert len(parts) == count
    whole = sum(parts, Usage())
    assert dataclasses.replace(whole, cost_usd=0) == dataclasses.replace(usage, cost_usd=0)
    assert whole.cost_usd == pytest.approx(1.0)
    assert max(part.total_tokens for part in parts) - min(part.total_tokens for part in parts) <= 4


class Service:
    """Draws what becomes of each call, and keeps count of what it has billed."""

    def __init__(self, data):
        self.data = data
        self.tokens = 0
        self.calls = 0

    def __call__(self, ask):
        self.calls += 1
        asked = request_class().FromString(ask.request())
        images = sum(part.HasField("file_data") for part in asked.contents[-1].parts)
        assert images == ask.rows
        kind = self.data.draw(
            st.sampled_from(["answer", "answer", "wrong", "block", "cut", "empty", "fault", "timeout"])
        )
        if kind in ("fault", "timeout"):
            if kind == "timeout":
                ask.timed_out()
                self.tokens += ask.tokens()
            fault = self.data.draw(st.sampled_from(list(Fault)))
            return ask.failed(fault, CallError("X", "x"), 1, 1)
        finish = {"block": 3, "cut": 2}.get(kind, 1)
        content = None if kind == "empty" else self._content(images, wrong=kind == "wrong")
        prompt, output = (self.data.draw(st.integers(0, 1000)) for _ in range(2))
        step = ask.answered(response(content, finish, prompt=prompt + 1, output=output, thoughts=0), 1.0, 1, 1)
        self.tokens += prompt + 1 + output
        return step

    def _content(self, images, *, wrong):
        if images == 1:
            return {**GOOD, "sign_type": "halt" if wrong else "stop"}
        parts = [part(number) for number in range(1, images + 1)]
        if wrong:
            how = self.data.draw(st.sampled_from(["missing", "doubled", "unknown", "value", "prose"]))
            place = self.data.draw(st.integers(0, images - 1))
            if how == "missing":
                del parts[place]
            elif how == "doubled":
                parts[place] = parts[(place + 1) % images]
            elif how == "unknown":
                parts[place] = part(images + 1)
            elif how == "value":
                parts[place] = {**parts[place], "condition": 3}
            else:
                return "no"
        return parts


@settings(max_examples=200, deadline=None)
@given(st.data(), st.integers(1, 9))
def test_whatever_happens_every_row_ends_once_and_every_token_is_charged_once(data, count):
    service = Service(data)
    waiting, outcomes = [Ask(question(), rows(count))], []
    while waiting:
        ask = waiting.pop()
        step = service(ask)
        if isinstance(step, Again):
            waiting.append(ask)
            continue
        outcomes += step.outcomes
        if isinstance(step, Split):
            assert sum(job.rows for job in step.jobs) + len(step.outcomes) == ask.rows
            assert all(job.rows < ask.rows for job in step.jobs)
            waiting += step.jobs
        assert service.calls < 10 * count + 10
    assert sorted(outcome.key for outcome in outcomes) == sorted(row.key for row in rows(count))
    assert sum(outcome.usage.total_tokens for outcome in outcomes) == service.tokens
