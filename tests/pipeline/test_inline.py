"""`--image_source=inline` over real connections: what is read, sent, shared, and what becomes of images that cannot be."""

from __future__ import annotations

import io
import json
import random
import re
from collections.abc import Iterator

import pytest
from conftest import Cloud
from PIL import Image
from tiny_storage import CUT, DAMAGED, TinyStorage

from pipeline.asking import ImageError
from pipeline.images.limits import MAX_OBJECT_BYTES
from pipeline.images.objects import Objects
from pipeline.local.pictures.drawing import SIZE, Scene, draw
from pipeline.local.storage import Storage
from pipeline.rows import Reason

INLINE = "--image_source=inline"
BUCKET = "gs://private-images"


@pytest.fixture
def storage(pictures, monkeypatch) -> Iterator[TinyStorage]:
    with TinyStorage(pictures[0]).serving() as tiny:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", tiny.url)
        yield tiny


def sign(sign_type="stop", seed=3, **more) -> Image.Image:
    return draw(Scene(kind="road_sign", sign_type=sign_type, **more), random.Random(seed)).image


def jpeg(image: Image.Image, **more) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=92, **more)
    return buffer.getvalue()


def fill(cloud: Cloud, boxes: dict[str, str | None]) -> None:
    """Makes the input: for each key its box, 'x0, y0, x1, y1', or None; `KEY#more` has the object of KEY."""
    selects = []
    for key, box in boxes.items():
        x0, y0, x1, y1 = (box or "0, 0, 0, 0").split(", ")
        struct = f"STRUCT(STRUCT({x0} AS x, {y0} AS y) AS lo, STRUCT({x1} AS x, {y1} AS y) AS hi)"
        uri = f"{BUCKET}/{key.partition('#')[0]}.jpg"
        selects.append(
            f"SELECT '{key}' AS observation_id, '{uri}' AS gcs_uri, {struct if box else f'IF(FALSE, {struct}, NULL)'} AS bbox"
        )
    cloud.query(f"CREATE TABLE `{cloud.input}` AS {' UNION ALL '.join(selects)}")


def answers(cloud: Cloud, table="{answers}") -> dict[str, dict]:
    rows = cloud.query(f"SELECT key, answer FROM `{table}`")
    return {row["key"]: json.loads(row["answer"]) if isinstance(row["answer"], str) else row["answer"] for row in rows}


def test_inline_answers_are_those_of_uris_and_packs_and_assets_work_too(sampled, pictures, monkeypatch):
    """Read from the Cloud Storage emulator: pictures that need no change are sent as they are stored."""
    bucket = pictures[1][0].uri.split("/")[2]
    with Storage(bucket) as emulator:
        for sample in pictures[1]:
            path = pictures[0] / sample.uri.removeprefix("gs://")
            emulator.write(bucket, sample.uri.partition(f"{bucket}/")[2], path.read_bytes())
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", emulator.address)
        tables = {name: f"{sampled.dataset}.{name}" for name in ("uri", "inline", "packed", "assets")}
        flags = {"uri": [], "inline": [INLINE], "packed": [INLINE, "--images_per_request=8"]}
        for name, more in flags.items():
            done = sampled.classify("--task=road_signs", f"--output_table={tables[name]}", *more)
            assert done.code == 0, done.err
        assert sum(sampled.vertex.calls_by_uri().values()) == 40, "only the first run named its images"
        expected = answers(sampled, tables["uri"])
        assert answers(sampled, tables["inline"]) == answers(sampled, tables["packed"]) == expected
        assert "inline_data" in json.dumps(sampled.vertex.last_request())
        done = sampled.classify(INLINE, "--unit=asset", "--task=utility_poles", f"--output_table={tables['assets']}")
        assert done.code == 0, done.err
        asked = sampled.query(f"SELECT COUNT(*) AS n FROM `{tables['assets']}`")[0]["n"]
        assert asked == len({sample.row["asset_id"] for sample in pictures[1]})


def test_what_is_seen_is_the_crop_turned_upright(cloud, storage):
    """Two signs side by side, and the picture is stored on its side: each row's box decides which one is read."""
    both = Image.new("RGB", (2 * SIZE[0], SIZE[1]))
    both.paste(sign("stop", text="STOP"), (0, 0))
    both.paste(sign("yield", seed=4, text="YIELD"), (SIZE[0], 0))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    storage.objects[f"{BUCKET}/both.jpg"] = jpeg(both.transpose(Image.Transpose.ROTATE_90), exif=exif.tobytes())
    wide, high = SIZE
    fill(cloud, {"both#left": f"0, {wide}, {high}, {2 * wide}", "both#right": f"0, 0, {high}, {wide}"})
    done = cloud.classify(INLINE, "--crop_to_bbox", "--crop_margin=0", "--task=road_signs")
    assert done.code == 0, done.err
    seen = {key: answer["sign_type"] for key, answer in answers(cloud).items()}
    assert seen == {"both#left": "stop", "both#right": "yield"}
    image = cloud.vertex.last_request()["contents"][0]["parts"][0]["inline_data"]
    assert image["mime_type"] == "image/jpeg"
    assert not cloud.vertex.calls_by_uri()


