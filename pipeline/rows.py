"""The rows that go in and come out, and the columns that they have in BigQuery. Pure: no Beam, no Google client."""

from __future__ import annotations

import dataclasses
import datetime
import enum
import json
import math
from collections.abc import Mapping
from typing import Any


class Reason(enum.StrEnum):
    """Why a row has no answer. The list is closed: dashboards and `--retry_failed` rely on it."""

    # The row itself is unusable; found by the worklist's SQL, no call is made.
    MISSING_KEY = "missing_key"
    MISSING_URI = "missing_uri"
    MALFORMED_URI = "malformed_uri"
    UNSUPPORTED_IMAGE_TYPE = "unsupported_image_type"
    # The image cannot be used by the model.
    IMAGE_NOT_FOUND = "image_not_found"
    IMAGE_DENIED = "image_denied"
    INVALID_REQUEST = "invalid_request"
    # What the worker found when it read the image itself (--image_source=inline).
    IMAGE_UNAVAILABLE = "image_unavailable"
    IMAGE_EMPTY = "image_empty"
    IMAGE_CORRUPT = "image_corrupt"
    IMAGE_TOO_LARGE = "image_too_large"
    NOT_AN_IMAGE = "not_an_image"
    UNDECODABLE_TYPE = "undecodable_type"
    UNUSABLE_BBOX = "unusable_bbox"
    # The model would not or could not answer.
    BLOCKED = "blocked"
    MAX_TOKENS = "max_tokens"
    EMPTY_ANSWER = "empty_answer"
    INVALID_ANSWER = "invalid_answer"
    # The service did not answer in the attempts or the time that a row has.
    UNAVAILABLE = "unavailable"
    TIMED_OUT = "timed_out"
    RATE_LIMITED = "rate_limited"
    # BigQuery would not take the answer; the model's text is kept in the failure.
    ROW_REJECTED = "row_rejected"

    @property
    def retryable(self) -> bool:
        """True where asking the same again may well end in an answer."""
        return self in _RETRYABLE


_RETRYABLE = frozenset(
    {Reason.UNAVAILABLE, Reason.TIMED_OUT, Reason.RATE_LIMITED, Reason.EMPTY_ANSWER, Reason.IMAGE_UNAVAILABLE}
)


IMAGES = "image_uris"
"""Column of an asset's images, a JSON array of their URIs, the newest first; where one question is asked per asset."""


class RunState(enum.StrEnum):
    """What a line of the append-only runs table says."""

    STARTED = "started"
    FINISHED = "finished"
    CANCELLED = "cancelled"
    HALTED = "halted"


@dataclasses.dataclass(frozen=True, slots=True)
class Column:
    """One BigQuery column. `type` is STRING, INT64, FLOAT64, BOOL, TIMESTAMP, DATE or JSON."""

    name: str
    type: str
    description: str = ""
    required: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class Observation:
    """One row of the worklist: one image.

    `columns` holds the kept columns and those that the prompt names, by their flat names, as JSON-able values
    (timestamps are `datetime`). `problem` is the `Reason` that makes the row unusable, or None.
    """

    key: str
    gcs_uri: str | None
    columns: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    problem: str | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Usage:
    """Tokens and dollars of one or more calls. `cost_usd` is None when the model's price is not known."""

    prompt_tokens: int = 0
    output_tokens: int = 0
    thoughts_tokens: int = 0
    total_tokens: int = 0
    cost_usd: float | None = 0.0

    def __add__(self, other: Usage) -> Usage:
        cost = None if self.cost_usd is None or other.cost_usd is None else self.cost_usd + other.cost_usd
        return Usage(
            self.prompt_tokens + other.prompt_tokens,
            self.output_tokens + other.output_tokens,
            self.thoughts_tokens + other.thoughts_tokens,
            self.total_tokens + other.total_tokens,
            cost,
        )


@dataclasses.dataclass(frozen=True, slots=True)
class Answer:
    """What the model said of one image, with its provenance: one row of the answers table.

    `shared_with` is the key of the row that was asked with the very same image and question; then this row cost
    nothing, and `latency_ms` is None.
    """

    key: str
    gcs_uri: str
    columns: Mapping[str, Any]
    task: str
    fingerprint: str
    classification: str
    answer: str | None
    label: str | None
    model: str
    model_version: str
    finish_reason: str
    traffic_type: str | None
    usage: Usage
    latency_ms: float | None
    attempts: int
    run_id: str
    classified_at: datetime.datetime
    shared_with: str | None = None

    def row(self) -> dict[str, Any]:
        """The flat row that BigQuery stores: the kept columns beside the fixed ones."""
        return {
            **self.columns,
            "key": self.key,
            "gcs_uri": self.gcs_uri,
            "task": self.task,
            "fingerprint": self.fingerprint,
            "classification": self.classification,
            "answer": self.answer,
            "label": self.label,
            "model": self.model,
            "model_version": self.model_version,
            "finish_reason": self.finish_reason,
            "traffic_type": self.traffic_type,
            "prompt_tokens": self.usage.prompt_tokens,
            "output_tokens": self.usage.output_tokens,
            "thoughts_tokens": self.usage.thoughts_tokens,
            "total_tokens": self.usage.total_tokens,
            "cost_usd": self.usage.cost_usd,
            "latency_ms": self.latency_ms,
            "attempts": self.attempts,
            "run_id": self.run_id,
            "classified_at": self.classified_at,
            "shared_with": self.shared_with,
        }


