"""Where every job of a process is: in flight, waiting to be asked again, held, or done. Counts and queues."""

from __future__ import annotations

import dataclasses
import heapq
import math
import threading
from collections import deque
from typing import TYPE_CHECKING

from pipeline.engine.breaker import Breaker
from pipeline.engine.call import CallError, Fault, Handle, Job
from pipeline.engine.clock import Clock
from pipeline.engine.policy import History, Limits
from pipeline.engine.turns import Turns

if TYPE_CHECKING:
    from pipeline.engine.lane import Lane


class EngineHalted(Exception):
    """The run stopped itself for a reason that no row can mend. `reason` is one line."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclasses.dataclass(eq=False, slots=True)
class Flight:
    """A job, its lane, and what it has been through."""

    job: Job
    lane: Lane
    rows: int
    tokens: int  # to reserve for its next call
    is_part: bool = False  # of a pack that was split
    attempts: int = 0
    calls: int = 0
    rejections: int = 0
    refreshes: int = 0  # of the token, for its sake
    rejected_at: float = math.inf  # first rejection for quota
    error_at: float = -math.inf  # last error that said nothing of the request
    failing_since: float = math.inf  # the first of those since some call of the process succeeded
    failed_alone: bool = False  # it failed, then others succeeded, then it failed again
    spent_secs: float = 0.0  # of the row's deadline
    error: CallError | None = None  # the last
    fault: Fault | None = None  # once given up
    # Of its call in flight:
    flying: bool = False
    number: int = 0
    reserved: int = 0
    sent_at: float = 0.0
    timeout_secs: float = 0.0
    overdue_at: float = 0.0
    handle: Handle | None = None

    def history(self, now: float, *, outage: bool, refreshed: bool) -> History:
        """What the retry policy has to know at the landing of a call that failed."""
        return History(
            attempts=self.attempts,
            rejections=self.rejections,
            rate_limited_secs=max(0.0, now - self.rejected_at),
            spent_secs=self.spent_secs + now - self.sent_at,
            outage=outage,
            refreshed=refreshed,
            refreshes=self.refreshes,
        )


@dataclasses.dataclass(slots=True)
class Counts:
    """What a process has done since it began: calls, and rows where the name says so.

    Attributes:
        sent: calls sent.
        answered: calls that got a response.
        rejected: calls rejected for quota.
        retries: calls that failed otherwise and were to be made again.
        timed_out: calls whose answer will never be known.
        tokens: tokens of all responses, as their jobs told.
        not_asked_rows: rows dropped because the run had ended.
    """

    sent: int = 0
    answered: int = 0
    rejected: int = 0
    retries: int = 0
    timed_out: int = 0
    tokens: int = 0
    not_asked_rows: int = 0


class Ledger:
    """The state that the engine's parts share. Everything here is read and changed under `lock`, but for `stop`.

    Args:
        clock: the time, and the signal that the timer thread waits for.
        limits: what a process and a row may take.
        breaker: holds the jobs whose failure may be the run's.
    """

    def __init__(self, clock: Clock, limits: Limits, breaker: Breaker[Flight]) -> None:
        self.lock = threading.Lock()
        self.turns = Turns()
        self.counts = Counts()
        self.last_error: CallError | None = None
        self._now = clock.now
        self._limits = limits
        self._breaker = breaker

        self.flying: dict[int, Flight] = {}
        self.ready: deque[Flight] = deque()  # to be sent before anything new
        self._later: list[tuple[float, int, Flight]] = []  # heap of those that wait for their time
        self.in_flight = 0
        self.filing = 0  # jobs that are being told that they failed
        self.open = 0  # jobs not done, those held included
        self.open_rows = 0  # rows of those that are not held

        self.blocked = False  # whoever is first waits for a landing, not for the pace
        self.timer = clock.signal()
        self.timer_due = -math.inf  # when the timer thread wakes up by itself

        self.over = False  # nothing is sent any more
        self.stopped: str | None = None
        self.halted: str | None = None
        self.end_at = math.inf  # when what is in flight is given up
        self.to_sweep = False

    @property
    def waiting(self) -> int:
        """Jobs that wait to be asked again."""
        return len(self.ready) + len(self._later)

    def full(self, rows: int) -> bool:
        """Whether a landing has to come first: before a job of so many new rows, or before a retry (0)."""
        window = self._limits.max_in_flight
        crowded = rows > 0 and self.open_rows + rows > 2 * window * rows
        return crowded or not self._breaker.lets_go(self.in_flight, window)

    # A job's way.

    def add(self, flight: Flight) -> None:
        """A job comes in."""
        self.open += 1
        self.open_rows += flight.rows
        flight.lane.open += 1

    def depart(self, flight: Flight, now: float) -> int:
        """It takes a slot for a call that leaves now. Returns the call's number: 1, 2, 3 ..."""
        self.counts.sent = number = self._breaker.next_number()
        limits = self._limits
        timeout = min(limits.call_timeout_secs, max(1.0, limits.row_deadline_secs - flight.spent_secs))
        flight.flying = True
        flight.number = number
        flight.calls += 1
        flight.reserved = flight.tokens
        flight.sent_at = now
        flight.timeout_secs = timeout
        flight.overdue_at = now + timeout + limits.watchdog_secs
        self.flying[number] = flight
        self.in_flight += 1
        flight.lane.in_flight += 1
        if flight.overdue_at < self.timer_due:
            self.timer.set()
        return number

    def free(self, flight: Flight) -> None:
        """Its call landed, or was given up: the slot is free."""
        flight.flying = False
        flight.handle = None
        self.in_flight -= 1
        flight.lane.in_flight -= 1

    def put_off(self, flight: Flight, until: float) -> None:
        """It is to be asked again then."""
        heapq.heappush(self._later, (until, flight.number, flight))
        if until < self.timer_due:
            self.timer.set()

    def ask_next(self, flights: list[Flight]) -> None:
        """These go first. A pack is followed down to its rows before the next one's parts."""
        self.ready.extendleft(reversed(flights))
        self.timer.set()

    def hold(self, flight: Flight) -> None:
        """The breaker has it."""
        flight.lane.held += 1
        self.open_rows -= flight.rows

    def unhold(self, flight: Flight) -> None:
        """The breaker gave it back."""
        flight.lane.held -= 1
        self.open_rows += flight.rows

    def end(self, flight: Flight) -> None:
        """It is done."""
        self.open -= 1
        self.open_rows -= flight.rows
        flight.lane.open -= 1

    def drop(self, flight: Flight) -> None:
        """It ends without an outcome: its rows were not asked."""
        self.end(flight)
        self.counts.not_asked_rows += flight.rows

    # For the timer.

    def next_ready(self, now: float) -> Flight | None:
        """The job to be asked again next, if one's time has come. It stays where it is."""
        while self._later and self._later[0][0] <= now:
            self.ready.append(heapq.heappop(self._later)[2])
        return self.ready[0] if self.ready else None

    def overdue(self, now: float) -> list[Flight]:
        """Takes out the jobs whose calls should have landed by now; calls time out in the order of their sending."""
        late = []
        for flight in self.flying.values():
            if flight.overdue_at > now:
                break
            late.append(flight)
        for flight in late:
            del self.flying[flight.number]
        return late

    def next_event(self) -> float:
        """When the timer has to look next, as far as is known here."""
        due = self._later[0][0] if self._later else math.inf
        for flight in self.flying.values():
            due = min(due, flight.overdue_at, self.end_at)
            break
        return due

    # The end.

    def quiet(self) -> bool:
        """Whether nothing is left that could tell more about what is held: no call, no retry, no lane with a job."""
        return self.open == self._breaker.held and not self.turns.wanting

    def stop(self, reason: str, end_at: float) -> None:
        """Nothing is sent any more; what is in flight may land until then. Takes no lock: fit for a signal handler."""
        self.stopped = self.stopped or reason
        self.end_at = min(self.end_at, end_at)
        self.over = self.to_sweep = True
        self.timer.set()

    def halt(self, reason: str) -> None:
        """The run cannot go on: as `stop`, but all that is held goes too, for it may be the run's fault."""
        if self.halted is None:
            self.halted = reason
            self.end_at = min(self.end_at, self._now() + self._limits.halt_grace_secs)
            self.over = True
            self.sweep()
            self.timer.set()

    def sweep(self) -> None:
        """Drops all that waits, and wakes all lanes to see that it is over."""
        self.to_sweep = False
        dropped = [*self.ready, *(entry[2] for entry in self._later)]
        self.ready.clear()
        self._later.clear()
        if self.halted is not None:
            for flight in self._breaker.settle():
                self.unhold(flight)
                dropped.append(flight)
        for flight in dropped:
            self.drop(flight)
        self.turns.wake_all()

    def abandon(self) -> list[Handle | None]:
        """Gives up all that is in flight, and drops it: rows not asked, though their calls may be billed.

        They are charged nothing, for they have no outcome that could say so. Returns what the transport is to cancel.
        """
        flights = list(self.flying.values())
        handles = [flight.handle for flight in flights]
        self.flying.clear()
        for flight in flights:
            self.free(flight)
            self.drop(flight)
        self.counts.timed_out += len(flights)
        return handles
