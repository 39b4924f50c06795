"""What happens when a call lands: the job is done, asked again, held back or given up, and the run goes on or halts.

A landing comes on whatever thread the transport calls back on. Methods of jobs are called outside the lock.
"""

from __future__ import annotations

import math
import random
from typing import Any

from pipeline.engine.breaker import Breaker, Verdict
from pipeline.engine.call import Again, CallError, Landed, Split, Step
from pipeline.engine.clock import Clock
from pipeline.engine.ledger import Flight, Ledger
from pipeline.engine.outage import Outage
from pipeline.engine.pace import Pace
from pipeline.engine.policy import Limits, Retry, RunFault, decide, for_all, for_quota, transient

LAST_ROWS = 20
"""Fewer jobs than that, with nothing more to send, are the end of the work."""
LAST_ROWS_SECS = 90.0
"""How long those are given while nothing succeeds: more than the minute's pause that a service may take."""


class Landing:
    """Judges landings by policy, pace and breaker, and books them in the ledger."""

    def __init__(
        self,
        ledger: Ledger,
        *,
        pace: Pace,
        limits: Limits,
        breaker: Breaker[Flight],
        can_refresh: bool,
        clock: Clock,
        rng: random.Random,
    ) -> None:
        self.refreshing = False  # no call leaves before the timer thread has got a new access token
        self.refreshed_at = -math.inf
        self._ledger = ledger
        self._pace = pace
        self._limits = limits
        self._breaker = breaker
        self._outage = Outage()
        self._can_refresh = can_refresh
        self._now = clock.now
        self._random = rng.random
        self._success_at = -math.inf  # when the last call was sent that succeeded
        self._answered_at = -math.inf  # when the last success landed
        self._suspect: CallError | None = None

    def done(self, number: int, result: Any) -> None:
        """The transport's word on a call: its response or a `CallError`. A second one, or a late one, is ignored."""
        with self._ledger.lock:
            flight = self._ledger.flying.pop(number, None)
        if flight is not None:
            self.land(flight, result)

    def land(self, flight: Flight, result: Any) -> None:
        """Books a landing. The flight is no longer among those flying."""
        try:
            if isinstance(result, CallError):
                self._failed(flight, result)
            else:
                self._answered(flight, result)
        except BaseException as bug:  # noqa: BLE001 - nobody is above the transport's thread: the bundle would hang
            self.crash(flight, bug)

    def crash(self, flight: Flight, bug: BaseException) -> None:
        """A job or the transport raised: the lane raises it on its own thread."""
        ledger = self._ledger
        with ledger.lock:
            if flight.flying:
                ledger.free(flight)
                self._pace.settle(flight.reserved, 0)
                ledger.end(flight)
            flight.lane.bug = bug
            ledger.turns.wake(flight.lane)
            self.go_on()

    def settle(self, held: list[Flight]) -> None:
        """The breaker has let go of these: their failures are their own."""
        with self._ledger.lock:
            for flight in held:
                self._ledger.unhold(flight)
            self._ledger.filing += len(held)
        for flight in held:
            self._file(flight)

    def give_up(self, flight: Flight) -> None:
        """Ends a job that waits, for the reason that it has waited too long. It is in no queue any more."""
        with self._ledger.lock:
            self._ledger.filing += 1
        self._file(flight)

    def go_on(self) -> None:
        """Wakes whoever may go on after a landing; or halts the run, if the breaker waited for this to be the last."""
        ledger = self._ledger
        if self._breaker.stopped and not ledger.in_flight and not ledger.filing and not ledger.over:
            if self._breaker.landed(any(flight.is_part for flight in ledger.ready)) is Verdict.HALT:
                self.halt_in_doubt()
            ledger.blocked = True
        if ledger.blocked:
            ledger.blocked = False
            if ledger.ready:
                ledger.timer.set()
            else:
                ledger.turns.wake_first()
        if self._breaker.held and ledger.quiet():
            ledger.turns.wake_all()

    def halt_in_doubt(self) -> None:
        """Halts the run, for what the breaker has seen. Under the ledger's lock."""
        self._ledger.halt(f"calls fail one after the other ({self._breaker.tally()}): {self._suspect}")

    def _answered(self, flight: Flight, response: Any) -> None:
        now = self._now()
        flight.attempts += 1
        step = flight.job.answered(response, (now - flight.sent_at) * 1e3, flight.attempts, flight.calls)
        parts = self._prepare(flight, step)
        ledger = self._ledger
        with ledger.lock:
            ledger.free(flight)
            ledger.counts.answered += 1
            if step.tokens:
                ledger.counts.tokens += step.tokens
                self._pace.settle(flight.reserved, step.tokens)
            self._pace.succeeded(now, flight.sent_at)
            self._outage.success(flight.sent_at)
            self._success_at = max(self._success_at, flight.sent_at)
            self._answered_at = now
            cleared = self._breaker.success(flight.number)
            self._book(flight, step, parts)
            self.go_on()
        if cleared:
            self.settle(cleared)

    def _failed(self, flight: Flight, error: CallError) -> None:
        now = self._now()
        lost = error.code == "DEADLINE_EXCEEDED"
        if lost:
            flight.job.timed_out()
        with self._ledger.lock:
            self._ledger.free(flight)
            self._ledger.counts.timed_out += lost
            if not lost:  # it was not billed, so it used no tokens of the cap
                self._pace.settle(flight.reserved, 0)
            give_up = self._judge(flight, error, now)
            self._ledger.filing += give_up
            self.go_on()
        if give_up:
            self._file(flight)

    def _judge(self, flight: Flight, error: CallError, now: float) -> bool:
        """Does what the policy says; returns whether the job is to be told now that it failed."""
        passing = transient(error)
        if passing:
            began = self._outage.error(now, flight.sent_at, flight.number, id(flight), error.retry_delay_secs or 0.0)
            if began and not self._is_end_of_work():
                self._pace.collapse(now)
        outage = passing and self._is_outage(flight, error, now)
        refreshed = not self._can_refresh or flight.sent_at >= self.refreshed_at > self._answered_at
        history = flight.history(now, outage=outage, refreshed=refreshed)
        decision = decide(error, history, self._limits, self._random())
        flight.error = self._ledger.last_error = error
        if passing:
            flight.error_at = now
        if error.retry_delay_secs and for_all(error):
            self._pace.hold(now, error.retry_delay_secs)
        if for_quota(error):
            self._ledger.counts.rejected += 1
            flight.rejections += 1
            flight.rejected_at = min(flight.rejected_at, now)
            self._pace.rejected(now, flight.sent_at)

        out_secs = min(self._outage.secs(now), now - self._answered_at)
        if passing and out_secs >= self._limits.outage_secs:
            decision = RunFault(
                f"no call succeeded for {self._limits.outage_secs:.0f} s; the last one ended with {error}"
            )
        if isinstance(decision, RunFault):
            self._ledger.drop(flight)
            self._ledger.halt(decision.reason)
            return False
        if isinstance(decision, Retry):
            self._retry(flight, decision, now)
            return False
        flight.attempts += not for_quota(error)
        flight.fault = decision.fault
        if not decision.suspect:
            return True
        self._suspect = error
        hold = flight.rows == 1  # a pack is split at once: that files nothing
        self._breaker.suspect(flight.number, flight if hold else None)
        if hold:
            self._ledger.hold(flight)
        return not hold

    def _is_outage(self, flight: Flight, error: CallError, now: float) -> bool:
        """Whether the whole service seems to be out, so that an error costs the job nothing.

        UNAVAILABLE is never a row's fault: the second of a job, without any success of the process in between, is an
        outage. Other errors may be the row's, and a single row that fails for ever must not pass for an outage.

        At the end of the work only rows that fail are left, and no success can tell them from an outage, but they have
        to end. They do at once where others succeeded between two errors of the row, else after `LAST_ROWS_SECS`.
        """
        succeeded_since = flight.error_at <= self._success_at
        if succeeded_since or flight.failing_since == math.inf:
            flight.failed_alone |= succeeded_since and flight.error_at > -math.inf
            flight.failing_since = now
        if self._is_end_of_work() and (flight.failed_alone or now - flight.failing_since >= LAST_ROWS_SECS):
            return False
        return self._outage.wide or (error.code == "UNAVAILABLE" and not succeeded_since)

    def _is_end_of_work(self) -> bool:
        return not self._ledger.turns.wanting and self._ledger.open - self._breaker.held < LAST_ROWS

    def _retry(self, flight: Flight, retry: Retry, now: float) -> None:
        if self._ledger.over or flight.lane.closed:
            self._ledger.drop(flight)
            return
        if retry.costs_attempt:
            flight.attempts += 1
            flight.spent_secs += now - flight.sent_at + retry.delay_secs
        if flight.error is not None and not for_quota(flight.error):
            self._ledger.counts.retries += 1
        if retry.refresh:
            flight.refreshes += 1
            if self.refreshed_at <= flight.sent_at:
                self.refreshing = True
                self._ledger.timer.set()
        self._ledger.put_off(flight, now + retry.delay_secs)

    def _file(self, flight: Flight) -> None:
        """Tells a job that it failed, and does as it says."""
        step: Step = Landed(())
        parts: list[Flight] = []
        try:
            if flight.fault is None or flight.error is None:
                raise AssertionError("a job was given up without a fault")
            step = flight.job.failed(flight.fault, flight.error, flight.attempts, flight.calls)
            parts = self._prepare(flight, step)
        except BaseException as bug:  # noqa: BLE001 - as in `land`
            flight.lane.bug = bug
        with self._ledger.lock:
            self._ledger.filing -= 1
            self._book(flight, step, parts)
            self.go_on()

    def _prepare(self, flight: Flight, step: Step) -> list[Flight]:
        """The jobs to be asked next, with what has to be asked of them outside the lock."""
        if isinstance(step, Split):
            return [Flight(job, flight.lane, job.rows, job.tokens(), is_part=True) for job in step.jobs]
        if isinstance(step, Again):
            flight.tokens = flight.job.tokens()
            return [flight]
        return []

    def _book(self, flight: Flight, step: Step, parts: list[Flight]) -> None:
        """The job is done, or is asked again, or its parts are."""
        ledger, lane = self._ledger, flight.lane
        if isinstance(step, Again):
            flight.rejected_at = math.inf
        else:
            for part in parts:
                ledger.add(part)
            ledger.end(flight)
            if not lane.closed:
                lane.landed.extend(step.outcomes)
        if parts and (ledger.over or lane.closed):
            for part in parts:
                ledger.drop(part)
        elif parts:
            ledger.ask_next(parts)
        # A lane in the queue is not woken for each outcome: it looks when it is its turn, or after HAND_ON_SECS.
        if lane.bug or (not lane.queued and (lane.landed or lane.open == lane.held)):
            ledger.turns.wake(lane)
