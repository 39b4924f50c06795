"""The Dataflow service on loopback: takes jobs as strictly as it can tell without running them, and keeps them.

It is plain HTTP. Beam takes a port in `--dataflow_endpoint` only for `localhost`, where it skips the checks that it
makes for the real service. So the endpoint is a name without a port, and the stand-in is reached as its HTTP proxy:

    with Dataflow() as dataflow:
        subprocess.run([..., *dataflow.flags], env={**os.environ, **dataflow.environment(directory)})
        (job,) = dataflow.jobs

What it does not do: run anything. A job stays PENDING until `set_state` or a cancellation, and of a template's launch
it keeps the words that the launcher would be started with.
"""

from __future__ import annotations

import dataclasses
import json
import re
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

from pipeline.local.flex_template import Launch, launch, parameter_faults
from pipeline.local.tls import write_service_account

ENDPOINT = "http://dataflow.sandbox"  # "sandbox" makes Beam speak REST to it and keep http://
TOKEN_LIFETIME_SECS = 3600

# Documented forms: https://cloud.google.com/dataflow/docs/reference/rest/v1b3/projects.locations.jobs#Job and
# https://cloud.google.com/compute/docs/labeling-resources#requirements
_JOB_NAME = re.compile(r"[a-z]([-a-z0-9]{0,1022}[a-z0-9])?")
_LABEL_KEY = re.compile(r"[a-z][a-z0-9_-]{0,62}")
_LABEL_VALUE = re.compile(r"[a-z0-9_-]{0,63}")
_MOST_LABELS = 64
_JOBS = re.compile(
    r"/v1b3/projects/(?P<project>[^/]+)/locations/(?P<region>[^/]+)/jobs(?:/(?P<job>[^/]+))?(?P<rest>/\w+)?"
)
_LAUNCH = re.compile(r"/v1b3/projects/(?P<project>[^/]+)/locations/(?P<region>[^/]+)/flexTemplates:launch")
_ACTIVE = ("JOB_STATE_PENDING", "JOB_STATE_QUEUED", "JOB_STATE_RUNNING")


@dataclasses.dataclass(slots=True)
class Job:
    """One job that was taken.

    Attributes:
        id: its id in the service's form.
        project: project of the request's path.
        region: likewise.
        message: the google.cloud.dataflow_v1beta3.Job that was posted.
        options: the pipeline options that the service would hand to the workers.
        state: `JOB_STATE_PENDING` until `Dataflow.set_state` or a cancellation.
    """

    id: str
    project: str
    region: str
    message: Any
    options: dict[str, Any]
    state: str = "JOB_STATE_PENDING"

    def as_json(self) -> dict[str, Any]:
        """What the service answers: the job without its steps."""
        from google.protobuf import json_format

        return {
            **json_format.MessageToDict(self.message._pb),
            "id": self.id,
            "projectId": self.project,
            "location": self.region,
            "currentState": self.state,
        }


class Refused(Exception):
    """An HTTP error of the service: code, status and text."""

    def __init__(self, code: int, status: str, text: str) -> None:
        super().__init__(text)
        self.code, self.status = code, status


