"""What is measured: one contender at a time, under a latency, a quota or a load; each function returns a line."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Sequence
from typing import Any

from benchmarks import measure
from benchmarks.contenders.question import PROJECT
from benchmarks.services import DATASET, Child, Services, run_child
from pipeline.local.vertex import LoggedCall, Settings

ONE_SECOND: dict[str, Any] = {"latency_secs": 1.0}
LONG_TAIL: dict[str, Any] = {"latency_secs": 1.0, "latency_p99_secs": 30.0}
QUOTA_PER_SEC = 50.0
FIRST_CALLS = 10
"""A contender runs when it has made so many calls (or as many as it has threads): the launcher's trial call is none."""
_COMMON: dict[str, Any] = {"answers": "fixed", "check_tokens": True}


@dataclasses.dataclass(frozen=True)
class Contender:
    """Whom we run, and how many calls it may have in flight in one process."""

    letter: str
    name: str
    module: str
    window: int

    @property
    def first_calls(self) -> int:
        return min(FIRST_CALLS, self.window)


SEQUENTIAL = Contender("a", "sequential loop on google-genai", "sequential", 1)
RUN_INFERENCE = Contender("b", "Beam RunInference + GeminiModelHandler", "run_inference", 64)
THREAD_POOL = Contender("c", "DoFn with 64 threads on google-genai", "thread_pool", 64)
PIPELINE = Contender("d", "this pipeline", "", 500)
BARE_GRPC = Contender("floor", "bare gRPC calls, no pipeline", "bare_grpc", 500)


def measure_speed(
    found: Services, who: Contender, latency: dict[str, Any], *, rows: int, secs: float | None
) -> dict[str, Any]:
    """Images a second, share of the ceiling, CPU and memory of one contender.

    Args:
        found: the services.
        who: the contender.
        latency: settings of the stand-in.
        rows: images that it is given.
        secs: it is ended so long after its first calls, if it has not ended by itself; None waits.
    """
    found.vertex.reset(**_COMMON, **latency)
    child, table = _run(found, who, rows=rows, secs=secs)
    calls = found.vertex.log()
    state = measure.steady(calls, who.window)
    ceiling = who.window / Settings(**latency).mean_latency_secs
    line = line_of(who, child, state) | {
        "ceiling_images_per_sec": ceiling,
        "share_of_ceiling": state.busy / who.window if latency is LONG_TAIL else state.images_per_sec / ceiling,
    }
    return line | (_books(found, table, rows, log=calls) if table else {})


def measure_quota(
    found: Services, who: Contender, processes: int, *, secs: float, settle_secs: float
) -> dict[str, Any]:
    """Share of a quota of 50 requests/s that one contender uses, and share of its calls that is rejected."""
    found.vertex.reset(**_COMMON, **ONE_SECOND, requests_per_sec=QUOTA_PER_SEC)
    rows = int(QUOTA_PER_SEC * secs * 1.2)
    child, table = _run(found, who, rows=rows, secs=secs, processes=processes)
    calls = found.vertex.log()
    state = measure.steady(calls, who.window * processes, first_calls=FIRST_CALLS, settle_secs=settle_secs)
    line = line_of(who, child, state) | {
        "processes": processes,
        "share_of_quota_used": state.images_per_sec / QUOTA_PER_SEC,
        "share_rejected": state.rejected,
    }
    return line | (_books(found, table, rows, log=calls) if table else {})


