"""What a report knows, as plain values: what `gather` asked BigQuery for. Pure."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Mapping
from typing import Any

from pipeline.bigquery import books
from pipeline.report.scope import Question, Scope

Row = Mapping[str, Any]


@dataclasses.dataclass(frozen=True, slots=True)
class RunFacts:
    """One run by the runs table; `None` where no line says."""

    run_id: str
    state: str
    reason: str | None
    started_at: datetime.datetime
    secs: float | None
    rows: int | None
    answered: int | None
    failed: int | None
    not_asked: int | None
    cost_usd: float | None
    images_per_sec: float | None
    dataflow_job: str | None

    @property
    def balances(self) -> bool | None:
        """Whether rows = answered + failed + not asked; None before its end is written."""
        parts = (self.answered, self.failed, self.not_asked)
        if self.rows is None or None in parts:
            return None
        return self.rows == sum(part or 0 for part in parts)


@dataclasses.dataclass(frozen=True, slots=True)
class Value:
    """What was said, by how many answers; None is null, or an empty list."""

    text: str | None
    answers: int


@dataclasses.dataclass(frozen=True, slots=True)
class QuestionFacts:
    """A question's answers. `others`: values beyond those listed. `unsaid`: labels that nobody said."""

    question: Question
    values: tuple[Value, ...]
    others: int
    unsaid: tuple[str, ...]
    histogram: Histogram | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Histogram:
    """(low, high, answers) of each bin that is not empty; bins are even in steps, or in powers of ten."""

    bins: tuple[tuple[float, float, int], ...]
    is_log: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class Throughput:
    """Rows written in each step of a run, steps without any included: (start, answers, failures)."""

    run_id: str
    step_secs: int
    steps: tuple[tuple[datetime.datetime, int, int], ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Reason:
    """Keys that failed for a reason and have no answer, with examples of them."""

    name: str
    retryable: bool
    failed: int
    cost_usd: float | None
    examples: tuple[Row, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Spot:
    """Answers at about one place that say the same. `total`: answers anywhere that say it."""

    said: str | None
    latitude: float
    longitude: float
    answers: int
    total: int


@dataclasses.dataclass(frozen=True, slots=True)
class Map:
    """Where the answers are.

    Attributes:
        located: answers with a place.
        cells: cells along the longer side of the map; None where each spot is a place of its own.
    """

    coloured_by: str
    located: int
    cells: int | None
    spots: tuple[Spot, ...]

    @property
    def shown(self) -> int:
        """Answers in the spots."""
        return sum(spot.answers for spot in self.spots)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Facts:
    """All that a report shows.

    Attributes:
        totals: sums over all lines; see `queries.totals`.
        books: of the newest run, counted from the tables; None where its worklist is gone.
        measures: by name, see `queries.quantiles`.
        rows: answers for the table, at most as many as were asked for.
    """

    scope: Scope
    made_at: datetime.datetime
    totals: Row
    books: books.Books | None
    runs: tuple[RunFacts, ...]
    runs_left_out: int
    labels: tuple[Value, ...]
    questions: tuple[QuestionFacts, ...]
    measures: Mapping[str, Row]
    latency: Histogram
    output_tokens: Histogram
    services: tuple[Row, ...]
    throughput: Throughput | None
    reasons: tuple[Reason, ...]
    map: Map | None
    rows: tuple[Row, ...]

    @property
    def answered(self) -> int:
        return int(self.totals["answered"])

    @property
    def failed(self) -> int:
        """Distinct keys that failed and have no answer."""
        return int(self.totals["keys"]) - self.answered
