"""Calls Vertex AI over gRPC: thousands of calls in flight, without a thread for each.

Calls are futures with callbacks, on channels that carry TLS only; the token travels as metadata (see `tokens`).
"""

from __future__ import annotations

import collections
import logging
import platform
import threading
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import quote

import grpc
from google.protobuf.message import DecodeError

from pipeline import __version__
from pipeline.engine.call import CallError, Done, Handle
from pipeline.gemini.endpoint import VertexEndpoint
from pipeline.gemini.models import resource_name
from pipeline.gemini.request import METHOD, response_class
from pipeline.gemini.tokens import Fetch, TokenHolder, application_default
from pipeline.task import Settings

__all__ = ["Client", "VertexEndpoint"]

CALLS_PER_CHANNEL = 50
"""Servers commonly allow 100 streams a connection and refuse what is above (docs/facts.md, gRPC). Half of that: a server
may count a stream for a moment after its answer has arrived here, and when a whole connection is answered at once, as many
calls follow. (Measured with 80 and 4,000 calls answered at once: 11 of the next were refused.)"""
_FIRST_CALLS = 20  # what a new channel gets before its connection has answered once, while others have room
_DETAILS_KEY = "grpc-status-details-bin"
_MAX_MESSAGE_CHARS = 1000

_CHANNEL_OPTIONS: tuple[tuple[str, Any], ...] = (
    ("grpc.use_local_subchannel_pool", 1),  # else all channels to one target share one connection
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.keepalive_time_ms", 60_000),  # a flex call may wait for minutes: middle boxes forget idle connections
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.max_reconnect_backoff_ms", 10_000),  # gRPC's own 2 minutes would outlast the outage
    ("grpc.service_config_disable_resolution", 1),  # no DNS TXT look-up for each connection
    ("grpc.primary_user_agent", f"gemini-image-pipeline/{__version__}"),
)

# docs/facts.md, flex. Flex also says `shared`: a bulk run must not eat the throughput that somebody has provisioned.
_TIER_METADATA: dict[str, tuple[tuple[str, str], ...]] = {
    "standard": (),
    "flex": (("x-vertex-ai-llm-shared-request-type", "flex"), ("x-vertex-ai-llm-request-type", "shared")),
    "priority": (("x-vertex-ai-llm-shared-request-type", "priority"),),
}
_log = logging.getLogger(__name__)


class Client:
    """The connections of one process to one model. Thread-safe; `send` is an `engine.Send`.

    Args:
        endpoint: where, and whether signed in.
        settings: model and service tier.
        project: the project that is billed.
        fetch_token: another source of tokens than Application Default Credentials.
        root_certificates: PEM of the authorities to trust, instead of gRPC's own list.

    Raises:
        ConfigError: there are no credentials, or they give no token.
    """

    def __init__(
        self,
        endpoint: VertexEndpoint,
        settings: Settings,
        *,
        project: str,
        fetch_token: Fetch | None = None,
        root_certificates: bytes | None = None,
    ) -> None:
        self.resource = resource_name(settings.model, project, endpoint.location)
        self._fixed_metadata = (
            ("x-goog-request-params", f"model={quote(self.resource, safe='')}"),
            ("x-goog-api-client", f"gl-python/{platform.python_version()} grpc/{grpc.__version__} gccl/{__version__}"),
            *_TIER_METADATA[settings.service_tier],
        )
        self._metadata: tuple[tuple[str, str], ...] = self._fixed_metadata
        self._project = project
        self._tokens: TokenHolder | None = None
        if endpoint.secure:
            self._tokens = TokenHolder(fetch_token or application_default(), self._sign_in)
            self._tokens.start()
        credentials = grpc.ssl_channel_credentials(root_certificates) if endpoint.secure else None
        decode = response_class().FromString

        def open_channel() -> _Channel:
            return _Channel(endpoint.target, credentials, decode)

        self._pool = _Pool(open_channel)

    def send(self, request: bytes, timeout_secs: float, done: Done) -> Handle:
        """Start one call. Never blocks.

        Args:
            request: a serialised GenerateContentRequest.
            timeout_secs: after so long the call ends with DEADLINE_EXCEEDED.
            done: told the response (the plain protobuf message) or a `CallError`, once, on a gRPC thread; or at once,
                on this one, when the client is closed.

        Raises:
            Exception: gRPC takes the request or the metadata for none; that is a bug. `done` is told nothing.
        """
        channel = self._pool.take()
        if channel is None:
            return _refused(done)
        try:
            future = channel.call(request, timeout=timeout_secs, metadata=self._metadata)
        except Exception as error:  # whatever it was, the place must be given back
            self._pool.give_back(channel, worked=False)
            if self._pool.closed and isinstance(error, ValueError):  # gRPC's word for a closed channel
                return _refused(done)
            raise
        future.add_done_callback(lambda landed: self._landed(landed, channel, done))
        handle: Handle = future
        return handle

    def refresh(self) -> None:
        """Fetch a new access token now; many calls at once share one. Blocks while it is fetched."""
        if self._tokens is not None:
            self._tokens.refresh()

    @property
    def channels(self) -> int:
        """Connections that are open."""
        return len(self._pool.channels)

    def close(self) -> None:
        """Close all connections; calls in flight end with CANCELLED."""
        if self._tokens is not None:
            self._tokens.close()
        self._pool.close()

    def _sign_in(self, headers: Mapping[str, str]) -> None:
        signed = {**headers, "x-goog-user-project": self._project}
        self._metadata = (*signed.items(), *self._fixed_metadata)  # one assignment: calls see the old or the new token

    def _landed(self, future: Any, channel: _Channel, done: Done) -> None:
        code = future.code()
        self._pool.give_back(channel, worked=code is grpc.StatusCode.OK)
        done(future.result() if code is grpc.StatusCode.OK else _error(future, code))


