"""Tables for reports, written as a run would write them, and a plain count of what is in them."""

from __future__ import annotations

import dataclasses
import datetime
import json
import random
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.bigquery import books, tables
from pipeline.bigquery.client import Endpoint
from pipeline.bigquery.names import TableName
from pipeline.bigquery.query import Query, run
from pipeline.bigquery.write import append_now
from pipeline.rows import ANSWER_COLUMNS, FAILURE_COLUMNS, RUN_COLUMNS, Answer, Column, Failure, Reason, Usage

BEGAN = datetime.datetime(2026, 11, 23, 10, 0, tzinfo=datetime.UTC)
RUN_ID, FINGERPRINT = "20261123_100000_abcd", "0123456789abcdef"
KEPT = (
    Column("asset_type", "STRING"),
    Column("map_url", "STRING"),
    Column("latitude", "FLOAT64"),
    Column("longitude", "FLOAT64"),
)
SETTINGS: dict[str, Any] = {
    "format": 1,
    "prompt": "What is it?",
    "system_instruction": "You inspect signs.",
    "questions": [
        [
            "kind",
            {"type": "label", "description": "What it is.", "labels": ["stop", "yield", ["other", "None of these"]]},
        ],
        ["problems", {"type": "labels", "labels": ["bent", "dirty", "dark"]}],
        ["count", {"type": "integer"}],
        ["degrees", {"type": "number"}],
        ["visible", {"type": "boolean"}],
        ["text", {"type": "string"}],
    ],
    "model": "gemini-3.5-flash-lite",
    "media_resolution": "low",
}


@dataclasses.dataclass(frozen=True)
class Shop:
    """The three tables of one data set."""

    endpoint: Endpoint
    answers: TableName

    @property
    def names(self) -> tuple[TableName, TableName, TableName]:
        return self.answers, self.answers.beside("_failures"), self.answers.beside("_runs")

    def make(self) -> None:
        for name, columns, partition in (
            (self.names[0], (*ANSWER_COLUMNS, *KEPT), "classified_at"),
            (self.names[1], FAILURE_COLUMNS, "failed_at"),
            (self.names[2], RUN_COLUMNS, "at"),
        ):
            tables.ensure_table(self.endpoint, name, columns, partition_by=partition)

    def add(self, answers: Sequence[Answer] = (), failures: Sequence[Failure | dict[str, Any]] = ()) -> None:
        """Appends rows; a failure may be a row of its own making, such as one that a newer version wrote."""
        if answers:
            append_now(self.endpoint, self.names[0], (*ANSWER_COLUMNS, *KEPT), [each.row() for each in answers])
        if failures:
            rows = [each.row() if isinstance(each, Failure) else each for each in failures]
            append_now(self.endpoint, self.names[1], FAILURE_COLUMNS, rows)

    def start_run(self, run_id: str = RUN_ID, keys: Sequence[str] = (), **line: Any) -> None:
        """The runs table's first line of a run, and its worklist of these keys."""
        worklist = self.answers.beside(f"_worklist_{run_id}")
        sql = f"CREATE TABLE {worklist.sql} AS SELECT key FROM UNNEST(JSON_VALUE_ARRAY(@keys)) AS key"
        run(self.endpoint, Query(sql, {"keys": json.dumps(list(keys))}))
        run(self.endpoint, Query("SELECT 1"))  # the emulator refuses an append that comes straight after a CREATE TABLE
        started = {"run_id": run_id, "state": "started", "at": BEGAN, "task": "signs", "fingerprint": FINGERPRINT}
        started |= {"settings": SETTINGS, "worklist": str(worklist), "worklist_rows": len(keys), "options": {}}
        books.append_run(self.endpoint, self.names[2], started | line)

    def end_run(self, run_id: str = RUN_ID, **line: Any) -> None:
        ended = {"run_id": run_id, "state": "finished", "at": BEGAN + datetime.timedelta(minutes=5)}
        ended |= {"task": "signs", "fingerprint": FINGERPRINT, "secs": 300.0, "images_per_sec": 1.0}
        books.append_run(self.endpoint, self.names[2], ended | line)


def answer(key: str, said: Mapping[str, Any] | None, **more: Any) -> Answer:
    """An answer with plain values but for `more`, which may be kept columns too."""
    kept = {column.name: more.pop(column.name, None) for column in KEPT}
    values: dict[str, Any] = {
        "gcs_uri": f"gs://pictures/v0/{key}.jpg",
        "task": "signs",
        "fingerprint": FINGERPRINT,
        "classification": json.dumps(said) if said is not None else "a text",
        "answer": json.dumps(said) if said is not None else None,
        "label": said.get("kind") if said else None,
        "model": "gemini-3.5-flash-lite",
        "model_version": "gemini-3.5-flash-lite-001",
        "finish_reason": "STOP",
        "traffic_type": "ON_DEMAND",
        "usage": Usage(100, 20, 0, 120, 0.0001),
        "latency_ms": 800.0,
        "attempts": 1,
        "run_id": RUN_ID,
        "classified_at": BEGAN + datetime.timedelta(seconds=30),
    }
    return Answer(key=key, columns=kept, **(values | more))


def failure(key: str, reason: Reason, **more: Any) -> Failure:
    """A failure with plain values but for `more`."""
    values: dict[str, Any] = {
        "gcs_uri": f"gs://pictures/v0/{key}.jpg",
        "task": "signs",
        "fingerprint": FINGERPRINT,
        "detail": "the service said so",
        "attempts": 1,
        "calls": 1,
        "usage": Usage(100, 0, 0, 100, 0.00003),
        "model": "gemini-3.5-flash-lite",
        "classification": None,
        "run_id": RUN_ID,
        "failed_at": BEGAN + datetime.timedelta(seconds=40),
        "columns": {"map_url": "https://www.google.com/maps/@?api=1"},
    }
    return Failure(key=key, reason=reason, **(values | more))


def random_answers(count: int, seed: int = 1) -> list[Answer]:
    """Answers with all kinds of values, nulls and empty ones included."""
    rng = random.Random(seed)
    made = []
    for number in range(count):
        said = {
            "kind": rng.choice(["stop", "stop", "stop", "yield"]),
            "problems": rng.sample(["bent", "dirty", "dark"], rng.choice([0, 0, 1, 2])),
            "count": rng.choice([0, 1, 2, None]),
            "degrees": rng.choice([None, round(rng.uniform(-5, 40), 1)]),
            "visible": rng.random() < 0.8,
            "text": rng.choice(["STOP", "", None, "GIVE WAY", "5 < 6 & 7 > 6"]),
        }
        tokens = rng.randint(5, 60)
        made.append(
            answer(
                f"o{number:05d}",
                said,
                usage=Usage(300, tokens, 0, 300 + tokens, (300 * 0.3 + tokens * 2.5) / 1e6),
                latency_ms=10 ** rng.uniform(2, 4),
                attempts=rng.choice([1, 1, 1, 2]),
                classified_at=BEGAN + datetime.timedelta(seconds=rng.randint(1, 299)),
                asset_type="ASSET_CLASS_ROAD_SIGN",
                map_url=f"https://www.google.com/maps/@?api=1&pano={number}",
                latitude=round(rng.uniform(37.74, 37.80), 6),
                longitude=round(rng.uniform(-122.46, -122.38), 6),
            )
        )
    return made
