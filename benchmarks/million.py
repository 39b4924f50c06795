"""A worklist of a million rows on the emulator: how long each step takes, and that its memory does not grow with the rows.

`make million` fills an input with copies of keys in it and a table with answers to some, and then runs what a launcher and
a worker run: the plan, the worklist with its anti-join, the same under a limit, the shards, each shard's rows with the look
at what the run has written. All rows must be there once, and the peak memory of the client must stay where it was after
the first query. Last comes the command itself, on a limit of the same input.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import itertools
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.books_rig import Rig, services
from benchmarks.measure import Watch
from pipeline import launch, options, planning, worker
from pipeline.bigquery import read, tables, worklist
from pipeline.bigquery.names import TableName

MOST_GROWTH_MB = 100.0
_OLD_RUN = "before"
_SINCE = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)


@dataclasses.dataclass(frozen=True)
class Size:
    """Rows of the input, how many of them are older copies of other rows' keys, and how many keys have an answer."""

    rows: int
    copies: int
    answered: int

    @property
    def keys(self) -> int:
        return self.rows - self.copies

    @property
    def to_ask(self) -> int:
        return self.keys - self.answered


def fill(rig: Rig, size: Size) -> None:
    """Makes input and answers, in the emulator itself: no row passes through here."""
    key = f"FORMAT('o1:%012d', MOD(n, {size.keys}))"
    rig.sql(
        f"CREATE TABLE `{{input}}` AS SELECT {key} AS observation_id, 'ASSET_CLASS_ROAD_SIGN' AS asset_type, "
        f"FORMAT('a1:%012d', DIV(n, 3)) AS asset_id, 's1' AS snapshot_id, "
        f"CONCAT('gs://geoai_published_1__us/s1/v0/', {key}, '.jpg') AS gcs_uri, "
        f"CONCAT('https://www.google.com/maps/@?api=1&map_action=pano&pano=', {key}) AS map_url, "
        f"TIMESTAMP_ADD(TIMESTAMP '2026-01-01', INTERVAL n SECOND) AS capture_time\n"
        f"FROM UNNEST(GENERATE_ARRAY(0, {size.rows - 1})) AS n"
    )
    plan = planning.make(options.parse(rig.argv("plan")[1:])[0])
    name = TableName.parse(rig.output)
    tables.ensure_table(rig.endpoint, name, plan.answer_columns, partition_by="classified_at")
    rig.sql(
        "INSERT INTO `{answers}` (key, gcs_uri, task, fingerprint, classification, run_id, classified_at) "
        f"SELECT observation_id, gcs_uri, 'describe', '{plan.fingerprint}', 'A road sign.', '{_OLD_RUN}', "
        f"TIMESTAMP '2026-02-01' FROM `{{input}}` WHERE capture_time < TIMESTAMP_ADD(TIMESTAMP '2026-01-01', "
        f"INTERVAL {size.answered} SECOND)"
    )


class Steps:
    """Times steps of this process, with its peak memory so far; prints each as a line of JSON."""

    def __init__(self) -> None:
        self._began = time.monotonic()

    def note(self, step: str, found: str) -> None:
        """The step that ends here."""
        now = time.monotonic()
        line = {"step": step, "secs": round(now - self._began, 2), "peak_mb": peak_mb(), "found": found}
        print(json.dumps(line), flush=True)
        self._began = time.monotonic()


def peak_mb() -> float:
    """This process's peak of resident memory; of children, `ru_maxrss` would be the parent's where that is more."""
    lines = Path("/proc/self/status").read_text("ascii").splitlines()
    return round(int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024, 1)


