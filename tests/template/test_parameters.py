"""Parameters are strings: every one as the launcher passes it, with the flags that the launcher adds."""

import json
import os
from pathlib import Path

import pytest
from google.cloud import dataflow_v1beta3

from pipeline import options, submit
from pipeline.errors import ConfigError
from pipeline.local.flex_template import launch, parameter_faults
from templates import main, metadata

ROOT = Path(__file__).parents[2]
PARAMETERS = {parameter["name"]: parameter for parameter in metadata.parameters()}
FIELDS = {field.name: field for field, _ in options.flags()}
KINDS = options.flag_types()
# The environment of a launch says these too, after the parameters, and wins.
ALSO_IN_THE_ENVIRONMENT = {"temp_location": "gs://bucket/tmp", "max_num_workers": 3}
IMAGE = {main.IMAGE: "docker.io/library/pipeline:1"}


def words(**parameters: str) -> list[str]:
    """What the program gets of a launch with these parameters and a full environment."""
    given = dataflow_v1beta3.LaunchFlexTemplateParameter(
        job_name="nightly",
        parameters={"output_table": "p.d.t", **parameters},
        environment={
            "temp_location": "gs://bucket/tmp",
            "staging_location": "gs://bucket/staging",
            "max_workers": 3,
            "num_workers": 1,
            "machine_type": "e2-standard-2",
            "service_account_email": "worker@demo-project.iam.gserviceaccount.com",
            "subnetwork": "regions/us-central1/subnetworks/private",
            "additional_experiments": ["no_use_multiple_sdk_containers", "a=b"],
            "additional_user_labels": {"team": "maps"},
            "additional_pipeline_options": ["number_of_worker_harness_threads=4"],
        },
    )
    return main.arguments(launch(given, "demo-project", "us-central1", "2026-01-01_00_00_00-1").words, IMAGE)


def read(name: str, value: str) -> object:
    """The value that `classify` sees; Beam's own parser has seen all the words too."""
    argv = words(**{name: value})
    given, _ = options.parse(argv)
    submit.beam_options(argv, given)
    return getattr(given, name)


@pytest.mark.parametrize("name", [name for name in PARAMETERS if name != "output_table"])
def test_an_empty_parameter_means_the_default(name):
    assert read(name, "") == ALSO_IN_THE_ENVIRONMENT.get(name, FIELDS[name].default)


@pytest.mark.parametrize("name", [name for name, parameter in PARAMETERS.items() if "defaultValue" in parameter])
def test_the_default_that_the_page_fills_in_is_the_default(name):
    assert read(name, PARAMETERS[name]["defaultValue"]) == FIELDS[name].default


@pytest.mark.parametrize("name", [name for name, kind in KINDS.items() if kind is bool])
def test_a_boolean_parameter_is_true_or_false_in_any_case(name):
    assert [read(name, text) for text in ("true", "false", "True", "FALSE")] == [True, False, True, False]


def malformed(name: str) -> list[str]:
    """Values that this parameter must not have, by its kind; a free text has none."""
    if KINDS[name] is bool:
        return ["yes", "1", "truee"]
    if KINDS[name] in (int, float):
        return ["ten", "true", "1,000", "1 000"]
    if "enumOptions" in PARAMETERS[name]:
        return ["true", "other", "Low"]
    return ["a b"] if "regexes" in PARAMETERS[name] and name != "temp_location" else []


@pytest.mark.parametrize("name", [name for name in PARAMETERS if malformed(name)])
def test_a_malformed_parameter_is_one_line_that_names_flag_and_value(name):
    for value in malformed(name):
        with pytest.raises(ConfigError) as error:
            read(name, value)
        assert f"--{name}={value}" in str(error.value)
        assert "\n" not in str(error.value)
        assert error.value.exit_code == 2


@pytest.mark.parametrize("name", [name for name in PARAMETERS if not malformed(name) and KINDS[name] is str])
def test_a_text_parameter_is_passed_as_it_is(name):
    text = "gs://bucket/a = 'x, y' --runner=DirectRunner\n\"z\""
    assert read(name, text) == ALSO_IN_THE_ENVIRONMENT.get(name, text)


def test_the_page_refuses_what_the_program_would_refuse():
    declared = list(PARAMETERS.values())
    assert parameter_faults(declared, {"output_table": "p.d.t", "limit": "10"}) == []
    assert parameter_faults(declared, {"limit": "ten", "modle": "x"}) == [
        "unrecognized parameter: modle",
        "limit='ten' does not match ^0*[1-9][0-9]*$",
        "missing required parameter: output_table",
    ]


def test_the_workers_run_the_image_that_the_launcher_runs_in():
    assert words()[-1] == f"--sdk_container_image={IMAGE[main.IMAGE]}"
    made = submit.beam_options(words(), options.parse(words())[0])
    assert made.get_all_options()["sdk_container_image"] == IMAGE[main.IMAGE]


