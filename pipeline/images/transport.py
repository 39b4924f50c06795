"""Sends calls, and before that reads again what could not be read: as the engine's retries and breaker want it."""

from __future__ import annotations

import logging
import time

from pipeline.asking import Ask, Picture
from pipeline.engine.call import CallError, Done, Handle, Send
from pipeline.images.pool import Pool

_log = logging.getLogger(__name__)


class Transport:
    """An `engine.Send` for asks whose picture may be unread.

    The first time that such an ask is sent, its call fails with what was found when its image was read ahead; each
    time after that the image is read anew, and sent if that works. So the engine decides by its own rules whether and when to
    try again, and whether Cloud Storage that denies or fails is a row's fault or the run's.

    Args:
        send: sends a serialised request.
        pool: reads images.
    """

    def __init__(self, send: Send, pool: Pool) -> None:
        self._send = send
        self._pool = pool

    def __call__(self, request: bytes | Ask, timeout_secs: float, done: Done) -> Handle:
        """Start one call; see `engine.Send`."""
        picture = request.unread if isinstance(request, Ask) else None
        if picture is None or not isinstance(request, Ask):
            return self._send(request, timeout_secs, done)
        if picture.first_problem() is not None:
            done(_error(picture))
            return _Reading()
        return self._read_again(request, picture, timeout_secs, done)

    def _read_again(self, ask: Ask, picture: Picture, timeout_secs: float, done: Done) -> Handle:
        began, handle = time.monotonic(), _Reading()

        def read(got: Picture | BaseException) -> None:
            if isinstance(got, BaseException):  # a bug; the row is not lost for it
                _log.error("%s could not be read", picture.row.key, exc_info=got)
                done(CallError("INTERNAL", repr(got)))
                return
            picture.take(got)
            if picture.problem is not None:
                done(_error(picture))
                return
            left = max(1.0, timeout_secs - (time.monotonic() - began))
            handle.becomes(self._send(ask.request(), left, done))

        self._pool.start(picture.row, read)
        return handle


class _Reading:
    """An image that is being read for a call, and then the call."""

    def __init__(self) -> None:
        self._call: Handle | None = None
        self._cancelled = False

    def becomes(self, call: Handle) -> None:
        self._call = call
        if self._cancelled:
            call.cancel()

    def cancel(self) -> None:
        """What is being read is not sent, or its call ends at once."""
        self._cancelled = True
        if self._call is not None:
            self._call.cancel()


def _error(picture: Picture) -> CallError:
    problem = picture.problem
    assert problem is not None  # noqa: S101 - both callers have looked
    return problem.error or CallError("INVALID_ARGUMENT", problem.detail)
