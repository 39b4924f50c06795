"""The first rows: what they show of the run before it starts, and that a few bad images stop nothing."""

import re

import pytest

from pipeline import first_call, launch, options, planning, worker
from pipeline.engine import CallError, Stats
from pipeline.rows import Answer

FLAGS = ("--max_in_flight=64", "--max_cost_usd=100", "--quiet")
GONE = {"kind": "IMAGE_NOT_FOUND", "match": "*k00001*.jpg"}
ONE_GONE = """SELECT 'a' AS observation_id, 'gs://bucket/k0000101.jpg' AS gcs_uri
UNION ALL SELECT 'b', 'nonsense' UNION ALL SELECT 'c', NULL"""


def test_the_only_row_to_ask_is_filed_when_it_is_refused_whatever_else_is_unusable(rig):
    rig.vertex.configure(faults=[GONE])
    done = rig.run(*FLAGS, f"--input_query={ONE_GONE}")
    assert done.code == 3, done.err
    assert done.summary.startswith("rows 3 = answered 0 + failed 3 ")
    assert rig.run(*FLAGS, f"--input_query={ONE_GONE}").summary.startswith("rows 0 "), "and is not in the way again"


def test_a_question_that_has_answers_goes_on_when_all_that_is_new_is_refused(rig):
    assert rig.fill(5).run(*FLAGS).code == 0
    rig.vertex.configure(faults=[GONE])
    done = rig.fill(12, first=100).run(*FLAGS)
    assert done.code == 3, done.err
    assert done.summary.startswith("rows 12 = answered 0 + failed 12 ")


def test_the_first_rows_that_are_refused_do_not_speak_for_the_others(rig):
    given, _ = options.parse(rig.fill(300).argv("classify", *FLAGS)[1:])
    run = launch.prepare(planning.make(given), processes=1)
    rows = list(first_call._spread(run, worker.acquire(run.config)))
    keys = [row.key for row in rows]
    assert len(set(keys)) == first_call.TRIES
    rig.vertex.configure(faults=[{"kind": "IMAGE_NOT_FOUND", "match": f"*{key}.jpg"} for key in keys[:9]])
    *refused, answer = first_call.first_call(run)
    worker.close_all()
    assert [failure.key for failure in refused] == keys[:9]
    assert isinstance(answer, Answer) and answer.key == keys[9]


def test_where_all_are_refused_the_line_names_them_and_how_to_leave_them_out(rig):
    rig.fill(30, first=100)
    rig.vertex.configure(faults=[GONE])
    done = rig.run(*FLAGS)
    assert done.code == 2
    assert rig.place()["nowhere"] == 30
    where = done.err.strip().partition("leave them out with --where=")[2].strip('"')
    assert where.count("'k00001") == first_call.TRIES
    planned = rig.run(*FLAGS, f"--where={where}", command="plan")
    assert planned.code == 0, planned.err
    assert re.search(r"to ask\W+20\b", planned.out)


def test_a_service_that_cannot_be_reached_is_one_line_and_nothing_is_filed(rig, monkeypatch):
    monkeypatch.setattr(first_call, "PATIENCE_SECS", 1.0)
    monkeypatch.setattr(first_call, "_MOMENT_SECS", 1.0)
    done = rig.fill(50).run("--vertex_endpoint=127.0.0.1:1", "--limit=40")
    assert done.code == 2
    lines = done.err.strip().splitlines()
    assert "asking the first row" in lines
    assert lines[-1].startswith("error: 127.0.0.1:1 cannot be reached (UNAVAILABLE: ")
    assert lines[-1].endswith(
        "check --vertex_location, --vertex_endpoint and the network, or try again later; nothing was filed"
    )
    assert rig.place()["nowhere"] == 50
    assert rig.run(*FLAGS).summary.startswith("rows 50 = answered 50 ")


@pytest.mark.parametrize(
    ("stats", "secs", "away"),
    [
        (Stats(retries=9), 44, False),
        (Stats(retries=9), 46, True),
        (Stats(retries=9, in_flight=1), 46, False),  # it may be that one that is answered
        (Stats(retries=9, in_flight=1), 61, True),
        (Stats(retries=9, answered=1), 99, False),
        (Stats(timed_out=1), 121, True),
        (Stats(in_flight=1), 999, False),  # a slow model
        (Stats(rejected=9), 999, False),  # quota comes back
    ],
)
def test_a_service_is_away_when_all_its_calls_fail_for_long_enough(stats, secs, away):
    assert first_call.is_away(stats, secs) is away


@pytest.mark.parametrize(
    ("stats", "says"),
    [
        (Stats(in_flight=1), "the call is on its way"),
        (Stats(rejected=3), "calls rejected for quota: 3; waiting"),
        (
            Stats(retries=2, last_error=CallError("UNAVAILABLE", "no route")),
            "failed calls: 2, the last one with UNAVAILABLE: no route",
        ),
    ],
)
def test_it_is_said_what_the_first_row_waits_for(stats, says):
    assert says in first_call.waited_for(stats)


@pytest.mark.parametrize(("count", "found"), [(3, [1, 5, 8]), (10, list(range(10))), (99, list(range(10)))])
def test_rows_are_taken_at_even_distances(count, found):
    assert first_call.evenly(range(10), count) == found
