"""What Dataflow does with a Flex Template's launch, up to the program that the launcher starts: pure functions."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

# Field of a launch's environment to the flag that the launcher makes of it.
_LAUNCHER_FLAGS = {
    "num_workers": "num_workers",
    "max_workers": "max_num_workers",
    "machine_type": "machine_type",
    "service_account_email": "service_account_email",
    "temp_location": "temp_location",
    "staging_location": "staging_location",
    "network": "network",
    "subnetwork": "subnetwork",
    "worker_region": "worker_region",
    "worker_zone": "worker_zone",
    "sdk_container_image": "sdk_container_image",
}


@dataclasses.dataclass(frozen=True, slots=True)
class Launch:
    """One launch of a template that was taken.

    Attributes:
        words: what the launcher passes to the template's program.
        job_graph: the gs:// object in which it expects the job afterwards.
    """

    words: tuple[str, ...]
    job_graph: str


def parameter_faults(declared: Sequence[Mapping[str, Any]], given: Mapping[str, str]) -> list[str]:
    """What the service finds wrong with a launch's parameters by the template's metadata."""
    known = {parameter["name"]: parameter for parameter in declared}
    faults = [f"unrecognized parameter: {name}" for name in given if name not in known]
    for name, parameter in known.items():
        if name not in given:
            if not parameter.get("isOptional"):
                faults.append(f"missing required parameter: {name}")
            continue
        faults += [
            f"{name}={given[name]!r} does not match {regex}"
            for regex in parameter.get("regexes", ())
            if not re.search(regex.replace("[:space:]", r"\s"), given[name])
        ]
    return faults


def launch(given: Any, project: str, region: str, job_id: str) -> Launch:
    """How Google's launcher starts the program: parameters first, then what it sets itself, all `--name=value`."""
    environment = given.environment
    staging = environment.staging_location or environment.temp_location
    job_graph = f"{staging.rstrip('/')}/template_launches/{job_id}/job_object"
    words = [f"--{name}={value}" for name, value in given.parameters.items()]
    words += ["--runner=DataflowRunner", f"--project={project}", f"--region={region}", f"--job_name={given.job_name}"]
    words += [f"--template_location={job_graph}"]
    for field, flag in _LAUNCHER_FLAGS.items():
        if getattr(environment, field):
            words.append(f"--{flag}={getattr(environment, field)}")
    words += [f"--experiments={experiment}" for experiment in environment.additional_experiments]
    if environment.additional_user_labels:
        words.append(f"--labels={json.dumps(dict(environment.additional_user_labels))}")
    words += [f"--{option}" for option in environment.additional_pipeline_options]
    return Launch(tuple(words), job_graph)
