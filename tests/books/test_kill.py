"""kill -9, at any moment: the same command again pays only for what was in flight or not yet flushed."""

import random
import resource
import signal
from collections.abc import Iterator

import pytest

from benchmarks.books_rig import BUFFER_ROWS, Rig
from pipeline.local.bigquery import BigQueryEmulator
from pipeline.local.vertex import VertexStandIn

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


@pytest.fixture(scope="module")
def on_disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BigQueryEmulator]:
    """An emulator of this module's own, that can be killed and comes back with its data."""
    with BigQueryEmulator(tmp_path_factory.mktemp("bigquery")) as emulator:
        yield emulator


@pytest.fixture
def disk_rig(on_disk: BigQueryEmulator, vertex: VertexStandIn, request: pytest.FixtureRequest) -> Rig:
    vertex.reset(answers="fixed", latency_secs=0.02)
    return Rig(on_disk, vertex, f"{on_disk.project}.{request.node.name[:60]}")


def test_while_bigquery_is_dead_no_more_is_paid_than_a_flush_may_lose_and_the_run_goes_on_after_it(disk_rig):
    rows = 1500
    child = disk_rig.fill(rows).start(*FLAGS)
    disk_rig.wait_for_calls(300)
    disk_rig.bigquery.kill()
    calls_before = disk_rig.vertex.stats()["calls"]
    disk_rig.bigquery.start()
    assert disk_rig.vertex.stats()["calls"] <= calls_before + 2 * BUFFER_ROWS, "the rest waits until answers are safe"
    done = child.wait()
    assert done.code == 0, done.err
    assert disk_rig.place() == {"input_rows": rows, "answered": rows} | ONCE
    assert set(disk_rig.paid().values()) == {1}


def test_a_full_disk_under_bigquery_stops_the_paying_and_loses_nothing(disk_rig):
    rows = 1500
    child = disk_rig.fill(rows).start(*FLAGS)
    disk_rig.wait_for_calls(300)
    unlimited = resource.prlimit(disk_rig.bigquery.pid, resource.RLIMIT_FSIZE)
    # No file may grow any more: what a full disk does to a database, without the rights that a small one would need.
    resource.prlimit(disk_rig.bigquery.pid, resource.RLIMIT_FSIZE, (4096, unlimited[1]))
    disk_rig.wait_for_calls(300 + WINDOW)
    with pytest.raises(TimeoutError):
        disk_rig.wait_for_calls(rows, timeout_secs=2.0)
    resource.prlimit(disk_rig.bigquery.pid, resource.RLIMIT_FSIZE, unlimited)
    done = child.wait()
    assert done.code == 0, done.err
    assert disk_rig.place() == {"input_rows": rows, "answered": rows} | ONCE
    assert set(disk_rig.paid().values()) == {1}


def test_a_dead_vertex_ai_is_waited_for(rig):
    rows = 300
    child = rig.fill(rows).start(*FLAGS)
    rig.wait_for_calls(150)
    paid = rig.vertex.stats()["paid_calls"]
    rig.vertex.restart()
    done = child.wait()
    assert done.code == 0, done.err
    assert rig.place() == {"input_rows": rows, "answered": rows} | ONCE
    assert paid + rig.vertex.stats()["paid_calls"] <= rows + 2 * WINDOW, "only what was in flight is asked again"
