"""`classify --mode=batch` from flags to books: what comes back, and every way in which it does not, ends in the tables."""

from __future__ import annotations

import datetime
import random

import pytest

from benchmarks import batch_bulk
from benchmarks.books_rig import Rig
from pipeline.errors import ConfigError, Halted
from pipeline.gemini import models
from pipeline.local.batch import Behaviour
from pipeline.local.vertex.faults import Fault

SIGNS = "--task=road_signs"
ROWS = 24
FIRST = 1  # asked online, before any job is paid for
IN_JOBS = ROWS - FIRST

LABELS = "SELECT key, label, answer FROM `{answers}_latest` ORDER BY key"


def test_batch_answers_are_the_online_ones_at_half_the_price(cloud):
    ended = cloud.classify(SIGNS, "--batch_requests=8", "--batch_jobs=2")
    assert ended.code == 0
    assert ended.summary.startswith(f"rows {ROWS} = answered {ROWS} + failed 0 (already answered 0)")
    assert [job.display_name.partition(" ")[2] for job in cloud.service.jobs] == [f"r1 00000-{n:03d}" for n in range(3)]
    paid = "SELECT traffic_type, COUNT(*) AS n, AVG(cost_usd) AS usd FROM `{answers}` GROUP BY 1 ORDER BY 1"
    batch, online = cloud.query(paid)
    assert (batch["traffic_type"], batch["n"]) == ("BATCH", IN_JOBS)
    assert (online["traffic_type"], online["n"]) == ("ON_DEMAND", FIRST)
    assert batch["usd"] == pytest.approx(online["usd"] / 2, rel=0.1)
    by_batch = cloud.query(LABELS)

    again = cloud.classify(SIGNS)
    assert f"rows 0 = answered 0 + failed 0 (already answered {ROWS})" in again.summary
    assert cloud.run("audit").code == 0
    cloud.output += "_online"
    assert cloud.run("classify", SIGNS, f"--output_table={cloud.output}").code == 0
    assert cloud.query(LABELS) == by_batch


def test_lines_are_matched_by_key_or_by_what_was_asked_whatever_their_order_and_number(cloud):
    def spoilt(lines):
        if len(lines) < IN_JOBS:  # the second round
            return lines
        random.Random(1).shuffle(lines)
        return [*lines[3:], *lines[5:8], '{"request": {"contents"', "[]"]  # 3 missing, 3 doubled, 2 of no use

    for round_, keeps in ((1, True), (2, False)):
        cloud.service.behaviour = Behaviour(change=spoilt, keys=keeps)
        before = cloud.service.paid_rows
        ended = cloud.classify(SIGNS, f"--prompt=Which sign is it? Round {round_}.", "--accept_new_fingerprint")
        assert ended.code == 0, ended.err
        assert cloud.count("") == (round_ * ROWS, ROWS)
        # The three that had no line, and no others, were asked once more; none is left of three.
        assert cloud.service.paid_rows - before == IN_JOBS + 3


def test_a_row_with_an_error_is_a_failure_with_its_reason_and_is_asked_again_where_that_may_help(cloud):
    uris = [row["gcs_uri"] for row in cloud.query(f"SELECT gcs_uri FROM `{cloud.observations}`")]
    kinds = ["IMAGE_NOT_FOUND", "IMAGE_DENIED", "IMAGE_INVALID", "UNAVAILABLE", "blocked", "finish:RECITATION"]
    cloud.vertex.configure(faults=[Fault(kind, uri) for kind, uri in zip(kinds, uris, strict=False)])
    ended = cloud.classify(SIGNS, "--run_id=first")
    assert ended.code == 0
    reasons = {row["gcs_uri"]: row["reason"] for row in cloud.query("SELECT gcs_uri, reason FROM `{answers}_failures`")}
    expected = ["image_not_found", "image_denied", "invalid_request", "unavailable", "blocked", "blocked"]
    assert reasons == dict(zip(uris, expected, strict=False))
    cloud.vertex.configure(faults=[])
    again = cloud.classify(SIGNS)
    assert "rows 1 = answered 1 + failed 0 (already answered 18)" in again.summary


