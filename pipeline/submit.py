"""All that a launcher needs of Beam: the options, the runner, the signals. Imported late: Beam takes seconds to load."""

import argparse
import contextlib
import dataclasses
import io
import os
import re
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import apache_beam as beam
from apache_beam.options.pipeline_options import (
    DebugOptions,
    DirectOptions,
    GoogleCloudOptions,
    PipelineOptions,
    SetupOptions,
    StandardOptions,
    WorkerOptions,
)
from apache_beam.options.pipeline_options_validator import PipelineOptionsValidator

from pipeline import graph, options
from pipeline.bigquery.worklist import Shard
from pipeline.errors import ConfigError
from pipeline.options import Options
from pipeline.run_config import RunConfig

# DirectRunner would look for Prism, download it where there is a network, and run on it; without one it would fall back.
# The same command must run on the same engine everywhere: the SDK's own in-memory runner. Prism is there by its name.
_LOCAL_RUNNER = "apache_beam.runners.portability.fn_api_runner.FnApiRunner"


class ClassifyOptions(PipelineOptions):
    """Our flags, so that Beam knows them and Dataflow shows them beside the job."""

    @classmethod
    def _add_argparse_args(cls, parser: argparse.ArgumentParser) -> None:
        options.add_arguments(parser, without_beams_own=True)


def beam_options(argv: Sequence[str], given: Options) -> PipelineOptions:
    """Beam's view of the command line.

    Raises:
        ConfigError: a flag that neither we nor Beam know, or a value that Beam refuses.
    """
    _, rest = options.parse(argv)
    # Empty values mean defaults, for Beam's own flags too: a template passes empty parameters that way.
    argv = [word for word in argv if not re.fullmatch(r"--\w+=", word)]
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for kind in PipelineOptions.__subclasses__():
        kind._add_argparse_args(parser)  # type: ignore[arg-type]  # any argparse parser serves
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            _, unknown = parser.parse_known_args(list(argv))
    except SystemExit:
        raise ConfigError(complaint.getvalue().strip().rpartition("error: ")[2]) from None
    for word in unknown:
        if word.startswith("-") and word in rest:
            known = [name.lstrip("-") for action in parser._actions for name in action.option_strings]
            raise options.unknown_flag(word, known)
    made = PipelineOptions(argv)
    standard = made.view_as(StandardOptions)
    standard.runner = _LOCAL_RUNNER if given.runner == "DirectRunner" else given.runner
    made.view_as(SetupOptions).save_main_session = False  # all that workers need is importable
    if not is_local(given):
        _check_dataflow(made)
    return made


def _check_dataflow(made: PipelineOptions) -> None:
    """What the job will need. Beam would miss it only after the first call was paid, or on the workers.

    Raises:
        ConfigError: what is missing or wrong.
    """
    cloud, setup = made.view_as(GoogleCloudOptions), made.view_as(SetupOptions)
    cloud.project = cloud.project or os.environ.get("GOOGLE_CLOUD_PROJECT")
    if not cloud.region:
        raise ConfigError("--region is missing: where the Dataflow job runs, such as us-central1")
    if not cloud.temp_location:
        raise ConfigError("--temp_location is missing: a folder for the Dataflow job's files, gs://BUCKET/FOLDER")
    if setup.setup_file:
        file = Path(setup.setup_file)
        if not file.is_file():
            raise ConfigError(f"--setup_file={file}: no such file; in the package's source it is ./setup.py")
        setup.setup_file = str(file.absolute())  # Beam fails on a name without a directory
    elif not (made.view_as(WorkerOptions).sdk_container_image or setup.extra_packages):
        raise ConfigError(
            "the workers would lack this package: add --setup_file=./setup.py in the package's source, or "
            "--sdk_container_image with an image that holds it (docs/dataflow.md)"
        )
    validator = PipelineOptionsValidator(made, runner=None)  # of all its checks, those that make no calls
    faults = [*validator.validate_cloud_options(cloud), *validator.validate_gcs_path(cloud, "temp_location")]
    if faults:
        raise ConfigError("; ".join(" ".join(fault.split()) for fault in faults))