@pytest.mark.parametrize("said", ["--sdk_container_image=other:2", "--setup_file=./setup.py"])
def test_an_image_that_was_named_stays(said):
    given = ["--runner=DataflowRunner", said]
    assert main.arguments(given, IMAGE) == given


def test_an_image_that_does_not_know_its_name_says_what_to_do_before_anything_is_spent():
    with pytest.raises(ConfigError, match="build with --build-arg PIPELINE_IMAGE"):
        main.arguments(["--runner=DataflowRunner"], {})
    assert main.arguments(["--limit=3"], {}) == ["--limit=3"]


def test_labels_of_the_launch_reach_beam():
    made = submit.beam_options(words(), options.parse(words())[0])
    assert [json.loads(label) for label in made.get_all_options()["labels"]] == [{"team": "maps"}]


ON_DATAFLOW = {
    "runner": "DataflowRunner",
    "project": "demo-project",
    "region": "us-central1",
    "temp_location": "gs://bucket/tmp",
    "sdk_container_image": "image:1",
}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"region": None}, "--region is missing: where the Dataflow job runs, such as us-central1"),
        ({"temp_location": None}, "--temp_location is missing: a folder for the Dataflow job's files"),
        ({"temp_location": "gs://bucket"}, "Did you mean: 'gs://bucket/"),
        ({"temp_location": "/tmp"}, "Invalid GCS path (/tmp)"),
        ({"job_name": "Nightly_Run"}, "Invalid job_name (Nightly_Run)"),
        ({"project": "123"}, "Project ID"),
        ({"sdk_container_image": None}, "the workers would lack this package: add --setup_file=./setup.py"),
        (
            {"setup_file": "none/setup.py"},
            "--setup_file=none/setup.py: no such file; in the package's source it is ./setup.py",
        ),
    ],
)
def test_what_dataflow_needs_is_asked_for_in_one_line_before_anything_is_spent(changes, says):
    argv = [f"--{name}={value}" for name, value in (ON_DATAFLOW | changes).items() if value]
    with pytest.raises(ConfigError) as error:
        submit.beam_options(argv, options.parse(argv)[0])
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_a_bare_setup_file_is_taken_too(monkeypatch):
    """Beam's own staging fails on a name without a directory."""
    monkeypatch.chdir(ROOT)
    argv = [f"--{name}={value}" for name, value in (ON_DATAFLOW | {"setup_file": "setup.py"}).items() if value]
    made = submit.beam_options(argv, options.parse(argv)[0])
    assert made.get_all_options()["setup_file"] == str(ROOT / "setup.py")


def processes(**changes):
    argv = [f"--{name}={value}" for name, value in (ON_DATAFLOW | changes).items() if value is not None]
    given = options.parse(argv)[0]
    return submit.processes(submit.beam_options(argv, given), given)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"max_num_workers": 3, "machine_type": "e2-standard-2"}, 6),  # an SDK process for each vCPU
        ({"max_num_workers": 3, "machine_type": "n2-custom-4-16384"}, 12),
        ({"max_num_workers": 3, "machine_type": "custom-8-30720-ext"}, 24),
        ({"max_num_workers": 3, "machine_type": "e2-medium"}, None),
        ({"max_num_workers": 3, "machine_type": "e2-custom-micro-1024"}, None),
        ({"max_num_workers": 3}, None),
        ({"machine_type": "e2-standard-2"}, None),
        ({"max_num_workers": 3, "num_workers": 2, "machine_type": "e2-standard-2"}, 6),
        ({"max_num_workers": 2, "num_workers": 3, "machine_type": "e2-standard-2"}, 6),
        ({"num_workers": 3, "machine_type": "e2-standard-2"}, None),  # it may grow
        ({"num_workers": 3, "machine_type": "e2-standard-2", "autoscaling_algorithm": "NONE"}, 6),
        (
            {"max_num_workers": 2, "num_workers": 10, "machine_type": "n1-standard-1", "autoscaling_algorithm": "NONE"},
            10,
        ),
        ({"max_num_workers": 2, "machine_type": "n1-standard-1", "autoscaling_algorithm": "NONE"}, None),
        ({"max_num_workers": 3, "experiments": "no_use_multiple_sdk_containers"}, 3),
        ({"max_num_workers": 3, "machine_type": "e2-standard-2", "experiments": "no_use_multiple_sdk_containers"}, 3),
        ({"runner": "DirectRunner", "direct_num_workers": 4}, 1),
        ({"runner": "DirectRunner", "direct_num_workers": 4, "direct_running_mode": "multi_threading"}, 1),
        ({"runner": "DirectRunner", "direct_num_workers": 4, "direct_running_mode": "multi_processing"}, 4),
        (
            {"runner": "DirectRunner", "direct_num_workers": 0, "direct_running_mode": "multi_processing"},
            os.cpu_count(),
        ),
    ],
)
def test_the_processes_among_which_a_cap_is_divided_are_the_most_that_there_may_be(changes, expected):
    assert processes(**changes) == expected
