"""How fast calls may leave: a rate that follows what the server takes, and caps in requests and tokens a minute.

Pure arithmetic: the time is passed in, nothing sleeps, nothing is locked. The figures were found by simulation
(tests/engine/test_engine_pace.py): 1, 2 and 4 workers that know nothing of each other, on one quota of 50 requests/s at 1 s
latency, use 95-100 % of it, and under 2 % of their calls are rejected; a quota that rises tenfold is found in half a minute,
and ten seconds after a storm of rejections as many calls leave as before it.
"""

from __future__ import annotations

import math
import random

START_PER_SEC = 5.0
"""The first rate. It doubles every second until the first rejection."""
FLOOR_PER_SEC = 0.5
"""The slowest rate: a server that rejects everything is probed every two seconds."""
FIRST_CUT = 0.7
"""What is left of the rate after a rejection while it doubles."""
MILDEST_CUT = 0.92
"""What is left of it at most after any other. (0.9 leaves one worker at 94 % of a strict quota a second.)"""
GROWTH = 0.001
"""What a success adds to a rate of `START_PER_SEC`, as a share. Faster rates get less, by the fourth root: what
workers that share a quota try beyond it must not rise with their number. Slower ones get as much as that in calls a
second, or a worker that others had starved would take half an hour to come back."""
MOST_GROWTH = 0.025
"""What all successes of a second, or of a round trip if that is longer, add at most. At 500/s and 1 s `GROWTH` alone
would be 16 % a second, more than the cuts take: 14 % of the calls were rejected."""
FAST_GROWTH = 0.1
"""The same where we do not know what the server takes: after a storm of rejections, or `FAR` beyond the last one."""
FAR = 1.25
"""Nearer to the last rejection than that, workers that share a quota often are without having met another."""
SETTLED_SECS = 3.0
"""A rate that went without a rejection for so long, up to its ceiling, is one that the server is known to take."""
JITTER = 0.2
"""A departure is late by a random share of the interval, up to this: workers that started together fall out of step."""
MAX_HOLD_SECS = 600.0
"""The longest that one RetryInfo holds all new calls back. The call that got it waits to the letter."""

_CUT_EVERY_SECS = 1.0
# A sender that wakes up late may catch up on this much time; more would be a burst.
_LAG_SECS = 0.02
# A departure that is due so soon leaves now: at a high rate a few calls share the cost of one thread's sleep.
_EARLY_SECS = 0.004
# Landings that the share rejected is judged as if there were, so that one rejection among few calls is no collapse.
_PRIOR_LANDINGS = 3
# Of the calls of a second: where the server rejects most but takes so many, it shows what it can take.
_SOME = 0.1


class LastSecond:
    """A count of events in the last second, to a tenth."""

    __slots__ = ("_counts", "_tenth", "total")

    def __init__(self) -> None:
        self._counts = [0] * 10
        self._tenth = 0
        self.total = 0

    def add(self, now: float) -> None:
        """One event at `now`."""
        self.roll(now)
        self._counts[self._tenth % 10] += 1
        self.total += 1

    def roll(self, now: float) -> int:
        """Forgets what is older than a second at `now`, and returns the rest."""
        tenth = int(now * 10)
        if tenth > self._tenth:
            for passed in range(max(self._tenth + 1, tenth - 9), tenth + 1):
                self.total -= self._counts[passed % 10]
                self._counts[passed % 10] = 0
            self._tenth = tenth
        return self.total