def is_local(given: Options) -> bool:
    """Whether the launcher itself waits for the end: on every runner but Dataflow's."""
    return not given.on_dataflow


def forks(made: PipelineOptions, given: Options) -> bool:
    """Whether bundles are worked on in processes of their own on this machine."""
    return is_local(given) and made.view_as(DirectOptions).direct_running_mode == "multi_processing"


def processes(made: PipelineOptions, given: Options) -> int | None:
    """Worker processes of the job at most, by which a cap of the whole job is divided; None when it is not known."""
    if forks(made, given):
        return made.view_as(DirectOptions).direct_num_workers or os.cpu_count() or 1  # 0 is one a core
    if is_local(given):
        return 1
    worker = made.view_as(WorkerOptions)
    machines = worker.num_workers  # they stay so many without autoscaling, whatever the most is
    if worker.autoscaling_algorithm != "NONE":  # the most is not known without its flag
        machines = worker.max_num_workers and max(worker.max_num_workers, worker.num_workers or 0)
    if not machines:
        return None
    one_each = made.view_as(DebugOptions).lookup_experiment("no_use_multiple_sdk_containers")
    cores = 1 if one_each else _cores(worker.machine_type or "")  # Dataflow starts an SDK process for each vCPU
    return int(machines) * cores if cores else None


def _cores(machine_type: str) -> int | None:
    """The vCPUs in a machine type's name: n1-standard-4, n2-custom-8-16384; None where it does not say."""
    found = re.search(r"custom-(\d+)-" if "custom" in machine_type else r"-(\d+)$", machine_type)
    return int(found[1]) if found else None


@dataclasses.dataclass(frozen=True)
class Job:
    """A job that Dataflow has taken, or will start by itself. The id is empty when it is not known."""

    id: str
    cancel: Callable[[], object]


def run(
    config: RunConfig, shards: list[Shard], made: PipelineOptions, given: Options, interrupted: threading.Event
) -> Job | None:
    """Run the graph: to its end on a local runner, to its submission on Dataflow. Nothing begins after an interrupt.

    Returns:
        The Dataflow job; None when the run is over.
    """
    cloud = made.view_as(GoogleCloudOptions)
    cloud.labels = [*(cloud.labels or []), *_labels(config)]
    pipeline = beam.Pipeline(options=made)
    graph.build(pipeline, config, shards)
    if interrupted.is_set():
        return None
    result = pipeline.run()
    if is_local(given):
        result.wait_until_finish()
        return None
    if cloud.template_location:  # the service starts the job when this process has ended, under the launch's own id
        if interrupted.is_set():  # and none when it has ended with an error
            return None
        launched = re.search(r"/template_launches/([^/]+)/", cloud.template_location)
        return Job(launched[1] if launched else "", result.cancel)
    return Job(str(result.job_id()), result.cancel)  # type: ignore[attr-defined]  # Dataflow's own result


def _labels(config: RunConfig) -> list[str]:
    """The Dataflow job's labels, the same as those of the run's BigQuery jobs, in the letters that labels may have."""
    labels = {"pipeline": "gemini_image_pipeline", "task": config.question.task.name, "run_id": config.run_id}
    return [f"{name}={re.sub(r'[^a-z0-9_-]', '_', value.lower())[:63]}" for name, value in labels.items()]


@contextlib.contextmanager
def interruptible(stop: Callable[[], None]) -> Iterator[threading.Event]:
    """While the block lasts, SIGINT and SIGTERM call `stop` once, on a thread of its own, and set the event."""
    interrupted = threading.Event()

    def handle(_signal: int, _frame: object) -> None:
        if not interrupted.is_set():
            interrupted.set()
            threading.Thread(target=stop, name="stop", daemon=True).start()

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield interrupted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
