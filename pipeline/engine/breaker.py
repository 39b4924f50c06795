"""Whether the run as a whole works, judged by how its calls land: a circuit breaker, and a watch for outages. Pure."""

from __future__ import annotations

import enum
import math
from collections import deque
from typing import Generic, TypeVar

T = TypeVar("T")

TRIP_AFTER = 20
"""Suspects in a row that stop new calls."""
CALLS_BEFORE_SUCCESS = 50
"""Calls in flight at most until the first success of a process: what a run that cannot work at all may cost."""
CALLS_IN_DOUBT = 80
"""Calls sent since the first open suspect after which a quarter of `TRIP_AFTER` suspects is enough to stop."""
PROBES = 5
"""Calls in flight at most, and twice as many suspects in a row, while a stopped run is tried once more."""
UNUSUAL = 3.0
"""How many times the usual share of suspects is no longer chance. Where one image in five is missing, calls that fail
at once outrun the successes that would clear them; that alone must not stop a run."""

OUTAGE_ERRORS = 5
"""Errors in a row, without a success, that make an outage; one at least of a call sent after the first of them."""
OUTAGE_ROWS = 5
"""How many different rows must fail before an error that may be the row's own (INTERNAL) is blamed on an outage."""
OUTAGE_GAP_SECS = 120.0
"""A call sent so long after the last error begins a new count: nothing was asked in between."""


class Verdict(enum.Enum):
    """What to do when new calls are stopped and the last call in flight has landed."""

    GO_ON = enum.auto()
    HALT = enum.auto()


class Breaker(Generic[T]):
    """Tells a fault of the run from faults of single rows, for at most some 100 calls sent after the fault first shows.

    A suspect is a failed call whose fault may be the run's own: permission denied, not found, invalid. It stays open
    until a call succeeds that was sent after it had landed: that shows that the run works, so the fault was the
    row's. Calls that were sent before do not show it, and with a long tail they go on succeeding for long.

    New calls stop after `TRIP_AFTER` suspects in a row without any success between them. They also stop with so many
    suspects open, or with a quarter of that once `CALLS_IN_DOUBT` calls were sent since the first, if that is more than
    `UNUSUAL` times the share of suspects that this run is used to. They go on with the first success that clears a
    suspect. When everything has landed without one, the run halts; unless calls sent before the fault did succeed, or
    parts of split packs wait to be asked: then a few probes decide.

    Calls are numbered in the order of sending, from 1. `T` is whatever stands for a suspect that is held.
    """

    def __init__(self) -> None:
        self.succeeded = False
        self.stopped = False
        self.held = 0
        self._open: deque[tuple[int, T | None]] = deque()  # (calls sent when it landed, suspect)
        self._streak = 0
        self._usual = 0.0
        self._probing = False
        self._other_success = False

    def limit(self, window: int) -> int:
        """Calls that may be in flight now, of a window of so many."""
        if self.stopped:
            return 0
        if self._probing:
            return min(window, PROBES)
        return window if self.succeeded else min(window, CALLS_BEFORE_SUCCESS)

    def success(self, number: int) -> list[T]:
        """Call `number` succeeded. Returns the suspects that are thereby known to be faults of their rows."""
        self.succeeded = True
        self._streak = 0
        self._usual -= self._usual / 200
        if not self._open:
            return []
        cleared = []
        while self._open and self._open[0][0] < number:
            cleared.append(self._open.popleft()[1])
            self._usual += (1 - self._usual) / 200
        if cleared:
            self.stopped = self._probing = self._other_success = False
        else:
            self._other_success = True
        return self._known(cleared)

    def suspect(self, sent: int, suspect: T | None) -> None:
        """A suspect landed after so many calls had been sent. None: it need not be held, it is a pack to be split."""
        self._streak += 1
        self._open.append((sent, suspect))
        self.held += suspect is not None
        found, since = len(self._open), sent - self._open[0][0]
        enough = TRIP_AFTER if since < CALLS_IN_DOUBT else TRIP_AFTER // 4
        unusual = found > min(UNUSUAL * self._usual, (1 + self._usual) / 2) * since
        if self._probing:
            self.stopped = self._streak >= 2 * PROBES
        elif self._streak >= TRIP_AFTER or (found >= enough and unusual):
            if not self.stopped:
                self._other_success = False
            self.stopped = True

    def landed(self, parts_waiting: bool) -> Verdict:
        """New calls are stopped and none is in flight. `parts_waiting`: parts of split packs are yet to be asked."""
        if not self._probing and (self._other_success or parts_waiting):
            self._probing, self.stopped, self._streak = True, False, 0
            return Verdict.GO_ON
        return Verdict.HALT

    def settle(self) -> list[T]:
        """Nothing is left to ask. Returns all that is held: too few to blame the run. The count in a row goes on."""
        rest = [suspect for _, suspect in self._open]
        self._open.clear()
        return self._known(rest)

    def _known(self, suspects: list[T | None]) -> list[T]:
        known = [suspect for suspect in suspects if suspect is not None]
        self.held -= len(known)
        return known


class Outage:
    """Tells a service that is out from rows that fail: all calls fail, and so do calls sent after the first error."""

    def __init__(self) -> None:
        self._clear()

    def _clear(self) -> None:
        self.active = False
        self._errors = 0
        self._rows: set[int] = set()
        self._since = math.inf
        self._last = -math.inf
        self._seen_after = False

    @property
    def wide(self) -> bool:
        """Whether so many different rows failed that an error says nothing of its row."""
        return self.active and len(self._rows) >= OUTAGE_ROWS

    def success(self) -> None:
        """A call succeeded: whatever was, is over."""
        if self._errors:
            self._clear()

    def error(self, now: float, sent_at: float, row: int) -> bool:
        """A call sent at `sent_at` failed, for the row of that number. Returns whether an outage began with it."""
        if sent_at - self._last > OUTAGE_GAP_SECS:
            self._clear()
        if not self._errors:
            self._since = now
        self._errors += 1
        self._last = now
        self._seen_after |= sent_at > self._since
        if len(self._rows) < OUTAGE_ROWS:
            self._rows.add(row)
        began = not self.active and self._errors >= OUTAGE_ERRORS and self._seen_after
        self.active |= began
        return began

    def secs(self, now: float) -> float:
        """How long the outage has lasted, 0 if there is none."""
        return now - self._since if self.active else 0.0