@dataclasses.dataclass(frozen=True, slots=True)
class Failure:
    """A row that has no answer, and why: one row of the failures table."""

    key: str
    gcs_uri: str | None
    task: str
    fingerprint: str
    reason: Reason
    detail: str
    attempts: int
    calls: int
    usage: Usage
    model: str
    classification: str | None
    run_id: str
    failed_at: datetime.datetime
    columns: Mapping[str, Any]

    def row(self) -> dict[str, Any]:
        """The flat row that BigQuery stores; the worklist's columns go into `row` as JSON."""
        return {
            "key": self.key,
            "gcs_uri": self.gcs_uri,
            "task": self.task,
            "fingerprint": self.fingerprint,
            "reason": self.reason.value,
            "detail": self.detail,
            "retryable": self.reason.retryable,
            "attempts": self.attempts,
            "calls": self.calls,
            "prompt_tokens": self.usage.prompt_tokens,
            "output_tokens": self.usage.output_tokens,
            "thoughts_tokens": self.usage.thoughts_tokens,
            "total_tokens": self.usage.total_tokens,
            "cost_usd": self.usage.cost_usd,
            "model": self.model,
            "classification": self.classification,
            "run_id": self.run_id,
            "failed_at": self.failed_at,
            "row": _as_json(self.columns),
        }


def _as_json(columns: Mapping[str, Any]) -> str:
    """A row's columns as JSON that BigQuery takes: a number that is none (NaN, infinity) becomes its name."""
    finite = {
        name: str(value) if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in columns.items()
    }
    return json.dumps(finite, default=str, ensure_ascii=False)


_USAGE_COLUMNS = (
    Column("prompt_tokens", "INT64", "Input tokens of all calls made for this row."),
    Column("output_tokens", "INT64", "Output tokens of all calls, thinking not included."),
    Column("thoughts_tokens", "INT64", "Thinking tokens of all calls; billed as output."),
    Column("total_tokens", "INT64", "All tokens of all calls."),
    Column("cost_usd", "FLOAT64", "Dollars of all calls by the price table; NULL when the price is not known."),
)

ANSWER_COLUMNS = (
    Column("key", "STRING", "The row's key in the input table.", required=True),
    Column("gcs_uri", "STRING", "The image."),
    Column("task", "STRING", "Name of the task."),
    Column("fingerprint", "STRING", "Hash of all that decides an answer: prompt, schema, model and its settings."),
    Column("classification", "STRING", "The model's text."),
    Column("answer", "JSON", "The structured answer, when the task has a schema."),
    Column("label", "STRING", "The label, when the task has labels."),
    Column("model", "STRING", "The model that was asked for."),
    Column("model_version", "STRING", "The model that answered."),
    Column("finish_reason", "STRING", "Why the model stopped."),
    Column("traffic_type", "STRING", "The service tier that really served the call."),
    *_USAGE_COLUMNS,
    Column("latency_ms", "FLOAT64", "Milliseconds from sending the last call to its answer; NULL where it is shared."),
    Column("attempts", "INT64", "Calls that it took, rejections for quota not counted."),
    Column("run_id", "STRING", "The run that asked."),
    Column("classified_at", "TIMESTAMP", "When the answer arrived.", required=True),
    Column("shared_with", "STRING", "Key of the row whose image is the same, byte for byte, and whose answer this is."),
)

FAILURE_COLUMNS = (
    Column("key", "STRING", "The row's key in the input table, or null:<digest> where it has none.", required=True),
    Column("gcs_uri", "STRING", "The image."),
    Column("task", "STRING", "Name of the task."),
    Column("fingerprint", "STRING", "Hash of all that decides an answer."),
    Column("reason", "STRING", "Why there is no answer; a closed list, see README."),
    Column("detail", "STRING", "What the service said."),
    Column("retryable", "BOOL", "Whether asking again may help."),
    Column("attempts", "INT64", "Attempts spent, rejections for quota not counted."),
    Column("calls", "INT64", "Calls made, rejections for quota included."),
    *_USAGE_COLUMNS,
    Column("model", "STRING", "The model that was asked."),
    Column("classification", "STRING", "The model's text, if there was any."),
    Column("run_id", "STRING", "The run that asked."),
    Column("failed_at", "TIMESTAMP", "When it was given up.", required=True),
    Column("row", "JSON", "The row's other columns."),
)

RUN_COLUMNS = (
    Column("run_id", "STRING", "The run.", required=True),
    Column("state", "STRING", "started, finished, cancelled or halted."),
    Column("at", "TIMESTAMP", "When this line was appended.", required=True),
    Column("reason", "STRING", "Why the run was halted or cancelled."),
    Column("task", "STRING", "Name of the task."),
    Column("fingerprint", "STRING", "Hash of all that decides an answer."),
    Column("settings", "JSON", "What the fingerprint is a hash of."),
    Column("worklist", "STRING", "The table that holds the rows of this run."),
    Column("worklist_rows", "INT64", "Rows of the worklist."),
    Column("answered", "INT64", "Distinct keys of the worklist that this run answered."),
    Column("failed", "INT64", "Distinct keys that this run filed as failures and did not answer."),
    Column("not_asked", "INT64", "Distinct keys that this run did not come to: over budget or stopped."),
    Column("already_answered", "INT64", "Keys of the input that had an answer before this run."),
    Column("total_tokens", "INT64", "Tokens of the run's answers and failures."),
    Column("cost_usd", "FLOAT64", "Dollars of the run's answers and failures."),
    Column("secs", "FLOAT64", "Seconds from started to the end, or to the last row where audit wrote the end."),
    Column("images_per_sec", "FLOAT64", "Rows answered or failed, by seconds."),
    Column("versions", "JSON", "Versions of this package, Beam, Python and the client libraries."),
    Column("options", "JSON", "The options of the command, and where it was launched."),
)
