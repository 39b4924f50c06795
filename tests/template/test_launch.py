"""New images by themselves: a schedule launches the template; with nothing new, nothing is asked and nothing starts."""

import json
import os
import re
import shutil
import subprocess
import urllib.request
from pathlib import Path

import pytest
from google.cloud import dataflow_v1beta3
from google.protobuf import json_format
from loopback_cloud import BUCKET, ROOT, ROWS, Cloud

from pipeline.local.flex_template import Launch

pytestmark = pytest.mark.timeout(600)  # each process loads Beam: on a busy machine that alone takes a minute
IMAGE = "us-central1-docker.pkg.dev/demo-project/pipelines/gemini-image-pipeline:1"
TEMPLATE = f"gs://{BUCKET}/templates/classify.json"
DOCUMENTED = re.search(r"```json\n(.+?)```", (ROOT / "docs" / "dataflow.md").read_text("utf-8"), re.DOTALL)


def documented_body(cloud: Cloud, **parameters: str) -> dict:
    """The documented body of the scheduled call, with this cloud's tables, buckets and endpoints in it."""
    body = json.loads(DOCUMENTED[1])
    given = body["launchParameter"]
    given["containerSpecGcsPath"] = TEMPLATE
    given["environment"]["tempLocation"] = f"gs://{BUCKET}/tmp"
    here = dict(flag.removeprefix("--").split("=", 1) for flag in cloud.question("nightly"))
    del here["project"], here["task"]  # the one is the launcher's, the other is documented
    given["parameters"] |= here | parameters
    return body


def schedule(cloud: Cloud, body: dict) -> Launch:
    """What Cloud Scheduler does."""
    request = urllib.request.Request(
        f"{cloud.dataflow.address}/v1b3/projects/demo-project/locations/us-central1/flexTemplates:launch",
        data=json.dumps(body).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request) as response:
        assert json.load(response)["job"]["name"] == body["launchParameter"]["jobName"]
    return cloud.dataflow.launches[-1]


def start_launcher(cloud: Cloud, launch: Launch) -> subprocess.CompletedProcess[str]:
    """What Dataflow does on the launcher's VM."""
    words = ["templates/main.py", *launch.words, *cloud.dataflow.flags]
    return cloud.run(words, environment={"PIPELINE_IMAGE": IMAGE})


@pytest.fixture(scope="module")
def launched(cloud: Cloud):
    launch = schedule(cloud, documented_body(cloud))
    return launch, start_launcher(cloud, launch)


def job_graph(cloud: Cloud, launch: Launch) -> dataflow_v1beta3.Job:
    text = cloud.storage.read(BUCKET, launch.job_graph.removeprefix(f"gs://{BUCKET}/"))
    message = dataflow_v1beta3.Job()
    json_format.Parse(text, message._pb, ignore_unknown_fields=False)
    return message


def test_the_launcher_leaves_a_job_that_dataflow_can_read_and_submits_none(launched, cloud):
    launch, done = launched
    assert done.returncode == 0, done.stderr[-3000:]
    job = job_graph(cloud, launch)
    assert job.name == "signs-nightly"
    assert dict(job.labels)["task"] == "road_signs"
    (pool,) = job.environment.worker_pools
    assert [image.container_image for image in pool.sdk_harness_container_images] == [IMAGE]
    assert pool.autoscaling_settings.max_num_workers == 2
    assert "signs-nightly" not in [submitted.message.name for submitted in cloud.dataflow.jobs]


def test_what_the_image_holds_is_not_staged_again(launched, cloud):
    launch, _ = launched
    packages = [package.name for package in job_graph(cloud, launch).environment.worker_pools[0].packages]
    assert packages == ["submission_environment_dependencies.txt"]


def test_the_launcher_notes_the_run_and_links_the_job_that_the_launch_becomes(launched, cloud):
    launch, done = launched
    job_id = Path(launch.job_graph).parent.name
    assert f"/dataflow/jobs/us-central1/{job_id}?project=demo-project" in done.stdout
    assert re.fullmatch(rf"submitted {ROWS} rows \| run \w+", done.stdout.splitlines()[-1])
    lines = cloud.runs("nightly")
    assert {line["state"] for line in lines} == {"started"}
    assert job_id in str([line["options"] for line in lines])


def test_a_schedule_that_comes_while_the_run_is_alive_asks_nothing(launched, cloud):
    calls = cloud.vertex.stats()["calls"]
    launch = schedule(cloud, documented_body(cloud))
    done = start_launcher(cloud, launch)
    assert done.returncode == 2
    assert "of the same question started at" in done.stderr.splitlines()[-1]
    assert launch.job_graph.removeprefix(f"gs://{BUCKET}/") not in cloud.storage.names(BUCKET)
    assert cloud.vertex.stats()["calls"] == calls


def test_a_schedule_that_finds_nothing_new_asks_nothing_and_leaves_no_job(direct, cloud):
    calls = cloud.vertex.stats()["calls"]
    jobs = len(cloud.dataflow.jobs)
    launch = schedule(cloud, documented_body(cloud, task="describe", output_table=cloud.table("direct")))

    done = start_launcher(cloud, launch)

    assert done.returncode == 0, done.stderr[-3000:]
    assert re.fullmatch(
        rf"rows 0 = answered 0 \+ failed 0 \(already answered {ROWS}\) \| run \w+", done.stdout.splitlines()[-1]
    )
    assert launch.job_graph.removeprefix(f"gs://{BUCKET}/") not in cloud.storage.names(BUCKET)
    assert len(cloud.dataflow.jobs) == jobs
    assert cloud.vertex.stats()["calls"] == calls


def test_a_wrong_parameter_is_one_line_in_the_launchers_log_and_costs_nothing(cloud):
    launch = schedule(cloud, documented_body(cloud, service_tier="cheap"))
    done = start_launcher(cloud, launch)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines() == ["error: --service_tier=cheap: expected one of standard, flex, priority"]


def test_gcloud_launches_the_template_as_the_makefile_says(cloud, tmp_path):
    """Where gcloud is there, it speaks to the loopback service; elsewhere the documented body does, as above."""
    if not shutil.which("gcloud"):
        assert schedule(cloud, documented_body(cloud)).words
        return
    (tmp_path / "token").write_text("loopback", "utf-8")
    settings = {
        "CLOUDSDK_CONFIG": str(tmp_path),
        "CLOUDSDK_API_ENDPOINT_OVERRIDES_DATAFLOW": f"{cloud.dataflow.address}/",
        "CLOUDSDK_AUTH_ACCESS_TOKEN_FILE": str(tmp_path / "token"),
    }
    words = ["make", "-s", "-f", "templates/template.mk", "template-run", "PROJECT=demo-project", f"BUCKET={BUCKET}"]
    words += [f"TEMPLATE={TEMPLATE}", "JOB=by-hand"]
    words += ["PARAMETERS=^~^input_table=p.d.t~output_table=p.d.answers~where=kind IN ('a','b')~limit=10"]
    done = subprocess.run(words, cwd=ROOT, env=os.environ | settings, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    given = cloud.dataflow.launches[-1].words
    assert {"--where=kind IN ('a','b')", "--limit=10", "--job_name=by-hand", "--max_num_workers=2"} <= set(given)
    assert {"--number_of_worker_harness_threads=4", "--machine_type=e2-standard-2"} <= set(given)
