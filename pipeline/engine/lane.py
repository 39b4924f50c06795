"""One bundle's way into the engine: it offers jobs in turn with the other lanes, and takes what landed."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from pipeline.engine.call import Job
from pipeline.engine.ledger import EngineHalted, Flight

if TYPE_CHECKING:
    from pipeline.engine.window import Engine


class Lane:
    """Made by `Engine.lane()`, one a bundle. Its methods belong to one thread: the bundle's.

    Both generators are to be exhausted. Outcomes come in the order in which calls land, not in that of the offers.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._throttled_secs = 0.0
        # The engine's, under its lock:
        self.signal = engine.clock.signal()
        self.waiting = False  # its thread sleeps, or is about to
        self.queued = False  # and waits for its turn
        self.throttled = False  # and it is the pace that it waits for
        self.ticket = 0
        self.in_flight = 0
        self.open = 0  # jobs that are not done, those held included
        self.held = 0
        self.landed: deque[Any] = deque()
        self.bug: BaseException | None = None
        self.closed = False

    def offer(self, job: Job) -> Iterator[Any]:
        """Sends a job when it is this lane's turn, and yields outcomes of earlier ones that land meanwhile.

        Ends when the job has been sent; or dropped, if the engine was stopped. Nothing is read ahead of that.

        Raises:
            EngineHalted: the run halted. What was in flight is yielded first, as far as it lands in time.
            Exception: whatever a method of a job of this lane raised.
        """
        flight = Flight(job, self, job.rows, job.tokens())
        self._engine.enter(self)
        try:
            while (wait := self._engine.board(self, flight)) is not None:
                if wait:
                    self._sleep(wait)
                else:
                    yield from self._take()
        finally:
            self._engine.leave(self)
        yield from self._take()
        if self._engine.halted is not None:
            yield from self.drain()

    def drain(self) -> Iterator[Any]:
        """Yields the outcomes of all jobs of this lane that are not out yet, as they land; ends when none is left.

        After `Engine.stop` that takes the grace at most.

        Raises:
            EngineHalted: the run halted.
            Exception: whatever a method of a job of this lane raised.
        """
        while (wait := self._engine.rest(self)) is not None:
            if wait:
                self._sleep(wait)
            else:
                yield from self._take()
        if self._engine.halted is not None:
            raise EngineHalted(self._engine.halted)

    def throttled_ms(self) -> int:
        """Milliseconds that this lane waited for the pace since this was last asked.

        Waiting for a free slot is not counted; waiting, with nothing in flight, for rows that the server turned away
        is.
        """
        ms = int(self._throttled_secs * 1e3)
        self._throttled_secs -= ms / 1e3
        return ms

    def close(self) -> None:
        """Gives the lane up, when its bundle failed: nothing of it is asked again, and what lands is thrown away."""
        self.closed = True
        self._engine.leave(self)  # an `offer` that is read no further has not
        self.landed.clear()

    def _take(self) -> Iterator[Any]:
        while self.landed:
            yield self.landed.popleft()
        if self.bug is not None:
            raise self.bug

    def _sleep(self, secs: float) -> None:
        clock = self._engine.clock
        began = clock.now()
        self.signal.wait(None if secs == math.inf else secs)
        if self.throttled:
            self._throttled_secs += clock.now() - began
