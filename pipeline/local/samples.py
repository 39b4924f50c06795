"""Sample data for the demo and the tests: pictures in a bucket's folder, their observations and their truth in tables.

Everything is drawn by a seeded generator: the same pictures, ids and rows on every machine.
"""

from __future__ import annotations

import base64
import dataclasses
import datetime
import random
import uuid
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pipeline.local.pictures.drawing import (
    BADGE_LETTERS,
    COVER_CONDITIONS,
    COVER_TEXTS,
    SIGN_CONDITIONS,
    SURFACES,
    Scene,
    draw,
)
from pipeline.local.pictures.signs import SIGN_TEXTS
from pipeline.local.truth import TRUTH, TRUTH_FIELDS

if TYPE_CHECKING:
    from google.cloud import bigquery

DATASET: Final = "imagery_insights___us"
TABLE: Final = "latest_observations"
BUCKET: Final = "geoai_published_5c1a7b9e-3f60-4d2e-9b7c-2a8d14e6f035__us"
JPEG_QUALITY: Final = 88

_STRING, _FLOAT, _TIME = "STRING", "FLOAT64", "TIMESTAMP"
OBSERVATION_FIELDS: Final[Mapping[str, Any]] = {
    "observation_id": _STRING,
    "snapshot_id": _STRING,
    "asset_id": _STRING,
    "asset_type": _STRING,
    "location": {"latitude": _FLOAT, "longitude": _FLOAT},
    "capture_time": _TIME,
    "detection_time": _TIME,
    "bbox": {"lo": {"x": _FLOAT, "y": _FLOAT}, "hi": {"x": _FLOAT, "y": _FLOAT}},
    "camera_pose": dict.fromkeys(("latitude", "longitude", "altitude", "pitch", "heading", "roll"), _FLOAT),
    "gcs_uri": _STRING,
    "map_url": _STRING,
    "pano_id": _STRING,
}
"""Columns of `latest_observations` and their types; a mapping is a STRUCT. docs/facts.md, the data, tutorial generation."""

_ASSET_TYPES: Final = {
    "road_sign": "ASSET_CLASS_ROAD_SIGN",
    "utility_pole": "ASSET_CLASS_UTILITY_POLE",
    "maintenance_cover": "ASSET_CLASS_MAINTENANCE_COVER",
}


@dataclasses.dataclass(frozen=True, slots=True)
class Sample:
    """One picture: its row of `latest_observations`, and what it shows."""

    row: Mapping[str, Any]
    scene: Scene

    @property
    def key(self) -> str:
        """The observation_id."""
        return str(self.row["observation_id"])

    @property
    def uri(self) -> str:
        """The picture's gs:// URI."""
        return str(self.row["gcs_uri"])


def draw_samples(bucket_root: Path, count: int = 300, seed: int = 7) -> list[Sample]:
    """Draws `count` pictures, one to three views an asset, under `bucket_root` as JPEG files, and returns them."""
    rng = random.Random(seed)
    snapshot = str(uuid.UUID(int=rng.getrandbits(128), version=4))
    folder = bucket_root / BUCKET / snapshot / "v0"
    folder.mkdir(parents=True, exist_ok=True)
    samples: list[Sample] = []
    while len(samples) < count:
        asset = _asset(rng)
        asset_id = f"t1:{_id(rng)}"
        where = (37.7749 + rng.uniform(-0.03, 0.03), -122.4194 + rng.uniform(-0.04, 0.04))
        for _ in range(min(rng.choice((1, 2, 2, 3)), count - len(samples))):
            scene = _view(asset, rng)
            key = f"o1:{_id(rng)}"
            drawn = draw(scene, rng)
            drawn.image.save(folder / f"{key}.jpg", "JPEG", quality=JPEG_QUALITY)
            uri = f"gs://{BUCKET}/{snapshot}/v0/{key}.jpg"
            row = _row(rng, {"observation_id": key, "asset_id": asset_id, "snapshot_id": snapshot, "gcs_uri": uri})
            row |= {"asset_type": _ASSET_TYPES[scene.kind], "location": _place(where)}
            row |= _camera(rng, where, row["pano_id"])
            left, top, right, bottom = map(float, drawn.box)
            row["bbox"] = {"lo": {"x": left, "y": top}, "hi": {"x": right, "y": bottom}}
            samples.append(Sample(row, scene))
    return samples


