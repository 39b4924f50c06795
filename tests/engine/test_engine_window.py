"""The window: slots, turns, bounds, retries, packs and ends, in virtual time."""

from __future__ import annotations

import random
from typing import Any

import pytest
from engine_world import OK, Pack, Reply, Row, Run, error, fast_pace, rows

from pipeline.engine import Again, Engine, Landed, Limits, Pace, Split


def answer(_request: Any, _number: int, _now: float) -> Reply:
    return 1.0, OK


def keys(outcomes: list[Any]) -> list[Any]:
    return sorted(outcome[1] for outcome in outcomes)


def test_every_row_comes_out_once_and_the_window_is_full_but_never_exceeded() -> None:
    run = Run(answer, limits=Limits(max_in_flight=100))
    outcomes = run.go(rows(2000), rows(2000, 2000))
    assert keys(outcomes) == list(range(4000))
    assert run.server.most_in_flight == 100
    assert run.world.now() - 1000 <= 4000 / 100 + 2


def test_a_window_of_four_thousand_is_filled_by_four_bundles() -> None:
    run = Run(answer, limits=Limits(max_in_flight=4000))
    outcomes = run.go(*[rows(3000, 3000 * lane) for lane in range(4)])
    assert keys(outcomes) == list(range(12_000))
    assert run.server.most_in_flight == 4000
    assert run.world.now() - 1000 <= 12_000 / 4000 + 2


def test_bundles_take_slots_in_turn() -> None:
    run = Run(answer, limits=Limits(max_in_flight=50))
    run.go(*[[Row((lane, row)) for row in range(500)] for lane in range(4)])
    middle = run.server.calls[200:1800]
    for begin in range(0, len(middle), 40):
        lanes = [call.request[0] for call in middle[begin : begin + 40]]
        assert [lanes.count(lane) for lane in range(4)] == [10, 10, 10, 10]


def test_a_bundle_that_is_slow_to_take_its_outcomes_does_not_hold_up_the_others() -> None:
    run = Run(answer, limits=Limits(max_in_flight=10))
    lane = run.engine.lane()
    slow: list[Any] = []

    def slow_bundle() -> None:
        for row in rows(20):
            for outcome in lane.offer(row):
                run.world.sleep(100.0)  # what comes after the engine takes its time
                slow.append(outcome)
        slow.extend(lane.drain())

    ended: list[float] = []
    quick = run.bundle(rows(200, 100))

    def quick_bundle() -> None:
        quick()
        ended.append(run.world.now() - 1000)

    run.world.run(slow_bundle, quick_bundle, close=run.engine.close)
    assert len(slow) == 20
    assert len(run.outcomes[0]) == 200
    assert ended[0] <= 50


def test_a_slot_is_free_when_its_call_lands_not_when_the_outcome_is_taken() -> None:
    run = Run(answer, limits=Limits(max_in_flight=2))
    first, second = run.engine.lane(), run.engine.lane()
    taken: list[Any] = []

    def work() -> None:
        for row in rows(2):
            taken.extend(first.offer(row))
        run.world.sleep(5.0)
        for row in rows(2, 2):
            taken.extend(second.offer(row))
        assert taken == []
        assert run.world.now() == 1005.0
        taken.extend(first.drain())
        taken.extend(second.drain())

    run.world.run(work, close=run.engine.close)
    assert len(taken) == 4


def test_nothing_is_read_ahead() -> None:
    run = Run(answer, limits=Limits(max_in_flight=7))
    sent_when_offered = []

    def jobs() -> Any:
        for row in rows(100):
            sent_when_offered.append(len(run.server.calls))
            yield row

    run.go(jobs())
    assert sent_when_offered == list(range(100))


