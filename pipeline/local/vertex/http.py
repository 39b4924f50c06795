"""The stand-in's HTTP ports: GenerateContent over REST, for SDKs that speak nothing else, and the control port."""

from __future__ import annotations

import dataclasses
import json
import ssl
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web
from google.protobuf import json_format

from pipeline.local.vertex.faults import Settings, check_kind
from pipeline.local.vertex.grpc import close_peers
from pipeline.local.vertex.refusals import Refused, invalid
from pipeline.local.vertex.server import StandIn

_MAX_BODY_BYTES = 64 * 1024 * 1024
Route = Callable[[StandIn, Any], Awaitable[Any]]


def rest_app(stand_in: StandIn) -> web.Application:
    """`POST /v1/projects/.../models/M:generateContent`, and v1beta1: the same answers as over gRPC."""

    async def generate(request: web.Request) -> web.Response:
        host, port = request.transport.get_extra_info("peername")[:2] if request.transport else ("", 0)
        peer = f"ipv4:{host}:{port}"
        headers = {name.lower(): value for name, value in request.headers.items()}
        try:
            message = stand_in.request_class()
            try:
                json_format.ParseDict(await request.json(), message)
            except (json_format.ParseError, json.JSONDecodeError) as error:
                raise invalid(f"Invalid JSON payload received. {error}") from error
            message.model = request.match_info["model"]
            raw = await stand_in.generate(message, headers, peer, routed=False)
        except Refused as refused:
            return web.Response(status=refused.http_status, text=refused.as_json(), content_type="application/json")
        except ConnectionAbortedError:
            close_peers([peer])
            return web.Response(status=503)
        return web.Response(text=_as_json(stand_in, raw), content_type="application/json")

    app = web.Application(client_max_size=_MAX_BODY_BYTES)
    app.router.add_post(r"/{version:v1|v1beta1}/{model:projects/.+}:generateContent", generate)
    return app


def _as_json(stand_in: StandIn, raw: bytes) -> str:
    """A response in JSON; the last one is kept, as a load run gets the same one over and over."""
    kept: tuple[bytes, str] | None = getattr(stand_in, "_last_json", None)
    if kept is None or kept[0] != raw:
        message = stand_in.response_class.FromString(raw)
        kept = (raw, json.dumps(json_format.MessageToDict(message)))
        stand_in._last_json = kept  # type: ignore[attr-defined]
    return kept[1]


def control_app(stand_in: StandIn) -> web.Application:
    """JSON in, JSON out; `VertexStandIn` is its client, curl works too. `POST /token` issues OAuth 2 access tokens."""
    app = web.Application(client_max_size=_MAX_BODY_BYTES)
    for name, route in _CONTROLS.items():
        app.router.add_route("*", f"/{name}", _handler(stand_in, route))
    return app


def _handler(stand_in: StandIn, route: Route) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def handle(request: web.Request) -> web.Response:
        try:
            body = await request.json() if request.content_type == "application/json" and request.can_read_body else {}
            return web.json_response(await route(stand_in, body))
        except (ValueError, TypeError, KeyError) as error:
            return web.json_response({"error": f"{type(error).__name__}: {error}"}, status=400)

    return handle


async def _configure(stand_in: StandIn, changes: Any) -> Any:
    stand_in.configure(stand_in.settings.changed(changes))
    return dataclasses.asdict(stand_in.settings)


async def _reset(stand_in: StandIn, changes: Any) -> Any:
    """Default settings but for `changes`, and no memory of earlier calls."""
    stand_in.configure(Settings().changed(changes))
    stand_in.pause("", 0)
    stand_in.calls.clear()
    stand_in.last_request = None
    return dataclasses.asdict(stand_in.settings)


async def _pause(stand_in: StandIn, body: Any) -> Any:
    stand_in.pause(check_kind(body["kind"]), float(body["secs"]))
    return {}


async def _last_request(stand_in: StandIn, _: Any) -> Any:
    message = stand_in.last_request
    return {} if message is None else json_format.MessageToDict(message, preserving_proto_field_name=True)


async def _reached(stand_in: StandIn, body: Any) -> Any:
    return await stand_in.calls.reached(body["least"], float(body["timeout_secs"]))


async def _log(stand_in: StandIn, _: Any) -> Any:
    return stand_in.calls.log


async def _stats(stand_in: StandIn, _: Any) -> Any:
    return stand_in.calls.stats()


async def _by_uri(stand_in: StandIn, _: Any) -> Any:
    return stand_in.calls.by_uri


async def _drop(stand_in: StandIn, _: Any) -> Any:
    return close_peers(stand_in.calls.connections)


async def _revoke(stand_in: StandIn, _: Any) -> Any:
    stand_in.revoke_tokens()
    return {}


async def _token(stand_in: StandIn, _: Any) -> Any:
    token, lifetime = stand_in.issue_token()
    return {"access_token": token, "expires_in": int(lifetime), "token_type": "Bearer"}


_CONTROLS: dict[str, Route] = {
    "configure": _configure,
    "reset": _reset,
    "pause": _pause,
    "last_request": _last_request,
    "reached": _reached,
    "log": _log,
    "stats": _stats,
    "calls_by_uri": _by_uri,
    "drop_connections": _drop,
    "revoke_tokens": _revoke,
    "token": _token,
}


async def serve_http(app: web.Application, host: str, port: int, tls: ssl.SSLContext | None = None) -> tuple[Any, int]:
    """Starts an HTTP server; returns what to clean up and its port."""
    runner = web.AppRunner(app, access_log=None, handle_signals=False)
    await runner.setup()
    site = web.TCPSite(runner, host, port, ssl_context=tls)
    await site.start()
    return runner, int(runner.addresses[0][1])