class Pace:
    """When the next call of this process may leave. Times are seconds of one monotonic clock.

    Args:
        requests_per_minute: this process's share of a cap, or None. In no 60 s do more calls leave.
        tokens_per_minute: the same in tokens, or None. A call leaves when the tokens of those before it are paid for at
            that rate, so in no 60 s do more leave than that and one call's.
        rng: where jitter comes from.
    """

    def __init__(
        self,
        *,
        requests_per_minute: float | None = None,
        tokens_per_minute: float | None = None,
        rng: random.Random | None = None,
    ) -> None:
        for name, cap in (("requests_per_minute", requests_per_minute), ("tokens_per_minute", tokens_per_minute)):
            if cap is not None and not cap > 0:
                raise ValueError(f"{name} is {cap!r}: it must be more than 0")
        self._cap = math.inf
        if requests_per_minute is not None:
            # Catching up and jitter may squeeze one interval: counted off here, so that the cap holds in any minute.
            strict = max(requests_per_minute - JITTER, requests_per_minute * (1 - JITTER))
            self._cap = strict / (60 + _LAG_SECS + _EARLY_SECS)
        self._tokens_per_sec = tokens_per_minute / 60 if tokens_per_minute is not None else None
        self._random = (rng or random.Random()).random
        self.rate = START_PER_SEC  # calls a second, the cap not applied
        # Below it the rate doubles every second, above it grows with each success. Unknown until the first rejection.
        self._ceiling = math.inf
        self._limit = 0.0  # what the server is likely to take; 0: no idea
        self._settled = math.inf  # the last rate that it took for a while
        self._probing = False  # the server took nothing: no growth before it takes something
        self._cut_at = -math.inf
        self._round_trip_secs = 1.0
        self._due = -math.inf  # the next departure without its jitter
        self._next = -math.inf  # and with it
        self._hold_until = -math.inf
        self._paid_at = -math.inf  # when the tokens reserved so far are paid for
        self._left_at = -math.inf
        self._held_at = -math.inf  # when the rate was last what held a call back
        self._sent = LastSecond()
        self._taken = LastSecond()
        self._rejected = LastSecond()

    def reserve(self, now: float, tokens: int = 0) -> float:
        """Lets a call with so many tokens leave now and returns 0; or returns the seconds after which to ask again."""
        wait = self._next - now
        if wait > _EARLY_SECS:
            self._held_at = now
        if self._tokens_per_sec is not None:
            wait = max(wait, self._paid_at - now)
        if self._hold_until > now:  # to the letter, not a moment early
            return max(wait, self._hold_until - now)
        if wait > _EARLY_SECS:
            return wait
        if self._left_at <= self._held_at and self.rate < self._ceiling and not self._probing:
            self._grow(now, 2.0 ** (min(now - self._left_at, 1.0) / max(1.0, self._round_trip_secs)))
        interval = 1 / min(self.rate, self._cap)
        if self._next < now - _LAG_SECS:
            self._due = now - _LAG_SECS
        self._due += interval
        self._next = self._due + self._random() * JITTER * interval
        self._left_at = now
        self._sent.add(now)
        if self._tokens_per_sec is not None:
            self._paid_at = max(self._paid_at, now - _LAG_SECS) + tokens / self._tokens_per_sec
        return 0.0

    def settle(self, reserved: int, used: int) -> None:
        """A call that reserved so many tokens used that many."""
        if self._tokens_per_sec is not None:
            self._paid_at += (used - reserved) / self._tokens_per_sec

    def succeeded(self, now: float, sent_at: float) -> None:
        """A call that left at `sent_at` was taken by the server."""
        self._taken.add(now)
        self._round_trip_secs += (now - sent_at - self._round_trip_secs) / 20
        if self._probing:
            self._probing = sent_at <= self._cut_at
            if not self._probing:  # begins anew, as gently as at the start
                self.rate = max(self.rate, min(START_PER_SEC, self._ceiling / 8))
        elif self.rate >= self._ceiling and now - self._held_at < max(0.1, 2 / self.rate):
            part = START_PER_SEC / self.rate
            share = GROWTH * (part if part > 1 else part**0.25)
            most = 1 / (self.rate * max(1.0, self._round_trip_secs))
            is_near = self.rate <= FAR * self._limit
            self._grow(now, 1 + (min(share, MOST_GROWTH * most) if is_near else FAST_GROWTH * most))

    def rejected(self, now: float, sent_at: float) -> None:
        """A call was rejected for quota. At most one cut a second, and none for calls that left before the last."""
        self._rejected.add(now)
        if sent_at <= self._cut_at or now - self._cut_at < _CUT_EVERY_SECS:
            return
        rejected, taken = self._rejected.total, self._taken.roll(now)
        share = rejected / (rejected + taken + _PRIOR_LANDINGS)
        factor = min(FIRST_CUT if self.rate < self._ceiling else MILDEST_CUT, 1 - share)
        # A rate that nobody used lately is no knowledge: what is cut is what was really sent, as of the last departure.
        really = min(self.rate, 1.1 * self._sent.total + 1)
        if not self._probing:
            if self._ceiling == math.inf or (self.rate >= self._ceiling and now - self._cut_at >= SETTLED_SECS):
                self._settled = really
            self._probing = share >= 0.5
            if not self._probing:
                self._ceiling = self._limit = self.rate * factor
            elif taken >= _SOME * really:  # far beyond what the server takes
                self._ceiling = self._limit = max(START_PER_SEC, taken)
            else:
                self._storm()
        self._cut_at = now
        self.rate = max(FLOOR_PER_SEC, really * factor)

    def hold(self, now: float, secs: float) -> None:
        """No call leaves for so long: the server said when to come back."""
        self._hold_until = max(self._hold_until, now + min(secs, MAX_HOLD_SECS))

    def collapse(self, now: float) -> None:
        """The service is out: probes it at the floor, then doubles again, up to the rate that it was known to take."""
        if self._ceiling < math.inf:
            if self.rate >= self._ceiling:
                self._settled = self.rate
            self._storm()
        self.rate = FLOOR_PER_SEC
        self._probing = True
        self._cut_at = now

    def _storm(self) -> None:
        """The server takes nothing any more, for a while. Then it may take what it took before, or more, or less."""
        self._limit = 0.0
        self._ceiling = max(START_PER_SEC, FIRST_CUT * self._settled)

    def _grow(self, now: float, factor: float) -> None:
        """Raises the rate, but never far beyond what is really sent: that would be a burst in store."""
        most = max(START_PER_SEC, 2.0 * self._sent.roll(now), self.rate)
        self.rate = min(self.rate * factor, most, max(self._cap, self.rate))
