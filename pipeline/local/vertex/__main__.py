"""The process of the Vertex AI stand-in: `python -m pipeline.local.vertex --bucket_root DIR`."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import ssl
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.local.vertex.faults import Settings
from pipeline.local.vertex.launcher import HOST, WITH_PARENT


async def _serve(arguments: argparse.Namespace) -> None:
    """Serves until SIGTERM or SIGINT, or until the parent is gone; prints the ports as JSON when it is ready."""
    from pipeline.local.tls import make_certificates
    from pipeline.local.vertex.grpc import serve_grpc
    from pipeline.local.vertex.http import control_app, rest_app, serve_http
    from pipeline.local.vertex.server import StandIn

    stopped = asyncio.Event()
    for signum in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(signum, stopped.set)
    stand_in = StandIn(arguments.bucket_root, Settings().changed(json.loads(arguments.settings)))
    tls, context = None, None
    if arguments.tls_dir:
        tls = make_certificates(arguments.tls_dir)
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(arguments.tls_dir / "server.pem", arguments.tls_dir / "server-key.pem")
    server, port = await serve_grpc(stand_in, HOST, arguments.port, tls)
    ports = {"grpc": port, "rest": 0, "control": 0}
    _, ports["control"] = await serve_http(control_app(stand_in), HOST, arguments.control_port)
    if arguments.rest_port is not None:
        _, ports["rest"] = await serve_http(rest_app(stand_in), HOST, arguments.rest_port, context)
    print(json.dumps(ports), flush=True)  # noqa: T201
    if arguments.die_with_parent:
        threading.Thread(target=_exit_at_end_of_stdin, daemon=True).start()
    await stopped.wait()
    await server.stop(0)
    os._exit(0)


def _exit_at_end_of_stdin() -> None:
    sys.stdin.read()
    os._exit(0)


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the stand-in in this process."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.local.vertex", description=__doc__, allow_abbrev=False)
    parser.add_argument("--bucket_root", type=Path, required=True, help="folder with a folder for each bucket")
    parser.add_argument("--port", type=int, default=0, help="gRPC port; 0: a free one")
    parser.add_argument("--rest_port", type=int, help="also serve REST; 0: a free port")
    parser.add_argument(
        "--control_port", type=int, default=0, help="settings and counts, JSON over HTTP; 0: a free port"
    )
    parser.add_argument("--tls_dir", type=Path, help="serve TLS; ca.pem and the server's certificate are kept there")
    parser.add_argument("--settings", default="{}", help="fields of pipeline.local.vertex.faults.Settings, JSON")
    parser.add_argument(WITH_PARENT, action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    run: Any = asyncio.run
    if sys.platform != "win32":
        import uvloop

        run = uvloop.run
    run(_serve(arguments))


if __name__ == "__main__":
    main()
