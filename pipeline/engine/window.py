"""The engine of one worker process: a window of calls in flight that all bundles of the process share.

Threads: a bundle's own thread sends its jobs (departure.py), whatever thread a call lands on completes them (landing.py),
and one timer thread sends what is asked again and sees to what is overdue (timer.py). All state is in the ledger,
behind one lock; jobs, transport and callbacks are called outside of it. A thread that cannot go on sleeps on its own
signal and is woken when it may.
"""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Callable

from pipeline.engine.breaker import Breaker
from pipeline.engine.call import CallError, Send
from pipeline.engine.clock import Clock, SystemClock
from pipeline.engine.departure import Departure
from pipeline.engine.landing import Landing
from pipeline.engine.lane import Lane
from pipeline.engine.ledger import Counts, Flight, Ledger
from pipeline.engine.pace import Pace
from pipeline.engine.policy import Limits
from pipeline.engine.timer import Timer

HAND_ON_SECS = 0.05
"""How long an outcome may wait for its lane to have its turn. Waking a thread costs more than all else that the engine
does for a call, and with several lanes in the queue it would wake one more for each outcome."""


@dataclasses.dataclass(slots=True)
class Stats(Counts):
    """What a process has done since it began (`Counts`), and what it is doing at this moment.

    Attributes:
        in_flight: calls in flight.
        waiting: jobs that wait to be asked again.
        held: jobs whose failure is held back until the run is seen to work.
        unresolved_rows: rows of jobs in flight or waiting; neither rows held nor outcomes that their bundle has yet
            to take.
        rate_per_sec: the pace, the caps not applied. Where the window is what limits, fewer calls leave.
        ended: why nothing is sent any more, or None.
        last_error: what the last call that failed ended with, or None.
    """

    in_flight: int = 0
    waiting: int = 0
    held: int = 0
    unresolved_rows: int = 0
    rate_per_sec: float = 0.0
    ended: str | None = None
    last_error: CallError | None = None


