"""Ways in which an engine, a bundle or a token comes to its end, in virtual time."""

from __future__ import annotations

from typing import Any

import pytest
from engine_world import OK, Reply, Row, Run, error, rows

from pipeline.engine import EngineHalted, Limits


def answer(_request: Any, _number: int, _now: float) -> Reply:
    return 1.0, OK


def keys(outcomes: list[Any]) -> list[Any]:
    return sorted(outcome[1] for outcome in outcomes)


def test_stop_sends_nothing_more_and_lets_land_what_is_in_flight() -> None:
    run = Run(lambda request, number, now: (20.0, OK), limits=Limits(max_in_flight=10))
    run.world.at(1005.0, lambda: run.engine.stop("interrupted", 30.0))
    outcomes = run.go(rows(100), rows(100, 100))
    assert len(outcomes) == 10
    assert len(run.server.calls) == 10
    assert run.world.now() == pytest.approx(1020.0, abs=1)
    assert run.raised == []
    stats = run.engine.stats()
    assert stats.not_asked_rows == 190
    assert stats.ended == "interrupted"


def test_after_the_grace_what_is_in_flight_is_cancelled_counted_and_not_asked() -> None:
    run = Run(lambda request, number, now: (5.0 if request < 3 else 90.0, OK), limits=Limits(max_in_flight=10))
    jobs = rows(50)
    run.world.at(1002.0, lambda: run.engine.stop("interrupted", 8.0))
    outcomes = run.go(jobs)
    assert keys(outcomes) == [0, 1, 2]
    assert run.world.now() == pytest.approx(1010.0, abs=0.1)
    assert [call.cancelled for call in run.server.calls] == [False] * 3 + [True] * 7
    assert sum(job.charged for job in jobs) == 0  # no outcome could say so
    assert run.engine.stats().timed_out == 7
    assert run.engine.stats().not_asked_rows == 47


def test_waiting_retries_are_not_asked_after_a_stop() -> None:
    def reply(request: int, _number: int, _now: float) -> Reply:
        return (0.1, error("ABORTED", retry_delay_secs=50.0)) if request < 5 else (10.0, OK)

    run = Run(reply, limits=Limits(max_in_flight=10))
    run.world.at(1005.0, lambda: run.engine.stop("interrupted", 30.0))
    outcomes = run.go(rows(10))
    assert keys(outcomes) == [5, 6, 7, 8, 9]
    assert run.engine.stats().not_asked_rows == 5


@pytest.mark.parametrize(("code", "held"), [("ABORTED", False), ("INVALID_ARGUMENT", False), ("UNAVAILABLE", True)])
def test_a_retry_delay_is_kept_by_all_only_where_it_concerns_all(code: str, held: bool) -> None:
    def reply(_request: int, number: int, _now: float) -> Reply:
        return (0.1, error(code, retry_delay_secs=50.0)) if number == 5 else (1.0, OK)

    run = Run(reply, limits=Limits(max_in_flight=10))
    run.go(rows(100))
    assert (run.server.sent_between(1.5, 50) == 0) is held


def test_the_gate_stops_new_calls_and_retries_and_lets_the_rest_land() -> None:
    run: Run

    def gate() -> str | None:
        return "over budget" if len(run.server.calls) >= 25 else None

    def reply(request: int, number: int, _now: float) -> Reply:
        return (0.5, error("ABORTED")) if number == 24 else (1.0, OK)

    run = Run(reply, limits=Limits(max_in_flight=10), gate=gate)
    outcomes = run.go(rows(100))
    assert len(run.server.calls) == 25
    assert len(outcomes) == 24
    stats = run.engine.stats()
    assert stats.ended == "over budget"
    assert stats.not_asked_rows == 76
    assert run.raised == []


def test_a_lane_that_was_given_up_asks_nothing_more_and_others_are_not_disturbed() -> None:
    def reply(request: int, _number: int, _now: float) -> Reply:
        return (0.1, error("ABORTED", retry_delay_secs=20.0)) if request < 5 else (1.0, OK)

    run = Run(reply, limits=Limits(max_in_flight=8))
    lost = run.engine.lane()

    def failing_bundle() -> None:
        for row in rows(5):
            list(lost.offer(row))
        run.world.sleep(1.0)
        lost.close()

    run.world.run(failing_bundle, run.bundle(rows(60, 100)), close=run.engine.close)
    assert keys(run.outcomes[0]) == list(range(100, 160))
    assert sum(call.request < 5 for call in run.server.calls) == 5
    assert run.engine.stats().unresolved_rows == 0


