"""Vertex AI's batch prediction service on loopback: JobService over gRPC, its files in the Cloud Storage emulator.

with Storage("bucket") as storage, VertexStandIn(root) as vertex, BatchStandIn(vertex, storage) as service:
    subprocess.run([..., f"--vertex_endpoint={service.endpoint}", "--mode=batch", "--batch_folder=gs://bucket/batch"])

One port serves both kinds of calls, as Google's does: those that are not JobService's go on to the Vertex AI stand-in, and the
rows of a job are answered by it too. A job runs when it is told to, or at once; it writes its lines in another order than it
read them, into a folder of its own below the prefix that it was given, and says ON_DEMAND of every answer.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import random
import re
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

from pipeline.local.storage import Storage
from pipeline.local.vertex import VertexStandIn

_SERVICE = "/google.cloud.aiplatform.v1.JobService/"
_GENERATE = "/google.cloud.aiplatform.v1.PredictionService/GenerateContent"
_MAX_REQUESTS = 200_000
_MAX_BYTES = 1_000_000_000
_FILTER = re.compile(r'labels\.([a-z0-9_-]+)="([a-z0-9_-]*)"')
_HTTP = {"INVALID_ARGUMENT": (400, "Bad Request"), "NOT_FOUND": (404, "Not Found")}

Line = dict[str, Any]
Change = Callable[[list[Line]], list[Line | str]]
"""What a test does to a job's lines before they are written: leave out, double, break."""


@dataclasses.dataclass
class Behaviour:
    """How the next jobs go; tests set it.

    Attributes:
        hold: jobs stay RUNNING until `BatchStandIn.finish`.
        state: what they end in.
        error: why, for a job that fails.
        share: part of the rows that is answered, of a job that ends early.
        answer: the response to every row, instead of the Vertex AI stand-in's to each: for files of many.
        keys: whether lines keep the key of their request.
        change: what is done to the lines.
        most_jobs: more live jobs than that are refused with RESOURCE_EXHAUSTED.
    """

    hold: bool = False
    state: str = "SUCCEEDED"
    error: str = ""
    share: float = 1.0
    answer: Line | None = None
    keys: bool = True
    change: Change | None = None
    most_jobs: int = 1000


