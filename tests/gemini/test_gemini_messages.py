"""Requests as they travel, and responses of every kind."""

from __future__ import annotations

import json

import pytest
from google.protobuf import json_format

from pipeline.gemini.models import settings_for
from pipeline.gemini.request import METHOD, RequestBuilder, image_keys, request_class, request_labels, response_class
from pipeline.gemini.response import BLOCK_REASONS, FINISH_REASONS, TRAFFIC_TYPES, Outcome, read
from pipeline.rows import Observation
from pipeline.task import Settings, Task

RESOURCE = "projects/p/locations/us/publishers/google/models/gemini-3.5-flash-lite"
SIGNS = Task.load("road_signs")
ROW = Observation("k1", "gs://b/t1:abc.JPG", {"asset_type": "SIGN"})
OTHER = Observation("k2", "gs://b/x.png", {"asset_type": "POLE"})


def build(task, rows=(ROW,), settings=None, labels=None, **more):
    builder = RequestBuilder(task, settings or settings_for(task), RESOURCE, labels or {})
    return request_class().FromString(builder.build(rows, **more))


def test_the_method_and_the_tag_are_those_of_the_installed_client():
    descriptor = request_class().DESCRIPTOR
    assert METHOD == "/google.cloud.aiplatform.v1.PredictionService/GenerateContent"
    assert descriptor.full_name == "google.cloud.aiplatform.v1.GenerateContentRequest"
    field = descriptor.fields_by_name["contents"]
    assert (field.number << 3 | 2) == 0x12


def test_one_image_comes_before_the_prompt():
    request = build(SIGNS)
    assert request.model == RESOURCE
    [turn] = request.contents
    assert turn.role == "user"
    image, prompt = turn.parts
    assert image.file_data.file_uri == "gs://b/t1:abc.JPG"
    assert image.file_data.mime_type == "image/jpeg"
    assert prompt.text == SIGNS.prompt
    assert request.system_instruction.parts[0].text == SIGNS.system_instruction


def test_the_schema_travels_whole_with_its_order():
    config = build(SIGNS).generation_config
    assert config.response_mime_type == "application/json"
    assert json_format.MessageToDict(config.response_json_schema) == json.loads(json.dumps(SIGNS.response_schema))
    assert not config.HasField("response_schema")


def test_a_free_text_task_asks_for_text():
    config = build(Task.load("describe")).generation_config
    assert config.response_mime_type == ""
    assert not config.HasField("response_json_schema")


def test_a_tuned_endpoint_is_asked_as_it_was_tuned_without_a_schema():
    config = build(SIGNS, settings=Settings(model="7", response_schema=False)).generation_config
    assert config.response_mime_type == ""
    assert not config.HasField("response_json_schema")


def test_only_settings_that_were_made_are_sent():
    config = build(SIGNS, settings=Settings(model="m", media_resolution="low")).generation_config
    assert config.max_output_tokens == 2048
    assert config.MediaResolution.Name(config.media_resolution) == "MEDIA_RESOLUTION_LOW"
    for name in ("temperature", "top_p", "top_k", "seed", "presence_penalty", "frequency_penalty", "thinking_config"):
        assert not config.HasField(name), name


def test_every_setting_is_sent():
    settings = Settings(
        model="m",
        media_resolution="high",
        max_output_tokens=99,
        temperature=0.0,
        top_p=0.5,
        top_k=3,
        seed=7,
        presence_penalty=0.25,
        frequency_penalty=-0.25,
        thinking_level="minimal",
    )
    config = build(SIGNS, settings=settings).generation_config
    sent = json_format.MessageToDict(config, preserving_proto_field_name=True)
    del sent["response_json_schema"]
    assert sent == {
        "media_resolution": "MEDIA_RESOLUTION_HIGH",
        "max_output_tokens": 99,
        "temperature": 0.0,
        "top_p": 0.5,
        "top_k": 3.0,
        "seed": 7,
        "presence_penalty": 0.25,
        "frequency_penalty": -0.25,
        "thinking_config": {"thinking_level": "MINIMAL"},
        "response_mime_type": "application/json",
    }
    off = build(SIGNS, settings=Settings(model="m", thinking_budget=0)).generation_config.thinking_config
    assert off.HasField("thinking_budget")
    assert off.thinking_budget == 0


