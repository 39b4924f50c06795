"""Whether the run as a whole works, judged by how its calls land: a circuit breaker. Pure."""

from __future__ import annotations

import enum
from collections import deque
from typing import Generic, TypeVar

T = TypeVar("T")

TRIP_AFTER = 20
"""Open suspects that stop new calls."""
CALLS_IN_DOUBT = 60
"""Calls sent since the first open suspect after which a quarter of `TRIP_AFTER` is enough to stop."""
UNUSUAL = 3.0
"""How many times the usual share of suspects is no longer chance. Where one image in five is missing, calls that fail
at once outrun the successes that would clear them; that alone must not stop a run."""
CALLS_BEFORE_SUCCESS = 50
"""Calls in flight at most until the first success of a process: what a run that cannot work at all may cost."""
PROBES = 10
"""Calls that a stopped run may try that never had a success, where there is reason to."""
PROBES_LATER = 25
"""The same for one that had. Where nine images in ten are missing, ten probes fail by chance in one of three trials,
twenty-five in one of fourteen."""
CALLS_OF_A_FAULT = 90
"""Calls sent since the first open suspect landed up to which there may be more probes than that: the more calls in a row
fail, the surer is the fault, and these are within the bound."""


BY_CHANCE = 0.01
"""Where a stopped run has nothing left to ask, its suspects are filed if so many in a row are at least that likely, at the
share of suspects among all calls before."""


class Verdict(enum.Enum):
    """What to do when new calls are stopped and the last call in flight has landed."""

    GO_ON = enum.auto()
    HALT = enum.auto()


class Breaker(Generic[T]):
    """Tells a fault of the run from faults of single rows, for at most some 100 calls sent after the fault first shows.

    A suspect is a failed call whose fault may be the run's own: permission denied, not found, invalid. It stays open
    until a call succeeds that was sent after it had landed: that shows that the run works, so the fault was the
    row's. Calls that were sent before do not show it, and with a long tail they go on succeeding for long.

    New calls stop when `TRIP_AFTER` suspects are open, or a quarter of that once `CALLS_IN_DOUBT` calls were sent since
    the first landed; in both cases only if, among the calls that were sent from the first to the last of them, they are
    more than `UNUSUAL` times the share of suspects that this run is used to. They go on when successes have cleared
    enough. When everything in flight has landed, a few probes are sent if there is reason to: a success, at any time
    since the process began, or parts of split packs that wait to be asked. One probe that succeeds clears all; when all
    have failed, or there is no reason for any, the run halts.

    Where nothing is left to ask, what is held is filed, unless the run is stopped and so many suspects in a row are not
    `BY_CHANCE`: then it halts, too.

    What is held when the run halts is not filed, whatever its own probe said and however much of the run succeeded
    before: those are the calls that failed last, one after the other, and cannot be told from those of a run whose
    permission was withdrawn. They are not asked, and the next run asks them again; what a success had cleared is filed.

    Calls are numbered in the order of sending, from 1. `T` is whatever stands for a suspect that is held.
    """

    def __init__(self) -> None:
        self.stopped = False
        self.held = 0
        self._sent = 0
        # (calls sent when it landed, its own number, what is held)
        self._open: deque[tuple[int, int, T | None]] = deque()
        self._usual = 0.0  # share of suspects among the last few hundred landings
        self._stopped_at = 0  # calls sent before
        self._may_send = 0  # while stopped: the number of the last call that may be sent
        self._probes = 0  # while stopped: how many may fail
        self._probes_failed = 0
        self._successes = 0
        self._cleared = 0  # suspects that were known to be faults of their rows

    def next_number(self) -> int:
        """The number of a call that is sent now."""
        self._sent += 1
        return self._sent

    def lets_go(self, in_flight: int, window: int) -> bool:
        """Whether one more call may be sent, with so many in flight of a window of so many."""
        if self.stopped:
            return self._sent < self._may_send and in_flight < window
        return in_flight < (window if self._successes else min(window, CALLS_BEFORE_SUCCESS))

    def success(self, number: int) -> list[T]:
        """Call `number` succeeded. Returns the suspects that are thereby known to be faults of their rows."""
        self._successes += 1
        self._usual -= self._usual / 200
        if not self._open:
            return []
        is_probe = self.stopped and number > self._stopped_at
        cleared = []
        while self._open and (is_probe or self._open[0][0] < number):
            cleared.append(self._open.popleft()[2])
            self._usual += (1 - self._usual) / 200
        self._cleared += len(cleared)
        if self.stopped:
            self.stopped = self._alarming()
            if not self._may_send:
                self._may_send = self._sent + self._probes
        return self._known(cleared)

    def suspect(self, number: int, suspect: T | None) -> None:
        """Call `number` failed, and the run may be at fault. None: nothing is to be held, it is a pack to be split."""
        self._open.append((self._sent, number, suspect))
        self.held += suspect is not None
        if self.stopped:
            self._probes_failed += number > self._stopped_at and suspect is not None
        elif self._alarming():
            self.stopped = True
            self._stopped_at = self._sent
            self._probes = PROBES
            if self._successes:
                self._probes = max(PROBES_LATER, CALLS_OF_A_FAULT - (self._sent - self._open[0][0]))
            self._may_send = self._probes_failed = 0

    def landed(self, parts_waiting: bool) -> Verdict:
        """New calls are stopped and none is in flight. `parts_waiting`: parts of split packs are yet to be asked."""
        left = self._probes - self._probes_failed
        if left <= 0 or not (self._successes or self._may_send or parts_waiting):
            return Verdict.HALT
        self._may_send = self._sent + left  # those so far, if any, told nothing: they were rejected, timed out or split
        return Verdict.GO_ON

    def by_chance(self) -> bool:
        """Whether what is open may be chance, though the run is stopped: where most rows fail, many do in a row."""
        known = self._cleared + self._successes
        return known > 0 and (self._cleared / known) ** len(self._open) >= BY_CHANCE

    def tally(self) -> str:
        """How the calls of a stopped run went, in words."""
        if not self._successes:
            return f"none of {self._sent:,} succeeded"
        return f"{self._successes:,} of {self._sent:,} succeeded, then {len(self._open):,} failed"

    def settle(self) -> list[T]:
        """Nothing is left to ask. Returns all that is held: too few to blame the run. They still count as open."""
        rest = [suspect for _, _, suspect in self._open]
        self._open = deque((sent, number, None) for sent, number, _ in self._open)
        return self._known(rest)

    def _alarming(self) -> bool:
        """Whether so many suspects are open that calls must stop."""
        if not self._open:
            return False
        landed_at, first, _ = self._open[0]
        found, among = len(self._open), self._open[-1][1] - first + 1
        enough = TRIP_AFTER if self._sent - landed_at < CALLS_IN_DOUBT else TRIP_AFTER // 4
        return found >= enough and found > min(UNUSUAL * self._usual, (3 + self._usual) / 4) * among

    def _known(self, suspects: list[T | None]) -> list[T]:
        known = [suspect for suspect in suspects if suspect is not None]
        self.held -= len(known)
        return known
