"""What happens when a call leaves: the gate is asked, a slot and the pace are waited for, the transport is called.

A job leaves on its bundle's own thread the first time, and on the timer thread when it is asked again.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

from pipeline.engine.call import Send
from pipeline.engine.clock import Clock
from pipeline.engine.landing import Landing
from pipeline.engine.ledger import Flight, Ledger
from pipeline.engine.pace import Pace


class Departure:
    """Sends calls. Whose turn it is has been settled before."""

    def __init__(
        self,
        ledger: Ledger,
        landing: Landing,
        *,
        send: Send,
        pace: Pace,
        gate: Callable[[], str | None] | None,
        clock: Clock,
    ) -> None:
        self._ledger = ledger
        self._landing = landing
        self._send = send
        self._pace = pace
        self._gate = gate
        self._now = clock.now

    def ask_gate(self) -> None:
        """Stops the engine if its gate says why."""
        if self._gate is not None and not self._ledger.over and (reason := self._gate()):
            self._ledger.stop(reason, math.inf)

    def wait_secs(self, now: float, tokens: int, rows: int) -> float:
        """Seconds until a call may leave: 0.0 now, and it has to; infinity when a landing has to come first.

        `rows` is how many new rows the call brings in, 0 for a job that is asked again. Under the ledger's lock.
        """
        if self._ledger.full(rows) or self._landing.refreshing:
            self._ledger.blocked = True
            return math.inf
        return self._pace.reserve(now, tokens)

    def launch(self, flight: Flight, number: int) -> None:
        """Makes the call that has got a slot under this number. It may land before this returns."""
        ledger = self._ledger
        try:
            request = flight.job.request()
            flight.sent_at = self._now()
            handle = self._send(request, flight.timeout_secs, partial(self._landing.done, number))
        except BaseException as bug:  # it has a slot: whatever was raised, that must be given back
            with ledger.lock:
                flying = ledger.flying.pop(number, None)
            if flying is not None:
                self._landing.crash(flight, bug)
            if not isinstance(bug, Exception):
                raise
            return
        if flight.number == number:  # else it has landed and left again meanwhile
            flight.handle = handle
        if ledger.over and number not in ledger.flying:
            handle.cancel()  # it was given up while it was being sent
