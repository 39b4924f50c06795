"""What ties worker processes of this machine to their launcher: when it is told to stop, or dies, they stop too.

A runner with several processes does not pass on the signal that its own process gets. So the launcher listens on a loopback
port, each worker process connects to it, and the end of the connection is the message. Nothing is ever sent.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable

Address = tuple[str, int]


class Leash:
    """The launcher's end. Connections need not be accepted: when the listener is closed, the system ends them."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        host, port = self._listener.getsockname()
        self.address: Address = (host, port)

    def let_go(self) -> None:
        """Tells all worker processes; the end of this process does so too."""
        self._listener.close()


def watch(address: Address, then: Callable[[], None]) -> None:
    """Calls `then` once, on a thread of its own, when the launcher lets go or is gone."""

    def wait() -> None:
        with contextlib.suppress(OSError), socket.create_connection(address) as connection:
            connection.recv(1)
        then()

    threading.Thread(target=wait, name="leash", daemon=True).start()
