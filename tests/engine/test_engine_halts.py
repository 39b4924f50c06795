"""Faults of the run: what halts it, how many calls that takes, and what is survived, in virtual time."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from engine_world import OK, Pack, Reply, Row, Run, error, rows

from pipeline.engine import EngineHalted, Limits, Pace

Latency = Callable[[random.Random], float]


def one_second(_rng: random.Random) -> float:
    return 1.0


def at_once(_rng: random.Random) -> float:
    return 0.02


def long_tail(rng: random.Random) -> float:
    """Log-normal, half of it below 1 s and one in a hundred above 30 s."""
    return rng.lognormvariate(0.0, 1.46)


class FaultAt:
    """A server that answers until a time, and refuses everything from then on."""

    def __init__(self, secs: float, *, latency: Latency, fails_after: Latency, missing: float = 0.0) -> None:
        self.shows_at = float("inf")
        self._begins = 1000 + secs
        self._latency, self._fails_after, self._missing = latency, fails_after, missing
        self._rng = random.Random(7)

    def __call__(self, _request: Any, _number: int, now: float) -> Reply:
        if now >= self._begins:
            latency = self._fails_after(self._rng)
            self.shows_at = min(self.shows_at, now + latency)
            return latency, error("PERMISSION_DENIED")
        if self._rng.random() < self._missing:
            return 0.02, error("NOT_FOUND")
        return self._latency(self._rng), OK

    def calls_after(self, run: Run) -> int:
        """Calls sent after the first refusal had come back."""
        return sum(call.at >= self.shows_at for call in run.server.calls)


@pytest.mark.parametrize("window", [10, 500, 4000])
@pytest.mark.parametrize("fails_after", [at_once, one_second, long_tail])
@pytest.mark.parametrize("lanes", [1, 4])
def test_a_run_that_cannot_work_costs_at_most_a_hundred_calls(window: int, fails_after: Latency, lanes: int) -> None:
    server = FaultAt(0, latency=one_second, fails_after=fails_after)
    run = Run(server, limits=Limits(max_in_flight=window))
    assert run.go(*[rows(2000, 2000 * lane) for lane in range(lanes)]) == []
    assert len(run.server.calls) <= 100
    assert [type(raised) for raised in run.raised] == [EngineHalted] * lanes
    assert "PERMISSION_DENIED" in str(run.raised[0])


@pytest.mark.parametrize("window", [100, 4000])
@pytest.mark.parametrize("latency", [one_second, long_tail])
@pytest.mark.parametrize("fails_after", [at_once, one_second, long_tail])
def test_a_fault_that_comes_later_costs_at_most_a_hundred_calls_after_it_shows(
    window: int, latency: Latency, fails_after: Latency
) -> None:
    server = FaultAt(2.5, latency=latency, fails_after=fails_after, missing=0.002)
    run = Run(server, limits=Limits(max_in_flight=window))
    outcomes = run.go(*[rows(4500, 4500 * lane) for lane in range(4)])
    assert 0 < server.calls_after(run) + 1 <= 100
    assert [type(raised) for raised in run.raised] == [EngineHalted] * 4
    assert {outcome[0] for outcome in outcomes} <= {"ok", "not_found"}  # nobody was filed for the run's fault
    assert len(outcomes) == len({outcome[1] for outcome in outcomes})
    stats = run.engine.stats()
    assert (stats.in_flight, stats.held, stats.waiting) == (0, 0, 0)


@pytest.mark.parametrize("missing", [0.001, 0.05, 0.2, 0.5])
@pytest.mark.parametrize("latency", [one_second, long_tail])
def test_images_that_are_missing_among_others_do_not_halt_a_run_nor_slow_it_much(
    missing: float, latency: Latency
) -> None:
    def went(share: float) -> tuple[Run, list[Any]]:
        run = Run(FaultAt(1e9, latency=latency, fails_after=at_once, missing=share), limits=Limits(max_in_flight=200))
        return run, run.go(rows(2000), rows(2000, 2000))

    run, outcomes = went(missing)
    assert run.raised == []
    assert sorted(outcome[1] for outcome in outcomes) == list(range(4000))
    assert Counter(outcome[0] for outcome in outcomes)["not_found"] == pytest.approx(4000 * missing, rel=0.6)
    clean, _ = went(0.0)
    assert run.world.now() - 1000 <= 1.15 * (clean.world.now() - 1000) + 5


@pytest.mark.parametrize("seed", range(4))
def test_a_run_that_asks_failed_rows_again_files_them_though_nine_in_ten_are_missing_still(seed: int) -> None:
    rng = random.Random(seed)
    missing = {key for key in range(400) if rng.random() < 0.9}

    def reply(request: int, _number: int, _now: float) -> Reply:
        return (0.1, error("NOT_FOUND")) if request in missing else (rng.uniform(0.5, 1.5), OK)

    run = Run(reply, pace=Pace(rng=random.Random(seed)))
    outcomes = run.go(*[rows(100, 100 * lane) for lane in range(4)])
    assert run.raised == []
    assert {outcome[1] for outcome in outcomes if outcome[0] == "not_found"} == missing
    assert len(outcomes) == 400


def test_a_halt_says_how_many_calls_succeeded() -> None:
    run = Run(lambda request, *_: (0.5, error("PERMISSION_DENIED") if request >= 60 else OK))
    run.go(rows(500))
    assert "(60 of 500 succeeded, then 440 failed): PERMISSION_DENIED" in str(run.raised[0])


def test_a_patch_of_missing_images_is_survived() -> None:
    def reply(request: int, _number: int, _now: float) -> Reply:
        return (0.02, error("NOT_FOUND")) if 1000 <= request < 1025 else (1.0, OK)

    run = Run(reply, limits=Limits(max_in_flight=50))
    outcomes = run.go(rows(2000))
    assert len(outcomes) == 2000
    assert run.raised == []


def test_failures_are_held_back_until_the_run_is_seen_to_work() -> None:
    taken_at: dict[int, float] = {}

    def reply(request: int, _number: int, _now: float) -> Reply:
        return (0.1, error("NOT_FOUND")) if request == 0 else (10.0, OK)

    run = Run(reply, limits=Limits(max_in_flight=2))
    lane = run.engine.lane()

    def work() -> None:
        for row in rows(6):
            for outcome in lane.offer(row):
                taken_at.setdefault(outcome[1], run.world.now() - 1000)
        for outcome in lane.drain():
            taken_at.setdefault(outcome[1], run.world.now() - 1000)

    run.world.run(work, close=run.engine.close)
    # Row 1 was sent before the failure came back, at 0.1 s; row 2 was the first one sent after it.
    assert taken_at[1] == 10.0
    assert taken_at[0] == taken_at[2] == pytest.approx(10.1)


def test_a_run_of_one_row_that_is_denied_files_it() -> None:
    run = Run(lambda *_: (0.5, error("PERMISSION_DENIED")))
    assert run.go(rows(1)) == [("denied", 0, 1, 1)]
    assert run.raised == []


def test_the_last_rows_of_a_run_that_worked_are_filed_when_they_are_denied() -> None:
    run = Run(lambda request, *_: (0.5, error("PERMISSION_DENIED") if request >= 95 else OK))
    outcomes = run.go(rows(100))
    assert [outcome[1] for outcome in outcomes if outcome[0] == "denied"] == [95, 96, 97, 98, 99]


def test_small_bundles_cannot_file_a_faulty_run_row_by_row() -> None:
    run = Run(lambda *_: (0.5, error("PERMISSION_DENIED")))
    outcomes: list[Any] = []
    halted = []

    def work() -> None:
        try:
            for row in rows(200):
                lane = run.engine.lane()
                outcomes.extend(lane.offer(row))
                outcomes.extend(lane.drain())
        except EngineHalted as raised:
            halted.append(raised)

    run.world.run(work, close=run.engine.close)
    assert len(outcomes) < 20
    assert len(run.server.calls) == 20
    assert len(halted) == 1


@pytest.mark.parametrize("window", [4, 4000])
def test_a_reason_that_concerns_the_project_halts_at_once(window: int) -> None:
    def reply(_request: int, _number: int, now: float) -> Reply:
        return (0.1, error("FAILED_PRECONDITION", reason="BILLING_DISABLED")) if now >= 1010 else (1.0, OK)

    told: list[tuple[float, str]] = []
    run: Run
    run = Run(
        reply,
        limits=Limits(max_in_flight=window),
        pace=Pace(rng=random.Random(1)),
        on_halt=lambda reason: told.append((run.world.now(), reason)),
    )
    outcomes = run.go(rows(20_000), rows(20_000, 20_000))
    assert {outcome[0] for outcome in outcomes} == {"ok"}
    assert len(run.raised) == 2
    assert [reason for _, reason in told] == [run.engine.stats().ended]
    assert "BILLING_DISABLED" in told[0][1]
    shown = 1010 + 0.1
    assert sum(call.at > shown + 0.3 for call in run.server.calls) == 0


def test_when_a_run_halts_answers_in_flight_are_still_handed_on() -> None:
    def reply(request: int, _number: int, _now: float) -> Reply:
        if request == 5:
            return 0.1, error("PERMISSION_DENIED", reason="SERVICE_DISABLED")
        return (3.0 if request < 3 else 500.0), OK

    run = Run(reply, limits=Limits(max_in_flight=6, halt_grace_secs=10))
    outcomes = run.go(rows(20))
    assert sorted(outcome[1] for outcome in outcomes) == [0, 1, 2]
    assert run.world.now() == pytest.approx(1010.1, abs=0.2)
    assert [type(raised) for raised in run.raised] == [EngineHalted]
    assert run.engine.stats().not_asked_rows == 4  # of those offered: 3, 4, 5, and 6 that waited for a slot


def test_lanes_raise_only_when_the_halt_has_been_told() -> None:
    raised_at: list[float] = []
    run: Run

    def tell(_reason: str) -> None:
        run.world.sleep(4.0)

    run = Run(lambda *_: (0.1, error("PERMISSION_DENIED", reason="SERVICE_DISABLED")), on_halt=tell)
    lane = run.engine.lane()

    def work() -> None:
        with pytest.raises(EngineHalted):
            list(lane.offer(Row(0)))
            list(lane.drain())
        raised_at.append(run.world.now() - 1000)

    run.world.run(work, close=run.engine.close)
    assert raised_at == [pytest.approx(4.1)]


def test_a_halt_that_cannot_be_told_is_still_a_halt() -> None:
    def tell(_reason: str) -> None:
        raise OSError("BigQuery is away")

    run = Run(lambda *_: (0.1, error("PERMISSION_DENIED", reason="SERVICE_DISABLED")), on_halt=tell)
    run.go(rows(3))
    assert isinstance(run.raised[0], EngineHalted)
    assert "SERVICE_DISABLED" in str(run.raised[0])
    assert "BigQuery is away" in str(run.raised[0])


def test_a_halted_engine_makes_no_call_for_later_bundles() -> None:
    run = Run(lambda *_: (0.1, error("PERMISSION_DENIED", reason="SERVICE_DISABLED")))
    first, second = run.bundle(rows(3)), run.bundle(rows(3, 3))
    run.world.run(lambda: (first(), second()), close=run.engine.close)  # type: ignore[arg-type,return-value]
    assert [type(raised) for raised in run.raised] == [EngineHalted] * 2
    assert len(run.server.calls) <= 3


def test_failing_packs_are_followed_down_to_rows_before_a_run_halts() -> None:
    """In every pack one image is bad, so that no whole pack ever succeeds."""

    def reply(request: tuple[int, ...], _number: int, _now: float) -> Reply:
        return 0.2, error("INVALID_ARGUMENT") if any(key % 8 == 0 for key in request) else OK

    run = Run(reply, limits=Limits(max_in_flight=100))
    outcomes = run.go([Pack(list(range(begin, begin + 8))) for begin in range(0, 1600, 8)])
    assert run.raised == []
    assert Counter(outcome[0] for outcome in outcomes) == {"ok": 1400, "invalid": 200}


def test_a_run_of_packs_that_cannot_work_costs_at_most_a_hundred_calls() -> None:
    run = Run(lambda *_: (0.2, error("PERMISSION_DENIED")), limits=Limits(max_in_flight=4000))
    outcomes = run.go(*[[Pack(list(range(begin, begin + 8))) for begin in range(0, 8000, 8)] for _ in range(4)])
    assert outcomes == []
    assert len(run.server.calls) <= 100
    assert len(run.raised) == 4


def outage(code: str, *, until: float = 80.0, fails_after: float = 0.05, **details: Any) -> Callable[..., Reply]:
    def reply(_request: int, _number: int, now: float) -> Reply:
        return (fails_after, error(code, **details)) if 1020 <= now < 1000 + until else (1.0, OK)

    return reply


@pytest.mark.parametrize("code", ["UNAVAILABLE", "INTERNAL", "UNKNOWN", "RESOURCE_EXHAUSTED"])
def test_a_minute_in_which_every_call_fails_is_survived_and_recovered_from_without_a_burst(code: str) -> None:
    run = Run(outage(code), limits=Limits(max_in_flight=100), pace=Pace(rng=random.Random(2)))
    outcomes = run.go(rows(4000), rows(4000, 4000))
    assert sorted(outcome[1] for outcome in outcomes if outcome[0] == "ok") == list(range(8000))
    assert len(outcomes) == 8000
    assert run.server.sent_between(25, 80) <= 40  # probes, at the floor
    before = 100
    seconds = [run.server.sent_between(second, second + 1) for second in range(80, 140)]
    assert max(seconds) <= 1.1 * before
    assert max(seconds[:3]) <= 10
    assert sum(seconds[20:40]) >= 0.9 * before * 20
    assert len(run.server.calls) <= 8000 + 400


def test_a_retry_delay_in_a_minute_of_rejections_is_kept_by_all() -> None:
    run = Run(
        outage("RESOURCE_EXHAUSTED", retry_delay_secs=25.0),
        limits=Limits(max_in_flight=100),
        pace=Pace(rng=random.Random(2)),
    )
    outcomes = run.go(rows(5000))
    assert len(outcomes) == 5000
    assert run.server.sent_between(20.5, 80) <= 30
    assert max(run.server.sent_between(second, second + 1) for second in range(80, 120)) <= 110


@pytest.mark.parametrize("count", [1, 3, 30])
def test_a_small_run_survives_a_minute_without_service_too(count: int) -> None:
    run = Run(lambda request, number, now: (0.05, error("UNAVAILABLE")) if now < 1060 else (1.0, OK))
    outcomes = run.go(rows(count))
    assert sorted(outcomes) == [("ok", key) for key in range(count)]


def test_a_service_that_times_out_for_a_minute_is_probed_slowly() -> None:
    run = Run(
        outage("DEADLINE_EXCEEDED", fails_after=10.0),
        limits=Limits(max_in_flight=100, call_timeout_secs=10),
        pace=Pace(rng=random.Random(2)),
    )
    jobs = rows(6000)
    outcomes = run.go(jobs)
    assert len(outcomes) == 6000
    assert run.server.sent_between(45, 80) <= 150
    assert sum(job.charged for job in jobs) == run.engine.stats().timed_out > 0


def test_an_outage_of_more_than_ten_minutes_halts_the_run_and_files_nothing() -> None:
    run = Run(outage("UNAVAILABLE", until=1e9), limits=Limits(max_in_flight=100), pace=Pace(rng=random.Random(2)))
    outcomes = run.go(rows(5000), rows(5000, 5000))
    assert {outcome[0] for outcome in outcomes} == {"ok"}
    assert len(run.raised) == 2
    assert "600 s" in str(run.raised[0])
    assert "UNAVAILABLE" in str(run.raised[0])
    assert 1620 <= run.world.now() <= 1700


@pytest.mark.parametrize("latency", [5.0, 20.0])
def test_an_outage_in_which_calls_sent_before_still_succeed_costs_few_calls_and_no_row(latency: float) -> None:
    def reply(_request: int, _number: int, now: float) -> Reply:
        return (0.05, error("UNAVAILABLE")) if 1100 <= now < 1160 else (latency, OK)

    run = Run(reply, pace=Pace(rng=random.Random(1)))
    outcomes = run.go(Row(key) for key in itertools.takewhile(lambda _: run.world.now() < 1200, itertools.count()))
    assert {outcome[0] for outcome in outcomes} == {"ok"}
    assert run.server.sent_between(100, 160) <= 120


@pytest.mark.parametrize("delay", [100.0, 130.0, 300.0])
def test_an_outage_halts_the_run_after_its_time_however_long_the_server_asks_to_wait(delay: float) -> None:
    run = Run(lambda *_: (0.1, error("UNAVAILABLE", retry_delay_secs=delay)), limits=Limits(max_in_flight=50))
    assert run.go(rows(200)) == []
    assert "no call succeeded for 600 s" in str(run.raised[0])
    assert run.world.now() - 1000 < 600 + delay


def test_an_outage_is_not_said_to_last_while_calls_sent_before_it_succeed() -> None:
    """Answers take three times as long as a run may go without one; after the outage every third call still fails."""
    limits = Limits(
        max_in_flight=100, call_timeout_secs=300.0, row_deadline_secs=1e3, outage_secs=60.0, backoff_secs=0.1
    )

    def reply(request: int, number: int, now: float) -> Reply:
        if 1150 <= now < 1160 or (1160 <= now < 1330 and number % 3 == 0):
            return 0.05, error("UNAVAILABLE")
        return (100.0 + 1.8 * request if request < 100 else 180.0), OK

    run = Run(reply, limits=limits)
    outcomes = run.go(rows(300))
    assert run.raised == []
    assert {outcome[0] for outcome in outcomes} == {"ok"}
    assert len(outcomes) == 300


def test_a_broken_connection_is_no_outage() -> None:
    """Eighty calls on one channel fail in the same moment; the others go on."""

    def reply(_request: int, number: int, now: float) -> Reply:
        return (1.0, error("UNAVAILABLE")) if 1010 <= now < 1010.4 else (1.0, OK)

    run = Run(reply, limits=Limits(max_in_flight=200), pace=Pace(rng=random.Random(2)))
    outcomes = run.go(rows(8000))
    assert len(outcomes) == 8000
    assert min(run.server.sent_between(second, second + 1) for second in range(12, 35)) >= 100


def test_one_row_with_a_lasting_error_at_the_end_of_a_run_does_not_hold_it_up_or_halt_it() -> None:
    run = Run(lambda request, *_: (0.2, error("INTERNAL") if request == 49 else OK))
    outcomes = run.go(rows(50))
    assert ("unavailable", 49, 5, 5) in outcomes
    assert run.raised == []
    assert run.world.now() - 1000 < 60


def test_one_row_that_never_gets_through_is_given_up_at_the_end_of_a_run_and_halts_nothing() -> None:
    run = Run(lambda request, *_: (0.2, error("UNAVAILABLE") if request == 49 else OK), limits=Limits(max_in_flight=5))
    outcomes = run.go(rows(50))
    assert [outcome[:2] for outcome in outcomes if outcome[0] != "ok"] == [("unavailable", 49)]
    assert run.raised == []
    assert run.world.now() - 1000 < 150


def test_a_run_of_one_row_without_any_service_ends_within_minutes_and_files_it_as_unavailable() -> None:
    run = Run(lambda *_: (0.2, error("UNAVAILABLE")), pace=Pace(rng=random.Random(1)))
    assert [outcome[0] for outcome in run.go(rows(1))] == ["unavailable"]
    assert 90 <= run.world.now() - 1000 < 300
