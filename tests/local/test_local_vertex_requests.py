"""The stand-in refuses what Vertex AI refuses, with its status, and answers the rest."""

import json

import pytest
from stand_in_calls import Refusal, model_path, request, uri

from pipeline.gemini.models import known, settings_for
from pipeline.gemini.request import RequestBuilder, image_keys, request_class
from pipeline.rows import Observation
from pipeline.task import Task

LABEL = {"type": "object", "properties": {"sign_type": {"type": "string", "enum": ["stop", "yield", "none"]}}}


def refused(answer, status, *words):
    assert isinstance(answer, Refusal), answer
    assert answer.status == status, answer
    for word in words:
        assert word in answer.message
    return answer


def test_a_free_question_is_answered_from_the_pixels(vertex, call):
    text = call.text(request("o1:stop"))
    assert "red octagon stop sign" in text
    assert '"STOP"' in text


def test_the_answer_says_that_it_is_a_stand_ins(vertex, call):
    response = call(request("o1:stop"))
    assert response.model_version == "stand-in-of-gemini-3.5-flash-lite"
    assert response.candidates[0].finish_reason == 1
    usage = response.usage_metadata
    assert usage.total_token_count == (
        usage.prompt_token_count + usage.candidates_token_count + usage.thoughts_token_count
    )
    assert usage.traffic_type == 1


@pytest.mark.parametrize(
    ("path", "status", "words"),
    [
        ("gemini-3.5-flash-lite", "INVALID_ARGUMENT", ["model"]),
        (model_path("gemini-0.1-flash"), "NOT_FOUND", ["Publisher Model", "gemini-0.1-flash"]),
        (model_path(location="mars-north1"), "INVALID_ARGUMENT", ["region"]),
        (model_path(project="UPPER"), "PERMISSION_DENIED", ["aiplatform.endpoints.predict"]),
        ("projects/demo-project/locations/us-central1/endpoints/my-name", "NOT_FOUND", ["Endpoint"]),
    ],
)
def test_an_unknown_model_path_is_refused(vertex, call, path, status, words):
    refused(call(request("o1:stop", model=path)), status, *words)


def test_a_tuned_endpoint_is_a_model(vertex, call):
    path = "projects/demo-project/locations/us-central1/endpoints/1234567890"
    assert call(request("o1:stop", model=path)).model_version == "stand-in-of-endpoint-1234567890"


def test_only_the_named_project_and_locations_exist(vertex, call):
    vertex.configure(project="other-project", locations=["eu"], extra_models=["gemini-9-flash"])
    answer = refused(call(request("o1:stop", model=model_path(location="eu"))), "PERMISSION_DENIED")
    assert answer.reason == "IAM_PERMISSION_DENIED"
    refused(call(request("o1:stop", model=model_path(project="other-project"))), "INVALID_ARGUMENT")
    good = model_path("gemini-9-flash", project="other-project", location="eu")
    assert not isinstance(call(request("o1:stop", model=good)), Refusal)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"x-goog-request-params": ""},
        {"x-goog-request-params": "endpoint=projects%2Fdemo-project"},
        {"x-goog-request-params": f"model={model_path('gemini-2.5-flash')}"},
    ],
)
def test_a_missing_or_wrong_routing_header_is_refused(vertex, call, headers):
    refused(call(request("o1:stop"), headers), "INVALID_ARGUMENT", "x-goog-request-params")


def test_the_routing_header_of_googles_own_client_will_do(vertex, call):
    assert not isinstance(call(request("o1:stop"), {"x-goog-request-params": f"model={model_path()}"}), Refusal)


def test_bytes_that_are_no_request_are_refused(vertex, call):
    future = call.method.future(b"\xff\xff\xff", metadata=(("x-goog-request-params", "model=x"),))
    assert future.exception().code().name == "INTERNAL"


