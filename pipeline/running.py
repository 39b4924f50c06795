"""From a run that is ready to its end: the first call, the graph, signals, the books, the summary, the exit code."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from pipeline import console, launch, leash, progress, worker
from pipeline.bigquery.books import Books
from pipeline.bigquery.client import explained
from pipeline.engine import EngineHalted
from pipeline.errors import ConfigError, Halted, Interrupted, PipelineError
from pipeline.first_call import first_call
from pipeline.options import Options
from pipeline.progress import Progress, Snapshot
from pipeline.rows import RunState
from pipeline.run_config import RunConfig

if TYPE_CHECKING:
    from apache_beam.options.pipeline_options import PipelineOptions

    from pipeline import submit

EXIT_DONE, EXIT_FAILURES = 0, 3
_EXIT_SECS = 9.5  # after an interrupt the process ends then, whatever hangs
_SUBMISSION_SECS = 120.0  # but so much later while Dataflow takes a job, which must not be left alone
_FOR_ANSWERS = "a moment for answers that are on their way"
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
        PipelineError: BigQuery failed for good, or a worker process died.
    """
    from pipeline import submit

    given = run.plan.options
    shared = worker.acquire(run.config)
    ending = _Ending(run, shared)
    failed: Exception | None = None
    job: submit.Job | None = None
    with submit.interruptible(ending.stop) as interrupted, _said_once():
        try:
            if run.rows:
                first_call(run)
                forks = submit.forks(beam_options, given)
                quiet = given.quiet or not submit.is_local(given)
                with _watched(run, shared, ending, quiet=quiet, forks=forks) as config:
                    ending.submitting = not submit.is_local(given)
                    job = submit.run(config, run.shards, beam_options, given, interrupted)
        except ConfigError as error:
            failed = error
        except Exception as error:  # noqa: BLE001 - told apart in `_end`; a bug is raised again there
            failed = Halted(shared.halted) if shared.halted else shared.fault or error
        if job is not None:
            if not interrupted.is_set():
                return _submitted(run, job.id)
            _take_back(run, job)
        ending.submitting = False
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
def _watched(
    run: launch.Run, shared: worker.Worker, ending: _Ending, *, quiet: bool, forks: bool
) -> Iterator[RunConfig]:
    """Shows progress while the block lasts. With the config that is yielded, the runner's processes tell how far they are.

    Where the runner forks, it also ties them to this one.
    """
    from pipeline import processes

    if quiet and not forks:
        yield run.config
        return
    with tempfile.TemporaryDirectory(prefix="gemini-progress-", ignore_cleanup_errors=True) as folder:

        def read() -> Snapshot:
            return progress.of_all(folder, shared.snapshot())

        ending.read = read
        try:
            with (
                contextlib.nullcontext() if quiet else Progress(read, run.rows),
                processes.watched(ending.died) if forks else contextlib.nullcontext(),
            ):
                config = dataclasses.replace(run.config, progress_folder=folder, launcher_pid=os.getpid())
                yield ending.tied(config) if forks else config
        finally:
            last = read()
            ending.read = lambda: last


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
        already = run.already_answered
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
    if job_id:
        launch.note_job(run, job_id)
        console.say(f"job {job_id}: {_place(run, job_id)}")
    console.say(
        f"when it is done: python -m pipeline audit --project={run.plan.endpoint.project} "
        f"--output_table={run.plan.answers} --run_id={run.run_id}"
    )
    console.say(f"submitted {run.rows:,} rows | run {run.run_id}")
    return EXIT_DONE


def _take_back(run: launch.Run, job: submit.Job) -> None:
    """Cancel a job that Dataflow took after an interrupt.

    Raises:
        Interrupted: that fails; the message says where a person can do it.
    """
    try:
        job.cancel()
    except Exception as error:  # whatever it was: a job is running that nobody wants, and somebody must be told
        launch.note_job(run, job.id)
        raise Interrupted(
            f"interrupted, but Dataflow had taken job {job.id} and does not cancel it ({type(error).__name__}): "
            f"cancel it at {_place(run, job.id)}"
        ) from error
    console.note(f"job {job.id} is cancelled: {_place(run, job.id)}")


def _place(run: launch.Run, job_id: str = "") -> str:
    """Where the console shows a Dataflow job, or all of them."""
    where = f"/{run.plan.options.region}/{job_id}" if job_id else ""
    return f"https://console.cloud.google.com/dataflow/jobs{where}?project={run.plan.endpoint.project}"


class _Ending:
    """What an interrupt does: no new calls, a moment for those in flight, and the process ends in 10 s in any case."""

    def __init__(self, run: launch.Run, shared: worker.Worker) -> None:
        self._run = run
        self.read: Callable[[], Snapshot] = shared.snapshot  # where the run stands, as far as this process knows
        self._leash: leash.Leash | None = None
        self.said = False  # the summary is printed
        self.submitting = False  # Dataflow may have taken a job that is not noted yet

    def tied(self, config: RunConfig) -> RunConfig:
        """The same for worker processes of this machine, which an interrupt then stops, too."""
        self._leash = leash.Leash()
        return dataclasses.replace(config, launcher_address=self._leash.address)

    def stop(self) -> None:
        waiting = "until Dataflow has taken the job, to cancel it" if self.submitting else _FOR_ANSWERS
        console.note(f"stopping: waiting {waiting}")
        self._later(_EXIT_SECS, self._now)
        worker.stop_all("interrupted", worker.GRACE_SECS)
        if self._leash is not None:
            self._leash.let_go()

    def died(self, fault: PipelineError) -> None:
        """Of one worker process: the others stop, too, and the graph ends with this fault when they are done."""
        console.note(f"stopping: {fault}")
        assert self._leash is not None  # noqa: S101 - made before any process is started
        self._leash.let_go()

    @staticmethod
    def _later(secs: float, then: Callable[[], None]) -> None:
        timer = threading.Timer(secs, then)
        timer.daemon = True
        timer.start()

    def _now(self) -> None:
        if self.submitting:
            self._later(_SUBMISSION_SECS, self._end)
        else:
            self._end()

    def _end(self) -> None:
        """Ends the process, whatever hangs. Then the summary counts what was received, not what SQL finds."""
        run, tally = self._run, self.read()
        if self.submitting:
            console.note(
                f"Dataflow has not yet said whether it took the job: if one with the label run_id={run.run_id} is there, "
                f"cancel it at {_place(run)}"
            )
        elif not self.said:
            console.note(
                f"stopped before BigQuery had acknowledged everything; `python -m pipeline audit --run_id={run.run_id}` "
                "counts what it has"
            )
            brackets = [f"already answered {run.already_answered:,}", f"not asked {run.rows - tally.done:,}"]
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
