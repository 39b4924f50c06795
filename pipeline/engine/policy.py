"""What to do about a call that failed: one pure function, `decide`, and the limits that it reads."""

from __future__ import annotations

import dataclasses

from pipeline.engine.call import CallError, Fault


@dataclasses.dataclass(frozen=True, slots=True)
class Limits:
    """What a process and a row may take. Every limit is positive.

    Attributes:
        max_in_flight: calls in flight in this process.
        max_attempts: attempts of a row; rejections for quota, and errors while the whole service is out, are none.
        call_timeout_secs: time of one call, from its sending. A tier that answers late, such as Flex (up to 30
            minutes, by its documentation), needs more, and a longer row deadline with it.
        row_deadline_secs: time of a row's calls and of the pauses after its errors. Waiting for the pace, for quota and
            for a service that is out is not counted.
        rate_limited_secs: time after its first rejection for quota that a row is given up, if it is rejected still.
        outage_secs: time without one success, all calls failing, after which the run halts.
        backoff_secs: longest pause after the first error; it doubles with each (full jitter: a pause is drawn from
            0 to that).
        backoff_cap_secs: longest pause of all.
        watchdog_secs: time past its timeout when a call that the transport forgot is taken for timed out.
        halt_grace_secs: time that calls in flight have to land once the run has halted.
    """

    max_in_flight: int = 512
    max_attempts: int = 5
    call_timeout_secs: float = 120.0
    row_deadline_secs: float = 600.0
    rate_limited_secs: float = 3600.0
    outage_secs: float = 600.0
    backoff_secs: float = 1.0
    backoff_cap_secs: float = 60.0
    watchdog_secs: float = 5.0
    halt_grace_secs: float = 10.0

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if not value > 0:
                raise ValueError(f"Limits.{field.name} is {value!r}: it must be more than 0")


@dataclasses.dataclass(frozen=True, slots=True)
class History:
    """What a job has been through, the call that just failed not included.

    Attributes:
        attempts: attempts spent.
        rejections: calls rejected for quota.
        rate_limited_secs: time since the first of those.
        spent_secs: time that counts for the row's deadline, the failed call included.
        outage: whether calls of the whole process are failing now, so that this error says nothing of this job.
        refreshed: whether the call was sent with a token that had just been refreshed, and none has worked since.
        refreshes: how often the token was to be refreshed for this job.
    """

    attempts: int = 0
    rejections: int = 0
    rate_limited_secs: float = 0.0
    spent_secs: float = 0.0
    outage: bool = False
    refreshed: bool = False
    refreshes: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class Retry:
    """Ask again after `delay_secs`; `refresh` the access token first."""

    delay_secs: float
    costs_attempt: bool
    refresh: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class GiveUp:
    """The job ends here. A `suspect` fault may be the run's own: it is filed once the run is seen to work."""

    fault: Fault
    suspect: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class RunFault:
    """No row can mend this: the run halts, and nothing is filed against this row."""

    reason: str


Decision = Retry | GiveUp | RunFault

_SUSPECT = {
    "INVALID_ARGUMENT": Fault.INVALID,
    "OUT_OF_RANGE": Fault.INVALID,
    "FAILED_PRECONDITION": Fault.INVALID,
    "UNIMPLEMENTED": Fault.INVALID,
    "ALREADY_EXISTS": Fault.INVALID,
    "NOT_FOUND": Fault.NOT_FOUND,
    "PERMISSION_DENIED": Fault.DENIED,
}

_RUN_REASONS = frozenset(
    {
        "SERVICE_DISABLED",
        "SERVICE_NOT_VISIBLE",
        "BILLING_DISABLED",
        "CONSUMER_INVALID",
        "CONSUMER_SUSPENDED",
        "GCP_SUSPENDED",
        "RESOURCE_PROJECT_INVALID",
        "USER_PROJECT_DENIED",
        "USER_BLOCKED_BY_ADMIN",
        "ACCOUNT_STATE_INVALID",
        "ACCOUNT_TYPE_UNSUPPORTED",
        "ACCESS_TOKEN_SCOPE_INSUFFICIENT",
        "ACCESS_TOKEN_TYPE_UNSUPPORTED",
        "CREDENTIALS_MISSING",
        "CREDENTIAL_TYPE_UNSUPPORTED",
        "API_KEY_INVALID",
        "API_KEY_SERVICE_BLOCKED",
    }
)
"""ErrorInfo reasons that concern the project or the credentials as a whole: names of google.api.ErrorReason
(googleapis-common-protos). ACCESS_TOKEN_EXPIRED is not one: a refresh may mend it. Policies that may hang on where
one image lies (SECURITY_POLICY_VIOLATED, IAM_PERMISSION_DENIED) are left to the circuit breaker."""

