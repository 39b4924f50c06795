"""`python -m benchmarks`: measures everything, prints the table, writes it beside its JSON."""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import inline, report, scenarios
from benchmarks.scenarios import (
    BARE_GRPC,
    LONG_TAIL,
    ONE_SECOND,
    PIPELINE,
    RUN_INFERENCE,
    SEQUENTIAL,
    THREAD_POOL,
    Contender,
)
from benchmarks.services import Services, services

PARTS = ("one_second", "long_tail", "batching", "quota", "bulk", "inline")
CONTENDERS = ("a", "b", "c", "d", "floor")
STOOD_STILL_SECS = 2.0
"""Beyond that a line says more of the machine than of the contender."""
_HERE = Path(__file__).parent


@dataclasses.dataclass(frozen=True)
class Size:
    """How much is measured; `secs` count from a contender's first calls, its ramp included."""

    rows: int  # of the pipeline at 1 s
    secs: float  # of the others
    tail_secs: float
    quota_secs: float
    settle_secs: float
    quota_processes: tuple[int, ...]
    with_others: bool
    bulk_rows: int
    inline_rows: tuple[int, int] = (0, 0)  # frames of 20 megapixels, small images


FULL = Size(18_000, 20, 55, 40, 12, (1, 2), with_others=True, bulk_rows=200_000, inline_rows=(300, 6_000))
QUICK = Size(5_000, 6, 0, 18, 8, (1,), with_others=False, bulk_rows=0, inline_rows=(80, 3_000))
TINY = Size(1_500, 3, 0, 0, 0, (), with_others=False, bulk_rows=0)


def measure(
    found: Services, size: Size, parts: Collection[str], only: Collection[str], say: Callable[[str], None]
) -> dict[str, Any]:
    """Runs the parts, one contender after the other."""

    def chosen(*contenders: Contender) -> list[Contender]:
        return [who for who in contenders if who.letter in only]

    def measured(what: str, line: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """A line; measured once more where a virtual machine was paused meanwhile."""
        say(what)
        found = line()
        if found["stood_still_secs"] > STOOD_STILL_SECS:
            say(f"the machine stood still for {found['stood_still_secs']:.1f} s: once more")
            found = line()
        return found

    result: dict[str, Any] = {}
    if "one_second" in parts:
        result["one_second"] = []
        for who in chosen(SEQUENTIAL, RUN_INFERENCE, THREAD_POOL, PIPELINE, BARE_GRPC):
            # The others are given more rows than they can ask, and ended; the pipeline and the floor end by themselves.
            by_itself = who in (PIPELINE, BARE_GRPC)
            rows = size.rows if by_itself else int(who.window * size.secs * 1.5)
            secs = None if by_itself else size.secs
            speed = partial(scenarios.measure_speed, found, who, ONE_SECOND, rows=rows, secs=secs)
            result["one_second"].append(measured(f"1 s latency: {who.name}", speed))
    if "long_tail" in parts and size.tail_secs:
        result["long_tail"] = []
        for who in chosen(SEQUENTIAL, RUN_INFERENCE, THREAD_POOL, PIPELINE):
            secs = size.tail_secs / 2 if who is SEQUENTIAL else size.tail_secs
            speed = partial(scenarios.measure_speed, found, who, LONG_TAIL, rows=int(who.window * secs), secs=secs)
            result["long_tail"].append(measured(f"long tail: {who.name}", speed))
    if "batching" in parts and size.with_others:
        say("RunInference with its default batching")
        result["batching"] = scenarios.measure_batching(found, 500)
    if "quota" in parts and size.quota_secs:
        result["quota"] = []
        for who in chosen(RUN_INFERENCE, THREAD_POOL, PIPELINE) if size.with_others else chosen(PIPELINE):
            for processes in size.quota_processes:
                what = f"quota of 50 requests/s, {processes} process(es): {who.name}"
                used = partial(
                    scenarios.measure_quota, found, who, processes, secs=size.quota_secs, settle_secs=size.settle_secs
                )
                result["quota"].append(measured(what, used))
    if "bulk" in parts and size.bulk_rows:
        bulk = partial(scenarios.measure_bulk, found, size.bulk_rows, latency_secs=0.05)
        result["bulk"] = measured(f"{size.bulk_rows:,} rows", bulk)
    if "inline" in parts and all(size.inline_rows):
        result["inline"] = [
            measured(f"images {way.name}", partial(inline.measure_inline, found, way))
            for way in inline.ways(*size.inline_rows)
        ]
    return result


def main() -> int:
    """Returns 0; 1 when a bar was missed and --check was given."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__, allow_abbrev=False)
    parser.add_argument("--quick", action="store_true", help="two minutes, for a look; its figures are rough")
    parser.add_argument("--tiny", action="store_true", help="half a minute, for the test that it works at all")
    parser.add_argument("--parts", default=",".join(PARTS), help=f"comma-separated, of {', '.join(PARTS)}")
    parser.add_argument("--only", default=",".join(CONTENDERS), help=f"comma-separated, of {', '.join(CONTENDERS)}")
    parser.add_argument("--out", type=Path, help="results.json and results.md go here")
    parser.add_argument("--check", action="store_true", help="exit with 1 when a bar is missed")
    arguments = parser.parse_args()
    parts, only = arguments.parts.split(","), arguments.only.split(",")
    if unknown := {*parts, *only} - {*PARTS, *CONTENDERS}:
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    size = TINY if arguments.tiny else QUICK if arguments.quick else FULL
    folder = arguments.out or (
        _HERE if size is FULL and len(parts + only) == len(PARTS + CONTENDERS) else Path(".local") / "bench"
    )
    began = time.monotonic()

    def say(text: str) -> None:
        print(f"{time.monotonic() - began:4.0f} s  {text}", file=sys.stderr, flush=True)

    with services() as found:
        result = measure(found, size, parts, only, say)
    result = {
        "at": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "machine": {"cores": os.cpu_count(), "processor": _processor(), "python": platform.python_version()},
        "secs": time.monotonic() - began,
        **result,
    }
    judged = report.bars(result)
    result["bars"] = [dataclasses.asdict(bar) for bar in judged]
    text = report.markdown(result)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    (folder / "results.md").write_text(text, "utf-8")
    print(text)
    print(f"written to {folder}/results.json and results.md after {result['secs']:.0f} s")
    return 1 if arguments.check and not all(bar.met for bar in judged) else 0


def _processor() -> str:
    """The processor's name, as the kernel has it."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


if __name__ == "__main__":
    sys.exit(main())
