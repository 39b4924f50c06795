"""Whether the whole service is out, judged by how calls end that say nothing of their rows. Pure."""

from __future__ import annotations

import math

OUTAGE_ERRORS = 5
"""Errors in a row, without a success, that make an outage; one at least of a call sent after the first of them."""
OUTAGE_ERRORS_AMONG = 20
"""Errors that make one while calls sent before it still succeed: of calls sent after the first error, and `OUTAGE_SHARE`
of those. With answers that take 20 s such calls go on landing for as long, and hide an outage from whoever waits for
errors in a row: 1,000 calls were made in one of a minute, and rows had used up their attempts."""
OUTAGE_SHARE = 0.8
"""Errors that come now and then, at once, also outrun the successes that would show them to be few; not at this share."""
OUTAGE_ROWS = 5
"""How many different rows must fail before an error that may be the row's own (INTERNAL) is blamed on an outage."""
OUTAGE_GAP_SECS = 120.0
"""A call sent so long after the last error, and after the delay that the server asked for, begins a new count: nothing
was asked in between."""


class Outage:
    """Tells a service that is out from rows that fail: all calls fail, and so do calls sent after the first error.

    Once there is an outage, only the success of a call that was sent after its first error ends it.
    """

    def __init__(self) -> None:
        self._clear()

    def _clear(self) -> None:
        self.active = False
        self._in_a_row = _Errors()  # since any call succeeded
        self._among = _Errors()  # since one succeeded that was sent after the first of them
        self._since = math.inf
        self._rows: set[int] = set()
        self._quiet_until = math.inf

    @property
    def wide(self) -> bool:
        """Whether so many different rows failed that an error says nothing of its row."""
        return self.active and len(self._rows) >= OUTAGE_ROWS

    def success(self, sent_at: float) -> None:
        """A call that left at `sent_at` succeeded."""
        if self.active:
            if sent_at > self._since:
                self._clear()
            return
        if self._in_a_row.count:
            self._in_a_row = _Errors()
        if sent_at > self._among.since:
            self._among = _Errors()

    def error(self, now: float, sent_at: float, number: int, row: int, delay_secs: float = 0.0) -> bool:
        """A call failed. Returns whether an outage began with it.

        Args:
            now: when it failed.
            sent_at: when it was sent.
            number: which call it was, in the order of sending.
            row: tells the row from others.
            delay_secs: how long the server asked to wait.
        """
        if sent_at > self._quiet_until:
            self._clear()
        quiet_until = now + delay_secs + OUTAGE_GAP_SECS
        self._quiet_until = quiet_until if self._quiet_until == math.inf else max(self._quiet_until, quiet_until)
        if self.active:
            if len(self._rows) < OUTAGE_ROWS:
                self._rows.add(row)
            return False
        self._in_a_row.add(now, sent_at, number, row)
        self._among.add(now, sent_at, number, row)
        if self._among.later < OUTAGE_SHARE * self._among.sent:
            self._among = _Errors()
            self._among.add(now, sent_at, number, row)
        if self._in_a_row.count >= OUTAGE_ERRORS and self._in_a_row.later:
            errors = self._in_a_row
        elif self._among.later >= OUTAGE_ERRORS_AMONG:
            errors = self._among
        else:
            return False
        self.active, self._since, self._rows = True, errors.since, errors.rows
        return True

    def secs(self, now: float) -> float:
        """How long the outage has lasted, 0 if there is none."""
        return now - self._since if self.active else 0.0


class _Errors:
    """Errors, from one on that landed at `since`.

    Attributes:
        count: how many.
        later: those of calls that were sent after the first had landed.
        sent: calls sent from the first to the last of these.
        rows: some of the rows.
    """

    __slots__ = ("_first", "count", "later", "rows", "sent", "since")

    def __init__(self) -> None:
        self.since = math.inf
        self.count = self.later = self.sent = self._first = 0
        self.rows: set[int] = set()

    def add(self, now: float, sent_at: float, number: int, row: int) -> None:
        self.count += 1
        if self.count == 1:
            self.since = now
        if sent_at > self.since:
            self.later += 1
            self._first = min(self._first or number, number)
            self.sent = max(self.sent, number - self._first + 1)
        if len(self.rows) < OUTAGE_ROWS:
            self.rows.add(row)
