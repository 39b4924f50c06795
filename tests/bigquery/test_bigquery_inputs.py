from __future__ import annotations

import pytest

from pipeline.bigquery import inputs
from pipeline.bigquery.inputs import Field, KeptColumn, TableInfo, answer_columns, kept_columns, prompt_columns
from pipeline.bigquery.query import Query, run
from pipeline.errors import ConfigError
from pipeline.rows import ANSWER_COLUMNS, Column

POINT = (Field("latitude", "FLOAT64"), Field("longitude", "FLOAT64"))
CORNER = Field("lo", "STRUCT", fields=(Field("x", "FLOAT64"), Field("y", "FLOAT64")))
INFO = TableInfo(
    "`p`.`d`.`t`",
    (
        Field("observation_id", "STRING"),
        Field("asset_id", "STRING"),
        Field("capture_time", "TIMESTAMP"),
        Field("location", "STRUCT", fields=POINT),
        Field("bbox", "STRUCT", fields=(CORNER,)),
        Field("views", "STRUCT", repeated=True, fields=(Field("uri", "STRING"),)),
        Field("tags", "STRING", repeated=True),
        Field("height", "NUMERIC"),
        Field("seen", "DATETIME"),
        Field("hash", "BYTES"),
        Field("area", "GEOGRAPHY"),
        Field("extra", "JSON"),
        Field("Label", "STRING"),
        Field("problem", "STRING"),
    ),
    "US",
)


def test_by_default_known_columns_are_kept_and_location_is_flattened():
    assert kept_columns(INFO, None) == [
        KeptColumn("asset_id", "STRING", "`asset_id`"),
        KeptColumn("capture_time", "TIMESTAMP", "`capture_time`"),
        KeptColumn("latitude", "FLOAT64", "`location`.`latitude`"),
        KeptColumn("longitude", "FLOAT64", "`location`.`longitude`"),
    ]


def test_a_panorama_table_keeps_its_capture_location():
    info = TableInfo("t", (Field("pano_id", "STRING"), Field("capture_location", "STRUCT", fields=POINT)), "US")
    assert [column.name for column in kept_columns(info, None)] == ["latitude", "longitude"]


@pytest.mark.parametrize(
    ("path", "kept"),
    [
        ("bbox.lo.x", KeptColumn("bbox_lo_x", "FLOAT64", "`bbox`.`lo`.`x`")),
        ("bbox", KeptColumn("bbox", "JSON", "TO_JSON_STRING(`bbox`)")),
        ("tags", KeptColumn("tags", "JSON", "TO_JSON_STRING(`tags`)")),
        ("extra", KeptColumn("extra", "JSON", "TO_JSON_STRING(`extra`)")),
        ("height", KeptColumn("height", "STRING", "CAST(`height` AS STRING)")),
        ("seen", KeptColumn("seen", "STRING", "CAST(`seen` AS STRING)")),
        ("hash", KeptColumn("hash", "STRING", "TO_BASE64(`hash`)")),
        ("area", KeptColumn("area", "STRING", "ST_ASTEXT(`area`)")),
        ("ASSET_ID", KeptColumn("ASSET_ID", "STRING", "`ASSET_ID`")),
    ],
)
def test_a_requested_column_is_kept_as_a_type_that_answers_have(path, kept):
    assert kept_columns(INFO, [path]) == [kept]
    assert prompt_columns(INFO, [path]) == [kept]


def test_a_prompt_has_a_place_as_one_column_and_no_name_that_is_the_worklists_own():
    assert prompt_columns(INFO, ["location"]) == [KeptColumn("location", "JSON", "TO_JSON_STRING(`location`)")]
    for name in ("problem", "gcs_uri", "key", "shard"):
        with pytest.raises(ConfigError, match=f"names {{{name}}}, which is a name of the pipeline's own"):
            prompt_columns(INFO, ["asset_id", name])


def test_a_column_that_is_asked_for_twice_is_kept_once():
    assert [column.name for column in kept_columns(INFO, ["asset_id", "location", "asset_id", "location"])] == [
        "asset_id",
        "latitude",
        "longitude",
    ]


@pytest.mark.parametrize("path", ["colour", "bbox.hi.x", "views.uri", "asset_id.x"])
def test_a_column_that_is_not_there_is_an_error_that_lists_those_that_are(path):
    with pytest.raises(
        ConfigError, match=r"^--keep_columns: the input has no column .*; it has observation_id, asset_id"
    ):
        kept_columns(INFO, [path])


@pytest.mark.parametrize("path", ["Label", "problem"])
def test_a_name_that_the_answers_table_needs_itself_is_refused(path):
    with pytest.raises(ConfigError, match=f"{path.lower()}: the pipeline has a column of that name"):
        kept_columns(INFO, [path])


@pytest.mark.parametrize("taken", [kept_columns, prompt_columns])
def test_names_of_the_worklists_own_sql_are_refused(taken):
    info = TableInfo("t", (Field("observation_id", "STRING"), Field("wl_state", "STRING")), "US")
    with pytest.raises(ConfigError, match="wl_state"):
        taken(info, ["wl_state"])


def test_answer_columns_are_the_fixed_ones_and_the_kept_ones():
    made = answer_columns(kept_columns(INFO, ["bbox"]))
    assert made == (*ANSWER_COLUMNS, Column("bbox", "JSON", "From the input."))


def test_a_table_and_a_view_are_inspected_without_reading_them(endpoint, name, make_table):
    columns = {"observation_id": "STRING", "n": "INT64", "location": "STRUCT<latitude FLOAT64, longitude FLOAT64>"}
    table = make_table("t", columns, [{"observation_id": "a", "n": 1}])
    fields = (
        Field("observation_id", "STRING"),
        Field("n", "INT64"),
        Field("location", "STRUCT", fields=POINT),
    )
    found = inputs.inspect(endpoint, table)
    assert (found.fields, found.rows, found.sql) == (fields, 1, table.sql)
    run(endpoint, Query(f"CREATE VIEW {name('v').sql} AS SELECT * FROM {table.sql}"))
    assert [field.name for field in inputs.inspect(endpoint, name("v")).fields] == ["observation_id", "n", "location"]
    assert inputs.inspect(endpoint, name("v")).rows is None


def test_a_query_is_inspected_by_dry_run(endpoint, name, make_table):
    table = make_table("t", {"id": "STRING", "n": "INT64"}, [{"id": "a", "n": 1}])
    info = inputs.inspect_query(endpoint, f"SELECT id, n AS m FROM {table.sql} -- a comment;\n;")
    assert info.fields == (Field("id", "STRING"), Field("m", "INT64"))
    assert run(endpoint, Query(f"SELECT * FROM {info.sql} WHERE m = 1")) == [{"id": "a", "m": 1}]


def test_an_input_that_is_not_there_is_one_line_that_names_it(endpoint, name):
    with pytest.raises(ConfigError, match=r"^--input_table demo-project\.\S+\.nope: Not found: .*check the name"):
        inputs.inspect(endpoint, name("nope"))
    with pytest.raises(ConfigError, match=r"^--input_query SELECT 1 FROM .*nope.*: Not found"):
        inputs.inspect_query(endpoint, f"SELECT 1 FROM {name('nope').sql}")
    with pytest.raises(ConfigError, match=r"^--input_query SELEC 1: "):
        inputs.inspect_query(endpoint, "SELEC 1")