def test_ultra_high_is_said_of_the_image_since_a_request_cannot_say_it():
    request = build(SIGNS, settings=Settings(model="m", media_resolution="ultra_high"))
    level = request.contents[0].parts[0].media_resolution
    assert level.Level.Name(level.level) == "MEDIA_RESOLUTION_ULTRA_HIGH"
    assert not request.generation_config.HasField("media_resolution")


def test_the_rows_own_values_stand_in_the_prompt():
    task = SIGNS.with_prompt("Is this {asset_type} a sign?")
    builder = RequestBuilder(task, settings_for(task), RESOURCE, {})
    texts = [builder.message(builder.build([row])).contents[0].parts[1].text for row in (ROW, OTHER)]
    assert texts == ["Is this SIGN a sign?", "Is this POLE a sign?"]


def test_examples_come_first_as_turns_of_user_and_model():
    task = Task.model_validate(
        {
            "name": "a",
            "prompt": "Which {asset_type}?",
            "questions": {"lit": {"type": "boolean"}},
            "examples": [{"image": "gs://b/e.webp", "answer": {"lit": True}, "columns": {"asset_type": "LAMP"}}],
        }
    )
    request = build(task)
    assert [turn.role for turn in request.contents] == ["user", "model", "user"]
    assert request.contents[0].parts[0].file_data.mime_type == "image/webp"
    assert request.contents[0].parts[1].text == "Which LAMP?"
    assert request.contents[1].parts[0].text == '{"lit":true}'
    assert request.contents[2].parts[1].text == "Which SIGN?"


def test_a_correction_is_said_after_the_prompt_in_the_same_turn():
    request = build(SIGNS, correction="Not that.", max_output_tokens=4096)
    [turn] = request.contents
    assert [part.text for part in turn.parts][1:] == [SIGNS.prompt, "Not that."]
    assert request.generation_config.max_output_tokens == 4096


def test_several_images_are_named_before_each_and_asked_about_after_all():
    task = SIGNS.with_prompt("Is this {asset_type} a sign?")
    request = build(task, rows=(ROW, OTHER))
    [turn] = request.contents
    kinds = [part.WhichOneof("data") for part in turn.parts]
    assert kinds == ["text", "file_data", "text", "file_data", "text"]
    assert turn.parts[0].text == "image_1 (asset_type: SIGN):"
    assert turn.parts[2].text == "image_2 (asset_type: POLE):"
    assert turn.parts[3].file_data.file_uri == "gs://b/x.png"
    assert turn.parts[4].text.startswith("Is this [asset_type of the image] a sign?")
    schema = json_format.MessageToDict(request.generation_config.response_json_schema)
    assert schema["items"]["properties"]["image"]["enum"] == list(image_keys(2))
    assert request.generation_config.max_output_tokens == 2 * 1024


def test_the_limit_of_many_images_stays_within_the_models():
    rows = tuple(Observation(str(number), f"gs://b/{number}.jpg", {}) for number in range(100))
    assert build(SIGNS, rows=rows).generation_config.max_output_tokens == 65_536


def test_an_image_can_be_sent_inline():
    request = build(SIGNS, inline=[[("image/png", b"bytes")]])
    assert request.contents[0].parts[0].inline_data.data == b"bytes"
    assert request.contents[0].parts[0].inline_data.mime_type == "image/png"


def test_long_requests_are_framed_right():
    for length in (1, 127, 128, 300, 16_383, 16_384, 100_000):
        task = SIGNS.with_prompt("x" * length)
        assert build(task).contents[0].parts[1].text == "x" * length


def test_calls_carry_billing_labels_that_google_takes():
    labels = request_labels("20261123_101500_Kfp", "road_signs")
    assert labels == {"run": "20261123_101500_kfp", "task": "road_signs"}
    assert request_labels("a" * 80, "ä.b")["run"] == "a" * 63
    assert request_labels("a", "ä.b")["task"] == "__b"
    assert dict(build(SIGNS, labels=labels).labels) == labels


# --- responses -------------------------------------------------------------------------------------------------------


def response(*parts, finish_reason=1, block_reason=None, finish_message="", **usage):
    message = response_class()(model_version="v1")
    if parts or finish_reason is not None:
        candidate = message.candidates.add(finish_reason=finish_reason or 0, finish_message=finish_message)
        for part in parts:
            text, thought = part if isinstance(part, tuple) else (part, False)
            candidate.content.parts.add(text=text, thought=thought)
    if block_reason is not None:
        message.prompt_feedback.block_reason = block_reason
        message.prompt_feedback.block_reason_message = "because"
    for name, value in usage.items():
        setattr(message.usage_metadata, name, value)
    return message


