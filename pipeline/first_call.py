"""The first rows, asked before all others: what is wrong with the run shows here, for a fraction of a cent."""

from __future__ import annotations

import itertools
import math
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Self, TypeVar

from pipeline import console, worker
from pipeline.bigquery.client import explained
from pipeline.bundle import Bundle
from pipeline.console import duration
from pipeline.engine import Engine, EngineHalted, Stats
from pipeline.errors import ConfigError
from pipeline.launch import Run
from pipeline.rows import Answer, Failure, Observation, Reason
from pipeline.sink import settle

T = TypeVar("T")

TRIES = 10
"""A few bad images must not look like a bad project, and these are spread over the worklist; a refusal costs nothing."""
_FROM_THE_START = 3  # of those: no shard is read for them but the first
PATIENCE_SECS = 45.0
"""How long a service may be away: a call that cannot connect fails after 20 s, gRPC's own limit."""
_MOMENT_SECS = 15.0  # more, for a call that is in flight just then
_TELL_SECS = 10.0

_REFUSED = frozenset({Reason.IMAGE_DENIED, Reason.IMAGE_NOT_FOUND, Reason.INVALID_REQUEST})
_UNSERVED = frozenset({Reason.UNAVAILABLE, Reason.TIMED_OUT, Reason.RATE_LIMITED})


def first_call(run: Run) -> list[Answer | Failure]:
    """Ask the first row for real, and keep the outcome: wrong credentials, model, region or network show here.

    Where a row says nothing of the run, because it is refused or fails by itself, others are tried, up to `TRIES`. The tables
    are opened for writing before that. Of a question that has answers already a refused row is left to the run, whose
    circuit breaker tells whose fault it is.

    Raises:
        ConfigError: the service does not answer, or refuses every one of them though there are more rows: nothing is filed.
    """
    shared = worker.acquire(run.config)
    outcomes: list[Answer | Failure] = []
    try:
        with explained("--output_table", run.plan.answers):
            answers, failures = shared.answers_sink(), shared.failures_sink()
            rows = _spread(run, shared)
            row = next(rows, None)
        with _Watch(run, shared.engine) as watch:
            while row is not None and not shared.stopped:
                bundle = Bundle(shared)
                outcomes += [*bundle.offer(row), *bundle.drain()]
                if any(map(_tells, outcomes)) or (run.plan.has_answers and any(map(_is_refused, outcomes))):
                    break
                with explained("--output_table", run.plan.answers):
                    row = next(rows, None) if len(outcomes) < TRIES else None
        if watch.gave_up is not None:
            raise ConfigError(watch.gave_up)
        if shared.stopped is None and not any(map(_tells, outcomes)) and _leaves(run, outcomes):
            return []
        for outcome in outcomes:
            (answers if isinstance(outcome, Answer) else failures).add(outcome)
        settle(answers, failures)
        return outcomes
    except EngineHalted as error:
        raise ConfigError(f"the first call failed, nothing was spent: {error}") from error


def _tells(outcome: Answer | Failure) -> bool:
    """Whether it shows that the service works: an answer, or a failure of the row's own that took a call."""
    return isinstance(outcome, Answer) or (outcome.calls > 0 and outcome.reason not in _REFUSED | _UNSERVED)


def _is_refused(outcome: Answer | Failure) -> bool:
    return isinstance(outcome, Failure) and outcome.reason in _REFUSED


