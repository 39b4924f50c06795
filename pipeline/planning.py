"""From options to a plan: every check that costs nothing, the rows, the tokens, the dollars, the time. Creates nothing."""

from __future__ import annotations

import dataclasses
import datetime
import os
from collections.abc import Sequence
from typing import Any

from pipeline import ways
from pipeline.bigquery import books, inputs, query, tables, worklist
from pipeline.bigquery.client import Endpoint, explained
from pipeline.bigquery.names import TableName
from pipeline.console import duration
from pipeline.errors import ConfigError
from pipeline.gemini import models
from pipeline.gemini.endpoint import VertexEndpoint
from pipeline.gemini.prices import Estimate, Prices, estimate, parse_prices
from pipeline.options import Options
from pipeline.rows import FAILURE_COLUMNS, IMAGES, RUN_COLUMNS, Column
from pipeline.settings import box_columns, settings_of
from pipeline.task import Settings, Task, differences, fingerprint, identity
from pipeline.task.labels import Boxes

MAX_IMAGES = 3000  # of one request: cloud.google.com/vertex-ai/generative-ai/docs/multimodal/image-understanding
FREE_ROWS = 1000  # more rows than that are asked only under --limit or --max_cost_usd
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
        """Rows that the worklist may have, or None for all."""
        limits = [limit for limit in (self.options.limit, self.affordable) if limit is not None]
        return min(limits) if limits else None

    @property
    def rows(self) -> int:
        """Rows that will be asked: those to ask, within limit and budget."""
        return self.count.to_ask if self.limit is None else min(self.count.to_ask, self.limit)

    @property
    def worklist_rows(self) -> int:
        """Rows that the worklist will have: those to ask and those to file as unusable, within limit and budget."""
        rows = self.count.to_ask + self.count.to_file
        return rows if self.limit is None else min(rows, self.limit)

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


def make(options: Options, only_keys: Sequence[str] | None = None) -> Plan:
    """Check the options against the task, the model and the tables, and count the rows.

    Args:
        options: the flags.
        only_keys: the only keys of the input that count, such as those with labels; None for all.

    Raises:
        ConfigError: what is wrong, in one line; nothing was spent or created.
    """
    _check_given(options)
    project = project_of(options)
    task = task_of(options)
    settings = settings_of(options, task)
    model = models.find(settings.model)

    answers, failures, runs = table_names(options)
    endpoint = Endpoint(project, None, options.bigquery_endpoint, options.bigquery_storage_endpoint)
    info = _inspect(options, endpoint)
    location = tables.check_dataset(endpoint, answers, info.location)
    for flag, name in (("--failures_table", failures), ("--runs_table", runs)):
        tables.check_dataset(endpoint, name, location, flag)
    endpoint = dataclasses.replace(endpoint, location=location)

    vertex_location = models.location_for(location, settings, options.vertex_location)
    vertex = VertexEndpoint.parse(options.vertex_endpoint, vertex_location)
    published = models.is_published(settings.model, project, vertex_location)
    if options.mode == "auto" and not published:
        options = dataclasses.replace(options, mode="online")  # a tuned endpoint answers online only
    warnings = models.check(settings, vertex_location, price_given=options.price_usd_per_mtok is not None)

    kept, source = source_of(options, settings, info, task, only_keys)
    price = parse_prices(options.price_usd_per_mtok) if options.price_usd_per_mtok else model.prices
    mark, asked = fingerprint(task, settings), identity(task, settings)
    has_answers = tables.check_table(endpoint, answers, inputs.answer_columns(kept))
    has_failures = tables.check_table(endpoint, failures, FAILURE_COLUMNS, "--failures_table")
    has_runs = tables.check_table(endpoint, runs, RUN_COLUMNS, "--runs_table")
    done = worklist.Done(mark, answers if has_answers else None, failures if has_failures else None)
    retry = worklist.RetryFailed(options.retry_failed)
    job = query.Job(maximum_bytes_billed=options.maximum_bytes_billed, labels={"pipeline": "gemini_image_pipeline"})
    spent, before = 0.0, []
    with explained("--output_table", answers):
        if options.max_cost_usd is not None and has_answers:
            there = failures if has_failures else None
            spent = books.spent(endpoint, answers=answers, failures=there, fingerprint=mark, job=job)
        if has_answers:
            there = runs if has_runs else None
            before = books.other_fingerprints(
                endpoint, answers=answers, runs=there, task=task.name, fingerprint="", job=job
            )
    with explained("--input_query" if options.input_query else "--input_table", options.input_table or "the query"):
        read_bytes = query.dry_run(endpoint, worklist.count_query(source, done), job)
        count = worklist.count(endpoint, source, done, retry, job)
    call = estimate(task, settings, model, images=settings.images_per_request, views=count.images_per_key)
    now = datetime.datetime.now(datetime.UTC)
    costs = (call.cost(price, at=now, tier=tier) for tier in (settings.service_tier, "batch"))
    usd_online, usd_batch = (None if cost is None else cost / settings.images_per_request for cost in costs)
    rows = count.to_ask if options.limit is None else min(count.to_ask, options.limit)
    plan = Plan(
        options=options,
        endpoint=endpoint,
        vertex=vertex,
        answers=answers,
        failures=failures,
        runs=runs,
        task=task,
        settings=settings,
        model=model,
        prices=price,
        fingerprint=mark,
        identity=asked,
        source=source,
        done=done,
        kept=kept,
        count=count,
        estimate=call,
        usd_online=usd_online,
        usd_batch=usd_batch,
        affordable=_affordable(options, rows, spent, usd_online, usd_batch),
        spent_usd=spent,
        asked_before=tuple(_difference(each, asked) for each in before if each.fingerprint != mark and each.bought),
        has_answers=any(each.fingerprint == mark and each.bought for each in before),
        query_bytes=read_bytes,
        warnings=tuple(warnings),
    )
    return dataclasses.replace(plan, warnings=(*plan.warnings, *_late(plan)))


