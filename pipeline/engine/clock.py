"""Time, waiting and threads as the engine sees them: the one seam that tests replace to run an hour in a second."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Protocol


class Signal(Protocol):
    """Wakes the one thread that waits for it; set beforehand, the next wait returns at once."""

    def set(self) -> None:
        """Wakes the waiter. May be called from a signal handler."""

    def wait(self, timeout_secs: float | None) -> None:
        """Returns when set, or after the timeout; None waits for ever."""


class Clock(Protocol):
    """Where the engine gets the time and its threads from."""

    def now(self) -> float:
        """Seconds of a monotonic clock."""

    def signal(self) -> Signal:
        """A new signal that is not set."""

    def start(self, work: Callable[[], None], name: str) -> None:
        """Runs `work` in a thread that does not keep the process alive."""


class SystemClock:
    """The real thing."""

    now = staticmethod(time.monotonic)

    def signal(self) -> Signal:
        """A new signal that is not set."""
        return _LockSignal()

    def start(self, work: Callable[[], None], name: str) -> None:
        """Runs `work` in a daemon thread."""
        threading.Thread(target=work, name=name, daemon=True).start()


class _LockSignal:
    """A binary semaphore made of one lock: cheaper than `threading.Event`, which makes a lock for every wait."""

    __slots__ = ("_closed",)

    def __init__(self) -> None:
        self._closed = threading.Lock()
        self._closed.acquire()

    def set(self) -> None:
        try:
            self._closed.release()
        except RuntimeError:
            return  # it is set already

    def wait(self, timeout_secs: float | None) -> None:
        # A lock cannot wait longer than TIMEOUT_MAX; whoever waits looks around and waits again.
        self._closed.acquire(timeout=-1 if timeout_secs is None else min(timeout_secs, threading.TIMEOUT_MAX))
