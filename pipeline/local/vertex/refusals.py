"""The errors of Google's services as the stand-ins send them: status, message, ErrorInfo and RetryInfo.

Wording follows errors that users have published. It is for people; clients must go by status and ErrorInfo.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any, Final

from pipeline.local.vertex.faults import STATUSES

_GEMINI_DOC: Final = "Learn more: https://cloud.google.com/vertex-ai/generative-ai/docs/model-reference/gemini"
_HTTP_STATUS: Final = {
    "CANCELLED": 499,
    "INVALID_ARGUMENT": 400,
    "FAILED_PRECONDITION": 400,
    "OUT_OF_RANGE": 400,
    "UNAUTHENTICATED": 401,
    "PERMISSION_DENIED": 403,
    "NOT_FOUND": 404,
    "ABORTED": 409,
    "ALREADY_EXISTS": 409,
    "RESOURCE_EXHAUSTED": 429,
    "UNIMPLEMENTED": 501,
    "UNAVAILABLE": 503,
    "DEADLINE_EXCEEDED": 504,
}
"""https://cloud.google.com/apis/design/errors; the others are 500."""


@dataclasses.dataclass
class Refused(Exception):
    """A call gets this instead of an answer.

    Attributes:
        status: gRPC status by name.
        message: For people.
        reason: google.rpc.ErrorInfo.reason; none is sent where it is empty.
        domain: google.rpc.ErrorInfo.domain.
        metadata: google.rpc.ErrorInfo.metadata.
        retry_delay_secs: google.rpc.RetryInfo.retry_delay; none is sent where it is None.
    """

    status: str
    message: str
    reason: str = ""
    domain: str = "googleapis.com"
    metadata: Mapping[str, str] = dataclasses.field(default_factory=dict)
    retry_delay_secs: float | None = None

    @property
    def http_status(self) -> int:
        """The status line of the same error over REST."""
        return _HTTP_STATUS.get(self.status, 500)

    def details(self) -> bytes | None:
        """The google.rpc.Status of `grpc-status-details-bin`, or None where there is nothing to add."""
        from google.protobuf import any_pb2
        from google.rpc import error_details_pb2, status_pb2

        details: list[Any] = []
        if self.reason:
            details.append(
                error_details_pb2.ErrorInfo(reason=self.reason, domain=self.domain, metadata=dict(self.metadata))
            )
        if self.retry_delay_secs is not None:
            retry = error_details_pb2.RetryInfo()
            retry.retry_delay.FromMilliseconds(round(self.retry_delay_secs * 1000))
            details.append(retry)
        if not details:
            return None
        status = status_pb2.Status(code=STATUSES[self.status], message=self.message)
        for detail in details:
            packed = any_pb2.Any()
            packed.Pack(detail)
            status.details.append(packed)
        raw: bytes = status.SerializeToString()
        return raw

    def as_json(self) -> str:
        """The body of the same error over REST."""
        details: list[dict[str, Any]] = []
        if self.reason:
            details.append(
                {
                    "@type": "type.googleapis.com/google.rpc.ErrorInfo",
                    "reason": self.reason,
                    "domain": self.domain,
                    "metadata": dict(self.metadata),
                }
            )
        if self.retry_delay_secs is not None:
            details.append(
                {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": f"{self.retry_delay_secs:g}s"}
            )
        error = {"code": self.http_status, "message": self.message, "status": self.status}
        if details:
            error["details"] = details
        return json.dumps({"error": error})


def invalid(message: str) -> Refused:
    """INVALID_ARGUMENT: the request cannot be served as it is."""
    return Refused("INVALID_ARGUMENT", message)


def unable(because: str, then: str) -> Refused:
    """INVALID_ARGUMENT in the words of Vertex AI."""
    return invalid(f"Unable to submit request because {because}. {then}. {_GEMINI_DOC}")


def model_not_found(model: str) -> Refused:
    return Refused(
        "NOT_FOUND",
        f"Publisher Model `{model}` was not found or your project does not have access to it. Please ensure you are "
        "using a valid model version. For more information, see: "
        "https://cloud.google.com/vertex-ai/generative-ai/docs/learn/model-versions",
    )


def predict_denied(model: str) -> Refused:
    resource = f"//aiplatform.googleapis.com/{model}"
    return Refused(
        "PERMISSION_DENIED",
        f"Permission 'aiplatform.endpoints.predict' denied on resource '{resource}' (or it may not exist).",
        "IAM_PERMISSION_DENIED",
        "aiplatform.googleapis.com",
        {"permission": "aiplatform.endpoints.predict", "resource": model},
    )


def service_disabled(project: str, service: str, title: str) -> Refused:
    return Refused(
        "PERMISSION_DENIED",
        f"{title} has not been used in project {project} before or it is disabled. Enable it by visiting "
        f"https://console.developers.google.com/apis/api/{service}/overview?project={project} then retry. If you "
        "enabled this API recently, wait a few minutes for the action to propagate to our systems and retry.",
        "SERVICE_DISABLED",
        metadata={"service": service, "consumer": f"projects/{project}"},
    )


def billing_disabled(project: str) -> Refused:
    return Refused(
        "PERMISSION_DENIED",
        f"This API method requires billing to be enabled. Please enable billing on project #{project} by visiting "
        f"https://console.developers.google.com/billing/enable?project={project} then retry.",
        "BILLING_DISABLED",
        metadata={"service": "aiplatform.googleapis.com", "consumer": f"projects/{project}"},
    )


def no_credentials() -> Refused:
    return Refused(
        "UNAUTHENTICATED",
        "Request is missing required authentication credential. Expected OAuth 2 access token, login cookie or other "
        "valid authentication credential. See https://developers.google.com/identity/sign-in/web/devconsole-project.",
        "CREDENTIALS_MISSING",
        metadata={"service": "aiplatform.googleapis.com"},
    )


def token_expired() -> Refused:
    return Refused(
        "UNAUTHENTICATED",
        "Request had invalid authentication credentials. Expected OAuth 2 access token, login cookie or other valid "
        "authentication credential. See https://developers.google.com/identity/sign-in/web/devconsole-project.",
        "ACCESS_TOKEN_EXPIRED",
        metadata={"service": "aiplatform.googleapis.com"},
    )


def exhausted(retry_delay_secs: float | None) -> Refused:
    return Refused(
        "RESOURCE_EXHAUSTED",
        "Resource exhausted. Please try again later. Please refer to "
        "https://cloud.google.com/vertex-ai/generative-ai/docs/error-code-429 for more details.",
        retry_delay_secs=retry_delay_secs,
    )


def image_not_found(uri: str) -> Refused:
    return Refused("NOT_FOUND", f"Input file not found: {uri}. Please check that the object exists. {_GEMINI_DOC}")


def image_denied(uri: str) -> Refused:
    return Refused(
        "PERMISSION_DENIED",
        "Permission denied while accessing input file. Learn more about providing the appropriate credentials: "
        f"https://cloud.google.com/vertex-ai/generative-ai/docs/multimodal/image-understanding. File: {uri}",
    )


def image_invalid() -> Refused:
    return invalid("Provided image is not valid.")


def by_kind(kind: str, *, model: str, project: str, uri: str, retry_delay_secs: float | None) -> Refused:
    """The error of a fault's kind; a plain gRPC status where the kind is one."""
    match kind:
        case "IAM_PERMISSION_DENIED":
            return predict_denied(model)
        case "SERVICE_DISABLED":
            return service_disabled(project, "aiplatform.googleapis.com", "Vertex AI API")
        case "BILLING_DISABLED":
            return billing_disabled(project)
        case "MODEL_NOT_FOUND":
            return model_not_found(model)
        case "TOKEN_EXPIRED":
            return token_expired()
        case "IMAGE_NOT_FOUND":
            return image_not_found(uri)
        case "IMAGE_DENIED":
            return image_denied(uri)
        case "IMAGE_INVALID":
            return image_invalid()
        case "RESOURCE_EXHAUSTED":
            return exhausted(retry_delay_secs)
        case "UNAVAILABLE":
            return Refused(kind, "The service is currently unavailable.")
        case "INTERNAL":
            return Refused(kind, "Internal error encountered.")
        case "INVALID_ARGUMENT":
            return invalid("Request contains an invalid argument.")
    return Refused(kind, f"The stand-in was told to answer {kind}.")
