"""One question per asset: which images are asked together, under which key, and what is paid."""

import hashlib
import json

import pytest

from pipeline.bigquery import inputs, worklist
from pipeline.bigquery.names import TableName
from pipeline.bigquery.query import run
from pipeline.bigquery.worklist import Done, RetryFailed
from pipeline.gemini.models import find, settings_for
from pipeline.gemini.prices import estimate
from pipeline.gemini.request import RequestBuilder
from pipeline.rows import Observation
from pipeline.task import Task

URI = "gs://bucket/{}.jpg"


def rows_of(town, rows):
    """A table of these (image key, asset, URI, day) rows, beside the drawn ones."""
    values = ",\n".join(
        "STRUCT(" + ", ".join("CAST(NULL AS STRING)" if value is None else f"'{value}'" for value in row) + ")"
        for row in rows
    )
    town.query(
        "CREATE OR REPLACE TABLE `{}.views` AS SELECT _0 AS observation_id, _1 AS asset_id, _2 AS gcs_uri, "
        "TIMESTAMP(_3) AS capture_time FROM UNNEST(ARRAY<STRUCT<_0 STRING, _1 STRING, _2 STRING, _3 STRING>>["
        f"{values}])"
    )
    return TableName.parse(f"{town.dataset}.views")


def given_of(town, table, max_images=10, only=None):
    info = inputs.inspect(town.endpoint, table)
    kept = inputs.kept_columns(info, None)
    return worklist.source(info, columns=kept, only=only, asset_column="asset_id", max_images=max_images)


def as_key(asset, image_keys):
    digest = hashlib.sha256("\n".join(sorted(image_keys)).encode()).hexdigest()
    return f"{asset}@{digest[:16]}"


ROWS = [
    ("o1", "pole", URI.format(1), "2026-01-01"),
    ("o2", "pole", URI.format(2), "2026-03-01"),
    ("o3", "pole", URI.format(3), "2026-02-01"),
    ("o3", "pole", URI.format("3-old"), "2025-02-01"),  # an older copy of the same image's row
    ("o4", "pole", "ftp://bucket/4.jpg", "2026-04-01"),  # unusable, although the newest
    ("o5", "lone", URI.format(5), "2026-01-01"),
    ("o6", "bad", "gs://bucket/6.txt", "2026-01-01"),
    ("o7", "bad", None, "2026-02-01"),
    ("o8", None, URI.format(8), "2026-01-01"),
    ("o9", " ", URI.format(9), "2026-01-01"),
    (None, "lone", URI.format(10), "2026-05-01"),
]


def test_the_newest_usable_images_of_an_asset_are_one_row(town):
    given = given_of(town, rows_of(town, ROWS))
    found = {row["wl_id"]: row for row in run(town.endpoint, worklist.input_query(given))}
    assert set(found) == {"pole", "lone", "bad", "null:o8", "null:o9"}
    pole = found["pole"]
    assert json.loads(pole["image_uris"]) == [URI.format(2), URI.format(3), URI.format(1)]
    assert pole["key"] == as_key("pole", ["o1", "o2", "o3"])
    assert (pole["gcs_uri"], pole["capture_time"].month, pole["problem"]) == (URI.format(2), 3, None)
    assert (found["lone"]["key"], found["lone"]["problem"]) == (as_key("lone", ["o5"]), None)
    assert found["bad"]["problem"] == "missing_uri"  # of the newest
    assert {found[name]["problem"] for name in ("null:o8", "null:o9")} == {"missing_key"}


def test_assets_and_their_images_are_counted_and_limited(town):
    given = given_of(town, rows_of(town, ROWS), max_images=2)
    count = worklist.count(town.endpoint, given, Done("f"), RetryFailed.RETRYABLE)
    assert (count.rows, count.keys, count.new, count.to_ask, count.to_file) == (11, 5, 2, 2, 3)
    assert (count.images, count.images_per_key) == (3, 1.5)
    only = given_of(town, TableName.parse(f"{town.dataset}.views"), 2, only=["pole", "nowhere"])
    (pole,) = run(town.endpoint, worklist.input_query(only))
    assert pole["key"] == as_key("pole", ["o2", "o3"])


def test_new_views_make_a_new_key_and_an_older_one_beyond_the_limit_does_not(town):
    def key(rows):
        given = given_of(town, rows_of(town, rows), max_images=3)
        return next(row["key"] for row in run(town.endpoint, worklist.input_query(given)) if row["wl_id"] == "pole")

    before = key(ROWS)
    assert key(list(reversed(ROWS))) == before
    assert key([*ROWS, ("o0", "pole", URI.format(0), "2020-01-01")]) == before
    assert key([*ROWS, ("o0", "pole", URI.format(0), "2026-09-01")]) != before


# --- request and price


def test_all_images_of_an_asset_travel_in_one_question_which_says_so():
    task = Task.load("utility_poles")
    settings = settings_for(task, unit="asset")
    builder = RequestBuilder(task, settings, "projects/p/locations/us/publishers/google/models/m", {})
    uris = ["gs://b/1.jpg", "gs://b/2.png"]
    row = Observation("a@1", uris[0], {"image_uris": json.dumps(uris)})
    (turn,) = builder.message(builder.build([row])).contents
    assert [part.file_data.file_uri for part in turn.parts[:2]] == uris
    assert [part.file_data.mime_type for part in turn.parts[:2]] == ["image/jpeg", "image/png"]
    assert "2 images above show one and the same object" in turn.parts[2].text
    assert turn.parts[3].text == task.prompt

    alone = Observation("a@1", uris[0], {"image_uris": json.dumps(uris[:1])})
    one = builder.message(builder.build([alone]))
    plain = RequestBuilder(task, settings_for(task), "projects/p/locations/us/publishers/google/models/m", {})
    assert one == plain.message(plain.build([Observation("o", uris[0])]))  # nothing to say of a single view


