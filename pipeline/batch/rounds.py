"""The rounds of a batch run: requests written, asked by jobs, and collected, until no row is left without an outcome.

Each round is divided anew, as --mode says of what is left by then: --mode=auto asks online what batch jobs would be late
for, and what is too little for a job.
"""

from __future__ import annotations

import contextlib
import itertools
import re
import threading
from collections.abc import Iterator, Sequence

from pipeline import console, ways, worker
from pipeline.batch.division import Round, divide
from pipeline.batch.launcher import Launcher
from pipeline.batch.store import Folder
from pipeline.batch.watch import Part, Watch
from pipeline.bigquery.worklist import Shard
from pipeline.progress import Progress

_BATCH_ROUNDS = 3
_GRACE_SECS = 5.0  # for calls in flight, where the jobs cannot be seen to
_EXIT_SECS = 9.5  # for a graph that hangs, once it was told to end


class Rounds:
    """The rounds of a run.

    Args:
        launcher: who sees to them.
        folder: of the run.
    """

    def __init__(self, launcher: Launcher, folder: Folder) -> None:
        self._launcher, self._folder = launcher, folder

    def ask(self) -> str | None:
        """Ask until every row has its outcome, or the budget is used up; else, why not."""
        if not self._launcher.run.rows:
            return None
        written = (re.match(r"r(\d+)/", name) for name in self._folder.names())
        first = max((int(found[1]) for found in written if found), default=1)
        for number in itertools.count(first):
            folder = self._folder.below(f"r{number}")
            asked = self._divided(folder, number)
            if not (asked.online or asked.files):
                break
            if number > (_BATCH_ROUNDS if asked.files else _BATCH_ROUNDS + 1):
                return f"rows are without an outcome after {_BATCH_ROUNDS} rounds of batch jobs"
            reason = self._asked(folder, number, asked)
            if reason or self._launcher.over_budget or self._launcher.shared.stopped:
                return reason
        return None

    def _divided(self, folder: Folder, number: int) -> Round:
        """What a round asks: as a launcher before has written it down, else of what is left."""
        if "round.json" in folder.names():
            return Round.from_json(folder.read_json("round.json"))
        launcher, options = self._launcher, self._launcher.plan.options
        left = launcher.left()
        rows, secs = sum(each.left for each in left), launcher.secs_left()
        hours = None if secs is None else secs / 3600
        if number == 1:  # as planned: some seconds have passed since, and the first row is answered
            rows, hours = launcher.run.rows, options.deadline_hours
        parts = ways.split(options, rows, hours)
        online = parts.online if parts.batch else rows
        found = divide(left, online, options.batch_requests, ways.jobs_in_time(options, hours))
        if found.online or found.files:
            folder.write_json("round.json", found.as_json())
        return found

    def _asked(self, folder: Folder, number: int, asked: Round) -> str | None:
        """All of a round asked, by both ways at once; else, why not."""
        with self._online(asked):
            parts = self._written(folder, number, asked)
            return Watch(self._launcher, folder, parts, asked.online).ask()

    @contextlib.contextmanager
    def _online(self, asked: Round) -> Iterator[None]:
        """While the block lasts, and after it until all is asked, the graph of every online run asks what is online's."""
        if not asked.online:
            yield
            return
        errors: list[BaseException] = []
        launcher = self._launcher

        def ask() -> None:
            try:
                self._ask_online(asked.online)
            except BaseException as error:  # noqa: BLE001 - raised again below, when the jobs are done too
                errors.append(error)
                if not launcher.stop.is_set():
                    console.note(
                        f"what is asked online has ended early; batch jobs are waited for ({type(error).__name__})"
                    )

        thread = threading.Thread(target=ask, name="asked online", daemon=True)
        thread.start()
        try:
            yield
        except BaseException:
            worker.stop_all("the batch jobs of the run cannot be seen to", _GRACE_SECS)
            thread.join(_EXIT_SECS)
            raise
        while thread.is_alive() and not launcher.stop.is_set():
            thread.join(1.0)
        thread.join(_EXIT_SECS)
        if errors:
            raise errors[0]

    def _ask_online(self, shards: Sequence[Shard]) -> None:
        from pipeline import graph

        run, quiet = self._launcher.run, self._launcher.plan.options.quiet
        with contextlib.nullcontext() if quiet else Progress(self._launcher.shared.snapshot, run.rows):
            self._launcher.graph(lambda pipeline: graph.build(pipeline, run.config, list(shards)))

    def _written(self, folder: Folder, number: int, asked: Round) -> list[Part]:
        """The parts of a round, written where no launcher before has done so."""
        from pipeline.batch.steps import File, build_requests

        if not asked.files:
            return []
        there, launcher = set(folder.names()), self._launcher
        most = launcher.plan.options.batch_requests
        files = [File(f"{index:05d}", shards, most) for index, shards in enumerate(asked.files)]
        missing = [file for file in files if f"{file.name}.json" not in there]
        if missing:
            console.note(f"round {number}: writing requests to {folder.uri}")
            launcher.graph(lambda pipeline: build_requests(pipeline, launcher.run.config, missing, folder))
        notes = [(file, folder.read_json(f"{file.name}.json")) for file in files]
        return [Part(part["name"], file.shards, part["rows"]) for file, note in notes for part in note["parts"]]
