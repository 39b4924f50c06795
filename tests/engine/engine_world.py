"""A world with its own time: threads that run one at a time, a clock that jumps, a server that does as it is told.

`World` is a `Clock` for the engine. Its threads are real, but only one runs at any moment, until it waits for a
signal; when all wait, time jumps to the next thing that is due. So an hour of an outage takes a second, twice the
same run gives twice the same, and a hang is an exception: nobody runs and nothing is due.
"""

from __future__ import annotations

import dataclasses
import heapq
import itertools
import random
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

from pipeline.engine import Again, CallError, Engine, Landed, Lane, Limits, Pace, Split


class HangError(Exception):
    """Every thread waits, and nothing is due."""


class World:
    def __init__(self) -> None:
        self.time = 1000.0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._runnable: deque[_Task] = deque()
        self._blocked: set[_Task] = set()
        self._alive: set[_Task] = set()
        self._baton = threading.Semaphore(0)
        self._tasks: dict[int, _Task] = {}

    # A Clock.

    def now(self) -> float:
        return self.time

    def signal(self) -> _Signal:
        return _Signal(self)

    def start(self, work: Callable[[], None], name: str) -> None:
        task = _Task(self, work, name)
        self._alive.add(task)
        self._runnable.append(task)

    # For tests.

    def at(self, time: float, event: Callable[[], None]) -> None:
        """Calls `event` then, as if on a thread of the transport."""
        heapq.heappush(self._events, (time, next(self._order), event))

    def sleep(self, secs: float) -> None:
        self.signal().wait(secs)

    def run(
        self, *works: Callable[[], None], close: Callable[[], None] = lambda: None, limit_secs: float = 1e5
    ) -> None:
        """Runs these as threads until all have ended; then `close`, and until every other thread has ended too."""
        mains = []
        for number, work in enumerate(works):
            self.start(work, f"main-{number}")
            mains.append(self._runnable[-1])
        end = self.time + limit_secs
        try:
            while any(task in self._alive for task in mains):
                self._step(end)
        finally:
            close()
            while self._runnable or self._blocked:
                if not self._runnable:
                    break
                self._resume(self._runnable.popleft())
        for task in mains:
            if task.raised is not None:
                raise task.raised

    def _step(self, end: float) -> None:
        if self._runnable:
            self._resume(self._runnable.popleft())
            return
        due = min((task.deadline for task in self._blocked), default=float("inf"))
        if self._events:
            due = min(due, self._events[0][0])
        if due > end:
            names = sorted(task.name for task in self._blocked)
            raise HangError(f"at {self.time - 1000:.1f} s all wait and nothing is due before {due}: {names}")
        self.time = max(self.time, due)
        while self._events and self._events[0][0] <= self.time:
            heapq.heappop(self._events)[2]()
        late = [task for task in self._blocked if task.deadline <= self.time]
        for task in sorted(late, key=lambda task: task.number):
            self._unblock(task)

    def _resume(self, task: _Task) -> None:
        task.go.release()
        self._baton.acquire()

    def _unblock(self, task: _Task) -> None:
        if task in self._blocked:
            self._blocked.discard(task)
            self._runnable.append(task)


class _Task:
    _numbers = itertools.count()

    def __init__(self, world: World, work: Callable[[], None], name: str) -> None:
        self.name = name
        self.number = next(self._numbers)
        self.deadline = float("inf")
        self.go = threading.Semaphore(0)
        self.raised: BaseException | None = None
        self._world = world
        self._work = work
        threading.Thread(target=self._run, name=name, daemon=True).start()

    def _run(self) -> None:
        self.go.acquire()
        self._world._tasks[threading.get_ident()] = self
        try:
            self._work()
        except BaseException as raised:  # noqa: BLE001 - `run` raises it
            self.raised = raised
        self._world._alive.discard(self)
        self._world._baton.release()


class _Signal:
    def __init__(self, world: World) -> None:
        self._world = world
        self._is_set = False
        self._waiter: _Task | None = None

    def set(self) -> None:
        self._is_set = True
        if self._waiter is not None:
            self._world._unblock(self._waiter)

    def wait(self, timeout_secs: float | None) -> None:
        world = self._world
        if not self._is_set:
            task = world._tasks[threading.get_ident()]
            self._waiter = task
            task.deadline = world.time + timeout_secs if timeout_secs is not None else float("inf")
            world._blocked.add(task)
            world._baton.release()
            task.go.acquire()
            self._waiter = None
        self._is_set = False


@dataclasses.dataclass
class Call:
    """One call that the server got."""

    at: float
    request: Any
    timeout_secs: float
    cancelled: bool = False

    def cancel(self) -> None:
        self.cancelled = True


