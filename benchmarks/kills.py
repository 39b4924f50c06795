"""Kills a run at random moments, on and on, and counts what that cost: `make kills`.

Each scenario gives the same command again until it is done, and kills it before that: with kill -9 at random moments, while
it prepares or while it asks; and with it, or instead of it, BigQuery, Vertex AI, or the disk. Then the books are read by
SQL: each key once in `_latest`, and no more paid calls than rows + kills x (window + buffer) of every worker process.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import random
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from benchmarks.books_rig import BUFFER_ROWS, Child, Ended, Rig, services
from pipeline.local.bigquery import BigQueryEmulator
from pipeline.local.vertex import VertexStandIn

WINDOW = 128
TWO_PROCESSES = ("--direct_num_workers=2", "--direct_running_mode=multi_processing")


@dataclasses.dataclass
class Outcome:
    """What a scenario came to. `kills` are those that met a run, `most` is how many calls may be paid at most."""

    scenario: str
    rows: int
    kills: int
    paid: int
    most: int
    asked_twice: int
    secs: float
    problems: list[str]


class Scene:
    """A rig whose stand-in may be killed, too: its counts are kept from before each kill."""

    def __init__(
        self, bigquery: BigQueryEmulator, vertex: VertexStandIn, name: str, dice: random.Random, calls: int
    ) -> None:
        vertex.reset(answers="fixed", latency_secs=0.05)
        self.rig = Rig(bigquery, vertex, f"{bigquery.project}.{name}_{int(time.time())}")
        self.dice = dice
        self._calls = calls
        self._paid_before = 0

    @property
    def paid(self) -> int:
        return self._paid_before + int(self.rig.vertex.stats()["paid_calls"])

    def wait(self, child: Child) -> None:
        """Returns at a random moment of a run: one in four while it prepares, the others while it asks."""
        if self.dice.random() < 0.25:
            child.join(self.dice.uniform(0.1, 3.0))
            return
        begun = self.rig.vertex.stats()["calls"]
        calls = begun + self.dice.randrange(1, self._calls)
        while child.is_alive() and self.rig.vertex.stats()["calls"] < calls:
            child.join(0.02)

    def kill_bigquery(self) -> None:
        self.rig.bigquery.kill()
        self.rig.bigquery.start()

    def kill_vertex(self) -> None:
        # What is in flight is billed or not: nobody can know, so it counts as paid.
        stats = self.rig.vertex.stats()
        self._paid_before += int(stats["paid_calls"]) + int(stats["in_flight"])
        self.rig.vertex.restart()

    def fill_disk(self) -> None:
        pid = self.rig.bigquery.pid
        unlimited = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (4096, unlimited[1]))
        time.sleep(self.dice.uniform(1.0, 4.0))
        resource.prlimit(pid, resource.RLIMIT_FSIZE, unlimited)


def runs(scene: Scene, child: Child) -> None:
    """kill -9 of the run."""
    child.kill()


def bigquery(scene: Scene, child: Child) -> None:
    """kill -9 of BigQuery under the run; it is back in seconds."""
    scene.kill_bigquery()


def vertex(scene: Scene, child: Child) -> None:
    """kill -9 of Vertex AI under the run."""
    scene.kill_vertex()


def disk(scene: Scene, child: Child) -> None:
    """BigQuery's disk fills for seconds, and the run is killed while it is full, or not."""
    scene.fill_disk()
    if scene.dice.random() < 0.5:
        child.kill()


def everything(scene: Scene, child: Child) -> None:
    """One of the above, by the dice."""
    scene.dice.choice((runs, bigquery, vertex, disk))(scene, child)


SCENARIOS: dict[str, tuple[Callable[[Scene, Child], None], tuple[str, ...]]] = {
    "run": (runs, ()),
    "run_of_two_processes": (runs, TWO_PROCESSES),
    "bigquery": (bigquery, ()),
    "vertex": (vertex, ()),
    "disk": (disk, ()),
    "everything": (everything, ()),
}


