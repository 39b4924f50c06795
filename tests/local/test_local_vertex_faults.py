"""Every fault that the stand-in can be told to make, as a client meets it."""

import json

import grpc
import pytest
from stand_in_calls import Refusal, model_path, request, uri

from pipeline.local.vertex import Fault, Settings, is_noisy
from pipeline.local.vertex.faults import ANSWER_FAULTS, CALL_FAULTS, IMAGE_FAULTS, KINDS, RUN_FAULTS, STATUSES

TASK = {
    "type": "object",
    "properties": {
        "sign_type": {"type": "string", "enum": ["stop", "yield", "speed_limit", "none"]},
        "problems": {"type": "array", "items": {"type": "string", "enum": ["blurred", "dark"]}},
    },
    "propertyOrdering": ["sign_type", "problems"],
}
ANSWER = '{"sign_type": "stop", "problems": []}'


def ask(call, *names):
    return call(request(*(names or ["o1:stop"]), schema=TASK))


def only_text(response):
    return "".join(part.text for part in response.candidates[0].content.parts)


@pytest.mark.parametrize("status", sorted(set(STATUSES) - {"RESOURCE_EXHAUSTED"}))
def test_a_status_is_that_status(vertex, call, status):
    vertex.configure(faults=[Fault(status)])
    answer = ask(call)
    assert answer.status == status
    assert vertex.stats()["statuses"] == {status: 1}


@pytest.mark.parametrize(
    ("kind", "status", "reason"),
    [
        ("IAM_PERMISSION_DENIED", "PERMISSION_DENIED", "IAM_PERMISSION_DENIED"),
        ("SERVICE_DISABLED", "PERMISSION_DENIED", "SERVICE_DISABLED"),
        ("BILLING_DISABLED", "PERMISSION_DENIED", "BILLING_DISABLED"),
        ("MODEL_NOT_FOUND", "NOT_FOUND", ""),
        ("TOKEN_EXPIRED", "UNAUTHENTICATED", "ACCESS_TOKEN_EXPIRED"),
        ("IMAGE_NOT_FOUND", "NOT_FOUND", ""),
        ("IMAGE_DENIED", "PERMISSION_DENIED", ""),
        ("IMAGE_INVALID", "INVALID_ARGUMENT", ""),
    ],
)
def test_a_named_fault_carries_googles_reason(vertex, call, kind, status, reason):
    vertex.configure(faults=[Fault(kind)])
    answer = ask(call)
    assert (answer.status, answer.reason) == (status, reason)


def test_every_kind_is_tried_in_this_file():
    tried = {"hang", "slow", "reset", "blocked", "finish", "long", "empty", "no_text", "malformed_json", "prose"}
    tried |= {"truncated_json", "fenced_json", "wrong_label", "split_parts", "thought_parts", "no_usage"}
    tried |= {"missing_key", "doubled_key", "unknown_key"}
    assert set(ANSWER_FAULTS) | set(CALL_FAULTS) == tried
    assert tried | set(STATUSES) | set(RUN_FAULTS) | set(IMAGE_FAULTS) == set(KINDS)


@pytest.mark.parametrize("delay", [None, 2.5])
def test_a_quota_refusal_says_when_to_come_back_if_told_so(vertex, call, delay):
    vertex.configure(faults=[Fault("RESOURCE_EXHAUSTED")], retry_info_secs=delay)
    answer = ask(call)
    assert (answer.status, answer.retry_delay_secs) == ("RESOURCE_EXHAUSTED", delay)


@pytest.mark.parametrize(("kind", "number"), [("blocked", 1), ("blocked:JAILBREAK", 6), ("blocked:9", 9)])
def test_a_blocked_prompt_has_feedback_and_no_candidate(vertex, call, kind, number):
    vertex.configure(faults=[Fault(kind)])
    response = ask(call)
    assert response.prompt_feedback.block_reason == number
    assert not response.candidates
    assert response.usage_metadata.prompt_token_count > 0
    assert response.usage_metadata.candidates_token_count == 0


@pytest.mark.parametrize(
    ("reason", "number"),
    [
        ("SAFETY", 3), ("RECITATION", 4), ("OTHER", 5), ("BLOCKLIST", 6), ("PROHIBITED_CONTENT", 7), ("SPII", 8),
        ("MODEL_ARMOR", 10), ("17", 17),
    ],
)  # fmt: skip
def test_a_finish_reason_ends_the_answer(vertex, call, reason, number):
    vertex.configure(faults=[Fault(f"finish:{reason}")])
    (candidate,) = ask(call).candidates
    assert candidate.finish_reason == number
    assert not candidate.content.parts


def test_max_tokens_cuts_the_answer_off(vertex, call):
    vertex.configure(faults=[Fault("finish:MAX_TOKENS")])
    (candidate,) = ask(call).candidates
    assert candidate.finish_reason == 2
    assert ANSWER.startswith(candidate.content.parts[0].text)
    assert vertex.stats()["finishes"] == {"MAX_TOKENS": 1}


