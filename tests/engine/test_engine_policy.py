"""What is final, what is tried again, what costs an attempt: the whole policy as one table."""

from __future__ import annotations

import pytest

from pipeline.engine import CallError, Fault, GiveUp, History, Limits, Retry, RunFault, decide

LIMITS = Limits()
FIRST = History()
LAST = History(attempts=LIMITS.max_attempts - 1)
OUT = History(attempts=1, outage=True)
ALMOST_LATE = History(attempts=1, spent_secs=LIMITS.row_deadline_secs - 0.5)
LONG_REJECTED = History(rejections=40, rate_limited_secs=LIMITS.rate_limited_secs)
REFRESHED = History(attempts=1, refreshed=True)
LAST_REFRESHED = History(attempts=LIMITS.max_attempts - 1, refreshes=1)

TRANSIENT = ("UNAVAILABLE", "INTERNAL", "ABORTED", "CANCELLED", "UNKNOWN", "DATA_LOSS", "A_NEW_STATUS")
SUSPECT = {
    "INVALID_ARGUMENT": Fault.INVALID,
    "OUT_OF_RANGE": Fault.INVALID,
    "FAILED_PRECONDITION": Fault.INVALID,
    "UNIMPLEMENTED": Fault.INVALID,
    "ALREADY_EXISTS": Fault.INVALID,
    "NOT_FOUND": Fault.NOT_FOUND,
    "PERMISSION_DENIED": Fault.DENIED,
}


def asked(code: str, history: History, jitter: float = 0.5, **details: object) -> object:
    return decide(CallError(code, "words", **details), history, LIMITS, jitter)  # type: ignore[arg-type]


TABLE = [
    *[(code, FIRST, Retry(0.5, costs_attempt=True)) for code in TRANSIENT],
    *[(code, LAST, GiveUp(Fault.UNAVAILABLE)) for code in TRANSIENT],
    *[(code, OUT, Retry(4.0, costs_attempt=False)) for code in TRANSIENT],
    *[(code, ALMOST_LATE, GiveUp(Fault.TIMED_OUT)) for code in TRANSIENT],
    ("DEADLINE_EXCEEDED", FIRST, Retry(0.5, costs_attempt=True)),
    ("DEADLINE_EXCEEDED", LAST, GiveUp(Fault.TIMED_OUT)),
    ("DEADLINE_EXCEEDED", OUT, Retry(1.0, costs_attempt=True)),
    ("DEADLINE_EXCEEDED", ALMOST_LATE, GiveUp(Fault.TIMED_OUT)),
    *[(code, FIRST, GiveUp(fault, suspect=True)) for code, fault in SUSPECT.items()],
    *[(code, OUT, GiveUp(fault, suspect=True)) for code, fault in SUSPECT.items()],
    ("RESOURCE_EXHAUSTED", FIRST, Retry(0.5, costs_attempt=False)),
    ("RESOURCE_EXHAUSTED", LAST, Retry(0.5, costs_attempt=False)),
    ("RESOURCE_EXHAUSTED", ALMOST_LATE, Retry(0.5, costs_attempt=False)),
    ("RESOURCE_EXHAUSTED", LONG_REJECTED, GiveUp(Fault.RATE_LIMITED)),
    ("UNAUTHENTICATED", FIRST, Retry(0.0, costs_attempt=True, refresh=True)),
    ("UNAUTHENTICATED", REFRESHED, RunFault("UNAUTHENTICATED: words")),
    ("UNAUTHENTICATED", LAST, Retry(0.0, costs_attempt=False, refresh=True)),
    ("UNAUTHENTICATED", LAST_REFRESHED, GiveUp(Fault.UNAVAILABLE)),
]


@pytest.mark.parametrize(("code", "history", "decision"), TABLE)
def test_each_status_has_its_decision(code: str, history: History, decision: object) -> None:
    assert asked(code, history) == decision


