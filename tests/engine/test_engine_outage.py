"""What counts as an outage of the whole service, without an engine."""

from __future__ import annotations

import random

from pipeline.engine.outage import OUTAGE_ERRORS_AMONG, OUTAGE_GAP_SECS, Outage


def test_an_outage_begins_when_calls_sent_after_the_first_error_fail_too() -> None:
    outage = Outage()
    began = [outage.error(10.0 + row / 100, sent_at=9.0, number=row, row=row) for row in range(1, 81)]
    assert not any(began)
    assert not outage.active
    assert outage.error(11.0, sent_at=10.5, number=81, row=99)
    assert outage.wide
    assert outage.secs(40.01) == 30.0
    outage.success(sent_at=10.5)
    assert not outage.active
    assert outage.secs(50.0) == 0.0


def test_successes_of_calls_sent_before_an_outage_neither_end_nor_hide_it() -> None:
    outage = Outage()
    began = []
    for call in range(1, 50):
        at = 10.0 + call / 10
        began.append(outage.error(at + 0.05, sent_at=at, number=call, row=call))
        outage.success(sent_at=at - 20.0)
    assert began.count(True) == 1
    assert began.index(True) <= OUTAGE_ERRORS_AMONG + 1
    assert outage.secs(40.15) == 30.0
    outage.success(sent_at=10.2)
    assert not outage.active


def test_errors_now_and_then_that_outrun_successes_are_no_outage() -> None:
    """Two calls in five fail at once; the others are answered after 20 s."""
    outage, rng = Outage(), random.Random(1)
    answers: list[float] = []
    for call in range(20_000):
        at = 100.0 + call / 10
        while answers and answers[0] + 20 <= at:
            outage.success(sent_at=answers.pop(0))
        if at > 130 and rng.random() < 0.4:
            outage.error(at + 0.05, sent_at=at, number=call, row=call)
        else:
            answers.append(at)
        assert outage.secs(at) < 25
    assert not outage.active


def test_one_row_that_fails_for_ever_is_no_wide_outage() -> None:
    outage = Outage()
    for attempt in range(50):
        outage.error(10.0 + attempt, sent_at=9.5 + attempt, number=attempt, row=1)
    assert outage.active
    assert not outage.wide


def test_errors_far_apart_are_not_one_outage() -> None:
    outage = Outage()
    for hour in range(20):
        at = 3600.0 * hour
        assert not outage.error(at + 1, sent_at=at, number=hour, row=hour)
        assert outage.secs(at + 1) == 0
    assert OUTAGE_GAP_SECS < 3600


def test_a_gap_that_the_server_asked_for_does_not_end_an_outage() -> None:
    outage = Outage()
    for call in range(8):
        at = 1000.0 * call
        outage.error(at + 1, sent_at=at, number=call, row=call, delay_secs=999.0)
    assert outage.secs(8001.0) == 8000.0
