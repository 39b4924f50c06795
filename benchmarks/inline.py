"""Images by URI beside images that the pipeline reads, prepares and sends itself: what that costs in CPU, memory and speed."""

from __future__ import annotations

import dataclasses
import io
import random
from typing import Any

import numpy as np
from PIL import Image

from benchmarks import measure
from benchmarks.contenders.question import PROJECT
from benchmarks.scenarios import PIPELINE, flags_of, line_of
from benchmarks.services import DATASET, Services, run_child
from pipeline.local.pictures.drawing import Scene, draw
from pipeline.local.storage import Storage

BUCKET = "bench-images"
FRAME = (3648, 5472)  # a panorama's frame, docs/facts.md, the data
_DISTINCT = 12  # files; each row has a question of its own, so that no two rows share an answer
_SETTLE_SECS = 3.0


@dataclasses.dataclass(frozen=True)
class Way:
    """One way to send images: what it is called, how large they are, how many, and the flags."""

    name: str
    size: tuple[int, int]
    rows: int
    flags: tuple[str, ...]


def ways(frames: int, small: int) -> tuple[Way, ...]:
    """What is compared, with so many rows of frames and of small images."""
    inline = "--image_source=inline"
    return (
        Way("by URI", FRAME, small, ()),
        Way("inline, whole frame to 5.2 megapixels", FRAME, frames, (inline,)),
        Way("inline, box of 600 x 800 cut out", FRAME, frames, (inline, "--crop_to_bbox")),
        Way("inline, 480 x 360 passed through", (480, 360), small, (inline,)),
    )


def measure_inline(found: Services, way: Way) -> dict[str, Any]:
    """Images a second, CPU and peak memory of the pipeline's process."""
    with Storage(BUCKET) as storage:
        for number in range(_DISTINCT):
            storage.write(BUCKET, f"{way.size[0]}/{number}.jpg", picture(way.size, number))
        there = dataclasses.replace(found, environment={**found.environment, **storage.environment})
        return _measured(there, way)


def picture(size: tuple[int, int], seed: int) -> bytes:
    """A drawn picture of that size, with the grain of a camera, as a JPEG."""
    drawn = draw(Scene(kind="road_sign", sign_type="stop", text="STOP"), random.Random(seed)).image
    pixels = np.asarray(drawn.resize(size, Image.Resampling.BICUBIC), dtype=np.int16)
    grain = np.random.default_rng(seed).normal(0, 4, pixels.shape).astype(np.int16)
    buffer = io.BytesIO()
    Image.fromarray(np.clip(pixels + grain, 0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def _measured(found: Services, way: Way) -> dict[str, Any]:
    found.vertex.reset(answers="fixed", check_tokens=True, latency_secs=1.0)
    table = f"{PROJECT}.{DATASET}.inline_{found.next_number()}"
    _fill(found, table, way)
    output = f"{table}_answers"
    flags = flags_of(found, table, way.rows)
    command = [
        "pipeline",
        "classify",
        *flags,
        f"--output_table={output}",
        "--prompt=What is {observation_id}?",
        *way.flags,
    ]
    child = run_child(found, [[*command, f"--max_in_flight={PIPELINE.window}"]])
    state = measure.steady(found.vertex.log(), PIPELINE.window, settle_secs=_SETTLE_SECS)
    answered = found.row(f"SELECT COUNT(DISTINCT key) AS n FROM `{output}`")["n"]
    return {**line_of(PIPELINE, child, state), "way": way.name, "rows": way.rows, "rows_answered": int(answered)}


def _fill(found: Services, table: str, way: Way) -> None:
    uri = f"FORMAT('gs://{BUCKET}/{way.size[0]}/%d.jpg', MOD(n, {_DISTINCT}))"
    box = "STRUCT(STRUCT(500 + MOD(n, 97) AS x, 900 AS y) AS lo, STRUCT(1100 + MOD(n, 97) AS x, 1700 AS y) AS hi)"
    with found.endpoint.client() as client:
        client.create_dataset(DATASET, exists_ok=True)
        client.query(
            f"CREATE TABLE `{table}` AS SELECT FORMAT('o1:%08d', n) AS observation_id, {uri} AS gcs_uri, {box} AS bbox "
            f"FROM UNNEST(GENERATE_ARRAY(1, {way.rows})) AS n"
        ).result()
