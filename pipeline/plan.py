"""What a run would do: its rows, tokens, dollars and time, as numbers and in words."""

from __future__ import annotations

import dataclasses
import datetime
from typing import Any

from pipeline import ways
from pipeline.bigquery import inputs, query, worklist
from pipeline.bigquery.client import Endpoint
from pipeline.bigquery.names import TableName
from pipeline.console import duration
from pipeline.gemini import models
from pipeline.gemini.endpoint import VertexEndpoint
from pipeline.gemini.prices import Estimate, Prices
from pipeline.options import Options
from pipeline.rows import Column
from pipeline.task import Settings, Task

_ASSUMED_LATENCY_SECS = 2.0  # of one call, for the planned time only; `plan --sample` measures it


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """What a run would do.

    Attributes:
        asked_before: other fingerprints of this task that a run has bought answers to, with what differs from this one,
            newest first; a sample or an evaluation buys none.
        has_answers: whether the table holds such answers of this fingerprint, to whatever rows: it was accepted before.
        affordable: rows that the budget allows, or None without one.
        usd_online: planned dollars of a row that is asked online, or None when the price is not known.
        usd_batch: likewise in a batch job.
        spent_usd: what this fingerprint has cost so far; 0 without a budget, which alone asks for it.
        query_bytes: what counting the rows reads, by dry run.
        warnings: lines that the user should see before paying.
    """

    options: Options
    endpoint: Endpoint
    vertex: VertexEndpoint
    answers: TableName
    failures: TableName
    runs: TableName
    task: Task
    settings: Settings
    model: models.Model
    prices: Prices | None
    fingerprint: str
    identity: dict[str, Any]
    source: worklist.Source
    done: worklist.Done
    kept: tuple[inputs.KeptColumn, ...]
    count: worklist.Count
    estimate: Estimate
    usd_online: float | None
    usd_batch: float | None
    affordable: int | None
    spent_usd: float
    asked_before: tuple[tuple[str, int, list[str]], ...]
    has_answers: bool
    query_bytes: int
    warnings: tuple[str, ...]

    @property
    def limit(self) -> int | None:
        """Rows that the worklist may have to be asked, or None for all."""
        limits = [limit for limit in (self.options.limit, self.affordable) if limit is not None]
        return min(limits) if limits else None

    @property
    def rows(self) -> int:
        """Rows that will be asked: those to ask, within limit and budget."""
        return self.count.to_ask if self.limit is None else min(self.count.to_ask, self.limit)

    @property
    def worklist_rows(self) -> int:
        """About how many rows the worklist will have: those to ask, within limit and budget, and as large a part of those that
        are unusable and only filed."""
        count = self.count
        return count.to_file if not count.to_ask else self.rows + round(count.to_file * self.rows / count.to_ask)

    @property
    def over_budget(self) -> int:
        """Rows that would be asked if the budget allowed it."""
        return max(0, min(self.count.to_ask, self.options.limit or self.count.to_ask) - self.rows)

    @property
    def split(self) -> ways.Split:
        """Of the rows that will be asked, those online and those in batch jobs."""
        return ways.split(self.options, self.rows, self.options.deadline_hours)

    @property
    def cost_usd(self) -> float | None:
        """Planned dollars of the rows that will be asked."""
        if self.usd_online is None or self.usd_batch is None:
            return None
        return self.split.online * self.usd_online + self.split.batch * self.usd_batch

    @property
    def buys_again(self) -> str | None:
        """That the table holds answers to another version of this question and none to this one, in words; or None."""
        if not self.asked_before or self.has_answers or not self.rows:
            return None
        mark, answers, changes = self.asked_before[0]
        return (
            f"{self.answers} holds {answers:,} answers of task {self.task.name} to another version of the question "
            f"({mark}): {'; '.join(changes) or 'its settings were not recorded'}"
        )

    @property
    def tokens_per_row(self) -> float:
        return self.estimate.total_tokens / self.settings.images_per_request

    @property
    def secs(self) -> float:
        """Planned time of one worker process for what is asked online, at the given limits, quota left aside."""
        return self.secs_of(self.split.online)

    def secs_of(self, rows: int, latency_secs: float = _ASSUMED_LATENCY_SECS) -> float:
        """The same for so many rows, where a call takes so long."""
        calls = rows / self.settings.images_per_request
        rates = [self.options.max_in_flight / max(latency_secs, 1e-3)]
        if self.options.requests_per_minute:
            rates.append(self.options.requests_per_minute / 60)
        if self.options.tokens_per_minute:
            rates.append(self.options.tokens_per_minute / 60 / max(1, self.estimate.total_tokens))
        return calls / min(rates)

    def ways(self) -> list[tuple[str, str, str, str]]:
        """The ways to ask what is to ask, the budget left aside: (way, rows, dollars, time) for people."""
        count, options = self.count.to_ask, self.options
        rows = count if options.limit is None else min(count, options.limit)

        def online(way: str, rows: int, tier: str, more: str = "") -> tuple[str, str, str, str]:
            time = f"about {duration(self.secs_of(rows))}"
            return way, f"{rows:,}", self._usd(rows, tier), time + more

        def batch(way: str, rows: int) -> tuple[str, str, str, str]:
            return way, f"{rows:,}", self._usd(rows, "batch"), self._batch_time(rows)

        lines = [
            online("online", rows, "standard"),
            online("flex", rows, "flex", " or much more: a call may take 30 minutes"),
            batch("batch", rows),
        ]
        if options.mode == "auto":
            parts = ways.split(options, rows, options.deadline_hours)
            lines += [online("auto, online", parts.online, self.settings.service_tier)] if parts.online else []
            lines += [batch("auto, in batch jobs", parts.batch)] if parts.batch else []
        return lines

    def _usd(self, rows: int, tier: str) -> str:
        cost = self.estimate.cost(self.prices, at=datetime.datetime.now(datetime.UTC), tier=tier)
        return "not known" if cost is None else f"${rows * cost / self.settings.images_per_request:,.4f}"

    def _batch_time(self, rows: int) -> str:
        hours = ways.batch_hours(self.options, rows)
        return f"within {hours} h once the jobs run; they may queue for up to {ways.BATCH_QUEUE_HOURS} h before"

    @property
    def answer_columns(self) -> tuple[Column, ...]:
        return inputs.answer_columns(self.kept)

    def query_job(self, run_id: str | None = None) -> query.Job:
        """How this run's queries are labelled and limited."""
        labels = {"pipeline": "gemini_image_pipeline", "task": self.task.name}
        if run_id:
            labels["run_id"] = run_id
        return query.Job(labels=labels, maximum_bytes_billed=self.options.maximum_bytes_billed)

    def lines(self) -> list[tuple[str, str]]:
        """The plan for people: (what, how much) pairs."""
        count = self.count
        return [
            ("rows of the input", f"{count.rows:,} ({count.keys:,} distinct keys)"),
            ("new", f"{count.new:,}"),
            ("already answered", f"{count.already_answered:,}"),
            ("failed before", f"{count.failed_retryable:,} retryable, {count.failed_final:,} not"),
            ("unusable", ", ".join(f"{n:,} {reason}" for reason, n in count.unusable.items()) or "0"),
            (
                "to ask",
                f"{self.rows:,}" + self._views + (f" ({self.over_budget:,} over budget)" if self.over_budget else ""),
            ),
            ("model", f"{self.settings.model} at {self.vertex.location}, {self._way}"),
            *([("images", self._images)] if self.settings.image_source == "inline" else []),
            ("fingerprint", self.fingerprint),
            ("tokens", f"{self.rows * self.tokens_per_row:,.0f} ({self.tokens_per_row:,.0f} a row)"),
            *self._cost_lines(),
            ("time", self._time_line()),
            ("query", f"{self.query_bytes:,} bytes read to count the rows"),
        ]

    @property
    def _images(self) -> str:
        """How images are sent inline, in words. A smaller image costs no fewer tokens than are planned, as far as is known."""
        settings = self.settings
        cut = f"cut to {settings.crop_to} and {settings.crop_margin:g} of its longer side, " if settings.crop_to else ""
        most = f"at most {settings.max_image_pixels:,} pixels" if settings.max_image_pixels else "as large as they are"
        return f"read here and sent inline, {cut}{most}"

    @property
    def _way(self) -> str:
        parts = self.split
        if parts.online and parts.batch:
            return f"{parts.online:,} rows {self.settings.service_tier} and {parts.batch:,} in batch jobs"
        return "in batch jobs" if parts.batch else self.settings.service_tier

    def _time_line(self) -> str:
        parts = self.split
        online = f"about {duration(self.secs)} with one worker process, if the quota allows it"
        if parts.online and parts.batch:
            return f"online {online}; in batch jobs {self._batch_time(parts.batch)}"
        return self._batch_time(parts.batch) if parts.batch else online

    @property
    def _views(self) -> str:
        return f" assets, of {self.count.images_per_key:.1f} images on average" if self.source.asset else ""

    def _cost_lines(self) -> list[tuple[str, str]]:
        cost = self.cost_usd
        if cost is None:
            return [("cost", "not known: give --price_usd_per_mtok=IN,OUT")]
        batch = self.split.batch * (self.usd_batch or 0.0)
        both = f" = ${cost - batch:,.4f} online + ${batch:,.4f} in batch jobs" if 0 < batch < cost else ""
        each = cost / self.rows if self.rows else 0.0
        lines = [("cost", f"${cost:,.4f}{both} (${each * 1000:,.4f} for 1,000 rows)")]
        price = self.prices.at(datetime.datetime.now(datetime.UTC)) if self.prices else None
        if price and price.recorded:
            lines.append(("price", f"of {price.recorded}, from {price.source}"))
        return lines
