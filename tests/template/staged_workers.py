"""What happens on a worker, without Dataflow: the staged package is installed, the staged pipeline is run from it."""

import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
UV = Path(sys.executable).with_name("uv")
# The SDK image has it: it builds the staged source.
OF_THE_IMAGE = "setuptools"


def environment(directory: Path) -> Path:
    """A new environment with the locked worker requirements and nothing else; its interpreter.

    They are linked from the environment that runs the tests, which has the same versions: half a second, no network.
    """
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", directory], check=True)
    (site,) = directory.glob("lib/python*/site-packages")
    for requirement in [*locked(), Requirement(OF_THE_IMAGE)]:
        distribution = importlib.metadata.distribution(requirement.name)
        assert requirement.specifier.contains(distribution.version), f"{requirement}: make venv"
        _link(distribution, site)
    return directory / "bin" / "python"


def locked() -> Iterator[Requirement]:
    """The packages of requirements.txt that this system needs."""
    for line in (ROOT / "requirements.txt").read_text("utf-8").splitlines():
        if line and line[0] not in " #":
            requirement = Requirement(line.rstrip("\\ "))
            if requirement.marker is None or requirement.marker.evaluate():
                yield requirement


def _link(distribution: importlib.metadata.Distribution, site: Path) -> None:
    base = Path(str(distribution.locate_file("")))
    for file in distribution.files or ():
        if file.parts[0] == ".." or "__pycache__" in file.parts:
            continue
        target = site / file
        target.parent.mkdir(parents=True, exist_ok=True)
        _link_or_copy(base / file, target)
        compiled = (base / file).parent / "__pycache__" / f"{target.stem}.{sys.implementation.cache_tag}.pyc"
        if target.suffix == ".py" and compiled.exists():
            (target.parent / "__pycache__").mkdir(exist_ok=True)
            _link_or_copy(compiled, target.parent / "__pycache__" / compiled.name)


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # on another disk
        shutil.copy2(source, target)


def install(python: Path, sdist: Path) -> None:
    """What Beam's boot does with the staged package; then every requirement of every package must be there."""
    words = [UV, "pip", "install", "-q", "--offline", "--no-deps", "--no-build-isolation", "--reinstall", "-p", python]
    subprocess.run([*words, sdist], check=True)
    subprocess.run([UV, "pip", "check", "-q", "-p", python], check=True)


def missing_files(source: Path, python: Path) -> list[str]:
    """The files of the source's package that its installation lacks, but for the embedded services: workers have none."""
    code = "import pathlib, pipeline; print(pathlib.Path(pipeline.__file__).parent)"
    done = subprocess.run([python, "-P", "-c", code], capture_output=True, text=True, check=True, cwd=python.parent)
    installed = Path(done.stdout.strip())
    assert installed.is_relative_to(python.parents[1]), installed
    assert not (installed / "local").exists()
    names = (path.relative_to(source / "pipeline") for path in (source / "pipeline").rglob("*") if path.is_file())
    return sorted(
        str(name)
        for name in names
        if not {"__pycache__", "local"} & set(name.parts) and not (installed / name).exists()
    )


def run(python: Path, staged: Path, options: Mapping[str, Any], directory: Path) -> str:
    """Run the staged pipeline.pb in worker processes of `python`; how it ended, such as `DONE`.

    Args:
        python: interpreter of the workers' environment.
        staged: what was staged.
        options: the pipeline options of the job, as the service has them.
        directory: for the workers' files.
    """
    shutil.copytree(staged, directory / "staged")
    (directory / "options.json").write_text(json.dumps(_whole(options)), "utf-8")
    start = (
        f"cd {directory} && exec env -u PYTHONPATH SEMI_PERSISTENT_DIRECTORY={directory} "
        f"PIPELINE_OPTIONS_FILE={directory}/options.json {python} -P -m apache_beam.runners.worker.sdk_worker_main"
    )
    return _run((staged / "pipeline.pb").read_bytes(), "beam:env:harness_subprocess_python:v1", start.encode(), options)


def on_a_worker_pool(pipeline: bytes, address: str, options: Mapping[str, Any]) -> str:
    """Run a staged pipeline with the workers that the pool at `address` starts; how it ended."""
    from apache_beam.portability import common_urns
    from apache_beam.portability.api import beam_runner_api_pb2, endpoints_pb2

    endpoint = endpoints_pb2.ApiServiceDescriptor(url=address)
    payload = beam_runner_api_pb2.ExternalPayload(endpoint=endpoint).SerializeToString()
    return _run(pipeline, common_urns.environments.EXTERNAL.urn, payload, options)


def _run(serialized: bytes, urn: str, payload: bytes, options: Mapping[str, Any]) -> str:
    """Run a pipeline as it is, but for where its workers are."""
    from apache_beam.options.pipeline_options import PipelineOptions
    from apache_beam.portability import common_urns
    from apache_beam.portability.api import beam_provision_api_pb2, beam_runner_api_pb2
    from apache_beam.runners.portability.fn_api_runner.fn_runner import ExtendedProvisionInfo, FnApiRunner
    from google.protobuf import json_format

    pipeline = beam_runner_api_pb2.Pipeline.FromString(serialized)
    for workers in pipeline.components.environments.values():
        assert workers.urn == common_urns.environments.DOCKER.urn
        workers.urn, workers.payload = urn, payload
        del workers.dependencies[:]
    information = beam_provision_api_pb2.ProvisionInfo()
    json_format.ParseDict(_whole(options), information.pipeline_options)
    runner = FnApiRunner(provision_info=ExtendedProvisionInfo(information))
    return str(runner.run_via_runner_api(pipeline, PipelineOptions([])).wait_until_finish())


def _whole(options: Mapping[str, Any]) -> dict[str, Any]:
    """A Struct has only doubles; the service gives whole numbers back as such."""
    return {
        name: int(value) if isinstance(value, float) and value.is_integer() else value
        for name, value in options.items()
    }
