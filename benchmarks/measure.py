"""What a run cost and how fast it was: CPU and memory from /proc, throughput from the stand-in's log."""

from __future__ import annotations

import bisect
import dataclasses
import itertools
import os
import statistics
import threading
import time
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NamedTuple

from pipeline.local.vertex import LoggedCall

SAMPLE_SECS = 0.25
FULL = 0.95
"""The ramp is over when so much of the window is in flight for the first time."""

_TICK_SECS = 1 / os.sysconf("SC_CLK_TCK")
_PAGE_MB = os.sysconf("SC_PAGE_SIZE") / 1e6


class Sample(NamedTuple):
    """A process tree at one moment: CPU seconds so far (children that have ended included), and memory."""

    at: float
    cpu_secs: float
    rss_mb: float


class Watch:
    """Samples the processes of some sessions (`start_new_session=True`), four times a second, until `stop`."""

    def __init__(self, sessions: Collection[int]) -> None:
        self.samples: list[Sample] = []
        self._sessions = frozenset(sessions)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._ended.set()
        self._thread.join()

    def cpu_at(self, moment: float) -> float:
        """CPU seconds at a moment, between samples by straight line."""
        place = bisect.bisect([sample.at for sample in self.samples], moment)
        before, after = self.samples[max(0, place - 1)], self.samples[min(place, len(self.samples) - 1)]
        if after.at == before.at:
            return before.cpu_secs
        return before.cpu_secs + (after.cpu_secs - before.cpu_secs) * (moment - before.at) / (after.at - before.at)

    def peak_mb(self, begin: float = 0.0, end: float = float("inf")) -> float:
        """The most memory between two moments, of all processes together."""
        return max((sample.rss_mb for sample in self.samples if begin <= sample.at <= end), default=0.0)

    @property
    def stood_still_secs(self) -> float:
        """The longest time between two samples: much more than `SAMPLE_SECS` where the whole machine was paused."""
        times = [sample.at for sample in self.samples]
        return max((after - before for before, after in itertools.pairwise(times)), default=0.0)

    def _run(self) -> None:
        while not self._ended.wait(SAMPLE_SECS):
            cpu = rss = 0.0
            for folder in Path("/proc").iterdir():
                if not folder.name.isdigit():
                    continue
                try:
                    fields = (folder / "stat").read_text("ascii", "replace").rpartition(")")[2].split()
                except OSError:
                    continue  # it has just ended
                # proc(5): fields from the third on; session, utime, stime, cutime, cstime, rss in pages
                if int(fields[3]) in self._sessions:
                    cpu += sum(map(int, fields[11:15])) * _TICK_SECS
                    rss += int(fields[21]) * _PAGE_MB
            if cpu:
                self.samples.append(Sample(time.time(), cpu, rss))


@dataclasses.dataclass(frozen=True)
class Steady:
    """A run between ramp and drain, as the server saw it. Times are seconds since the epoch.

    Attributes:
        images_per_sec: answered calls by seconds.
        busy: calls in flight on average; by Little's law images_per_sec times the mean latency, but without the error
            that calls make which have not landed when the time is over.
        rejected: share of all calls that ended RESOURCE_EXHAUSTED.
    """

    begin: float
    end: float
    answered: int
    images_per_sec: float
    busy: float
    mean_latency_secs: float
    rejected: float

    @property
    def secs(self) -> float:
        return self.end - self.begin


def steady(
    calls: Sequence[LoggedCall], window: int, *, first_calls: int = 1, settle_secs: float | None = None
) -> Steady:
    """Cuts ramp and drain off a log and sums up the rest.

    Args:
        calls: of one contender, in any order.
        window: calls that it may have in flight.
        first_calls: with so many calls it has begun.
        settle_secs: the ramp ends so long after that; default: when the window, or the most that the
            contender ever has in flight if that is less, is full for the first time.

    Raises:
        ValueError: nothing is left between ramp and drain.
    """
    events = sorted(
        itertools.chain.from_iterable(((call.started_at, 1), (call.started_at + call.secs, -1)) for call in calls)
    )
    levels = list(itertools.accumulate(change for _, change in events))
    end = max((call.started_at for call in calls), default=0.0)  # no supply any more: the drain begins
    if settle_secs is not None:
        started = sorted(call.started_at for call in calls)
        begin = started[min(first_calls, len(started)) - 1] + settle_secs if started else 0.0
    else:
        full = FULL * min(window, max(levels, default=0))
        begin = next((at for (at, _), level in zip(events, levels, strict=True) if level >= full), 0.0)
    if not begin < end:
        raise ValueError(f"{len(calls)} calls have no steady state: give more rows")
    # Where all calls take the same time they land in waves: whole waves are counted.
    latency = statistics.median(call.secs for call in calls)
    end = begin + max(1, (end - begin) // latency) * latency if end - begin > latency > 0 else end
    busy = sum(max(0.0, min(end, call.started_at + call.secs) - max(begin, call.started_at)) for call in calls) / (
        end - begin
    )
    ended = [call for call in calls if begin <= call.started_at + call.secs <= end]
    answered = [call for call in ended if call.status == "OK"]
    return Steady(
        begin=begin,
        end=end,
        answered=len(answered),
        images_per_sec=len(answered) / (end - begin),
        busy=busy,
        mean_latency_secs=sum(call.secs for call in answered) / max(1, len(answered)),
        rejected=sum(call.status == "RESOURCE_EXHAUSTED" for call in ended) / max(1, len(ended)),
    )