def source_of(
    options: Options, settings: Settings, info: inputs.TableInfo, task: Task, only_keys: Sequence[str] | None = None
) -> tuple[tuple[inputs.KeptColumn, ...], worklist.Source]:
    """The columns that stand beside each answer, and what the worklist takes from the input.

    Raises:
        ConfigError: a column that is not there, or what cannot be asked of an asset.
    """
    task.check_columns([field.name for field in info.fields])
    kept = tuple(_kept(options, info, task))
    source = worklist.source(
        info,
        key_column=options.key_column,
        uri_column=options.uri_column,
        where=options.where,
        columns=[
            *box_columns(settings, info),  # first: one that is kept too is read as the answers table has it
            *(column for column in kept if column.expr),
            *inputs.prompt_columns(info, task.columns),
        ],
        only=only_keys,
        asset_column=options.asset_column if options.unit == "asset" else None,
        max_images=options.max_images_per_asset,
    )
    return kept, source


def _late(plan: Plan) -> list[str]:
    """That a deadline will not be met, in words: what batch jobs would be late for is online's to do, at any pace."""
    hours, rows = plan.options.deadline_hours, plan.split.online
    if hours is None or plan.secs <= hours * 3600:
        return []
    time = f"which takes about {duration(plan.secs)} with one worker process at these limits"
    return [f"--deadline_hours={hours:g}: {rows:,} rows are asked online, {time}"]


def check_spending(plan: Plan) -> None:
    """Spending is opt-in: refuse what nobody allowed.

    Raises:
        ConfigError: many rows without a limit or a budget, a budget without a price, or a changed fingerprint.
    """
    options, count = plan.options, plan.count
    if count.to_ask > FREE_ROWS and options.limit is None and options.max_cost_usd is None:
        price = "" if plan.cost_usd is None else f", about ${plan.cost_usd:,.2f}"
        raise ConfigError(
            f"{count.to_ask:,} rows would be asked{price}: add --limit=N or --max_cost_usd=X to allow it "
            f"(needed for more than {FREE_ROWS:,} rows)"
        )
    if plan.buys_again and not options.accept_new_fingerprint:
        cost = "an unknown price" if plan.cost_usd is None else f"about ${plan.cost_usd:,.4f}"
        raise ConfigError(
            f"{plan.buys_again}. Asking anew costs {cost} for {plan.rows:,} rows: add --accept_new_fingerprint, or undo "
            "the change"
        )


