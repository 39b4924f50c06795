"""Flags: read as people and templates write them, refused with one line that says how to mend it."""

import re
from pathlib import Path

import pytest

from pipeline import options
from pipeline.errors import ConfigError

README = Path(__file__).parent.parent / "README.md"


def test_the_readme_table_is_the_options():
    assert options.markdown() in README.read_text("utf-8")


@pytest.mark.parametrize(
    ("argv", "name", "value"),
    [
        (["--limit=10"], "limit", 10),
        (["--limit", "10"], "limit", 10),
        (["--limit="], "limit", None),
        (["--promote"], "promote", True),
        (["--promote=true"], "promote", True),
        (["--promote=False"], "promote", False),
        (["--promote="], "promote", False),
        (["--keep_columns=a, b,"], "keep_columns", ("a", "b")),
        (["--temperature=0"], "temperature", 0.0),
        (["--prompt=What is this?  "], "prompt", "What is this?  "),
        ([], "max_in_flight", 512),
    ],
)
def test_a_flag_is_read_as_its_type_and_an_empty_one_means_the_default(argv, name, value):
    assert getattr(options.parse(argv)[0], name) == value


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["--limit=ten"], "--limit=ten: expected a whole number"),
        (["--limit=0"], "--limit=0: expected at least 1"),
        (["--promote=yes"], "--promote=yes: expected true or false"),
        (["--service_tier=cheap"], "expected one of standard, flex, priority"),
        (["--input_table=answers"], "expected PROJECT.DATASET.TABLE"),
        (["--temperature=nan"], "expected at least 0"),
        (["--maximum_bytes_billed=1000000"], "expected at least 10,485,760"),  # BigQuery itself refuses less
        (["--input_table=--"], "-- is no value"),
        (["stray"], "flags are written --name=value"),
        (["--limit=1", "stray"], "flags are written --name=value"),
    ],
)
def test_a_malformed_flag_is_one_line_that_names_it(argv, says):
    with pytest.raises(ConfigError, match=re.escape(says)):
        options.parse(argv)


def test_flags_are_never_abbreviated_and_unknown_ones_are_left_for_beam():
    known, rest = options.parse(["--key_col=x", "--num_workers=3", "--project=p"])
    assert rest == ["--key_col=x", "--num_workers=3"]
    assert known.project == "p"


def test_a_misspelt_flag_names_the_nearest_one():
    assert "did you mean --model?" in str(options.unknown_flag("--modell=x"))


@pytest.mark.parametrize("table", ["my-project.d.t", "example.com:proj.d.t"])
def test_project_names_of_every_kind_are_taken(table):
    assert options.parse([f"--input_table={table}"])[0].input_table == table
