"""`make test-image`: the Dockerfile is built unchanged on stand-in base images; launcher and worker run in the image.

Stand-ins: Debian's minimal system and Python for Beam's SDK image, with Beam's own worker boot built from its source at
the pinned version; a shell script for Google's launcher, which is not public. What is not proven: those two images.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import grpc
import pytest
from check_prism import beam_version, built
from google.cloud import dataflow_v1beta3
from google.protobuf import json_format
from loopback_cloud import BUCKET, ROOT, ROWS, Cloud
from staged_workers import on_a_worker_pool

from pipeline.local.flex_template import Launch, launch

pytestmark = pytest.mark.timeout(3600)  # pip installs 120 packages, and each step copies the image
HOME = ROOT / ".local" / "image"
IMAGE = "localhost/gemini-image-pipeline:test"
DEBIAN = ["bookworm", "https://deb.debian.org/debian"]
PACKAGES = "ca-certificates,python3,python3-pip,python3-setuptools,python3-venv,python3-wheel"
CERTIFICATES = "/etc/ssl/certs"
WORKER_POOL_PORT = 50000  # Beam's boot knows no other
BOOT = "github.com/apache/beam/sdks/v2/python/container"
LAUNCHER = "/opt/google/dataflow/python_template_launcher"
SDK_BASE, LAUNCHER_BASE = "beam_python", "template-launcher-base"

# Google's launcher runs the program that the image names, with its interpreter and the launch's words.
LAUNCHER_STAND_IN = """#!/bin/sh
exec python "$FLEX_TEMPLATE_PYTHON_PY_FILE" "$@"
"""
# What makes Debian's Python look like the official image's.
LIKE_THE_SDK_IMAGE = (
    "rm -f /usr/lib/python3*/EXTERNALLY-MANAGED; "
    "ln -sf /usr/bin/python3 /usr/local/bin/python; ln -sf /usr/bin/pip3 /usr/local/bin/pip"
)


def buildah(*words: str | Path) -> str:
    store = ["--root", HOME / "store", "--runroot", HOME / "run", "--storage-driver", "vfs"]
    command = ["buildah", *store, "--registries-conf", HOME / "registries.conf", *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{words}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout.strip()


@contextlib.contextmanager
def container(image: str) -> Iterator[str]:
    name = buildah("from", "--pull-never", image)
    try:
        yield name
    finally:
        buildah("rm", name)


def in_container(name: str, words: Sequence[str], environment: dict[str, str]) -> list[str | Path]:
    """The command that runs `words` in a container, with this machine's network and these variables."""
    variables = [word for key, value in environment.items() for word in ("--env", f"{key}={value}")]
    store = ["--root", str(HOME / "store"), "--runroot", str(HOME / "run"), "--storage-driver", "vfs"]
    return ["buildah", *store, "run", "--isolation", "chroot", *variables, name, "--", *words]


def base_images() -> dict[str, str]:
    """The Dockerfile's own names of its base images: what each is for, to its name."""
    names = re.findall(r"^FROM (\S+)", (ROOT / "templates" / "Dockerfile").read_text("utf-8"), re.MULTILINE)
    return {kind: next(name for name in names if kind in name) for kind in (SDK_BASE, LAUNCHER_BASE)}


@pytest.fixture(scope="session")
def image() -> str:
    missing = [tool for tool in ("buildah", "debootstrap", "go") if not shutil.which(tool)]
    missing += ["root"] if os.geteuid() else []
    if missing:
        pytest.fail(
            f"missing: {', '.join(missing)} (Debian: apt-get install buildah debootstrap golang)", pytrace=False
        )
    HOME.mkdir(parents=True, exist_ok=True)
    (HOME / "registries.conf").write_text('unqualified-search-registries = ["docker.io"]\n', "utf-8")
    buildah("rm", "--all")  # what an interrupted run left
    _make_base_images(built(BOOT, beam_version()))
    files = ["--file", "templates/Dockerfile", "--ignorefile", "templates/Dockerfile.dockerignore"]
    flags = ["--pull-never", "--isolation", "chroot", "--volume", f"{CERTIFICATES}:{CERTIFICATES}:ro"]
    buildah("build", *files, *flags, "--build-arg", f"PIPELINE_IMAGE={IMAGE}", "--tag", IMAGE, ".")
    buildah("rmi", "--prune", "--force")  # the images of the runs before
    return IMAGE


