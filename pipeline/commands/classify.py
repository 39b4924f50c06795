"""`python -m pipeline classify`: ask the question about every row of the input and write the answers."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pipeline import console, launch, options, planning
from pipeline.bigquery.books import Books
from pipeline.errors import Halted, Interrupted
from pipeline.options import Options
from pipeline.rows import RunState

if TYPE_CHECKING:
    from apache_beam.options.pipeline_options import PipelineOptions

EXIT_DONE, EXIT_FAILURES = 0, 3
_GRACE_SECS = 5.0  # calls in flight may land that long after an interrupt
_EXIT_SECS = 9.5  # and after that the process ends, whatever hangs


def main(argv: Sequence[str]) -> int:
    """Plan, check, ask once for real, run the graph, close the books.

    Returns:
        0 done; 3 done, but more rows failed than --max_failure_ratio allows; others as `pipeline.errors` says.
    """
    if "--help" in argv or "-h" in argv:
        print("usage: python -m pipeline classify --flag=value ...\n" + options.help_text())
        return EXIT_DONE
    given, _ = options.parse(argv)
    from pipeline import submit, worker  # with Beam: only once our own flags are known to be right

    beam_options = submit.beam_options(argv, given)
    plan = planning.make(given)
    show(plan)
    planning.check_spending(plan)
    run = launch.prepare(plan, submit.processes(beam_options, given))
    try:
        return _classify(run, beam_options)
    finally:
        worker.close_all()


def show(plan: planning.Plan) -> None:
    """The plan, and what to know before paying, on stderr."""
    if plan.options.quiet:
        return
    for warning in plan.warnings:
        console.note(f"warning: {warning}")
    lines = plan.lines()
    width = max(len(what) for what, _ in lines)
    for what, value in lines:
        console.note(f"{what:>{width}}  {value}")


def conclude(run_id: str, books: Books, given: Options, *, already_answered: int, over_budget: int) -> int:
    """Print the reasons of the failures and the summary line.

    Returns:
        The exit code: 0, or 3 when a larger share of rows failed than --max_failure_ratio.
    """
    asked = books.answered + books.failed
    too_many = asked > 0 and books.failed / asked > given.max_failure_ratio
    if books.by_reason and (too_many or not given.quiet):
        console.table("Failures", ("reason", "rows"), launch.reason_rows(books))
    brackets = [f"already answered {already_answered:,}"]
    if over_budget:
        brackets.append(f"over budget {over_budget:,}")
    elif books.not_asked:
        brackets.append(f"not asked {books.not_asked:,}")
    console.say(console.summary(books.answered, books.failed, run_id, brackets))
    return EXIT_FAILURES if too_many else EXIT_DONE


def _classify(run: launch.Run, beam_options: PipelineOptions) -> int:
    """Ask everything; whatever happens, the books are written."""
    from pipeline import submit, worker

    given = run.plan.options
    quiet = given.quiet or not submit.is_local(given)
    with submit.interruptible(_stop) as interrupted:
        try:
            if run.rows:
                launch.first_call(run)
                with console.Progress(worker.acquire(run.config).snapshot, run.rows, quiet=quiet):
                    job_id = submit.run(run.config, run.shards, beam_options, given)
                worker.release(run.config)
                if job_id is not None:
                    return _submitted(run, job_id)
        except BaseException as error:
            reason = launch.halted(run)
            state = RunState.HALTED if reason else RunState.CANCELLED
            worker.close_all()
            books = launch.finish(run, state, reason or f"{type(error).__name__}: {error}"[:1000])
            if reason is None:
                raise
            _print_end(run, books)
            raise Halted(
                f"halted, no row was at fault: {reason}. What is answered is kept; mend it and run the same command"
            ) from None
        worker.close_all()  # flushes: the books are written after the last row
        if interrupted.is_set():
            _print_end(run, launch.finish(run, RunState.CANCELLED, "interrupted"))
            raise Interrupted("interrupted; what arrived is written, the same command goes on where this one stopped")
    return _print_end(run, launch.finish(run, RunState.FINISHED))


def _print_end(run: launch.Run, books: Books) -> int:
    plan = run.plan
    # Without an interrupt or a halt, only the meter leaves rows unasked.
    over = plan.over_budget + (books.not_asked if plan.options.max_cost_usd is not None else 0)
    return conclude(run.run_id, books, plan.options, already_answered=plan.count.already_answered, over_budget=over)


def _submitted(run: launch.Run, job_id: str) -> int:
    given = run.plan.options
    project = run.plan.endpoint.project
    if job_id:
        launch.note_job(run, job_id)
        place = f"https://console.cloud.google.com/dataflow/jobs/{given.region}/{job_id}?project={project}"
        console.say(f"job {job_id}: {place}")
    console.say(
        f"when it is done: python -m pipeline audit --project={project} --output_table={run.plan.answers} "
        f"--run_id={run.run_id}"
    )
    console.say(f"submitted {run.rows:,} rows | run {run.run_id}")
    return EXIT_DONE


def _stop() -> None:
    """What an interrupt does: no new calls, a moment for those in flight, and the process ends in 10 s in any case."""
    from pipeline import worker

    console.note("stopping: waiting a moment for answers that are on their way")
    end = threading.Timer(_EXIT_SECS, _end_now)
    end.daemon = True
    end.start()
    worker.stop_all("interrupted", _GRACE_SECS)


def _end_now() -> None:
    console.note("error: stopped before all connections ended; the same command goes on where this one stopped")
    os._exit(Interrupted.exit_code)
