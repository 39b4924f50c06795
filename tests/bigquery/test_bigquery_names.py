from __future__ import annotations

import pytest

from pipeline.bigquery.names import TableName, column, label_value, quoted, token
from pipeline.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("demo-project.ds.t", ("demo-project", "ds", "t")),
        ("example.com:proj.ds.t", ("example.com:proj", "ds", "t")),
        ("demo-project:ds.t", ("demo-project", "ds", "t")),
        ("`demo-project`.`ds`.`t`", ("demo-project", "ds", "t")),
        (
            " `demo-project.imagery_insights___preview___us.latest-1` ",
            ("demo-project", "imagery_insights___preview___us", "latest-1"),
        ),
    ],
)
def test_a_table_name_is_read(text, parts):
    name = TableName.parse(text)
    assert (name.project, name.dataset, name.table) == parts
    assert TableName.parse(str(name)) == name


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("ds.t", "PROJECT.DATASET.TABLE"),
        ("", "PROJECT.DATASET.TABLE"),
        ("demo-project..t", "PROJECT.DATASET.TABLE"),
        ("Demo Project.ds.t", "'Demo Project'"),
        ("demo-project.d-s.t", "'d-s'"),
        ("demo-project.ds.t`; DROP TABLE x", "not a table name"),
        ("demo-project.ds.t*", "not a table name"),
    ],
)
def test_another_form_is_refused_with_the_flag_and_the_part_that_is_wrong(text, said):
    with pytest.raises(ConfigError, match=r"^--input_table: ") as raised:
        TableName.parse(text, "--input_table")
    assert said in str(raised.value)


def test_names_are_quoted_for_sql_and_for_the_storage_api():
    name = TableName.parse("example.com:proj.ds.t")
    assert name.sql == "`example.com:proj`.`ds`.`t`"
    assert name.path == "projects/example.com:proj/datasets/ds/tables/t"
    assert str(name.beside("_latest")) == "example.com:proj.ds.t_latest"


@pytest.mark.parametrize("name", ["", "1a", "a b", "a`b", "a-b", "_PARTITIONTIME", "a.b", "x" * 301])
def test_what_is_no_column_name_is_refused(name):
    with pytest.raises(ConfigError, match="not a column name"):
        column(name)


def test_a_path_of_fields_is_quoted_part_by_part():
    assert quoted("bbox.lo.x") == "`bbox`.`lo`.`x`"
    with pytest.raises(ConfigError):
        quoted("bbox.lo.x) OR (1=1")


def test_tokens_go_into_literals_only_when_they_hold_nothing_else():
    assert token("20260501_120000_ab-c") == "20260501_120000_ab-c"
    with pytest.raises(ValueError, match="may only hold"):
        token("x' OR 'a'='a")


def test_label_values_are_made_valid():
    assert label_value("Run 1.2/Ä") == "run_1_2__"
    assert len(label_value("x" * 100)) == 63