Reply = tuple[float, Any] | None
"""(latency in seconds, response or CallError); None: no answer ever. A latency below 0: answered from within `send`."""


class Server:
    """A transport whose server answers as `reply(request, call_number, now)` says; remembers all calls."""

    def __init__(self, world: World, reply: Callable[[Any, int, float], Reply]) -> None:
        self.calls: list[Call] = []
        self.in_flight = 0
        self.most_in_flight = 0
        self._world = world
        self._reply = reply

    def send(self, request: Any, timeout_secs: float, done: Callable[[Any], None]) -> Call:
        call = Call(self._world.now(), request, timeout_secs)
        self.calls.append(call)
        reply = self._reply(request, len(self.calls), self._world.now())
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        if reply is None:
            return call

        def land() -> None:
            self.in_flight -= 1
            done(reply[1])

        if reply[0] < 0:
            land()
        else:
            self._world.at(self._world.now() + reply[0], land)
        return call

    def sent_between(self, begin: float, end: float) -> int:
        """Calls that came in these seconds since the world began."""
        return sum(begin <= call.at - 1000 < end for call in self.calls)


class Row:
    """A job of one row: its outcome is ("ok", key) or (fault, key, attempts, calls)."""

    rows = 1

    def __init__(self, key: Any, tokens: int = 0) -> None:
        self.key = key
        self.charged = 0
        self._tokens = tokens

    def tokens(self) -> int:
        return self._tokens

    def request(self) -> Any:
        return self.key

    def answered(self, response: Any, latency_ms: float, attempts: int, calls: int) -> Landed | Again | Split:
        return Landed((("ok", self.key),), tokens=self._tokens)

    def failed(self, fault: Any, error: CallError, attempts: int, calls: int) -> Landed | Again | Split:
        return Landed(((str(fault), self.key, attempts, calls),))

    def timed_out(self) -> None:
        self.charged += 1


class Pack(Row):
    """A job of several rows, which falls apart when it fails."""

    def __init__(self, keys: list[Any]) -> None:
        super().__init__(tuple(keys))
        self.rows = len(keys)

    def answered(self, response: Any, latency_ms: float, attempts: int, calls: int) -> Landed | Again | Split:
        return Landed(tuple(("ok", key) for key in self.key))

    def failed(self, fault: Any, error: CallError, attempts: int, calls: int) -> Landed | Again | Split:
        if self.rows == 1:
            return Landed(((str(fault), self.key[0], attempts, calls),))
        half = self.rows // 2
        return Split((Pack(list(self.key[:half])), Pack(list(self.key[half:]))))


def fast_pace(seed: int = 1) -> Pace:
    """A pace that is not in the way."""
    pace = Pace(rng=random.Random(seed))
    pace.rate = 1e6
    return pace


class Run:
    """An engine in a world of its own, with as many bundles as lists of jobs; `outcomes` by lane."""

    def __init__(
        self,
        reply: Callable[[Any, int, float], Reply],
        *,
        limits: Limits | None = None,
        pace: Pace | None = None,
        engine: type[Engine] = Engine,
        **options: Any,
    ) -> None:
        self.world = World()
        self.server = Server(self.world, reply)
        self.engine = engine(
            self.server.send,
            limits=limits or Limits(),
            pace=pace or fast_pace(),
            clock=self.world,
            rng=random.Random(1),
            **options,
        )
        self.outcomes: list[list[Any]] = []
        self.lanes: list[Lane] = []
        self.raised: list[BaseException] = []

    def bundle(self, jobs: Any) -> Callable[[], None]:
        """What one bundle's thread does: offers all, drains, keeps what comes out and what is raised."""
        lane = self.engine.lane()
        taken: list[Any] = []
        self.lanes.append(lane)
        self.outcomes.append(taken)

        def work() -> None:
            try:
                for job in jobs:
                    taken.extend(lane.offer(job))
                taken.extend(lane.drain())
            except BaseException as raised:  # noqa: BLE001 - the test looks at it
                self.raised.append(raised)

        return work

    def go(self, *bundles: Any, limit_secs: float = 1e5) -> list[Any]:
        """Runs bundles of jobs to their end; returns all outcomes."""
        self.world.run(*[self.bundle(jobs) for jobs in bundles], close=self.engine.close, limit_secs=limit_secs)
        return [outcome for taken in self.outcomes for outcome in taken]


def rows(count: int, start: int = 0) -> list[Row]:
    return [Row(key) for key in range(start, start + count)]


OK = "response"


def error(code: str, **details: Any) -> CallError:
    return CallError(code, f"{code.lower()} it is", **details)
