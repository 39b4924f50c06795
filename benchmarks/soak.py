"""Twenty minutes of bad weather: real runs against a service that fails at random, and the books at the end: `make soak`.

Round after round `classify` asks some thousand new rows, while the stand-in for Vertex AI goes from one fault to the next:
storms of 429s, outages, broken connections, hangs, answers that are none, images that are none, slow tails. After each round
the books are read by SQL and held against what the stand-in says it has billed. At the end the sky clears, and the same
command asks what was left without an answer.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import json
import math
import random
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import weather
from benchmarks.books_rig import Child, Ended, Rig, services
from pipeline.gemini import models
from pipeline.gemini.prices import estimate
from pipeline.task import Task

TASK = "road_signs"
TWO_PROCESSES = ("--direct_num_workers=2", "--direct_running_mode=multi_processing")
FLAGS = (f"--task={TASK}", "--max_cost_usd=1000", "--max_failure_ratio=1", "--quiet")
_REASONS = frozenset(
    {
        *("image_not_found", "image_denied", "invalid_request", "blocked", "max_tokens", "invalid_answer"),
        *("empty_answer", "unavailable", "timed_out"),
    }
)
"""What the weather may do to a row for good. `rate_limited` is not among them: a 429 costs time alone."""
_LOST_CALLS, _LOST_SHARE = 10, 0.001
"""Answers that break with their connection: they were sent and billed, and nobody got them. So many at most, and such a share
of all calls."""
_BOOKED = """SELECT COALESCE(SUM(cost_usd), 0) FROM (
  SELECT DISTINCT key, cost_usd FROM `{answers}` WHERE run_id = @run
  UNION ALL SELECT DISTINCT key, cost_usd FROM `{answers}_failures` WHERE run_id = @run
)"""
_FAILED = "SELECT reason, COUNT(DISTINCT key) AS n FROM `{answers}_failures` WHERE run_id = @run GROUP BY reason"


@dataclasses.dataclass
class Outcome:
    """What a round came to.

    Attributes:
        failed: rows by reason.
        paid: calls that the stand-in has answered, or whose callers were gone.
        most: how many of them there may be: each beyond one a row needs one before it that was spoilt or lost.
        silent: those whose callers were gone: their time was over, or their connection broke.
        booked_usd: what the tables say.
        billed_usd: what the stand-in's own count of tokens costs, `silent` calls not included.
        unknown_usd: what may be booked beside that, for calls whose usage nobody can know.
        problems: what is wrong.
    """

    flags: str
    rows: int
    answered: int
    failed: dict[str, int]
    secs: float
    fronts: int
    calls: int
    rejected: int
    paid: int
    most: int
    silent: int
    booked_usd: float
    billed_usd: float
    unknown_usd: float
    problems: list[str]


class Soak:
    """Rounds on one output table, each with rows of its own.

    Args:
        rig: the stand-ins.
        dice: decide on the weather.
        longest_secs: of one front.
        say: told each front.
    """

    def __init__(
        self, rig: Rig, dice: random.Random, *, longest_secs: float, say: Callable[[str], None] = lambda text: None
    ) -> None:
        self.rig = rig
        self.rows = 0
        self._dice = dice
        self._longest_secs = longest_secs
        self._say = say

    def round(self, rows: int, *flags: str, images: int = 1, secs: float = math.inf) -> Outcome:
        """New rows are asked in bad weather, which begins with the first call and lasts for so long, or to the last."""
        began, rig = time.monotonic(), self.rig
        rig.fill(rows, first=self.rows + 1)
        self.rows += rows
        rig.vertex.reset(answers="fixed", keep_log=False, **weather.CALM)
        flags = (f"--images_per_request={images}", *flags)
        child = rig.start(*FLAGS, *flags)
        rig.wait_for_calls(1)  # until then it reads and plans
        fronts = self._weather(child, time.monotonic() + secs)
        ended = child.wait(900.0)
        return self._judged(ended, rows, flags, images, fronts, time.monotonic() - began)

    def clear(self) -> list[str]:
        """What failed is asked again under a clear sky, all rounds' rows together; returns what is wrong then."""
        rig = self.rig.fill(self.rows)
        rig.vertex.reset(answers="fixed", keep_log=False)
        ended = rig.start(*FLAGS, "--retry_failed=all").wait(900.0)
        place = rig.place()
        problems = [f"exit code {ended.code}: {ended.err[-500:]}"] if ended.code else []
        if place != {"input_rows": self.rows, "answered": self.rows, "doubled": 0, "failed": 0, "nowhere": 0}:
            problems.append(f"not every key was answered in the end: {place}")
        return problems

    def _weather(self, child: Child, until: float) -> int:
        """One front after the other, until the run is done; returns how many."""
        fronts = 0
        while child.is_alive() and (left := until - time.monotonic()) > 0:
            front = weather.front(self._dice, self._longest_secs)
            fronts += 1
            self._say(str(front))
            front.passes_over(self.rig.vertex)
            child.join(min(front.secs, left))
        weather.clear_sky().passes_over(self.rig.vertex)
        return fronts

    def _judged(self, ended: Ended, rows: int, flags: Sequence[str], images: int, fronts: int, secs: float) -> Outcome:
        rig, stats, problems = self.rig, self.rig.vertex.stats(), []
        if ended.code:
            problems.append(f"exit code {ended.code}: {ended.err[-1000:]}")
        place = rig.place()
        if (place["input_rows"], place["doubled"], place["nowhere"]) != (rows, 0, 0):
            problems.append(f"not every key is in one place: {place}")
        audit = rig.run(f"--run_id={ended.run_id}", command="audit")
        if audit.code not in (0, 3):  # 3: more failed than the default of --max_failure_ratio
            problems.append(f"audit: {audit.err[-500:]}")
        failed = {line["reason"]: line["n"] for line in rig.sql(_FAILED, run=ended.run_id)}
        if unexpected := failed.keys() - _REASONS:
            problems.append(f"no weather makes such failures: {sorted(unexpected)}")

        paid, silent, most = _paid(stats, rows, images)
        if paid > most:
            problems.append(f"{paid} calls were paid, {most} at most should have been")
        booked = float(rig.one(_BOOKED, run=ended.run_id))
        billed, unknown = _billed_usd(stats, images)
        nobody_got = _lost(stats) * billed / max(1, paid)
        if not billed - nobody_got <= booked <= billed + unknown + 1e-9:
            problems.append(f"${booked:.4f} are booked, ${billed:.4f} were billed, ${unknown:.4f} nobody can know")
        return Outcome(
            flags=" ".join(flags),
            rows=rows,
            answered=place["answered"],
            failed=failed,
            secs=secs,
            fronts=fronts,
            calls=stats["calls"],
            rejected=stats["statuses"].get("RESOURCE_EXHAUSTED", 0),
            paid=paid,
            most=most,
            silent=silent,
            booked_usd=booked,
            billed_usd=billed,
            unknown_usd=unknown,
            problems=problems,
        )


