"""Rows asked without a runner: samples, to see what answers cost."""

from __future__ import annotations

import contextlib
import dataclasses
import statistics
import time
from collections.abc import Iterator

from pipeline import launch, planning, ways, worker
from pipeline.bundle import Bundle
from pipeline.engine import EngineHalted
from pipeline.first_call import first_call
from pipeline.launch import Run
from pipeline.plan import Plan
from pipeline.progress import Progress
from pipeline.rows import Answer, Failure, RunState
from pipeline.sink import settle

CONFIDENCE = 0.9


def ask_all(run: Run) -> Iterator[Answer | Failure]:
    """Ask every row of a run in this process; yields each outcome as it lands. All are in the tables when it ends.

    Raises:
        EngineHalted: no row can mend what went wrong; what had landed before is in the tables.
    """
    shared = worker.acquire(run.config)
    answers, failures = shared.answers_sink(), shared.failures_sink()

    def kept(outcomes: Iterator[Answer | Failure]) -> Iterator[Answer | Failure]:
        for outcome in outcomes:
            (answers if isinstance(outcome, Answer) else failures).add(outcome)
            yield outcome

    try:
        bundle = Bundle(shared)
        for shard in run.shards:
            for row in shared.read_shard(shard):
                yield from kept(bundle.offer(row))
        yield from kept(bundle.drain())
    finally:
        settle(answers, failures)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sample:
    """What a sample has shown.

    Attributes:
        outcomes: what became of its rows, those without a usable image left out.
        secs: how long it took.
        rows: rows of the whole plan, the sample included.
        rest_rate: what a row of the rest costs by what one of the sample has: less than 1 where the rest is asked in batch
            jobs, as a sample is asked online.
    """

    outcomes: tuple[Answer | Failure, ...]
    run_id: str
    secs: float
    rows: int
    rest_rate: float = 1.0

    @property
    def answers(self) -> list[Answer]:
        return [outcome for outcome in self.outcomes if isinstance(outcome, Answer)]

    @property
    def tokens_per_row(self) -> float:
        return statistics.fmean(outcome.usage.total_tokens for outcome in self.outcomes)

    @property
    def latency_secs(self) -> float | None:
        """Mean seconds of a call that was answered."""
        found = [answer.latency_ms for answer in self.answers if answer.latency_ms is not None]
        return statistics.fmean(found) / 1e3 if found else None

    @property
    def usd_per_row(self) -> float | None:
        """Mean dollars of a row that is still to ask, failures included; None where the price is not known."""
        costs = self._costs()
        return None if costs is None else statistics.fmean(costs) * self.rest_rate

    @property
    def spent_usd(self) -> float | None:
        costs = self._costs()
        return None if costs is None else sum(costs)

    @property
    def expected_usd(self) -> float | None:
        """Dollars of all rows, the sample's own included; None where the price is not known."""
        spent, each = self.spent_usd, self.usd_per_row
        return None if spent is None or each is None else spent + self._left * each

    @property
    def _left(self) -> int:
        """Rows that the sample has left to ask."""
        return max(0, self.rows - len(self.outcomes))

    def total_usd(self) -> tuple[float, float, float] | None:
        """Dollars of all rows, the sample's own included: the estimate, and the ends of its 90 % interval.

        The interval is that of Student's t for a mean (scipy), times the rows that are left to ask. It says how far a
        sample of this size may be off, not how prices or images may change.

        Returns:
            None where the price is not known or the sample has fewer than two rows.

        Raises:
            ImportError: scipy is not installed; it has no place in a worker image.
        """
        costs = self._costs()
        if costs is None or len(costs) < 2:
            return None
        from scipy import stats

        left = self._left * self.rest_rate
        mean, spent, error = statistics.fmean(costs), sum(costs), float(stats.sem(costs))
        low, high = stats.t.interval(CONFIDENCE, len(costs) - 1, loc=mean, scale=error) if error else (mean, mean)
        return spent + left * mean, spent + left * max(0.0, float(low)), spent + left * float(high)

    def _costs(self) -> list[float] | None:
        costs = [outcome.usage.cost_usd for outcome in self.outcomes]
        return None if None in costs else [cost for cost in costs if cost is not None]


def sample(plan: Plan, rows: int) -> Sample:
    """Ask a random sample of a plan's rows for real, as a run of its own.

    It is a run with that limit, which takes the keys of the smallest hashes: a random choice. What it answers stays in
    the tables like any other answer, so a later run does not pay for it again.

    Args:
        plan: the whole plan.
        rows: how many.

    Raises:
        ConfigError: as for any run; a changed fingerprint must be accepted for a sample, too.
        EngineHalted: the service refuses; the run is closed as halted.
    """
    options = plan.options
    limit = rows if options.limit is None else min(rows, options.limit)
    small = dataclasses.replace(plan, options=dataclasses.replace(options, limit=limit, run_id=None))
    planning.check_spending(small)
    run = launch.prepare(small, processes=1, production=False)
    began = time.monotonic()
    state, reason = RunState.CANCELLED, "sample"
    outcomes: list[Answer | Failure] = []
    try:
        if run.rows:
            outcomes += first_call(run)
            with contextlib.nullcontext() if options.quiet else Progress(worker.acquire(run.config).snapshot, run.rows):
                outcomes += ask_all(run)
        state = RunState.FINISHED
    except EngineHalted as error:
        state, reason = RunState.HALTED, str(error)
        raise
    finally:
        secs = time.monotonic() - began
        worker.close_all()
        launch.finish(run, state, reason)
    asked = tuple(outcome for outcome in outcomes if isinstance(outcome, Answer) or outcome.calls)
    rate = ways.rate(options, max(0, plan.rows - len(asked)), plan.usd_online, plan.usd_batch)
    return Sample(outcomes=asked, run_id=run.run_id, secs=secs, rows=plan.rows, rest_rate=rate)
