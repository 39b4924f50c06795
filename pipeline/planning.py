"""From options to a `Plan`: every check that costs nothing, and the rows counted. Creates nothing."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import os
from collections.abc import Iterator, Sequence
from typing import Any

from pipeline import ways
from pipeline.bigquery import books, inputs, query, tables, worklist
from pipeline.bigquery.client import Endpoint, explained
from pipeline.bigquery.names import TableName
from pipeline.console import duration
from pipeline.errors import ConfigError
from pipeline.gemini import models
from pipeline.gemini.endpoint import VertexEndpoint
from pipeline.gemini.prices import estimate, parse_prices
from pipeline.options import Options
from pipeline.plan import Plan
from pipeline.rows import FAILURE_COLUMNS, IMAGES, RUN_COLUMNS
from pipeline.settings import box_columns, settings_of
from pipeline.task import Settings, Task, differences, fingerprint, identity
from pipeline.task.labels import Boxes

MAX_IMAGES = 3000  # of one request: cloud.google.com/vertex-ai/generative-ai/docs/multimodal/image-understanding
FREE_ROWS = 1000  # more rows than that are asked only under --limit or --max_cost_usd


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
    with input_explained(options, endpoint, source):
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


@contextlib.contextmanager
def input_explained(options: Options, endpoint: Endpoint, source: worklist.Source) -> Iterator[None]:
    """Turns what BigQuery says of queries over the input into one line that names --where, where that is what it refuses.

    Raises:
        ConfigError: as `explained`.
    """
    from google.api_core.exceptions import BadRequest

    with explained("--input_query" if options.input_query else "--input_table", options.input_table or "the query"):
        try:
            yield
            return
        except BadRequest as error:
            if source.where is None:
                raise
            refused = error
        everything = dataclasses.replace(source, where=None)
        query.dry_run(
            endpoint, worklist.count_query(everything, worklist.Done("none"))
        )  # raises where the input is at fault
    with explained("--where", source.where):
        raise refused


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


def check_input(options: Options) -> None:
    """Raises ConfigError unless one input is given."""
    if (options.input_table is None) == (options.input_query is None):
        given = "both were" if options.input_table else "neither was"
        raise ConfigError(f"give exactly one of --input_table and --input_query; {given} given")


def _check_given(options: Options) -> None:
    check_input(options)
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
