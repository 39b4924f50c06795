"""The rounds of a batch run: requests written, asked by jobs, and collected, until no row is left without an outcome."""

from __future__ import annotations

import collections
import dataclasses
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from pipeline import console
from pipeline.batch import journal
from pipeline.batch.service import Job, Jobs
from pipeline.batch.store import Folder
from pipeline.bigquery import books, worklist
from pipeline.errors import Interrupted
from pipeline.gemini.request import request_labels
from pipeline.launch import Run
from pipeline.worker import Shard

if TYPE_CHECKING:
    from apache_beam.options.pipeline_options import PipelineOptions

    from pipeline.batch.steps import File

GOES_ON = "its jobs go on without this process; the same command collects them"
_ROUNDS = 3
_FIRST_POLL_SECS = (
    0.25  # doubles up to the longest: a small job's end is seen at once, a day's job costs 60 questions an hour
)
_LONGEST_POLL_SECS = 60.0
_FIRST_ROWS_USD = (
    6.0  # rows by which a budget may be overshot: three first ones, asked online at twice the batch's price
)


@dataclasses.dataclass(frozen=True)
class _Part:
    """One file of requests, and so one job."""

    name: str
    shard: Shard
    rows: int


class Rounds:
    """The rounds of a run.

    Args:
        run: what is asked.
        folder: of this run.
        beam_options: for the graphs.
        collected: parts whose results are in the tables, by their jobs' display names.
        stop: set by an interrupt.
    """

    def __init__(
        self, run: Run, folder: Folder, beam_options: PipelineOptions, collected: set[str], stop: threading.Event
    ) -> None:
        self._run, self._folder, self._beam_options = run, folder, beam_options
        self._collected, self._stop = collected, stop
        labels = request_labels(run.run_id, run.plan.task.name)
        self._jobs = Jobs(run.config.vertex, run.plan.endpoint.project, labels)
        self._told = ""
        self._over_budget = False
        self.made = False  # whether the service has a job of this run

    def close(self) -> None:
        self._jobs.close()

    def ask(self) -> str | None:
        """Ask until every row has its outcome; else, why not."""
        if not self._run.rows:
            return None
        written = (re.match(r"r(\d+)/", name) for name in self._folder.names())
        first = max((int(found[1]) for found in written if found), default=1)
        reason = None
        for number in range(first, _ROUNDS + 1):
            folder = self._folder.below(f"r{number}")
            parts = self._written(folder, number)
            reason = self._asked(folder, parts)
            if reason or self._over_budget or not self._left():
                return reason
        return f"rows are without an outcome after {_ROUNDS} rounds of batch jobs"

    def _written(self, folder: Folder, number: int) -> list[_Part]:
        """The parts of a round, written where no launcher before has done so."""
        from pipeline.batch.steps import File, build_requests

        there = set(folder.names())
        most = self._run.plan.options.batch_requests
        if "files.json" not in there:
            ranges = worklist.shards(
                self._run.plan.endpoint, self._run.config.tables.worklist, most, self._run.config.job
            )
            folder.write_json("files.json", [dataclasses.asdict(each) for each in ranges])
        files = [File(f"{index:05d}", Shard(**each), most) for index, each in enumerate(folder.read_json("files.json"))]
        missing = [file for file in files if f"{file.name}.json" not in there]
        if missing:
            console.note(f"round {number}: writing requests to {folder.uri}")
            self._graph(lambda pipeline: build_requests(pipeline, self._run.config, missing, folder))
        return list(_parts(folder, files))

    def _asked(self, folder: Folder, parts: Sequence[_Part]) -> str | None:
        """Every part asked by a job and collected; else, why not."""
        waiting = collections.deque(parts)
        live: dict[str, tuple[_Part, Job]] = {}
        faults: list[str] = []
        pause = _FIRST_POLL_SECS
        known = {job.part: job for job in self._jobs.all()}
        for part in parts:
            name = self._name(folder, part)
            if (job := known.get(name)) is not None and name not in self._collected:
                live[job.name] = (part, job)
            if job is not None or name in self._collected:
                waiting.remove(part)
                self.made = True
            if job is not None and job.done:
                faults += _fault(job)
        while waiting or live:
            while waiting and not faults and len(live) < self._run.plan.options.batch_jobs:
                if not self._affords(waiting[0], [part for part, _ in live.values()]):
                    self._stop_spending(waiting)
                    break
                made = self._submitted(folder, waiting[0])
                if made is None:
                    break
                live[made.name] = (waiting.popleft(), made)
                pause = _FIRST_POLL_SECS
            if faults and not live:
                break
            self._tell(waiting, live)
            if self._stop.wait(pause):
                raise Interrupted(f"interrupted: {GOES_ON}")
            pause = min(2 * pause, _LONGEST_POLL_SECS)
            for name, (part, _) in list(live.items()):
                job = self._jobs.get(name)
                live[name] = (part, job)
                if job.done:
                    self._collect(folder, part, job)
                    del live[name]
                    faults += _fault(job)
        return "; ".join(dict.fromkeys(faults)) or None

    def _submitted(self, folder: Folder, part: _Part) -> Job | None:
        """The part's job, new or not; None while the service takes no more."""
        name = self._name(folder, part)
        made = next((job for job in self._jobs.all() if job.part == name), None)
        if made is None:
            made = self._jobs.submit(
                name,
                model=self._run.config.question.resource,
                requests=f"{folder.uri}/{part.name}.jsonl",
                results=f"{folder.uri}/results/{part.name}",
            )
        if made is not None:
            self.made = True
            journal.note_job(self._run, made, collected=False)
        return made

    def _collect(self, folder: Folder, part: _Part, job: Job) -> None:
        from pipeline.batch.steps import Collected, build_results

        ended = Collected(part.shard, f"{folder.uri}/results/{part.name}", job.secs)
        self._graph(lambda pipeline: build_results(pipeline, self._run.config, [ended]))
        self._collected.add(job.part)
        journal.note_job(self._run, job, collected=True)

    def _graph(self, build: Callable[[Any], None]) -> None:
        import apache_beam as beam

        pipeline = beam.Pipeline(options=self._beam_options)
        build(pipeline)
        pipeline.run().wait_until_finish()
        if self._stop.is_set():  # it may have ended early
            raise Interrupted(f"interrupted: {GOES_ON}")

    def _affords(self, part: _Part, live: Sequence[_Part]) -> bool:
        """Whether what is left of the budget pays for a job, as planned, beside those that are under way."""
        plan = self._run.plan
        if plan.options.max_cost_usd is None or plan.usd_per_row is None:
            return True
        spent = books.spent(
            plan.endpoint,
            answers=plan.answers,
            failures=plan.failures,
            fingerprint=plan.fingerprint,
            job=self._run.config.job,
        )
        rows = part.rows + sum(each.rows for each in live) - _FIRST_ROWS_USD
        return spent + rows * plan.usd_per_row <= plan.options.max_cost_usd

    def _stop_spending(self, waiting: collections.deque[_Part]) -> None:
        """Leave the parts without a job; the runs table is told as it is by a worker whose meter stops it."""
        self._over_budget = True
        rows = sum(part.rows for part in waiting)
        waiting.clear()
        why = f"a batch job for the next of {rows:,} rows would go beyond ${self._run.plan.options.max_cost_usd:g}"
        journal.note_over_budget(self._run, why)

    def _left(self) -> int:
        """Rows without an outcome."""
        config = self._run.config
        found = books.audit(
            config.bigquery,
            worklist=config.tables.worklist,
            answers=config.tables.answers,
            failures=config.tables.failures,
            run_id=config.run_id,
            since=config.started_at,
            job=config.job,
        )
        return found.not_asked

    def _name(self, folder: Folder, part: _Part) -> str:
        return f"{self._run.run_id} {folder.uri.rpartition('/')[2]} {part.name}"

    def _tell(self, waiting: Sequence[_Part], live: dict[str, tuple[_Part, Job]]) -> None:
        """Progress, where it has changed."""
        states = collections.Counter(job.state.lower() for _, job in live.values())
        rows = sum(part.rows for part, _ in live.values())
        words = [f"{count} {state}" for state, count in sorted(states.items())]
        if waiting:
            words.append(f"{len(waiting)} to submit")
        answered = sum(job.answered for _, job in live.values())
        text = f"batch jobs: {', '.join(words)} | {answered:,}/{rows:,} rows of these answered"
        if text != self._told and not self._run.plan.options.quiet:
            console.note(text)
        self._told = text


def _parts(folder: Folder, files: Sequence[File]) -> Iterator[_Part]:
    for file in files:
        for part in folder.read_json(f"{file.name}.json")["parts"]:
            yield _Part(part["name"], file.shard, part["rows"])


def _fault(job: Job) -> list[str]:
    """Why a run does not go on by itself after this job: what was cancelled or failed would be so again."""
    if job.state == "FAILED":
        return [f"batch job {job.name} failed: {job.error or 'no reason given'}"]
    return [f"batch job {job.name} was cancelled"] if job.state == "CANCELLED" else []