class Dataflow:
    """A Dataflow service for as long as the `with` block lives.

    Attributes:
        jobs: the jobs that were taken, in order.
        launches: the template launches that were taken, in order.
        refused: text of every request that was refused, in order.

    Args:
        templates: gs:// path of each template file to its content, a ContainerSpec.
    """

    flags = (f"--dataflow_endpoint={ENDPOINT}",)

    def __init__(self, templates: Mapping[str, Mapping[str, Any]] | None = None) -> None:
        self.jobs: list[Job] = []
        self.launches: list[Launch] = []
        self.refused: list[str] = []
        self._templates = templates or {}
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True

    @property
    def address(self) -> str:
        """`http://127.0.0.1:PORT`, to be used as HTTP_PROXY."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def environment(self, directory: Path) -> dict[str, str]:
        """Variables with which Google's libraries find this service and get tokens from it; writes a key of our own."""
        key = directory / "credentials.json"
        write_service_account(key, f"{self.address}/token", "demo-project")
        return {
            "HTTP_PROXY": self.address,
            "HTTPS_PROXY": self.address,  # which it refuses: what google-auth looks up beside tokens stays here too
            "http_proxy": self.address,
            "https_proxy": self.address,
            "NO_PROXY": "localhost,127.0.0.1",
            "no_proxy": "localhost,127.0.0.1",
            "GOOGLE_APPLICATION_CREDENTIALS": str(key),
            "CLOUDSDK_CONFIG": str(directory),  # no settings of the user's own gcloud
        }

    def set_state(self, job_id: str, state: str) -> None:
        """Let a job be in `state`, such as `JOB_STATE_DONE`."""
        with self._lock:
            self._find(job_id).state = state

    def answer(self, method: str, path: str, body: bytes) -> dict[str, Any]:
        """One request's answer.

        Raises:
            Refused: with the code and the text that the service would give.
        """
        if path == "/token":
            return {"access_token": "loopback", "expires_in": TOKEN_LIFETIME_SECS, "token_type": "Bearer"}
        match = _LAUNCH.fullmatch(path)
        if match and method == "POST":
            with self._lock:
                return self._launch(match["project"], match["region"], body)
        match = _JOBS.fullmatch(path)
        if not match:
            raise Refused(404, "NOT_FOUND", f"no such path: {path}")
        with self._lock:
            if method == "POST" and not match["job"]:
                return self._create(match["project"], match["region"], body).as_json()
            if not match["job"]:
                return {"jobs": [job.as_json() for job in self.jobs]}
            job = self._find(match["job"])
            if match["rest"] == "/messages":
                return {"jobMessages": []}
            if match["rest"] == "/metrics":
                return {"metrics": []}
            if method == "PUT":
                job.state = _state_name(json.loads(body).get("requestedState", job.state))
            return job.as_json()

    def _create(self, project: str, region: str, body: bytes) -> Job:
        from google.cloud import dataflow_v1beta3
        from google.protobuf import json_format

        message = dataflow_v1beta3.Job()
        try:
            json_format.Parse(body, message._pb, ignore_unknown_fields=False)
        except json_format.ParseError as error:
            raise Refused(400, "INVALID_ARGUMENT", str(error)) from error
        _check(message)
        if any(job.message.name == message.name and job.state in _ACTIVE for job in self.jobs):
            raise Refused(409, "ALREADY_EXISTS", f"there is an active job named {message.name}")
        options = json_format.MessageToDict(message._pb.environment.sdk_pipeline_options)["options"]
        job = Job(f"2026-01-01_00_00_00-{len(self.jobs) + 1:019d}", project, region, message, options)
        self.jobs.append(job)
        return job

    def _launch(self, project: str, region: str, body: bytes) -> dict[str, Any]:
        from google.cloud import dataflow_v1beta3
        from google.protobuf import json_format

        request = dataflow_v1beta3.LaunchFlexTemplateRequest()
        try:
            json_format.Parse(body, request._pb, ignore_unknown_fields=False)
        except json_format.ParseError as error:
            raise Refused(400, "INVALID_ARGUMENT", str(error)) from error
        given = request.launch_parameter
        spec = self._templates.get(given.container_spec_gcs_path)
        if spec is None:
            raise Refused(404, "NOT_FOUND", f"unable to open template file: {given.container_spec_gcs_path}")
        faults = parameter_faults(spec["metadata"]["parameters"], dict(given.parameters))
        if not _JOB_NAME.fullmatch(given.job_name):
            faults.append(f"job name {given.job_name!r}: expected {_JOB_NAME.pattern}")
        if faults:
            raise Refused(400, "INVALID_ARGUMENT", "The template parameters are invalid. " + "; ".join(faults))
        job_id = f"2026-01-01_00_00_00-{len(self.launches) + 1:019d}"
        job = {"id": job_id, "name": given.job_name, "projectId": project, "location": region}
        if not request.validate_only:
            self.launches.append(launch(given, project, region, job_id))
        return {"job": {**job, "currentState": "JOB_STATE_QUEUED"}}

    def _find(self, job_id: str) -> Job:
        for job in self.jobs:
            if job.id == job_id:
                return job
        raise Refused(404, "NOT_FOUND", f"no job {job_id}")

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()


def _state_name(given: str | int) -> str:
    """A job's state by its name: JSON of a protobuf may hold its number."""
    from google.cloud import dataflow_v1beta3

    return dataflow_v1beta3.JobState(given).name if isinstance(given, int) else given


def _check(message: Any) -> None:
    """What the service refuses at once and a protobuf parser does not know."""
    faults = []
    if not _JOB_NAME.fullmatch(message.name):
        faults.append(f"job name {message.name!r}: expected {_JOB_NAME.pattern}")
    labels: Mapping[str, str] = dict(message.labels)
    if len(labels) > _MOST_LABELS:
        faults.append(f"{len(labels)} labels: at most {_MOST_LABELS}")
    for key, value in labels.items():
        if not _LABEL_KEY.fullmatch(key) or not _LABEL_VALUE.fullmatch(value):
            faults.append(f"label {key}={value}: expected {_LABEL_KEY.pattern}={_LABEL_VALUE.pattern}")
    if not message.environment.worker_pools:
        faults.append("no worker pool")
    for pool in message.environment.worker_pools:
        if pool.kind != "harness":
            faults.append(f"worker pool of kind {pool.kind!r}: Beam did not take this for the real service")
        most = pool.autoscaling_settings.max_num_workers
        if most and pool.num_workers > most:
            faults.append(f"num_workers {pool.num_workers} > max_num_workers {most}")
    if faults:
        raise Refused(400, "INVALID_ARGUMENT", "; ".join(faults))


def _handler(service: Dataflow) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _handle(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            try:  # the path is absolute when we are used as a proxy
                code, content = 200, service.answer(self.command, urlsplit(self.path).path, body)
            except Refused as refused:
                service.refused.append(str(refused))
                code = refused.code
                content = {"error": {"code": code, "status": refused.status, "message": str(refused)}}
            data = json.dumps(content).encode()
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_PUT = _handle  # noqa: N815 - names that http.server calls

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - http.server's own word
            """Say nothing: the caller's output is not ours."""

    return Handler