def test_outcomes_are_handed_on_while_a_bundle_waits_for_its_turn() -> None:
    def reply(request: int, _number: int, _now: float) -> Reply:
        return (1.0, OK) if request == 0 else (60.0, OK)

    run = Run(reply, limits=Limits(max_in_flight=2))
    lane = run.engine.lane()
    taken_at = {}

    def work() -> None:
        for row in rows(4):
            for outcome in lane.offer(row):
                taken_at[outcome[1]] = run.world.now() - 1000
        for outcome in lane.drain():
            taken_at[outcome[1]] = run.world.now() - 1000

    run.world.run(work, close=run.engine.close)
    assert taken_at[0] == pytest.approx(1.0, abs=0.06)


def test_outcomes_are_handed_on_while_a_bundle_waits_for_the_pace() -> None:
    def reply(request: int, _number: int, now: float) -> Reply:
        is_taken = request == 0 or now > 1100
        return (1.0, OK) if is_taken else (0.5, error("RESOURCE_EXHAUSTED", retry_delay_secs=120.0))

    run = Run(reply, limits=Limits(max_in_flight=2))
    lane = run.engine.lane()
    taken_at = {}

    def work() -> None:
        for row in rows(3):
            for outcome in lane.offer(row):
                taken_at[outcome[1]] = run.world.now() - 1000
        run.engine.stop("enough", 0)
        list(lane.drain())

    run.world.run(work, close=run.engine.close)
    assert taken_at[0] == pytest.approx(1.0, abs=0.06)
    assert lane.throttled_ms() == pytest.approx(120_000, abs=2_000)
    assert lane.throttled_ms() == 0


def test_rows_in_flight_or_waiting_for_a_retry_are_at_most_twice_the_window() -> None:
    faults = random.Random(5)

    def reply(_request: int, _number: int, _now: float) -> Reply:
        if faults.random() < 0.6:
            return 0.1, error("UNAVAILABLE", retry_delay_secs=6.0 * faults.random())
        return 1.0, OK

    class NoHold(Pace):
        def hold(self, now: float, secs: float) -> None:
            return

    most = []

    class Watched(Engine):
        def board(self, *args: Any) -> float | None:
            wait = super().board(*args)
            stats = self.stats()
            most.append((stats.unresolved_rows, stats.waiting))
            return wait

    pace = NoHold(rng=random.Random(1))
    pace.rate = 1e6
    run = Run(reply, limits=Limits(max_in_flight=20, max_attempts=1000), pace=pace, engine=Watched)
    outcomes = run.go(rows(120), rows(120, 120))
    assert keys(outcomes) == list(range(240))
    assert max(unresolved for unresolved, _ in most) == 40
    assert max(waiting for _, waiting in most) >= 20
    assert run.server.most_in_flight <= 20


def test_retries_go_before_new_rows_and_hold_no_slot_while_they_wait() -> None:
    def reply(request: int, number: int, _now: float) -> Reply:
        return (0.1, error("ABORTED", retry_delay_secs=3.0)) if number == 1 else (1.0, OK)

    class NoHold(Pace):
        def hold(self, now: float, secs: float) -> None:
            return

    pace = NoHold(rng=random.Random(1))
    pace.rate = 1e6
    run = Run(reply, limits=Limits(max_in_flight=2), pace=pace)
    run.go(rows(40))
    again = [call.at - 1000 for call in run.server.calls if call.request == 0]
    # The other rows keep both slots busy meanwhile; the retry takes the first that is free when its time has come.
    assert again[1] == pytest.approx(4.0, abs=0.2)
    assert run.world.now() - 1000 == pytest.approx(20.5, abs=0.6)


def test_a_server_delay_is_obeyed_to_the_letter_and_nothing_new_is_sent_before_its_end() -> None:
    def reply(request: int, number: int, _now: float) -> Reply:
        return (0.5, error("RESOURCE_EXHAUSTED", retry_delay_secs=30.0)) if number == 5 else (0.2, OK)

    run = Run(reply, limits=Limits(max_in_flight=5))
    outcomes = run.go(rows(50))
    assert keys(outcomes) == list(range(50))
    rejected = run.server.calls[4]
    landed = rejected.at + 0.5
    assert not [call for call in run.server.calls if landed < call.at < landed + 30.0]
    assert [call.at >= landed + 30.0 for call in run.server.calls if call.request == rejected.request] == [False, True]


