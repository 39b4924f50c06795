"""Whose turn it is: lanes that want to send go first come, first served, and only those that may go on are woken."""

from __future__ import annotations

import bisect
import itertools
import operator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.engine.lane import Lane

_by_ticket = operator.attrgetter("ticket")


class Turns:
    """The queue of lanes, by the order in which their jobs came. Used under the engine's lock, but for `enter`.

    A lane stands in the queue only while its thread sleeps. While it hands on what landed, which may take as long as
    whatever comes after the engine takes, others go; its ticket gives it its old place when it is back.
    """

    def __init__(self) -> None:
        self.wanting: set[Lane] = set()  # lanes with a job that is not sent
        self._queue: list[Lane] = []  # those of them that sleep
        self._sleepers: set[Lane] = set()  # all lanes that sleep
        self._tickets = itertools.count(1)

    def enter(self, lane: Lane) -> None:
        """The lane has a job to send: its place is behind all that have one already."""
        lane.ticket = next(self._tickets)
        self.wanting.add(lane)

    def first(self, lane: Lane) -> bool:
        """Whether no sleeping lane comes before this one."""
        return not self._queue or self._queue[0].ticket > lane.ticket

    def queue(self, lane: Lane) -> None:
        """The lane's thread is about to sleep until it is its turn."""
        bisect.insort(self._queue, lane, key=_by_ticket)
        lane.queued = True
        self.sleep(lane)

    def sleep(self, lane: Lane) -> None:
        """The lane's thread is about to sleep."""
        lane.waiting = True
        self._sleepers.add(lane)

    def awake(self, lane: Lane) -> None:
        """The lane's thread is awake."""
        lane.waiting = False
        self._sleepers.discard(lane)
        if lane.queued:
            lane.queued = False
            self._queue.remove(lane)

    def wake(self, lane: Lane) -> None:
        """Wakes the lane's thread, if it sleeps and was not woken already."""
        if lane.waiting:
            lane.waiting = False
            lane.signal.set()

    def wake_first(self) -> None:
        """Wakes the lane whose turn it is."""
        if self._queue:
            self.wake(self._queue[0])

    def wake_all(self) -> None:
        """Wakes every lane that sleeps."""
        for lane in self._sleepers:
            self.wake(lane)
