"""From a run that is ready to its end: the first call, the graph, signals, the books, the summary, the exit code."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import signal
import tempfile
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING

from pipeline import console, direct, launch, leash, progress, worker
from pipeline.bigquery.books import Books
from pipeline.bigquery.client import explained
from pipeline.engine import EngineHalted
from pipeline.errors import ConfigError, Halted, Interrupted, PipelineError
from pipeline.options import Options
from pipeline.progress import Progress
from pipeline.rows import RunState
from pipeline.run_config import RunConfig

if TYPE_CHECKING:
    from apache_beam.options.pipeline_options import PipelineOptions

EXIT_DONE, EXIT_FAILURES = 0, 3
_EXIT_SECS = 9.5  # after an interrupt the process ends then, whatever hangs
_GOES_ON = "what is answered is kept, and the same command goes on where this one stopped"


def run_to_end(run: launch.Run, beam_options: PipelineOptions) -> int:
    """Ask everything; whatever happens, the books are written. On Dataflow: submit.

    Returns:
        0; 3 when more rows failed than --max_failure_ratio allows.

    Raises:
        ConfigError: the first call fails; nothing was spent.
        Halted: no row could mend it.
        Interrupted: the user stopped it.
        BooksError: rows are missing though nothing stopped the run.
        PipelineError: BigQuery failed for good.
    """
    from pipeline import submit

    given = run.plan.options
    shared = worker.acquire(run.config)
    ending = _Ending(run, shared)
    failed: Exception | None = None
    job_id: str | None = None
    with submit.interruptible(ending.stop) as interrupted, _said_once():
        try:
            if run.rows:
                with console.busy("asking the first row", quiet=given.quiet):
                    direct.first_call(run)
                with _watched(run, shared, quiet=given.quiet or not submit.is_local(given)) as config:
                    tied = ending.tied(config) if submit.forks(beam_options, given) else config
                    job_id = submit.run(tied, run.shards, beam_options, given)
        except ConfigError as error:
            failed = error
        except Exception as error:  # noqa: BLE001 - told apart in `_end`; a bug is raised again there
            failed = Halted(shared.halted) if shared.halted else shared.fault or error
        finally:
            worker.release(run.config)
        if job_id is not None:
            return _submitted(run, job_id)
        worker.close_all()  # flushes: the books are written after the last row
        return _end(run, failed, interrupted.is_set(), ending)


def conclude(
    run_id: str, books: Books, given: Options, *, already_answered: int, over_budget: int, not_asked: int
) -> int:
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
    if not_asked:
        brackets.append(f"not asked {not_asked:,}")
    console.say(console.summary(books.answered, books.failed, run_id, brackets))
    return EXIT_FAILURES if too_many else EXIT_DONE


@contextlib.contextmanager
def _watched(run: launch.Run, shared: worker.Worker, *, quiet: bool) -> Iterator[RunConfig]:
    """Shows progress while the block lasts. With the config that is yielded, the runner's processes tell how far they are."""
    if quiet:
        yield run.config
        return
    with tempfile.TemporaryDirectory(prefix="gemini-progress-", ignore_cleanup_errors=True) as folder:
        config = dataclasses.replace(run.config, progress_folder=folder, launcher_pid=os.getpid())
        with Progress(lambda: progress.of_all(folder, shared.snapshot()), run.rows):
            yield config


