"""`classify` as a user runs it: rows in, answers out, every row in one place, and a summary that adds up."""

import json
import re

import grpc
from google.cloud.aiplatform_v1 import PredictionServiceClient
from google.cloud.aiplatform_v1.services.prediction_service.transports import PredictionServiceGrpcTransport

from pipeline.task import Task

SUMMARY = re.compile(
    r"rows [\d,]+ = answered [\d,]+ \+ failed [\d,]+ \(already answered [\d,]+(, over budget [\d,]+)?\) \| run \w+"
)


def _plain_loop(vertex, rows, task):
    """What the tutorial does, with Google's own client: one row after the other."""
    channel = grpc.insecure_channel(vertex.endpoint)
    client = PredictionServiceClient(transport=PredictionServiceGrpcTransport(channel=channel))
    model = "projects/demo-project/locations/us/publishers/google/models/gemini-3.5-flash-lite"
    for row in rows:
        image = {"file_data": {"file_uri": row["gcs_uri"], "mime_type": "image/jpeg"}}
        response = client.generate_content(
            {
                "model": model,
                "contents": [{"role": "user", "parts": [image, {"text": task.prompt_for(row)}]}],
                "generation_config": {
                    "response_mime_type": "application/json",
                    "response_json_schema": task.response_schema,
                    "media_resolution": "MEDIA_RESOLUTION_LOW",
                },
            }
        )
        yield row["observation_id"], json.loads(response.candidates[0].content.parts[0].text)
    channel.close()


def test_the_graph_gives_what_a_plain_loop_gives(sampled, pictures):
    task = Task.load("road_signs")
    expected = dict(_plain_loop(sampled.vertex, [sample.row for sample in pictures[1]], task))
    done = sampled.classify("--task=road_signs")
    assert done.code == 0, done.err
    rows = sampled.query("SELECT key, answer, label FROM `{answers}`")
    got = {row["key"]: row["answer"] if isinstance(row["answer"], dict) else json.loads(row["answer"]) for row in rows}
    assert got == expected
    assert {row["label"] for row in rows} == {answer["sign_type"] for answer in expected.values()}


def test_the_last_line_of_stdout_is_the_summary_and_the_runs_table_has_start_and_end(sampled):
    done = sampled.classify()
    assert SUMMARY.fullmatch(done.summary), done.out
    assert done.summary.startswith("rows 40 = answered 40 + failed 0 (already answered 0) | run ")
    run_id = done.summary.rpartition(" ")[2]
    lines = sampled.query("SELECT * FROM `{answers}_runs` WHERE run_id = @run_id ORDER BY `at`", run_id=run_id)
    assert [line["state"] for line in lines] == ["started", "finished"]
    assert (lines[1]["worklist_rows"], lines[1]["answered"], lines[1]["failed"]) == (40, 40, 0)
    spent = sampled.query("SELECT SUM(cost_usd) AS usd, SUM(total_tokens) AS tokens FROM `{answers}`")[0]
    assert abs(lines[1]["cost_usd"] - spent["usd"]) < 1e-9
    assert lines[1]["total_tokens"] == spent["tokens"]


def test_the_same_command_again_asks_nothing(sampled):
    assert sampled.classify().code == 0
    calls = sampled.vertex.stats()["calls"]
    again = sampled.classify()
    assert again.code == 0
    assert again.summary.startswith("rows 0 = answered 0 + failed 0 (already answered 40) | run ")
    assert sampled.vertex.stats()["calls"] == calls


def test_a_limit_takes_the_next_rows_each_time(sampled):
    for already in (0, 15, 30):
        done = sampled.classify("--limit=15")
        asked = min(15, 40 - already)
        assert done.summary.startswith(
            f"rows {asked} = answered {asked} + failed 0 (already answered {already}) | run "
        )
    assert sampled.query("SELECT COUNT(*) AS n, COUNT(DISTINCT key) AS keys FROM `{answers}`") == [
        {"n": 40, "keys": 40}
    ]


