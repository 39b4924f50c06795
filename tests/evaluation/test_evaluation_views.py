"""The typed view of a task: a column for each question, of one fingerprint, whatever experiments run beside it."""

import datetime
import json

import pytest

from pipeline.bigquery import tables, views
from pipeline.bigquery.client import Endpoint
from pipeline.bigquery.names import TableName
from pipeline.bigquery.query import Query, run
from pipeline.bigquery.write import append_now
from pipeline.errors import ConfigError
from pipeline.rows import ANSWER_COLUMNS, Column
from pipeline.task import parse

TASK = parse(
    """
name: poles
prompt: Look at the pole.
reasoning: true
questions:
  kind: {type: label, labels: [wood, steel]}
  problems: {type: labels, labels: [rust, lean]}
  lit: {type: boolean}
  lamps: {type: integer, minimum: 0, maximum: 9}
  degrees: {type: number, optional: true}
  asset_type: {type: string}
  spots: {type: boxes}
""",
    "poles.yaml",
)
VALUES = {
    "reasoning": "It is wet.",
    "kind": "wood",
    "problems": ["rust", "lean"],
    "lit": True,
    "lamps": 2,
    "degrees": 3.5,
    "asset_type": "POLE",
    "spots": [{"label": "lamp", "box_2d": [1, 2, 3, 4]}],
}
KEPT = (Column("asset_type", "STRING"), Column("snapshot_id", "STRING"))  # one has a question's name
NOW = datetime.datetime(2026, 11, 1, tzinfo=datetime.UTC)


@pytest.fixture
def endpoint(bigquery):
    return Endpoint(bigquery.project, "US", bigquery.rest, bigquery.storage)


@pytest.fixture
def answers(endpoint, dataset):
    table = TableName.parse(f"{dataset}.answers")
    columns = (*ANSWER_COLUMNS, *KEPT)
    tables.ensure_table(endpoint, table, columns, partition_by="classified_at")

    def row(key, values, fingerprint="f1", days=0):
        at = NOW + datetime.timedelta(days=days)
        kept = {"asset_type": "from the input", "snapshot_id": "s"}
        fixed = {"key": key, "gcs_uri": f"gs://b/{key}.jpg", "fingerprint": fingerprint, "task": "poles", "run_id": "r"}
        return {**fixed, **kept, "answer": json.dumps(values), "classified_at": at, "cost_usd": 0.5}

    nothing = dict.fromkeys(VALUES) | {"problems": [], "spots": []}
    rows = [
        row("a", {**VALUES, "lamps": 9}),
        row("a", VALUES, days=1),
        row("b", nothing),
        row("b", {**VALUES, "lamps": 7}, fingerprint="f2"),
    ]
    append_now(endpoint, table, columns, rows)
    return table


def ensure(endpoint, answers, fingerprint="f1", task=TASK, name="poles", **options):
    columns = [column.name for column in (*ANSWER_COLUMNS, *KEPT)]
    typed = task.view_columns()
    return views.ensure_task_view(
        endpoint, answers, name, fingerprint=fingerprint, typed=typed, columns=columns, **options
    )


def shown(endpoint, view):
    return {row["key"]: row for row in run(endpoint, Query(f"SELECT * FROM {view.sql}"))}


def test_each_question_is_a_column_of_its_type(endpoint, answers):
    rows = shown(endpoint, ensure(endpoint, answers))
    assert set(rows) == {"a", "b"}
    found = {name: rows["a"][name] for name in VALUES}
    assert json.loads(found.pop("spots")) == VALUES["spots"]
    assert found == {name: value for name, value in VALUES.items() if name != "spots"}
    assert [type(found[name]) for name in ("lit", "lamps", "degrees", "problems")] == [bool, int, float, list]
    assert {rows["b"][name] for name in ("reasoning", "kind", "lit", "lamps", "degrees", "asset_type")} == {None}
    assert rows["b"]["problems"] == []


def test_the_provenance_stands_beside_and_a_kept_column_gives_way_to_a_question(endpoint, answers):
    row = shown(endpoint, ensure(endpoint, answers))["a"]
    assert (row["gcs_uri"], row["cost_usd"], row["snapshot_id"]) == ("gs://b/a.jpg", 0.5, "s")
    assert row["asset_type"] == "POLE"
    assert "answer" not in row


def test_another_fingerprint_changes_neither_rows_nor_columns_until_it_is_promoted(endpoint, answers):
    ensure(endpoint, answers)
    other = parse("{name: poles, prompt: p, questions: {lamps: {type: integer}}}", "x")
    view = ensure(endpoint, answers, "f2", other)
    assert shown(endpoint, view)["a"]["kind"] == "wood"
    view = ensure(endpoint, answers, "f2", other, promote=True)
    rows = shown(endpoint, view)
    assert {key: row["lamps"] for key, row in rows.items()} == {"b": 7}
    assert "kind" not in rows["b"]


@pytest.mark.parametrize("name", ["latest", "current", "failures", "failures_open", "runs"])
def test_a_task_cannot_take_the_name_of_another_table(endpoint, answers, name):
    with pytest.raises(ConfigError, match="would take the name of"):
        ensure(endpoint, answers, name=name)