def test_each_kind_of_image_that_cannot_be_sent_has_a_reason_of_its_own(cloud, storage):
    fine = jpeg(sign())
    png = io.BytesIO()
    Image.new("1", (10_001, 10_000)).save(png, "PNG")
    objects = {
        "fine": fine,
        "late": fine + b"late",
        "damaged": fine + b"damaged",
        "throttled": fine,
        "denied": fine,
        "null": fine,
        "outside": fine,
        "empty": b"",
        "truncated": fine[: len(fine) // 2],
        "html": b"<html>502 Bad Gateway</html>",
        "giant": png.getvalue(),
        "large": b"\xff\xd8\xff" + bytes(MAX_OBJECT_BYTES),
        "heic": b"\0\0\0\x18ftypheic" + bytes(100),
    }
    storage.objects = {f"{BUCKET}/{name}.jpg": content for name, content in objects.items()}
    storage.says[f"{BUCKET}/late.jpg"] = [503, 429]
    storage.says[f"{BUCKET}/damaged.jpg"] = [CUT, DAMAGED]
    storage.says[f"{BUCKET}/throttled.jpg"] = [429, None]
    storage.says[f"{BUCKET}/denied.jpg"] = [403, None]
    boxes = dict.fromkeys([*objects, "gone"], "10, 10, 200, 200") | {"null": None, "outside": "5000, 0, 5001, 9"}
    fill(cloud, boxes)
    flags = [INLINE, "--crop_to_bbox", "--max_attempts=3", "--max_failure_ratio=1"]
    done = cloud.classify(*flags)
    assert done.code == 0, done.err
    assert done.summary.startswith("rows 14 = answered 3 + failed 11 (already answered 0) | run ")
    failed = {row["key"]: row for row in cloud.query("SELECT * FROM `{answers}_failures`")}
    assert {key: row["reason"] for key, row in failed.items()} == {
        "gone": "image_not_found",
        "denied": "image_denied",
        "throttled": "image_unavailable",
        "null": "unusable_bbox",
        "outside": "unusable_bbox",
        "empty": "image_empty",
        "truncated": "image_corrupt",
        "html": "not_an_image",
        "giant": "image_too_large",
        "large": "image_too_large",
        "heic": "undecodable_type",
    }
    assert {key for key, row in failed.items() if row["retryable"]} == {"throttled"}
    assert all(row["cost_usd"] == 0 and row["total_tokens"] == 0 for row in failed.values())
    assert "gs://private-images/html.jpg" in failed["html"]["detail"]
    assert storage.reads[f"{BUCKET}/late.jpg"] == storage.reads[f"{BUCKET}/damaged.jpg"] == 3
    assert storage.reads[f"{BUCKET}/null.jpg"] == 0, "a row without a box is not read"
    again = cloud.classify(*flags)
    assert "rows 1 = answered 0 + failed 1 (already answered 3)" in again.summary, "only what may pass is asked again"


def test_the_same_picture_is_asked_once_and_its_answer_shared_and_marked(cloud, storage):
    same = jpeg(sign())
    names = [f"copy{number}" for number in range(12)]
    storage.objects = {f"{BUCKET}/{name}.jpg": same for name in names} | {f"{BUCKET}/other.jpg": jpeg(sign("yield"))}
    fill(cloud, dict.fromkeys([*names, "other"]))
    done = cloud.classify(INLINE, "--task=road_signs", "--images_per_request=3")
    assert done.code == 0, done.err
    assert done.summary.startswith("rows 13 = answered 13 + failed 0")
    found = cloud.query("SELECT * FROM `{answers}`")
    shared = [row for row in found if row["shared_with"] is not None]
    (first,) = {row["shared_with"] for row in shared}
    assert len(shared) == 11
    assert first in names and first not in {row["key"] for row in shared}
    assert {row["label"] for row in shared} == {"stop"}
    assert {(row["cost_usd"], row["total_tokens"], row["latency_ms"], row["attempts"]) for row in shared} == {
        (0.0, 0, None, 0)
    }
    stats = cloud.vertex.stats()
    paid = sum(stats[f"{kind}_tokens"] for kind in ("prompt", "output", "thoughts"))
    assert sum(row["total_tokens"] for row in found) == paid
    for prompt in ("--prompt=What is {observation_id}?", "--prompt=What is this?"):
        before = cloud.vertex.stats()["calls"]
        assert cloud.classify(INLINE, prompt, f"--output_table={cloud.dataset}.more").code in (0, 2)
        assert cloud.vertex.stats()["calls"] - before == (13 if "{" in prompt else 0), "refused without a new table"


def test_a_bucket_that_denies_everything_stops_the_run_before_it_is_paid_for_and_in_the_middle(cloud, storage):
    storage.objects = {f"{BUCKET}/{number}.jpg": jpeg(sign(seed=number)) for number in range(80)}
    uri = f"CONCAT('{BUCKET}/', CAST(n AS STRING), '.jpg') AS gcs_uri"
    numbers = "UNNEST(GENERATE_ARRAY(0, 79)) AS n"
    cloud.query(f"CREATE TABLE `{cloud.input}` AS SELECT n AS observation_id, {uri} FROM {numbers}")
    storage.denies_after = 0
    refused = cloud.classify(INLINE)
    assert refused.code == 2
    assert '--where="CAST(observation_id AS STRING) NOT IN (' in refused.err, "a number here"
    assert "the first 10 rows were all refused" in refused.err and "403" in refused.err
    storage.denies_after, before = 30, storage.reads.total()
    storage.denies_after += before
    halted = cloud.classify(INLINE)
    assert halted.code == 4, halted.err
    assert "Cloud Storage" in halted.err and "PERMISSION_DENIED" in halted.err
    assert cloud.query("SELECT COUNT(*) AS n FROM `{answers}_failures`") == [{"n": 0}], "no row is to blame"
    storage.denies_after = None
    done = cloud.classify(INLINE)
    assert done.code == 0, done.err
    assert cloud.query("SELECT COUNT(DISTINCT key) AS n FROM `{answers}`") == [{"n": 80}]


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--crop_to_bbox"], "--crop_to_bbox: .* add --image_source=inline"),
        (["--max_image_pixels=0"], "--max_image_pixels: .* add --image_source=inline"),
        ([INLINE, "--crop_margin=0.2"], "--crop_margin=0.2: nothing is cropped; add --crop_to_bbox"),
        ([INLINE, "--crop_to_bbox", "--bbox_column=box"], "--crop_to_bbox: the input has no box.lo.x; --bbox_column"),
        ([INLINE, "--crop_to_bbox", "--crop_margin=inf"], "--crop_margin=inf: expected a number"),
        ([INLINE, "--max_image_pixels=100"], "--max_image_pixels=100: expected at least 1,024"),
        ([INLINE, "--images_per_request=400"], "--images_per_request=400: .* give at most 190"),
        ([INLINE, "--crop_to_bbox", "--unit=asset"], "--crop_to_bbox with --unit=asset"),
        ([INLINE, "--mode=batch", "--batch_folder=gs://b/f"], "--image_source=inline: a batch asks by URI"),
    ],
)
def test_what_inline_cannot_do_is_one_line_before_anything_is_read(sampled, flags, says):
    refused = sampled.classify(*flags)
    assert refused.code == 2
    (line,) = refused.err.strip().splitlines()
    assert re.search(says, line), line


