"""A tiny Vertex AI: a real gRPC server on loopback whose every answer the test decides."""

from __future__ import annotations

import asyncio
import collections
import datetime
import ipaddress
import threading
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from pipeline.gemini.request import METHOD, response_class

Answer = Callable[[bytes, Any], Awaitable[bytes]]


def response_bytes(text: str = "fine", **fields: Any) -> bytes:
    response = response_class()(model_version="tiny", **fields)
    candidate = response.candidates.add(finish_reason=1)
    candidate.content.parts.add(text=text)
    return bytes(response.SerializeToString())


class Server:
    """Counts what arrives; `answer(request, context)` is awaited for each call."""

    def __init__(self, credentials: grpc.ServerCredentials | None = None, max_streams: int = 100) -> None:
        self.answer: Answer = self._fine
        self.metadata: list[dict[str, Any]] = []
        self.requests: list[bytes] = []
        self.in_flight = 0
        self.by_peer: collections.Counter[str] = collections.Counter()
        self.most_by_peer: collections.Counter[str] = collections.Counter()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.port = self.run(self._start(credentials, max_streams))

    def run(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(timeout=30)

    async def _start(self, credentials: grpc.ServerCredentials | None, max_streams: int) -> int:
        options = [
            ("grpc.max_concurrent_streams", max_streams),
            ("grpc.so_reuseport", 0),
            # By default a server drops some calls at random (CANCELLED) when more than 1,000 wait to be taken up.
            ("grpc.server.max_pending_requests", 10_000),
            ("grpc.server.max_pending_requests_hard_limit", 10_000),
        ]
        self._server = grpc.aio.server(options=options)
        service, _, method = METHOD[1:].partition("/")
        handler = grpc.unary_unary_rpc_method_handler(self._handle)
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {method: handler}),))
        if credentials is None:
            port = self._server.add_insecure_port("127.0.0.1:0")
        else:
            port = self._server.add_secure_port("127.0.0.1:0", credentials)
        await self._server.start()
        return int(port)

    async def _handle(self, request: bytes, context: Any) -> bytes:
        self.metadata.append(dict(context.invocation_metadata()))
        self.requests.append(request)
        peer = context.peer()
        self.in_flight += 1
        self.by_peer[peer] += 1
        self.most_by_peer[peer] = max(self.most_by_peer[peer], self.by_peer[peer])
        try:
            return await self.answer(request, context)
        finally:
            self.in_flight -= 1
            self.by_peer[peer] -= 1

    async def _fine(self, request: bytes, context: Any) -> bytes:
        return response_bytes()

    def hold_until(self, calls: int) -> None:
        """No call is answered before so many have arrived and are waiting together."""
        arrived = 0
        gate = asyncio.Event()

        async def answer(request: bytes, context: Any) -> bytes:
            nonlocal arrived
            arrived += 1
            if arrived >= calls:
                gate.set()
            await gate.wait()
            return response_bytes()

        self.answer = answer

    def close(self) -> None:
        self.run(self._server.stop(None))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=10)


class Landed:
    """Collects what `done` is told; `wait` blocks until so many calls have landed."""

    def __init__(self) -> None:
        self.results: list[Any] = []
        self._changed = threading.Condition()

    def __call__(self, result: Any) -> None:
        with self._changed:
            self.results.append(result)
            self._changed.notify_all()

    def wait(self, count: int = 1) -> list[Any]:
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.results) >= count, timeout=30), len(self.results)
            return list(self.results)


class Authority(NamedTuple):
    """A certificate authority of our own and a server certificate for localhost, as PEM."""

    root: bytes
    key: bytes
    certificate: bytes


def make_authority() -> Authority:
    """A new authority and a certificate that it has signed."""

    def named(name: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])

    now = datetime.datetime.now(datetime.UTC)
    root_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))

    def certificate(subject: str, public_key: Any, *, authority: bool) -> x509.Certificate:
        names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        return (
            x509.CertificateBuilder()
            .subject_name(named(subject))
            .issuer_name(named("test root"))
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .sign(root_key, hashes.SHA256())
        )

    def pem(item: x509.Certificate) -> bytes:
        return item.public_bytes(serialization.Encoding.PEM)

    key_pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    root = certificate("test root", root_key.public_key(), authority=True)
    return Authority(pem(root), key_pem, pem(certificate("localhost", key.public_key(), authority=False)))
