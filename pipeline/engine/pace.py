"""How fast calls may leave: a rate that follows what the server takes, and caps in requests and tokens a minute.

Pure arithmetic: the time is passed in, nothing sleeps, nothing is locked. The figures were found by simulation
(tests/engine/test_engine_pace.py): 1, 2 and 4 workers that know nothing of each other, on one quota of 50 requests/s at 1 s
latency, use 95-100 % of it, and under 2 % of their calls are rejected; under 11 % where the quota is one of a minute, so
that nothing is taken once it is used up. A quota that rises tenfold is found in 80 s; after a storm of rejections the rate is
back in seconds. A server that rejects one call in 200 at any rate costs no speed, one in 100 most of it: that cannot be told
from a quota. (Tried: to take rejections that do not become fewer at a lower rate for such. It mistook too many quotas.)
"""

from __future__ import annotations

import math
import random

START_PER_SEC = 5.0
"""The first rate. It doubles every second until the first rejection."""
FLOOR_PER_SEC = 0.5
"""The slowest rate: a server that rejects everything is probed every two seconds."""
FIRST_CUT = 0.7
"""What is left of the rate, beside what was rejected, after a rejection while it doubles."""
DEEPER = 0.08
"""A later cut goes below what was taken by twice the share that was rejected, but by no more than this."""
STORM_SHARE = 0.7
"""So large a share of rejections is no quota overstepped by a little: the server takes nothing for a while."""
LONG_STORM_SECS = 10.0
"""What was taken before a storm is likely to be taken after it. Not after a longer one: it may be the rest of a minute whose
quota was used up in its first seconds."""
UNSURE_SHARE = 0.2
"""From such a share on a cut may be the begin of a storm: the ceiling comes down by no more than a tenth."""
GROWTH = 0.001
"""What a success adds to a rate of `START_PER_SEC`, as a share. Faster rates get less, by the fourth root: what
workers that share a quota try beyond it must not rise with their number. Slower ones get as much as that in calls a
second, or a worker that others had starved would take half an hour to come back."""
MOST_GROWTH = 0.018
"""What all successes of a second, or of the time that a rejection takes if that is longer, add at most. At 500/s and 1 s
`GROWTH` alone would be 16 % a second, more than the cuts take: 14 % of the calls were rejected."""
QUIET_SECS, QUIET_GROWTH = 60.0, 0.1
"""After so long without a rejection they add this: quotas count by the minute, so the rate is far below."""
JITTER = 0.2
"""A departure is late by a random share of the interval, up to this: workers that started together fall out of step."""
MAX_HOLD_SECS = 600.0
"""The longest that one RetryInfo holds all new calls back. The call that got it waits to the letter."""

_CUT_EVERY_SECS = 1.0
# Calls that left so soon after a cut show little of the new rate: the next cut waits for later ones.
_SETTLE_SECS = 0.2
# A sender that wakes up late may catch up on this much time; more would be a burst.
_LAG_SECS = 0.02
# A departure that is due so soon leaves now: at a high rate a few calls share the cost of one thread's sleep.
_EARLY_SECS = 0.004
# A share is of so many departures, if so many seconds have them, and as if there were some more beside them that were
# taken: one rejection among few calls is no collapse.
_COHORT, _COHORT_SECS, _PRIOR = 25, 10.0, 3


