"""The jobs of one round: submitted as the service and the budget allow, polled, collected, and taken back at the deadline."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Sequence

from pipeline import console
from pipeline.batch import journal
from pipeline.batch.launcher import GOES_ON, Launcher
from pipeline.batch.service import Job
from pipeline.batch.store import Folder
from pipeline.bigquery import books
from pipeline.bigquery.worklist import Shard
from pipeline.errors import Interrupted

FIRST_POLL_SECS = 0.25
"""Doubles up to the longest: a small job's end is seen at once, a day's job costs 60 questions an hour."""
_LONGEST_POLL_SECS = 60.0
_MARGIN_SECS = 600.0  # before a deadline: jobs end some minutes after they are cancelled, and a graph starts
_FIRST_ROWS = (
    6  # at the batch's price: three first rows, asked online at twice of it, by which a budget may be overshot
)


@dataclasses.dataclass(frozen=True)
class Part:
    """One file of requests, and so one job."""

    name: str
    shards: tuple[Shard, ...]
    rows: int


class Watch:
    """Sees to the jobs of a round.

    Args:
        launcher: who does it.
        folder: of the round.
        parts: its files of requests.
        online: what the round asks online at the same time, out of the same budget.
    """

    def __init__(self, launcher: Launcher, folder: Folder, parts: Sequence[Part], online: Sequence[Shard]) -> None:
        self._launcher, self._folder, self._online = launcher, folder, online
        self._waiting = collections.deque(parts)
        self._live: dict[str, tuple[Part, Job]] = {}
        self._faults: list[str] = []
        self._recalled = False
        self._told = ""

    def ask(self) -> str | None:
        """Every part asked by a job and collected; else, why not."""
        self._take_up()
        pause = FIRST_POLL_SECS
        while self._waiting or self._live:
            if not self._recalled and self._is_urgent():
                self._recall()
                pause = FIRST_POLL_SECS
            if self._submit():
                pause = FIRST_POLL_SECS
            self._reserve()
            if not self._live and (self._faults or not self._waiting):
                break
            self._tell()
            if self._launcher.stop.wait(pause):
                raise Interrupted(f"interrupted: {GOES_ON}")
            pause = min(2 * pause, _LONGEST_POLL_SECS)
            self._poll()
        return "; ".join(dict.fromkeys(self._faults)) or None

    def _take_up(self) -> None:
        """What the service has of these parts already, whoever submitted it."""
        known = {job.part: job for job in self._launcher.jobs.all()} if self._waiting else {}
        self._recalled = bool(known) and self._is_urgent()  # then it may be a launcher before that has cancelled them
        for part in list(self._waiting):
            name, job = self._name(part), known.get(self._name(part))
            if job is None and name not in self._launcher.collected:
                continue
            self._waiting.remove(part)
            self._launcher.made = True
            if job is not None and name not in self._launcher.collected:
                self._live[job.name] = (part, job)
            elif job is not None:
                self._blame(job)
        if self._recalled and (self._waiting or self._live):
            self._recall()

    def _submit(self) -> bool:
        """Make jobs for the parts that wait, as many as there may be at once; whether there are new ones."""
        made = False
        while self._waiting and not self._faults and len(self._live) < self._launcher.plan.options.batch_jobs:
            if not self._affords():
                self._stop_spending()
                break
            job = self._submitted(self._waiting[0])
            if job is None:
                break
            self._live[job.name] = (self._waiting.popleft(), job)
            made = True
        return made

    def _submitted(self, part: Part) -> Job | None:
        """The part's job, new or not; None while the service takes no more."""
        name, launcher = self._name(part), self._launcher
        job = next((job for job in launcher.jobs.all() if job.part == name), None)
        if job is None:
            job = launcher.jobs.submit(
                name,
                model=launcher.run.config.question.resource,
                requests=f"{self._folder.uri}/{part.name}.jsonl",
                results=self._results(part).uri,
            )
        if job is not None:
            launcher.made = True
            journal.note_made(launcher.run, job)
        return job

    def _poll(self) -> None:
        for name, (part, _) in self._live.items():
            self._live[name] = (part, self._launcher.jobs.get(name))
        ended = [(part, job) for part, job in self._live.values() if job.done]
        if ended:
            self._reserve()  # as each row lands, its part is freed
            self._collect(ended)
        for _, job in ended:
            del self._live[job.name]
            self._blame(job)

    def _collect(self, ended: Sequence[tuple[Part, Job]]) -> None:
        """Put what jobs have done into the tables, by one graph, one job after the other."""
        from pipeline.batch.steps import Collected, build_results

        launcher = self._launcher
        for part, job in ended:
            if job.answered and not self._results(part).results():
                self._faults.append(
                    f"batch job {job.name} says that it has answered {job.answered:,} rows, but {self._results(part).uri} "
                    "holds no line of them: look there before they are asked, and paid, again"
                )
        usd = launcher.plan.usd_batch or 0.0
        jobs = [Collected(part.shards, self._results(part).uri, job.secs, usd) for part, job in ended]
        launcher.graph(lambda pipeline: build_results(pipeline, launcher.run.config, jobs))
        for _, job in ended:
            launcher.collected.add(job.part)
            journal.note_collected(launcher.run, job)

    def _blame(self, job: Job) -> None:
        """Why a run does not go on by itself after this job: what was cancelled or failed would be so again.

        Not at the deadline: what such a job has left is asked online.
        """
        if job.state == "FAILED" and not self._recalled:
            self._faults.append(f"batch job {job.name} failed: {job.error or 'no reason given'}")
        if job.state == "CANCELLED" and not self._recalled:
            self._faults.append(f"batch job {job.name} was cancelled")

    def _is_urgent(self) -> bool:
        """Whether what has no outcome yet must be asked online now to be there by the deadline."""
        secs = self._launcher.secs_left()
        return secs is not None and self._launcher.plan.secs_of(self._rows()) + _MARGIN_SECS >= secs

    def _recall(self) -> None:
        """Take rows back from their jobs; what these have done is kept."""
        self._recalled = True
        self._waiting.clear()
        console.note("the deadline is near: batch jobs are cancelled, and what they have not done is asked online")
        for name, (_, job) in self._live.items():
            if not job.done:
                self._launcher.jobs.cancel(name)

    def _affords(self) -> bool:
        """Whether what is left of the budget pays for one more job, as planned, beside all that is under way."""
        plan, config = self._launcher.plan, self._launcher.run.config
        if plan.options.max_cost_usd is None or plan.usd_batch is None or plan.usd_online is None:
            return True
        spent = books.spent(
            plan.endpoint,
            answers=plan.answers,
            failures=plan.failures,
            fingerprint=plan.fingerprint,
            job=config.job,
        )
        rows = self._waiting[0].rows + self._live_rows() - _FIRST_ROWS
        online = {shard.lo for shard in self._online}
        asked = sum(each.left for each in self._launcher.left() if each.shard.lo in online) if online else 0
        return spent + rows * plan.usd_batch + asked * plan.usd_online <= plan.options.max_cost_usd

    def _stop_spending(self) -> None:
        """Leave the parts without a job; the runs table is told as it is by a worker whose meter stops it."""
        launcher, rows = self._launcher, sum(part.rows for part in self._waiting)
        launcher.over_budget = True
        self._waiting.clear()
        why = f"a batch job for the next of {rows:,} rows would go beyond ${launcher.plan.options.max_cost_usd:g}"
        journal.note_over_budget(launcher.run, why)

    def _reserve(self) -> None:
        """Tell the meter of online calls what the jobs under way will cost."""
        rows = max(0, self._live_rows() - _FIRST_ROWS)
        self._launcher.shared.reserved_usd = rows * (self._launcher.plan.usd_batch or 0.0)

    def _rows(self) -> int:
        """Rows of all parts that are not collected."""
        return self._live_rows() + sum(part.rows for part in self._waiting)

    def _live_rows(self) -> int:
        return sum(part.rows for part, _ in self._live.values())

    def _name(self, part: Part) -> str:
        return f"{self._launcher.run.run_id} {self._folder.uri.rpartition('/')[2]} {part.name}"

    def _results(self, part: Part) -> Folder:
        return self._folder.below(f"results/{part.name}")

    def _tell(self) -> None:
        """Progress, where it has changed."""
        states = collections.Counter(job.state.lower() for _, job in self._live.values())
        words = [f"{count} {state}" for state, count in sorted(states.items())]
        if self._waiting:
            words.append(f"{len(self._waiting)} to submit")
        answered = sum(job.answered for _, job in self._live.values())
        text = f"batch jobs: {', '.join(words)} | {answered:,}/{self._live_rows():,} rows of these answered"
        if text != self._told and not self._launcher.plan.options.quiet:
            console.note(text)
        self._told = text
