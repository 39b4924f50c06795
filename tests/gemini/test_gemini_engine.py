"""Engine and client together over real connections: four thousand calls in flight, fairly shared, none lost."""

from __future__ import annotations

import asyncio
import collections
import threading
from types import SimpleNamespace
from typing import Any

from tiny_vertex import response_bytes

from pipeline.engine import CallError, Engine, Landed, Limits, Pace
from pipeline.gemini.client import CALLS_PER_CHANNEL, Client, VertexEndpoint, _Pool
from pipeline.task import Settings

WINDOW, LANES, ROWS = 4000, 8, 600


class Row:
    """A job whose request is its lane's number and its own."""

    rows = 1

    def __init__(self, lane: int, number: int) -> None:
        self.key = (lane, number)

    def tokens(self) -> int:
        return 1

    def request(self) -> bytes:
        return b"%d %d" % self.key

    def answered(self, response: Any, latency_ms: float, attempts: int, calls: int) -> Landed:
        return Landed((self.key,))

    def failed(self, fault: Any, error: CallError, attempts: int, calls: int) -> Landed:
        return Landed((error,))

    def timed_out(self) -> None:
        raise AssertionError("nothing times out here")


def test_four_thousand_calls_of_eight_bundles_are_in_flight_over_real_connections(server):
    """The first call is answered; then none before 4,000 are in flight, and one that was queued anywhere would hang all."""
    client = Client(VertexEndpoint.parse(f"127.0.0.1:{server.port}", "us"), Settings(model="m"), project="demo-project")
    pace = Pace()
    pace.rate = 1e6  # not what is tested here
    engine = Engine(client.send, pace=pace, limits=Limits(max_in_flight=WINDOW))
    full, most, by_lane = asyncio.Event(), 0, collections.Counter()

    async def answer(request: bytes, context: Any) -> bytes:
        nonlocal most
        most = max(most, server.in_flight)
        if not full.is_set():
            by_lane[int(request.split()[0])] += 1
        if server.in_flight == WINDOW:
            full.set()
        if len(server.requests) > 1:
            await full.wait()
        return response_bytes()

    server.answer = answer
    outcomes: list[list[Any]] = [[] for _ in range(LANES)]

    def bundle(lane_number: int) -> None:
        lane = engine.lane()
        for number in range(ROWS):
            outcomes[lane_number].extend(lane.offer(Row(lane_number, number)))
        outcomes[lane_number].extend(lane.drain())

    threads = [threading.Thread(target=bundle, args=(number,), daemon=True) for number in range(LANES)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive(), f"a bundle hangs; {most} calls were in flight at most"
    engine.close()
    channels = client.channels
    client.close()
    for number, taken in enumerate(outcomes):
        assert sorted(taken) == [(number, row) for row in range(ROWS)]
    assert most == WINDOW
    assert max(server.most_by_peer.values()) <= CALLS_PER_CHANNEL < 100
    assert channels == WINDOW / CALLS_PER_CHANNEL
    assert min(by_lane.values()) > WINDOW / LANES / 2, by_lane


def test_a_new_connection_gets_few_calls_until_it_has_answered_or_there_is_no_room_elsewhere():
    pool = _Pool(lambda: SimpleNamespace(proven=False, close=lambda: None))
    first = [pool.take() for _ in range(CALLS_PER_CHANNEL)]
    assert len(set(map(id, first))) == 1
    second = pool.take()
    assert second is not first[0]
    for _ in range(60):
        pool.give_back(first[0], worked=True)
    more = [pool.take() for _ in range(70)]
    assert sum(each is second for each in more) == 19
    assert [pool.take() for _ in range(9)] == [first[0]] * 9
    assert pool.take() is second, "no room elsewhere"
    assert len(pool.channels) == 2