def bad_rows(bucket_root: Path, samples: Sequence[Sample]) -> list[dict[str, Any]]:
    """Rows that cannot be answered, or only once, one of each kind; for a run that shows its failures by reason.

    A null key, a null, http, malformed and .txt URI, an object that does not exist, an object that is no image, and an
    older twin of a sample's key. All are road signs, where the samples have one.
    """
    rng = random.Random(13)
    like = next((sample for sample in samples if sample.scene.kind == "road_sign"), samples[0]).row
    folder = like["gcs_uri"].rpartition("/")[0]
    broken = f"{folder}/o1:not-an-image.jpg"
    path = bucket_root / broken.removeprefix("gs://")
    path.write_bytes(b"<html>502 Bad Gateway</html>")
    uris = {
        "null-uri": None,
        "http-uri": "http://example.com/frame.jpg",
        "malformed-uri": f"gs:/{folder.removeprefix('gs://')}/frame.jpg",
        "text-file": f"{folder}/o1:readme.txt",
        "missing-object": f"{folder}/o1:missing.jpg",
        "not-an-image": broken,
    }
    rows = [{**_row(rng, like), "observation_id": f"o1:bad-{name}", "gcs_uri": uri} for name, uri in uris.items()]
    rows.append({**_row(rng, like), "observation_id": None})
    older = datetime.datetime.fromisoformat(like["capture_time"]) - datetime.timedelta(days=400)
    rows.append({**like, "capture_time": older.isoformat(), "detection_time": older.isoformat()})
    return rows


def fill_tables(
    client: bigquery.Client,
    samples: Sequence[Sample],
    *,
    dataset: str = DATASET,
    extra_rows: Iterable[Mapping[str, Any]] = (),
) -> str:
    """Makes `latest_observations`, and `truth_<task>` for each task of `truth.TRUTH`, anew; location US.

    Args:
        client: Of the BigQuery emulator; its project is used.
        samples: From `draw_samples`.
        dataset: Made if it is missing.
        extra_rows: Rows beside the samples', such as `bad_rows`.

    Returns:
        The full name of `latest_observations`.
    """
    from google.cloud import bigquery

    made = bigquery.Dataset(f"{client.project}.{dataset}")
    made.location = "US"
    client.create_dataset(made, exists_ok=True)
    rows = [*(dict(sample.row) for sample in samples), *map(dict, extra_rows)]
    name = _fill(client, f"{dataset}.{TABLE}", schema_of(OBSERVATION_FIELDS), rows)
    for task, truth in TRUTH.items():
        rows = [{"observation_id": sample.key, **truth(sample.scene)} for sample in samples]
        _fill(client, f"{dataset}.truth_{task}", schema_of({"observation_id": _STRING, **TRUTH_FIELDS[task]}), rows)
    return name


def make_bulk_table(client: bigquery.Client, table: str, rows: int) -> None:
    """Makes `table` (DATASET.TABLE) anew with so many rows of made-up URIs, a million in under a second.

    There are no such objects: ask the stand-in for `answers="fixed"`.
    """
    client.query(
        f"CREATE OR REPLACE TABLE `{client.project}.{table}` AS SELECT "
        "FORMAT('o1:%08d', n) AS observation_id, FORMAT('t1:%08d', n) AS asset_id, "
        "'ASSET_CLASS_ROAD_SIGN' AS asset_type, '2026-10-15' AS snapshot_id, "
        "STRUCT(37.0 AS latitude, -122.0 AS longitude) AS location, "
        "TIMESTAMP '2026-10-01 12:00:00+00' AS capture_time, "
        f"FORMAT('gs://{BUCKET}/2026-10-15/v0/o1:%08d.jpg', n) AS gcs_uri "
        f"FROM UNNEST(GENERATE_ARRAY(1, {int(rows)})) AS n"
    ).result()


def schema_of(fields: Mapping[str, Any]) -> list[bigquery.SchemaField]:
    """BigQuery's schema of columns by name; a mapping is a STRUCT, a list of one type an ARRAY."""
    from google.cloud import bigquery

    schema = []
    for name, kind in fields.items():
        if isinstance(kind, Mapping):
            schema.append(bigquery.SchemaField(name, "RECORD", fields=schema_of(kind)))
        elif isinstance(kind, list):
            schema.append(bigquery.SchemaField(name, kind[0], mode="REPEATED"))
        else:
            schema.append(bigquery.SchemaField(name, kind))
    return schema


