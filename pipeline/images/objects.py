"""Reads objects from Cloud Storage with the worker's own credentials."""

from __future__ import annotations

import io
import threading
from typing import Any

from pipeline.asking import ImageError, Problem
from pipeline.engine.call import CallError
from pipeline.images.limits import MAX_OBJECT_BYTES
from pipeline.rows import Reason

TIMEOUT_SECS = (10.0, 30.0)  # to connect, and between two pieces of an answer; shorter than any call's own time-out
_NO_CREDENTIALS = "CREDENTIALS_MISSING"  # an ErrorInfo reason that halts the run: no row can mend it
_PASSING = "ABORTED"  # an error that may pass, but that may be this object's alone: not UNAVAILABLE, which never is
_BUSY = frozenset({408, 429})


class Objects:
    """Objects of any bucket, read from any thread: each has a client, and so connections, of its own.

    Where STORAGE_EMULATOR_HOST is set, that is asked instead, without credentials (Google's library sees to it).
    """

    def __init__(self, project: str) -> None:
        self._project = project
        self._threads = threading.local()

    def read(self, uri: str) -> bytes:
        """All bytes of a gs:// object, checked against its checksum. One try: whoever calls tries again.

        Raises:
            ImageError: it is not there, denied, too large, or Cloud Storage does not answer.
        """
        bucket, _, name = uri.removeprefix("gs://").partition("/")
        content = _Capped()
        with_checks: dict[str, Any] = {"timeout": TIMEOUT_SECS, "retry": None, "checksum": "auto"}
        try:
            self._client.bucket(bucket).blob(name).download_to_file(content, **with_checks)
        except _TooLargeError:
            detail = f"the object has more than {MAX_OBJECT_BYTES // 1024**2} MB"
            raise ImageError(Problem(Reason.IMAGE_TOO_LARGE, detail)) from None
        except Exception as error:  # told apart in `_problem`; a bug is raised again
            problem = _problem(uri, error)
            if problem is None:
                raise
            raise ImageError(problem) from error
        return content.getvalue()

    @property
    def _client(self) -> Any:
        client = getattr(self._threads, "client", None)
        if client is None:
            import google.cloud.storage

            client = self._threads.client = google.cloud.storage.Client(project=self._project)
        return client


class _TooLargeError(Exception):
    pass


class _Capped(io.BytesIO):
    """Takes no more than an image may have: what is larger is not read to its end."""

    def write(self, piece: Any) -> int:
        if self.tell() + len(piece) > MAX_OBJECT_BYTES:
            raise _TooLargeError
        return super().write(piece)


def _problem(uri: str, error: Exception) -> Problem | None:
    """What an error of Google's storage library means for the row; None for a bug."""
    import google.auth.exceptions
    import requests.exceptions
    from google.api_core import exceptions
    from google.cloud.storage.exceptions import DataCorruption

    halts = None
    match error:
        case exceptions.NotFound():
            reason, code = Reason.IMAGE_NOT_FOUND, "NOT_FOUND"
        case exceptions.Forbidden():
            reason, code = Reason.IMAGE_DENIED, "PERMISSION_DENIED"
        case google.auth.exceptions.RefreshError() if error.retryable:
            reason, code = Reason.IMAGE_UNAVAILABLE, _PASSING
        case (
            exceptions.Unauthorized()
            | google.auth.exceptions.DefaultCredentialsError()
            | google.auth.exceptions.RefreshError()
        ):
            reason, code, halts = Reason.IMAGE_DENIED, "UNAUTHENTICATED", _NO_CREDENTIALS
        case exceptions.ClientError() if error.code not in _BUSY:
            reason, code = Reason.INVALID_REQUEST, "INVALID_ARGUMENT"
        case (
            exceptions.GoogleAPICallError()
            | google.auth.exceptions.TransportError()
            | requests.exceptions.RequestException()
            | DataCorruption()
            | OSError()
        ):
            reason, code = Reason.IMAGE_UNAVAILABLE, _PASSING
        case _:
            return None
    said = f"Cloud Storage, {uri}: {type(error).__name__}: {' '.join(str(error).split())}"[:700]
    return Problem(reason, said, CallError(code, said, reason=halts))
