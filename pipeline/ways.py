"""Which rows a run asks online and which in batch jobs: by mode, number and deadline. Pure.

The rule of --mode=auto: a row goes into a batch job where that will be done by the deadline, and is asked online otherwise;
fewer than `BATCH_ROWS` rows are asked online in any case.
"""

from __future__ import annotations

import dataclasses
import math

from pipeline.options import Options

BATCH_ROWS = 10_000  # fewer rows than that are asked online by --mode=auto: it takes minutes and saves a dollar or so
# Most jobs end within 24 hours of their start, and what has not is cancelled then; they wait up to 72 hours for that:
# docs.cloud.google.com/vertex-ai/generative-ai/docs/multimodal/batch-prediction-gemini (a copy of 2026).
BATCH_JOB_HOURS, BATCH_QUEUE_HOURS = 24, 72


@dataclasses.dataclass(frozen=True, slots=True)
class Split:
    """How many rows are asked online, and how many in batch jobs."""

    online: int
    batch: int


def split(options: Options, rows: int, hours: float | None) -> Split:
    """Divides rows between the two ways, as --mode says.

    Args:
        options: the flags.
        rows: rows to ask.
        hours: until the answers are wanted; None where there is no deadline.
    """
    if options.mode != "auto":
        return Split(0, rows) if options.mode == "batch" else Split(rows, 0)
    can = options.images_per_request == 1 and options.unit == "image" and options.service_tier == "standard"
    can = can and options.image_source == "uri"
    jobs = jobs_in_time(options, hours)
    batch = rows if jobs is None else min(rows, jobs * options.batch_requests)
    return Split(rows - batch, batch) if can and batch >= BATCH_ROWS else Split(rows, 0)


def jobs_in_time(options: Options, hours: float | None) -> int | None:
    """How many batch jobs are done in so many hours, the queue left aside: a day for as many as run at once. None: any."""
    return None if hours is None else math.floor(hours / BATCH_JOB_HOURS) * options.batch_jobs


def batch_hours(options: Options, rows: int) -> int:
    """Hours that batch jobs for so many rows may take once they run."""
    return BATCH_JOB_HOURS * math.ceil(rows / (options.batch_requests * options.batch_jobs))


def affordable(options: Options, rows: int, left_usd: float, online_usd: float, batch_usd: float) -> int:
    """How many rows at most a budget pays for, where those in batch jobs, which are more for the money, go first.

    Args:
        options: the flags.
        rows: rows to ask.
        left_usd: what is left of the budget.
        online_usd: a row's price online; more than 0.
        batch_usd: likewise in a batch job.
    """
    whole = split(options, rows, options.deadline_hours)
    paid = math.floor(left_usd / batch_usd)
    if whole.online and paid > whole.batch:
        paid = whole.batch + math.floor((left_usd - whole.batch * batch_usd) / online_usd)
    if split(options, min(paid, rows), options.deadline_hours).batch:
        return paid
    return math.floor(left_usd / online_usd)  # all online, if only because the money is for few


def rate(options: Options, rows: int, online_usd: float | None, batch_usd: float | None) -> float:
    """The price of a row on average by its price online, where so many rows are divided between the two ways; 1 where no
    price is known."""
    if not rows or not online_usd or batch_usd is None:
        return 1.0
    parts = split(options, rows, options.deadline_hours)
    return (parts.online + parts.batch * batch_usd / online_usd) / rows
