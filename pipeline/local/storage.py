"""Cloud Storage on loopback: the package gcp-storage-emulator in a thread, in memory.

with Storage("staging") as storage:
    subprocess.run([..., "--temp_location=gs://staging/tmp"], env={**os.environ, **storage.environment})
    storage.read("staging", "tmp/job/pipeline.pb")
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from functools import partial
from http.server import HTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self


class Storage:
    """A Cloud Storage service with these buckets for as long as the `with` block lives."""

    def __init__(self, *buckets: str) -> None:
        self._buckets = buckets
        self._open = contextlib.ExitStack()
        self._port = 0
        self._client: Any = None

    @property
    def address(self) -> str:
        """`http://127.0.0.1:PORT`."""
        return f"http://127.0.0.1:{self._port}"

    @property
    def environment(self) -> dict[str, str]:
        """The variable with which Google's library finds this service."""
        return {"STORAGE_EMULATOR_HOST": self.address}

    def names(self, bucket: str, prefix: str = "") -> list[str]:
        """Names of the objects that begin with `prefix`, sorted."""
        return sorted(blob.name for blob in self._client.list_blobs(bucket, prefix=prefix))

    def read(self, bucket: str, name: str) -> bytes:
        """One object's content."""
        content: bytes = self._client.bucket(bucket).blob(name).download_as_bytes()
        return content

    def write(self, bucket: str, name: str, content: bytes) -> None:
        """Store an object."""
        self._client.bucket(bucket).blob(name).upload_from_string(content)

    def download(self, bucket: str, prefix: str, directory: Path) -> list[Path]:
        """Write the objects below `prefix` into `directory`, by the last part of their names; the paths, sorted."""
        paths = []
        for name in self.names(bucket, prefix):
            path = directory / Path(name).name
            path.write_bytes(self.read(bucket, name))
            paths.append(path)
        return paths

    def __enter__(self) -> Self:
        from google.auth.credentials import AnonymousCredentials
        from google.cloud.storage import Client

        self._port = self._open.enter_context(_emulator())
        self._client = Client(
            project="demo-project",
            credentials=AnonymousCredentials(),  # type: ignore[no-untyped-call]  # theirs
            client_options={"api_endpoint": self.address},
        )
        self._open.callback(self._client.close)
        for bucket in self._buckets:
            self._client.create_bucket(bucket)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()


@contextlib.contextmanager
def _emulator() -> Iterator[int]:
    """The port of a running emulator. It takes one request at a time: its storage knows no locks."""
    from gcp_storage_emulator.server import RequestHandler
    from gcp_storage_emulator.storage import Storage as Files

    server = HTTPServer(("127.0.0.1", 0), partial(RequestHandler, Files(use_memory_fs=True)))
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