def _edit(change):
    made = request("o1:stop")
    change(made)
    return made


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda r: r.ClearField("contents"), ["contents"]),
        (lambda r: r.contents.add(role="user"), ["parts"]),
        (lambda r: setattr(r.contents[0], "role", "system"), ["valid role"]),
        (lambda r: r.contents.add(role="model").parts.add(text="hm"), ["end with a user role"]),
        (lambda r: r.contents[0].parts.pop(), ["must have a text parameter"]),
        (lambda r: setattr(r.contents[0].parts[0].file_data, "mime_type", ""), ["empty mimeType", "fileData"]),
        (lambda r: setattr(r.contents[0].parts[0].file_data, "mime_type", "text/plain"), ["text/plain"]),
        (lambda r: setattr(r.contents[0].parts[0].file_data, "file_uri", "https://x.org/a.jpg"), ["Cannot fetch"]),
        (lambda r: setattr(r.contents[0].parts[0].file_data, "file_uri", "gs://bucket"), ["Cannot fetch"]),
        (lambda r: setattr(r.generation_config, "temperature", 2.5), ["temperature value of 2.5"]),
        (lambda r: setattr(r.generation_config, "max_output_tokens", 65537), ["maxOutputTokens"]),
        (lambda r: setattr(r.generation_config, "presence_penalty", 0.5), ["presence_penalty"]),
        (lambda r: setattr(r.generation_config, "response_mime_type", "text/html"), ["response MIME type"]),
        (lambda r: setattr(r.generation_config, "response_mime_type", "text/x.enum"), ["enum"]),
        (lambda r: r.labels.update({"Run": "1"}), ["label"]),
        (lambda r: r.labels.update({"run": "A B"}), ["label"]),
    ],
)
def test_a_request_that_cannot_be_served_is_refused(vertex, call, change, words):
    refused(call(_edit(change)), "INVALID_ARGUMENT", *words)


def test_too_many_images_are_refused(vertex, call):
    refused(call(request(*["o1:stop"] * 3001)), "INVALID_ARGUMENT", "3001")


def test_a_prompt_longer_than_the_context_is_refused(vertex, call):
    refused(call(request("o1:stop", text="x" * 4_200_000)), "INVALID_ARGUMENT", "exceeds the maximum number of tokens")


@pytest.mark.parametrize(
    ("name", "status"),
    [
        ("o1:nothing", "NOT_FOUND"),
        ("gs://another-bucket/o1:stop.jpg", "NOT_FOUND"),
        ("gs://bucket/../bucket/2026/v0/o1:stop.jpg", "NOT_FOUND"),
        ("gs://bucket/2026/v0", "NOT_FOUND"),
        ("o1:html", "INVALID_ARGUMENT"),
        ("o1:empty", "INVALID_ARGUMENT"),
        ("o1:cut", "INVALID_ARGUMENT"),
    ],
)
def test_an_object_that_is_missing_or_no_image_is_refused(vertex, call, name, status):
    refused(call(request(name)), status)


def test_an_inline_image_is_looked_at_too(vertex, call, bucket_root):
    made = request(text="What is this?")
    part = made.contents[0].parts.add()
    part.inline_data.mime_type = "image/jpeg"
    part.inline_data.data = (bucket_root / "bucket/2026/v0/o1:pole.jpg").read_bytes()
    assert "2 transformers" in call.text(made)
    part.inline_data.data = b"\xff" * 7_000_001
    refused(call(made), "INVALID_ARGUMENT", "7000001")


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"type": "thing"}, ["schema needs one type"]),
        ({"properties": {"a": {}}}, ["schema.properties[a]"]),
        ({"type": "object"}, ["non-empty properties"]),
        ({"type": "array"}, ["has no items"]),
        ({"type": "object", "properties": {"a": {"type": "string"}}, "required": ["b"]}, ["requires", "b"]),
        ({"type": "string", "enum": []}, ["enum"]),
        ({"type": "string", "enum": ["a", "a"]}, ["doubled"]),
        ({"type": "string", "enum": [1]}, ["enum of other values"]),
        ({"type": "string", "maxLength": 3}, ["unsupported keywords: maxLength"]),
        ({"type": "integer", "minimum": 3, "maximum": 1}, ["minimum 3 above its maximum 1"]),
        ({"type": "object", "properties": {"a": {"type": "string"}}, "propertyOrdering": ["a", "b"]}, ["ordering"]),
        ({"$ref": "#/$defs/a"}, ["not defined"]),
        ({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}}, ["refers to itself"]),
        ({"anyOf": []}, ["empty anyOf"]),
    ],
)
def test_an_invalid_schema_is_refused_with_its_place(vertex, call, schema, words):
    refused(call(request("o1:stop", schema=schema)), "INVALID_ARGUMENT", "The specified schema is not valid", *words)


def test_two_schemas_or_a_schema_without_json_are_refused(vertex, call):
    made = request("o1:stop", schema=LABEL)
    made.generation_config.response_mime_type = "text/plain"
    refused(call(made), "INVALID_ARGUMENT", "response_mime_type")
    made.generation_config.response_mime_type = "application/json"
    made.generation_config.response_schema.type_ = 1
    refused(call(made), "INVALID_ARGUMENT", "Only one of")


