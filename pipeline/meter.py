"""The meter of a budget: what a fingerprint has cost, as the tables say, and whether one more call may be made. Pure but
for its thread, which asks the tables again and again."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

POLL_SECS = 10.0
"""How old the other processes' spending may be when a budget comes to its end. With several processes it is overshot by at
most processes x (POLL_SECS + the flush's 2 s) x (calls a second of a process) x (cost of the dearest call); one process
alone knows what it spends and overshoots by no more than its calls in flight cost above what it expects of them."""
PATIENCE = 10
"""While all that is spent leaves time for it, a look at the tables follows after a tenth of that time, at most after ten
times POLL_SECS: a look reads each row of the run, so that looking every 10 s would cost as much as the answers of a run
of many days. Spending that becomes up to ten times as fast between two looks is still seen in time."""
_ROUNDING = 1e-9  # of many additions: a worklist that was cut to the budget must not stop one row short of it
_log = logging.getLogger(__name__)


class Meter:
    """Says when a budget is used up, for good.

    Args:
        budget_usd: what the fingerprint may cost in all.
        in_tables: dollars that the tables hold of it; a query, asked every `poll_secs` from the meter's own thread.
        landed: dollars of all that this process has received.
        pending: dollars of what it has received and the tables do not hold yet.
        expected: dollars that are expected of what it has asked and not received, the next call included.
        on_used_up: told the reason, once, from the meter's own thread; may block.
        poll_secs: seconds between two queries at least; None is POLL_SECS.
    """

    def __init__(
        self,
        budget_usd: float,
        *,
        in_tables: Callable[[], float],
        landed: Callable[[], float],
        pending: Callable[[], float],
        expected: Callable[[], float],
        on_used_up: Callable[[str], None] | None = None,
        poll_secs: float | None = None,
    ) -> None:
        self._budget = budget_usd
        self._in_tables, self._landed, self._pending, self._expected = in_tables, landed, pending, expected
        self._on_used_up = on_used_up
        self._poll_secs = POLL_SECS if poll_secs is None else poll_secs
        self._others_and_before = 0.0
        self._reason: str | None = None
        self._ended = threading.Event()  # used up or closed
        self.poll()
        self._thread = threading.Thread(target=self._run, name="budget-meter", daemon=True)
        self._thread.start()

    def gate(self) -> str | None:
        """None while there is money for one more call; after that, and for ever, why not."""
        if self._reason is None and self._spent + self._expected() > self._budget * (1 + _ROUNDING):
            self._reason = f"the budget of ${self._budget:g} is used up"
            self._ended.set()
        return self._reason

    def poll(self) -> None:
        """Ask the tables once."""
        found = self._in_tables()
        # Taken after the query, own money may be more than what the query saw: the sum of the others is never overstated,
        # and the next poll mends it. Money that was spent stays spent, so the largest sum seen is the best.
        own = self._landed() - self._pending()
        self._others_and_before = max(self._others_and_before, found - own)

    @property
    def _spent(self) -> float:
        return self._others_and_before + self._landed()

    def close(self) -> None:
        """End the thread; what it has to tell is told first."""
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        pause = self._poll_secs
        before, since = self._spent, time.monotonic()
        while not self._ended.wait(pause):
            try:
                self.poll()
            except Exception as error:  # noqa: BLE001 - any failed query: the last sum holds, and own spending is known
                _log.warning("the budget's meter could not read the tables: %s", error)
                pause = self._poll_secs
                continue
            now, at = self._spent, time.monotonic()
            pause = pause_secs(self._budget - now, (now - before) / max(at - since, 1e-9), self._poll_secs)
            before, since = now, at
        if self._reason is not None and self._on_used_up is not None:
            self._on_used_up(self._reason)


def pause_secs(left_usd: float, usd_per_sec: float, poll_secs: float) -> float:
    """Seconds until the tables are looked at again.

    Args:
        left_usd: of the budget.
        usd_per_sec: spent since the look before, by all processes; 0 where that is not known yet.
        poll_secs: the least.
    """
    if usd_per_sec <= 0:
        return poll_secs
    return min(PATIENCE * poll_secs, max(poll_secs, left_usd / usd_per_sec / PATIENCE))