class BatchStandIn:
    """The service, for as long as the `with` block lives.

    Args:
        vertex: answers the rows, and all calls that are not JobService's.
        storage: where the files lie.
    """

    def __init__(self, vertex: VertexStandIn, storage: Storage) -> None:
        from google.cloud.aiplatform_v1 import types

        self._types = types
        self._vertex, self._storage = vertex, storage
        self._lock = threading.Condition()
        self._jobs: dict[str, Any] = {}
        self._behaviours: dict[str, Behaviour] = {}
        self._pool = ThreadPoolExecutor(2, thread_name_prefix="batch-job")
        self._handlers: dict[str, tuple[Any, Any]] = {
            "CreateBatchPredictionJob": (self._create, types.CreateBatchPredictionJobRequest),
            "CancelBatchPredictionJob": (self._cancel, types.CancelBatchPredictionJobRequest),
            "GetBatchPredictionJob": (self._get, types.GetBatchPredictionJobRequest),
            "ListBatchPredictionJobs": (self._list, types.ListBatchPredictionJobsRequest),
        }
        self._server: Any = None
        self._channel: Any = None
        self._port = 0
        self.behaviour = Behaviour()
        self.paid_rows = 0
        self.before_reply: Callable[[str], None] = lambda _: None
        """Called with the method's name when a call has been done and its reply is about to be sent."""

    @property
    def endpoint(self) -> str:
        """For `--vertex_endpoint`."""
        return f"127.0.0.1:{self._port}"

    @property
    def jobs(self) -> list[Any]:
        """All jobs, as messages, in the order of their making."""
        with self._lock:
            return list(self._jobs.values())

    def wait_for_jobs(self, count: int, timeout_secs: float = 30.0) -> None:
        """Returns when so many jobs have been made.

        Raises:
            TimeoutError: they have not.
        """
        with self._lock:
            if not self._lock.wait_for(lambda: len(self._jobs) >= count, timeout_secs):
                raise TimeoutError(f"{len(self._jobs)} jobs, not {count}")

    def finish(self, **changes: Any) -> None:
        """Run all jobs that are held to their end, with a changed behaviour; returns when they have ended."""
        for name in [job.name for job in self.jobs if job.state == self._types.JobState.JOB_STATE_RUNNING]:
            held = dataclasses.replace(self._behaviours[name], hold=False, **changes)
            self._run(name, held)

    def __enter__(self) -> Self:
        import grpc

        self._channel = grpc.insecure_channel(self._vertex.endpoint)
        stand_in = self

        class Handler(grpc.GenericRpcHandler):  # type: ignore[misc]
            def service(self, details: Any) -> Any:
                return grpc.unary_unary_rpc_method_handler(stand_in._handler(details.method))

        self._server = grpc.server(ThreadPoolExecutor(32), options=(("grpc.so_reuseport", 0),))
        self._server.add_generic_rpc_handlers((Handler(),))
        self._port = self._server.add_insecure_port("127.0.0.1:0")
        self._server.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.stop(0).wait()
        self._pool.shutdown()
        self._channel.close()

    def _handler(self, method: str) -> Callable[[bytes, Any], bytes]:
        if method.startswith(_SERVICE):
            name = method.removeprefix(_SERVICE)
            handle, kind = self._handlers[name]

            def job_call(raw: bytes, context: Any) -> bytes:
                reply = handle(kind.deserialize(raw), context)
                self.before_reply(name)
                own = hasattr(type(reply), "serialize")  # proto-plus; an Empty is plain protobuf
                return bytes(type(reply).serialize(reply) if own else reply.SerializeToString())

            return job_call
        forward = self._channel.unary_unary(method)

        def other_call(raw: bytes, context: Any) -> bytes:
            import grpc

            metadata = [pair for pair in context.invocation_metadata() if pair.key.startswith("x-")]
            try:
                reply = bytes(forward(raw, metadata=metadata, timeout=context.time_remaining()))
            except grpc.RpcError as error:
                context.abort(error.code(), error.details())
                raise AssertionError("abort raises") from error
            self.before_reply(method.rpartition("/")[2])
            return reply

        return other_call

    def _create(self, request: Any, context: Any) -> Any:
        import grpc

        job = request.batch_prediction_job
        uris = list(job.input_config.gcs_source.uris)
        formats = (job.input_config.instances_format, job.output_config.predictions_format)
        if not job.display_name or formats != ("jsonl", "jsonl") or len(uris) != 1:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "display_name, one uri and the format jsonl are required.")
        if not re.fullmatch(r"(projects/[^/]+/locations/[^/]+/)?publishers/google/models/[^/]+", job.model):
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"Invalid model: {job.model}")
        live = [each for each in self.jobs if each.state == self._types.JobState.JOB_STATE_RUNNING]
        behaviour = self.behaviour
        if len(live) >= behaviour.most_jobs:
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "Quota exceeded for concurrent batch prediction jobs.")
        with self._lock:
            made: Any = self._types.BatchPredictionJob(job)
            made.name = f"{request.parent}/batchPredictionJobs/{1000 + len(self._jobs)}"
            made.state = self._types.JobState.JOB_STATE_RUNNING
            made.create_time = made.update_time = datetime.datetime.now(datetime.UTC)
            self._jobs[made.name] = made
            self._behaviours[made.name] = behaviour
            copy = self._types.BatchPredictionJob(made)
            self._lock.notify_all()
        if not behaviour.hold:
            self._pool.submit(self._run, made.name, behaviour)
        return copy

    def _get(self, request: Any, context: Any) -> Any:
        import grpc

        with self._lock:
            if request.name not in self._jobs:
                context.abort(grpc.StatusCode.NOT_FOUND, f"The BatchPredictionJob {request.name} does not exist.")
            return self._types.BatchPredictionJob(self._jobs[request.name])

    def _cancel(self, request: Any, context: Any) -> Any:
        """A held job ends in the background with the share of rows that its behaviour says."""
        import grpc
        from google.protobuf import empty_pb2

        job = self._get(request, context)
        if job.state != self._types.JobState.JOB_STATE_RUNNING:
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, f"The job {request.name} has ended.")
        self._jobs[request.name].state = self._types.JobState.JOB_STATE_CANCELLING
        behaviour = dataclasses.replace(self._behaviours[request.name], hold=False, state="CANCELLED")
        self._pool.submit(self._run, request.name, behaviour)
        return empty_pb2.Empty()

    def _list(self, request: Any, _context: Any) -> Any:
        """Newest first, two a page: a client that reads one page only would miss jobs."""
        wanted = _FILTER.fullmatch(request.filter)
        found = [
            job
            for job in reversed(self.jobs)
            if job.name.startswith(request.parent) and (not wanted or job.labels.get(wanted[1]) == wanted[2])
        ]
        begin = int(request.page_token or 0)
        more = str(begin + 2) if len(found) > begin + 2 else ""
        return self._types.ListBatchPredictionJobsResponse(
            batch_prediction_jobs=found[begin : begin + 2], next_page_token=more
        )

    def _run(self, name: str, behaviour: Behaviour) -> None:
        """Answer the rows of a job, write its lines, and end it."""
        job = self._jobs[name]
        bucket, _, path = job.input_config.gcs_source.uris[0].removeprefix("gs://").partition("/")
        content = self._storage.read(bucket, path)
        read = [json.loads(line) for line in content.splitlines()]
        if len(read) > _MAX_REQUESTS or len(content) > _MAX_BYTES:
            behaviour = Behaviour(state="FAILED", error="The input has more than 200,000 requests or 1 GB.")
        some = read[: round(len(read) * behaviour.share)] if behaviour.state != "FAILED" else []
        lines: list[Line] = [self._line(job.model, line, behaviour) for line in some]
        answered = sum(not line["status"] for line in lines)
        random.Random(len(lines)).shuffle(lines)
        changed: Sequence[Line | str] = behaviour.change(lines) if behaviour.change else lines
        out_bucket, _, prefix = job.output_config.gcs_destination.output_uri_prefix.removeprefix("gs://").partition("/")
        folder = f"{prefix}/prediction-model-2026-11-23T00:00:00.000000Z"
        if changed:
            text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in changed)
            self._storage.write(out_bucket, f"{folder}/predictions.jsonl", text.encode())
        with self._lock:
            self.paid_rows += answered
            job.completion_stats.successful_count = answered
            job.completion_stats.failed_count = len(some) - answered
            job.completion_stats.incomplete_count = len(read) - len(some)
            job.output_info.gcs_output_directory = f"gs://{out_bucket}/{folder}"
            job.end_time = job.update_time = datetime.datetime.now(datetime.UTC)
            job.error.message = behaviour.error
            job.state = getattr(self._types.JobState, f"JOB_STATE_{behaviour.state}")

    def _line(self, model: str, line: Line, behaviour: Behaviour) -> Line:
        """A line of output: the request as it was sent, with its response or its error."""
        import grpc
        from google.protobuf import json_format

        echo = {"request": line["request"], "processed_time": "2026-11-23T00:00:00.000+00:00", "status": ""}
        if behaviour.keys and "key" in line:
            echo["key"] = line["key"]
        if behaviour.answer is not None:
            return echo | {"response": behaviour.answer}
        request = self._types.GenerateContentRequest.pb()()
        json_format.ParseDict(line["request"], request)
        request.model = model
        try:
            routing = (("x-goog-request-params", f"model={quote(model, safe='')}"),)
            raw = self._channel.unary_unary(_GENERATE)(request.SerializeToString(), metadata=routing)
        except grpc.RpcError as error:
            code, phrase = _HTTP.get(error.code().name, (500, "Internal Server Error"))
            told = {"error": {"code": code, "message": error.details(), "status": error.code().name}}
            return echo | {"status": f"{phrase}: {json.dumps(told)}", "response": {}}
        response = json_format.MessageToDict(self._types.GenerateContentResponse.pb().FromString(raw))
        response.setdefault("usageMetadata", {})["trafficType"] = "ON_DEMAND"
        return echo | {"response": response}
