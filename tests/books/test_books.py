"""The books: what is asked again and what is not, what a changed question costs, and what `audit` finds at any time."""

import json
import re

import pytest

from pipeline.bigquery import books, tables
from pipeline.bigquery.names import TableName
from pipeline.rows import ANSWER_COLUMNS

FLAGS = ("--max_in_flight=64", "--quiet", "--max_failure_ratio=1")


def failures_open(rig):
    return {row["key"]: row["reason"] for row in rig.sql("SELECT key, reason FROM `{answers}_failures_open`")}


def balance(rig, run_id):
    """One run's books by SQL of the test's own: keys of its worklist by where they are."""
    worklist = rig.one("SELECT worklist FROM `{answers}_runs` WHERE run_id = @run_id LIMIT 1", run_id=run_id)
    return rig.sql(
        f"""SELECT COUNT(*) AS asked, COUNTIF(a.key IS NOT NULL) AS answered,
          COUNTIF(a.key IS NULL AND f.key IS NOT NULL) AS failed, COUNTIF(a.key IS NULL AND f.key IS NULL) AS nowhere
        FROM (SELECT DISTINCT key FROM `{worklist}`) AS w
        LEFT JOIN (SELECT DISTINCT key FROM `{{answers}}` WHERE run_id = @run_id) AS a ON a.key = w.key
        LEFT JOIN (SELECT DISTINCT key FROM `{{answers}}_failures` WHERE run_id = @run_id) AS f ON f.key = w.key""",
        run_id=run_id,
    )[0]


# Failed before.


@pytest.fixture
def failed(rig):
    """Twenty rows: eighteen answered, one failed for good, one that may well be answered next time."""
    rig.fill(20)
    rig.vertex.configure(
        faults=[{"kind": "blocked", "match": "*k0000007.jpg"}, {"kind": "UNAVAILABLE", "match": "*k0000013.jpg"}]
    )
    first = rig.run(*FLAGS, "--max_attempts=1")
    assert first.summary.startswith("rows 20 = answered 18 + failed 2 ")
    assert balance(rig, first.run_id) == {"asked": 20, "answered": 18, "failed": 2, "nowhere": 0}
    rig.vertex.reset(answers="fixed")
    return rig


@pytest.mark.parametrize(
    ("retry", "asked", "left"),
    [
        ("none", 0, {"k0000007": "blocked", "k0000013": "unavailable"}),
        ("retryable", 1, {"k0000007": "blocked"}),
        ("all", 2, {}),
    ],
)
def test_rows_that_failed_are_asked_again_as_told_and_an_answer_beats_a_failure(failed, retry, asked, left):
    again = failed.run(*FLAGS, f"--retry_failed={retry}")
    assert again.summary.startswith(f"rows {asked} = answered {asked} + failed 0 (already answered 18)")
    assert failed.vertex.stats()["calls"] == asked
    assert failures_open(failed) == left
    assert failed.place() == {"input_rows": 20, "answered": 18 + asked, "doubled": 0, "failed": 2 - asked, "nowhere": 0}


def test_plan_tells_what_failed_before_and_asks_nothing(failed):
    shown = failed.run(command="plan").out
    assert re.search(r"failed before\s*│\s*1 retryable, 1 not", shown)
    assert re.search(r"already answered\s*│\s*18", shown)
    assert re.search(r"new\s*│\s*0", shown)
    assert failed.vertex.stats()["calls"] == 0


# A changed question.


