"""Launchers that die, at every stage: the same command goes on, nothing is paid twice, and the books balance."""

from __future__ import annotations

import dataclasses
import itertools
import os
import signal
import threading

import pytest

from benchmarks.books_rig import Hang
from pipeline import options, planning, rivals
from pipeline.batch import journal
from pipeline.batch import run as batch
from pipeline.errors import ConfigError, Interrupted
from pipeline.local.batch import Behaviour
from pipeline.local.vertex.faults import Fault

SIGNS = "--task=road_signs"
ROWS = 24


def die_at(cloud, method, *, times=1, flags=()):
    """Kill a launcher when the service has done a call, the n-th of its kind, and has not replied yet."""
    calls = itertools.count(1)
    reached, over = threading.Event(), threading.Event()

    def before_reply(name):
        if name == method and next(calls) == times:
            reached.set()
            over.wait()

    cloud.service.before_reply = before_reply
    launcher = cloud.launcher(SIGNS, *flags)
    assert reached.wait(60)
    launcher.kill()
    cloud.service.before_reply = lambda _: None
    over.set()


# What the launcher waits for when it is killed, and what has been done by then.
STAGES = {
    "the first row is asked": ("GenerateContent", 1),
    "the requests are written": ("ListBatchPredictionJobs", 1),
    "a job is made, and nobody could record it": ("CreateBatchPredictionJob", 2),
    "a job has ended": ("GetBatchPredictionJob", 1),
}
# The function that it has come to.
LATE_STAGES = {
    "results are in the tables, and nobody could record it": "pipeline.batch.journal.note_collected",
    "all is collected, and the books are open": "pipeline.launch.finish",
}


@pytest.mark.parametrize("stage", [*STAGES, *LATE_STAGES])
def test_a_launcher_that_is_killed_is_followed_by_one_that_pays_for_nothing_again(cloud, stage):
    if stage in STAGES:
        method, times = STAGES[stage]
        die_at(cloud, method, times=times, flags=("--batch_requests=8",))
    else:
        there = Hang()
        launcher = cloud.launcher(SIGNS, "--batch_requests=8", **{LATE_STAGES[stage]: there})
        there.wait()
        launcher.kill()
    ended = cloud.classify(SIGNS, "--batch_requests=8")
    assert ended.code == 0, ended.err
    assert "(already answered 0)" in ended.summary, "what the run answered itself was not there before"
    assert cloud.count("") == (ROWS, ROWS)
    assert len(cloud.service.jobs) == 3
    # A first row that was paid and not yet written is asked again: that one call, and no other.
    online = cloud.vertex.stats()["paid_calls"] - cloud.service.paid_rows
    assert online <= 2 if stage == "the first row is asked" else online == 1
    assert cloud.service.paid_rows in (ROWS, ROWS - 1)
    assert cloud.query("SELECT COUNT(DISTINCT run_id) AS n FROM `{answers}_runs`")[0]["n"] == 1
    assert cloud.run("audit").code == 0


def test_a_run_that_is_taken_up_says_what_its_budget_kept_out_when_it_started(cloud, monkeypatch):
    price = planning.make(options.parse([*cloud.flags, SIGNS, "--mode=batch"])[0]).usd_batch
    flags = (SIGNS, f"--max_cost_usd={16.5 * price}")

    def dies(*_):
        raise RuntimeError("killed")

    with monkeypatch.context() as patch:
        patch.setattr("pipeline.launch.finish", dies)
        with pytest.raises(RuntimeError, match="killed"):
            cloud.classify(*flags)
    ended = cloud.classify(*flags)
    assert ended.summary.startswith("rows 16 = answered 16 + failed 0 (already answered 0, over budget 8)"), ended
    (end,) = cloud.query("SELECT already_answered FROM `{answers}_runs` WHERE state = 'finished'")
    assert end["already_answered"] == 0
    assert cloud.run("audit").summary == ended.summary


def test_a_launcher_that_dies_among_the_results_is_followed_by_one_that_collects_the_rest(cloud):
    uris = [row["gcs_uri"] for row in cloud.query(f"SELECT gcs_uri FROM `{cloud.observations}`")]
    # A second call that never ends: the other rows of the job are written while it waits.
    cloud.vertex.configure(faults=[Fault("wrong_label", uris[9], first=1)])
    cloud.service.behaviour = Behaviour(hold=True)
    launcher = cloud.launcher(SIGNS)
    cloud.service.wait_for_jobs(1)
    cloud.service.finish()
    cloud.vertex.configure(faults=[Fault("hang", uris[9])])
    while not cloud.answers() > ROWS / 2:
        assert launcher.is_alive()
        cloud.vertex.wait_for(in_flight=1)
    launcher.kill()
    cloud.vertex.configure(faults=[])
    assert cloud.classify(SIGNS).code == 0
    assert cloud.count("") == (ROWS, ROWS)
    assert len(cloud.service.jobs) == 1


def test_while_jobs_run_nobody_pays_for_their_rows_and_a_deadline_takes_them_back(cloud):
    cloud.service.behaviour = Behaviour(hold=True, share=0.5)
    launcher = cloud.launcher(SIGNS)
    cloud.service.wait_for_jobs(1)
    with pytest.raises(ConfigError, match="is seen to by another process"):
        cloud.run_raising("classify", "--mode=batch", SIGNS)
    launcher.send(signal.SIGINT)
    stopped = launcher.wait()
    assert stopped.code == Interrupted.exit_code
    assert stopped.err.rstrip().endswith("its jobs go on without this process; the same command collects them")
    with pytest.raises(ConfigError, match="--mode=batch does that first"):
        cloud.run_raising("classify", SIGNS)
    with pytest.raises(ConfigError, match="to another version of the question"):
        cloud.run_raising("classify", "--mode=batch", SIGNS, "--model=gemini-3.1-flash-lite")
    assert "is not over" in cloud.run("audit").err  # and leaves it open
    assert "is not over" in cloud.run("plan", SIGNS).out

    ended = cloud.run("classify", "--mode=auto", "--deadline_hours=0.1", SIGNS)
    assert ended.code == 0, ended.err
    assert "taking up batch run" in ended.err
    assert "the deadline is near" in ended.err
    assert cloud.count("") == (ROWS, ROWS)
    assert [job.state.name for job in cloud.service.jobs] == ["JOB_STATE_CANCELLED"]
    # What the job had done was kept: no row was paid twice.
    assert 0 < cloud.service.paid_rows < ROWS - 1
    assert cloud.vertex.stats()["paid_calls"] == ROWS


def test_of_two_launchers_that_take_up_a_run_at_the_same_moment_the_later_one_yields(cloud):
    me, other = rivals.launcher(), {**rivals.launcher(), "pid": os.getppid(), "started": rivals._started(os.getppid())}
    plan = planning.make(options.parse([*cloud.flags, SIGNS, "--mode=batch"])[0])
    found = journal.Unfinished({"run_id": "r", "at": None}, "gs://batches/x", frozenset(), (me, other))
    batch.refuse_rival(plan, found)
    with pytest.raises(ConfigError, match="is seen to by another process"):
        batch.refuse_rival(plan, dataclasses.replace(found, launchers=(other, me)))
