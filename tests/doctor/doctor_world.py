"""A BigQuery REST front that can be told to refuse, in BigQuery's own words, and a Storage API that refuses everything."""

from __future__ import annotations

import contextlib
import dataclasses
import http.client
import json
import re
from collections.abc import Iterator
from concurrent import futures
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import urlsplit

import grpc
import loopback_http


@dataclasses.dataclass(frozen=True)
class Refusal:
    """What answers a request instead of the emulator: where method and path match `where`, and the body `body`."""

    where: str
    status: int
    reason: str
    message: str
    body: str = ""


class RestFront:
    """A front of the emulator's REST API; `refuse` and `answer` change what it says, `paths` is what it was asked."""

    def __init__(self, target: str) -> None:
        self.refusals: list[Refusal] = []
        self.answers: list[tuple[str, dict[str, Any]]] = []
        self.patches: list[tuple[str, dict[str, Any]]] = []
        self.paths: list[str] = []
        front, address = self, urlsplit(target)

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length") or 0))
                asked = f"{self.command} {urlsplit(self.path).path}"
                front.paths.append(asked)
                self._send(*front._said(asked, body.decode(errors="replace")) or self._forwarded(asked, body))

            def __getattr__(self, name: str) -> Any:
                if name.startswith("do_"):  # POST, PUT, PATCH, DELETE
                    return self.do_GET
                raise AttributeError(name)

            def _forwarded(self, asked: str, body: bytes) -> tuple[int, bytes]:
                connection = http.client.HTTPConnection(address.hostname, address.port, timeout=60)
                dropped = ("host", "accept-encoding", "connection")
                headers = {name: value for name, value in self.headers.items() if name.lower() not in dropped}
                with contextlib.closing(connection):
                    connection.request(self.command, self.path, body or None, headers)
                    answered = connection.getresponse()
                    content = answered.read()
                for where, patch in front.patches:
                    if answered.status == 200 and re.search(where, asked):
                        content = json.dumps(json.loads(content) | patch).encode()
                return answered.status, content

            def _send(self, status: int, content: bytes) -> None:
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: Any) -> None:
                """Nothing: tests read what is printed."""

        self._server = loopback_http.server(Handler)
        self.url = loopback_http.url(self._server)

    def _said(self, asked: str, body: str) -> tuple[int, bytes] | None:
        """What answers a request instead of the emulator, or None."""
        for refusal in self.refusals:
            if re.search(refusal.where, asked) and re.search(refusal.body, body):
                error = {"code": refusal.status, "message": refusal.message, "status": refusal.reason}
                error["errors"] = [{"message": refusal.message, "reason": refusal.reason}]
                return refusal.status, json.dumps({"error": error}).encode()
        for where, answer in self.answers:
            if re.search(where, asked):
                return 200, json.dumps(answer).encode()
        return None

    @contextlib.contextmanager
    def serving(self) -> Iterator[RestFront]:
        with loopback_http.serving(self._server):
            yield self


@contextlib.contextmanager
def refusing_storage(message: str) -> Iterator[str]:
    """A Storage API that denies every call; yields its HOST:PORT."""

    class Deny(grpc.GenericRpcHandler):
        def service(self, details: Any) -> Any:
            def refuse(_request: Any, context: Any) -> None:
                context.abort(grpc.StatusCode.PERMISSION_DENIED, message)

            def refuse_stream(requests: Any, context: Any) -> Iterator[bytes]:
                context.abort(grpc.StatusCode.PERMISSION_DENIED, message)
                yield b""

            if details.method.endswith("AppendRows"):
                return grpc.stream_stream_rpc_method_handler(refuse_stream)
            return grpc.unary_unary_rpc_method_handler(refuse)

    server = grpc.server(futures.ThreadPoolExecutor(4))
    server.add_generic_rpc_handlers((Deny(),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(0).wait()