def test_a_rejection_for_quota_costs_no_attempt() -> None:
    def reply(request: int, number: int, _now: float) -> Reply:
        return (0.1, OK) if number > 12 else (0.1, error("RESOURCE_EXHAUSTED"))

    seen = []

    class Counting(Row):
        def answered(self, response: Any, latency_ms: float, attempts: int, calls: int) -> Landed:
            seen.append((attempts, calls))
            return Landed((("ok", self.key),))

    run = Run(reply)
    assert run.go([Counting(0)]) == [("ok", 0)]
    assert seen == [(1, 13)]


def test_a_row_that_is_rejected_for_an_hour_is_given_up_as_rate_limited() -> None:
    run = Run(lambda *_: (0.1, error("RESOURCE_EXHAUSTED")), pace=Pace(rng=random.Random(1)))
    outcomes = run.go(rows(3))
    assert {outcome[0] for outcome in outcomes} == {"rate_limited"}
    assert keys(outcomes) == [0, 1, 2]
    assert all(attempts == 0 for _, _, attempts, _ in outcomes)
    assert 3600 <= run.world.now() - 1000 < 3800


def test_a_row_that_is_told_to_wait_for_longer_than_it_may_is_given_up_at_once() -> None:
    run = Run(lambda *_: (0.1, error("RESOURCE_EXHAUSTED", retry_delay_secs=7200.0)))
    assert run.go(rows(1)) == [("rate_limited", 0, 0, 1)]
    assert run.world.now() - 1000 < 1


def test_a_row_gets_so_many_attempts_and_then_fails_with_what_happened() -> None:
    def reply(request: int, _number: int, _now: float) -> Reply:
        return (0.1, error("INTERNAL")) if request == 7 else (1.0, OK)

    run = Run(reply, limits=Limits(max_in_flight=4))
    outcomes = run.go(rows(40))
    assert [outcome for outcome in outcomes if outcome[0] != "ok"] == [("unavailable", 7, 5, 5)]
    assert len(outcomes) == 40


def test_a_single_row_that_always_fails_is_given_up_though_nothing_else_is_asked() -> None:
    run = Run(lambda *_: (0.1, error("INTERNAL")))
    assert run.go(rows(1)) == [("unavailable", 0, 5, 5)]


def test_a_row_is_asked_no_longer_than_its_deadline() -> None:
    def reply(request: int, _number: int, _now: float) -> Reply:
        return (50.0, error("DEADLINE_EXCEEDED")) if request == 0 else (1.0, OK)

    run = Run(reply, limits=Limits(max_in_flight=2, row_deadline_secs=120, call_timeout_secs=60))
    outcomes = run.go(rows(300))
    assert ("timed_out", 0, 3, 3) in outcomes
    timeouts = [call.timeout_secs for call in run.server.calls if call.request == 0]
    assert timeouts[0] == 60
    assert timeouts[-1] < 25


def test_waiting_for_the_pace_does_not_count_to_the_deadline() -> None:
    def reply(request: int, number: int, _now: float) -> Reply:
        if number <= 3:
            return 0.1, error("RESOURCE_EXHAUSTED", retry_delay_secs=200.0)
        return (0.1, error("ABORTED")) if number == 4 else (0.1, OK)

    run = Run(reply, limits=Limits(row_deadline_secs=60))
    assert run.go(rows(1)) == [("ok", 0)]
    assert run.world.now() - 1000 > 400


