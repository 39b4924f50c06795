"""`plan --sample N`: N rows asked for real, so that price and answers are known before the rest is bought."""

import random
import re
import statistics

import pytest

from pipeline.direct import Sample
from pipeline.rows import Answer, Usage


def table(text):
    """The printed tables as one line of words."""
    return " ".join(text.replace("│", " ").split())


def test_plan_asks_nothing_and_creates_nothing(rig):
    done = rig.fill(50).run(command="plan")
    assert done.code == 0
    assert rig.vertex.stats()["calls"] == 0
    tables = rig.sql(f"SELECT table_name FROM `{rig.dataset}`.INFORMATION_SCHEMA.TABLES")
    assert [row["table_name"] for row in tables] == ["input"]


def test_a_sample_is_asked_for_real_shown_measured_and_not_paid_for_again(rig):
    rig.fill(400)
    rig.vertex.configure(faults=[{"kind": "long:400", "match": "*[02468].jpg"}, {"kind": "blocked", "match": "*5.jpg"}])
    done = rig.run("--sample=40", command="plan")
    assert done.code == 0, done.err
    said = table(done.out)
    assert rig.vertex.stats()["calls"] == 40
    answered = rig.one("SELECT COUNT(*) FROM `{answers}`")
    assert f"sampled 40 rows, {answered} answered" in said
    assert "(blocked)" in said
    assert rig.one("SELECT ANY_VALUE(key) FROM `{answers}`") in said

    costs = rig.sql(
        "SELECT cost_usd, total_tokens FROM `{answers}` UNION ALL SELECT cost_usd, total_tokens FROM `{answers}_failures`"
    )
    mean = statistics.fmean(row["cost_usd"] for row in costs)
    assert f"${mean * 1000:,.4f} for 1,000 rows" in said
    assert f"({statistics.fmean(row['total_tokens'] for row in costs):,.0f} a row)" in said
    total, low, high = map(
        float, re.search(r"\$([\d.]+), with 90 % confidence \$([\d.]+) to \$([\d.]+)", said).groups()
    )
    assert low < total < high
    assert total == pytest.approx(400 * mean, abs=1e-4)

    rest = rig.run("--quiet", "--max_failure_ratio=1")
    assert f"(already answered {answered})" in rest.summary
    assert set(rig.paid().values()) == {1}, "the sample's rows, failures included, were not asked again"
    assert rig.place()["nowhere"] == 0


def test_a_sample_of_a_batch_run_is_asked_online_and_the_rest_is_priced_as_batch(rig):
    said = table(rig.fill(100).run("--sample=20", "--mode=batch", "--batch_folder=gs://b/f", command="plan").out)
    spent = rig.one("SELECT SUM(cost_usd) FROM `{answers}`")
    assert f"the sample itself ${spent:,.4f}" in said
    assert f"${spent / 20 / 2 * 1000:,.4f} for 1,000 rows" in said
    total = float(re.search(r"\$([\d.]+), with 90 % confidence", said)[1])
    assert total == pytest.approx(spent + 80 * spent / 20 / 2, abs=1e-4)
    assert "s a call" not in said, "that is no time of a batch job"


def test_a_sample_does_not_decide_what_production_shows(rig):
    rig.fill(30)
    rig.run("--sample=5", command="plan")
    done = rig.run("--quiet", "--prompt=What is this?", "--accept_new_fingerprint")
    assert done.code == 0, done.err
    assert rig.one("SELECT COUNT(*) FROM `{answers}_current`") == 30


def test_a_sample_of_a_changed_question_must_be_accepted_too(rig):
    rig.fill(20).run("--quiet")
    refused = rig.run("--sample=5", "--prompt=What is this?", command="plan")
    assert refused.code == 2
    assert "--accept_new_fingerprint" in refused.err
    assert rig.vertex.stats()["calls"] == 20
    assert rig.run("--sample=5", "--prompt=What is this?", "--accept_new_fingerprint", command="plan").code == 0
    assert rig.vertex.stats()["calls"] == 25


@pytest.mark.parametrize("text", ["0", "-1", "1001", "many", ""])
def test_a_sample_is_a_number_of_rows_up_to_a_thousand(rig, text):
    done = rig.fill(3).run(f"--sample={text}", command="plan")
    assert done.code == 2
    assert f"--sample={text}: expected a number of rows from 1 to 1,000" in done.err


def test_a_fault_of_the_run_ends_a_sample_as_it_would_end_a_run(rig):
    rig.fill(300)
    rig.vertex.configure(run_fault="BILLING_DISABLED", run_fault_from_call=20)
    done = rig.run("--sample=200", command="plan")
    assert done.code == 4
    assert "BILLING_DISABLED" in done.err
    assert rig.place()["answered"] == 19
    assert rig.place()["failed"] == 0


def sample(costs, rows, **more):
    """A sample of answers that cost so much, of a plan of so many rows."""
    blank = dict.fromkeys(Answer.__dataclass_fields__)
    answers = tuple(Answer(**blank | {"usage": Usage(cost_usd=cost), "latency_ms": 100.0}) for cost in costs)
    return Sample(outcomes=answers, run_id="r", secs=1.0, rows=rows, **more)


def test_nine_intervals_of_ten_hold_the_true_price():
    """Of skewed prices, as long answers make them."""
    dice = random.Random(11)
    rows, tries, held = 5000, 400, 0
    for _ in range(tries):
        prices = [dice.lognormvariate(-8, 0.5) for _ in range(rows)]
        _, low, high = sample(prices[:50], rows).total_usd()
        held += low <= sum(prices) <= high
    assert 0.86 <= held / tries <= 0.94


def test_an_interval_needs_two_prices_and_no_unknown_one():
    assert sample([0.1], 10).total_usd() is None
    assert sample([0.1, None], 10).total_usd() is None
    assert sample([0.1, 0.1], 10).total_usd() == pytest.approx((1.0, 1.0, 1.0))
    assert sample([0.1, 0.3], 2).total_usd() == pytest.approx((0.4, 0.4, 0.4)), "nothing is left to ask"
    assert sample([0.1, 0.1], 10, rest_rate=0.5).total_usd() == pytest.approx((0.6, 0.6, 0.6)), "0.2 is paid already"
    assert sample([0.1], 10, rest_rate=0.5).expected_usd == pytest.approx(0.55)
