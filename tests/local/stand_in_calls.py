"""A client of the stand-in over real gRPC, and the pictures that it is asked about."""

from __future__ import annotations

import dataclasses
from urllib.parse import quote

import grpc

from pipeline.gemini.request import METHOD, request_class, response_class
from pipeline.local.pictures.drawing import Scene

PROJECT, LOCATION, MODEL = "demo-project", "us", "gemini-3.5-flash-lite"
SCENES = {
    "o1:stop": Scene(kind="road_sign", sign_type="stop", text="STOP"),
    "o1:limit": Scene(kind="road_sign", sign_type="speed_limit", text="SPEED LIMIT 35", condition="faded"),
    "o1:pole": Scene(kind="utility_pole", text="K4721", transformers=2, lamps=1, junction_boxes=1, lean_degrees=6),
    "o1:cover": Scene(
        kind="maintenance_cover", cover_type="manhole", text="WATER", condition="damaged", surface="cracked"
    ),
    "o1:blurred": Scene(kind="road_sign", sign_type="yield", text="YIELD", blurred=True),
}


def model_path(model: str = MODEL, project: str = PROJECT, location: str = LOCATION) -> str:
    return f"projects/{project}/locations/{location}/publishers/google/models/{model}"


def uri(name: str) -> str:
    return f"gs://bucket/2026/v0/{name}.jpg"


def request(*names: str, text: str = "Describe this image.", model: str | None = None, schema=None, **config):
    """A request for the pictures of these names, or URIs; `config` are fields of generation_config."""
    made = request_class()(model=model or model_path())
    content = made.contents.add(role="user")
    for name in names:
        part = content.parts.add()
        part.file_data.file_uri = name if "/" in name else uri(name)
        part.file_data.mime_type = "image/jpeg"
    content.parts.add().text = text
    for field, value in config.items():
        setattr(made.generation_config, field, value)
    if schema is not None:
        from google.protobuf import json_format

        made.generation_config.response_mime_type = "application/json"
        json_format.ParseDict(schema, made.generation_config.response_json_schema)
    return made


@dataclasses.dataclass
class Refusal:
    status: str
    message: str
    reason: str = ""
    retry_delay_secs: float | None = None


class Caller:
    """Calls GenerateContent; a refusal is a value."""

    def __init__(self, target: str, credentials: grpc.ChannelCredentials | None = None) -> None:
        options = [("grpc.use_local_subchannel_pool", 1)]
        self.channel = (
            grpc.secure_channel(target, credentials, options) if credentials else grpc.insecure_channel(target, options)
        )
        self.method = self.channel.unary_unary(
            METHOD,
            request_serializer=lambda message: message if isinstance(message, bytes) else message.SerializeToString(),
            response_deserializer=response_class().FromString,
        )

    def future(self, message, headers=None, timeout=30.0):
        routing = {"x-goog-request-params": f"model={quote(message.model, safe='')}"} if headers is None else headers
        return self.method.future(message, timeout=timeout, metadata=tuple(routing.items()))

    def __call__(self, message, headers=None, timeout=30.0):
        future = self.future(message, headers, timeout)
        try:
            return future.result()
        except grpc.RpcError as error:
            return refusal(error)

    def comes_back(self, message) -> bool:
        """Whether one of three calls is answered: the one after a reset may go out on the dying connection."""
        return any(not isinstance(self(message), Refusal) for _ in range(3))

    def text(self, message) -> str:
        response = self(message)
        assert not isinstance(response, Refusal), response
        return "".join(part.text for part in response.candidates[0].content.parts if not part.thought)


def refusal(error) -> Refusal:
    from google.rpc import error_details_pb2, status_pb2

    found = Refusal(error.code().name, error.details())
    raw = dict(error.trailing_metadata() or ()).get("grpc-status-details-bin")
    if raw:
        status = status_pb2.Status.FromString(raw)
        assert (status.code, status.message) == (error.code().value[0], error.details())
        for detail in status.details:
            info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
            if detail.Unpack(info):
                found.reason = info.reason
            if detail.Unpack(retry):
                found.retry_delay_secs = retry.retry_delay.ToMilliseconds() / 1000
    return found
