"""The engine's one thread of its own: asks again what is to be asked again, and sees to all that is due at some time."""

from __future__ import annotations

import math
from collections.abc import Callable

from pipeline.engine.call import CallError, Fault, Handle
from pipeline.engine.clock import Clock
from pipeline.engine.departure import Departure
from pipeline.engine.landing import Landing
from pipeline.engine.ledger import Ledger
from pipeline.engine.policy import Limits


class Timer:
    """Sleeps until something is due or it is woken: retries, calls that hang, a token to refresh, a halt to tell, the end."""

    def __init__(
        self,
        ledger: Ledger,
        departure: Departure,
        landing: Landing,
        *,
        limits: Limits,
        refresh_token: Callable[[], None] | None,
        on_halt: Callable[[str], None] | None,
        clock: Clock,
    ) -> None:
        self.bug: BaseException | None = None  # what ended the thread, though nothing should: every lane raises it
        self.told = on_halt is None  # whether `on_halt` has returned
        self._ledger = ledger
        self._departure = departure
        self._landing = landing
        self._limits = limits
        self._refresh_token = refresh_token
        self._on_halt = on_halt
        self._clock = clock
        self._now = clock.now
        self._runs = False
        self._closed = False

    def start(self) -> None:
        """Starts the thread, the first time. Under the ledger's lock."""
        if not self._runs:
            self._runs = True
            self._clock.start(self._run, "engine-timer")

    def close(self) -> None:
        """Ends the thread when it has done what it is doing."""
        self._closed = True
        self._ledger.timer.set()

    def abandon(self) -> None:
        """The end has come: gives up what is in flight and drops what waits. Any thread may see to that."""
        with self._ledger.lock:
            handles = self._ledger.abandon()
            if handles or self._ledger.to_sweep:
                self._ledger.sweep()
        for handle in handles:
            _cancel(handle)

    def _run(self) -> None:
        try:
            while not self._closed:
                self._ledger.timer.wait(self._tick())
        except BaseException as bug:  # noqa: BLE001 - no thread is above this one: the lanes raise it, nothing hangs
            self.bug = bug
            self._ledger.stop(f"engine failed: {bug!r}", self._now())
            with self._ledger.lock:
                self._ledger.sweep()

    def _tick(self) -> float | None:
        """Does all that is due, and returns the seconds until something will be; None when nothing is known to be."""
        ledger = self._ledger
        if self._landing.refreshing:
            self._refresh()
        if ledger.halted is not None and not self.told:
            self._tell(ledger.halted)
        with ledger.lock:
            if ledger.to_sweep:
                ledger.sweep()
            late = [(flight, flight.handle) for flight in ledger.overdue(self._now())]
        for flight, handle in late:
            _cancel(handle)
            secs = f"{flight.timeout_secs:.0f}"
            self._landing.land(
                flight, CallError("DEADLINE_EXCEEDED", f"the transport did not end the call after {secs} s")
            )
        if ledger.over and self._now() >= ledger.end_at:
            self.abandon()
        wait = self._send_ready()
        with ledger.lock:
            now = self._now()
            ledger.timer_due = min(ledger.next_event(), now + wait)
            if not ledger.ready:
                ledger.turns.wake_first()
            return None if ledger.timer_due == math.inf else max(0.0, ledger.timer_due - now)

    def _send_ready(self) -> float:
        """Sends what is to be asked again, as far as it may leave; returns the seconds until more may, or infinity."""
        ledger = self._ledger
        while True:
            self._departure.ask_gate()
            with ledger.lock:
                now = self._now()
                flight = ledger.next_ready(now)
                if flight is None or ledger.over:
                    return math.inf
                if flight.lane.closed:
                    ledger.drop(ledger.ready.popleft())
                    continue
                too_late = now - flight.rejected_at >= self._limits.rate_limited_secs
                wait = 0.0 if too_late else self._departure.wait_secs(now, flight.tokens, 0)
                if wait:
                    return wait
                ledger.ready.popleft()
                number = 0 if too_late else ledger.depart(flight, now)
            if too_late:
                flight.fault = Fault.RATE_LIMITED
                self._landing.give_up(flight)
            else:
                self._departure.launch(flight, number)

    def _tell(self, reason: str) -> None:
        try:
            if self._on_halt is not None:
                self._on_halt(reason)
        except Exception as error:  # noqa: BLE001 - whatever it was, why the run halted matters more
            self._ledger.halted = f"{reason} (and that could not be recorded: {error})"
        self.told = True
        self._ledger.to_sweep = True  # wakes the lanes

    def _refresh(self) -> None:
        reason = None
        try:
            if self._refresh_token is not None:
                self._refresh_token()
        except Exception as error:  # noqa: BLE001 - whatever the credentials raise: without a token no row can be asked
            reason = f"the access token could not be refreshed: {error}"
        with self._ledger.lock:
            self._landing.refreshed_at = self._now()
            self._landing.refreshing = False
            if reason is not None:
                self._ledger.halt(reason)
            self._landing.go_on()


def _cancel(handle: Handle | None) -> None:
    """Ends a call that nobody waits for. While it is being sent it has no handle yet; `Departure.launch` sees to that."""
    if handle is not None:
        handle.cancel()
