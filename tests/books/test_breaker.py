"""The circuit breaker for the user's money, through the whole pipeline: no row pays, or is blamed, for the run's fault."""

import apache_beam as beam
import pytest
from apache_beam.options.pipeline_options import PipelineOptions

from pipeline import graph, launch, options, planning, worker
from pipeline.bigquery import books
from pipeline.errors import Halted
from pipeline.rows import RunState

FLAGS = ("--max_in_flight=64", "--max_cost_usd=100", "--quiet")
RUN_FAULTS = ("IAM_PERMISSION_DENIED", "BILLING_DISABLED", "MODEL_NOT_FOUND", "TOKEN_EXPIRED")


@pytest.mark.parametrize("fault", RUN_FAULTS)
def test_a_fault_of_the_run_halts_it_within_100_calls_and_files_nothing(rig, fault):
    healthy = 150
    rig.fill(1500)
    rig.vertex.configure(run_fault=fault, run_fault_from_call=healthy + 1)
    done = rig.run(*FLAGS)
    assert done.code == 4
    (line,) = done.err.strip().splitlines()
    assert line.startswith("error: halted, and no row was at fault: ")
    assert done.summary.startswith(
        f"rows {healthy} = answered {healthy} + failed 0 (already answered 0, not asked 1,350)"
    )
    assert rig.vertex.stats()["calls"] <= healthy + 100
    assert rig.place() == {"input_rows": 1500, "answered": healthy, "doubled": 0, "failed": 0, "nowhere": 1350}
    assert set(rig.states(done.run_id)) == {"started", "halted"}
    reasons = rig.sql("SELECT DISTINCT reason FROM `{answers}_runs` WHERE state = 'halted'")
    assert len(reasons) == 1
    assert reasons[0]["reason"] in line
    assert rig.run(command="audit").code == 4


@pytest.mark.parametrize("fault", RUN_FAULTS)
def test_the_same_fault_from_the_first_call_on_is_found_before_anything_is_spent(rig, fault):
    rig.fill(1500)
    rig.vertex.configure(run_fault=fault, run_fault_from_call=1)
    done = rig.run(*FLAGS)
    assert done.code == 2
    (line,) = done.err.strip().splitlines()
    assert line.startswith("error: the first ")
    assert rig.vertex.stats()["calls"] <= 10
    assert rig.vertex.stats()["paid_calls"] == 0
    assert rig.place()["nowhere"] == 1500
    rig.vertex.configure(run_fault=None)
    assert rig.run(*FLAGS, "--limit=20").summary.startswith("rows 20 = answered 20 + failed 0 ")


def test_one_denied_image_among_many_is_that_images_failure(rig):
    rig.fill(600)
    rig.vertex.configure(
        faults=[{"kind": "IMAGE_DENIED", "match": "*k0000300.jpg"}, {"kind": "IMAGE_NOT_FOUND", "match": "*77.jpg"}]
    )
    done = rig.run(*FLAGS)
    assert done.code == 3, done.err
    assert done.summary.startswith("rows 600 = answered 593 + failed 7 ")
    reasons = {
        row["reason"]: row["n"] for row in rig.sql("SELECT reason, COUNT(*) AS n FROM `{answers}_failures` GROUP BY 1")
    }
    assert reasons == {"image_denied": 1, "image_not_found": 6}


def test_a_run_goes_on_after_the_fault_is_mended_and_pays_nothing_twice(rig):
    rig.fill(500)
    rig.vertex.configure(run_fault="MODEL_NOT_FOUND", run_fault_from_call=101)
    assert rig.run(*FLAGS).code == 4
    rig.vertex.configure(run_fault=None)
    done = rig.run(*FLAGS)
    assert done.code == 0, done.err
    assert done.summary.startswith("rows 400 = answered 400 + failed 0 (already answered 100)")
    assert set(rig.paid().values()) == {1}


def test_a_process_that_starts_after_the_halt_reads_of_it_and_asks_nothing(rig):
    given, _ = options.parse(rig.fill(100).argv("classify", *FLAGS)[1:])
    run = launch.prepare(planning.make(given), processes=1)
    line = {"run_id": run.run_id, "state": RunState.HALTED.value, "reason": "the model is gone"}
    books.append_run(run.plan.endpoint, run.plan.runs, line)
    pipeline = beam.Pipeline(
        options=PipelineOptions(["--runner=apache_beam.runners.portability.fn_api_runner.FnApiRunner"])
    )
    graph.build(pipeline, run.config, run.shards)
    with pytest.raises(Halted, match=f"run {run.run_id} was halted: the model is gone"):
        pipeline.run().wait_until_finish()
    worker.close_all()
    assert rig.vertex.stats()["calls"] == 0
    assert rig.place()["nowhere"] == 100