def test_input_columns_stand_beside_each_answer(sampled):
    sampled.classify("--limit=1")
    row = sampled.query("SELECT * FROM `{answers}`")[0]
    given = sampled.query(
        "SELECT *, location.latitude AS lat FROM `{dataset}.latest_observations` WHERE observation_id = @key",
        key=row["key"],
    )[0]
    for name in ("asset_id", "asset_type", "snapshot_id", "capture_time", "map_url"):
        assert row[name] == given[name]
    assert row["latitude"] == given["lat"]
    assert row["model_version"].startswith("stand-in")
    assert row["cost_usd"] > 0


def test_any_table_of_image_uris_can_be_classified(sampled):
    done = sampled.classify(
        "--input_query=SELECT 7 AS id, gcs_uri AS picture, bbox FROM `" + sampled.input + "` LIMIT 1",
        "--key_column=id",
        "--uri_column=picture",
        "--keep_columns=bbox.lo.x",
        "--prompt=What is this? {bbox}",
    )
    assert done.code == 0, done.err
    row = sampled.query("SELECT key, bbox_lo_x, classification FROM `{answers}`")[0]
    assert row["key"] == "7"
    assert isinstance(row["bbox_lo_x"], float)
    assert row["classification"]


def test_another_prompt_is_another_fingerprint_and_does_not_change_current(sampled):
    sampled.classify()
    first = sampled.query("SELECT fingerprint, classification FROM `{answers}_current` LIMIT 1")[0]["fingerprint"]
    refused = sampled.classify("--prompt=Only the colours, please.")
    assert refused.code == 2
    assert "prompt: " in refused.err and "--accept_new_fingerprint" in refused.err
    sampled.classify("--prompt=Only the colours, please.", "--accept_new_fingerprint")
    assert sampled.query("SELECT COUNT(*) AS n FROM `{answers}_latest`") == [{"n": 80}]
    assert sampled.query("SELECT DISTINCT fingerprint FROM `{answers}_current`") == [{"fingerprint": first}]
    sampled.classify("--prompt=Only the colours, please.", "--promote")
    assert sampled.query("SELECT COUNT(*) AS n FROM `{answers}_current` WHERE fingerprint != @first", first=first) == [
        {"n": 40}
    ]


def test_packs_of_images_answer_as_single_images_do(sampled):
    single = sampled.classify("--task=road_signs")
    packed = sampled.classify("--task=road_signs", "--images_per_request=8", f"--output_table={sampled.dataset}.packed")
    assert (single.code, packed.code) == (0, 0), packed.err
    differing = sampled.query(
        "SELECT a.key FROM `{answers}` a FULL JOIN `{dataset}.packed` p ON a.key = p.key "
        "WHERE a.label IS NULL OR p.label IS NULL OR a.label != p.label"
    )
    assert differing == []


def test_flex_has_half_an_hour_for_a_call_and_half_the_price(sampled):
    flex = ("--service_tier=flex", "--vertex_location=global", "--limit=2")
    limits = sampled.prepared(*flex).config.limits
    assert (limits.call_timeout_secs, limits.row_deadline_secs) == (1800, 5 * 1800)
    for flags in (flex, ("--limit=2",)):  # the same question: the other two rows are asked
        done = sampled.classify(*flags, "--allow_concurrent_runs")
        assert done.code == 0, done.err
    rows = sampled.query(
        "SELECT traffic_type, SUM(cost_usd) / (0.3 * SUM(prompt_tokens) + 2.5 * SUM(output_tokens)) * 1e6 AS factor "
        "FROM `{answers}` GROUP BY 1 ORDER BY 1"
    )
    assert [(row["traffic_type"], round(row["factor"], 6)) for row in rows] == [
        ("ON_DEMAND", 1.0),
        ("ON_DEMAND_FLEX", 0.5),
    ]
    assert sampled.vertex.stats()["traffic_types"] == {"ON_DEMAND": 2, "ON_DEMAND_FLEX": 2}