def test_an_answer_that_needs_a_second_call_is_asked_again_online_and_pays_for_both(cloud):
    rows = cloud.query(f"SELECT gcs_uri FROM `{cloud.observations}` ORDER BY gcs_uri LIMIT 5")
    wrong, empty, never, *untold = (row["gcs_uri"] for row in rows)  # two, as one may be the first, asked online
    cloud.vertex.configure(
        faults=[
            Fault("wrong_label", wrong, first=1),
            Fault("empty", empty, first=1),
            Fault("wrong_label", never),
            *(Fault("wrong_label", uri, first=1) for uri in untold),
            *(Fault("no_usage", uri) for uri in untold),
        ]
    )
    assert cloud.classify(SIGNS).code == 0
    found = {row["gcs_uri"]: row for row in cloud.query("SELECT * FROM `{answers}`")}
    plain = min(row["cost_usd"] for row in found.values())
    assert found[wrong]["attempts"] == found[empty]["attempts"] == 2
    assert found[wrong]["cost_usd"] > 2.5 * plain  # half a call and a whole one
    price = models.find("gemini-3.5-flash-lite").prices.at(datetime.datetime.now(datetime.UTC))
    for row in map(found.get, untold):  # nor is a second call half the price that does not say how it was served
        whole = row["prompt_tokens"] * price.input_usd + row["output_tokens"] * price.output_usd
        assert row["cost_usd"] > 0.6e-6 * whole
    (failure,) = cloud.query("SELECT * FROM `{answers}_failures`")
    assert (failure["gcs_uri"], failure["reason"], failure["attempts"]) == (never, "invalid_answer", 2)


def test_what_an_expired_job_has_left_is_asked_by_another_one_and_what_it_has_done_is_paid_once(cloud):
    cloud.service.behaviour = Behaviour(state="EXPIRED", share=0.5)
    cloud.service.before_reply = lambda method: (
        method.startswith("Get") and setattr(cloud.service, "behaviour", Behaviour())
    )
    ended = cloud.classify(SIGNS)
    assert ended.code == 0
    assert cloud.count("") == (ROWS, ROWS)
    assert len(cloud.service.jobs) == 2
    assert cloud.service.paid_rows == IN_JOBS


def test_a_cancelled_job_ends_the_run_with_its_rows_not_asked_and_the_next_command_asks_them(cloud):
    cloud.service.behaviour = Behaviour(state="CANCELLED", share=0.5)
    with pytest.raises(Halted, match="was cancelled"):
        cloud.run_raising("classify", "--mode=batch", SIGNS, "--run_id=first")
    (end,) = cloud.query("SELECT * FROM `{answers}_runs` WHERE state != 'started'")
    assert (end["state"], end["worklist_rows"], end["failed"]) == ("cancelled", ROWS, 0)
    assert end["answered"] + end["not_asked"] == ROWS
    assert 0 < end["not_asked"] < IN_JOBS
    cloud.service.behaviour = Behaviour()
    ended = cloud.classify(SIGNS)
    assert f"already answered {end['answered']}" in ended.summary
    assert cloud.service.paid_rows == IN_JOBS - 1  # and the second run's own first row, online
    assert cloud.count("") == (ROWS, ROWS)


def test_a_failed_job_says_why(cloud):
    cloud.service.behaviour = Behaviour(state="FAILED", error="The service agent may not read gs://batches.")
    with pytest.raises(Halted, match=r"failed: The service agent may not read gs://batches\."):
        cloud.run_raising("classify", "--mode=batch", SIGNS)
    assert cloud.count("") == (FIRST, FIRST)
    assert cloud.service.paid_rows == 0


def test_jobs_wait_while_the_service_takes_no_more(cloud):
    cloud.service.behaviour = Behaviour(most_jobs=1)
    assert cloud.classify(SIGNS, "--batch_requests=6").code == 0
    assert len(cloud.service.jobs) == 4
    assert cloud.count("") == (ROWS, ROWS)


def test_the_budget_leaves_jobs_unsubmitted_that_it_does_not_pay_for(cloud):
    # Answers take ten times the tokens that are planned, so that money ends before the worklist does.
    cloud.vertex.configure(rates={"long:300": 1.0})
    budget = 24 * 0.00022
    ended = cloud.classify(SIGNS, "--batch_requests=6", "--batch_jobs=1", f"--max_cost_usd={budget}")
    assert ended.code == 0
    assert "over budget" in ended.summary
    assert 0 < len(cloud.service.jobs) < 4
    spent = cloud.query("SELECT SUM(cost_usd) AS usd FROM `{answers}`")[0]["usd"]
    assert spent <= budget + 6 * 0.0007


def test_unusable_rows_are_failures_without_a_request_and_a_file_has_no_more_bytes_than_it_may(cloud, monkeypatch):
    monkeypatch.setattr("pipeline.batch.lines.MAX_BYTES", 20_000)
    query = (
        f"SELECT observation_id, IF(MOD(FARM_FINGERPRINT(observation_id), 2) = 0, 'nowhere', gcs_uri) AS gcs_uri "
        f"FROM `{cloud.observations}`"
    )
    cloud.flags = [flag for flag in cloud.flags if not flag.startswith("--input_table")]
    assert cloud.classify(SIGNS, f"--input_query={query}").code == 0
    failed, answered = cloud.count("_failures")[0], cloud.count("")[0]
    assert failed + answered == ROWS
    assert 0 < cloud.service.paid_rows == answered - FIRST
    uris = [job.input_config.gcs_source.uris[0] for job in cloud.service.jobs]
    sizes = [len(cloud.storage.read("batches", uri.removeprefix("gs://batches/"))) for uri in uris]
    assert len(sizes) > 1
    assert max(sizes) <= 20_000


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--batch_folder="], "--batch_folder is missing"),
        (["--model=1234567890", "--vertex_location=us-central1"], "a tuned endpoint answers online only"),
        (["--batch_folder=gs://no-such-bucket/x"], "a batch run needs"),
    ],
)
def test_what_a_batch_cannot_do_is_said_before_anything_is_paid(cloud, flags, says):
    with pytest.raises(ConfigError, match=says):
        cloud.run_raising("classify", "--mode=batch", SIGNS, *flags)
    assert cloud.vertex.stats()["calls"] == 0