def _leaves(run: Run, outcomes: Sequence[Answer | Failure]) -> bool:
    """Whether the run is to ask these rows itself, none of which shows that the service works.

    Raises:
        ConfigError: the fault is the run's.
    """
    plan = run.plan
    found = [outcome for outcome in outcomes if isinstance(outcome, Failure)]
    unserved = [failure for failure in found if failure.reason in _UNSERVED]
    if unserved:
        raise ConfigError(_no_answer(run, unserved[-1].detail))
    refused = [failure for failure in found if failure.reason in _REFUSED]
    if plan.has_answers:
        return bool(refused)
    if not refused or plan.count.to_ask <= len(found):
        return False
    first = "the first row was" if len(found) == 1 else f"the first {len(found)} rows were all"
    keys = ", ".join("'" + failure.key.replace("\\", "\\\\").replace("'", "\\'") + "'" for failure in refused)
    column = plan.options.asset_column if plan.options.unit == "asset" else plan.options.key_column
    field = plan.source.info.find(column)
    if field is not None and field.type != "STRING":
        column = f"CAST({column} AS STRING)"
    raise ConfigError(
        f"{first} refused, which points to the model, its location or the access to the images: {refused[0].detail} "
        f'If only these images are gone, leave them out with --where="{column} NOT IN ({keys})"'
    )


def _no_answer(run: Run, said: str) -> str:
    place = run.plan.vertex.target
    if said.startswith("RESOURCE_EXHAUSTED"):
        return f"{place} has no quota for the first row ({said}): try again later, or ask for more; nothing was filed"
    cannot = "cannot be reached" if said.startswith("UNAVAILABLE") else "does not answer"
    return (
        f"{place} {cannot} ({said}): check --vertex_location, --vertex_endpoint and the network, or try again later; "
        "nothing was filed"
    )


def _spread(run: Run, shared: worker.Worker) -> Iterator[Observation]:
    """Rows that can be asked: the first ones, then some from all over the worklist, each once."""
    every = (row for shard in run.shards for row in shared.read_shard(shard) if not row.problem)
    given = set()
    for row in itertools.islice(every, _FROM_THE_START):
        given.add(row.key)
        yield row
    others = TRIES - _FROM_THE_START
    shards = evenly(run.shards, others)
    for shard in shards:
        rows = [row for row in shared.read_shard(shard) if not row.problem and row.key not in given]
        yield from evenly(rows, math.ceil(others / len(shards)))


def evenly(things: Sequence[T], count: int) -> list[T]:
    """So many of them, at even distances; all, where there are fewer."""
    if len(things) <= count:
        return list(things)
    return [things[(2 * place + 1) * len(things) // (2 * count)] for place in range(count)]


class _Watch:
    """While the block lasts, says on stderr what is waited for, and ends the waiting for a service that is away."""

    def __init__(self, run: Run, engine: Engine) -> None:
        self.gave_up: str | None = None
        self._run, self._engine = run, engine
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="first call", daemon=True)

    def __enter__(self) -> Self:
        self._say("asking the first row")
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        began = told = time.monotonic()
        while not self._over.wait(min(0.5, PATIENCE_SECS / 4)):
            now, stats = time.monotonic(), self._engine.stats()
            if stats.ended is None and is_away(stats, now - began):
                self.gave_up = _no_answer(self._run, str(stats.last_error))
                self._engine.stop(self.gave_up, 0.0)
                return
            if now - told >= _TELL_SECS:
                told = now
                self._say(f"no answer to the first row after {duration(now - began)}{waited_for(stats)}")

    def _say(self, text: str) -> None:
        if not self._run.plan.options.quiet:
            console.note(text)


def is_away(stats: Stats, secs: float) -> bool:
    """Whether a service that was first called so many seconds ago will not answer: all its calls fail."""
    failing = not stats.answered and (stats.retries >= 2 or stats.timed_out > 0)
    return failing and secs >= PATIENCE_SECS + (_MOMENT_SECS if stats.in_flight else 0.0)


def waited_for(stats: Stats) -> str:
    """What the first row waits for, as the end of a sentence."""
    if stats.rejected and not stats.in_flight:
        return f": calls rejected for quota: {stats.rejected:,}; waiting until there is some, Ctrl-C ends it"
    if stats.retries or stats.timed_out:
        return f": failed calls: {stats.retries + stats.timed_out:,}, the last one with {stats.last_error}"
    return "; the call is on its way" if stats.in_flight else ""
