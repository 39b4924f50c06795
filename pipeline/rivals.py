"""Other runs of the same question: two at once would pay for the same rows twice, so the second is refused."""

from __future__ import annotations

import datetime
import enum
import os
import socket
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.bigquery import books
from pipeline.bigquery.client import Endpoint
from pipeline.bigquery.names import TableName
from pipeline.bigquery.query import Job
from pipeline.errors import ConfigError
from pipeline.plan import Plan

SILENT_SECS = 600.0
"""A run that lives elsewhere and wrote nothing for so long is taken for dead."""


class Life(enum.StrEnum):
    """What is known of a run that has no end in the runs table."""

    ALIVE = "alive"
    SILENT = "silent"
    DEAD = "dead"


def launcher() -> Mapping[str, Any]:
    """Where this process lives, so that a later one on the same machine can tell whether it still does."""
    pid = os.getpid()
    return {"host": socket.gethostname(), "boot": _boot_id(), "pid": pid, "started": _started(pid)}


def life(plan: Plan, line: Mapping[str, Any]) -> Life:
    """Whether a run that has not ended goes on.

    Where its launcher was on this machine and waited for the end itself, its process tells; a Dataflow job outlives its
    launcher, and of another machine nothing is known, so there the last row that it wrote tells.

    Args:
        plan: where the tables are.
        line: the one that the run started with.
    """
    return life_of(plan.endpoint, plan.answers, plan.failures, line, plan.query_job())


def life_of(
    endpoint: Endpoint,
    answers: TableName,
    failures: TableName,
    line: Mapping[str, Any],
    job: Job | None = None,
) -> Life:
    """As `life`, where there is no plan."""
    options = line.get("options") or {}
    origin = options.get("launcher") or {}
    on_dataflow = "dataflow" in str(options.get("runner", "")).lower()
    if not on_dataflow and origin.get("host") == socket.gethostname() and origin.get("boot") == _boot_id():
        started = _started(int(origin.get("pid", 0)))
        return Life.ALIVE if started and started == origin.get("started") else Life.DEAD
    last = books.last_sign_of_life(endpoint, answers, failures, run_id=line["run_id"], since=line["at"], job=job)
    silent = datetime.datetime.now(datetime.UTC) - (last or line["at"])
    return Life.ALIVE if silent.total_seconds() < SILENT_SECS else Life.SILENT


def refuse(plan: Plan, *, besides: str = "", before: datetime.datetime | None = None) -> None:
    """Refuses to go on while another run of this fingerprint may be alive.

    Args:
        plan: what this run asks, and where.
        besides: this run's own id, once it stands in the runs table.
        before: only runs that stood there before this time count.

    Raises:
        ConfigError: there is one; the message names it.
    """
    for line in books.open_runs(plan.endpoint, plan.runs, plan.fingerprint, plan.query_job()):
        if line["run_id"] == besides or (before is not None and line["at"] >= before):
            continue
        if life(plan, line) is Life.ALIVE:
            raise ConfigError(
                f"run {line['run_id']} of the same question started at {line['at']:%Y-%m-%d %H:%M} UTC and has not ended: "
                f"wait for it, stop it, or, where it is over, write its end with `python -m pipeline audit "
                f"--run_id={line['run_id']}`; --allow_concurrent_runs starts anyway (rows that both ask are paid twice)"
            )


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    except OSError:
        return ""  # not Linux: the host's name has to do


def _started(pid: int) -> str:
    """When a process started, as its system says it; empty where there is none. A pid alone may be somebody else's by now."""
    if not pid:
        return ""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text("ascii", "replace").rpartition(")")[2].split()
        return "" if fields[0] in "ZX" else fields[19]  # dead, but nobody has looked at it yet
    except OSError:
        if Path("/proc/self/stat").exists():
            return ""
    found = subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)  # noqa: S603, S607
    return found.stdout.strip()