def _make_base_images(boot: Path) -> None:
    names = base_images()
    system = HOME / "debian"
    if not (system / "etc" / "debian_version").exists():
        subprocess.run(
            ["debootstrap", "--variant=minbase", f"--include={PACKAGES}", DEBIAN[0], system, DEBIAN[1]], check=True
        )
    sdk = buildah("from", "scratch")
    buildah("add", "--quiet", sdk, system, "/")
    buildah("copy", "--quiet", sdk, boot, "/opt/apache/beam/boot")
    buildah("run", "--isolation", "chroot", sdk, "--", "sh", "-c", LIKE_THE_SDK_IMAGE)
    buildah("config", "--env", f"PIP_CERT={CERTIFICATES}/ca-certificates.crt", sdk)
    buildah("commit", "--quiet", "--rm", sdk, f"docker.io/{names[SDK_BASE]}")
    script = HOME / "launcher"
    script.write_text(LAUNCHER_STAND_IN, "utf-8")
    script.chmod(0o755)
    launcher = buildah("from", "scratch")
    buildah("copy", "--quiet", launcher, script, LAUNCHER)
    buildah("commit", "--quiet", "--rm", launcher, names[LAUNCHER_BASE])


@pytest.fixture(scope="session")
def environment(cloud: Cloud, image: str) -> dict[str, str]:
    """What a container needs to find this cloud."""
    return {
        **cloud.dataflow.environment(HOME),
        **cloud.storage.environment,
        "GOOGLE_APPLICATION_CREDENTIALS": "/tmp/key",
    }


@pytest.fixture(scope="session")
def launched(cloud: Cloud, image: str, environment) -> tuple[Launch, subprocess.CompletedProcess[str]]:
    parameters = dict(flag.removeprefix("--").split("=", 1) for flag in cloud.question("in_image"))
    given = dataflow_v1beta3.LaunchFlexTemplateParameter(
        job_name="in-image",
        parameters={name: value for name, value in parameters.items() if name != "project"},
        environment={"temp_location": f"gs://{BUCKET}/tmp", "max_workers": 1},
    )
    launching = launch(given, cloud.bigquery.project, "us-central1", "2026-01-01_00_00_00-77")
    with container(image) as name:
        buildah("copy", "--quiet", name, HOME / "credentials.json", "/tmp/key")
        words = in_container(name, [LAUNCHER, *launching.words, *cloud.dataflow.flags], environment)
        return launching, subprocess.run(words, capture_output=True, text=True, check=False)


def test_the_launcher_in_the_image_leaves_a_job_whose_workers_run_the_image(launched, cloud):
    launching, done = launched
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.splitlines()[-1].startswith(f"submitted {ROWS} rows | run ")
    job = dataflow_v1beta3.Job()
    text = cloud.storage.read(BUCKET, launching.job_graph.removeprefix(f"gs://{BUCKET}/"))
    json_format.Parse(text, job._pb, ignore_unknown_fields=False)
    (pool,) = job.environment.worker_pools
    assert [harness.container_image for harness in pool.sdk_harness_container_images] == [IMAGE]


def test_beams_own_boot_in_the_image_runs_the_job(launched, direct, cloud, image, environment):
    launching, _ = launched
    text = cloud.storage.read(BUCKET, launching.job_graph.removeprefix(f"gs://{BUCKET}/"))
    options = json.loads(text)["environment"]["sdkPipelineOptions"]["options"]
    pipeline = cloud.storage.read(BUCKET, options["pipelineUrl"].removeprefix(f"gs://{BUCKET}/"))
    address = f"localhost:{WORKER_POOL_PORT}"
    with container(image) as name, contextlib.ExitStack() as stack:
        entry = json.loads(buildah("inspect", name))["OCIv1"]["config"]["Entrypoint"]
        pool = subprocess.Popen(
            in_container(name, [*entry, "--worker_pool"], environment),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        stack.callback(pool.wait)
        stack.callback(os.killpg, pool.pid, signal.SIGKILL)  # with the processes that it started
        channel = stack.enter_context(grpc.insecure_channel(address))
        grpc.channel_ready_future(channel).result(timeout=120)
        assert on_a_worker_pool(pipeline, address, options) == "DONE"
    assert cloud.answers("in_image") == direct
