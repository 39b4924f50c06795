"""The stand-in's gRPC port: PredictionService/GenerateContent."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
from collections.abc import Collection
from typing import Any, Final

from pipeline.local.vertex.refusals import Refused
from pipeline.local.vertex.server import StandIn

METHOD: Final = "/google.cloud.aiplatform.v1.PredictionService/GenerateContent"
MAX_STREAMS: Final = 100
"""Concurrent streams a connection, as Google's front ends allow."""


def close_peers(peers: Collection[str]) -> int:
    """Closes this process's TCP connections whose other ends are `peers` ("ipv4:HOST:PORT"); returns how many.

    gRPC has no way to break a connection at will, so the process's descriptors are looked through.
    """
    ports = {int(peer.rpartition(":")[2]) for peer in peers}
    closed = 0
    for name in os.listdir("/dev/fd"):  # noqa: PTH208 - names of descriptors, not paths
        with contextlib.suppress(OSError):
            if not stat.S_ISSOCK(os.fstat(int(name)).st_mode):
                continue
            with socket.socket(fileno=os.dup(int(name))) as copy:
                if copy.family in {socket.AF_INET, socket.AF_INET6} and copy.getpeername()[1] in ports:
                    copy.shutdown(socket.SHUT_RDWR)
                    closed += 1
    return closed


async def serve_grpc(stand_in: StandIn, host: str, port: int, tls: tuple[bytes, bytes] | None) -> tuple[Any, int]:
    """Starts the gRPC server; returns it and its port.

    Args:
        stand_in: Answers the calls.
        host: Loopback address to listen on.
        port: 0 is a free one.
        tls: Private key and certificate chain in PEM; None is plaintext.

    Raises:
        OSError: The port is taken.
    """
    import grpc
    import grpc.aio

    codes = {code.name: code for code in grpc.StatusCode}

    async def generate(raw: bytes, context: Any) -> bytes:
        headers = {name: value for name, value in context.invocation_metadata() if isinstance(value, str)}
        peer = context.peer()
        try:
            return await stand_in.generate(raw, headers, peer)
        except Refused as refused:
            details = refused.details()
            trailing = (("grpc-status-details-bin", details),) if details else ()
            await context.abort(codes[refused.status], refused.message, trailing)
        except ConnectionAbortedError:
            close_peers([peer])
            await context.abort(grpc.StatusCode.UNAVAILABLE, "Connection reset by peer")
        raise AssertionError("abort raises")

    class Handler(grpc.GenericRpcHandler):  # type: ignore[misc]
        def service(self, details: Any) -> Any:
            if details.method != METHOD:
                return None
            return grpc.unary_unary_rpc_method_handler(generate)  # bytes in, bytes out

    server = grpc.aio.server(
        options=[
            ("grpc.max_concurrent_streams", MAX_STREAMS),
            ("grpc.http.overload_protection", 0),  # it refuses streams for others that have ended but are not yet freed
            ("grpc.server.max_pending_requests", 100_000),  # beyond 1,000 it cancels some at random
            ("grpc.server.max_pending_requests_hard_limit", 100_000),
            ("grpc.http2.min_ping_interval_without_data_ms", 10_000),  # gRPC's own 5 min punishes a client's keepalive
            ("grpc.so_reuseport", 0),  # a second server on the port is an error, not a surprise
            ("grpc.max_receive_message_length", -1),
        ]
    )
    server.add_generic_rpc_handlers((Handler(),))
    address = f"{host}:{port}"
    try:
        if tls:
            bound = server.add_secure_port(address, grpc.ssl_server_credentials([tls]))
        else:
            bound = server.add_insecure_port(address)
    except RuntimeError as error:
        raise OSError(f"cannot listen on {address}: {error}") from error
    await server.start()
    return server, bound