def _lost(stats: Mapping[str, Any]) -> int:
    return _LOST_CALLS + math.ceil(_LOST_SHARE * int(stats["calls"]))


def _paid(stats: Mapping[str, Any], rows: int, images: int) -> tuple[int, int, int]:
    """Calls that were paid, those of them whose caller was gone, and how many there may be."""
    silent = stats["statuses"].get("GONE", 0)
    spoilt = sum(stats["faults"].get(word, 0) for word in {kind.partition(":")[0] for kind in weather.ASKED_AGAIN})
    if images > 1:  # a pack that is blocked, or has a bad image, falls apart too: into so many calls at most
        spoilt = 2 * images * sum(stats["faults"].values())
    lost = silent + _lost(stats)
    return stats["paid_calls"], silent, math.ceil(rows / images) + lost * (2 * images - 1) + spoilt


def _billed_usd(stats: Mapping[str, Any], images: int) -> tuple[float, float]:
    """Dollars of the tokens that the stand-in counted, and those of the calls whose tokens only a plan can tell."""
    now, task = datetime.datetime.now(datetime.UTC), Task.load(TASK)
    settings = models.settings_for(task, images_per_request=images)
    model = models.find(settings.model)
    assert model.prices is not None
    tokens = [stats[f"{kind}_tokens"] for kind in ("prompt", "output", "thoughts")]
    call = estimate(task, settings, model, images=images).cost(model.prices, at=now) or 0.0
    unknown = stats["statuses"].get("GONE", 0) + stats["faults"].get("no_usage", 0)
    return model.prices.cost(*tokens, at=now), unknown * call


def rounds(soak: Soak, dice: random.Random, secs: float) -> list[Outcome]:
    """Rounds of all kinds until the time is over; prints a line for each."""
    until, found = time.monotonic() + secs, []
    print(f"{'rows':>7}{'answered':>9}{'failed':>7}{'fronts':>7}{'calls':>8}{'429s':>7}{'paid':>8}{'bound':>8}", end="")
    print(f"{'silent':>8}{'booked':>9}{'billed':>9}{'unknown':>8}{'secs':>6}  flags")
    while time.monotonic() < until:
        flags = [f"--max_in_flight={dice.choice((64, 256, 1000))}", f"--request_timeout_secs={dice.choice((3, 8))}"]
        each = soak.round(10_000, *flags, *dice.choice(((), (), (), TWO_PROCESSES)), secs=until - time.monotonic())
        found.append(each)
        print(
            f"{each.rows:>7}{each.answered:>9}{sum(each.failed.values()):>7}{each.fronts:>7}{each.calls:>8}"
            f"{each.rejected:>7}{each.paid:>8}{each.most:>8}{each.silent:>8}{each.booked_usd:>9.4f}"
            f"{each.billed_usd:>9.4f}{each.unknown_usd:>8.4f}{each.secs:>6.0f}  {each.flags}",
            flush=True,
        )
        for problem in each.problems:
            print(f"  PROBLEM: {problem}", flush=True)
    return found


def main() -> int:
    """Soaks for as long as it is told; the exit code is 1 where there is a problem."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--longest_secs", type=float, default=30.0, help="how long one kind of weather lasts at most")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--json", type=Path, help="where to write the figures")
    parser.add_argument("--tell", action="store_true", help="print each change of the weather to stderr")
    given = parser.parse_args()
    print(f"seed {given.seed}", flush=True)
    dice = random.Random(given.seed)

    def say(text: str) -> None:
        if given.tell:
            print(text, file=sys.stderr, flush=True)

    with tempfile.TemporaryDirectory(prefix="soak-") as folder, services(Path(folder)) as (emulator, stand_in):
        rig = Rig(emulator, stand_in, f"{emulator.project}.soak", constants={})  # the pace begins as gently as ever
        soak = Soak(rig, dice, longest_secs=given.longest_secs, say=say)
        found = rounds(soak, dice, 60 * given.minutes)
        left = soak.clear()
    print(f"at the end, under a clear sky, all {soak.rows:,} rows: {'; '.join(left) or 'each answered once'}")
    if given.json:
        given.json.write_text(json.dumps([dataclasses.asdict(each) for each in found], indent=2))
    return 1 if left or any(each.problems for each in found) else 0


if __name__ == "__main__":
    sys.exit(main())