def test_an_openapi_schema_gets_the_same_answer(vertex, call):
    made = request("o1:stop")
    config = made.generation_config
    config.response_mime_type = "application/json"
    config.response_schema.type_ = 6
    refused(call(made), "INVALID_ARGUMENT", "non-empty properties")
    for name, kind in (("sign_type", 1), ("legible_text", 1)):
        config.response_schema.properties[name].type_ = kind
    config.response_schema.properties["sign_type"].enum.extend(["yield", "stop"])
    config.response_schema.property_ordering.extend(["sign_type", "legible_text"])
    assert call.text(made) == '{"sign_type": "stop", "legible_text": "STOP"}'
    config.response_schema.properties["legible_text"].type_ = 0
    refused(call(made), "INVALID_ARGUMENT", "didn't specify the schema type field")


def test_an_enum_answer_is_the_bare_label(vertex, call):
    made = request("o1:stop", text="Which sign?", schema={"type": "string", "enum": ["yield", "stop"]})
    made.generation_config.response_mime_type = "text/x.enum"
    assert call.text(made) == "stop"


def test_properties_come_in_the_asked_order_and_else_in_the_alphabets(vertex, call):
    schema = {
        "type": "object",
        "properties": {"zone": {"type": "string"}, "reasoning": {"type": "string"}, "damaged": {"type": "boolean"}},
    }
    assert list(json.loads(call.text(request("o1:stop", schema=schema)))) == ["damaged", "reasoning", "zone"]
    schema["propertyOrdering"] = ["reasoning", "zone", "damaged"]
    assert list(json.loads(call.text(request("o1:stop", schema=schema)))) == ["reasoning", "zone", "damaged"]


def test_every_kind_of_value_is_within_its_schema(vertex, call):
    box = {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 1000}, "minItems": 4, "maxItems": 4}
    schema = {
        "type": "object",
        "properties": {
            "confidence": {"type": "number", "minimum": 0, "maximum": 1},
            "grade": {"type": "integer", "minimum": 3, "maximum": 5},
            "level": {"enum": [1, 2, 3], "type": "integer"},
            "maybe": {"type": ["integer", "null"]},
            "either": {"anyOf": [{"type": "null"}, {"type": "string"}]},
            "sign_visible": {"type": "boolean"},
            "pole_visible": {"type": "boolean"},
            "speed": {"type": "integer"},
            "colour": {"type": "string"},
            "found": {
                "type": "array",
                "items": {
                    "type": "object",
                    "properties": {"label": {"type": "string"}, "box_2d": box},
                    "propertyOrdering": ["label", "box_2d"],
                },
            },
        },
    }
    answer = json.loads(call.text(request("o1:limit", schema=schema)))
    assert 0.9 <= answer["confidence"] <= 1
    assert answer["grade"] in (3, 4, 5)
    assert answer["level"] in (1, 2, 3)
    assert answer["maybe"] is None
    assert answer["sign_visible"] is True
    assert answer["pole_visible"] is False
    assert answer["speed"] == 35
    assert answer["colour"] == "white"
    (found,) = answer["found"]
    assert found["label"] == "road sign"
    top, left, bottom, right = found["box_2d"]
    assert 0 <= top < bottom <= 1000
    assert 0 <= left < right <= 1000


def test_the_same_request_gets_the_same_answer(vertex, call):
    made = request("o1:cover", schema={"type": "object", "properties": {"whatever": {"type": "integer"}}})
    assert call.text(made) == call.text(made)


@pytest.mark.parametrize(
    ("model", "resolution", "tokens"),
    [
        ("gemini-3.5-flash-lite", 0, 1120),
        ("gemini-3.5-flash-lite", 1, 280),
        ("gemini-3.5-flash-lite", 2, 560),
        ("gemini-3.5-flash-lite", 3, 1120),
        ("gemini-2.5-flash", 1, 64),
        ("gemini-2.5-flash", 2, 256),
    ],
)
def test_an_image_costs_what_its_resolution_says(vertex, call, model, resolution, tokens):
    made = request("o1:stop", "o1:pole", model=model_path(model), media_resolution=resolution)
    details = call(made).usage_metadata.prompt_tokens_details
    assert {detail.modality: detail.token_count for detail in details}[2] == 2 * tokens


def test_ultra_high_is_for_a_part_alone(vertex, call):
    made = request("o1:stop")
    made.contents[0].parts[0].media_resolution.level = 4
    details = call(made).usage_metadata.prompt_tokens_details
    assert {detail.modality: detail.token_count for detail in details}[2] == 2240
    refused(call(request("o1:stop", media_resolution=4)), "INVALID_ARGUMENT", "media resolution")


