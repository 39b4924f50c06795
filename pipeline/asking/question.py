"""What a run asks of every image, with what it takes to build requests, to price responses and to file failures."""

from __future__ import annotations

import dataclasses
import datetime
import functools
from collections.abc import Callable, Sequence
from typing import Any

from pipeline.gemini import models
from pipeline.gemini.prices import Estimate, Prices, estimate
from pipeline.gemini.request import RequestBuilder, request_labels
from pipeline.gemini.response import Reply
from pipeline.rows import Failure, Observation, Reason, Usage
from pipeline.task import Settings, Task, fingerprint

_UNUSABLE = {
    Reason.MISSING_KEY: "the key is null",
    Reason.MISSING_URI: "the URI is null or empty",
    Reason.MALFORMED_URI: "the URI is not gs://BUCKET/OBJECT",
    Reason.UNSUPPORTED_IMAGE_TYPE: "the URI does not end in a known image type (.jpg, .png, .webp, .heic, .heif)",
}


def utc_now() -> datetime.datetime:
    """The time, with its zone."""
    return datetime.datetime.now(datetime.UTC)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Question:
    """What a run asks of every image; picklable. What is derived from it is made once a process.

    Attributes:
        resource: full name of the model, from `models.resource_name`.
        kept_columns: columns of an observation that are stored beside its answer.
        prices: None when the price is not known; then cost_usd is None too.
        clock: for `classified_at`, `failed_at` and the price of the day.
    """

    task: Task
    settings: Settings
    resource: str
    run_id: str
    kept_columns: tuple[str, ...] = ()
    prices: Prices | None = None
    clock: Callable[[], datetime.datetime] = utc_now

    @property
    def images_per_request(self) -> int:
        return self.settings.images_per_request

    @functools.cached_property
    def fingerprint(self) -> str:
        return fingerprint(self.task, self.settings)

    @functools.cached_property
    def builder(self) -> RequestBuilder:
        return RequestBuilder(self.task, self.settings, self.resource, request_labels(self.run_id, self.task.name))

    @functools.cached_property
    def _estimates(self) -> dict[tuple[int, int], Estimate]:
        return {}

    def planned(self, images: int, views: int = 1) -> Estimate:
        """Tokens that a call with so many rows is planned with, each of so many images."""
        found = self._estimates.get((images, views))
        if found is None:
            found = estimate(self.task, self.settings, models.find(self.settings.model), images=images, views=views)
            self._estimates[images, views] = found
        return found

    def views(self, rows: Sequence[Observation]) -> int:
        """Images of each row of a call: 1, or those of the asset."""
        return 1 if self.settings.unit is None else len(self.builder.uris(rows[0]))

    def usage(self, reply: Reply) -> Usage:
        """Tokens and dollars of a response; as planned where the service did not say."""
        return self._priced(
            reply.prompt_tokens, reply.output_tokens, reply.thoughts_tokens, reply.total_tokens, reply.traffic_type
        )

    def planned_usage(self, rows: Sequence[Observation]) -> Usage:
        """What a call for these rows is charged with whose answer will never be known."""
        plan = self.planned(len(rows), self.views(rows))
        return self._priced(plan.prompt_tokens, plan.output_tokens, plan.thoughts_tokens, plan.total_tokens, None)

    def _priced(self, prompt: int, output: int, thoughts: int, total: int, traffic_type: str | None) -> Usage:
        cost = None
        if self.prices is not None:
            cost = self.prices.cost(
                prompt, output, thoughts, at=self.clock(), tier=self.settings.service_tier, traffic_type=traffic_type
            )
        return Usage(prompt, output, thoughts, total, cost)

    def kept(self, row: Observation) -> dict[str, Any]:
        """The columns of a row that are stored beside its answer."""
        return {name: row.columns.get(name) for name in self.kept_columns}

    def unusable(self, row: Observation) -> Failure:
        """The failure of a row that the worklist found unusable; no call is made.

        Args:
            row: an observation with a `problem`.
        """
        reason = Reason(row.problem or "")
        return self.failure(row, reason, _UNUSABLE.get(reason, ""), attempts=0, calls=0, usage=Usage())

    def failure(
        self,
        row: Observation,
        reason: Reason,
        detail: str,
        *,
        attempts: int,
        calls: int,
        usage: Usage,
        text: str | None = None,
    ) -> Failure:
        """A failure of a row, with all its columns."""
        return Failure(
            row.key,
            row.gcs_uri,
            self.task.name,
            self.fingerprint,
            reason,
            detail,
            attempts,
            calls,
            usage,
            self.settings.model,
            text or None,
            self.run_id,
            self.clock(),
            row.columns,
        )

    def __getstate__(self) -> dict[str, Any]:
        # Builder and estimates are rebuilt where the question is unpickled.
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