@pytest.mark.parametrize(("limit", "reason"), [(100, 2), (200, 1)])
def test_a_long_answer_fits_a_larger_limit(vertex, call, limit, reason):
    vertex.configure(faults=[Fault("long:150")])
    response = call(request("o1:stop", schema=TASK, max_output_tokens=limit))
    assert response.candidates[0].finish_reason == reason
    assert response.usage_metadata.candidates_token_count == min(limit, 150)


def test_an_empty_answer_has_no_candidate_or_no_parts(vertex, call):
    vertex.configure(faults=[Fault("empty", "*stop*"), Fault("no_text", "*limit*")])
    assert not ask(call, "o1:stop").candidates
    (candidate,) = ask(call, "o1:limit").candidates
    assert (candidate.finish_reason, len(candidate.content.parts)) == (1, 0)


def test_spoilt_json_is_spoilt(vertex, call):
    spoilt = {}
    for kind in ("malformed_json", "truncated_json", "fenced_json", "prose"):
        vertex.configure(faults=[Fault(kind)])
        spoilt[kind] = only_text(ask(call))
    for text in spoilt.values():
        with pytest.raises(ValueError, match=r".*"):
            json.loads(text)
    assert ANSWER.startswith(spoilt["truncated_json"])
    assert spoilt["fenced_json"] == f"```json\n{ANSWER}\n```"
    assert ANSWER in spoilt["prose"]


def test_a_wrong_label_is_in_no_list(vertex, call):
    vertex.configure(faults=[Fault("wrong_label")])
    answer = json.loads(only_text(ask(call, "o1:blurred")))
    assert answer["sign_type"] not in TASK["properties"]["sign_type"]["enum"]
    assert answer["problems"] == [answer["sign_type"]]


def test_an_answer_in_parts_is_the_same_answer(vertex, call):
    vertex.configure(faults=[Fault("split_parts")])
    response = ask(call)
    assert len(response.candidates[0].content.parts) == 3
    assert only_text(response) == ANSWER
    vertex.configure(faults=[Fault("thought_parts")])
    parts = ask(call).candidates[0].content.parts
    assert parts[0].thought
    assert "".join(part.text for part in parts if not part.thought) == ANSWER


def test_an_answer_without_usage_has_none(vertex, call):
    vertex.configure(faults=[Fault("no_usage")])
    response = ask(call)
    assert only_text(response) == ANSWER
    assert response.usage_metadata.total_token_count == 0


PACK = {
    "type": "array",
    "items": {
        "type": "object",
        "properties": {
            "image": {"type": "string", "enum": ["image_1", "image_2"]},
            "sign_type": {"type": "string", "enum": ["stop", "speed_limit", "none"]},
        },
        "propertyOrdering": ["image", "sign_type"],
    },
}


@pytest.mark.parametrize(
    ("kind", "keys"),
    [
        ("missing_key", ["image_1"]),
        ("doubled_key", ["image_1", "image_2", "image_2"]),
        ("unknown_key", ["image_1", "image_2_unknown"]),
    ],
)
def test_a_pack_loses_doubles_or_invents_the_images_key(vertex, call, kind, keys):
    vertex.configure(faults=[Fault(kind, "*limit*")])
    assert [entry["image"] for entry in json.loads(call.text(request("o1:stop", "o1:limit", schema=PACK)))] == keys


def test_one_bad_image_is_the_whole_packs(vertex, call):
    vertex.configure(faults=[Fault("blocked", "*limit*")])
    assert call(request("o1:stop", "o1:limit", schema=PACK)).prompt_feedback.block_reason
    vertex.configure(faults=[Fault("IMAGE_NOT_FOUND", "*limit*")])
    answer = call(request("o1:stop", "o1:limit", schema=PACK))
    assert answer.status == "NOT_FOUND"
    assert uri("o1:limit") in answer.message


def test_a_fault_strikes_only_matching_images_and_only_the_first_calls(vertex, call):
    vertex.configure(faults=[Fault("UNAVAILABLE", "gs://bucket/*/o1:st*", first=2)])
    assert not isinstance(ask(call, "o1:limit"), Refusal)
    outcomes = [isinstance(ask(call, "o1:stop"), Refusal) for _ in range(4)]
    assert outcomes == [True, True, False, False]


def test_a_hang_lasts_until_the_caller_gives_up_and_counts_as_paid(vertex, call):
    vertex.configure(faults=[Fault("hang")])
    future = call.future(request("o1:stop"))
    vertex.wait_for(in_flight=1)
    future.cancel()
    vertex.wait_for(ended=1)
    assert vertex.stats()["statuses"] == {"GONE": 1}
    assert vertex.stats()["paid_calls"] == 1
    (logged,) = vertex.log()
    assert (logged.uris, logged.status, logged.paid) == ((uri("o1:stop"),), "GONE", True)


def test_a_deadline_that_passes_counts_as_paid(vertex, call):
    vertex.configure(faults=[Fault("hang")])
    assert call(request("o1:stop"), timeout=0.05).status == "DEADLINE_EXCEEDED"
    vertex.wait_for(ended=1)
    assert vertex.stats()["paid_calls"] == 1