def test_thinking_is_what_the_model_takes(vertex, call):
    def thinking(model, **config):
        made = request("o1:stop", model=model_path(model))
        for name, value in config.items():
            setattr(made.generation_config.thinking_config, name, value)
        return call(made)

    words = ["Thinking level MINIMAL is not supported for this model."]
    refused(thinking("gemini-3.8-flash", thinking_level=4), "INVALID_ARGUMENT", *words)
    refused(thinking("gemini-2.5-flash", thinking_level=1), "INVALID_ARGUMENT", "Thinking level is not supported")
    both = {"thinking_level": 1, "thinking_budget": 5}
    refused(thinking("gemini-3.5-flash", **both), "INVALID_ARGUMENT", "only one of")
    refused(thinking("gemini-2.5-flash", thinking_budget=30_000), "INVALID_ARGUMENT", "budget")
    assert thinking("gemini-3.5-flash-lite").usage_metadata.thoughts_token_count == 0
    low, high = (thinking("gemini-3.8-flash", thinking_level=level) for level in (1, 3))
    assert 0 < low.usage_metadata.thoughts_token_count < high.usage_metadata.thoughts_token_count
    assert thinking("gemini-2.5-flash", thinking_budget=0).usage_metadata.thoughts_token_count == 0


def test_it_knows_the_models_that_the_price_table_knows(vertex, call):
    for model in known():
        assert not isinstance(call(request("o1:stop", model=model_path(model))), Refusal), model


def test_a_tight_limit_cuts_the_answer_off(vertex, call):
    whole = call.text(request("o1:pole"))
    response = call(request("o1:pole", max_output_tokens=10))
    assert response.candidates[0].finish_reason == 2
    assert response.usage_metadata.candidates_token_count == 10
    assert whole.startswith(response.candidates[0].content.parts[0].text)
    enough = call(request("o1:pole", max_output_tokens=len(whole)))
    assert enough.candidates[0].finish_reason == 1


@pytest.mark.parametrize(
    ("tier", "location", "traffic_type"), [("flex", "global", 4), ("priority", "us", 3), ("standard", "us", 1)]
)
def test_the_service_tier_is_reported(vertex, call, tier, location, traffic_type):
    path = model_path(location=location)
    headers = {"x-goog-request-params": f"model={path}", "x-vertex-ai-llm-shared-request-type": tier}
    assert call(request("o1:stop", model=path), headers).usage_metadata.traffic_type == traffic_type


def test_flex_is_served_at_the_global_endpoint_only(vertex, call):
    headers = {"x-goog-request-params": f"model={model_path()}", "x-vertex-ai-llm-shared-request-type": "flex"}
    refused(call(request("o1:stop"), headers), "INVALID_ARGUMENT", "global endpoint")


def _builder(task):
    return RequestBuilder(task, settings_for(task), model_path(), {})


def test_a_pack_is_answered_by_key(vertex, call):
    task = Task.load("road_signs")
    names = ["o1:stop", "o1:pole", "o1:limit"]
    rows = [Observation(key=name, gcs_uri=uri(name)) for name in names]
    text = call.text(request_class().FromString(_builder(task).build(rows)))
    parts = task.parse_pack(text, image_keys(3))
    assert [parts[key].answer.label for key in image_keys(3)] == ["stop", "none", "speed_limit"]


def test_a_free_pack_is_described_by_key(vertex, call):
    task = Task.load("describe")
    rows = [Observation(key=name, gcs_uri=uri(name)) for name in ("o1:stop", "o1:pole")]
    text = call.text(request_class().FromString(_builder(task).build(rows)))
    parts = task.parse_pack(text, image_keys(2))
    assert "stop sign" in parts["image_1"].text
    assert "utility pole" in parts["image_2"].text


def test_several_images_with_one_answer_are_answered_from_the_clearest(vertex, call):
    text = call.text(request("o1:blurred", "o1:stop", text="What does this sign say?", schema=LABEL))
    assert json.loads(text) == {"sign_type": "stop"}


def test_examples_are_read_but_not_asked_about(vertex, call):
    made = request("o1:stop", schema=LABEL)
    made.contents.add(role="model").parts.add().text = '{"sign_type": "stop"}'
    made.contents.add().CopyFrom(request("o1:pole").contents[0])
    assert json.loads(call.text(made)) == {"sign_type": "none"}
    assert vertex.calls_by_uri() == {uri("o1:pole"): 1}
    made.contents[0].parts[0].file_data.file_uri = uri("o1:gone")
    refused(call(made), "NOT_FOUND", "o1:gone")