def test_a_changed_fingerprint_is_refused_with_what_differs_and_its_price_until_it_is_accepted(rig):
    rig.fill(12)
    assert rig.run(*FLAGS).code == 0
    changed = ("--media_resolution=high",)
    refused = rig.run(*FLAGS, *changed)
    assert refused.code == 2
    assert "12 answers of task describe to another version of the question" in refused.err
    assert 'media_resolution: "medium" -> "high"' in refused.err
    assert re.search(r"costs about \$0\.\d+ for 12 rows: add --accept_new_fingerprint", refused.err)
    assert rig.vertex.stats()["calls"] == 12
    plan = rig.run(*changed, command="plan")
    assert plan.code == 2
    assert "classify would stop here: " in plan.out

    accepted = rig.run("--max_in_flight=64", *changed, "--accept_new_fingerprint", "--limit=5")
    assert accepted.code == 0
    assert "warning: " in accepted.err
    assert "media_resolution" in accepted.err, "never silent"
    assert rig.vertex.stats()["calls"] == 17
    later = rig.run(*FLAGS, *changed)
    assert later.code == 0, "it was accepted: the rest is no news"
    assert later.summary.startswith("rows 7 = answered 7 + failed 0 (already answered 5)")
    assert rig.run(*FLAGS).summary.startswith("rows 0 "), "nor is the first question"


def test_an_accepted_fingerprint_is_not_asked_for_again_where_none_of_the_rows_has_an_answer_yet(rig):
    rig.fill(5)
    rig.run(*FLAGS)
    rig.run(*FLAGS, "--prompt=What is this?", "--accept_new_fingerprint")
    rig.fill(5, first=100)
    new_rows = rig.run(*FLAGS, "--prompt=What is this?")
    assert new_rows.code == 0, new_rows.err
    assert new_rows.summary.startswith("rows 5 = answered 5 + failed 0 (already answered 0)")


def test_answers_of_an_unknown_history_count_too(rig):
    rig.fill(3)
    rig.run(*FLAGS)
    refused = rig.run(*FLAGS, "--prompt=What is this?", f"--runs_table={rig.dataset}.other_runs")
    assert refused.code == 2
    assert "its settings were not recorded" in refused.err


def test_current_shows_the_first_question_until_another_is_promoted(rig):
    rig.fill(6)
    rig.run(*FLAGS)
    other = ("--prompt=What is this?", "--accept_new_fingerprint")

    def shown():
        rows = rig.sql("SELECT DISTINCT fingerprint FROM `{answers}_current`")
        return {row["fingerprint"] for row in rows}

    first = shown()
    assert len(first) == 1
    rig.run(*FLAGS, *other, "--limit=2")
    assert shown() == first
    assert rig.one("SELECT COUNT(*) FROM `{answers}_current`") == 6
    assert rig.one("SELECT COUNT(*) FROM `{answers}_latest`") == 8
    rig.run(*FLAGS, *other, "--promote")
    assert shown() != first
    assert rig.one("SELECT COUNT(*) FROM `{answers}_current`") == 6
    rig.run(*FLAGS)
    assert shown() != first, "only --promote changes it"


# The audit.


def append(rig, run_id, **columns):
    table = TableName.parse(f"{rig.output}_runs")
    books.append_run(rig.endpoint, table, {"run_id": run_id, **columns})


def test_audit_finds_what_classify_found_and_ends_no_run_twice(rig):
    rig.fill(30)
    rig.vertex.configure(faults=[{"kind": "blocked", "match": "*9.jpg"}])
    done = rig.run(*FLAGS)
    (line,) = rig.sql("SELECT * FROM `{answers}_runs` WHERE state = 'finished'")
    again = rig.run(f"--run_id={done.run_id}", "--max_failure_ratio=1", command="audit")
    assert (again.code, again.summary) == (0, done.summary), again
    assert rig.states(done.run_id) == ["started", "finished"]
    assert line["worklist_rows"] == line["answered"] + line["failed"] == 30
    (paid,) = rig.sql(
        """SELECT SUM(total_tokens) AS total_tokens, ROUND(SUM(cost_usd), 9) AS usd FROM (
          SELECT total_tokens, cost_usd FROM `{answers}` WHERE run_id = @run_id
          UNION ALL SELECT total_tokens, cost_usd FROM `{answers}_failures` WHERE run_id = @run_id)""",
        run_id=done.run_id,
    )
    (summed,) = rig.sql(
        "SELECT SUM(total_tokens) AS total_tokens, ROUND(SUM(cost_usd), 9) AS usd FROM `{answers}_runs`"
    )
    assert paid == summed, "the failures' share included"
    strict = rig.run(command="audit")
    assert strict.code == 3, "exit codes are those of classify"


