"""The template's page: generated from the flags, strict by Dataflow's own messages, and of one mind with the parser."""

import json
import re
import subprocess
from pathlib import Path

import pytest
from google.cloud import dataflow_v1beta3
from google.protobuf import json_format

from pipeline import options
from pipeline.errors import ConfigError
from templates import metadata

README = Path(__file__).parents[2] / "README.md"
PARAMETERS = {parameter["name"]: parameter for parameter in json.loads(metadata.FILE.read_text("utf-8"))["parameters"]}


def matches(regex: str, text: str) -> bool:
    """By POSIX, as the service does; grep is its reference here."""
    return subprocess.run(["grep", "-Eq", "--", regex], input=text, text=True, check=False).returncode == 0


def test_the_committed_file_is_the_generated_one():
    assert metadata.FILE.read_text("utf-8") == metadata.render(), "run make template-metadata"


def test_it_is_a_template_metadata_with_no_field_unknown_or_empty():
    message = dataflow_v1beta3.TemplateMetadata()
    json_format.Parse(metadata.FILE.read_text("utf-8"), message._pb, ignore_unknown_fields=False)
    assert message.name
    assert message.description
    for parameter in message.parameters:
        assert all((parameter.name, parameter.label, parameter.help_text, parameter.group_name)), parameter.name
        assert parameter.param_type, parameter.name
        assert bool(parameter.enum_options) == (parameter.param_type.name == "ENUM"), parameter.name
        assert all(option.value and option.label for option in parameter.enum_options)


def test_a_field_that_dataflow_does_not_know_would_be_refused():
    text = metadata.render().replace('"helpText"', '"help"', 1)
    with pytest.raises(json_format.ParseError, match="no field named"):
        json_format.Parse(text, dataflow_v1beta3.TemplateMetadata()._pb, ignore_unknown_fields=False)


def test_every_flag_of_the_readme_is_a_parameter_but_for_those_that_the_launcher_sets_or_refuses():
    flags = set(re.findall(r"^\| `--(\w+)` \|", README.read_text("utf-8"), re.MULTILINE))
    assert len(flags) > 30
    assert flags - metadata.RESERVED == set(PARAMETERS)
    assert not metadata.RESERVED & set(PARAMETERS)


def test_labels_are_different_and_begin_with_a_capital_letter():
    labels = [parameter["label"] for parameter in PARAMETERS.values()]
    assert len(set(labels)) == len(labels)
    assert all(label[0].isupper() and "_" not in label for label in labels)


def test_only_the_output_table_is_required():
    assert [name for name, parameter in PARAMETERS.items() if not parameter["isOptional"]] == ["output_table"]


@pytest.mark.parametrize("name", PARAMETERS)
def test_a_default_is_the_flags_own_and_passes_its_regexes(name):
    default = PARAMETERS[name].get("defaultValue")
    field = next(field for field, _ in options.flags() if field.name == name)
    if default is None:
        assert field.default is None
        return
    assert getattr(options.parse([f"--{name}={default}"])[0], name) == field.default
    assert all(matches(regex, default) for regex in PARAMETERS[name].get("regexes", ()))


GOOD = [
    "10485760",
    "a.b.c",
    "x:p.d.t",
    "1",
    "12",
    "0",
    "0.5",
    "1e3",
    ".5",
    "-1",
    "name",
    "_n1",
    "gs://b/p",
    "1.5,6",
    ".3,2.5",
    "r_1",
]
BAD = ["a b.c.d", "a.b", "", "ten", "1,5", "é", "gs:/b", "1.5", "0x1", "`a`.b.c", "1.5,", "A-B", "s3://b", "-0.5"]


@pytest.mark.parametrize("name", [name for name, parameter in PARAMETERS.items() if "regexes" in parameter])
def test_what_the_page_lets_through_the_flag_reads_and_what_it_refuses_the_flag_refuses(name):
    """On values of every kind; the flag alone knows least and largest numbers, the page alone that a template writes to gs://."""
    let_through = 0
    for value in [*GOOD, *BAD]:
        by_page = all(matches(regex, value) for regex in PARAMETERS[name]["regexes"])
        try:
            options.parse([f"--{name}={value}"])
            by_flag = True
        except ConfigError as error:
            by_flag = False
            if "expected at least" in str(error) or "expected at most" in str(error):
                continue
        if value == "" or (name == "temp_location" and not by_page):
            continue
        assert by_page == by_flag, value
        let_through += by_page
    assert let_through


@pytest.mark.parametrize("name", PARAMETERS)
def test_a_regex_is_posix(name):
    for regex in PARAMETERS[name].get("regexes", ()):
        assert not re.search(r"\\[dwsDWSbB]|\(\?", regex), "grep -E of another system would not know this"
        assert regex.startswith("^"), "the service searches: an open end would let anything through"
        assert regex.endswith("$")


@pytest.mark.parametrize("name", PARAMETERS)
def test_every_enum_option_is_a_value_that_the_flag_takes(name):
    for option in PARAMETERS[name].get("enumOptions", ()):
        assert getattr(options.parse([f"--{name}={option['value']}"])[0], name) == option["value"]