_PROBE_EVERY = 3
"""While the service is out, a row pauses as after its fourth error, 8 s at most: its end must be seen soon."""

_TOO_LARGE = "larger than max"
"""gRPC's words for a message above its size limit. It says RESOURCE_EXHAUSTED, but no waiting mends it."""


def for_quota(error: CallError) -> bool:
    """Whether the call was rejected for quota: the pace is to blame, nothing else."""
    return error.code == "RESOURCE_EXHAUSTED" and _TOO_LARGE not in error.message


def for_all(error: CallError) -> bool:
    """Whether the server's retry delay, if it sent one, is meant for all calls: it is short of quota, or out."""
    return error.code == "UNAVAILABLE" or for_quota(error)


def transient(error: CallError) -> bool:
    """Whether the error says nothing of the request, so that it may be gone the next time.

    So are UNAVAILABLE, INTERNAL, ABORTED, CANCELLED, UNKNOWN, DATA_LOSS, DEADLINE_EXCEEDED, and any status not known
    here.
    """
    return error.code not in _SUSPECT and error.code not in ("RESOURCE_EXHAUSTED", "UNAUTHENTICATED")


def decide(error: CallError, history: History, limits: Limits, jitter: float) -> Decision:
    """One failed call in, one decision out.

    Args:
        error: what the call ended with.
        history: what the job has been through before.
        limits: what it may take.
        jitter: a number drawn from [0, 1) by the caller.

    Returns:
        `Retry`, `GiveUp` or `RunFault`. A server's own retry delay is obeyed to the letter: no delay is shorter.
    """
    asked = error.retry_delay_secs or 0.0
    spent = history.attempts + 1
    if error.reason in _RUN_REASONS:
        return RunFault(str(error))
    if error.code == "UNAUTHENTICATED" or error.reason == "ACCESS_TOKEN_EXPIRED":
        if history.refreshed:
            return RunFault(str(error))
        if spent < limits.max_attempts:
            return Retry(asked, costs_attempt=True, refresh=True)
        if not history.refreshes:  # a token that ran out is not the row's fault: its last attempt is not lost by it
            return Retry(asked, costs_attempt=False, refresh=True)
        return GiveUp(Fault.UNAVAILABLE)  # a new token worked for others
    if error.code in _SUSPECT:
        return GiveUp(_SUSPECT[error.code], suspect=True)
    if error.code == "RESOURCE_EXHAUSTED":
        if not for_quota(error):
            return GiveUp(Fault.INVALID, suspect=True)
        if history.rate_limited_secs + asked >= limits.rate_limited_secs:
            return GiveUp(Fault.RATE_LIMITED)
        return Retry(max(asked, jitter * _longest_pause(history.rejections, limits)), costs_attempt=False)

    late = error.code == "DEADLINE_EXCEEDED"
    if history.outage and not late:
        return Retry(max(asked, jitter * _longest_pause(_PROBE_EVERY, limits)), costs_attempt=False)
    if spent >= limits.max_attempts:
        return GiveUp(Fault.TIMED_OUT if late else Fault.UNAVAILABLE)
    pause = max(asked, jitter * _longest_pause(history.attempts, limits))
    if history.spent_secs + pause >= limits.row_deadline_secs:
        return GiveUp(Fault.TIMED_OUT)
    return Retry(pause, costs_attempt=True)


def _longest_pause(before: int, limits: Limits) -> float:
    """The pause after an error, before its jitter: doubled for each error before it, up to the cap."""
    return min(limits.backoff_cap_secs, limits.backoff_secs * 2.0 ** min(before, 32))
