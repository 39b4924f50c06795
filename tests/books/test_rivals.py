"""Two runs of the same question: the second notices the first and pays nothing, unless it is told to go on."""

from pipeline import rivals
from pipeline.bigquery import books
from pipeline.bigquery.names import TableName

FLAGS = ("--max_in_flight=64", "--max_cost_usd=100", "--quiet")


def test_the_second_run_is_refused_while_the_first_is_alive_and_not_after_its_death(rig):
    rig.vertex.configure(latency_secs=2.0)  # it must still be there when the second comes
    first = rig.fill(3000).start(*FLAGS)
    rig.wait_for_calls(100)
    second = rig.run(*FLAGS)
    assert second.code == 2
    run_id = rig.one("SELECT run_id FROM `{answers}_runs`")
    assert f"error: run {run_id} of the same question started at" in second.err
    assert "--allow_concurrent_runs" in second.err
    assert "\n" not in second.err.strip()
    first.kill()
    rig.vertex.configure(latency_secs=0.02)
    calls = rig.vertex.stats()["calls"]
    third = rig.run(*FLAGS, "--limit=50")
    assert third.code == 0, third.err
    assert rig.vertex.stats()["calls"] == calls + 50


def test_two_runs_that_start_at_the_same_moment_do_not_both_pay(rig):
    rows = 300
    rig.fill(rows)
    both = [rig.start(*FLAGS) for _ in range(2)]
    codes = sorted(child.wait().code for child in both)
    assert codes in ([0, 2], [2, 2]), "one yields; both do, when neither was seen first"
    rig.run(*FLAGS)
    assert rig.place()["answered"] == rows
    assert set(rig.paid().values()) == {1}


def test_a_run_that_is_told_to_goes_on_beside_the_other_and_the_views_have_one_row_a_key(rig):
    rows = 400
    rig.fill(rows)
    both = [rig.start(*FLAGS, "--allow_concurrent_runs") for _ in range(2)]
    ended = [child.wait() for child in both]
    assert [each.code for each in ended] == [0, 0], ended
    assert rig.place() == {"input_rows": rows, "answered": rows, "doubled": 0, "failed": 0, "nowhere": 0}
    assert rows <= sum(rig.paid().values()) <= 2 * rows


def test_another_question_may_be_asked_at_the_same_time(rig):
    first = rig.fill(1000).start(*FLAGS)
    rig.wait_for_calls(100)
    other = rig.run("--prompt=What is this?", "--accept_new_fingerprint", "--limit=20", "--quiet")
    assert other.code == 0, other.err
    assert first.wait().code == 0


def test_a_run_elsewhere_is_alive_while_it_writes_and_a_dataflow_job_outlives_its_launcher(rig, monkeypatch):
    rig.fill(30)
    assert rig.run("--limit=10", "--quiet").code == 0
    answers, failures, runs = (TableName.parse(f"{rig.output}{suffix}") for suffix in ("", "_failures", "_runs"))
    (line,) = (
        line
        for line in books.run_lines(rig.endpoint, runs, rig.one("SELECT run_id FROM `{answers}_runs` LIMIT 1"))
        if line["state"] == "started"
    )

    def life(**options):
        changed = {**line, "options": {**line["options"], **options}}
        return rivals.life_of(rig.endpoint, answers, failures, changed)

    elsewhere = {**line["options"]["launcher"], "host": "another-machine"}
    dead_here = {**line["options"]["launcher"], "started": "1"}
    assert life() is rivals.Life.ALIVE, "this very process is its launcher"
    assert life(launcher=dead_here) is rivals.Life.DEAD
    assert life(launcher=elsewhere) is rivals.Life.ALIVE, "it wrote a moment ago"
    assert life(launcher=dead_here, runner="DataflowRunner") is rivals.Life.ALIVE, "the job writes, not the launcher"
    monkeypatch.setattr(rivals, "SILENT_SECS", 0.0)
    assert life(launcher=elsewhere) is rivals.Life.SILENT


def test_a_run_id_is_used_once(rig):
    rig.fill(5)
    assert rig.run("--run_id=nightly", "--limit=2", "--quiet").code == 0
    again = rig.run("--run_id=nightly", "--quiet")
    assert again.code == 2
    assert "--run_id=nightly" in again.err
    assert rig.vertex.stats()["calls"] == 2