def table_names(options: Options) -> tuple[TableName, TableName, TableName]:
    """The tables of answers, failures and runs, by flag or by default."""
    if options.output_table is None:
        raise ConfigError("--output_table is missing: where the answers go, PROJECT.DATASET.TABLE")
    answers = TableName.parse(options.output_table, "--output_table")
    failures = TableName.parse(options.failures_table or f"{answers}_failures", "--failures_table")
    runs = TableName.parse(options.runs_table or f"{answers}_runs", "--runs_table")
    if len({answers, failures, runs}) < 3:
        raise ConfigError("--output_table, --failures_table and --runs_table must be three different tables")
    return answers, failures, runs


def _check_given(options: Options) -> None:
    if (options.input_table is None) == (options.input_query is None):
        given = "both" if options.input_table else "neither"
        raise ConfigError(f"give exactly one of --input_table and --input_query; {given} was given")
    if options.deadline_hours is not None and options.mode != "auto":
        raise ConfigError(
            f"--deadline_hours={options.deadline_hours:g}: only --mode=auto looks at it; --mode={options.mode} asks every row "
            "in its own way"
        )


def _kept(options: Options, info: inputs.TableInfo, task: Task) -> list[inputs.KeptColumn]:
    """The columns stored beside each answer; of an asset, always which one it is and which images were asked.

    Raises:
        ConfigError: what cannot be asked of an asset.
    """
    kept = inputs.kept_columns(info, options.keep_columns)
    if options.unit == "image":
        return kept
    if info.find(options.asset_column) is None:
        raise ConfigError(
            f"--asset_column={options.asset_column}: the input has no such column, and --unit=asset needs one"
        )
    if options.max_images_per_asset > MAX_IMAGES:
        raise ConfigError(
            f"--max_images_per_asset={options.max_images_per_asset}: Gemini takes {MAX_IMAGES:,} in one call"
        )
    boxes = [name for name, question in task.questions.items() if isinstance(question, Boxes)]
    if boxes:
        raise ConfigError(f"--unit=asset: {boxes[0]} asks for boxes, which cannot say in which of the images they are")
    names = {column.name.lower() for column in kept}
    asset = [each for each in inputs.kept_columns(info, [options.asset_column]) if each.name.lower() not in names]
    return [*asset, *kept, inputs.KeptColumn(IMAGES, "JSON", "")]  # made by the worklist, so without an expression


def task_of(options: Options) -> Task:
    """The task, with `--prompt` in place of its own prompt."""
    task = Task.load(options.task)
    return task if options.prompt is None else task.with_prompt(options.prompt)


def project_of(options: Options) -> str:
    """The project that is billed."""
    project = options.project or os.environ.get("GOOGLE_CLOUD_PROJECT")
    if not project:
        raise ConfigError("--project is missing: the Google Cloud project that is billed")
    return project


def _inspect(options: Options, endpoint: Endpoint) -> inputs.TableInfo:
    if options.input_table is not None:
        return inputs.inspect(endpoint, TableName.parse(options.input_table, "--input_table"))
    return inputs.inspect_query(endpoint, options.input_query or "")


def _affordable(
    options: Options, rows: int, spent_usd: float, usd_online: float | None, usd_batch: float | None
) -> int | None:
    """How many rows what is left of the budget pays for; None without a budget."""
    if options.max_cost_usd is None:
        return None
    if usd_online is None or usd_batch is None:
        raise ConfigError(
            f"--max_cost_usd={options.max_cost_usd:g}: the model's price is not known, so a budget cannot be kept; "
            "add --price_usd_per_mtok=IN,OUT"
        )
    left = max(0.0, options.max_cost_usd - spent_usd)
    return ways.affordable(options, rows, left, usd_online, usd_batch) if usd_online and usd_batch else None


def _difference(other: books.OtherFingerprint, asked: dict[str, Any]) -> tuple[str, int, list[str]]:
    """Another fingerprint of the same task: (fingerprint, answers, what differs)."""
    return other.fingerprint, other.answers, differences(other.settings, asked) if other.settings else []