def test_audit_ends_a_run_that_was_killed_and_says_that_it_is_not_done(rig):
    child = rig.fill(2000).start("--max_in_flight=64", "--max_cost_usd=100", "--quiet")
    rig.wait_for_calls(100)
    running = rig.run(command="audit")
    assert running.code == 0
    assert "(alive)" in running.out
    child.kill()
    run_id = rig.one("SELECT ANY_VALUE(run_id) FROM `{answers}_runs`")
    assert rig.states(run_id) == ["started"], "while it was alive, audit gave it no end"
    dead = rig.run(command="audit")
    assert dead.code == 130
    assert rig.run(command="audit").code == 130, "and again"
    assert rig.states(run_id) == ["started", "cancelled"]
    found = rig.sql("SELECT * FROM `{answers}_runs` WHERE state = 'cancelled'")[0]
    assert found["worklist_rows"] == found["answered"] + found["not_asked"] == 2000
    assert found["answered"] == rig.place()["answered"]


def test_audit_ends_a_run_that_is_whole_though_nobody_wrote_its_end(rig):
    """As after a Dataflow job, whose launcher is gone; its speed is that of its rows, however late the audit."""
    rig.fill(10)
    done = rig.run(*FLAGS)
    rig.sql("DELETE FROM `{answers}_runs` WHERE state = 'finished'")
    rig.sql("UPDATE `{answers}_runs` SET `at` = TIMESTAMP_SUB(`at`, INTERVAL 2 HOUR) WHERE TRUE")
    rig.sql("UPDATE `{answers}` SET classified_at = TIMESTAMP_SUB(classified_at, INTERVAL 2 HOUR) WHERE TRUE")
    audited = rig.run(command="audit")
    assert (audited.code, audited.summary) == (0, done.summary), audited
    assert rig.states(done.run_id) == ["started", "finished"]
    assert 0 < rig.one("SELECT secs FROM `{answers}_runs` WHERE state = 'finished'") < 600


def test_a_finished_run_with_missing_rows_is_an_error_that_names_them(rig):
    rig.fill(10)
    done = rig.run(*FLAGS)
    rig.sql("DELETE FROM `{answers}` WHERE key IN ('k0000003', 'k0000008')")
    found = rig.run(f"--run_id={done.run_id}", command="audit")
    assert found.code == 1
    assert "the books do not balance: 2 rows" in found.err
    assert "k0000003, k0000008" in found.err
    assert "Traceback" not in found.err


def test_rows_that_a_run_never_had_are_an_error(rig):
    rig.fill(10)
    done = rig.run(*FLAGS)
    worklist = rig.one("SELECT ANY_VALUE(worklist) FROM `{answers}_runs`")
    rig.sql(f"DELETE FROM `{worklist}` WHERE key = 'k0000003'")
    found = rig.run(f"--run_id={done.run_id}", command="audit")
    assert found.code == 1
    assert "1 keys were written by this run that are not in its worklist" in found.err


def test_classify_itself_finds_rows_that_vanished_though_nothing_stopped_the_run(rig, monkeypatch):
    """A step that loses rows is a bug in this code; the books find it all the same."""
    from pipeline import worker

    rig.fill(40)
    read = worker.Worker.read_shard
    monkeypatch.setattr(
        worker.Worker, "read_shard", lambda self, shard: (row for row in read(self, shard) if row.key != "k0000021")
    )
    done = rig.run(*FLAGS)
    assert done.code == 1
    assert done.summary.startswith("rows 39 = answered 39 + failed 0 (already answered 0, not asked 1)")
    assert "k0000021" in done.err


def test_audit_of_a_run_that_does_not_exist_is_a_clear_error(rig):
    rig.fill(2)
    rig.run(*FLAGS)
    found = rig.run("--run_id=nobody", command="audit")
    assert found.code == 2
    assert "--run_id=nobody" in found.err


# What BigQuery does not take.


