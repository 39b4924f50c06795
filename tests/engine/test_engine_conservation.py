"""Whatever happens to the calls, each row offered comes out once, or is counted as not asked."""

from __future__ import annotations

import heapq
import itertools
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from engine_world import OK, Pack, Reply, Row, Run, error
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.engine import Again, CallError, Engine, EngineHalted, Landed, Limits, Pace

CODES = (
    "UNAVAILABLE",
    "INTERNAL",
    "ABORTED",
    "DEADLINE_EXCEEDED",
    "RESOURCE_EXHAUSTED",
    "NOT_FOUND",
    "PERMISSION_DENIED",
    "INVALID_ARGUMENT",
    "UNAUTHENTICATED",
    "BROKEN",  # a response that has to be asked again
    "HANG",
)


class Corrected(Row):
    """A row whose response may be unusable; it is asked again once for that."""

    again = False

    def answered(self, response: Any, latency_ms: float, attempts: int, calls: int) -> Landed | Again:
        if response == "broken" and not self.again:
            self.again = True
            return Again(tokens=3)
        return Landed((("ok", self.key),), tokens=5)


class Faults:
    """A server with random faults, the same for the same seed."""

    def __init__(self, seed: int, weights: list[int]) -> None:
        self._rng = random.Random(seed)
        self._choices = ["OK", *CODES]
        self._weights = [30, *weights]

    def __call__(self, _request: Any, _number: int, _now: float) -> Reply:
        rng = self._rng
        code = rng.choices(self._choices, self._weights)[0]
        latency = rng.choice([-1.0, 0.0, 0.01, 0.3, 1.0, rng.lognormvariate(0, 1.0)])
        if code == "OK":
            return latency, OK
        if code == "BROKEN":
            return latency, "broken"
        if code == "HANG":
            return None
        delay = rng.choice([None, None, None, 0.5, 5.0]) if code in ("RESOURCE_EXHAUSTED", "UNAVAILABLE") else None
        return latency, error(code, retry_delay_secs=delay)


scenarios = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 10**6),
        "weights": st.lists(st.integers(0, 12), min_size=len(CODES), max_size=len(CODES)),
        "lanes": st.integers(1, 4),
        "rows": st.integers(0, 60),
        "pack": st.integers(1, 5),
        "window": st.integers(1, 40),
        "stop_after": st.none() | st.floats(0.0, 30.0),
        "grace": st.floats(0.0, 5.0),
    }
)


@settings(max_examples=80, deadline=None)
@given(scenarios)
def test_each_row_comes_out_once_or_is_counted_as_not_asked(scenario: dict[str, Any]) -> None:
    limits = Limits(max_in_flight=scenario["window"], call_timeout_secs=20, watchdog_secs=1)
    run = Run(
        Faults(scenario["seed"], scenario["weights"]),
        limits=limits,
        pace=Pace(rng=random.Random(1)),
        refresh_token=lambda: None,
    )
    offered = [0]

    def jobs(lane: int) -> Any:
        size = scenario["pack"]
        for row in range(scenario["rows"]):
            offered[0] += size
            keys = [(lane, row, part) for part in range(size)]
            yield Pack(keys) if size > 1 else Corrected(keys[0])

    if scenario["stop_after"] is not None:
        run.world.at(1000 + scenario["stop_after"], lambda: run.engine.stop("enough", scenario["grace"]))
    outcomes = run.go(*[jobs(lane) for lane in range(scenario["lanes"])])

    assert max(Counter(outcome[1] for outcome in outcomes).values(), default=0) <= 1
    stats = run.engine.stats()
    assert len(outcomes) + stats.not_asked_rows == offered[0]
    assert (stats.in_flight, stats.waiting, stats.held, stats.unresolved_rows) == (0, 0, 0, 0)
    assert stats.sent == len(run.server.calls)
    assert all(type(raised) is EngineHalted for raised in run.raised)
    if scenario["stop_after"] is None and not run.raised:
        assert stats.not_asked_rows == 0
    attempts = [outcome[2] for outcome in outcomes if outcome[0] != "ok"]
    assert all(count <= limits.max_attempts + 1 for count in attempts)
    for lane, taken in enumerate(run.outcomes):
        assert all(key[0] == lane for _, key, *_ in taken)