def steps(argv: Sequence[str], shards_to_read: int) -> None:
    """What a launcher and one worker do, step by step; in a process of its own.

    Args:
        argv: the flags of `classify`.
        shards_to_read: so many are read; all would take the emulator, which plans each query for a second, minutes.
    """
    clock = Steps()
    plan = planning.make(options.parse([*argv, "--limit=1"])[0])
    clock.note("imports and the first query", f"{plan.rows} row to ask")
    plan = planning.make(options.parse([*argv, "--max_cost_usd=1000000"])[0])
    count = plan.count
    clock.note("plan", f"{count.keys:,} keys, {count.already_answered:,} answered, {count.new:,} new")
    run = launch.prepare(plan, processes=1)
    clock.note("worklist with anti-join, tables, views, runs table", f"{run.rows:,} rows, {len(run.shards)} shards")
    sizes = [shard.rows for shard in worklist.shards(plan.endpoint, run.config.tables.worklist, launch.ROWS_PER_SHARD)]
    clock.note("shards again", f"{min(sizes):,} to {max(sizes):,} rows")
    half = dataclasses.replace(plan, affordable=plan.rows // 2)
    buckets = worklist.bucket_count(half.worklist_rows)
    name = TableName.parse(f"{plan.answers}_half")
    retry = worklist.RetryFailed.RETRYABLE
    made = worklist.create(plan.endpoint, name, plan.source, plan.done, retry=retry, limit=half.limit, buckets=buckets)
    clock.note("worklist cut to half by a budget", f"{made.rows:,} rows")
    tables_, shard = run.config.tables, run.shards[0]
    read.keys_written(
        plan.endpoint,
        tables_.worklist,
        shard,
        answers=tables_.answers,
        failures=tables_.failures,
        run_id=_OLD_RUN,
        since=_SINCE,
    )
    clock.note("one shard's look at what is written", f"among {count.already_answered:,} answers")
    shared = worker.acquire(run.config)
    rows = sum(1 for shard in run.shards[:shards_to_read] for _ in shared.read_shard(shard))
    clock.note(f"{min(shards_to_read, len(run.shards))} shards, looked at and read", f"{rows:,} rows")
    keys: set[str] = set()
    for row in itertools.chain.from_iterable(
        read.read_shard(plan.endpoint, tables_.worklist, shard, run.config.worklist_columns) for shard in run.shards
    ):
        keys.add(row.key)
    print(json.dumps({"keys": len(keys), "shard_rows": sum(sizes), "half": made.rows, "rows": run.rows}), flush=True)
    clock.note("all shards, read", f"{len(keys):,} keys")


def main() -> int:
    """Measures; the exit code is 1 where rows are missing or memory has grown."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--copies", type=int, default=50_000)
    parser.add_argument("--answered", type=int, default=400_000)
    parser.add_argument("--shards", type=int, default=20, help="shards that are read as a worker reads them")
    parser.add_argument("--classify", type=int, default=10_000, help="rows that the command itself is given")
    parser.add_argument("--steps", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.steps:
        steps(json.loads(given.steps), given.shards)
        return 0
    size = Size(given.rows, given.copies, given.answered)
    print(f"{size.rows:,} rows, {platform.platform()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    problems: list[str] = []
    with tempfile.TemporaryDirectory(prefix="million-") as folder, services(Path(folder), answers="fixed") as found:
        rig = Rig(*found, f"{found[0].project}.million")
        began = time.monotonic()
        fill(rig, size)
        show("the emulator fills its tables", time.monotonic() - began, None, "")
        words = rig.argv("classify")
        code, lines, _ = child(
            ["-m", "benchmarks.million", f"--shards={given.shards}", f"--steps={json.dumps(words[1:])}"]
        )
        problems += _faults(code, [json.loads(line) for line in lines], size)
        for command, more in (("plan", ()), ("classify", (f"--limit={given.classify}", "--quiet"))):
            began = time.monotonic()
            code, lines, peak = child(["-m", "pipeline", *rig.argv(command), *more, "--max_cost_usd=1000000"])
            said = lines[-1] if command == "classify" and lines else ""
            show(f"python -m pipeline {' '.join((command, *more[:1]))}", time.monotonic() - began, peak, said)
            problems += [f"{command} ended with {code}"] if code else []
    for problem in problems:
        print(f"  PROBLEM: {problem}")
    return 1 if problems else 0


def _faults(code: int, lines: Sequence[dict[str, Any]], size: Size) -> list[str]:
    """What is wrong with the steps' figures."""
    timed = [line for line in lines if "step" in line]
    for line in timed:
        show(line["step"], line["secs"], line["peak_mb"], line["found"])
    if code:
        return [f"the steps ended with {code}"]
    found = next(line for line in lines if "keys" in line)
    right = {"keys": size.to_ask, "shard_rows": size.to_ask, "half": size.to_ask // 2, "rows": size.to_ask}
    faults = [] if found == right else [f"not every row is there once: {found}, not {right}"]
    grown = timed[-2]["peak_mb"] - timed[0]["peak_mb"]  # the last step keeps all keys, to count them
    return faults if grown <= MOST_GROWTH_MB else [*faults, f"memory has grown by {grown:.0f} MB"]


def child(words: Sequence[str]) -> tuple[int, list[str], float]:
    """Runs Python with these words: (exit code, lines of stdout, peak memory in MB)."""
    process = subprocess.Popen([sys.executable, *words], stdout=subprocess.PIPE, text=True, start_new_session=True)
    watch = Watch([process.pid])
    out, _ = process.communicate()
    watch.stop()
    return process.returncode, out.splitlines(), watch.peak_mb()


def show(step: str, secs: float, megabytes: float | None, found: str) -> None:
    """A line of the table."""
    peak = "" if megabytes is None else f"{megabytes:,.0f} MB"
    print(f"{step:<54}{secs:>8.1f} s{peak:>10}   {found}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
