"""Checks of who we are, and of the model: a call with a few words, and one that asks about an image for real."""

from __future__ import annotations

import threading
from typing import Any

from pipeline import planning
from pipeline.asking import Ask, Picture, Question
from pipeline.checkup.patient import Patient
from pipeline.credentials import refused
from pipeline.engine import CallError, Engine, EngineHalted, Limits, Pace
from pipeline.errors import ConfigError
from pipeline.gemini import models
from pipeline.gemini.client import Client, VertexEndpoint
from pipeline.gemini.prices import parse_prices
from pipeline.gemini.request import request_class, request_labels
from pipeline.images.objects import Objects
from pipeline.images.pool import Pool
from pipeline.rows import Answer, Failure, Observation, Reason

_TIMEOUT_SECS = 60.0
_WORDS = "Answer with one word: yes."
_SCOPE = "https://www.googleapis.com/auth/cloud-platform"

_MEND = {
    Reason.IMAGE_DENIED: "grant roles/storage.objectViewer on the bucket to the account that Vertex AI reads images with",
    Reason.IMAGE_NOT_FOUND: "the objects are gone, or the URIs name another bucket: take a newer snapshot of the table",
    Reason.INVALID_REQUEST: "look whether the image opens, and whether the model takes these settings",
    Reason.UNAVAILABLE: "try again in a minute",
    Reason.TIMED_OUT: "try again in a minute",
    Reason.RATE_LIMITED: "the quota is used up: try again later, or ask for more",
}
"""What to do where a row failed although the model answers. Other reasons show that the image was read."""

_MEND_READING = {
    Reason.IMAGE_DENIED: "grant roles/storage.objectViewer on the bucket to the account that the workers run as",
    Reason.IMAGE_NOT_FOUND: _MEND[Reason.IMAGE_NOT_FOUND],
    Reason.IMAGE_UNAVAILABLE: "try again in a minute",
}
"""The same where it is the worker that reads the image; else the row, or its image, is at fault."""


def credentials(patient: Patient) -> str:
    """Fetches an access token, unless every service is on this machine."""
    import google.auth
    import google.auth.exceptions
    from google.auth.transport.requests import Request

    options = patient.options
    vertex = VertexEndpoint.parse(options.vertex_endpoint, "us")  # where is for the model's own check
    planning.project_of(options)
    if not vertex.secure and options.bigquery_endpoint and options.bigquery_endpoint.startswith("http://"):
        return "not needed: all services are on this machine"
    try:
        found, _ = google.auth.default(scopes=[_SCOPE])
        found.refresh(Request())  # type: ignore[no-untyped-call]  # google-auth's own
    except (google.auth.exceptions.GoogleAuthError, OSError) as error:
        raise refused(error) from error
    who = getattr(found, "service_account_email", None) or getattr(found, "account", None) or "a user"
    return f"signed in as {who}"


def call_model(patient: Patient) -> str:
    """Sends a few words without an image."""
    options, settings = patient.options, patient.known_settings
    project = planning.project_of(options)
    if patient.location is None and not options.vertex_location and not options.vertex_endpoint:
        raise ConfigError("where to ask is not known before the tables are found: mend them, or add --vertex_location")
    location = models.location_for(patient.location or "us", settings, options.vertex_location)
    warnings = models.check(settings, location, price_given=options.price_usd_per_mtok is not None)
    resource = models.resource_name(settings.model, project, location)
    endpoint = VertexEndpoint.parse(options.vertex_endpoint, location)
    client = Client(endpoint, settings, project=project)
    try:
        received = _send(client, _few_words(resource))
    finally:
        client.close()
    if isinstance(received, CallError):
        raise ConfigError(f"{settings.model} at {location}: {received}; {_mend(received, project)}")
    return "; ".join([f"{settings.model} at {location} answers", *warnings])


