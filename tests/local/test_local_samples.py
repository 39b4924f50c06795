"""The samples: pictures, their table, their truth, and a stand-in that answers them rightly."""

import csv
import json

import grpc
import pytest
from stand_in_calls import Caller, model_path

from pipeline.gemini.models import settings_for
from pipeline.gemini.request import RequestBuilder, request_class
from pipeline.local import samples
from pipeline.local.truth import TRUTH, TRUTH_FIELDS, write_truth
from pipeline.local.vertex import VertexStandIn
from pipeline.rows import Observation
from pipeline.task import Parsed, Task, builtin_names


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("samples")


@pytest.fixture(scope="module")
def drawn(root):
    return samples.draw_samples(root, 300)


@pytest.fixture(scope="module")
def client(bigquery):
    from google.auth.credentials import AnonymousCredentials
    from google.cloud import bigquery as google_bigquery

    with google_bigquery.Client(
        project=bigquery.project, credentials=AnonymousCredentials(), client_options={"api_endpoint": bigquery.rest}
    ) as made:
        yield made


def rows_of(client, sql):
    return [dict(row.items()) for row in client.query(sql).result()]


def test_the_pictures_lie_where_their_uris_say(root, drawn):
    assert len({sample.key for sample in drawn}) == len(drawn) == 300
    for sample in drawn:
        assert sample.uri.startswith("gs://geoai_published_")
        assert sample.uri.endswith(f"/v0/{sample.key}.jpg")
        assert sample.key.startswith("o1:")
        assert (root / sample.uri.removeprefix("gs://")).stat().st_size < 100_000


def test_an_asset_has_several_views(drawn):
    assets = {}
    for sample in drawn:
        assets.setdefault(sample.row["asset_id"], set()).add(sample.row["asset_type"])
    assert 100 < len(assets) < 200
    assert all(len(types) == 1 for types in assets.values())
    assert len({sample.row["asset_type"] for sample in drawn}) == 3


def test_they_are_the_same_everywhere(tmp_path, root, drawn):
    again = samples.draw_samples(tmp_path, 40)
    assert [sample.row for sample in again] == [sample.row for sample in drawn[:40]]
    for sample in again:
        path = sample.uri.removeprefix("gs://")
        assert (tmp_path / path).read_bytes() == (root / path).read_bytes()


def test_the_tables_hold_rows_and_truth(client, drawn):
    name = samples.fill_tables(client, drawn, dataset="samples_rows")
    assert name == "demo-project.samples_rows.latest_observations"
    schema = {field.name: field for field in client.get_table(name).schema}
    assert schema.keys() == samples.OBSERVATION_FIELDS.keys()
    assert [field.name for field in schema["bbox"].fields] == ["lo", "hi"]
    assert client.get_dataset("samples_rows").location == "US"
    (row,) = rows_of(client, f"SELECT * FROM `{name}` WHERE observation_id = '{drawn[7].key}'")
    assert row["gcs_uri"] == drawn[7].uri
    assert row["bbox"] == drawn[7].row["bbox"]
    assert row["camera_pose"] == drawn[7].row["camera_pose"]
    assert row["capture_time"].isoformat() == drawn[7].row["capture_time"]
    for task, truth in TRUTH.items():
        (row,) = rows_of(
            client, f"SELECT * FROM `demo-project.samples_rows.truth_{task}` WHERE observation_id = '{drawn[7].key}'"
        )
        assert row == {"observation_id": drawn[7].key, **truth(drawn[7].scene)}
    samples.fill_tables(client, drawn[:3], dataset="samples_rows")
    assert rows_of(client, f"SELECT COUNT(*) AS n FROM `{name}`") == [{"n": 3}]


def test_bad_rows_are_bad_each_in_its_way(client, root, drawn):
    bad = samples.bad_rows(root, drawn)
    name = samples.fill_tables(client, drawn, dataset="samples_bad", extra_rows=bad)
    (counts,) = rows_of(
        client,
        f"SELECT COUNT(*) AS n, COUNTIF(gcs_uri IS NULL) AS no_uri, COUNTIF(observation_id IS NULL) AS no_key, "
        f"COUNT(DISTINCT observation_id) AS observations FROM `{name}`",
    )
    assert counts == {"n": 308, "no_uri": 1, "no_key": 1, "observations": 306}
    assert {row["asset_type"] for row in bad} == {"ASSET_CLASS_ROAD_SIGN"}
    assert not (root / bad[4]["gcs_uri"].removeprefix("gs://")).exists()


def test_a_bulk_table_has_a_key_and_a_uri_for_each_row(client, bigquery):
    client.create_dataset("samples_bulk")
    samples.make_bulk_table(client, "samples_bulk.many", 100_000)
    (counts,) = rows_of(
        client,
        "SELECT COUNT(*) AS n, COUNT(DISTINCT gcs_uri) AS uris, MIN(observation_id) AS first, MAX(gcs_uri) AS last "
        "FROM `demo-project.samples_bulk.many`",
    )
    assert counts == {
        "n": 100_000,
        "uris": 100_000,
        "first": "o1:00000001",
        "last": f"gs://{samples.BUCKET}/2026-10-15/v0/o1:00100000.jpg",
    }


def test_the_truth_answers_the_built_in_tasks(drawn):
    assert TRUTH.keys() == set(builtin_names()) - {"describe"}
    for name, truth in TRUTH.items():
        task = Task.load(name)
        assert list(TRUTH_FIELDS[name]) == list(task.questions)
        for sample in drawn:
            answer = truth(sample.scene)
            parsed = task.parse(json.dumps(answer))
            assert isinstance(parsed, Parsed), parsed
            assert parsed.values == answer


def test_the_truth_as_csv_reads_back(tmp_path, drawn):
    paths = write_truth(tmp_path, {sample.key: sample.scene for sample in drawn})
    with paths["maintenance_covers"].open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["observation_id"] for row in rows] == [sample.key for sample in drawn]
    for row, sample in zip(rows, drawn, strict=True):
        answer = TRUTH["maintenance_covers"](sample.scene)
        assert json.loads(row["surface_problems"]) == answer["surface_problems"]
        assert row["utility_text"] == (answer["utility_text"] or "")


@pytest.fixture(scope="module")
def caller(root, drawn):
    with VertexStandIn(root) as vertex:
        made = Caller(vertex.endpoint)
        yield made
        made.channel.close()


@pytest.mark.parametrize("name", sorted(TRUTH))
def test_the_stand_in_answers_most_samples_rightly(caller, drawn, name):
    task = Task.load(name)
    builder = RequestBuilder(task, settings_for(task), model_path(), {})
    futures = []
    for sample in drawn:
        columns = dict.fromkeys(task.columns, "")
        made = builder.build([Observation(key=sample.key, gcs_uri=sample.uri, columns=columns)])
        futures.append(caller.future(request_class().FromString(made)))
    right = dict.fromkeys(TRUTH_FIELDS[name], 0)
    for sample, future in zip(drawn, futures, strict=True):
        assert future.code() is grpc.StatusCode.OK
        parsed = task.parse(future.result().candidates[0].content.parts[0].text)
        for question, true in TRUTH[name](sample.scene).items():
            said = parsed.values[question]
            right[question] += said == pytest.approx(true, abs=1) if isinstance(true, float) else said == true
    shares = {question: count / len(drawn) for question, count in right.items()}
    assert min(shares.values()) > 0.95, shares
