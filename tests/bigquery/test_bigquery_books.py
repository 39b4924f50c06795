from __future__ import annotations

import collections
import datetime
import random

import pytest
from table_rows import NOW, SINCE, answer, append, failure

from pipeline.bigquery import books
from pipeline.bigquery.query import Query, run
from pipeline.rows import ANSWER_COLUMNS, FAILURE_COLUMNS

LATER = NOW + datetime.timedelta(seconds=1)
BEHIND = SINCE - datetime.timedelta(minutes=10)  # as written by a machine whose clock is behind the launcher's


@pytest.fixture
def worklist(endpoint, name):
    run(
        endpoint,
        Query(
            f"CREATE TABLE {name('w').sql} AS SELECT CONCAT('k', CAST(n AS STRING)) AS key "
            "FROM UNNEST(GENERATE_ARRAY(0, 29)) AS n"
        ),
    )
    return name("w")


def audited(endpoint, worklist, ours, run_id="r1"):
    return books.audit(
        endpoint, worklist=worklist, answers=ours["answers"], failures=ours["failures"], run_id=run_id, since=SINCE
    )


def test_before_anything_is_asked_every_row_is_missing(endpoint, worklist, ours):
    found = audited(endpoint, worklist, ours)
    assert (found.rows, found.answered, found.failed, found.not_asked, found.stray) == (30, 0, 0, 30, 0)
    assert (found.total_tokens, found.cost_usd, found.by_reason) == (0, 0.0, {}) or found.cost_usd is None
    assert len(found.missing) == books.MISSING_SAMPLE
    assert set(found.missing) < {f"k{n}" for n in range(30)}


def test_an_answer_beats_a_failure_and_a_line_that_was_appended_twice_counts_once(endpoint, worklist, ours):
    paid = {"total_tokens": 100, "cost_usd": 0.5}
    answers = [
        answer("k0", **paid),
        answer("k0", **paid),  # the same line again
        answer("k1", at=BEHIND, **paid),
        answer("k1", at=LATER, **paid),  # paid again by a retried bundle
        answer("k9", run_id="r2", **paid),
        answer("k8", at=SINCE - datetime.timedelta(days=2), **paid),
    ]
    failures = [
        failure("k1", "timed_out", **paid),
        failure("k2", "timed_out", **paid),
        failure("k2", "blocked", at=LATER, **paid),
        failure("k3", "missing_uri", total_tokens=0, cost_usd=0.0),
        failure("k4", "missing_uri", at=BEHIND, total_tokens=0, cost_usd=0.0),
        failure("k5", "timed_out", run_id="r2", **paid),
    ]
    append(endpoint, ours["answers"], ANSWER_COLUMNS, answers)
    append(endpoint, ours["failures"], FAILURE_COLUMNS, failures)
    found = audited(endpoint, worklist, ours)
    assert (found.rows, found.answered, found.failed, found.not_asked, found.stray) == (30, 2, 3, 25, 0)
    assert found.by_reason == {"missing_uri": 2, "blocked": 1}
    assert (found.total_tokens, found.cost_usd) == (600, pytest.approx(3.0))
    assert not {"k0", "k1", "k2", "k3", "k4"} & set(found.missing)


def test_a_key_that_is_in_no_worklist_is_stray(endpoint, worklist, ours):
    append(endpoint, ours["answers"], ANSWER_COLUMNS, [answer("k0"), answer("elsewhere")])
    found = audited(endpoint, worklist, ours)
    assert (found.rows, found.answered, found.stray) == (30, 1, 1)


def test_dollars_are_unknown_where_no_line_has_a_price(endpoint, worklist, ours):
    append(endpoint, ours["answers"], ANSWER_COLUMNS, [answer("k0", total_tokens=5)])
    found = audited(endpoint, worklist, ours)
    assert (found.total_tokens, found.cost_usd) == (5, None)


def test_random_books_balance(endpoint, worklist, ours):
    rng = random.Random(1)
    answers = [answer(f"k{rng.randrange(30)}", cost_usd=0.25, at=NOW + datetime.timedelta(0, n)) for n in range(15)]
    failures = [
        failure(f"k{rng.randrange(30)}", rng.choice(["blocked", "timed_out"]), at=NOW + datetime.timedelta(0, n))
        for n in range(15)
    ]
    append(endpoint, ours["answers"], ANSWER_COLUMNS, answers)
    append(endpoint, ours["failures"], FAILURE_COLUMNS, failures)
    answered = {row["key"] for row in answers}
    last = {row["key"]: row["reason"] for row in failures}
    failed = {key: reason for key, reason in last.items() if key not in answered}
    found = audited(endpoint, worklist, ours)
    assert (found.answered, found.failed) == (len(answered), len(failed))
    assert found.rows == found.answered + found.failed + found.not_asked == 30
    assert found.by_reason == collections.Counter(failed.values())
    assert found.cost_usd == pytest.approx(15 * 0.25)


