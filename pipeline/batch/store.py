"""The folder in Cloud Storage in which requests and results lie."""

from __future__ import annotations

import dataclasses
import functools
import json
import tempfile
from collections.abc import Iterator
from typing import IO, Any

from pipeline.errors import ConfigError

_TIMEOUT_SECS = 300
_READ_BYTES = 8 * 1024 * 1024


@dataclasses.dataclass(frozen=True)
class Folder:
    """`gs://BUCKET/FOLDER`; picklable. An object that is written is there whole or not at all."""

    uri: str

    @classmethod
    def parse(cls, text: str, flag: str) -> Folder:
        """The folder that a flag names.

        Raises:
            ConfigError: another form.
        """
        bucket = text.removeprefix("gs://").partition("/")[0]
        if not text.startswith("gs://") or not bucket:
            raise ConfigError(f"{flag}={text}: expected gs://BUCKET/FOLDER")
        return cls(text.rstrip("/"))

    def below(self, name: str) -> Folder:
        return Folder(f"{self.uri}/{name}")

    def names(self) -> list[str]:
        """The names of all objects in the folder, relative to it, sorted."""
        bucket, prefix = self._place
        blobs = self._client.list_blobs(bucket, prefix=f"{prefix}/", timeout=_TIMEOUT_SECS)
        return sorted(blob.name.removeprefix(f"{prefix}/") for blob in blobs)

    def results(self) -> list[str]:
        """The names of the files of lines in the folder."""
        return [name for name in self.names() if name.endswith(".jsonl")]

    def write(self, name: str, content: IO[bytes]) -> None:
        """Store what a file holds, from its beginning, over what was there."""
        from google.cloud.storage.retry import DEFAULT_RETRY

        content.seek(0)
        self._blob(name).upload_from_file(content, timeout=_TIMEOUT_SECS, retry=DEFAULT_RETRY)

    def write_json(self, name: str, value: Any) -> None:
        with tempfile.TemporaryFile() as file:
            file.write(json.dumps(value).encode())
            self.write(name, file)

    def read_json(self, name: str) -> Any:
        return json.loads(self._blob(name).download_as_bytes(timeout=_TIMEOUT_SECS))

    def lines(self, name: str) -> Iterator[bytes]:
        """The lines of an object, with flat memory."""
        with self._blob(name).open("rb", chunk_size=_READ_BYTES, timeout=_TIMEOUT_SECS) as file:
            yield from file

    @property
    def _place(self) -> tuple[str, str]:
        bucket, _, prefix = self.uri.removeprefix("gs://").partition("/")
        return bucket, prefix

    @functools.cached_property
    def _client(self) -> Any:
        import google.cloud.storage

        return google.cloud.storage.Client()

    def _blob(self, name: str) -> Any:
        bucket, prefix = self._place
        return self._client.bucket(bucket).blob(f"{prefix}/{name}" if prefix else name)

    def __getstate__(self) -> dict[str, Any]:
        return {"uri": self.uri}
