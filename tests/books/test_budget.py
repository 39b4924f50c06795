"""--max_cost_usd: what a fingerprint may cost in all, over all runs, whatever the plan had thought."""

import re

import pytest

WINDOW = 16
FLAGS = (f"--max_in_flight={WINDOW}", "--quiet")
LONG = 2000  # tokens of a costly answer; the plan thinks of 160 or so


@pytest.fixture
def planned(rig):
    """Planned dollars of a row, as the plan prints them, and dollars of a row as the stand-in really answers."""
    shown = rig.run(command="plan").out
    return float(re.search(r"\$([\d.]+)\s+for\s+1,000", " ".join(shown.replace("│", " ").split()))[1]) / 1000


def spent(rig):
    return rig.one(
        "SELECT IFNULL(SUM(cost_usd), 0) FROM "
        "(SELECT cost_usd FROM `{answers}` UNION ALL SELECT cost_usd FROM `{answers}_failures`)"
    )


@pytest.fixture
def rig(rig):
    return rig.fill(300)


def test_the_worklist_is_cut_to_what_fits_and_the_rest_is_named(rig, planned):
    budget = 100.5 * planned
    done = rig.run(*FLAGS, f"--max_cost_usd={budget}")
    assert done.code == 0
    assert done.summary.startswith("rows 100 = answered 100 + failed 0 (already answered 0, over budget 200) | run ")
    assert rig.vertex.stats()["calls"] == 100
    assert spent(rig) <= budget


def test_more_budget_takes_the_rest_and_counts_what_was_spent_before(rig, planned):
    rig.run(*FLAGS, f"--max_cost_usd={100.5 * planned}")
    before = spent(rig)
    again = rig.run(*FLAGS, f"--max_cost_usd={before + 50.5 * planned}")
    assert again.summary.startswith("rows 50 = answered 50 + failed 0 (already answered 100, over budget 150) | run ")
    last = rig.run(*FLAGS, "--max_cost_usd=100")
    assert last.summary.startswith("rows 150 = answered 150 + failed 0 (already answered 150) | run ")
    assert set(rig.paid().values()) == {1}


def test_the_same_budget_again_asks_nothing_more(rig, planned):
    rig.vertex.configure(faults=[{"kind": f"long:{LONG}"}])
    budget = 30 * planned
    rig.run(*FLAGS, "--max_output_tokens=4096", f"--max_cost_usd={budget}")
    calls = rig.vertex.stats()["calls"]
    again = rig.run(*FLAGS, "--max_output_tokens=4096", f"--max_cost_usd={budget}")
    assert again.code == 0
    assert again.summary.startswith("rows 0 = answered 0 + failed 0 ")
    assert rig.vertex.stats()["calls"] == calls


def test_answers_that_cost_more_than_planned_stop_the_run_with_no_more_overshoot_than_the_calls_in_flight(rig, planned):
    rig.vertex.configure(faults=[{"kind": f"long:{LONG}"}])
    budget = 200 * planned
    done = rig.run(*FLAGS, "--max_output_tokens=4096", f"--max_cost_usd={budget}")
    assert done.code == 0, done.err
    answered, over = map(int, re.search(r"answered (\d+) .*over budget (\d+)\)", done.summary).groups())
    assert answered + over == 300
    dearest = rig.one("SELECT MAX(cost_usd) FROM `{answers}`")
    assert dearest > 3 * planned
    assert budget <= spent(rig) + planned, "it was used"
    assert spent(rig) <= budget + WINDOW * (dearest - planned)
    lines = rig.sql("SELECT state, reason, not_asked FROM `{answers}_runs` ORDER BY `at`")
    assert [line["state"] for line in lines] == ["started", "started", "finished"]
    assert lines[1]["reason"] == f"over budget: the budget of ${budget:g} is used up"
    assert lines[2]["reason"] == lines[1]["reason"]
    assert rig.run(command="audit").code == 0, "rows that the meter kept back are accounted for"