def test_a_slow_answer_takes_longer_than_its_neighbours(vertex, call):
    vertex.configure(faults=[Fault("slow:0.2", "*stop*")])
    slow, fast = call.future(request("o1:stop")), call.future(request("o1:limit"))
    fast.result()
    assert not slow.done()
    slow.result()
    assert vertex.log()[-1].secs >= 0.2


def test_a_reset_breaks_the_connection_under_its_neighbours_too(vertex, call):
    vertex.configure(faults=[Fault("hang", "*pole*"), Fault("reset", "*stop*", first=1)])
    neighbour = call.future(request("o1:pole"))
    vertex.wait_for(in_flight=1)
    assert call(request("o1:stop")).status == "UNAVAILABLE"
    assert neighbour.exception().code() is grpc.StatusCode.UNAVAILABLE
    assert call.comes_back(request("o1:stop"))


def test_a_run_fault_strikes_every_call_from_the_nth_on(vertex, call):
    vertex.configure(run_fault="SERVICE_DISABLED", run_fault_from_call=3)
    answers = [ask(call) for _ in range(4)]
    assert [isinstance(answer, Refusal) for answer in answers] == [False, False, True, True]
    assert answers[-1].reason == "SERVICE_DISABLED"
    vertex.configure(run_fault=None)
    assert not isinstance(ask(call), Refusal)


def test_rates_strike_their_share_of_calls_in_a_fixed_sequence(vertex, call):
    def statuses():
        vertex.reset(answers="fixed", rates={"UNAVAILABLE": 0.3, "INTERNAL": 0.1, "blocked": 0.1})
        futures = [call.future(request("o1:stop")) for _ in range(400)]
        kinds = [future.exception().code().name if future.exception() else "OK" for future in futures]
        assert vertex.stats()["faults"].keys() == {"UNAVAILABLE", "INTERNAL", "blocked"}
        return {kind: kinds.count(kind) for kind in set(kinds)}

    once = statuses()
    assert once == statuses()
    assert 80 < once["UNAVAILABLE"] < 160
    assert 20 < once["INTERNAL"] < 65


def test_noise_spoils_the_answers_that_a_hash_picks(vertex, call):
    settings = Settings(noise=0.5)
    vertex.configure(noise=0.5)
    names = ["o1:stop", "o1:limit", "o1:pole", "o1:cover", "o1:blurred"]
    right = {"o1:stop": "stop", "o1:limit": "speed_limit", "o1:pole": "none", "o1:cover": "none", "o1:blurred": "yield"}
    for name in names:
        said = json.loads(only_text(ask(call, name)))["sign_type"]
        assert (said != right[name]) == is_noisy(uri(name), "sign_type", settings)
        assert said in TASK["properties"]["sign_type"]["enum"]
    share = sum(is_noisy(f"gs://bucket/{number}", "q", settings) for number in range(2000)) / 2000
    assert 0.46 < share < 0.54


def test_every_kind_of_value_can_be_wrong(vertex, call):
    schema = {
        "type": "object",
        "properties": {
            "street_lamps": {"type": "integer", "maximum": 1},
            "pole_visible": {"type": "boolean"},
            "badge_text": {"type": "string"},
            "problems": {"type": "array", "items": {"type": "string", "enum": ["blurred", "dark"]}},
            "confidence": {"type": "number", "maximum": 1},
        },
    }
    right = json.loads(call.text(request("o1:pole", schema=schema)))
    vertex.configure(noise=1.0)
    wrong = json.loads(call.text(request("o1:pole", schema=schema)))
    assert right == {**right, "street_lamps": 1, "pole_visible": True, "badge_text": "K4721", "problems": []}
    assert all(right[name] != wrong[name] for name in right)
    assert wrong["confidence"] < 0.85 < right["confidence"]


@pytest.mark.parametrize(
    "settings",
    [
        {"latency": 1},
        {"answers": "made_up"},
        {"faults": [{"kind": "NO_SUCH"}]},
        {"faults": [{"kind": "finish"}]},
        {"faults": [{"kind": "hang:3"}]},
        {"faults": [{"kind": "slow:soon"}]},
        {"rates": {"UNAVAILABLE": 0.7, "INTERNAL": 0.7}},
        {"run_fault": "OUT_TO_LUNCH"},
        {"latency_secs": 2, "latency_p99_secs": 1},
    ],
)
def test_a_wrong_setting_changes_nothing(vertex, call, settings):
    with pytest.raises(ValueError, match=r"\w"):
        vertex.configure(**settings)
    assert not isinstance(call(request("o1:stop", model=model_path())), Refusal)


def test_an_unknown_block_or_finish_reason_is_a_mistake_of_the_test(vertex, call):
    vertex.configure(faults=[Fault("finish:NO_SUCH_REASON")])
    assert ask(call).status in {"UNKNOWN", "INTERNAL"}
