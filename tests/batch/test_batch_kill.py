"""Launchers that die, at every stage: the same command goes on, nothing is paid twice, and the books balance."""

from __future__ import annotations

import itertools
import threading

import pytest

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
    launcher.join()
    cloud.service.before_reply = lambda _: None
    over.set()


# What the launcher waits for when it is killed, and what has been done by then.
STAGES = {
    "the first row is asked": ("GenerateContent", 1),
    "the requests are written": ("ListBatchPredictionJobs", 1),
    "a job is made, and nobody could record it": ("CreateBatchPredictionJob", 2),
    "a job has ended": ("GetBatchPredictionJob", 1),
}


@pytest.mark.parametrize("stage", STAGES)
def test_a_launcher_that_is_killed_is_followed_by_one_that_pays_for_nothing_again(cloud, stage):
    method, times = STAGES[stage]
    die_at(cloud, method, times=times, flags=("--batch_requests=8",))
    ended = cloud.classify(SIGNS, "--batch_requests=8")
    assert ended.code == 0, ended.err
    assert cloud.count("") == (ROWS, ROWS)
    assert len(cloud.service.jobs) == 3
    # A first row that was paid and not yet written is asked again: that one call, and no other.
    online = cloud.vertex.stats()["paid_calls"] - cloud.service.paid_rows
    assert online <= 2 if method == "GenerateContent" else online == 1
    assert cloud.service.paid_rows in (ROWS, ROWS - 1)
    assert cloud.query("SELECT COUNT(DISTINCT run_id) AS n FROM `{answers}_runs`")[0]["n"] == 1
    assert cloud.run("audit").code == 0


def test_a_launcher_that_dies_among_the_results_is_followed_by_one_that_collects_the_rest(cloud):
    uris = [row["gcs_uri"] for row in cloud.query(f"SELECT gcs_uri FROM `{cloud.dataset}.latest_observations`")]
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
    launcher.join()
    cloud.vertex.configure(faults=[])
    assert cloud.classify(SIGNS).code == 0
    assert cloud.count("") == (ROWS, ROWS)
    assert len(cloud.service.jobs) == 1


def test_while_jobs_run_an_interrupt_leaves_them_and_an_online_run_of_the_same_question_is_refused(cloud):
    cloud.service.behaviour = Behaviour(hold=True)
    launcher = cloud.launcher(SIGNS)
    cloud.service.wait_for_jobs(1)
    with pytest.raises(ConfigError, match="is seen to by another process"):
        cloud.run_raising("classify", "--mode=batch", SIGNS)
    launcher.terminate()
    launcher.join()
    assert launcher.exitcode == Interrupted.exit_code
    with pytest.raises(ConfigError, match="--mode=batch does that first"):
        cloud.run_raising("classify", SIGNS)
    cloud.service.finish()
    ended = cloud.classify(SIGNS)
    assert ended.code == 0
    assert "taking up batch run" in ended.err
    assert cloud.count("") == (ROWS, ROWS)
    assert len(cloud.service.jobs) == 1
