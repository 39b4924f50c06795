"""Batch jobs through the official client of Vertex AI's JobService, by the same endpoint as online calls."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
from collections.abc import Mapping
from typing import Any

from pipeline.errors import Halted
from pipeline.gemini.endpoint import VertexEndpoint

_RETRY_SECS = 600.0  # how long one question to the service is asked again while it is out
_CALL_SECS = 60.0
_DONE = frozenset({"SUCCEEDED", "FAILED", "CANCELLED", "EXPIRED", "PARTIALLY_SUCCEEDED"})


@dataclasses.dataclass(frozen=True, slots=True)
class Job:
    """A batch job, as the service tells it.

    Attributes:
        part: what its display name says: which file of requests it answers.
        state: QUEUED, PENDING, RUNNING, SUCCEEDED, PARTIALLY_SUCCEEDED, FAILED, CANCELLING, CANCELLED, EXPIRED, ...
        answered: rows that are done, as far as the service says.
        error: why it failed, or empty.
        secs: from its making to its end, or to its last change.
    """

    name: str
    part: str
    state: str
    answered: int
    error: str
    secs: float

    @property
    def done(self) -> bool:
        return self.state in _DONE


class Jobs:
    """The batch jobs of one run.

    Args:
        vertex: where; a loopback address is spoken to in plaintext and anonymously.
        project: the project that is billed.
        labels: of the jobs, for the bill; by the label `run` those are found whose making nobody could record.
    """

    def __init__(self, vertex: VertexEndpoint, project: str, labels: Mapping[str, str]) -> None:
        self._parent = f"projects/{project}/locations/{vertex.location}"
        self._labels = labels
        self._client = _client(vertex)

    def submit(self, part: str, *, model: str, requests: str, results: str) -> Job | None:
        """Make a job; None where the service takes no more for now, or where nobody knows whether it has made it.

        Args:
            part: which file it answers: the job's display name.
            model: the model's resource name.
            requests: gs:// URI of its file.
            results: gs:// URI of the folder for its results.

        Raises:
            Halted: the service refuses it.
        """
        from google.api_core import exceptions
        from google.cloud.aiplatform_v1 import types

        wanted = types.BatchPredictionJob(
            display_name=part,
            model=model,
            labels=dict(self._labels),
            input_config={"instances_format": "jsonl", "gcs_source": {"uris": [requests]}},
            output_config={"predictions_format": "jsonl", "gcs_destination": {"output_uri_prefix": results}},
        )
        try:
            made = self._client.create_batch_prediction_job(
                parent=self._parent, batch_prediction_job=wanted, timeout=_CALL_SECS, retry=None
            )
        except (exceptions.TooManyRequests, exceptions.ServerError):
            return None
        except exceptions.ClientError as error:
            raise Halted(f"Vertex AI refuses a batch job: {error.message}") from error
        return _job(made)

    def all(self) -> list[Job]:
        """The jobs of this run, whoever made them."""
        found = self._client.list_batch_prediction_jobs(
            request={"parent": self._parent, "filter": f'labels.run="{self._labels["run"]}"'},
            timeout=_CALL_SECS,
            retry=_retry(),
        )
        return [_job(each) for each in found]

    def get(self, name: str) -> Job:
        """One job as it is now."""
        return _job(self._client.get_batch_prediction_job(name=name, timeout=_CALL_SECS, retry=_retry()))

    def cancel(self, name: str) -> None:
        """Have a job end; what it has done by then is kept, and paid. Nothing happens where it has ended."""
        from google.api_core import exceptions

        with contextlib.suppress(exceptions.FailedPrecondition, exceptions.NotFound):
            self._client.cancel_batch_prediction_job(name=name, timeout=_CALL_SECS, retry=_retry())

    def close(self) -> None:
        self._client.transport.close()


def _client(vertex: VertexEndpoint) -> Any:
    from google.cloud.aiplatform_v1 import JobServiceClient
    from google.cloud.aiplatform_v1.services.job_service.transports.grpc import JobServiceGrpcTransport

    if vertex.secure:
        return JobServiceClient(client_options={"api_endpoint": vertex.target})
    import grpc

    channel = grpc.insecure_channel(vertex.target, options=(("grpc.enable_http_proxy", 0),))
    return JobServiceClient(transport=JobServiceGrpcTransport(channel=channel))


def _retry() -> Any:
    from google.api_core import exceptions, retry

    passing = retry.if_exception_type(
        exceptions.ServerError, exceptions.TooManyRequests, exceptions.Aborted, exceptions.Cancelled
    )
    return retry.Retry(predicate=passing, initial=0.2, maximum=30.0, timeout=_RETRY_SECS)


def _job(found: Any) -> Job:
    made = found.create_time
    last: datetime.datetime | None = found.end_time or found.update_time
    return Job(
        name=found.name,
        part=found.display_name,
        state=found.state.name.removeprefix("JOB_STATE_"),
        answered=int(found.completion_stats.successful_count),
        error=found.error.message,
        secs=max(0.0, (last - made).total_seconds()) if made and last else 0.0,
    )
