"""What the launcher of a batch run has at hand: the run, the service, the graphs, the clock, the interrupt."""

from __future__ import annotations

import dataclasses
import datetime
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pipeline.batch.division import Range, ranges
from pipeline.batch.service import Jobs
from pipeline.bigquery import read
from pipeline.errors import Interrupted
from pipeline.launch import Run
from pipeline.plan import Plan
from pipeline.worker import Worker

if TYPE_CHECKING:
    from apache_beam.options.pipeline_options import PipelineOptions

GOES_ON = "its jobs go on without this process; the same command collects them"


@dataclasses.dataclass
class Launcher:
    """One process that sees to a batch run.

    Attributes:
        shared: this process's worker of the run.
        beam_options: for the graphs.
        deadline: when the answers are wanted, or None.
        stop: set by an interrupt.
        collected: parts whose results are in the tables, by their jobs' display names.
        made: whether the service has a job of this run.
        over_budget: whether jobs were left out as the budget does not pay for them.
    """

    run: Run
    shared: Worker
    jobs: Jobs
    beam_options: PipelineOptions
    deadline: datetime.datetime | None
    stop: threading.Event
    collected: set[str]
    made: bool = False
    over_budget: bool = False

    @property
    def plan(self) -> Plan:
        return self.run.plan

    def graph(self, build: Callable[[Any], None]) -> None:
        """Run a graph to its end.

        Raises:
            Interrupted: the user stopped this process, and so, perhaps, the graph.
        """
        import apache_beam as beam

        pipeline = beam.Pipeline(options=self.beam_options)
        build(pipeline)
        result: Any = pipeline.run()
        result.wait_until_finish()
        if self.stop.is_set():
            raise Interrupted(f"interrupted: {GOES_ON}")

    def left(self) -> list[Range]:
        """The shards of the worklist, with how many rows of each have no outcome yet."""
        config = self.run.config
        found = read.rows_left(
            config.bigquery,
            config.tables.worklist,
            answers=config.tables.answers,
            failures=config.tables.failures,
            run_id=config.run_id,
            since=config.started_at,
            job=config.job,
        )
        return ranges(self.run.shards, found)

    def secs_left(self) -> float | None:
        """Seconds until the deadline, or None without one."""
        now = datetime.datetime.now(datetime.UTC)
        return None if self.deadline is None else (self.deadline - now).total_seconds()
