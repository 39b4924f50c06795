"""kill -9, at any moment: the same command again pays only for what was in flight or not yet flushed."""

import random
import signal

import pytest

from benchmarks.books_rig import BUFFER_ROWS, Rig
from pipeline.local.bigquery import BigQueryEmulator

WINDOW = 64
FLAGS = (f"--max_in_flight={WINDOW}", "--max_cost_usd=100", "--quiet")
ONCE = {"doubled": 0, "failed": 0, "nowhere": 0}


def until_done(rig, kill_after_calls):
    """Runs the same command again and again, and kills it after so many calls of its own; then lets it end."""
    lost = []
    for calls in kill_after_calls:
        before = rig.vertex.stats()["calls"]
        child = rig.start(*FLAGS)
        rig.wait_for_calls(before + calls)
        assert child.kill().code == -signal.SIGKILL
        lost.append(rig.vertex.stats()["paid_calls"] - rig.place()["answered"])
    done = rig.start(*FLAGS).wait()
    assert done.code == 0, done.err
    return done, lost


def test_a_run_that_is_killed_again_and_again_asks_each_row_once_but_for_what_was_on_its_way(rig):
    rows, dice = 1500, random.Random(3)
    rig.fill(rows)
    kills = [dice.randrange(1, 600) for _ in range(3)]
    done, _ = until_done(rig, kills)
    assert rig.place() == {"input_rows": rows, "answered": rows} | ONCE
    assert sum(rig.paid().values()) <= rows + len(kills) * (WINDOW + BUFFER_ROWS)
    assert set(rig.paid()) == {f"gs://bucket/k{number:07d}.jpg" for number in range(1, rows + 1)}
    assert rig.states(done.run_id) == ["started", "finished"]
    assert rig.one("SELECT COUNT(DISTINCT run_id) FROM `{answers}_runs` WHERE state = 'started'") == len(kills) + 1
