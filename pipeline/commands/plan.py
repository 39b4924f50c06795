"""`python -m pipeline plan`: what classify would ask, cost and take, by the same flags; asks nothing but a `--sample`."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline import console, direct, options, planning
from pipeline.batch import flags, journal
from pipeline.commands.classify import check
from pipeline.console import duration
from pipeline.engine import EngineHalted
from pipeline.errors import ConfigError, Halted
from pipeline.plan import Plan
from pipeline.planning import FREE_ROWS
from pipeline.rows import Answer
from pipeline.running import terminable

_USAGE = """usage: python -m pipeline plan --flag=value ...   (the flags of classify)

Calls no model and creates nothing, unless --sample=N is given: that asks N random rows for real and tells what they took.
Their answers stay in the tables like any other, so that classify does not pay for them again."""


def main(argv: Sequence[str]) -> int:
    """Print the plan; with `--sample=N`, ask N rows for real and print what they show.

    Returns:
        0; 2 when classify would refuse to start, with its reason.
    """
    if "--help" in argv or "-h" in argv:
        print(f"{_USAGE}\n{options.help_text()}")
        return 0
    rows, argv = _sample_of(argv)
    given, rest = options.parse(argv)
    check(argv, given, rest)
    plan = planning.make(given)
    for warning in plan.warnings:
        console.note(f"warning: {warning}")
    console.table("Plan", ("what", "how much"), plan.lines())
    console.table("Ways to ask, by --mode and --service_tier", ("way", "rows", "dollars", "time"), plan.ways())
    if (found := journal.unfinished(plan)) is not None:
        console.say(f"batch run {found.run_id} of this question is not over: classify collects it first, and asks less")
    for mark, answers, changes in plan.asked_before:
        console.say(f"{answers:,} answers to another version of this question ({mark}): {'; '.join(changes)}")
    if rows is not None:
        with terminable():
            _print_sample(plan, _ask(plan, rows))
    try:
        if plan.split.batch:
            flags.check_jobs(given)
        planning.check_spending(plan)
    except ConfigError as error:
        console.say(f"classify would stop here: {error}")
        return error.exit_code
    return 0


def _sample_of(argv: Sequence[str]) -> tuple[int | None, list[str]]:
    """The rows that `--sample` asks for, and the other flags."""
    rows: int | None = None
    rest: list[str] = []
    for word in argv:
        if word == "--sample" or word.startswith("--sample="):
            text = word.partition("=")[2]
            if not text.isdecimal() or not 1 <= int(text) <= FREE_ROWS:
                raise ConfigError(f"--sample={text}: expected a number of rows from 1 to {FREE_ROWS:,}")
            rows = int(text)
        else:
            rest.append(word)
    return rows, rest


def _ask(plan: Plan, rows: int) -> direct.Sample:
    try:
        return direct.sample(plan, rows)
    except EngineHalted as error:
        raise Halted(f"halted, and no row was at fault: {error}. What is answered is kept") from error


def _print_sample(plan: Plan, sample: direct.Sample) -> None:
    if not sample.outcomes:
        console.say(f"there is no row left to sample | run {sample.run_id}")
        return
    shown = [
        (outcome.key, outcome.label or outcome.classification if isinstance(outcome, Answer) else f"({outcome.reason})")
        for outcome in sample.outcomes
    ]
    console.table("Answers of the sample", ("key", "answer"), shown)
    rows = len(sample.outcomes)
    lines = [
        ("sampled", f"{rows:,} rows, {len(sample.answers):,} answered, in {duration(sample.secs)}"),
        ("tokens", f"{sample.rows * sample.tokens_per_row:,.0f} ({sample.tokens_per_row:,.0f} a row)"),
        ("cost", _cost(sample)),
    ]
    online = plan.split.online  # a batch job's time has nothing to do with a call's
    if sample.latency_secs is not None and (online or not plan.split.batch):
        secs = plan.secs_of(online, sample.latency_secs)
        lines.append(
            (
                "time",
                f"about {duration(secs)} with one worker process ({sample.latency_secs:.1f} s a call), quota allowing",
            )
        )
    console.table(f"As measured, for {sample.rows:,} rows", ("what", "how much"), lines)
    console.say(
        f"the {len(sample.answers):,} answers are kept in {plan.answers}: classify will not pay for them again "
        f"| run {sample.run_id}"
    )


def _cost(sample: direct.Sample) -> str:
    if sample.usd_per_row is None:
        return "not known: give --price_usd_per_mtok=IN,OUT"
    each = f"${sample.usd_per_row * 1000:,.4f} for 1,000 rows; the sample itself ${sample.spent_usd:,.4f}"
    try:
        found = sample.total_usd()
    except ImportError:
        return f"${sample.expected_usd:,.4f} ({each}; no interval: pip install 'gemini-image-pipeline[stats]')"
    if found is None:
        return f"${sample.expected_usd:,.4f} ({each}; no interval from one row)"
    total, low, high = found
    return f"${total:,.4f}, with 90 % confidence ${low:,.4f} to ${high:,.4f} ({each})"
