"""Calls in flight as a window over many bundles: paced, retried, bounded, each job out exactly once.

Pure Python: it knows no Beam, BigQuery, Gemini or gRPC. A job says what to ask and what to make of a response (`Job`),
a transport makes calls (`Send`), and each bundle feeds its jobs through a `Lane` of the process's one `Engine`:

    engine = Engine(send, limits=Limits(max_in_flight=512), pace=Pace(requests_per_minute=30_000))
    lane = engine.lane()                      # start of a bundle
    for row in rows:
        yield from lane.offer(Job(row))       # sends it in its turn, yields what landed meanwhile
    yield from lane.drain()                   # end of the bundle
"""

from pipeline.engine.breaker import Breaker
from pipeline.engine.call import Again, CallError, Done, Fault, Handle, Job, Landed, Send, Split, Step
from pipeline.engine.clock import Clock, Signal, SystemClock
from pipeline.engine.lane import Lane
from pipeline.engine.ledger import EngineHalted
from pipeline.engine.pace import Pace
from pipeline.engine.policy import Decision, GiveUp, History, Limits, Retry, RunFault, decide
from pipeline.engine.window import Engine, Stats

__all__ = [
    "Again",
    "Breaker",
    "CallError",
    "Clock",
    "Decision",
    "Done",
    "Engine",
    "EngineHalted",
    "Fault",
    "GiveUp",
    "Handle",
    "History",
    "Job",
    "Landed",
    "Lane",
    "Limits",
    "Pace",
    "Retry",
    "RunFault",
    "Send",
    "Signal",
    "Split",
    "Stats",
    "Step",
    "SystemClock",
    "decide",
]
