"""One bundle's rows on their way to the engine: read ahead by the pool, met with their twins, packed."""

from __future__ import annotations

import functools
import itertools
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence

from pipeline.asking import Ask, Picture, Question
from pipeline.asking.picture import Outcome
from pipeline.images.pool import Pool
from pipeline.images.twins import Lead, Twins, share
from pipeline.rows import Observation, Usage

_LOOK_SECS = 0.2  # how soon a wait sees that the run was stopped, which wakes nobody

MakeAsk = Callable[[Sequence[Observation], Sequence[Picture]], Ask]


class Reading:
    """Rows in, asks to offer and outcomes that need no call out, in the order in which images are ready.

    Its methods belong to one thread, the bundle's, and its generators are to be exhausted. It waits only where a row
    more would be too many; what was ready has been handed on by then.

    Args:
        question: what is asked.
        pool: reads the images.
        twins: knows what was asked already.
        ask: makes an ask of rows and their pictures.
        expect: told the rows that get an outcome without an ask.
        stopped: whether the run has ended, so that nothing more is asked.
        patience_secs: so long a row waits for its twin in another bundle before it is asked itself.
    """

    def __init__(
        self,
        question: Question,
        pool: Pool,
        twins: Twins,
        *,
        ask: MakeAsk,
        expect: Callable[[int], None],
        stopped: Callable[[], bool],
        patience_secs: float,
    ) -> None:
        self._question = question
        self._pool = pool
        self._twins = twins
        self._ask = ask
        self._expect = expect
        self._stopped = stopped
        self._patience_secs = patience_secs
        self._numbers = itertools.count()
        self._reads: set[int] = set()  # that are under way
        self._unread: deque[tuple[int, Picture]] = deque()  # with the number of the next read, when they arrived
        self._pack: list[Picture] = []
        self._followers: dict[int, Observation] = {}  # rows whose twin is being asked
        self._alone: deque[Observation] = deque()  # those that turned out to need an ask of their own
        # From other threads:
        self._arrived: deque[tuple[int, Picture | BaseException, bool]] = deque()
        self._told: deque[tuple[int, Outcome | None]] = deque()
        self._closed = False

    @property
    def waiting(self) -> bool:
        """Whether rows are left that wait for their twins."""
        return bool(self._followers or self._alone)

    def add(self, row: Observation) -> Iterator[Ask | Outcome]:
        """Reads a row ahead, and yields what is ready meanwhile."""
        while not self._stopped():
            yield from self._taken()
            if self._admitted():
                self._start(row)
                return
            self._wait(self._admitted)

    def rest(self) -> Iterator[Ask | Outcome]:
        """Yields all that is still being read, as it gets ready; a last pack may be small."""
        while not self._stopped():
            while self._alone and self._admitted():
                self._start(self._alone.popleft(), alone=True)
            yield from self._taken()
            if not self._reads and not self._alone:
                break
            self._wait(lambda: bool(self._alone) and self._admitted())
        if self._pack and not self._stopped():
            yield self._packed()

    def late(self) -> Iterator[Ask | Outcome]:
        """Yields what becomes of rows that wait for their twins, as soon as something is known of any of them."""
        give_up_at = time.monotonic() + self._patience_secs
        while not self._told and self._followers and not self._stopped() and time.monotonic() < give_up_at:
            self._wait(lambda: False)
        if self._stopped():
            self._followers.clear()
            self._alone.clear()
            return
        if not self._told:
            self._alone.extend(self._followers.values())
            self._followers.clear()
        yield from self.rest()

    def close(self) -> None:
        """Lets go of everything: the bundle failed."""
        self._closed = True
        self._pack.clear()
        self._unread.clear()
        self._arrived.clear()

    def _admitted(self) -> bool:
        return self._pool.admits(len(self._reads))

    def _start(self, row: Observation, *, alone: bool = False) -> None:
        number = next(self._numbers)
        self._reads.add(number)

        def done(got: Picture | BaseException) -> None:
            if not self._closed:
                self._arrived.append((number, got, alone))

        self._pool.start(row, done)

    def _wait(self, until: Callable[[], bool]) -> None:
        """Waits until something has come in or `until` holds, but not for long."""
        changed: threading.Condition = self._pool.changed
        with changed:
            if not (self._arrived or self._told or until()):
                changed.wait(_LOOK_SECS)

    def _taken(self) -> Iterator[Ask | Outcome]:
        while self._told:
            number, outcome = self._told.popleft()
            row = self._followers.pop(number, None)
            if row is not None and outcome is None:
                self._alone.append(row)
            elif row is not None and outcome is not None:
                yield self._without_ask(share(outcome, row, self._question))
        while self._arrived:
            number, got, alone = self._arrived.popleft()
            self._reads.discard(number)
            if isinstance(got, BaseException):
                raise got
            yield from self._met(got, alone)
        # What Cloud Storage denies may be the run's fault. Images that were read before go first: their success must not
        # look as if the run still worked.
        while self._unread and self._unread[0][0] <= min(self._reads, default=self._unread[0][0]):
            _, picture = self._unread.popleft()
            yield self._ask((picture.row,), (picture,))

    def _met(self, picture: Picture, alone: bool) -> Iterator[Ask | Outcome]:
        row, problem = picture.row, picture.problem
        if problem is not None:
            if problem.error is not None:
                self._unread.append((next(self._numbers), picture))
                return
            failure = self._question.failure(row, problem.reason, problem.detail, attempts=0, calls=0, usage=Usage())
            yield self._without_ask(failure)
            return
        if not alone:
            number = next(self._numbers)
            self._followers[number] = row  # before it can be told
            met = self._twins.meet(picture.digest, functools.partial(self._tell, number))
            if met is None:
                return
            del self._followers[number]
            if not isinstance(met, Lead):
                yield self._without_ask(share(met, row, self._question))
                return
            picture.tell = met.settle
        self._pack.append(picture)
        if len(self._pack) >= self._question.images_per_request:
            yield self._packed()

    def _tell(self, number: int, outcome: Outcome | None) -> None:
        self._told.append((number, outcome))
        with self._pool.changed:
            self._pool.changed.notify_all()

    def _without_ask(self, outcome: Outcome) -> Outcome:
        self._expect(1)
        return outcome

    def _packed(self) -> Ask:
        pack, self._pack = self._pack, []
        return self._ask([picture.row for picture in pack], pack)