def test_a_call_that_never_lands_is_taken_for_timed_out_and_charged() -> None:
    def reply(request: int, number: int, _now: float) -> Reply:
        return None if number == 1 else (1.0, OK)

    run = Run(reply, limits=Limits(max_in_flight=5, call_timeout_secs=30))
    jobs = rows(20)
    outcomes = run.go(jobs)
    assert keys(outcomes) == list(range(20))
    assert jobs[0].charged == 1
    assert run.server.calls[0].cancelled
    assert run.world.now() - 1000 == pytest.approx(37, abs=2)
    assert run.engine.stats().timed_out == 1


def test_an_answer_that_comes_after_its_call_was_given_up_is_ignored() -> None:
    def reply(request: int, number: int, _now: float) -> Reply:
        return (40.0, OK) if number == 1 else (20.0, OK)

    run = Run(reply, limits=Limits(call_timeout_secs=30))
    assert run.go(rows(1)) == [("ok", 0)]
    assert len(run.server.calls) == 2


def test_calls_that_fail_or_succeed_within_send_do_not_deadlock() -> None:
    def reply(request: int, number: int, _now: float) -> Reply:
        if number % 3 == 0:
            return -1.0, error("UNAVAILABLE")
        return -1.0, OK

    run = Run(reply, limits=Limits(max_in_flight=3))
    outcomes = run.go(rows(1000), rows(1000, 1000))
    assert keys(outcomes) == list(range(2000))


@pytest.mark.parametrize("method", ["tokens", "request", "answered", "failed", "timed_out"])
@pytest.mark.parametrize("latency", [1.0, -1.0])
def test_what_a_job_raises_is_raised_on_its_bundles_thread_and_the_others_go_on(method: str, latency: float) -> None:
    replies = {
        "answered": OK,
        "failed": error("NOT_FOUND"),
        "timed_out": error("DEADLINE_EXCEEDED"),
    }

    def reply(request: Any, _number: int, _now: float) -> Reply:
        return latency, (replies.get(method, OK) if request == "bad" else OK)

    class Bad(Row):
        def __getattribute__(self, name: str) -> Any:
            if name == method:
                raise ZeroDivisionError(f"in {name}")
            return super().__getattribute__(name)

    run = Run(reply, limits=Limits(max_in_flight=4))
    run.go([*rows(5), Bad("bad"), *rows(5, 5)], rows(100, 100))
    assert [str(raised) for raised in run.raised] == [f"in {method}"]
    assert len(run.outcomes[1]) == 100
    assert run.engine.stats().in_flight == 0
    assert run.server.in_flight == 0


def test_what_the_transport_raises_is_raised_on_the_bundles_thread_and_gives_the_slot_back() -> None:
    def reply(request: int, _number: int, _now: float) -> Reply:
        if request == 3:
            raise ValueError("channel closed")
        return 1.0, OK

    run = Run(reply, limits=Limits(max_in_flight=2))
    run.go(rows(10), rows(50, 100))
    assert [str(raised) for raised in run.raised] == ["channel closed"]
    assert len(run.outcomes[1]) == 50


def test_a_job_may_ask_again_at_once_and_that_is_an_attempt() -> None:
    seen = []

    class Corrected(Row):
        asked = 0

        def request(self) -> Any:
            self.asked += 1
            return (self.key, self.asked)

        def answered(self, response: Any, latency_ms: float, attempts: int, calls: int) -> Landed | Again:
            seen.append((self.key, attempts, calls))
            return Again(tokens=10) if self.asked == 1 else Landed((("ok", self.key),), tokens=10)

    run = Run(answer, limits=Limits(max_in_flight=2))
    assert keys(run.go([Corrected(0), *rows(10, 1)])) == list(range(11))
    assert seen == [(0, 1, 1), (0, 2, 2)]
    assert [call.request for call in run.server.calls[:4]] == [(0, 1), 1, (0, 2), 2]
    assert run.engine.stats().tokens == 20


