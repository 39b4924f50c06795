"""The access token of a process: fetched when first needed, refreshed by one thread before it expires.

gRPC's own auth plugin starts a thread for every call; here each call takes the current token as plain metadata.
"""

from __future__ import annotations

import datetime
import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

from pipeline.credentials import refused

_SCOPES = ("https://www.googleapis.com/auth/cloud-platform",)
_MARGIN_SECS = 300.0  # Google's metadata server hands out the same token until about 5 minutes before it expires
_ONE_REFRESH_IN_SECS = 5.0  # hundreds of calls in flight fail together with the same token: one refresh serves them all
_log = logging.getLogger(__name__)


class Token(NamedTuple):
    """Headers that sign a call in, and when they stop doing so (seconds since the epoch; None: never)."""

    headers: Mapping[str, str]
    expires_at: float | None


Fetch = Callable[[], Token]
"""Fetches a new token over the network; raises what its library raises."""


def application_default() -> Fetch:
    """A fetcher of Application Default Credentials.

    Raises:
        ConfigError: there are none.
    """
    import google.auth
    import google.auth.exceptions
    from google.auth.transport.requests import Request

    try:
        credentials, _ = google.auth.default(scopes=list(_SCOPES))
    except (google.auth.exceptions.DefaultCredentialsError, OSError) as error:
        raise refused(error) from error
    transport = Request()

    def fetch() -> Token:
        try:
            credentials.refresh(transport)  # type: ignore[no-untyped-call]  # google-auth's own
        except google.auth.exceptions.GoogleAuthError as error:
            raise refused(error) from error
        headers: dict[str, str] = {}
        credentials.apply(headers)  # type: ignore[no-untyped-call]  # google-auth's own
        expiry = credentials.expiry  # google-auth keeps naive datetimes that mean UTC
        expires_at = expiry.replace(tzinfo=datetime.UTC).timestamp() if expiry else None
        return Token({name.lower(): value for name, value in headers.items()}, expires_at)

    return fetch


class TokenHolder:
    """Holds the current token of a process.

    Args:
        fetch: fetches a new one; called by one thread at a time.
        changed: told each new token's headers, before `start` or `refresh` return.
        clock: seconds since the epoch.
        retry_secs: pause after a fetch that failed.
    """

    def __init__(
        self,
        fetch: Fetch,
        changed: Callable[[Mapping[str, str]], None],
        *,
        clock: Callable[[], float] = time.time,
        retry_secs: float = 10.0,
    ) -> None:
        self._fetch = fetch
        self._changed = changed
        self._clock = clock
        self._retry_secs = retry_secs
        self._lock = threading.Lock()
        self._fetched_at = self._demanded_at = float("-inf")
        self._expires_at: float | None = None
        self._wake = threading.Event()
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Fetch the first token, then keep it fresh.

        Raises:
            Exception: what `fetch` raises: without a first token nothing can be asked.
        """
        with self._lock:
            self._renew()
        self._thread = threading.Thread(target=self._keep_fresh, name="vertex-token", daemon=True)
        self._thread.start()

    def refresh(self) -> None:
        """Fetch a new token now, unless the last `refresh` was within 5 s. Blocks while it is fetched; never raises.

        A token that cannot be fetched is logged: the call that needs it fails with UNAUTHENTICATED.
        """
        with self._lock:
            if self._clock() - self._demanded_at < _ONE_REFRESH_IN_SECS:
                return
            self._try_renew()
            self._demanded_at = self._clock()
        self._wake.set()  # the thread looks at the new expiry

    def close(self) -> None:
        """End the thread; the token stays as it is."""
        self._closed.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join(timeout=5)

    def _renew(self) -> None:
        token = self._fetch()
        self._fetched_at, self._expires_at = self._clock(), token.expires_at
        self._changed(token.headers)

    def _try_renew(self) -> bool:
        try:
            self._renew()
        except Exception as error:  # noqa: BLE001 - a token source may raise anything; a dead refresh thread would be silent
            _log.warning("no new access token: %s", error)
            return False
        return True

    def _keep_fresh(self) -> None:
        wait: float | None = self._secs_left()
        while not self._closed.is_set():
            self._wake.wait(wait)
            self._wake.clear()
            if self._closed.is_set():
                return
            wait = self._secs_left()
            if wait is not None and wait <= 0:
                with self._lock:
                    renewed = self._try_renew()
                wait = self._secs_left() if renewed else self._retry_secs
                if renewed and wait is not None:
                    wait = max(wait, 1.0)  # a source whose tokens live for seconds must not be asked in a loop

    def _secs_left(self) -> float | None:
        """Seconds until the token should be renewed; None when it never expires."""
        if self._expires_at is None:
            return None
        lifetime = self._expires_at - self._fetched_at
        return self._expires_at - min(_MARGIN_SECS, lifetime / 2) - self._clock()