@pytest.mark.parametrize("code", ["PERMISSION_DENIED", "UNAUTHENTICATED", "FAILED_PRECONDITION", "NOT_FOUND"])
@pytest.mark.parametrize(
    "reason",
    [
        "SERVICE_DISABLED",
        "BILLING_DISABLED",
        "CONSUMER_INVALID",
        "CONSUMER_SUSPENDED",
        "USER_PROJECT_DENIED",
        "ACCOUNT_STATE_INVALID",
        "ACCESS_TOKEN_SCOPE_INSUFFICIENT",
        "ACCESS_TOKEN_TYPE_UNSUPPORTED",
        "API_KEY_INVALID",
    ],
)
def test_a_reason_that_concerns_the_project_is_the_runs_fault_at_once(code: str, reason: str) -> None:
    decision = asked(code, FIRST, reason=reason)
    assert decision == RunFault(f"{code} ({reason}): words")


def test_an_expired_token_is_refreshed_once_whatever_the_status() -> None:
    assert asked("PERMISSION_DENIED", FIRST, reason="ACCESS_TOKEN_EXPIRED") == Retry(0.0, True, refresh=True)
    assert isinstance(asked("UNAUTHENTICATED", REFRESHED, reason="ACCESS_TOKEN_EXPIRED"), RunFault)


def test_a_row_with_one_attempt_has_it_with_a_token_that_works() -> None:
    error = CallError("UNAUTHENTICATED", "words")
    once = Limits(max_attempts=1)
    assert decide(error, FIRST, once, 0.5) == Retry(0.0, costs_attempt=False, refresh=True)
    assert decide(error, History(refreshed=True, refreshes=1), once, 0.5) == RunFault("UNAUTHENTICATED: words")


def test_permission_of_one_resource_is_a_suspect_not_the_runs_fault() -> None:
    assert asked("PERMISSION_DENIED", FIRST, reason="IAM_PERMISSION_DENIED") == GiveUp(Fault.DENIED, suspect=True)


def test_a_message_that_is_too_large_is_not_taken_for_quota() -> None:
    error = CallError("RESOURCE_EXHAUSTED", "Sent message larger than max (9000000 vs. 4194304)")
    assert decide(error, FIRST, LIMITS, 0.5) == GiveUp(Fault.INVALID, suspect=True)


@pytest.mark.parametrize("code", ["UNAVAILABLE", "RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED"])
def test_no_delay_is_shorter_than_what_the_server_asked_for(code: str) -> None:
    decision = asked(code, FIRST, jitter=0.0, retry_delay_secs=7.5)
    assert isinstance(decision, Retry)
    assert decision.delay_secs == 7.5


def test_a_delay_beyond_the_time_a_row_has_for_quota_ends_it() -> None:
    assert asked("RESOURCE_EXHAUSTED", FIRST, retry_delay_secs=4000.0) == GiveUp(Fault.RATE_LIMITED)


@pytest.mark.parametrize(("before", "longest"), [(0, 1.0), (1, 2.0), (2, 4.0), (3, 8.0), (10, 60.0), (10_000, 60.0)])
def test_pauses_double_up_to_the_cap_with_full_jitter(before: int, longest: float) -> None:
    patient = Limits(max_attempts=100_000)
    history = History(attempts=before)
    error = CallError("UNAVAILABLE", "")
    delays = [decide(error, history, patient, jitter) for jitter in (0.0, 0.25, 0.999)]
    assert delays == [Retry(longest * jitter, costs_attempt=True) for jitter in (0.0, 0.25, 0.999)]
    rejected = decide(CallError("RESOURCE_EXHAUSTED", ""), History(rejections=before), patient, 0.25)
    assert rejected == Retry(longest * 0.25, costs_attempt=False)


@pytest.mark.parametrize("field", ["max_in_flight", "max_attempts", "call_timeout_secs", "row_deadline_secs"])
def test_limits_must_be_positive(field: str) -> None:
    with pytest.raises(ValueError, match=f"Limits.{field} is 0"):
        Limits(**{field: 0})