def test_each_view_costs_its_image_s_tokens():
    task = Task.load("utility_poles")
    settings = settings_for(task, unit="asset")
    model = find(settings.model)
    one, three = (estimate(task, settings, model, views=views) for views in (1, 3))
    assert three.prompt_tokens - one.prompt_tokens == 2 * model.tokens_of_image(settings.media_resolution)
    assert three.output_tokens == one.output_tokens


@pytest.mark.parametrize("images", [2, 8])
def test_assets_are_not_packed(images):
    with pytest.raises(Exception, match="--unit=asset and --images_per_request"):
        settings_for(Task.load("utility_poles"), unit="asset", images_per_request=images)


# --- the whole pipeline


def assets_of(pictures):
    found = {}
    for sample in pictures:
        found.setdefault(sample.row["asset_id"], []).append(sample)
    return found


def test_an_asset_is_asked_once_for_all_its_images_and_again_when_it_has_a_new_one(town):
    assets = assets_of(town.pictures)
    flags = ("--task=utility_poles", "--unit=asset", "--quiet")
    result = town.run("classify", *flags)
    assert result.last.startswith(f"rows {len(assets)} = answered {len(assets)} + failed 0 (already answered 0)")
    asked = [sorted(call.uris) for call in town.vertex.log()]
    assert sorted(asked) == sorted(sorted(sample.uri for sample in views) for views in assets.values())

    rows = town.query("SELECT *, TO_JSON_STRING(image_uris) AS uris FROM `{}.answers_current`")
    for row in rows:
        views = assets[row["asset_id"]]
        assert row["key"] == as_key(row["asset_id"], [sample.key for sample in views])
        newest = sorted(views, key=lambda sample: sample.row["capture_time"], reverse=True)
        assert json.loads(row["uris"]) == [sample.uri for sample in newest]
        assert row["gcs_uri"] == newest[0].uri
    pole = next(asset for asset, views in assets.items() if views[0].scene.kind == "utility_pole" and len(views) > 1)
    typed = town.query(f"SELECT * FROM `{{}}.answers_utility_poles` WHERE asset_id = '{pole}'")
    assert [(row["pole_visible"], row["street_lamps"]) for row in typed] == [(True, assets[pole][0].scene.lamps)]

    # The same again asks nothing; a view that is gone makes another set of images, and another answer of that asset alone.
    assert town.run("classify", *flags).last.startswith("rows 0 = ")
    gone = assets[pole][0].key
    result = town.run("classify", *flags, f"--where=observation_id != '{gone}'")
    assert result.last.startswith(f"rows 1 = answered 1 + failed 0 (already answered {len(assets) - 1})")
    for view in ("answers_current", "answers_utility_poles"):
        (row,) = town.query(f"SELECT COUNT(*) AS n, COUNT(DISTINCT asset_id) AS assets FROM `{{}}.{view}`")
        assert row == {"n": len(assets), "assets": len(assets)}


def test_assets_are_evaluated_and_exported_by_their_own_labels(town, tmp_path):
    assets = assets_of(town.pictures)
    path, output = tmp_path / "labels.csv", tmp_path / "set"
    poles = {asset: views for asset, views in assets.items() if views[0].scene.kind == "utility_pole"}
    lines = [f"{asset},true,{views[0].scene.lamps}" for asset, views in poles.items()]
    path.write_text("asset_id,pole_visible,street_lamps\n" + "\n".join(lines) + "\n", "utf-8")
    figures = tmp_path / "figures.json"
    flags = ("--unit=asset", "--max_images_per_asset=2", "--task=utility_poles", f"--labels_csv={path}")
    result = town.run("evaluate", *flags, "--quiet", f"--json={figures}")
    assert result.code == 0, result.err
    (found,) = json.loads(figures.read_text("utf-8"))["evaluations"]
    assert (found["rows"], found["answered"], found["right"]) == (len(poles), len(poles), len(poles))
    assert max(len(call.uris) for call in town.vertex.log()) == 2

    result = town.run("export_tuning", *flags[:3], f"--output={output}")
    assert result.code == 0, result.err
    lines = [json.loads(line) for line in (output / "train.jsonl").read_text("utf-8").splitlines()]
    images = [sum("fileData" in part for part in line["contents"][0]["parts"]) for line in lines]
    assert set(images) == {1, 2}


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (("--asset_column=nope",), "--asset_column=nope: the input has no such column"),
        (("--images_per_request=2",), "--unit=asset and --images_per_request=2 exclude each other"),
        (("--max_images_per_asset=3001",), "Gemini takes 3,000 in one call"),
        (("--task={boxes}",), "spots asks for boxes, which cannot say in which of the images they are"),
    ],
)
def test_what_cannot_be_asked_of_an_asset_is_refused(town, tmp_path, flags, says):
    task = tmp_path / "boxes.yaml"
    task.write_text("name: boxes\nprompt: Find them.\nquestions:\n  spots: {type: boxes}\n", "utf-8")
    result = town.run("plan", "--unit=asset", *(flag.replace("{boxes}", str(task)) for flag in flags))
    assert result.code == 2
    assert says in result.err