def test_plan_shows_the_ways_side_by_side(cloud):
    shown = cloud.run("plan", SIGNS, "--mode=batch").out
    online, flex, batch = (line_of(shown, word) for word in ("online", "flex", "batch"))
    dollars = [float(line.split("$")[1].split()[0]) for line in (online, flex, batch)]
    assert dollars == [pytest.approx(0.0106, abs=2e-4), *[pytest.approx(dollars[0] / 2, abs=1e-4)] * 2]
    assert "within 24 h" in batch
    assert cloud.service.jobs == []


def line_of(shown, way):
    return next(line for line in shown.splitlines() if line.startswith(f"│ {way} "))


@pytest.fixture
def small(monkeypatch):
    """Jobs are worth it from 5 rows on, and the worklist can be divided anywhere."""
    monkeypatch.setattr("pipeline.ways.BATCH_ROWS", 5)
    monkeypatch.setattr("pipeline.bigquery.worklist.ROWS_PER_BUCKET", 1)
    monkeypatch.setattr("pipeline.launch.ROWS_PER_SHARD", 1)


@pytest.mark.usefixtures("small")
def test_auto_asks_in_batch_jobs_what_they_do_by_the_deadline_and_the_rest_online_at_the_same_time(cloud):
    flags = [SIGNS, "--mode=auto", "--deadline_hours=30", "--batch_requests=6", "--batch_jobs=2"]
    shown = cloud.run("plan", *flags).out
    assert [line_of(shown, f"auto, {way}").split("│")[2].strip() for way in ("online", "in batch jobs")] == ["12", "12"]
    # The jobs end when the other rows are answered, and not before.
    cloud.service.behaviour = Behaviour(hold=True)
    cloud.service.before_reply = lambda method: (
        method == "GetBatchPredictionJob" and cloud.vertex.stats()["paid_calls"] >= 12 and cloud.service.finish()
    )
    ended = cloud.run("classify", *flags, "--max_cost_usd=1")
    assert ended.code == 0, ended.err
    assert "12 rows standard and 12 in batch jobs" in ended.err
    assert cloud.count("") == (ROWS, ROWS)
    found = cloud.query("SELECT traffic_type, COUNT(*) AS n FROM `{answers}` GROUP BY 1 ORDER BY 1")
    by_way = {row["traffic_type"]: row["n"] for row in found}
    assert sum(by_way.values()) == ROWS
    assert 6 < by_way["BATCH"] <= 12
    assert len(cloud.service.jobs) == 2
    assert cloud.vertex.stats()["paid_calls"] == ROWS


@pytest.mark.usefixtures("small")
def test_auto_asks_online_what_a_round_of_jobs_has_left_where_that_is_little(cloud):
    cloud.service.behaviour = Behaviour(state="EXPIRED", share=0.9)
    ended = cloud.run("classify", SIGNS, "--mode=auto")
    assert ended.code == 0, ended.err
    assert cloud.count("") == (ROWS, ROWS)
    assert len(cloud.service.jobs) == 1
    assert cloud.service.paid_rows == round(0.9 * IN_JOBS)
    assert cloud.vertex.stats()["paid_calls"] == ROWS


def test_results_that_are_not_where_they_should_be_are_not_paid_again_unasked(cloud):
    cloud.service.behaviour = Behaviour(change=lambda _: [])
    with pytest.raises(Halted, match=r"answered 23 rows, but gs://batches/.* holds no line of them"):
        cloud.run_raising("classify", "--mode=batch", SIGNS)
    assert len(cloud.service.jobs) == 1
    assert cloud.count("") == (FIRST, FIRST)
    assert cloud.query("SELECT not_asked FROM `{answers}_runs` WHERE state != 'started'") == [{"not_asked": IN_JOBS}]


def test_files_of_many_requests_are_written_by_one_launcher_and_read_by_another_in_little_memory(cloud, bigquery):
    cloud.vertex.reset(answers="fixed")
    rig = Rig(bigquery, cloud.vertex, f"{bigquery.project}.bulk")
    found = batch_bulk.measure(rig, cloud.storage, cloud.service, rows=401, requests=150, prompt_chars=0)
    assert found["problems"] == []
    assert (found["rows"], found["files"]) == (401, 3)
