"""The circuit breaker, without an engine."""

from __future__ import annotations

from pipeline.engine import Breaker
from pipeline.engine.breaker import CALLS_BEFORE_SUCCESS, CALLS_OF_A_FAULT, PROBES, PROBES_LATER, TRIP_AFTER, Verdict


def working() -> Breaker[str]:
    """A breaker that has seen one success."""
    breaker = Breaker[str]()
    breaker.success(breaker.next_number())
    return breaker


def fail(breaker: Breaker[str], count: int) -> None:
    for _ in range(count):
        number = breaker.next_number()
        breaker.suspect(number, f"row {number}")


def test_until_the_first_success_few_calls_are_in_flight() -> None:
    breaker = Breaker[str]()
    assert breaker.lets_go(CALLS_BEFORE_SUCCESS - 1, 4000)
    assert not breaker.lets_go(CALLS_BEFORE_SUCCESS, 4000)
    assert not breaker.lets_go(10, 10)
    breaker.success(breaker.next_number())
    assert breaker.lets_go(3999, 4000)
    assert not breaker.lets_go(4000, 4000)


def test_a_suspect_is_held_until_a_call_sent_after_it_landed_succeeds() -> None:
    breaker = working()
    suspect, before = breaker.next_number(), breaker.next_number()
    breaker.suspect(suspect, "row")
    after = breaker.next_number()
    assert breaker.success(before) == []
    assert breaker.held == 1
    assert breaker.success(after) == ["row"]
    assert breaker.held == 0


def test_twenty_suspects_stop_new_calls_and_without_a_success_the_run_halts() -> None:
    breaker = Breaker[str]()
    fail(breaker, TRIP_AFTER - 1)
    assert not breaker.stopped
    fail(breaker, 1)
    assert breaker.stopped
    assert not breaker.lets_go(0, 4000)
    assert breaker.landed(parts_waiting=False) is Verdict.HALT
    assert breaker.tally() == "none of 20 succeeded"


def test_a_run_that_had_a_success_halts_when_ninety_calls_since_the_first_suspect_have_failed() -> None:
    breaker = working()
    fail(breaker, TRIP_AFTER)
    assert not breaker.lets_go(0, 4000)
    assert breaker.landed(parts_waiting=False) is Verdict.GO_ON
    sent = TRIP_AFTER - 1
    while breaker.lets_go(0, 4000):
        fail(breaker, 1)
        sent += 1
    assert sent == CALLS_OF_A_FAULT
    assert breaker.landed(parts_waiting=False) is Verdict.HALT
    assert breaker.tally() == "1 of 92 succeeded, then 91 failed"


def test_a_run_that_stops_late_has_probes_still() -> None:
    breaker = working()
    fail(breaker, 1)
    calls = [breaker.next_number() for _ in range(CALLS_OF_A_FAULT)]
    for number in calls[:TRIP_AFTER]:
        breaker.suspect(number, "row")
    assert breaker.stopped
    assert breaker.landed(parts_waiting=False) is Verdict.GO_ON
    fail(breaker, PROBES_LATER - 1)
    assert breaker.lets_go(0, 4000)
    fail(breaker, 1)
    assert not breaker.lets_go(0, 4000)
    assert breaker.landed(parts_waiting=False) is Verdict.HALT


def test_a_success_between_starts_the_count_anew() -> None:
    breaker = working()
    for _ in range(10):
        fail(breaker, TRIP_AFTER - 1)
        assert len(breaker.success(breaker.next_number())) == TRIP_AFTER - 1
    assert not breaker.stopped


def test_calls_sent_before_the_fault_that_still_succeed_do_not_hide_it() -> None:
    breaker = working()
    old = [breaker.next_number() for _ in range(1000)]
    for number in old[:TRIP_AFTER]:
        fail(breaker, 1)
        breaker.success(number)
    assert breaker.stopped


def test_a_stopped_run_is_tried_again_when_calls_sent_before_succeed() -> None:
    breaker = working()
    old = breaker.next_number()
    fail(breaker, TRIP_AFTER)
    assert not breaker.lets_go(1, 4000)
    breaker.success(old)
    probes = []
    while breaker.lets_go(len(probes), 4000):
        probes.append(breaker.next_number())
    assert len(probes) >= PROBES_LATER
    assert len(breaker.success(probes[0])) == TRIP_AFTER
    assert not breaker.stopped
    assert breaker.lets_go(100, 4000)


def test_when_all_probes_fail_the_run_halts() -> None:
    breaker = working()
    old = breaker.next_number()
    fail(breaker, TRIP_AFTER)
    breaker.success(old)
    while breaker.lets_go(0, 4000):
        fail(breaker, 1)
    assert breaker.landed(parts_waiting=False) is Verdict.HALT


def test_probes_that_were_only_rejected_are_followed_by_others() -> None:
    breaker = working()
    old = breaker.next_number()
    fail(breaker, TRIP_AFTER)
    breaker.success(old)
    while breaker.lets_go(0, 4000):
        breaker.next_number()
    assert breaker.landed(parts_waiting=False) is Verdict.GO_ON
    assert breaker.lets_go(0, 4000)


def test_parts_of_packs_are_tried_before_a_run_of_failing_packs_halts() -> None:
    breaker = Breaker[str]()
    for _ in range(TRIP_AFTER):
        breaker.suspect(breaker.next_number(), None)
    assert breaker.stopped
    assert breaker.held == 0
    assert breaker.landed(parts_waiting=True) is Verdict.GO_ON
    fail(breaker, PROBES)
    assert breaker.landed(parts_waiting=True) is Verdict.HALT


def test_a_share_of_suspects_that_is_usual_stops_nothing() -> None:
    """One image in five is missing, and says so at once; successes take as long as 300 calls."""
    breaker = working()
    in_flight: list[int] = []
    stops = 0
    for row in range(20_000):
        number = breaker.next_number()
        if row % 5 == 0:
            stopped = breaker.stopped
            breaker.suspect(number, "row")
            stops += breaker.stopped and not stopped
        else:
            in_flight.append(number)
        if len(in_flight) > 300:
            breaker.success(in_flight.pop(0))
    assert stops <= 1
    assert not breaker.stopped


def test_suspects_of_small_bundles_that_were_settled_still_count() -> None:
    breaker = working()
    for _ in range(4):
        fail(breaker, 5)
        settled = breaker.settle()
        assert len(settled) == 5
        assert breaker.held == 0
    assert breaker.stopped


def test_many_failures_in_a_row_are_chance_only_where_most_calls_failed_before() -> None:
    breaker = working()
    fail(breaker, TRIP_AFTER)
    assert not breaker.by_chance()
    breaker.success(breaker.next_number())
    for _ in range(10):
        fail(breaker, TRIP_AFTER - 1)
        breaker.success(breaker.next_number())
    fail(breaker, TRIP_AFTER)
    assert breaker.by_chance()
    fail(breaker, 10 * TRIP_AFTER)
    assert not breaker.by_chance()