def test_an_interrupted_offer_leaves_the_queue() -> None:
    run = Run(answer, limits=Limits(max_in_flight=1))
    lane = run.engine.lane()

    def interrupted() -> None:
        list(lane.offer(Row(0)))
        offer = lane.offer(Row(1))
        next(offer)  # row 0 landed; this lane would go on waiting for a slot
        offer.close()

    run.world.run(interrupted, run.bundle(rows(20, 100)), close=run.engine.close)
    assert len(run.outcomes[0]) == 20


def test_a_lane_that_was_given_up_in_the_middle_of_an_offer_wants_nothing_more() -> None:
    run = Run(answer, limits=Limits(max_in_flight=1))
    lane = run.engine.lane()
    held = []

    def failing_bundle() -> None:
        list(lane.offer(Row(0)))
        held.append(lane.offer(Row(1)))  # kept alive by the stack trace of what failed
        next(held[0])  # row 0 landed, but the slot goes to the other lane
        lane.close()

    run.world.run(run.bundle(rows(20, 100)), failing_bundle, close=run.engine.close)
    assert not run.engine._turns.wanting


def test_close_ends_lanes_that_wait() -> None:
    run = Run(lambda *_: None, limits=Limits(max_in_flight=2))
    run.world.at(1003.0, run.engine.close)
    assert run.go(rows(10), rows(10, 10)) == []
    assert run.raised == []
    assert all(call.cancelled for call in run.server.calls)


def test_the_token_is_refreshed_once_for_all_calls_that_were_sent_with_the_old_one() -> None:
    refreshed: list[float] = []
    run: Run

    def refresh() -> None:
        run.world.sleep(2.0)
        refreshed.append(run.world.now())

    def reply(_request: int, _number: int, now: float) -> Reply:
        expired = now >= 1030 and not refreshed
        return (0.3, error("UNAUTHENTICATED")) if expired else (1.0, OK)

    run = Run(reply, limits=Limits(max_in_flight=20), refresh_token=refresh)
    outcomes = run.go(rows(500), rows(500, 500))
    assert keys(outcomes) == list(range(1000))
    assert len(refreshed) == 1
    assert len(run.server.calls) <= 1000 + 40


def test_unauthenticated_after_a_refresh_halts_the_run() -> None:
    refreshed = []
    run = Run(
        lambda *_: (0.3, error("UNAUTHENTICATED")),
        limits=Limits(max_in_flight=20),
        refresh_token=lambda: refreshed.append(1),
    )
    assert run.go(rows(100)) == []
    assert [type(raised) for raised in run.raised] == [EngineHalted]
    assert refreshed == [1]
    assert len(run.server.calls) <= 40


@pytest.mark.parametrize("max_attempts", [1, 5])
def test_a_token_that_expires_at_a_rows_last_attempt_is_refreshed_and_halts_nothing(max_attempts: int) -> None:
    before = max_attempts - 1
    refreshed: list[float] = []
    run: Run

    def reply(request: int, _number: int, _now: float) -> Reply:
        if request == 0 and not refreshed:
            asked = sum(call.request == 0 for call in run.server.calls)
            return 0.1, error("INTERNAL" if asked <= before else "UNAUTHENTICATED")
        return 0.1, OK

    run = Run(reply, limits=Limits(max_attempts=max_attempts), refresh_token=lambda: refreshed.append(1))
    outcomes = run.go(rows(3000))
    assert sorted(outcomes) == [("ok", key) for key in range(3000)]
    assert run.raised == []
    assert refreshed == [1]


def test_a_row_that_no_token_gets_through_is_filed_where_the_others_get_through() -> None:
    refreshed: list[float] = []

    def reply(request: int, _number: int, _now: float) -> Reply:
        return (5.0, error("UNAUTHENTICATED")) if request == 7 else (1.0, OK)

    run = Run(reply, limits=Limits(max_in_flight=20), refresh_token=lambda: refreshed.append(1))
    outcomes = run.go(rows(3000))
    assert [outcome for outcome in outcomes if outcome[0] != "ok"] == [("unavailable", 7, 5, 5)]
    assert len(outcomes) == 3000
    assert run.raised == []
    assert len(refreshed) == 4


def test_a_refresh_that_fails_halts_the_run() -> None:
    def refresh() -> None:
        raise OSError("no metadata server")

    run = Run(lambda *_: (0.3, error("UNAUTHENTICATED")), refresh_token=refresh)
    assert run.go(rows(5)) == []
    assert "no metadata server" in str(run.raised[0])
