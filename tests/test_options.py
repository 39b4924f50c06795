"""Flags: read as people and templates write them, refused with one line that says how to mend it."""

import re
from pathlib import Path

import pytest

from pipeline import options
from pipeline.commands.report import ReportOptions
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
        (["--temperature=nan"], "--temperature=nan: expected a number"),
        (["--max_cost_usd=inf"], "--max_cost_usd=inf: expected a number"),
        (["--requests_per_minute=1e999"], "--requests_per_minute=1e999: expected a number"),
        (["--limit=9223372036854775808"], "expected a whole number"),  # one more than BigQuery's INT64 holds
        (["--max_failure_ratio=5"], "expected at most 1"),
        (["--max_in_flight=1000000"], "expected at most 10,000"),
        (["--price_usd_per_mtok=1"], "expected IN,OUT in dollars, such as 0.30,2.50"),
        (["--run_id=June 1"], "expected up to 64 of a-z, 0-9 and _, such as poles_2026_11"),
        (["--runner=DataflowRuner"], "expected one of DirectRunner, DataflowRunner, PrismRunner"),
        (["-limit=5"], "-limit=5: write it with two dashes, --limit=5"),
        (["--limit=5", "-where", "a = 1"], "-where: write it with two dashes, --where"),
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


@pytest.mark.parametrize("word", ["--modell=x", "--modle=x"])
def test_a_misspelt_flag_names_the_nearest_one(word):
    assert "did you mean --model?" in str(options.unknown_flag(word))


def test_a_flag_like_no_other_points_to_the_help_of_its_own_command():
    assert str(options.unknown_flag("--zzz")).endswith("the same command with --help shows those that are")


@pytest.mark.parametrize("kind", [options.Options, ReportOptions])
def test_an_expected_form_is_said_in_words_not_as_an_expression(kind):
    assert [field.name for field, spec in options.flags(kind) if bool(spec.regex) != bool(spec.form)] == []


@pytest.mark.parametrize("text", ["dataflow", "DataflowRunner", "dataflowrunner"])
def test_a_runner_may_be_spelt_as_beam_allows(text):
    assert options.parse([f"--runner={text}"])[0].on_dataflow


@pytest.mark.parametrize("text", ["direct", "directrunner"])
def test_the_direct_runner_is_ours_however_it_is_spelt(text):
    assert options.parse([f"--runner={text}"])[0].runner == "DirectRunner"


@pytest.mark.parametrize("table", ["my-project.d.t", "example.com:proj.d.t"])
def test_project_names_of_every_kind_are_taken(table):
    assert options.parse([f"--input_table={table}"])[0].input_table == table
