"""A budget: spent once, seen at once by the process that spends, and soon by the others."""

import threading

from pipeline.meter import Meter


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
    books.landed = 1.0
    assert meter.gate()
    meter.close()


def test_calls_in_flight_are_counted_as_planned():
    books = Books(landed=0.5, expected=0.5)
    meter = books.meter(1.0)
    assert meter.gate()
    meter.close()


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