def play(scene: Scene, name: str, rows: int, kills: int) -> Outcome:
    """The same command again and again, killed so many times, until it is done."""
    what, more = SCENARIOS[name]
    rig, began = scene.rig.fill(rows), time.monotonic()
    flags = (f"--max_in_flight={WINDOW}", "--max_cost_usd=1000", "--quiet", *more)
    problems: list[str] = []
    done = again = 0
    child = rig.start(*flags)
    while True:
        if done < kills:
            scene.wait(child)
            if child.is_alive():
                what(scene, child)
                done += 1
            if child.is_alive():
                continue
        ended = child.wait(900.0)
        if ended.code == 0 or again > 2 * kills:
            break
        if ended.code != -signal.SIGKILL:
            print(f"  ended by itself with {ended.code}: {ended.err.strip()[-300:]}", flush=True)
            problems += [f"not one line: {ended.err[-2000:]}"] if "Traceback" in ended.err else []
        child, again = rig.start(*flags), again + 1
    return _judged(scene, name, rows, done, ended, problems, 2 if more else 1, time.monotonic() - began)


def _judged(
    scene: Scene, name: str, rows: int, kills: int, ended: Ended, problems: list[str], processes: int, secs: float
) -> Outcome:
    rig = scene.rig
    if ended.code:
        problems.append(f"exit code {ended.code}: {ended.err[-500:]}")
    place = rig.place()
    if place != {"input_rows": rows, "answered": rows, "doubled": 0, "failed": 0, "nowhere": 0}:
        problems.append(f"not every key is in one place: {place}")
    audit = rig.run(command="audit")
    if audit.code:
        problems.append(f"audit: {audit.err[-500:]}")
    paid, most = scene.paid, rows + kills * processes * (WINDOW + BUFFER_ROWS)
    if paid > most:
        problems.append(f"{paid} calls were paid, {most} at most should have been")
    return Outcome(name, rows, kills, paid, most, paid - rows, secs, problems)


def outcomes(names: Sequence[str], rows: int, kills: int, seed: int) -> Iterator[Outcome]:
    """Plays scenarios one after the other, on one pair of stand-ins."""
    dice = random.Random(seed)
    with tempfile.TemporaryDirectory(prefix="kills-") as folder, services(Path(folder)) as (emulator, stand_in):
        for name in names:
            yield play(Scene(emulator, stand_in, name, dice, 2 * rows // (kills + 1)), name, rows, kills)


def main() -> int:
    """Plays the scenarios; the exit code is 1 where one found a problem."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--scenarios", nargs="+", choices=SCENARIOS, default=list(SCENARIOS))
    parser.add_argument("--rows", type=int, default=5000)
    parser.add_argument("--kills", type=int, default=8)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--json", type=Path, help="where to write the figures")
    given = parser.parse_args()
    print(f"seed {given.seed}, window {WINDOW}, buffer {BUFFER_ROWS}, {os.cpu_count()} cores")
    heads = f"{'scenario':<22}{'rows':>7}{'kills':>7}{'paid':>8}{'bound':>8}{'twice':>7}{'twice/kill':>12}{'secs':>7}"
    print(heads, flush=True)
    found = []
    for each in outcomes(given.scenarios, given.rows, given.kills, given.seed):
        found.append(each)
        per_kill = each.asked_twice / each.kills if each.kills else 0.0
        print(
            f"{each.scenario:<22}{each.rows:>7}{each.kills:>7}{each.paid:>8}{each.most:>8}{each.asked_twice:>7}"
            f"{per_kill:>12.1f}{each.secs:>7.0f}",
            flush=True,
        )
        for problem in each.problems:
            print(f"  PROBLEM: {problem}", flush=True)
    if given.json:
        given.json.write_text(json.dumps([dataclasses.asdict(each) for each in found], indent=2))
    return 1 if any(each.problems for each in found) else 0


if __name__ == "__main__":
    sys.exit(main())
