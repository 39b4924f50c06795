"""The real DataflowRunner submits the real job to the loopback service; what it staged is installed and run."""

import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import staged_workers
from google.cloud import dataflow_v1beta3
from loopback_cloud import BUCKET, ROWS, Cloud

pytestmark = pytest.mark.timeout(600)  # each process loads Beam: on a busy machine that alone takes a minute
CLASSIFY = ["-m", "pipeline", "classify"]


@pytest.fixture(scope="module")
def two_processes(cloud: Cloud, meanwhile):
    flags = ["--direct_num_workers=2", "--direct_running_mode=multi_processing"]
    return meanwhile.submit(cloud.run, [*CLASSIFY, *cloud.question("two"), *flags])


@pytest.fixture(scope="module")
def submitted(cloud: Cloud, source: Path, direct_run, two_processes, tmp_path_factory: pytest.TempPathFactory):
    """One job, submitted from its source with --setup_file: (what the command said, the job, the staged files)."""
    more = ["--setup_file=./setup.py", "--job_name=staged", "--labels=team=maps", "--run_id=staged_run"]
    done = cloud.run([*CLASSIFY, *cloud.question("staged"), *cloud.on_dataflow, *more], cwd=source)
    assert done.returncode == 0, done.stderr[-3000:]
    job = cloud.dataflow.jobs[-1]
    staged = tmp_path_factory.mktemp("staged")
    cloud.storage.download(BUCKET, job.options["staging_location"].removeprefix(f"gs://{BUCKET}/"), staged)
    return done, job, staged


@pytest.fixture(scope="module")
def worker(submitted, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Interpreter of an environment like a worker's, with the staged package installed."""
    python = staged_workers.environment(tmp_path_factory.mktemp("worker"))
    staged_workers.install(python, submitted[2] / "workflow.tar.gz")
    return python


def test_the_job_was_taken_and_is_what_was_asked_for(submitted):
    _, job, _ = submitted
    assert (job.project, job.region, job.message.name) == ("demo-project", "us-central1", "staged")
    assert job.message.type_ == dataflow_v1beta3.JobType.JOB_TYPE_BATCH
    assert dict(job.message.labels) == {
        "team": "maps",
        "pipeline": "gemini_image_pipeline",
        "task": "describe",
        "run_id": "staged_run",
    }
    (pool,) = job.message.environment.worker_pools
    assert pool.autoscaling_settings.max_num_workers == 2
    assert [Path(package.location).name for package in pool.packages] == [package.name for package in pool.packages]


def test_the_command_returns_after_submission_and_says_where_the_job_is(submitted, cloud):
    done, job, _ = submitted
    console, audit, last = done.stdout.splitlines()[-3:]
    assert f"https://console.cloud.google.com/dataflow/jobs/us-central1/{job.id}?project=demo-project" in console
    assert audit.endswith("--run_id=staged_run")
    assert last == f"submitted {ROWS} rows | run staged_run"
    lines = [run for run in cloud.runs("staged") if run["run_id"] == "staged_run"]
    assert {line["state"] for line in lines} == {"started"}
    assert job.id in str([line["options"] for line in lines])


def test_the_package_is_staged_and_nothing_that_workers_do_not_need(submitted):
    _, _, staged = submitted
    names = {path.name for path in staged.iterdir()}
    assert names == {"pipeline.pb", "workflow.tar.gz", "submission_environment_dependencies.txt"}
    with tarfile.open(staged / "workflow.tar.gz") as archive:
        files = [Path(*Path(member.name).parts[1:]) for member in archive if member.isfile()]
    top = {file.parts[0] for file in files}
    assert top - {"PKG-INFO", "setup.cfg", "gemini_image_pipeline.egg-info"} == {
        "pipeline",
        "setup.py",
        "pyproject.toml",
    }
    assert max((staged / name).stat().st_size for name in names) < 2_000_000


def test_the_staged_package_has_every_file_of_the_source(submitted, worker, source):
    assert staged_workers.missing_files(source, worker) == []


def test_a_data_file_that_the_package_leaves_out_is_found(source, tmp_path):
    copy = shutil.copytree(source, tmp_path / "source", ignore=shutil.ignore_patterns("*.egg-info", "build"))
    setup = copy / "setup.py"
    left_out = 'exclude_package_data={"": ["*.yaml"]}, package_data='
    setup.write_text(setup.read_text("utf-8").replace("package_data=", left_out), "utf-8")
    words = [sys.executable, "setup.py", "-q", "sdist", "--dist-dir", tmp_path]
    subprocess.run(words, cwd=copy, check=True, capture_output=True)
    python = staged_workers.environment(tmp_path / "worker")
    staged_workers.install(python, next(tmp_path.glob("*.tar.gz")))
    missing = staged_workers.missing_files(source, python)
    assert {"tasks/describe.yaml", "gemini/models.yaml"} <= set(missing)
    assert not [name for name in missing if name.endswith(".py")]


def test_what_was_staged_is_run_and_gives_the_answers_of_a_direct_run(submitted, worker, direct, cloud, tmp_path):
    _, job, staged = submitted
    state = staged_workers.run(worker, staged, job.options, tmp_path)
    cloud.dataflow.set_state(job.id, "JOB_STATE_DONE")
    assert state == "DONE"
    assert len(direct) == ROWS
    assert cloud.answers("staged") == direct

    done = cloud.run(["-m", "pipeline", "audit", *cloud.endpoints, f"--output_table={cloud.table('staged')}"])
    assert (done.returncode, done.stderr) == (0, "")
    assert (
        done.stdout.splitlines()[-1]
        == f"rows {ROWS} = answered {ROWS} + failed 0 (already answered 0) | run staged_run"
    )
    assert cloud.runs("staged")[-1]["state"] == "finished"


def test_two_worker_processes_give_the_tables_of_one(two_processes, direct, cloud):
    done = two_processes.result()
    assert done.returncode == 0, done.stderr[-3000:]
    assert cloud.answers("two") == direct