def measure_bulk(found: Services, rows: int, latency_secs: float) -> dict[str, Any]:
    """Memory of the pipeline over many rows, and what became of each row."""
    found.vertex.reset(**_COMMON, latency_secs=latency_secs)
    child, table = _run(found, PIPELINE, rows=rows, secs=None)
    calls = found.vertex.log()
    state = measure.steady(calls, PIPELINE.window, settle_secs=0.0)
    landed = sorted(call.started_at + call.secs for call in calls)
    half = landed[len(landed) // 2]
    first, second = child.watch.peak_mb(state.begin, half), child.watch.peak_mb(half, state.end)
    line = line_of(PIPELINE, child, state) | {"peak_rss_first_half_mb": first, "peak_rss_second_half_mb": second}
    return line | _books(found, table, rows, log=calls)


def measure_batching(found: Services, rows: int) -> dict[str, Any]:
    """What RunInference's default batching makes of rows."""
    found.vertex.reset(**_COMMON, latency_secs=0.02)
    command = ["benchmarks.contenders", "run_inference", f"--rows={rows}", "--default_batching"]
    child = run_child(found, [command])
    printed: dict[str, int] = {}
    for text in re.findall(r"^\{.*\}$", child.output, re.MULTILINE):
        printed |= json.loads(text)
    return {"rows_in": rows, "rows_out": printed.get("out", 0), "calls_paid": found.vertex.stats()["paid_calls"]}


def _run(found: Services, who: Contender, *, rows: int, secs: float | None, processes: int = 1) -> tuple[Child, str]:
    """Runs a contender; also returns its table of answers, if it has one."""
    if who is PIPELINE:
        table = f"{PROJECT}.{DATASET}.answers_{found.next_number()}"
        flags = [
            f"--output_table={table}",
            f"--max_in_flight={who.window}",
            *flags_of(found, found.bulk_table(rows), rows),
        ]
        if processes > 1:
            flags += [f"--direct_num_workers={processes}", "--direct_running_mode=multi_processing"]
        command = ["pipeline", "classify", *flags]
        return run_child(found, [command], secs=secs, first_calls=who.first_calls, interrupt=True), table
    command = ["benchmarks.contenders", who.module, f"--window={who.window}"]
    if who is BARE_GRPC:
        command.append(f"--endpoint={found.vertex.endpoint.removeprefix('https://')}")
    if who is RUN_INFERENCE and processes > 1:
        # DirectRunner has either threads or processes: so it is two jobs with threads, half the rows for each.
        part = rows // processes
        commands = [[*command, f"--rows={part}", f"--first={1 + part * number}"] for number in range(processes)]
        return run_child(found, commands, secs=secs, first_calls=who.first_calls), ""
    command += [f"--rows={rows}", f"--processes={processes}"]
    return run_child(found, [command], secs=secs, first_calls=who.first_calls), ""


def flags_of(found: Services, table: str, rows: int) -> list[str]:
    """The pipeline's flags for so many rows of a table."""
    return [
        f"--project={PROJECT}",
        f"--input_table={table}",
        f"--limit={rows}",
        "--task=road_signs",
        f"--vertex_endpoint={found.vertex.endpoint}",
        f"--bigquery_endpoint={found.bigquery.rest}",
        f"--bigquery_storage_endpoint={found.bigquery.storage}",
    ]


def line_of(who: Contender, child: Child, state: measure.Steady) -> dict[str, Any]:
    """What was measured of a contender in steady state."""
    cpu_secs = child.watch.cpu_at(state.end) - child.watch.cpu_at(state.begin)
    return {
        "contender": f"({who.letter}) {who.name}" if len(who.letter) == 1 else who.name,
        "window": who.window,
        "steady_secs": state.secs,
        "images": state.answered,
        "images_per_sec": state.images_per_sec,
        "mean_in_flight": state.busy,
        "mean_latency_secs": state.mean_latency_secs,
        "cpu_ms_per_image": 1e3 * cpu_secs / max(1, state.answered),
        "peak_rss_mb": child.watch.peak_mb(),
        "stood_still_secs": child.watch.stood_still_secs,
    }


def _books(found: Services, table: str, rows: int, *, log: Sequence[LoggedCall]) -> dict[str, Any]:
    """What SQL says of a run: rows lost are those answered by the service, or asked for, that are in no table."""
    name = "`" + table.replace(".", "`.`") + "`"
    failures = name[:-1] + "_failures`"
    books = found.row(
        f"SELECT COUNT(*) AS answer_rows, COUNT(DISTINCT key) AS answered,\n"
        f"  (SELECT COUNT(DISTINCT key) FROM {failures}) AS failed FROM {name}"
    )
    answered, failed = int(books["answered"]), int(books["failed"])
    # An interrupted run is judged by the images that were answered, however often; a finished one by its rows.
    whole = min(rows, len({call.uris for call in log if call.status == "OK"}))
    return {
        "rows": rows,
        "rows_answered": answered,
        "rows_failed": failed,
        "rows_lost": max(0, whole - answered - failed),
        "rows_doubled": int(books["answer_rows"]) - answered,
    }