class Network:
    """Calls that land after some milliseconds on one of three threads, as those of a real transport do; some land twice."""

    def __init__(self, reply: Callable[[random.Random], tuple[float, Any]]) -> None:
        self.in_flight = 0
        self.most_in_flight = 0
        self._reply = reply
        self._rng = random.Random(3)
        self._due: list[tuple[float, int, Callable[[Any], None], Any]] = []
        self._order = itertools.count()
        self._changed = threading.Condition()
        self._closed = False
        self._threads = [threading.Thread(target=self._land, daemon=True) for _ in range(3)]
        for thread in self._threads:
            thread.start()

    def send(self, _request: Any, _timeout_secs: float, done: Callable[[Any], None]) -> Network:
        with self._changed:
            self.in_flight += 1
            self.most_in_flight = max(self.most_in_flight, self.in_flight)
            secs, result = self._reply(self._rng)
            heapq.heappush(self._due, (time.monotonic() + secs, next(self._order), done, result))
            self._changed.notify()
        return self

    def cancel(self) -> None:
        return

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join(10)

    def _land(self) -> None:
        while True:
            with self._changed:
                while not self._closed and (not self._due or self._due[0][0] > time.monotonic()):
                    self._changed.wait(max(0.0, self._due[0][0] - time.monotonic()) if self._due else None)
                if self._closed:
                    return
                _, order, done, result = heapq.heappop(self._due)
                self.in_flight -= 1
            done(result)
            if order % 10 == 0:
                done(CallError("INTERNAL", "said twice"))


def faulty(rng: random.Random) -> tuple[float, Any]:
    code = rng.choices(["OK", "UNAVAILABLE", "RESOURCE_EXHAUSTED", "NOT_FOUND", "broken"], [80, 8, 2, 5, 5])[0]
    secs = rng.random() * 0.004
    return secs, OK if code == "OK" else code if code == "broken" else error(code)


class Unlimited(Pace):
    """A pace that rejections do not slow down: here they come whatever the rate."""

    def rejected(self, now: float, sent_at: float) -> None:
        self.rate = 1e5


def in_threads(*works: Callable[[], None]) -> None:
    threads = [threading.Thread(target=work, daemon=True) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive(), "a bundle hangs"


@pytest.mark.parametrize("window", [1, 7, 200])
def test_with_real_threads_each_row_comes_out_once_and_threads_stay_few(window: int) -> None:
    network = Network(faulty)
    pace = Unlimited()
    pace.rate = 1e5
    engine = Engine(
        network.send, pace=pace, limits=Limits(max_in_flight=window, backoff_secs=0.002, backoff_cap_secs=0.01)
    )
    count = 150 if window == 1 else 800
    outcomes: list[list[Any]] = [[] for _ in range(4)]
    most_threads = [0]

    def bundles(thread: int) -> Callable[[], None]:
        def work() -> None:
            for bundle in range(2):
                lane = engine.lane()
                for row in range(count // 2):
                    outcomes[thread].extend(lane.offer(Corrected((thread, bundle, row))))
                    most_threads[0] = max(most_threads[0], threading.active_count())
                outcomes[thread].extend(lane.drain())

        return work

    before = threading.active_count()
    in_threads(*[bundles(thread) for thread in range(4)])
    stats = engine.stats()
    engine.close()
    network.close()
    for thread, taken in enumerate(outcomes):
        assert sorted(outcome[1] for outcome in taken) == [
            (thread, bundle, row) for bundle in range(2) for row in range(count // 2)
        ]
    assert network.most_in_flight <= window
    assert most_threads[0] <= before + 5
    assert (stats.in_flight, stats.waiting, stats.held, stats.unresolved_rows) == (0, 0, 0, 0)


def test_with_real_threads_a_stop_ends_all_bundles_within_the_grace() -> None:
    network = Network(lambda rng: (60.0 if rng.random() < 0.5 else 0.001, OK))
    pace = Pace()
    pace.rate = 1e5
    engine = Engine(network.send, pace=pace, limits=Limits(max_in_flight=50))
    outcomes: list[Any] = []
    offered = [0] * 4
    stopped_at: list[float] = []

    def work(thread: int) -> None:
        lane = engine.lane()
        for row in range(100_000):
            if len(network._due) >= 50 and not stopped_at:
                stopped_at.append(time.monotonic())
                engine.stop("interrupted", 0.2)
            if engine.stats().ended:
                break
            offered[thread] += 1
            outcomes.extend(lane.offer(Row((thread, row))))
        outcomes.extend(lane.drain())

    in_threads(*[lambda thread=thread: work(thread) for thread in range(4)])
    assert time.monotonic() - stopped_at[0] < 5.0
    assert len(outcomes) + engine.stats().not_asked_rows == sum(offered)
    engine.close()
    network.close()