class _NoCall:
    def cancel(self) -> None:
        """There is nothing to end."""


def _refused(done: Done) -> Handle:
    done(CallError("CANCELLED", "the client is closed"))
    return _NoCall()


class _Channel:
    """One connection, and what is known of it."""

    __slots__ = ("call", "close", "proven")

    def __init__(self, target: str, credentials: Any, decode: Callable[[bytes], Any]) -> None:
        if credentials is None:
            # Loopback: a proxy from the environment could not reach this machine.
            options = (*_CHANNEL_OPTIONS, ("grpc.enable_http_proxy", 0))
            channel = grpc.insecure_channel(target, options=options)
        else:
            channel = grpc.secure_channel(target, credentials, options=_CHANNEL_OPTIONS)
        # No serialiser: requests are bytes already.
        self.call = channel.unary_unary(METHOD, request_serializer=None, response_deserializer=decode).future
        self.close = channel.close
        self.proven = False


class _Pool:
    """Channels, opened as they are needed, none with more than `CALLS_PER_CHANNEL` calls.

    A free place on a channel is an entry of a queue, so that taking one costs the same with 80 channels as with one,
    and calls go round the channels. A new channel has few places at first, and the rest when its first call has worked,
    or when there is no room elsewhere. So growth is gentle, and a burst opens no more connections than it fills.
    """

    def __init__(self, open_channel: Callable[[], _Channel]) -> None:
        self._open = open_channel
        self._free: collections.deque[_Channel] = collections.deque()  # its single steps are atomic
        self._young: list[_Channel] = []
        self._lock = threading.Lock()
        self.closed = False
        self.channels: list[_Channel] = []

    def take(self) -> _Channel | None:
        """A place on a channel, to be given back; None when the pool is closed."""
        while not self.closed:
            try:
                return self._free.popleft()
            except IndexError:
                self._grow()
        return None

    def give_back(self, channel: _Channel, *, worked: bool) -> None:
        self._free.append(channel)
        if worked and not channel.proven:
            with self._lock:
                self._prove(channel)

    def close(self) -> None:
        with self._lock:
            self.closed = True
            for channel in self.channels:
                channel.close()

    def _grow(self) -> None:
        with self._lock:
            if self.closed or self._free:
                return  # another thread was here first
            if self._young:
                self._prove(self._young[0])
                return
            channel = self._open()
            self.channels.append(channel)
            self._young.append(channel)
            self._free.extend([channel] * _FIRST_CALLS)
            _log.debug("opened connection %d", len(self.channels))

    def _prove(self, channel: _Channel) -> None:
        if not channel.proven:
            channel.proven = True
            self._young.remove(channel)
            self._free.extend([channel] * (CALLS_PER_CHANNEL - _FIRST_CALLS))


def _error(future: Any, code: Any) -> CallError:
    """What a failed call ended with, google.rpc details read."""
    retry_delay_secs, reason = None, None
    for key, value in future.trailing_metadata() or ():
        if key == _DETAILS_KEY:
            retry_delay_secs, reason = read_details(value)
    return CallError(code.name, (future.details() or "")[:_MAX_MESSAGE_CHARS], retry_delay_secs, reason)


def read_details(raw: bytes) -> tuple[float | None, str | None]:
    """RetryInfo's delay in seconds and ErrorInfo's reason of a serialised google.rpc.Status; None where there is none.

    Never raises: details that cannot be read are as good as none.
    """
    from google.rpc import error_details_pb2, status_pb2

    delay, reason = None, None
    try:
        for detail in status_pb2.Status.FromString(raw).details:
            if detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR):
                retry = error_details_pb2.RetryInfo.FromString(detail.value).retry_delay
                delay = max(retry.seconds + retry.nanos / 1e9, 0.0)
            elif detail.Is(error_details_pb2.ErrorInfo.DESCRIPTOR):
                reason = error_details_pb2.ErrorInfo.FromString(detail.value).reason or None
    except DecodeError:
        _log.debug("error details that cannot be read: %r", raw[:100])
    return delay, reason