def test_what_a_fingerprint_has_cost(endpoint, ours):
    append(
        endpoint,
        ours["answers"],
        ANSWER_COLUMNS,
        [answer("a", cost_usd=1.0), answer("b", cost_usd=2.0, at=SINCE - datetime.timedelta(days=2)), answer("c")],
    )
    append(
        endpoint,
        ours["failures"],
        FAILURE_COLUMNS,
        [failure("a", cost_usd=0.5), failure("b", fingerprint="f2", cost_usd=9)],
    )
    given = {"answers": ours["answers"], "failures": ours["failures"]}
    assert books.spent(endpoint, **given, fingerprint="f1") == 3.5
    assert books.spent(endpoint, **given, fingerprint="f1", since=SINCE) == 1.5
    assert books.spent(endpoint, **given, fingerprint="f1", until=SINCE) == 2.0
    assert books.spent(endpoint, **given, fingerprint="nothing") == 0.0


def test_other_fingerprints_of_a_task_are_told_with_their_settings_newest_first(endpoint, ours):
    append(
        endpoint,
        ours["answers"],
        ANSWER_COLUMNS,
        [
            answer("a", fingerprint="f1"),
            answer("a", fingerprint="f2", at=SINCE),
            answer("a", fingerprint="f3"),
            answer("b", fingerprint="f3"),
            answer("b", fingerprint="f4", task="another"),
        ],
    )
    books.append_run(
        endpoint, ours["runs"], {"run_id": "r0", "state": "started", "fingerprint": "f3", "settings": {"model": "m"}}
    )
    found = books.other_fingerprints(endpoint, answers=ours["answers"], runs=ours["runs"], task="t", fingerprint="f1")
    assert found == [
        books.OtherFingerprint("f3", 2, NOW, {"model": "m"}),
        books.OtherFingerprint("f2", 1, SINCE, None),
    ]


def test_the_runs_table_tells_open_halted_and_last_runs(endpoint, ours):
    def line(run_id, state, minute, **more):
        at = NOW + datetime.timedelta(minutes=minute)
        books.append_run(endpoint, ours["runs"], {"run_id": run_id, "state": state, "at": at, **more})

    line("r1", "started", 0, fingerprint="f1", options={"limit": 5})
    line("r2", "started", 1, fingerprint="f1", worklist="p.d.w")
    line("r3", "started", 2, fingerprint="f2")
    line("r1", "started", 3, fingerprint="f1", options={"dataflow_job": "j"})  # more about the same run
    assert [run["run_id"] for run in books.open_runs(endpoint, ours["runs"], "f1")] == ["r2", "r1"]
    assert books.open_runs(endpoint, ours["runs"], "f1")[1]["options"] == {"limit": 5}
    line("r2", "halted", 4, reason="permission denied")
    line("r3", "halted", 4)
    assert [run["run_id"] for run in books.open_runs(endpoint, ours["runs"], "f1")] == ["r1"]
    assert books.halted(endpoint, ours["runs"], "r1") is None
    assert books.halted(endpoint, ours["runs"], "r2") == "permission denied"
    assert books.halted(endpoint, ours["runs"], "r3") == "no reason given"
    assert books.last_run(endpoint, ours["runs"])["run_id"] == "r3"
    assert books.last_run(endpoint, ours["runs"], "f1")["worklist"] == "p.d.w"
    assert books.last_run(endpoint, ours["runs"], "f9") is None
    line("r2", "started", 0, fingerprint="f1", reason="over budget: told by a worker whose clock is behind")
    assert books.last_run(endpoint, ours["runs"], "f1")["worklist"] == "p.d.w"
    assert [run["state"] for run in books.run_lines(endpoint, ours["runs"], "r2")] == ["started", "started", "halted"]


def test_a_line_with_an_unknown_column_is_a_bug(endpoint, ours):
    with pytest.raises(ValueError, match="no columns of the runs table: colour"):
        books.append_run(endpoint, ours["runs"], {"run_id": "r", "state": "started", "colour": 1})


def test_the_last_sign_of_life_of_a_run_is_its_newest_line(endpoint, ours):
    def seen():
        return books.last_sign_of_life(endpoint, ours["answers"], ours["failures"], run_id="r1", since=SINCE)

    assert seen() is None
    append(endpoint, ours["answers"], ANSWER_COLUMNS, [answer("a", at=BEHIND)])
    assert seen() == BEHIND
    append(endpoint, ours["answers"], ANSWER_COLUMNS, [answer("a"), answer("b", run_id="r2", at=LATER)])
    assert seen() == NOW
    append(endpoint, ours["failures"], FAILURE_COLUMNS, [failure("c", at=LATER)])
    assert seen() == LATER