def test_a_pack_that_fails_falls_apart_until_the_bad_row_is_alone() -> None:
    def reply(request: tuple[int, ...], _number: int, _now: float) -> Reply:
        return 0.5, error("INVALID_ARGUMENT") if 21 in request else OK

    run = Run(reply, limits=Limits(max_in_flight=3))
    outcomes = run.go([Pack(list(range(begin, begin + 8))) for begin in range(0, 64, 8)])
    assert [outcome for outcome in outcomes if outcome[0] != "ok"] == [("invalid", 21, 1, 1)]
    assert keys(outcomes) == list(range(64))


def test_packs_keep_the_bound_in_rows() -> None:
    most = []

    class Watched(Engine):
        def board(self, *args: Any) -> float | None:
            wait = super().board(*args)
            most.append(self.stats().unresolved_rows)
            return wait

    def reply(request: tuple[int, ...], _number: int, _now: float) -> Reply:
        return 0.5, error("INVALID_ARGUMENT") if len(request) > 1 and request[0] % 3 == 0 else OK

    run = Run(reply, limits=Limits(max_in_flight=3), engine=Watched)
    outcomes = run.go([Pack(list(range(begin, begin + 4))) for begin in range(0, 400, 4)])
    assert keys(outcomes) == list(range(400))
    assert max(most) <= 2 * 3 * 4


def test_a_split_may_bring_outcomes_of_the_rows_already_decided() -> None:
    class Half(Pack):
        def answered(self, response: Any, latency_ms: float, attempts: int, calls: int) -> Landed | Split:
            if self.rows == 4:
                return Split(
                    (Half(list(self.key[2:])),), outcomes=tuple(("early", key) for key in self.key[:2]), tokens=7
                )
            return Landed(tuple(("late", key) for key in self.key), tokens=3)

    run = Run(answer)
    assert run.go([Half([0, 1, 2, 3])]) == [("early", 0), ("early", 1), ("late", 2), ("late", 3)]
    stats = run.engine.stats()
    assert (stats.tokens, stats.unresolved_rows) == (10, 0)


def test_without_quota_the_engine_reaches_its_window_within_seconds() -> None:
    run = Run(answer, limits=Limits(max_in_flight=500), pace=Pace(rng=random.Random(1)))
    outcomes = run.go(rows(9000))
    assert len(outcomes) == 9000
    assert run.server.sent_between(10, 18) >= 0.99 * 500 * 8
    assert run.engine.stats().rate_per_sec <= 1100


def test_stats_add_up_when_all_is_done() -> None:
    run = Run(answer, pace=fast_pace())
    run.go([Row(key, tokens=100) for key in range(50)])
    stats = run.engine.stats()
    assert (stats.sent, stats.answered, stats.tokens) == (50, 50, 5000)
    assert (stats.in_flight, stats.waiting, stats.held, stats.unresolved_rows, stats.not_asked_rows) == (0, 0, 0, 0, 0)


@pytest.mark.parametrize(("used", "secs"), [(100, 20), (1000, 200), (0, 200)])
def test_the_token_cap_follows_what_responses_really_used(used: int, secs: float) -> None:
    """1,000 tokens a call are reserved, of 60,000 a minute; a response that does not say what it used counts as that."""

    class Spender(Row):
        def answered(self, response: Any, latency_ms: float, attempts: int, calls: int) -> Landed:
            return Landed((("ok", self.key),), tokens=used)

    pace = Pace(tokens_per_minute=60_000, rng=random.Random(1))
    pace.rate = 1e6
    run = Run(lambda *_: (0.01, OK), pace=pace)
    assert len(run.go([Spender(key, tokens=1000) for key in range(200)])) == 200
    assert run.world.now() - 1000 == pytest.approx(secs, rel=0.1)


def test_calls_that_were_rejected_use_no_tokens_of_the_cap() -> None:
    pace = Pace(tokens_per_minute=60_000, rng=random.Random(1))
    pace.rate = 1e6
    run = Run(lambda request, number, now: (0.01, error("ABORTED") if number % 2 else OK), pace=pace)
    run.go([Row(key, tokens=1000) for key in range(60)])
    assert run.world.now() - 1000 == pytest.approx(60, rel=0.1)
