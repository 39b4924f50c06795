"""Batch files as large as a job may have them, written and read by the real command: `make batch-bulk`.

One launcher writes the requests and is stopped when the service has all its jobs; another one collects the results. Each is a
process of its own, whose time and peak memory are measured, and the books are read by SQL. All of it on loopback: what is
measured is this program's own work, not Google's.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.books_rig import FAST_START, Child, Rig, services
from pipeline.local.batch import BatchStandIn, Behaviour
from pipeline.local.storage import Storage

MAX_MB = 1_000.0  # of a file, and of a launcher's memory
_ANSWER = {
    "candidates": [
        {
            "content": {
                "parts": [{"text": json.dumps({"sign_type": "stop", "condition": "good", "legible_text": "STOP"})}]
            },
            "finishReason": "STOP",
        }
    ],
    "usageMetadata": {"promptTokenCount": 1000, "candidatesTokenCount": 20, "totalTokenCount": 1020},
}


def measure(
    rig: Rig, storage: Storage, service: BatchStandIn, *, rows: int, requests: int, prompt_chars: int
) -> dict[str, Any]:
    """Write and read so many rows.

    Args:
        rig: whose Vertex AI stand-in answers any image.
        storage: with a bucket `bulk`.
        service: the batch service.
        rows: of the worklist.
        requests: of a file at most.
        prompt_chars: length of the prompt, which each request repeats; it makes files large.

    Returns:
        Figures by name; `problems` is a list of what is wrong.
    """
    flags = [
        "--mode=batch",
        f"--batch_folder=gs://bulk/{rig.dataset}",
        f"--batch_requests={requests}",
        f"--limit={rows}",
        "--task=road_signs",
        f"--prompt={'Which sign is it? '.ljust(prompt_chars, '.')}",
        f"--vertex_endpoint={service.endpoint}",
    ]
    argv = rig.fill(rows).argv("classify", *flags)
    service.behaviour = Behaviour(hold=True, answer=_ANSWER)

    began = time.monotonic()
    child, peak = Child(argv, FAST_START, storage.environment), 0.0
    while (written := sum(_rows(storage, job) for job in service.jobs)) < rows - 1:  # one is the first, asked online
        peak = _peak_mb(child, peak)
        child.join(0.1)
        if not child.is_alive():
            raise RuntimeError(f"{written:,} of {rows:,} rows in jobs: {child.wait().err}")
    wrote_secs, wrote_mb = time.monotonic() - began, _peak_mb(child, peak)
    child.send(signal.SIGTERM)
    child.wait()
    sizes = [len(_requests(storage, job)) / 1e6 for job in service.jobs]

    service.finish()
    began = time.monotonic()
    child, peak = Child(argv, FAST_START, storage.environment), 0.0
    while child.is_alive():
        peak = _peak_mb(child, peak)
        child.join(0.1)
    ended = child.wait()
    read_secs = time.monotonic() - began
    place = rig.place()

    problems = [] if ended.code == 0 else [f"exit code {ended.code}: {ended.err[-500:]}"]
    if place != {"input_rows": rows, "answered": rows, "doubled": 0, "failed": 0, "nowhere": 0}:
        problems.append(f"rows are where they should not be: {place}")
    problems += [f"{what} of {mb:,.0f} MB" for what, mb in (("a file", max(sizes)), ("memory", peak)) if mb > MAX_MB]
    return {
        "rows": rows,
        "files": len(sizes),
        "largest_file_mb": round(max(sizes), 1),
        "write_secs": round(wrote_secs, 1),
        "write_peak_mb": round(wrote_mb),
        "read_secs": round(read_secs, 1),
        "read_peak_mb": round(peak),
        "problems": problems,
    }


def _requests(storage: Storage, job: Any) -> bytes:
    bucket, _, name = job.input_config.gcs_source.uris[0].removeprefix("gs://").partition("/")
    return storage.read(bucket, name)


def _rows(storage: Storage, job: Any) -> int:
    """Rows of a job, as the note beside its file says."""
    uri = job.input_config.gcs_source.uris[0].removeprefix("gs://")
    bucket, _, name = uri.partition("/")
    part = Path(name).stem
    note = json.loads(storage.read(bucket, f"{name.rpartition('-')[0]}.json"))
    return int(next(each["rows"] for each in note["parts"] if each["name"] == part))


def _peak_mb(child: Child, before: float) -> float:
    """The largest resident memory of a process so far, in MB; what was known before, where it has ended."""
    try:
        status = Path(f"/proc/{child.pid}/status").read_text("ascii")
    except OSError:
        return before
    found = [line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")]
    return max(before, int(found[0]) / 1024) if found else before


def main(argv: list[str] | None = None) -> int:
    """Measure, print, and check."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.batch_bulk", description=__doc__, allow_abbrev=False)
    parser.add_argument("--rows", type=int, default=200_001, help="of the worklist; the first one is asked online")
    parser.add_argument("--requests", type=int, default=200_000, help="of a file at most")
    parser.add_argument("--prompt_chars", type=int, default=500, help="length of the prompt")
    given = parser.parse_args(argv)
    with (
        Storage("bulk") as storage,
        services(answers="fixed") as (bigquery, vertex),
        BatchStandIn(vertex, storage) as service,
    ):
        rig = Rig(bigquery, vertex, f"{bigquery.project}.bulk")
        found = measure(
            rig, storage, service, rows=given.rows, requests=given.requests, prompt_chars=given.prompt_chars
        )
    print(json.dumps(found, indent=2))
    return 1 if found["problems"] else 0


if __name__ == "__main__":
    sys.exit(main())