def ask_about_image(patient: Patient) -> str:
    """Asks about one image exactly as a run would; up to three where the first ones fail by themselves."""
    options, settings, task = patient.options, patient.known_settings, patient.known_task
    project = planning.project_of(options)
    location = models.location_for(patient.location or "us", settings, options.vertex_location)
    price = (
        parse_prices(options.price_usd_per_mtok) if options.price_usd_per_mtok else models.find(settings.model).prices
    )
    question = Question(
        task=task,
        settings=settings,
        resource=models.resource_name(settings.model, project, location),
        run_id=f"doctor_{patient.name}",
        kept_columns=patient.kept,
        prices=price,
    )
    client = Client(VertexEndpoint.parse(options.vertex_endpoint, location), settings, project=project)
    limits = Limits(
        max_in_flight=1,
        max_attempts=2,
        call_timeout_secs=_TIMEOUT_SECS,
        row_deadline_secs=2 * _TIMEOUT_SECS,
        rate_limited_secs=_TIMEOUT_SECS,
        outage_secs=_TIMEOUT_SECS,
    )
    engine = Engine(client.send, pace=Pace(), limits=limits, refresh_token=client.refresh)
    outcomes: list[Answer | Failure] = []
    try:
        for row in patient.rows:
            lane = engine.lane()
            outcomes += lane.offer(Ask(question, (row,), pictures=_pictures(question, row, project)))
            outcomes += lane.drain()
            if not isinstance(outcomes[-1], Failure) or outcomes[-1].reason not in _MEND:
                break
    except EngineHalted as error:
        raise ConfigError(f"{settings.model} at {location}: {error}") from error
    finally:
        engine.close()
        client.close()
    return _read_outcome(outcomes[-1])


def _pictures(question: Question, row: Observation, project: str) -> tuple[Picture, ...]:
    """What is sent inline, read by our own credentials; nothing where the URI is sent.

    Raises:
        ConfigError: it cannot be read, or not be made ready.
    """
    if question.settings.image_source != "inline":
        return ()
    pool = Pool(question, Objects(project).read, cores=1)
    picture = pool.picture(row)
    pool.close()
    if picture.problem is not None:
        reason = picture.problem.reason
        mend = _MEND_READING.get(reason, "mend the row or its image, or leave it out with --where")
        raise ConfigError(f"{reason}: {picture.problem.detail}; {mend}")
    return (picture,)


def _read_outcome(outcome: Answer | Failure) -> str:
    usage = outcome.usage
    cost = "at an unknown price" if usage.cost_usd is None else f"for ${usage.cost_usd:.6f}"
    if isinstance(outcome, Answer):
        said = outcome.label or " ".join(outcome.classification.split())[:60]
        return f"{outcome.key}: {said!r} in {outcome.latency_ms:,.0f} ms, {usage.total_tokens:,} tokens {cost}"
    if outcome.reason in _MEND:
        raise ConfigError(f"{outcome.gcs_uri}: {outcome.reason}: {outcome.detail}; {_MEND[outcome.reason]}")
    return f"{outcome.key}: the image was read, but there is no answer ({outcome.reason}: {outcome.detail}), {cost}"


def _few_words(resource: str) -> bytes:
    request = request_class()(model=resource)
    content = request.contents.add()
    content.role = "user"
    content.parts.add().text = _WORDS
    request.generation_config.max_output_tokens = 64  # thinking models need some to begin with
    for key, value in request_labels("doctor", "doctor").items():
        request.labels[key] = value
    raw: bytes = request.SerializeToString()
    return raw


def _send(client: Client, request: bytes) -> Any:
    """The response of one call, or its `CallError`."""
    landed = threading.Event()
    received: list[Any] = []

    def done(result: Any) -> None:
        received.append(result)
        landed.set()

    client.send(request, _TIMEOUT_SECS, done)
    landed.wait()
    return received[0]


def _mend(error: CallError, project: str) -> str:
    """What to do about a call that the service refused."""
    by_reason = {
        "SERVICE_DISABLED": f"run `gcloud services enable aiplatform.googleapis.com --project={project}`",
        "BILLING_DISABLED": f"link a billing account to {project}",
        "CONSUMER_INVALID": f"is {project} the right --project?",
    }
    by_code = {
        "PERMISSION_DENIED": f"grant roles/aiplatform.user on {project}",
        "NOT_FOUND": "the model is not served there, or not to this project: another --model or --vertex_location",
        "UNAUTHENTICATED": "run `gcloud auth application-default login`",
        "RESOURCE_EXHAUSTED": "the quota is used up: try again in a minute, or ask for more",
        "INVALID_ARGUMENT": "is --vertex_location a location of Vertex AI, and --model a model of Gemini?",
        "UNAVAILABLE": "check the network and --vertex_endpoint, and try again",
        "DEADLINE_EXCEEDED": "check the network and --vertex_endpoint, and try again",
    }
    return by_reason.get(error.reason or "") or by_code.get(error.code, "try again")
