"""One bundle's rows in, their outcomes out: read where they are sent inline, packed, asked, drained. No Beam."""

from __future__ import annotations

from collections.abc import Iterator

from pipeline.asking import Ask
from pipeline.engine import Lane
from pipeline.rows import Answer, Failure, Observation
from pipeline.worker import Worker

Outcome = Answer | Failure


class Bundle:
    """A bundle's way through the process's `Worker`. Its methods belong to one thread; its generators are to be exhausted.

    Raises:
        EngineHalted: no row can mend what went wrong; from `offer` and `drain`.
        Halted, ConfigError: as `Worker.engine`.
    """

    def __init__(self, shared: Worker) -> None:
        self._shared = shared
        self.lane: Lane = shared.engine.lane()
        self._reading = shared.reading()
        self._pack: list[Observation] = []

    def offer(self, row: Observation) -> Iterator[Outcome]:
        """Takes a row in, and yields what has landed meanwhile, of any row."""
        if row.problem:
            yield self._shared.unusable(row)
        elif self._reading is not None:
            yield from self._asked(self._reading.add(row))
        else:
            self._pack.append(row)
            if len(self._pack) >= self._shared.config.question.images_per_request:
                yield from self._packed()

    def drain(self) -> Iterator[Outcome]:
        """Yields all outcomes that are not out yet."""
        if self._pack:
            yield from self._packed()
        if self._reading is not None:
            yield from self._asked(self._reading.rest())
        yield from self.lane.drain()
        while self._reading is not None and self._reading.waiting:
            yield from self._asked(self._reading.late())
            yield from self.lane.drain()

    def close(self) -> None:
        """Gives the bundle up, as it failed: nothing of it is asked again."""
        self.lane.close()
        self._pack.clear()
        if self._reading is not None:
            self._reading.close()

    def _asked(self, ready: Iterator[Ask | Outcome]) -> Iterator[Outcome]:
        for each in ready:
            if isinstance(each, Ask):
                yield from self.lane.offer(each)
            else:
                yield each

    def _packed(self) -> Iterator[Outcome]:
        pack, self._pack = self._pack, []
        yield from self.lane.offer(self._shared.ask(pack))
