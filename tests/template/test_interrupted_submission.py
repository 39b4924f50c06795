"""Ctrl-C before Dataflow has the job, and while it takes it: no job goes on that the user has stopped."""

import dataclasses
import signal
import subprocess
import sys

import pytest
from loopback_cloud import ROOT, Cloud

from pipeline.local.vertex import VertexStandIn

pytestmark = pytest.mark.timeout(600)  # each process loads Beam: on a busy machine that alone takes a minute


@dataclasses.dataclass
class Submission:
    """A `classify` on Dataflow, in a process of its own, with the table of its answers named like the job."""

    cloud: Cloud
    name: str
    process: subprocess.Popen[str]
    out: str = ""
    err: str = ""

    @classmethod
    def start(cls, cloud: Cloud, vertex: VertexStandIn, name: str, *flags: str):
        words = [*dataclasses.replace(cloud, vertex=vertex).question(name), *cloud.on_dataflow, *flags]
        words += ["--sdk_container_image=localhost/workers:test", f"--job_name={name}"]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        command = [sys.executable, "-m", "pipeline", "classify", *words]
        environment = {**cloud.environment, "PYTHONPATH": str(ROOT)}
        return cls(cloud, name, subprocess.Popen(command, cwd=ROOT, env=environment, **pipes))

    def interrupt(self) -> None:
        self.process.send_signal(signal.SIGINT)

    def wait(self) -> None:
        self.out, self.err = self.process.communicate()

    @property
    def jobs(self):
        return [job for job in self.cloud.dataflow.jobs if job.message.name == self.name]

    @property
    def states(self) -> list[str]:
        return [line["state"] for line in self.cloud.runs(self.name)]


@pytest.fixture(scope="module")
def interrupted(cloud: Cloud):
    """Two submissions beside each other: interrupted before the first row is answered, and when Dataflow is asked."""
    answer = cloud.dataflow.answer

    def interrupting(method, path, body):
        if method == "POST" and path.endswith("/jobs"):
            late.interrupt()
        return answer(method, path, body)

    slow = {"kind": "hang", "match": "*/o39.jpg"}
    with pytest.MonkeyPatch.context() as patch, VertexStandIn(answers="fixed", faults=[slow]) as vertex:
        patch.setattr(cloud.dataflow, "answer", interrupting)
        late = Submission.start(cloud, vertex, "late")
        early = Submission.start(cloud, vertex, "early", "--where=observation_id = 'o39'")
        vertex.wait_for(120, calls=2, ended=1, in_flight=1)
        early.interrupt()
        early.wait()
        late.wait()
    return early, late


def test_an_interrupt_while_the_first_row_is_asked_submits_nothing(interrupted):
    early, _ = interrupted
    assert early.process.returncode == 130, early.err[-3000:]
    assert early.jobs == []
    assert early.out.startswith("rows 0 = answered 0 + failed 0 (already answered 0, not asked 1) | run ")
    assert early.states == ["started", "cancelled"]


def test_an_interrupt_while_dataflow_takes_the_job_cancels_it(interrupted):
    _, late = interrupted
    assert late.process.returncode == 130, late.err[-3000:]
    (job,) = late.jobs
    assert job.state == "JOB_STATE_CANCELLED"
    assert (
        f"job {job.id} is cancelled: https://console.cloud.google.com/dataflow/jobs/us-central1/{job.id}?" in late.err
    )
    assert late.out.startswith("rows 1 = answered 1 + failed 0 (already answered 0, not asked 39) | run ")
    assert late.states == ["started", "cancelled"]