def test_the_plan_says_what_is_sent_and_another_treatment_is_another_fingerprint(sampled):
    plans = [
        sampled.run("plan", *flags).out
        for flags in ([], [INLINE], [INLINE, "--crop_to_bbox"], [INLINE, "--crop_to_bbox", "--crop_margin=0.3"])
    ]
    marks = {next(line for line in plan.splitlines() if "fingerprint" in line) for plan in plans}
    assert len(marks) == 4
    assert "sent inline" not in plans[0]
    said = [" ".join(plan.replace("│", " ").split()) for plan in plans]
    assert "cut to bbox and 0.1 of its longer side, at most 5,160,960 pixels" in said[2]
    assert "read here and sent inline, at most 5,160,960 pixels" in said[1]


def test_a_read_that_is_refused_says_what_google_said():
    objects = Objects("demo-project")
    tiny = TinyStorage()
    tiny.says["gs://b/odd"] = [400]
    with tiny.serving(), pytest.MonkeyPatch.context() as patch:
        patch.setenv("STORAGE_EMULATOR_HOST", tiny.url)
        with pytest.raises(ImageError, match="400") as raised:
            objects.read("gs://b/odd")
    assert raised.value.problem.reason is Reason.INVALID_REQUEST
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STORAGE_EMULATOR_HOST", tiny.url)  # nobody is there any more
        with pytest.raises(ImageError) as raised:
            Objects("demo-project").read("gs://b/o")
    assert raised.value.problem.reason is Reason.IMAGE_UNAVAILABLE


def test_without_credentials_the_run_halts_and_no_row_is_blamed(monkeypatch, tmp_path):
    monkeypatch.delenv("STORAGE_EMULATOR_HOST", raising=False)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "missing.json"))
    with pytest.raises(ImageError) as raised:
        Objects("demo-project").read("gs://b/o")
    error = raised.value.problem.error
    assert error is not None and (error.code, error.reason) == ("UNAUTHENTICATED", "CREDENTIALS_MISSING")
