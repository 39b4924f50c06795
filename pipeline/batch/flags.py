"""What a batch run cannot do, and where its files lie, by the flags alone."""

from __future__ import annotations

from pipeline.batch.lines import MAX_REQUESTS
from pipeline.batch.store import Folder
from pipeline.errors import ConfigError
from pipeline.options import Options


def check(options: Options, *, forks: bool = False) -> None:
    """What is wrong with the flags is said before any table is looked at.

    Args:
        options: our flags.
        forks: whether Beam's say that this machine works in several processes.

    Raises:
        ConfigError: which flag is in the way of --mode=batch or auto.
    """
    if options.mode == "online":
        return
    if options.on_dataflow:
        raise ConfigError(
            f"--mode={options.mode} with --runner={options.runner}: the model's own service does the work of a batch; leave "
            "--runner out, as this machine only writes requests and reads results, or --mode=online"
        )
    if forks:  # what running jobs will cost is known to one process, and an interrupt
        raise ConfigError(
            f"--direct_running_mode=multi_processing with --mode={options.mode}: a batch is seen to by one process; leave it "
            "out, or --mode=online"
        )
    if options.mode == "auto":  # asks online what a batch cannot
        return
    if options.image_source == "inline":
        raise ConfigError("--image_source=inline: a batch asks by URI; leave it out, or --mode=online")
    if options.images_per_request > 1:
        raise ConfigError("--images_per_request: a batch asks one image a request; leave it out, or --mode=online")
    if options.unit == "asset":
        raise ConfigError("--unit=asset: a batch asks one image a request; leave it out, or --mode=online")
    if options.service_tier != "standard":
        raise ConfigError(f"--service_tier={options.service_tier}: a batch has a price of its own; leave it out")
    check_jobs(options)


def check_jobs(options: Options) -> None:
    """The same for what every run with batch jobs needs.

    Raises:
        ConfigError: which flag is missing or wrong.
    """
    place(options)
    if options.batch_requests > MAX_REQUESTS:
        raise ConfigError(f"--batch_requests={options.batch_requests}: a job takes at most {MAX_REQUESTS:,}")


def place(options: Options) -> Folder:
    """The folder below which each run has its own."""
    given = options.batch_folder or options.temp_location
    if not given:
        raise ConfigError("--batch_folder is missing: where requests and results of batch jobs lie, gs://BUCKET/FOLDER")
    return Folder.parse(given, "--batch_folder" if options.batch_folder else "--temp_location")