def test_rows_that_cannot_be_asked_take_nothing_of_the_budget_and_hide_no_cost(rig, planned):
    rig.sql(
        "CREATE OR REPLACE TABLE `{input}` AS SELECT observation_id, CONCAT(gcs_uri, suffix) AS gcs_uri, capture_time FROM (\n"
        "  SELECT observation_id, gcs_uri, capture_time, '' AS suffix FROM `{input}`\n"
        "  UNION ALL SELECT CONCAT(x, observation_id), gcs_uri, capture_time, '.gif'\n"
        "  FROM `{input}`, UNNEST(['x', 'y', 'z']) AS x)"
    )
    shown = " ".join(rig.run("--limit=100", command="plan").out.replace("│", " ").split())
    assert "to ask 100 " in shown
    first = rig.run(*FLAGS, "--limit=100", "--max_failure_ratio=1")
    assert rig.vertex.stats()["calls"] == 100
    assert re.search(r"answered 100 \+ failed \d+ ", first.summary)
    rig.vertex.reset(answers="fixed", latency_secs=0.02, faults=[{"kind": f"long:{LONG}"}])
    before = spent(rig)
    flags = ("--max_output_tokens=4096", "--max_failure_ratio=1", "--accept_new_fingerprint")
    rig.run(*FLAGS, *flags, f"--max_cost_usd={100 * planned}")
    dearest = rig.one("SELECT MAX(cost_usd) FROM `{answers}`")
    assert dearest > 3 * planned
    assert spent(rig) - before <= 100 * planned + WINDOW * (dearest - planned)


def test_what_a_timed_out_call_may_have_cost_is_charged_as_planned(rig, planned):
    rig.vertex.configure(faults=[{"kind": "hang", "match": "*/k000000?.jpg"}])
    done = rig.run(*FLAGS, "--request_timeout_secs=1", "--max_attempts=1", "--max_cost_usd=100", "--limit=300")
    assert done.code == 3
    late = rig.sql("SELECT reason, calls, cost_usd FROM `{answers}_failures`")
    assert {line["reason"] for line in late} == {"timed_out"}
    assert len(late) == 9
    assert all(abs(line["cost_usd"] - line["calls"] * planned) < 0.1 * planned for line in late)


def test_a_budget_is_refused_while_the_price_is_not_known_and_a_flag_names_it(rig):
    rig.vertex.configure(extra_models=["gemini-9-ultra"])
    unknown = rig.run(*FLAGS, "--model=gemini-9-ultra", "--max_cost_usd=1")
    assert unknown.code == 2
    assert "price is not known" in unknown.err
    assert "--price_usd_per_mtok=IN,OUT" in unknown.err
    assert rig.vertex.stats()["calls"] == 0
    named = rig.run(*FLAGS, "--model=gemini-9-ultra", "--max_cost_usd=0.01", "--price_usd_per_mtok=1,10")
    assert named.code == 0, named.err
    assert 0 < spent(rig) <= 0.01


def test_two_processes_overshoot_by_no_more_than_what_the_other_spends_between_two_looks(rig, planned):
    """Two runs side by side share a fingerprint's budget as two workers of a run do: through the tables."""
    rig.vertex.configure(faults=[{"kind": f"long:{LONG}"}])
    poll_secs, flush_secs, per_sec = 1.0, 2.0, 10
    budget = 800 * planned
    flags = [
        *("--quiet", "--allow_concurrent_runs", "--max_in_flight=4", "--max_output_tokens=4096"),
        *(f"--requests_per_minute={per_sec * 60}", f"--max_cost_usd={budget}"),
    ]
    both = [rig.start(*flags, constants={"pipeline.meter.POLL_SECS": poll_secs}) for _ in range(2)]
    ended = [child.wait() for child in both]
    assert [each.code for each in ended] == [0, 0], ended
    assert all("over budget" in each.summary for each in ended)
    dearest = rig.one("SELECT MAX(cost_usd) FROM `{answers}`")
    bound = 2 * (poll_secs + flush_secs) * per_sec * dearest
    assert budget - dearest <= spent(rig) <= budget + bound
    assert bound < budget, "without looking at each other they would spend it twice"
