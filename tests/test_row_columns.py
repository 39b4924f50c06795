"""Rows as BigQuery takes them: every column that the tables have, and nothing that it refuses."""

import datetime
import json

from pipeline.rows import ANSWER_COLUMNS, FAILURE_COLUMNS, Answer, Failure, Reason, Usage

NOW = datetime.datetime(2026, 11, 23, tzinfo=datetime.UTC)


def _failure(columns):
    return Failure("k", None, "t", "f", Reason.UNAVAILABLE, "", 1, 1, Usage(), "m", None, "r", NOW, columns)


def test_an_answer_has_the_fixed_columns_and_the_kept_ones():
    answer = Answer("k", "u", {"a": 1}, "t", "f", "text", None, None, "m", "v", "STOP", None, Usage(), 1.0, 1, "r", NOW)
    assert set(answer.row()) == {column.name for column in ANSWER_COLUMNS} | {"a"}


def test_a_failure_has_its_columns_and_the_row_as_json_even_with_numbers_that_are_none():
    row = _failure({"latitude": float("nan"), "far": float("inf"), "at": NOW, "name": "ä"}).row()
    assert set(row) == {column.name for column in FAILURE_COLUMNS}
    assert json.loads(row["row"], parse_constant=lambda _: 1 / 0) == {
        "latitude": "nan",
        "far": "inf",
        "at": "2026-11-23 00:00:00+00:00",
        "name": "ä",
    }
    assert row["retryable"] is True


def test_usages_add_up_and_an_unknown_price_stays_unknown():
    assert Usage(1, 2, 3, 6, 0.5) + Usage(1, 1, 1, 3, 0.25) == Usage(2, 3, 4, 9, 0.75)
    assert (Usage(cost_usd=None) + Usage(cost_usd=1.0)).cost_usd is None