def test_an_answer_that_is_too_large_for_bigquery_is_a_failure_with_its_text_and_its_price_and_alone(rig):
    rig.fill(40)
    wide = "IF(observation_id = 'k0000021', REPEAT('x', 200000), 'x') AS map_url"  # kept beside the answer
    rig.sql(f"CREATE TABLE `{rig.dataset}.wide` AS SELECT *, {wide} FROM `{{input}}`")
    smaller = {"pipeline.bigquery.encode.MAX_BATCH_BYTES": 150_000}
    done = rig.start(*FLAGS, f"--input_table={rig.dataset}.wide", constants=smaller).wait()
    assert done.summary.startswith("rows 40 = answered 39 + failed 1 "), done
    (row,) = rig.sql("SELECT key, reason, retryable, detail, classification, cost_usd FROM `{answers}_failures`")
    assert (row["key"], row["reason"], row["retryable"]) == ("k0000021", "row_rejected", False)
    assert "BigQuery takes 150,000 in one request" in row["detail"]
    assert row["classification"] == rig.one("SELECT ANY_VALUE(classification) FROM `{answers}`"), "it was paid for"
    assert row["cost_usd"] == rig.one("SELECT MAX(cost_usd) FROM `{answers}`")
    assert rig.run(*FLAGS).summary.startswith("rows 0 ")


# Tables of an older version, and of something else.


def test_an_older_answers_table_gets_the_columns_that_it_lacks(rig):
    older = [column for column in ANSWER_COLUMNS if column.name not in ("traffic_type", "thoughts_tokens")]
    name = TableName.parse(rig.output)
    tables.ensure_table(rig.endpoint, name, older, partition_by="classified_at", cluster_by=("fingerprint", "key"))
    done = rig.fill(4).run(*FLAGS)
    assert done.code == 0, done.err
    assert rig.one("SELECT COUNT(thoughts_tokens) FROM `{answers}`") == 4
    assert rig.one("SELECT COUNT(thoughts_tokens) FROM `{answers}_latest`") == 4


def test_a_column_of_another_type_is_named_before_anything_is_asked(rig):
    rig.fill(4)
    rig.sql("CREATE TABLE `{answers}` (key STRING NOT NULL, classified_at TIMESTAMP NOT NULL, latency_ms STRING)")
    done = rig.run(*FLAGS)
    assert done.code == 2
    assert "latency_ms is STRING, not FLOAT64" in done.err
    assert rig.vertex.stats()["calls"] == 0


# What the queries read.


def test_the_limit_of_bytes_goes_to_every_query(rig, monkeypatch):
    from google.cloud import bigquery

    limits = []
    query = bigquery.Client.query

    def noted(self, sql, *args, job_config=None, **more):
        limits.append((sql, job_config and job_config.maximum_bytes_billed))
        return query(self, sql, *args, job_config=job_config, **more)

    rig.fill(20)
    rig.run(*FLAGS, "--limit=5")
    monkeypatch.setattr(bigquery.Client, "query", noted)
    done = rig.run(*FLAGS, "--maximum_bytes_billed=50000000", "--max_cost_usd=1")
    assert done.code == 0, done.err
    assert len(limits) > 5
    assert {limit for _, limit in limits} == {50_000_000}, [sql for sql, limit in limits if limit != 50_000_000]


def test_the_bytes_of_the_count_are_printed_before_anything_is_read(rig):
    rig.fill(5)
    shown = rig.run(command="plan")
    assert re.search(r"query\s*│\s*[\d,]+ bytes read to count the rows", shown.out)


def test_the_runs_table_remembers_settings_worklist_versions_and_options(rig):
    rig.fill(3)
    done = rig.run(*FLAGS)
    (line,) = rig.sql("SELECT * FROM `{answers}_runs` WHERE state = 'started'")
    options = line["options"] if isinstance(line["options"], dict) else json.loads(line["options"])
    assert options["max_in_flight"] == 64
    assert options["launcher"]["pid"]
    assert line["worklist"].endswith(f"answers_worklist_{done.run_id}")
    assert rig.one(f"SELECT COUNT(*) FROM `{line['worklist']}`") == line["worklist_rows"] == 3