def test_the_names_of_reasons_are_those_of_the_installed_client():
    fields = response_class().DESCRIPTOR.fields_by_name
    finish = fields["candidates"].message_type.fields_by_name["finish_reason"].enum_type
    block = fields["prompt_feedback"].message_type.fields_by_name["block_reason"].enum_type
    traffic = fields["usage_metadata"].message_type.fields_by_name["traffic_type"].enum_type
    assert {value.number: value.name for value in finish.values} == FINISH_REASONS
    assert {value.number: value.name for value in block.values} == BLOCK_REASONS
    assert {value.number: value.name for value in traffic.values if value.number} == TRAFFIC_TYPES


def test_an_answer_is_read_with_its_tokens():
    reply = read(
        response(
            "a stop sign",
            prompt_token_count=700,
            candidates_token_count=30,
            thoughts_token_count=11,
            total_token_count=741,
            traffic_type=4,
        )
    )
    assert (reply.outcome, reply.text, reply.finish_reason) == (Outcome.ANSWERED, "a stop sign", "STOP")
    assert (reply.prompt_tokens, reply.output_tokens, reply.thoughts_tokens, reply.total_tokens) == (700, 30, 11, 741)
    assert (reply.traffic_type, reply.model_version) == ("ON_DEMAND_FLEX", "v1")


def test_several_parts_are_one_text_and_thoughts_are_left_out():
    assert read(response("a ", ("hm", True), "stop ", "sign")).text == "a stop sign"
    assert read(response(("hm", True))).outcome is Outcome.EMPTY


@pytest.mark.parametrize("number", [number for number in FINISH_REASONS if number > 2] + [11, 37, 1000])
@pytest.mark.parametrize("parts", [(), ("half an ans",)])
def test_every_other_finish_reason_is_final_whatever_its_number(number, parts):
    reply = read(response(*parts, finish_reason=number, finish_message="said"))
    assert reply.outcome is Outcome.BLOCKED
    assert reply.finish_reason == FINISH_REASONS.get(number, f"FINISH_REASON_{number}")
    assert reply.detail == "said"
    assert reply.text == "".join(parts)


@pytest.mark.parametrize("number", [*BLOCK_REASONS, 7, 99])
def test_a_blocked_prompt_is_final_whatever_its_number(number):
    reply = read(response(finish_reason=None, block_reason=number))
    assert reply.outcome is Outcome.BLOCKED
    name = BLOCK_REASONS.get(number, f"REASON_{number}").removeprefix("BLOCKED_REASON_")
    assert (reply.finish_reason, reply.detail) == (f"BLOCKED_{name}", "because")


def test_a_block_reason_beside_an_answer_does_not_unmake_it():
    assert read(response("fine", block_reason=0)).outcome is Outcome.ANSWERED


@pytest.mark.parametrize(
    ("message", "outcome", "reason"),
    [
        (response(finish_reason=None), Outcome.EMPTY, "NO_CANDIDATES"),
        (response(), Outcome.EMPTY, "STOP"),
        (response(""), Outcome.EMPTY, "STOP"),
        (response(" \n"), Outcome.EMPTY, "STOP"),
        (response(finish_reason=0), Outcome.EMPTY, "FINISH_REASON_UNSPECIFIED"),
        (response("text", finish_reason=0), Outcome.ANSWERED, "FINISH_REASON_UNSPECIFIED"),
        (response(finish_reason=2), Outcome.CUT_OFF, "MAX_TOKENS"),
        (response("half", finish_reason=2), Outcome.CUT_OFF, "MAX_TOKENS"),
    ],
)
def test_what_is_no_answer_says_so(message, outcome, reason):
    reply = read(message)
    assert (reply.outcome, reply.finish_reason) == (outcome, reason)


def test_tokens_that_the_service_left_out_of_the_total_are_in_it():
    reply = read(
        response("a", prompt_token_count=5, candidates_token_count=3, thoughts_token_count=2, total_token_count=8)
    )
    assert reply.total_tokens == 10
    assert read(response("a", prompt_token_count=5, total_token_count=9)).total_tokens == 9


def test_an_unknown_tier_keeps_its_number_and_none_is_none():
    assert read(response("a", traffic_type=9)).traffic_type == "TRAFFIC_TYPE_9"
    assert read(response("a")).traffic_type is None
