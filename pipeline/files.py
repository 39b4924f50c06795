"""Text files that a person names: on this machine, or in Cloud Storage as gs://BUCKET/OBJECT."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from pipeline.errors import ConfigError

_TIMEOUT_SECS = 60


def read_text(path: str, flag: str) -> str:
    """The text of a UTF-8 file.

    Raises:
        ConfigError: it is not there, or cannot be read.
    """
    with _explained(path, flag):
        if path.startswith("gs://"):
            text: str = _blob(path).download_as_text(encoding="utf-8", timeout=_TIMEOUT_SECS)
            return text
        return Path(path).read_text("utf-8")


def write_text(path: str, text: str, flag: str) -> None:
    """Write a UTF-8 file, over one that is there; a local folder that is missing is made.

    Raises:
        ConfigError: it cannot be written.
    """
    with _explained(path, flag):
        if path.startswith("gs://"):
            _blob(path).upload_from_string(text.encode(), content_type="application/json", timeout=_TIMEOUT_SECS)
            return
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(text, "utf-8")


def beside(folder: str, name: str) -> str:
    """The path of a file in a folder, local or gs://."""
    return f"{folder.rstrip('/')}/{name}" if folder.startswith("gs://") else str(Path(folder) / name)


def _blob(uri: str):  # type: ignore[no-untyped-def]  # the storage client has no types
    import google.cloud.storage  # here: it costs most of a second, and only gs:// needs it

    return google.cloud.storage.Blob.from_uri(uri, google.cloud.storage.Client())


@contextlib.contextmanager
def _explained(path: str, flag: str) -> Iterator[None]:
    import google.auth.exceptions
    from google.api_core.exceptions import GoogleAPIError

    try:
        yield
    except google.auth.exceptions.GoogleAuthError as error:
        raise ConfigError(
            f"{flag}={path}: no Google credentials ({error}): run gcloud auth application-default login"
        ) from error
    except (GoogleAPIError, ValueError) as error:  # a ValueError: no UTF-8, or no gs://BUCKET/OBJECT
        raise ConfigError(f"{flag}={path}: {' '.join(str(error).split())}") from error
    except OSError as error:
        raise ConfigError(f"{flag}={path}: {error.strerror or error}") from error