class Engine:
    """A window of calls in flight; one per process, used by many lanes at once.

    Rows in flight or waiting to be asked again are at most twice `max_in_flight` (times the rows of a job, for
    packs). Not counted are outcomes that their bundle has yet to take, and rows whose failure the circuit breaker
    holds back.

    Args:
        send: starts a call. Called from many threads.
        pace: how fast calls may leave.
        limits: what a process and a row may take.
        breaker: when failures are the run's.
        refresh_token: gets a new access token; may block. Called on the timer thread when a call is unauthenticated,
            while new calls wait. Without it the first such call halts the run.
        on_halt: told the reason when the run halts, once, on the timer thread; may block. Lanes raise `EngineHalted`
            when it has returned, or when `Limits.halt_grace_secs` are over.
        gate: asked before every call, so it must be cheap; a string, such as "over budget", stops the engine with
            that reason: what is in flight lands, nothing is sent any more.
        clock: the time and the threads.
        rng: where the jitter of retries comes from.
    """

    def __init__(
        self,
        send: Send,
        *,
        pace: Pace | None = None,
        limits: Limits | None = None,
        breaker: Breaker[Flight] | None = None,
        refresh_token: Callable[[], None] | None = None,
        on_halt: Callable[[str], None] | None = None,
        gate: Callable[[], str | None] | None = None,
        clock: Clock | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self.clock: Clock = clock or SystemClock()
        self._now = self.clock.now
        self._pace = pace or Pace()
        self._breaker: Breaker[Flight] = breaker or Breaker()
        limits = limits or Limits()
        self._ledger = Ledger(self.clock, limits, self._breaker)
        self._turns = self._ledger.turns
        self._landing = Landing(
            self._ledger,
            pace=self._pace,
            limits=limits,
            breaker=self._breaker,
            can_refresh=refresh_token is not None,
            clock=self.clock,
            rng=rng or random.Random(),
        )
        self._departure = Departure(
            self._ledger, self._landing, send=send, pace=self._pace, gate=gate, clock=self.clock
        )
        self._timer = Timer(
            self._ledger,
            self._departure,
            self._landing,
            limits=limits,
            refresh_token=refresh_token,
            on_halt=on_halt,
            clock=self.clock,
        )

    def lane(self) -> Lane:
        """A new lane, for one bundle."""
        with self._ledger.lock:
            self._timer.start()
        return Lane(self)

    def stop(self, reason: str, grace_secs: float) -> None:
        """Sends nothing any more. What is in flight may land for so long, then it is cancelled; the rest is not asked.

        Takes no lock and does not wait: fit for a signal handler. A second call can only shorten the grace.
        """
        self._ledger.stop(reason, self._now() + grace_secs)

    def close(self) -> None:
        """Ends everything at once: cancels what is in flight, wakes all lanes, ends the timer thread."""
        self.stop("closed", 0.0)
        self._timer.abandon()
        self._timer.close()

    def stats(self) -> Stats:
        """What the process has done and is doing."""
        ledger = self._ledger
        with ledger.lock:
            return Stats(
                **dataclasses.asdict(ledger.counts),
                in_flight=ledger.in_flight,
                waiting=ledger.waiting,
                held=self._breaker.held,
                unresolved_rows=ledger.open_rows,
                rate_per_sec=self._pace.rate,
                ended=self.ended,
                last_error=ledger.last_error,
            )

    # For `Lane`, on its bundle's thread.

    def enter(self, lane: Lane) -> None:
        """The lane has a job to send."""
        self._turns.enter(lane)

    def leave(self, lane: Lane) -> None:
        """Its job was sent or dropped, or its thread was interrupted."""
        self._turns.wanting.discard(lane)
        if lane.queued or self._breaker.held:
            with self._ledger.lock:
                self._turns.awake(lane)
                self._turns.wake_first()
                self._landing.go_on()

    def board(self, lane: Lane, flight: Flight) -> float | None:
        """Sends the job, or drops it if the engine has stopped, and returns None.

        Returns 0.0 when the job cannot be sent now but something of the lane has landed: the lane is out of the queue
        while it hands that on. Otherwise it is in the queue, and is to sleep on its signal for the seconds returned.
        """
        ledger, turns = self._ledger, self._turns
        self._departure.ask_gate()
        with ledger.lock:
            now = self._now()
            turns.awake(lane)
            lane.bug = lane.bug or self._timer.bug
            if ledger.over or lane.closed:
                ledger.counts.not_asked_rows += flight.rows
                turns.wake_first()
                return None
            may_go = not lane.bug and not ledger.ready and turns.first(lane)
            wait = self._departure.wait_secs(now, flight.tokens, flight.rows) if may_go else math.inf
            if wait:
                if lane.landed or lane.bug:
                    turns.wake_first()
                    return 0.0
                lane.throttled = not ledger.full(flight.rows)
                turns.queue(lane)
                return min(wait, HAND_ON_SECS) if lane.open else wait
            ledger.add(flight)
            number = ledger.depart(flight, now)
            if ledger.full(flight.rows):
                ledger.blocked = True
            else:
                turns.wake_first()
        self._departure.launch(flight, number)
        return None

    def rest(self, lane: Lane) -> float | None:
        """For a lane with nothing more to send: None when all of it is out, 0.0 when something has landed, or else how
        long to sleep, in seconds.
        """
        ledger = self._ledger
        if ledger.over and self._now() >= ledger.end_at:
            self._timer.abandon()
        with ledger.lock:
            self._turns.awake(lane)
            lane.bug = lane.bug or self._timer.bug
            if lane.landed or lane.bug:
                return 0.0
            if not (lane.held and ledger.quiet()):
                if not lane.open and (ledger.halted is None or self._timer.told or self._now() >= ledger.end_at):
                    return None
                lane.throttled = not lane.in_flight and lane.open > lane.held
                self._turns.sleep(lane)
                return max(ledger.end_at - self._now(), 1e-3) if ledger.over else math.inf
            if self._breaker.stopped and not ledger.over and not self._breaker.by_chance():
                self._landing.halt_in_doubt()
                return 0.0
            rest = self._breaker.settle()
            if ledger.over and self._breaker.stopped:  # ended while in doubt: they may be the run's fault
                for flight in rest:
                    ledger.unhold(flight)
                    ledger.drop(flight)
                return 0.0
        self._landing.settle(rest)
        return 0.0

    @property
    def halted(self) -> str | None:
        """Why the run halted, or None."""
        return self._ledger.halted

    @property
    def ended(self) -> str | None:
        """Why nothing is sent any more, or None; takes no lock."""
        return self._ledger.halted or self._ledger.stopped