def _end(run: launch.Run, failed: Exception | None, interrupted: bool, ending: _Ending) -> int:
    """Write the books, print the summary, and say how it ended."""
    found: Books | None = None
    told = launch.Told()
    try:
        told = launch.told(run)
        state, reason = RunState.FINISHED, told.over_budget
        if told.halted:
            state, reason = RunState.HALTED, told.halted
        elif interrupted:
            state, reason = RunState.CANCELLED, "interrupted"
        elif failed is not None:
            state, reason = RunState.CANCELLED, f"{type(failed).__name__}: {failed}"[:1000]
        found = launch.finish(run, state, reason)
    except Exception as error:  # noqa: BLE001 - a bug in the books must not hide why the run ended
        missing = f"its books are not written: `python -m pipeline audit --run_id={run.run_id}` writes them"
        if failed is None and not interrupted:
            raise _in_one_line(error, f"{missing}; {_GOES_ON}") or error from None
        console.note(f"run {run.run_id}: {missing} ({type(error).__name__})")
    if isinstance(failed, ConfigError):
        raise failed  # found by the first call, before anything was spent
    code = EXIT_DONE
    if found is not None:
        over = run.over_budget + (found.not_asked if told.over_budget else 0)
        left = 0 if told.over_budget else found.not_asked
        already = run.plan.count.already_answered
        code = conclude(run.run_id, found, run.plan.options, already_answered=already, over_budget=over, not_asked=left)
        ending.said = True
    if interrupted:
        raise Interrupted(f"interrupted: {_GOES_ON}")
    if told.halted or isinstance(failed, Halted):
        why = (told.halted or str(failed)).rstrip(".")
        raise Halted(f"halted, and no row was at fault: {why}. Mend that; {_GOES_ON}")
    if failed is not None:
        raise _in_one_line(failed, _GOES_ON) or failed
    if found is not None:
        launch.check_books(found, whole=told.over_budget is None)
    return code


def _in_one_line(error: Exception, more: str) -> PipelineError | None:
    """What Google's clients or we ourselves raise, as one line; None for a bug."""
    try:
        with explained("BigQuery failed while the run went on,", "and was tried again for minutes"):
            raise error
    except PipelineError as known:
        return PipelineError(f"{known}; {more}")
    except Exception:  # noqa: BLE001 - the error itself again: it is none of those
        return None


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


class _Ending:
    """What an interrupt does: no new calls, a moment for those in flight, and the process ends in 10 s in any case."""

    def __init__(self, run: launch.Run, shared: worker.Worker) -> None:
        self._run, self._shared = run, shared
        self._leash: leash.Leash | None = None
        self.said = False  # the summary is printed

    def tied(self, config: RunConfig) -> RunConfig:
        """The same for worker processes of this machine, which an interrupt then stops, too."""
        self._leash = leash.Leash()
        return dataclasses.replace(config, launcher_address=self._leash.address)

    def stop(self) -> None:
        console.note("stopping: waiting a moment for answers that are on their way")
        end = threading.Timer(_EXIT_SECS, self._now)
        end.daemon = True
        end.start()
        worker.stop_all("interrupted", worker.GRACE_SECS)
        if self._leash is not None:
            self._leash.let_go()

    def _now(self) -> None:
        """Ends the process, whatever hangs. Then the summary counts what this process has received, not what SQL finds."""
        run, tally = self._run, self._shared.snapshot()
        if not self.said:
            console.note(
                f"stopped before BigQuery had acknowledged everything; `python -m pipeline audit --run_id={run.run_id}` "
                "counts what it has"
            )
            brackets = [f"already answered {run.plan.count.already_answered:,}", f"not asked {run.rows - tally.done:,}"]
            console.say(console.summary(tally.answered, tally.failed, run.run_id, brackets))
        console.note(f"error: interrupted: {_GOES_ON}")
        os._exit(Interrupted.exit_code)


@contextlib.contextmanager
def _said_once() -> Iterator[None]:
    """Keeps Beam from logging, with a stack trace, what this module says in one line."""
    log = logging.getLogger("apache_beam.runners.common")

    def unknown(record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, EngineHalted):
            return False
        return not isinstance(error, Exception) or _in_one_line(error, "") is None

    log.addFilter(unknown)
    try:
        yield
    finally:
        log.removeFilter(unknown)


@contextlib.contextmanager
def terminable() -> Iterator[None]:
    """While the block lasts, SIGTERM ends it as Ctrl-C does; what goes on inside may take the signals over."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(_signal: int, _frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
