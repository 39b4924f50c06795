"""The contracts between the engine, the transport that makes calls, and the jobs that say what a call means."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable
from typing import Any, Protocol


class Fault(enum.StrEnum):
    """Why the engine gave up on a job. Whoever owns the jobs maps it to words of their own."""

    NOT_FOUND = "not_found"
    DENIED = "denied"
    INVALID = "invalid"
    UNAVAILABLE = "unavailable"
    TIMED_OUT = "timed_out"
    RATE_LIMITED = "rate_limited"


@dataclasses.dataclass(frozen=True, slots=True)
class CallError:
    """A call that got no response.

    `code` is the name of a gRPC status, such as "UNAVAILABLE". `retry_delay_secs` is google.rpc.RetryInfo's delay and
    `reason` google.rpc.ErrorInfo's reason ("SERVICE_DISABLED"), each None where the server sent none.
    """

    code: str
    message: str
    retry_delay_secs: float | None = None
    reason: str | None = None

    def __str__(self) -> str:
        return f"{self.code}{f' ({self.reason})' if self.reason else ''}: {self.message}"


class Handle(Protocol):
    """A call on its way, as the transport knows it."""

    def cancel(self) -> object:
        """Asks the transport to end the call; what its `Done` is told afterwards is ignored."""


Done = Callable[[Any], None]
"""Told a call's response or its `CallError`: once, from any thread, or from within `Send` itself."""

Send = Callable[[Any, float, Done], Handle]
"""Starts one call: `send(request, timeout_secs, done)`. Never blocks."""


@dataclasses.dataclass(frozen=True, slots=True)
class Landed:
    """The job is done, with these outcomes. `tokens` is what the response really used, 0 where that is unknown."""

    outcomes: tuple[Any, ...]
    tokens: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class Again:
    """The same job is to be asked again at once: its `request()` has changed. The call counts as an attempt."""

    tokens: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class Split:
    """The job is replaced by parts of it that are asked next; rows of it that are already decided are `outcomes`."""

    jobs: tuple[Job, ...]
    outcomes: tuple[Any, ...] = ()
    tokens: int = 0


Step = Landed | Again | Split


class Job(Protocol):
    """One call to make, and what to make of its response.

    Every method but `request` may run on whatever thread a call lands on: none may block. What a method raises is a
    bug; it is raised again on the thread of the job's lane.
    """

    @property
    def rows(self) -> int:
        """How many rows the call answers, at least 1."""

    def tokens(self) -> int:
        """How many tokens to reserve for the next call, by estimate."""

    def request(self) -> Any:
        """The request of the next call, built anew for each."""

    def answered(self, response: Any, latency_ms: float, attempts: int, calls: int) -> Step:
        """What to make of a response. `attempts` and `calls` include this one; rejections for quota are calls only."""

    def failed(self, fault: Fault, error: CallError, attempts: int, calls: int) -> Step:
        """What to make of it that the engine gave up; `error` is the last call's."""

    def timed_out(self) -> None:
        """A call was sent and its answer will never be known, though it may be billed: charge it as planned.

        Not told of calls that the end of the engine cut off: their jobs have no outcome that the charge could go to.
        """
