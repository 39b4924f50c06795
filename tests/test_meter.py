"""A budget: spent once, seen at once by the process that spends, and soon by the others."""

import threading

import pytest

from pipeline.meter import Meter, pause_secs


class Books:
    """Money by where it is: in the tables, landed here, still on its way to the tables."""

    def __init__(self, in_tables=0.0, landed=0.0, pending=0.0, expected=0.0):
        self.in_tables, self.landed, self.pending, self.expected = in_tables, landed, pending, expected

    def meter(self, budget, poll_secs=3600.0):
        return Meter(
            budget,
            in_tables=lambda: self.in_tables,
            landed=lambda: self.landed,
            pending=lambda: self.pending,
            expected=lambda: self.expected,
            poll_secs=poll_secs,
        )


def test_a_budget_that_is_spent_before_lets_no_call_through():
    meter = Books(in_tables=1.0, expected=0.01).meter(1.0)
    assert meter.gate() == "the budget of $1 is used up"
    meter.close()


def test_own_money_is_counted_when_it_lands_and_once_only():
    books = Books()
    meter = books.meter(1.0)
    books.landed = books.pending = 0.6
    assert meter.gate() is None
    books.in_tables, books.pending = 0.6, 0.0
    meter.poll()
    assert meter.gate() is None, "what is in the tables and was landed here is the same money"
    books.landed = 1.01
    assert meter.gate()
    meter.close()


def test_calls_in_flight_are_counted_as_expected():
    books = Books(landed=0.5, expected=0.51)
    meter = books.meter(1.0)
    assert meter.gate()
    meter.close()


def test_a_worklist_that_fits_exactly_is_asked_to_its_last_row():
    books = Books()
    meter = books.meter(1.0)
    for _ in range(9):
        books.landed += 0.1  # ten times 0.1 is not 1.0 in floating point
    books.expected = 0.1
    assert meter.gate() is None
    books.expected = 0.2
    assert meter.gate()
    meter.close()


def test_rows_that_are_flushed_while_the_tables_are_asked_are_not_taken_for_the_money_of_others():
    books = Books()

    def in_tables():
        found = books.in_tables
        books.landed, books.in_tables = 0.9, 0.9  # landed and flushed after the query has read
        return found

    meter = Meter(1.0, in_tables=in_tables, landed=lambda: books.landed, pending=lambda: 0.0, expected=lambda: 0.0)
    meter.poll()
    assert meter.gate() is None
    meter.close()


def test_the_money_of_others_that_was_seen_once_stays_seen():
    books = Books(in_tables=0.6)
    meter = books.meter(1.0)
    books.landed = 0.3  # acknowledged, but the next query does not see it yet
    meter.poll()
    books.expected = 0.2
    assert meter.gate()
    meter.close()


def test_the_end_of_the_budget_is_told_once_even_when_the_meter_is_closed_at_once():
    told = []
    meter = Meter(
        1.0,
        in_tables=lambda: 0.0,
        landed=lambda: 2.0,
        pending=lambda: 2.0,
        expected=lambda: 0.0,
        on_used_up=told.append,
        poll_secs=3600.0,
    )
    meter.gate()
    meter.gate()
    meter.close()
    assert told == ["the budget of $1 is used up"]


def test_a_budget_that_lasts_is_not_told_of():
    told = []
    books = Books()
    meter = Meter(
        1.0,
        in_tables=lambda: books.in_tables,
        landed=lambda: 0.0,
        pending=lambda: 0.0,
        expected=lambda: 0.0,
        on_used_up=told.append,
    )
    meter.close()
    assert told == []


def test_once_used_up_stays_used_up():
    books = Books(expected=2.0)
    meter = books.meter(1.0)
    assert meter.gate()
    books.expected = 0.0
    assert meter.gate()
    meter.close()


def test_the_spending_of_others_is_seen_by_polling_and_a_failed_poll_keeps_the_last_sum():
    books, polled = Books(), threading.Semaphore(0)

    def in_tables():
        polled.release()
        if books.in_tables < 0:
            raise OSError("no network")
        return books.in_tables

    meter = Meter(
        1.0, in_tables=in_tables, landed=lambda: 0.0, pending=lambda: 0.0, expected=lambda: 0.0, poll_secs=0.01
    )
    books.in_tables = 0.4
    for _ in range(3):
        polled.acquire()
    books.in_tables = -1.0
    for _ in range(3):
        polled.acquire()
    assert meter.gate() is None
    books.in_tables = 1.2
    for _ in range(3):
        polled.acquire()
    assert meter.gate()
    meter.close()


@pytest.mark.parametrize(
    ("left", "per_sec", "pause"),
    [
        (100.0, 0.0, 10.0),  # nothing was seen yet
        (100.0, 1e-6, 100.0),  # time enough: ten times as long, and no longer
        (5.0, 0.01, 50.0),  # used up in 500 s: a tenth of that
        (1.0, 0.05, 10.0),  # the end is near
        (-1.0, 0.05, 10.0),  # over
    ],
)
def test_the_tables_are_looked_at_less_often_while_the_money_lasts_for_long(left, per_sec, pause):
    """A look reads each row of the run: at 100 million rows, one every ten seconds would cost thousands of dollars."""
    assert pause_secs(left, per_sec, 10.0) == pytest.approx(pause)