class Departures:
    """How many calls left in each tenth of a second of the last 100 s, and how many of these were rejected since.

    Counted by when a call left, not by when it landed: calls that left before a storm go on succeeding in it.
    """

    __slots__ = ("_left", "_rejected", "_tenth", "last_second")
    _TENTHS = 1000

    def __init__(self) -> None:
        self._left = [0] * self._TENTHS
        self._rejected = [0] * self._TENTHS
        self._tenth = 0
        self.last_second = 0

    def add(self, now: float) -> None:
        """A call leaves."""
        self.roll(now)
        self._left[self._tenth % self._TENTHS] += 1
        self.last_second += 1

    def reject(self, left_at: float) -> None:
        """A call that left then was rejected."""
        tenth = int(left_at * 10)
        if tenth > self._tenth - self._TENTHS:
            self._rejected[tenth % self._TENTHS] += 1

    def roll(self, now: float) -> int:
        """Forgets what is too old, and returns how many calls left in the last second."""
        tenth = int(now * 10)
        for passed in range(max(self._tenth, tenth - self._TENTHS) + 1, tenth + 1):
            self.last_second -= self._left[(passed - 10) % self._TENTHS]
            self._left[passed % self._TENTHS] = self._rejected[passed % self._TENTHS] = 0
        self._tenth = max(tenth, self._tenth)
        return self.last_second

    def between(self, begin: float, end: float) -> tuple[int, int]:
        """(calls that left, those of them that were rejected)"""
        first, last = max(int(begin * 10), self._tenth - self._TENTHS + 1), min(int(end * 10), self._tenth)
        places = [tenth % self._TENTHS for tenth in range(first, last + 1)]
        return sum(self._left[place] for place in places), sum(self._rejected[place] for place in places)


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
        self._probing = False  # the server takes nothing: no growth before it takes something
        self._storm_at = self._calm_at = -math.inf  # when it last began to take nothing, and when it ended
        self._cut_at = -math.inf
        self._round_trip_secs = 1.0
        self._rejection_secs: float | None = None  # how long a rejection takes
        self._due = -math.inf  # the next departure without its jitter
        self._next = -math.inf  # and with it
        self._hold_until = -math.inf
        self._paid_at = -math.inf  # when the tokens reserved so far are paid for
        self._left_at = -math.inf
        self._held_at = -math.inf  # when the rate was last what held a call back
        self._departures = Departures()

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
            self._grow(now, 2.0 ** (min(now - self._left_at, 1.0) / self._feedback_secs))
        interval = 1 / min(self.rate, self._cap)
        if self._next < now - _LAG_SECS:
            self._due = now - _LAG_SECS
        self._due += interval
        self._next = self._due + self._random() * JITTER * interval
        self._left_at = now
        self._departures.add(now)
        if self._tokens_per_sec is not None:
            self._paid_at = max(self._paid_at, now - _LAG_SECS) + tokens / self._tokens_per_sec
        return 0.0

    def settle(self, reserved: int, used: int) -> None:
        """A call that reserved so many tokens used that many."""
        if self._tokens_per_sec is not None:
            self._paid_at += (used - reserved) / self._tokens_per_sec

    def succeeded(self, now: float, sent_at: float) -> None:
        """A call that left at `sent_at` was taken by the server."""
        self._round_trip_secs += (now - sent_at - self._round_trip_secs) / 20
        if self._probing:
            if sent_at > self._cut_at:
                self._calm(now)
        elif self.rate >= self._ceiling and now - self._held_at < max(0.1, 2 / self.rate):
            part = START_PER_SEC / self.rate
            share = GROWTH * (part if part > 1 else part**0.25)
            calls = self.rate * self._feedback_secs
            is_quiet = now - self._cut_at > QUIET_SECS
            self._grow(now, 1 + (QUIET_GROWTH / calls if is_quiet else min(share, MOST_GROWTH / calls)))

    def rejected(self, now: float, sent_at: float) -> None:
        """A call was rejected for quota. At most one cut a second, and none for calls that left before the last."""
        self._departures.reject(sent_at)
        secs, before = now - sent_at, self._rejection_secs
        self._rejection_secs = secs if before is None else before + (secs - before) / 20
        settled_at = self._cut_at + (0.0 if self._probing else _SETTLE_SECS)
        if sent_at <= settled_at or now - self._cut_at < _CUT_EVERY_SECS:
            return
        span = max(_COHORT / self.rate, min(1.0, sent_at - self._cut_at))
        begin = sent_at - min(_COHORT_SECS, span)
        left, rejected = self._departures.between(begin, sent_at)
        share = rejected / (left + _PRIOR)
        # A rate that nobody used lately is no knowledge: what is cut is what was really sent, as of the last departure.
        # It may come back to that rate, doubling: it was not used for other reasons, such as the server's own delay.
        used = min(self.rate, 1.1 * self._departures.last_second + 1)
        unused = self.rate / used if self.rate > 2 * used else 1.0
        if self._probing or share >= STORM_SHARE or rejected == left:
            self._storm(now, used * (1 - share))
            return
        if self.rate < self._ceiling:
            self.rate = max((left - rejected) / (sent_at - begin + 0.1), FIRST_CUT * used * (1 - share))
            self._ceiling = self.rate * unused
        else:
            self.rate = used * (1 - share) * (1 - min(2 * share, DEEPER))
            ceiling = self.rate * unused
            self._ceiling = ceiling if share < UNSURE_SHARE else max(ceiling, 0.9 * self._ceiling)
        self.rate = max(FLOOR_PER_SEC, self.rate)
        self._cut_at = now

    def hold(self, now: float, secs: float) -> None:
        """No call leaves for so long: the server said when to come back."""
        self._hold_until = max(self._hold_until, now + min(secs, MAX_HOLD_SECS))

    def collapse(self, now: float) -> None:
        """The service is out: probes it at the floor, then doubles again, up to the rate that it was known to take."""
        self._storm(now, FLOOR_PER_SEC)

    def _storm(self, now: float, rate: float) -> None:
        """The server takes nothing, for a while. That says nothing of what it will take then."""
        if not self._probing:
            self._storm_at = now
        self._probing = True
        self.rate = max(FLOOR_PER_SEC, rate)
        self._cut_at = now

    def _calm(self, now: float) -> None:
        """The server takes calls again: begins anew, as gently as at the start."""
        storm_secs, secs = now - self._storm_at, now - self._calm_at
        if storm_secs > LONG_STORM_SECS:
            self._ceiling = max(2 * FLOOR_PER_SEC, self._ceiling * max(0.5, 1 - storm_secs / secs))
        self.rate = max(self.rate, min(START_PER_SEC, self._ceiling / 8))
        self._calm_at = now
        self._probing = False

    @property
    def _feedback_secs(self) -> float:
        """How long after its departure a call's rejection is known; a second at least."""
        return max(1.0, self._round_trip_secs if self._rejection_secs is None else self._rejection_secs)

    def _grow(self, now: float, factor: float) -> None:
        """Raises the rate, but never far beyond what is really sent: that would be a burst in store."""
        most = max(START_PER_SEC, 2.0 * self._departures.roll(now), self.rate)
        self.rate = min(self.rate * factor, most, max(self._cap, self.rate))
