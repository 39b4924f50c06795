"""Small HTTP servers on loopback, for as long as a test wants them."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def server(handler: type[BaseHTTPRequestHandler]) -> ThreadingHTTPServer:
    """A server with a port of its own, which does not serve yet."""
    made = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    made.daemon_threads = True
    return made


def url(made: ThreadingHTTPServer) -> str:
    return f"http://127.0.0.1:{made.server_port}"


@contextlib.contextmanager
def serving(made: ThreadingHTTPServer) -> Iterator[str]:
    """Serves within the block; yields the URL."""
    thread = threading.Thread(target=made.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield url(made)
    finally:
        made.shutdown()
        made.server_close()
        thread.join()