def _fill(
    client: bigquery.Client, table: str, schema: list[bigquery.SchemaField], rows: Sequence[Mapping[str, Any]]
) -> str:
    from google.cloud import bigquery

    name = f"{client.project}.{table}"
    client.delete_table(name, not_found_ok=True)
    made = client.create_table(bigquery.Table(name, schema=schema))
    for start in range(0, len(rows), 1000):
        errors = client.insert_rows_json(made, rows[start : start + 1000])
        if errors:
            raise RuntimeError(f"{name}: {errors[0]}")
    return name


# --- what is drawn


def _asset(rng: random.Random) -> Scene:
    kind = rng.choices(("road_sign", "utility_pole", "maintenance_cover"), (50, 30, 20))[0]
    if kind == "road_sign":
        sign_type = rng.choice(list(SIGN_TEXTS))
        condition = rng.choices(SIGN_CONDITIONS, (60, 16, 14, 10))[0]
        return Scene(kind=kind, sign_type=sign_type, text=rng.choice(SIGN_TEXTS[sign_type]), condition=condition)
    if kind == "utility_pole":
        badge = f"{rng.choice(BADGE_LETTERS)}{rng.randint(1000, 9999)}" if rng.random() < 0.7 else ""
        return Scene(
            kind=kind,
            text=badge,
            transformers=rng.choice((0, 0, 1, 1, 2, 3)),
            lamps=rng.choice((0, 1, 1, 2)),
            junction_boxes=rng.choice((0, 0, 1, 2)),
            lean_degrees=rng.choice((0, 0, 0, 1, 2, 5, 6, 8, 12, 14)),
        )
    cover_type = rng.choice(list(COVER_TEXTS))
    return Scene(
        kind=kind,
        cover_type=cover_type,
        text=rng.choice(COVER_TEXTS[cover_type]),
        condition=rng.choices(COVER_CONDITIONS, (55, 20, 15, 10))[0],
        surface=rng.choices(SURFACES, (60, 20, 20))[0],
    )


def _view(asset: Scene, rng: random.Random) -> Scene:
    flaw = rng.random()
    return dataclasses.replace(
        asset,
        blurred=flaw < 0.04,
        dark=0.04 <= flaw < 0.09,
        obstructed=0.09 <= flaw < 0.11,
        scale=rng.uniform(0.85, 1.2),
        offset=rng.uniform(-1, 1),
    )


def _id(rng: random.Random) -> str:
    return base64.urlsafe_b64encode(rng.randbytes(12)).decode()


def _row(rng: random.Random, values: Mapping[str, Any]) -> dict[str, Any]:
    """A row with all columns: `values`, and times and panorama of its own."""
    captured = datetime.datetime(2026, 4, 1, 9, tzinfo=datetime.UTC) + datetime.timedelta(
        days=rng.randint(0, 180), seconds=rng.randint(0, 30_000)
    )
    own = {
        "capture_time": captured.isoformat(),
        "detection_time": (captured + datetime.timedelta(days=rng.randint(3, 20))).isoformat(),
        "pano_id": _id(rng) if rng.random() < 0.8 else None,
    }
    return {**dict.fromkeys(OBSERVATION_FIELDS), **values, **own}


def _place(where: tuple[float, float]) -> dict[str, float]:
    return {"latitude": round(where[0], 6), "longitude": round(where[1], 6)}


def _camera(rng: random.Random, where: tuple[float, float], pano_id: str | None) -> dict[str, Any]:
    """Pose of a camera a few metres away, and the link that shows the spot on Google Maps."""
    spot = _place((where[0] + rng.uniform(-0.0001, 0.0001), where[1] + rng.uniform(-0.0001, 0.0001)))
    pose = {
        **spot,
        "altitude": round(rng.uniform(5, 90), 2),
        "pitch": round(rng.uniform(-4, 4), 2),
        "heading": round(rng.uniform(0, 359.9), 2),
        "roll": round(rng.uniform(-1, 1), 2),
    }
    look = f"pano={pano_id}" if pano_id else f"viewpoint={spot['latitude']},{spot['longitude']}"
    url = f"https://www.google.com/maps/@?api=1&map_action=pano&{look}&heading={pose['heading']}&pitch={pose['pitch']}"
    return {"camera_pose": pose, "map_url": url}
