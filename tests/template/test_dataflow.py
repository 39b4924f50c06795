"""The real DataflowRunner submits the real job; what it staged is installed and run."""

import json
import tarfile
from pathlib import Path

import pytest

import workers
from conftest import BUCKET, ROOT, ROWS, Cloud


@pytest.fixture(scope="module")
def submitted(cloud: Cloud, source: Path, tmp_path_factory: pytest.TempPathFactory):
    """One job, submitted from its source with --setup_file: (what the command said, the job, the staged files)."""
    done = cloud.run(
        ["-m", "pipeline", "classify", *cloud.question("staged"), *cloud.on_dataflow]
        + ["--setup_file=./setup.py", "--job_name=staged", "--labels=team=maps", "--run_id=staged_run"],
        cwd=source,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    job = cloud.dataflow.jobs[-1]
    staged = tmp_path_factory.mktemp("staged")
    cloud.storage.download(BUCKET, job.options["staging_location"].removeprefix(f"gs://{BUCKET}/"), staged)
    return done, job, staged


def test_try(submitted):
    done, job, staged = submitted
    print(done.stdout, done.stderr)
    print(job.message.labels, job.options)
    print(sorted(staged.iterdir()))
    assert 0
