"""The stand-in's memory of its calls: counts, who is in flight, who waits for what. One event loop's thread only."""

from __future__ import annotations

import asyncio
import collections
import dataclasses
import time
from collections.abc import Mapping, Sequence
from typing import Any

GONE = "GONE"
"""Status of a call whose caller did not wait for the answer: deadline, cancellation or a broken connection."""

CallRecord = tuple[tuple[str, ...], float, float, str, str]


@dataclasses.dataclass(slots=True)
class Call:
    """A call under way."""

    number: int
    era: int
    peer: str
    started_at: float
    uris: tuple[str, ...] = ()
    finish: str = ""


class Calls:
    """Counts calls; `begin` and `end` belong together."""

    def __init__(self) -> None:
        self._waiters: list[tuple[Mapping[str, float], asyncio.Future[None]]] = []
        self._peers: collections.Counter[str] = collections.Counter()
        self._era = 0
        self.clear()

    def clear(self) -> None:
        """Forgets everything; calls under way are still in flight, but what becomes of them is not noted any more."""
        self._era += 1
        self.begun = 0
        self.in_flight = sum(self._peers.values())
        self.max_in_flight = self.in_flight
        self.max_streams = max(self._peers.values(), default=0)
        self.connections: set[str] = set(self._peers)
        self.statuses: collections.Counter[str] = collections.Counter()
        self.finishes: collections.Counter[str] = collections.Counter()
        self.faults: collections.Counter[str] = collections.Counter()
        self.models: collections.Counter[str] = collections.Counter()
        self.traffic_types: collections.Counter[str] = collections.Counter()
        self.user_projects: collections.Counter[str] = collections.Counter()
        self.tokens: collections.Counter[str] = collections.Counter()
        self.by_uri: collections.Counter[str] = collections.Counter()
        self.log: list[CallRecord] = []

    def begin(self, peer: str) -> Call:
        """Notes that a call has come in over the connection `peer`."""
        self.begun += 1
        self.in_flight += 1
        self.max_in_flight = max(self.max_in_flight, self.in_flight)
        self._peers[peer] += 1
        self.max_streams = max(self.max_streams, self._peers[peer])
        self.connections.add(peer)
        if self._waiters:
            self._wake()
        return Call(self.begun, self._era, peer, time.time())

    def name(self, call: Call, uris: Sequence[str]) -> tuple[int, ...]:
        """Notes which images a call names; returns for each how many calls have named it, this one included."""
        call.uris = tuple(uris)
        self.by_uri.update(call.uris)
        return tuple(self.by_uri[uri] for uri in call.uris)

    def end(self, call: Call, status: str, *, keep: bool) -> None:
        """Notes how a call ended."""
        self.in_flight -= 1
        self._peers[call.peer] -= 1
        if not self._peers[call.peer]:
            del self._peers[call.peer]
        if call.era == self._era:
            self.statuses[status] += 1
            if call.finish:
                self.finishes[call.finish] += 1
            if keep:
                self.log.append((call.uris, call.started_at, time.time() - call.started_at, status, call.finish))
        if self._waiters:
            self._wake()

    def count_tokens(self, call: Call, *, prompt: int, output: int, thoughts: int) -> None:
        """Adds the usage of a call's answer."""
        if call.era == self._era:
            self.tokens["prompt"] += prompt
            self.tokens["output"] += output
            self.tokens["thoughts"] += thoughts

    def stats(self) -> dict[str, Any]:
        """All counts, JSON-able."""
        return {
            "calls": self.begun,
            "in_flight": self.in_flight,
            "max_in_flight": self.max_in_flight,
            "connections": len(self.connections),
            "max_streams": self.max_streams,
            "statuses": dict(self.statuses),
            "finishes": dict(self.finishes),
            "faults": dict(self.faults),
            "models": dict(self.models),
            "traffic_types": dict(self.traffic_types),
            "user_projects": dict(self.user_projects),
            "prompt_tokens": self.tokens["prompt"],
            "output_tokens": self.tokens["output"],
            "thoughts_tokens": self.tokens["thoughts"],
            "paid_calls": self.statuses["OK"] + self.statuses[GONE],
            "uris": len(self.by_uri),
        }

    async def reached(self, least: Mapping[str, float], timeout_secs: float) -> bool:
        """Waits until `calls`, `in_flight` and `ended` are as large as `least` says; False: it took too long."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append((least, future))
        self._wake()
        try:
            await asyncio.wait_for(future, timeout_secs)
        except TimeoutError:
            return False
        return True

    def _wake(self) -> None:
        now = {"calls": self.begun, "in_flight": self.in_flight, "ended": self.statuses.total()}
        waiting = []
        for least, future in self._waiters:
            if future.done():
                continue
            if all(now[name] >= value for name, value in least.items()):
                future.set_result(None)
            else:
                waiting.append((least, future))
        self._waiters = waiting
