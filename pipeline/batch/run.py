"""`classify --mode=batch`: from a plan to closed books, by rounds of batch jobs; any launcher goes on where one ended.

A round: write what has no outcome yet as files of requests, ask each file by a job, put what comes back into the tables.
What a round leaves open (a job that expired, a line that is missing) is asked by the next one.

Everything that a launcher knows lies outside of it: the rows in the worklist, the outcomes in the tables, the files in
Cloud Storage, the jobs with the service (found by the run's label even where no one could record them) and in the runs table.
"""

from __future__ import annotations

import contextlib
import datetime
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING

from pipeline import console, launch, rivals, submit, worker
from pipeline.batch import journal
from pipeline.batch.flags import check_jobs, place
from pipeline.batch.launcher import GOES_ON, Launcher
from pipeline.batch.rounds import Rounds
from pipeline.batch.service import Jobs
from pipeline.batch.store import Folder
from pipeline.errors import ConfigError, Halted, PipelineError
from pipeline.first_call import first_call
from pipeline.gemini import models
from pipeline.gemini.request import request_labels
from pipeline.launch import Run
from pipeline.plan import Plan
from pipeline.rows import RunState
from pipeline.running import conclude

if TYPE_CHECKING:
    from apache_beam.options.pipeline_options import PipelineOptions


def goes_on(plan: Plan) -> bool:
    """Whether --mode=auto has begun a batch run that is not over: what it has left may be few rows by now."""
    return plan.options.mode == "auto" and journal.unfinished(plan) is not None


def refuse_online(plan: Plan) -> None:
    """Refuses to ask online what a batch run may have bought already.

    Raises:
        ConfigError: there is such a run; the message names it.
    """
    found = None if plan.options.allow_concurrent_runs else journal.unfinished(plan)
    if found is not None:
        raise ConfigError(
            f"batch run {found.run_id} of the same question has results to collect: --mode=batch does that first; "
            "--allow_concurrent_runs asks online all the same (rows that both ask are paid twice)"
        )


def run_batch(plan: Plan, beam_options: PipelineOptions) -> int:
    """Take up the batch run of this question that nobody has ended, or start one, and see it through.

    Returns:
        The exit code: 0, or 3 when a larger share of rows failed than --max_failure_ratio.

    Raises:
        ConfigError: another process sees to this run, or the first call fails.
        Halted: jobs failed or were cancelled, or rows are still without an outcome after the last round.
        Interrupted: the user stopped this process; the jobs go on.
    """
    check_jobs(plan.options)
    if not models.is_published(plan.settings.model, plan.endpoint.project, plan.vertex.location):
        raise ConfigError(f"--model={plan.settings.model}: a tuned endpoint answers online only; leave --mode out")
    found = journal.unfinished(plan)
    if found is None:
        run = launch.prepare(plan, 1)
        folder = place(plan.options).below(run.run_id)
    else:
        refuse_rival(plan, found)
        run = launch.resumed(plan, found.line)
        folder = Folder(found.folder)
        console.note(f"taking up batch run {run.run_id} of {found.line['at']:%Y-%m-%d %H:%M} UTC")
    stop = threading.Event()

    def interrupted() -> None:
        console.note(f"stopping: {GOES_ON}")
        stop.set()
        worker.stop_all("interrupted", 1.0)

    shared = worker.acquire(run.config)  # kept open from one graph to the next
    launcher = Launcher(
        run,
        shared,
        Jobs(run.config.vertex, plan.endpoint.project, request_labels(run.run_id, plan.task.name)),
        beam_options,
        _deadline(plan, found),
        stop,
        set(found.collected if found else ()),
    )
    try:
        with submit.interruptible(interrupted), _in_one_line(shared):
            journal.note_batch(run, folder.uri)
            if found is not None and (others := journal.unfinished(plan)) is not None:
                refuse_rival(plan, others)  # again, now that others see this process
            folder.write_json("about.json", {"run_id": run.run_id})  # what cannot be written to is seen before any call
            if found is None and run.rows:
                first_call(run)
            reason = Rounds(launcher, folder).ask()
    except ConfigError as error:
        if found is None and not launcher.made:  # nothing goes on anywhere
            launch.finish(run, RunState.CANCELLED, str(error)[:1000])
        raise
    finally:
        launcher.jobs.close()
    worker.close_all()
    return _end(run, reason)


def _deadline(plan: Plan, found: journal.Unfinished | None) -> datetime.datetime | None:
    """When the answers are wanted: so long after the run's start, or after now where the start knew another deadline."""
    hours = plan.options.deadline_hours
    if hours is None:
        return None
    same = found is not None and (found.line["options"] or {}).get("deadline_hours") == hours
    start = found.line["at"] if found is not None and same else datetime.datetime.now(datetime.UTC)
    return start + datetime.timedelta(hours=hours)


@contextlib.contextmanager
def _in_one_line(shared: worker.Worker) -> Iterator[None]:
    """What Google's clients raise, or a graph in whatever words, as one line that says that nothing is lost."""
    import google.auth.exceptions
    import requests.exceptions
    from google.api_core import exceptions

    known = (exceptions.GoogleAPIError, google.auth.exceptions.GoogleAuthError, requests.exceptions.RequestException)
    try:
        yield
    except PipelineError:
        raise
    except Exception as error:  # told apart below; a bug is raised again
        if shared.halted:
            raise Halted(f"halted, and no row was at fault: {shared.halted}. Mend that; {GOES_ON}") from None
        cause = shared.fault or error
        if not isinstance(cause, known):
            raise
        refused = isinstance(cause, exceptions.ClientError | google.auth.exceptions.GoogleAuthError)
        kind = ConfigError if refused else PipelineError
        raise kind(
            f"a batch run needs what Google refuses or cannot do now: {' '.join(str(cause).split())[:500]}"
        ) from error


def refuse_rival(plan: Plan, found: journal.Unfinished) -> None:
    """Two launchers of one run would collect, and ask again, the same rows: who has noted itself later yields."""
    for other in found.launchers:
        if other == rivals.launcher() or plan.options.allow_concurrent_runs:
            return
        if rivals.life(plan, {**found.line, "options": {"launcher": other}}) is rivals.Life.ALIVE:
            raise ConfigError(
                f"batch run {found.run_id} of the same question is seen to by another process: wait for it, or stop it (its "
                "jobs go on); --allow_concurrent_runs takes it up all the same"
            )


def _end(run: Run, reason: str | None) -> int:
    """Close the books and say how it ended."""
    told = launch.told(run)
    why = told.halted or reason
    state = RunState.HALTED if told.halted else RunState.CANCELLED if reason else RunState.FINISHED
    found = launch.finish(run, state, why or told.over_budget)
    code = conclude(
        run.run_id,
        found,
        run.plan.options,
        already_answered=run.already_answered,
        over_budget=run.over_budget + (found.not_asked if told.over_budget else 0),
        not_asked=0 if told.over_budget else found.not_asked,
    )
    if why and found.not_asked:
        raise Halted(f"{why}. What is answered is kept, and the same command asks the rest")
    launch.check_books(found, whole=not why and not told.over_budget)
    return code
