"""Every row ends in exactly one place: answered, or failed with its reason. Bad rows, faulty images, many of them."""

import collections

import pytest

from pipeline.local import samples

ROAD_SIGNS = "--task=road_signs"

# Fault kind of the stand-in: what becomes of the row.
FAULTS = {
    "blocked": "blocked",
    "blocked:PROHIBITED_CONTENT": "blocked",
    "finish:SAFETY": "blocked",
    "finish:RECITATION": "blocked",
    "finish:SPII": "blocked",
    "finish:MODEL_ARMOR": "blocked",
    "finish:99": "blocked",
    "finish:MAX_TOKENS": "max_tokens",
    "long:100000": "max_tokens",
    "empty": "empty_answer",
    "no_text": "empty_answer",
    "malformed_json": "invalid_answer",
    "truncated_json": "invalid_answer",
    "prose": "answered",
    "wrong_label": "invalid_answer",
    "IMAGE_NOT_FOUND": "image_not_found",
    "IMAGE_DENIED": "image_denied",
    "IMAGE_INVALID": "invalid_request",
    "UNAVAILABLE": "unavailable",
    "INTERNAL": "unavailable",
    "ABORTED": "unavailable",
    "hang": "timed_out",
    "fenced_json": "answered",
    "split_parts": "answered",
    "thought_parts": "answered",
    "no_usage": "answered",
}
# The same, but only for the first call that names the image: the second one mends it.
PASSING = ("UNAVAILABLE", "INTERNAL", "reset", "malformed_json", "wrong_label", "empty", "CANCELLED")


def _places(cloud):
    """Each key with where it is; a key in two places, or twice in one, shows as such."""
    places = collections.defaultdict(list)
    for row in cloud.query("SELECT key FROM `{answers}_latest`"):
        places[row["key"]].append("answered")
    for row in cloud.query("SELECT key, reason FROM `{answers}_failures_open`"):
        places[row["key"]].append(row["reason"])
    return places


def test_bad_rows_end_in_one_place_each_and_a_duplicate_key_is_asked_once(cloud, pictures):
    root, drawn = pictures
    bad = samples.bad_rows(root, drawn)
    with cloud.endpoint.client() as client:
        samples.fill_tables(client, drawn, dataset=cloud.dataset.partition(".")[2], extra_rows=bad)
    done = cloud.classify("--max_failure_ratio=1")
    assert done.code == 0, done.err
    assert done.summary.startswith("rows 47 = answered 40 + failed 7 (already answered 0)"), done.summary
    places = _places(cloud)
    assert len(places) == 47
    assert all(len(where) == 1 for where in places.values())
    reasons = collections.Counter(where[0] for where in places.values())
    assert reasons == {
        "answered": 40,
        "missing_key": 1,
        "missing_uri": 1,
        "malformed_uri": 2,
        "unsupported_image_type": 1,
        "image_not_found": 1,
        "invalid_request": 1,
    }
    assert next(key for key, where in places.items() if where == ["missing_key"]).startswith("null:")
    assert max(cloud.vertex.calls_by_uri().values()) == 1
    again = cloud.classify("--max_failure_ratio=1")
    assert again.summary.startswith("rows 0 = "), "final failures are not asked again"


@pytest.mark.timeout(180)
def test_two_thousand_rows_with_every_fault_end_in_exactly_one_place(cloud):
    with cloud.endpoint.client() as client:
        samples.make_bulk_table(client, cloud.input.partition(".")[2], 2000)
    keys = sorted(
        row["observation_id"] for row in cloud.query("SELECT observation_id FROM `{dataset}.latest_observations`")
    )
    uris = {
        row["observation_id"]: row["gcs_uri"]
        for row in cloud.query("SELECT observation_id, gcs_uri FROM `{dataset}.latest_observations`")
    }
    expected, faults = {}, []
    each = iter(keys)
    for kind, place in FAULTS.items():
        for _ in range(4):
            key = next(each)
            expected[key] = place
            faults.append({"kind": kind, "match": uris[key].replace("[", "[[]")})
    for kind in PASSING:
        for _ in range(4):
            key = next(each)
            faults.append({"kind": kind, "match": uris[key].replace("[", "[[]"), "first": 1})
    cloud.vertex.reset(answers="fixed", faults=faults)
    done = cloud.classify(
        ROAD_SIGNS, "--max_cost_usd=5", "--max_failure_ratio=1", "--max_attempts=3", "--request_timeout_secs=2"
    )
    assert done.code == 0, done.err
    places = _places(cloud)
    assert {key: where for key, where in places.items() if len(where) != 1} == {}
    assert set(places) == set(keys)
    wrong = {key: where[0] for key, where in places.items() if where[0] != expected.get(key, "answered")}
    # A connection that is reset takes its neighbours along, a hanging call too.
    assert {key for key, place in wrong.items() if (expected.get(key), place) != ("timed_out", "unavailable")} == set()
    failed = sum(place != "answered" for place in expected.values())
    assert done.summary.startswith(f"rows 2,000 = answered {2000 - failed:,} + failed {failed} ("), done.summary
    kept = cloud.query(
        "SELECT COUNT(*) AS n FROM `{answers}_failures` WHERE reason = 'invalid_answer' AND classification IS NULL"
    )
    assert kept == [{"n": 0}], "an invalid answer keeps the model's text"


def test_rejections_for_quota_cost_time_but_no_row(sampled):
    sampled.vertex.reset(faults=[{"kind": "RESOURCE_EXHAUSTED", "match": "*", "first": 1}])
    done = sampled.classify("--max_attempts=1", "--limit=10")
    assert done.code == 0, done.err
    assert done.summary.startswith("rows 10 = answered 10 + failed 0 (")
    attempts = sampled.query("SELECT DISTINCT attempts FROM `{answers}`")
    assert attempts == [{"attempts": 1}], "a 429 spends no attempt"


def test_more_failures_than_allowed_is_exit_3_with_a_table_of_reasons(sampled, pictures):
    uri = pictures[1][0].uri
    sampled.vertex.reset(faults=[{"kind": "IMAGE_DENIED", "match": uri}])
    done = sampled.classify()
    assert done.code == 3
    assert "image_denied" in done.out
    assert done.summary.startswith("rows 40 = answered 39 + failed 1 (")
