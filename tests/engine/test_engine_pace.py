"""The pace against simulated servers: no sleeping, no threads, the same every time."""

from __future__ import annotations

import heapq
import itertools
import random
from collections import Counter, deque
from collections.abc import Callable

import pytest

from pipeline.engine import Pace
from pipeline.engine.pace import START_PER_SEC

Taken = Callable[[float], bool]


def bucket(quota: float) -> Taken:
    """A server that takes `quota` calls a second, and has room for the quota of one second."""
    state = {"level": quota, "at": 0.0}

    def take(now: float) -> bool:
        state["level"] = min(quota, state["level"] + (now - state["at"]) * quota)
        state["at"] = now
        taken = state["level"] >= 1
        state["level"] -= taken
        return taken

    return take


def strict_second(quota: int) -> Taken:
    """A server that takes `quota` calls in any second, to the letter."""
    recent: deque[float] = deque()

    def take(now: float) -> bool:
        while recent and recent[0] <= now - 1:
            recent.popleft()
        taken = len(recent) < quota
        if taken:
            recent.append(now)
        return taken

    return take


def fixed_minute(quota: float) -> Taken:
    """A server that takes the quota of a minute as fast as it comes, then nothing until the next minute."""
    taken: Counter[int] = Counter()

    def take(now: float) -> bool:
        minute = int(now // 60)
        taken[minute] += taken[minute] < 60 * quota
        return bool(taken[minute] < 60 * quota)

    return take


class Simulation:
    """Workers that know nothing of each other, always with something to ask, and one server."""

    def __init__(
        self, take: Taken, *, workers: int = 1, latency: float = 1.0, reject_after: float = 1.0, window: int = 10**9
    ) -> None:
        seeds = random.Random(workers)
        self.paces = [Pace(rng=random.Random(seeds.random())) for _ in range(workers)]
        self.left: list[float] = []
        self.landed: list[tuple[float, bool]] = []
        self._take, self._latency, self._reject_after, self._window = take, latency, reject_after, window
        self._flying = [0] * workers
        self._blocked = [False] * workers
        self._order = itertools.count()
        self._events: list[tuple[float, int, int, tuple[bool, float] | None]] = []
        for worker in range(workers):
            self._push(seeds.random(), worker, None)

    def run(self, until: float) -> Simulation:
        while self._events and self._events[0][0] <= until:
            now, _, worker, landing = heapq.heappop(self._events)
            if landing is None:
                self._try_to_leave(now, worker)
            else:
                self._land(now, worker, *landing)
        return self

    def used(self, quota: float, begin: float, end: float) -> float:
        """The share of the quota that was used."""
        return sum(ok for at, ok in self.landed if begin <= at < end) / (quota * (end - begin))

    def rejected(self, begin: float, end: float) -> float:
        """The share of the calls that were rejected."""
        within = [ok for at, ok in self.landed if begin <= at < end]
        return 1 - sum(within) / len(within)

    def departures(self, begin: float, end: float) -> int:
        return sum(begin <= at < end for at in self.left)

    def _push(self, at: float, worker: int, landing: tuple[bool, float] | None) -> None:
        heapq.heappush(self._events, (at, next(self._order), worker, landing))

    def _try_to_leave(self, now: float, worker: int) -> None:
        if self._flying[worker] >= self._window:
            self._blocked[worker] = True
            return
        wait = self.paces[worker].reserve(now)
        if not wait:
            self.left.append(now)
            self._flying[worker] += 1
            ok = self._take(now)
            self._push(now + (self._latency if ok else self._reject_after), worker, (ok, now))
        self._push(now + wait, worker, None)

    def _land(self, now: float, worker: int, ok: bool, left_at: float) -> None:
        self.landed.append((now, ok))
        self._flying[worker] -= 1
        (self.paces[worker].succeeded if ok else self.paces[worker].rejected)(now, left_at)
        if self._blocked[worker]:
            self._blocked[worker] = False
            self._push(now, worker, None)


@pytest.mark.parametrize("reject_after", [0.05, 1.0])
@pytest.mark.parametrize("server", [bucket, strict_second])
@pytest.mark.parametrize("workers", [1, 2, 4])
def test_workers_that_share_a_quota_use_it_and_are_rarely_rejected(
    workers: int, server: Callable[[int], Taken], reject_after: float
) -> None:
    simulation = Simulation(server(50), workers=workers, reject_after=reject_after).run(160)
    assert simulation.used(50, 60, 160) >= 0.95
    assert simulation.rejected(60, 160) < 0.02


@pytest.mark.parametrize("reject_after", [0.05, 1.0])
@pytest.mark.parametrize(("quota", "latency"), [(500, 1.0), (50, 3.0), (50, 0.2), (10, 1.0)])
def test_other_quotas_and_latencies_do_as_well(quota: int, latency: float, reject_after: float) -> None:
    simulation = Simulation(bucket(quota), workers=2, latency=latency, reject_after=reject_after * latency).run(220)
    assert simulation.used(quota, 120, 220) >= 0.95
    assert simulation.rejected(120, 220) < 0.02


def test_the_start_doubles_every_second_and_is_no_burst() -> None:
    simulation = Simulation(lambda now: True, latency=1.0).run(7)
    begin = simulation.left[0]
    by_second = [simulation.departures(begin + second, begin + second + 1) for second in range(6)]
    assert by_second[0] <= 9
    for before, after in itertools.pairwise(by_second):
        assert 1.6 <= after / before <= 2.4
    first_tenth = simulation.departures(begin, begin + 0.1)
    assert first_tenth <= 2


def test_departures_are_evenly_spaced_with_jitter() -> None:
    simulation = Simulation(bucket(50)).run(100)
    begin = 90.0
    tenths = Counter(int((at - begin) * 10) for at in simulation.left if begin <= at < begin + 10)
    assert all(3 <= tenths[tenth] <= 7 for tenth in range(100))
    gaps = {round(after - before, 5) for before, after in itertools.pairwise(simulation.left[-100:])}
    assert len(gaps) > 50


def test_without_rejections_the_window_limits_and_the_pace_stays_near_what_is_sent() -> None:
    simulation = Simulation(lambda now: True, latency=1.0, window=100).run(600)
    assert simulation.departures(300, 600) >= 0.99 * 100 * 300
    assert 100 < simulation.paces[0].rate <= 210


def test_a_quota_that_comes_late_meets_no_burst() -> None:
    """For ten minutes the window limits at 100/s; then the server answers ten times as fast, and takes 50/s."""
    limited = bucket(50)
    simulation = Simulation(lambda now: now < 600 or limited(now), latency=1.0, window=100).run(600)
    simulation._latency = simulation._reject_after = 0.1
    simulation.run(700)
    assert max(simulation.departures(second, second + 1) for second in range(600, 605)) <= 250
    assert simulation.rejected(650, 700) < 0.02
    assert simulation.used(50, 650, 700) >= 0.95


def test_idle_time_is_not_saved_up() -> None:
    pace = Pace(rng=random.Random(1))
    now = 0.0
    for _ in range(200):
        now += pace.reserve(now)
        pace.reserve(now)
    rate = pace.rate
    now += 3600
    burst = 0
    while not pace.reserve(now):
        burst += 1
    assert burst <= 2 + rate * 0.03


def test_at_most_one_cut_a_second_and_none_for_calls_that_left_before_it() -> None:
    pace = Pace(rng=random.Random(1))
    pace.rate = 100.0
    now = 10.0
    for _ in range(200):
        now += pace.reserve(now)
    before = pace.rate
    pace.rejected(now, now - 0.5)
    once = pace.rate
    assert 0.5 * before < once <= 0.7 * before
    pace.rejected(now + 0.5, now + 0.1)
    pace.rejected(now + 5, now - 0.1)
    assert pace.rate == once
    pace.rejected(now + 5, now + 0.3)
    assert pace.rate < once


def test_a_server_that_rejects_everything_is_probed_at_the_floor_and_recovered_from_without_a_burst() -> None:
    limited = bucket(50)
    simulation = Simulation(lambda now: not 60 <= now < 120 and limited(now), reject_after=0.05).run(240)
    assert simulation.departures(70, 120) <= 30
    after = [simulation.departures(second, second + 1) for second in range(120, 240)]
    assert max(after) <= 75  # the server has saved up 50 calls meanwhile, and takes them
    assert all(later <= max(2.4 * sooner, 8) for sooner, later in itertools.pairwise(after))
    assert sum(after[30:60]) >= 0.9 * 50 * 30
    assert simulation.used(50, 180, 240) >= 0.95


@pytest.mark.parametrize("reject_after", [0.05, 1.0])
def test_after_short_storms_it_is_soon_back_at_what_the_server_took_before(reject_after: float) -> None:
    limited = bucket(100)
    storms = [(60, 64), (72, 75), (83, 88), (96, 99)]
    simulation = Simulation(
        lambda now: not any(begin <= now < end for begin, end in storms) and limited(now),
        workers=2,
        reject_after=reject_after,
    ).run(140)
    assert simulation.used(100, 99, 140) >= 0.8
    assert simulation.used(100, 114, 140) >= 0.95
    after = [simulation.departures(second, second + 1) for second in range(99, 140)]
    assert all(later <= max(2.4 * sooner, 20) for sooner, later in itertools.pairwise(after))


@pytest.mark.parametrize(("before", "after", "secs"), [(50, 75, 25), (20, 200, 85), (50, 500, 85)])
@pytest.mark.parametrize("workers", [1, 4])
def test_a_quota_that_rises_is_found_in_a_minute_and_a_half(before: int, after: int, secs: int, workers: int) -> None:
    low, high = bucket(before), bucket(after)
    simulation = Simulation(lambda now: (low if now < 60 else high)(now), workers=workers).run(60 + secs + 40)
    assert simulation.used(after, 60 + secs, 60 + secs + 40) >= 0.95
    assert simulation.rejected(60, 60 + secs + 40) <= 0.06


@pytest.mark.parametrize("latency", [0.3, 1.0])
@pytest.mark.parametrize(("storm", "every", "least"), [(1, 10, 0.9), (2, 10, 0.6), (2, 20, 0.8), (3, 20, 0.75)])
def test_storms_that_come_again_and_again_leave_what_is_between_them(
    storm: float, every: float, least: float, latency: float
) -> None:
    limited = bucket(50)
    simulation = Simulation(
        lambda now: (now < 60 or now % every > storm) and limited(now), latency=latency, reject_after=0.05
    ).run(400)
    assert simulation.used(50 * (1 - storm / every), 200, 400) >= least


@pytest.mark.parametrize("workers", [1, 4])
def test_a_quota_of_a_minute_is_used_up_and_not_run_into_all_the_time(workers: int) -> None:
    simulation = Simulation(fixed_minute(50), workers=workers, reject_after=0.05).run(420)
    assert simulation.used(50, 240, 420) >= 0.95
    assert simulation.rejected(240, 420) < 0.12


@pytest.mark.parametrize("latency", [1.0, 5.0])
def test_a_run_that_begins_in_a_storm_has_learnt_nothing_from_it(latency: float) -> None:
    limited = bucket(100)
    simulation = Simulation(lambda now: now > 20 and limited(now), latency=latency, reject_after=0.05).run(80)
    assert simulation.used(100, 45, 80) >= 0.9


def test_a_few_rejections_that_no_pace_prevents_do_not_slow_it_down() -> None:
    dice = random.Random(3)
    simulation = Simulation(lambda now: dice.random() >= 0.005, reject_after=0.1, window=200).run(200)
    assert simulation.used(200, 100, 200) >= 0.9


def test_slow_answers_do_not_slow_the_recovery_where_rejections_are_fast() -> None:
    low, high = bucket(50), bucket(200)
    simulation = Simulation(
        lambda now: low(now) if now < 100 else now > 120 and high(now), latency=10.0, reject_after=0.05
    ).run(240)
    assert simulation.used(200, 215, 240) >= 0.8


def test_a_hold_keeps_every_call_back_until_it_ends_and_then_lets_no_burst_out() -> None:
    pace = Pace(rng=random.Random(1))
    pace.rate = 50.0
    assert pace.reserve(100.0) == 0
    pace.hold(100.0, 30.0)
    assert pace.reserve(101.0) == pytest.approx(29.0)
    assert pace.reserve(129.9) == pytest.approx(0.1)
    left = 0
    now = 130.0
    while now < 131.0:
        wait = pace.reserve(now)
        left += not wait
        now += wait
    assert 40 <= left <= 60


def test_a_rejection_right_after_a_hold_is_no_reason_to_crawl() -> None:
    pace = Pace(rng=random.Random(1))
    now = 100.0
    landings: deque[float] = deque()

    def ask(secs: float, reject: int = 0) -> int:
        """Asks for so long, with an answer after a second each; that one call is rejected at once."""
        nonlocal now
        end, left = now + secs, 0
        while now < end:
            while landings and landings[0] <= now - 1:
                pace.succeeded(now, landings.popleft())
            wait = pace.reserve(now)
            if not wait:
                left += 1
                if left == reject:
                    pace.rejected(now + 0.02, now)
                else:
                    landings.append(now)
            now += min(wait, 0.05) or 1e-6
        return left

    ask(6)
    before = ask(1)
    pace.hold(now, 3.0)
    ask(3.0)
    ask(1.0, reject=3)
    ask(8.0)
    assert ask(1) >= 0.5 * before


def test_a_hold_is_bounded_to_ten_minutes() -> None:
    pace = Pace()
    pace.hold(0.0, 1e9)
    assert pace.reserve(0.0) == 600.0


def test_after_a_collapse_the_rate_doubles_back_from_the_floor_only_when_a_call_succeeded() -> None:
    pace = Pace(rng=random.Random(1))
    pace.rate = 200.0
    pace.collapse(100.0)
    assert pace.rate == 0.5
    now = 100.0
    for _ in range(10):
        now += pace.reserve(now)
        pace.reserve(now)
    assert pace.rate == 0.5
    left_at = now
    pace.succeeded(now + 1, left_at)
    rates = []
    for _ in range(40):
        now += pace.reserve(now)
        pace.reserve(now)
        rates.append(pace.rate)
    assert rates == sorted(rates)
    assert rates[0] <= START_PER_SEC
    assert rates[-1] > 2 * START_PER_SEC


@pytest.mark.parametrize("cap", [6, 60, 600, 30_000])
def test_no_minute_sees_more_calls_than_the_cap_nor_much_less(cap: int) -> None:
    pace = Pace(requests_per_minute=cap, rng=random.Random(cap))
    pace.rate = 1e9
    late = random.Random(1)
    left = []
    now = 0.0
    while now < 300:
        wait = pace.reserve(now)
        if not wait:
            left.append(now)
        now += wait + (late.random() * 0.01 if wait else 0.0)
    worst = 0
    first = 0
    for last, at in enumerate(left):
        while left[first] <= at - 60:
            first += 1
        worst = max(worst, last - first + 1)
    assert worst <= cap
    assert len(left) >= 0.95 * cap * 5
    most_in_a_second = max(Counter(int(at) for at in left).values())
    assert most_in_a_second <= cap / 60 * 1.1 + 2


def test_the_cap_leaves_no_rate_in_store() -> None:
    pace = Pace(requests_per_minute=600, rng=random.Random(1))
    now = 0.0
    for _ in range(3000):
        now += pace.reserve(now)
        pace.reserve(now)
    assert pace.rate <= 21


def test_tokens_are_reserved_by_estimate_and_settled_by_use() -> None:
    pace = Pace(tokens_per_minute=60_000, rng=random.Random(1))
    pace.rate = 1e9
    assert pace.reserve(0.0, 2_000) == 0
    assert pace.reserve(0.0, 2_000) == pytest.approx(2.0, abs=0.05)
    pace.settle(2_000, 500)
    assert pace.reserve(0.0, 2_000) == pytest.approx(0.5, abs=0.05)
    assert pace.reserve(0.6, 2_000) == 0
    pace.settle(2_000, 5_000)
    assert pace.reserve(0.6, 1) == pytest.approx(4.9, abs=0.1)


def test_a_call_larger_than_a_minute_of_tokens_is_paid_off_not_stuck() -> None:
    pace = Pace(tokens_per_minute=600, rng=random.Random(1))
    pace.rate = 1e9
    assert pace.reserve(0.0, 1_200) == 0
    assert pace.reserve(0.0, 1_200) == pytest.approx(120, abs=0.1)
    assert pace.reserve(120.0, 1_200) == 0


def test_no_minute_sees_more_tokens_than_the_cap_and_one_call() -> None:
    pace = Pace(tokens_per_minute=100_000, rng=random.Random(1))
    pace.rate = 1e9
    sizes = random.Random(2)
    left: list[tuple[float, int]] = []
    now = 0.0
    size = 1000
    while now < 300:
        wait = pace.reserve(now, size)
        if not wait:
            left.append((now, size))
            size = sizes.randrange(200, 3000)
        now += wait
    for begin, _ in left:
        assert sum(tokens for at, tokens in left if begin <= at < begin + 60) <= 103_100
    assert sum(tokens for _, tokens in left) >= 0.97 * 500_000


@pytest.mark.parametrize("name", ["requests_per_minute", "tokens_per_minute"])
def test_a_cap_must_be_positive(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} is 0"):
        Pace(**{name: 0})  # type: ignore[arg-type]
