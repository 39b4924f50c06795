"""What follows from the questions: response schema, typed columns, planned tokens."""

from __future__ import annotations

import json

import pytest

from pipeline.task import Task, builtin_names

# google.cloud.aiplatform_v1 GenerationConfig.response_json_schema: the keywords that Vertex AI supports.
KEYWORDS = {
    "type", "format", "title", "description", "enum", "items", "prefixItems", "minItems", "maxItems", "minimum",
    "maximum", "anyOf", "oneOf", "properties", "additionalProperties", "required", "propertyOrdering",
}  # fmt: skip
TASK = Task.model_validate(
    {
        "name": "poles",
        "prompt": "Look.",
        "reasoning": True,
        "questions": {
            "zone": {"type": "label", "labels": {"city": "Built-up", "country": ""}, "description": "Where it is."},
            "defects": {"type": "labels", "labels": ["rust", "lean"]},
            "lit": {"type": "boolean", "optional": True},
            "lamps": {"type": "integer", "minimum": 0, "maximum": 9},
            "lean": {"type": "number", "minimum": -90},
            "badge": {"type": "string", "optional": True},
            "found": {"type": "boxes"},
        },
    }
)


def schemas(value):
    """Every schema within a schema."""
    if isinstance(value, dict):
        if "type" in value:
            yield value
        for name, child in value.items():
            if name == "properties":
                for each in child.values():
                    yield from schemas(each)
            elif name == "items":
                yield from schemas(child)


def test_the_schema_asks_for_everything_in_order_with_the_reasoning_first():
    schema = TASK.response_schema
    names = ["reasoning", "zone", "defects", "lit", "lamps", "lean", "badge", "found"]
    assert schema["propertyOrdering"] == schema["required"] == list(schema["properties"]) == names
    assert schema["properties"]["zone"] == {
        "type": "string",
        "enum": ["city", "country"],
        "description": "Where it is. city: Built-up.",
    }
    assert schema["properties"]["lit"] == {"type": ["boolean", "null"]}
    assert schema["properties"]["lamps"] == {"type": "integer", "minimum": 0, "maximum": 9}
    assert schema["properties"]["lean"] == {"type": "number", "minimum": -90}
    assert schema["properties"]["found"]["items"]["properties"]["box_2d"]["maxItems"] == 4


@pytest.mark.parametrize("task", [TASK, *map(Task.load, builtin_names())], ids=lambda task: task.name)
def test_schemas_use_only_what_vertex_ai_supports_and_order_every_object(task):
    for whole in (task.response_schema, task.pack_schema(("image_1", "image_2"))):
        for schema in schemas(whole):
            assert set(schema) <= KEYWORDS
            if schema["type"] == "object":
                assert schema["propertyOrdering"] == list(schema["properties"])
        json.dumps(whole)


def test_a_free_text_task_has_no_schema_and_no_columns():
    task = Task.load("describe")
    assert task.response_schema is None
    assert task.view_columns() == []


def test_several_images_are_answered_by_an_array_keyed_by_image():
    keys = ("image_1", "image_2", "image_3")
    schema = TASK.pack_schema(keys)
    assert (schema["type"], schema["minItems"], schema["maxItems"]) == ("array", 3, 3)
    assert schema["items"]["propertyOrdering"][:2] == ["image", "reasoning"]
    assert schema["items"]["properties"]["image"]["enum"] == list(keys)
    free = Task.load("describe").pack_schema(keys)
    assert free["items"]["propertyOrdering"] == ["image", "text"]


def test_every_question_has_a_typed_column():
    types = {name: kind for name, kind, _ in TASK.view_columns()}
    assert types == {
        "reasoning": "STRING",
        "zone": "STRING",
        "defects": "ARRAY<STRING>",
        "lit": "BOOL",
        "lamps": "INT64",
        "lean": "FLOAT64",
        "badge": "STRING",
        "found": "JSON",
    }


def test_the_columns_read_an_answer_in_bigquery(bigquery):
    """The expressions, run by the BigQuery emulator over an answer that the parser made."""
    from google.auth.credentials import AnonymousCredentials
    from google.cloud import bigquery as google_bigquery

    answer = TASK.parse(
        json.dumps(
            {
                "reasoning": 'It\'s "tall".',
                "zone": "city",
                "defects": ["lean", "rust"],
                "lit": None,
                "lamps": 2,
                "lean": 1.5,
                "badge": "A-17",
                "found": [],
            }
        )
    ).answer_json
    columns = ", ".join(f"{expression} AS {name}" for name, _, expression in TASK.view_columns())
    client = google_bigquery.Client(
        project=bigquery.project,
        credentials=AnonymousCredentials(),
        client_options={"api_endpoint": bigquery.rest},
    )
    config = google_bigquery.QueryJobConfig(
        query_parameters=[google_bigquery.ScalarQueryParameter("answer", "STRING", answer)]
    )
    [row] = client.query_and_wait(f"SELECT {columns} FROM (SELECT PARSE_JSON(@answer) AS answer)", job_config=config)
    client.close()
    found = dict(row.items())
    if isinstance(found["found"], str):  # the emulator gives a JSON column as text
        found["found"] = json.loads(found["found"])
    assert found == {
        "reasoning": 'It\'s "tall".',
        "zone": "city",
        "defects": ["rust", "lean"],
        "lit": None,
        "lamps": 2,
        "lean": 1.5,
        "badge": "A-17",
        "found": [],
    }


def test_more_to_answer_is_planned_with_more_tokens():
    assert Task.load("describe").planned_answer_tokens() == 220
    assert 20 < Task.load("image_quality").planned_answer_tokens() < TASK.planned_answer_tokens() < 400
