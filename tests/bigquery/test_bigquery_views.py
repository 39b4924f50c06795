from __future__ import annotations

import datetime

import pytest
from table_rows import NOW, answer, append, failure

from pipeline.bigquery import views
from pipeline.bigquery.query import Query, run
from pipeline.errors import ConfigError
from pipeline.rows import ANSWER_COLUMNS, FAILURE_COLUMNS

EARLIER = NOW - datetime.timedelta(days=1)


@pytest.fixture
def filled(endpoint, ours):
    answers = [
        answer("a", classification="old", at=EARLIER),
        answer("a", classification="new"),
        answer("a", classification="new"),  # appended twice
        answer("a", classification="other", fingerprint="f2"),
        answer("b", classification="only"),
    ]
    failures = [
        failure("a", "timed_out", at=EARLIER),
        failure("c", "timed_out", at=EARLIER),
        failure("c", "blocked"),
        failure("b", "blocked", fingerprint="f2"),
    ]
    append(endpoint, ours["answers"], ANSWER_COLUMNS, answers)
    append(endpoint, ours["failures"], FAILURE_COLUMNS, failures)
    return ours


def rows(endpoint, view, columns):
    found = run(endpoint, Query(f"SELECT {columns} FROM {view.sql}"))
    return sorted(tuple(row.values()) for row in found)


def ensure(endpoint, ours, fingerprint, **options):
    return views.ensure_views(endpoint, ours["answers"], ours["failures"], fingerprint, **options)


def test_latest_has_one_row_a_key_and_fingerprint_the_newest(endpoint, filled):
    ensure(endpoint, filled, "f1")
    assert rows(endpoint, filled["answers"].beside("_latest"), "key, fingerprint, classification") == [
        ("a", "f1", "new"),
        ("a", "f2", "other"),
        ("b", "f1", "only"),
    ]


def test_current_shows_the_first_fingerprint_until_another_is_promoted(endpoint, filled):
    current = filled["answers"].beside("_current")
    assert views.current_fingerprint(endpoint, filled["answers"]) is None
    assert ensure(endpoint, filled, "f1") == "f1"
    assert rows(endpoint, current, "key, classification") == [("a", "new"), ("b", "only")]
    assert ensure(endpoint, filled, "f2") == "f1"
    assert rows(endpoint, current, "key, classification") == [("a", "new"), ("b", "only")]
    assert ensure(endpoint, filled, "f2", promote=True) == "f2"
    assert rows(endpoint, current, "key, classification") == [("a", "other")]
    assert views.current_fingerprint(endpoint, filled["answers"]) == "f2"


def test_open_failures_are_those_without_an_answer_of_the_same_fingerprint(endpoint, filled):
    ensure(endpoint, filled, "f1")
    assert rows(endpoint, filled["answers"].beside("_failures_open"), "key, fingerprint, reason") == [
        ("b", "f2", "blocked"),
        ("c", "f1", "blocked"),
    ]


def test_the_fingerprint_in_production_stands_in_the_view_s_own_text(ours):
    sql = views.latest_sql(ours["answers"], "0a1b2c")
    assert views._IN_SQL.search(sql).group(1) == "0a1b2c"


def test_a_table_in_the_place_of_a_view_is_an_error(endpoint, ours, make_table):
    make_table(ours["answers"].table + "_latest", {"a": "INT64"}, [])
    with pytest.raises(ConfigError, match=r"a_latest is not a view"):
        ensure(endpoint, ours, "f1")
