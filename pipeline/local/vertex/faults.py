"""What the Vertex AI stand-in is told to do: its settings, its faults, its latency and its quota. Pure.

A fault's kind is one of these words, some with a value behind a colon:

    UNAVAILABLE, INTERNAL, ...   any gRPC status by name, as a plain error of that status
    IAM_PERMISSION_DENIED, SERVICE_DISABLED, BILLING_DISABLED, MODEL_NOT_FOUND, TOKEN_EXPIRED
                                 what no row can mend, with the ErrorInfo that Google sends
    IMAGE_NOT_FOUND, IMAGE_DENIED, IMAGE_INVALID
                                 this image alone
    hang                         no answer until the caller gives up
    slow:SECS                    an answer after SECS more
    reset                        the connection is closed under the call, and under its neighbours
    blocked[:REASON]             prompt_feedback.block_reason, by name or number; SAFETY
    finish:REASON                an answer cut off for a finish_reason, by name or number
    long:TOKENS                  the answer takes TOKENS output tokens; MAX_TOKENS where the limit is lower
    empty                        no candidate
    no_text                      a candidate without parts
    malformed_json, truncated_json, fenced_json, prose
                                 the right answer, spoilt
    wrong_label                  labels that are not in the list
    split_parts, thought_parts   the right answer, in several parts
    missing_key, doubled_key, unknown_key
                                 in an answer to several images: this image's entry
    no_usage                     the right answer, without usage_metadata
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import math
import random
import re
from collections.abc import Mapping
from fnmatch import translate
from typing import Any, Final

STATUSES: Final = {
    "CANCELLED": 1,
    "UNKNOWN": 2,
    "INVALID_ARGUMENT": 3,
    "DEADLINE_EXCEEDED": 4,
    "NOT_FOUND": 5,
    "ALREADY_EXISTS": 6,
    "PERMISSION_DENIED": 7,
    "RESOURCE_EXHAUSTED": 8,
    "FAILED_PRECONDITION": 9,
    "ABORTED": 10,
    "OUT_OF_RANGE": 11,
    "UNIMPLEMENTED": 12,
    "INTERNAL": 13,
    "UNAVAILABLE": 14,
    "DATA_LOSS": 15,
    "UNAUTHENTICATED": 16,
}
"""gRPC status codes by name; https://grpc.io/docs/guides/status-codes/."""

RUN_FAULTS: Final = (
    "IAM_PERMISSION_DENIED",
    "SERVICE_DISABLED",
    "BILLING_DISABLED",
    "MODEL_NOT_FOUND",
    "TOKEN_EXPIRED",
)
IMAGE_FAULTS: Final = ("IMAGE_NOT_FOUND", "IMAGE_DENIED", "IMAGE_INVALID")
ANSWER_FAULTS: Final = (
    "blocked",
    "finish",
    "long",
    "empty",
    "no_text",
    "malformed_json",
    "truncated_json",
    "fenced_json",
    "prose",
    "wrong_label",
    "split_parts",
    "thought_parts",
    "missing_key",
    "doubled_key",
    "unknown_key",
    "no_usage",
)
CALL_FAULTS: Final = ("hang", "slow", "reset")
KINDS: Final = frozenset((*STATUSES, *RUN_FAULTS, *IMAGE_FAULTS, *ANSWER_FAULTS, *CALL_FAULTS))
_WITH_VALUE: Final = frozenset(("slow", "finish", "long"))
_P99_SIGMAS: Final = 2.3263478740408408
"""The 99th percentile of the standard normal distribution."""


def check_kind(kind: str) -> str:
    """The kind itself, if it is one.

    Raises:
        ValueError: The word is unknown, or its value is missing or none is taken.
    """
    word, colon, value = kind.partition(":")
    if word not in KINDS:
        raise ValueError(f"unknown fault kind {kind!r}; known are {', '.join(sorted(KINDS))}")
    if (word in _WITH_VALUE and not value) or (colon and word not in {*_WITH_VALUE, "blocked"}):
        raise ValueError(f"fault kind {kind!r}: a value belongs to {', '.join(sorted(_WITH_VALUE))} and blocked alone")
    if word in {"slow", "long"}:
        float(value)
    return kind


@dataclasses.dataclass(frozen=True, slots=True)
class Fault:
    """What happens to the calls that name an image.

    Attributes:
        kind: See the module's docstring.
        match: Shell pattern for the whole gs:// URI; `*` also crosses slashes.
        first: Only the first so many calls that name this URI; None is all of them.
    """

    kind: str
    match: str = "*"
    first: int | None = None

    def __post_init__(self) -> None:
        check_kind(self.kind)

    def hits(self, uri: str, call: int) -> bool:
        """Whether it strikes the `call`-th call (from 1) that names `uri`."""
        return (self.first is None or call <= self.first) and _pattern(self.match)(uri) is not None


@functools.lru_cache(maxsize=1024)
def _pattern(match: str) -> Any:
    return re.compile(translate(match)).match


@dataclasses.dataclass(frozen=True, slots=True)
class Settings:
    """How the stand-in behaves; all of it can be changed while it runs.

    Attributes:
        answers: "pixels" opens the images; "fixed" opens nothing and answers at once with the schema's first choice.
        latency_secs: Seconds from a call to its answer; the median where `latency_p99_secs` is set.
        latency_p99_secs: Makes the latency log-normal with this 99th percentile, the same sequence in every run.
        requests_per_sec: Quota; above it a call is refused with RESOURCE_EXHAUSTED. None is no quota.
        tokens_per_min: Quota in tokens, input and output.
        burst_secs: So many seconds of unused quota are kept.
        retry_info_secs: The RetryInfo.retry_delay of such a refusal; None sends none.
        rates: Share of all calls, by fault kind, struck at random (the same sequence in every run).
        faults: Faults by image, the first that hits counts.
        run_fault: Fault kind that strikes every call from the `run_fault_from_call`-th (from 1) on.
        noise: Share of the (URI, question) pairs that get a wrong answer; see `is_noisy`.
        noise_seed: Another seed makes other pairs wrong.
        project: The only project that may ask; None is any.
        locations: The only locations there are; empty is all that Google has.
        extra_models: Models that exist beside those known to the stand-in, by name.
        check_tokens: Whether a call must carry an access token that this stand-in has issued.
        token_lifetime_secs: Lifetime of the tokens that it issues.
        keep_log: Whether each call is kept for `log()`.
    """

    answers: str = "pixels"
    latency_secs: float = 0.0
    latency_p99_secs: float | None = None
    requests_per_sec: float | None = None
    tokens_per_min: float | None = None
    burst_secs: float = 1.0
    retry_info_secs: float | None = None
    rates: Mapping[str, float] = dataclasses.field(default_factory=dict)
    faults: tuple[Fault, ...] = ()
    run_fault: str | None = None
    run_fault_from_call: int = 1
    noise: float = 0.0
    noise_seed: str = "noise"
    project: str | None = None
    locations: tuple[str, ...] = ()
    extra_models: tuple[str, ...] = ()
    check_tokens: bool = False
    token_lifetime_secs: float = 3600.0
    keep_log: bool = True

    def __post_init__(self) -> None:
        if self.answers not in {"pixels", "fixed"}:
            raise ValueError(f'answers is "pixels" or "fixed", not {self.answers!r}')
        if self.latency_p99_secs is not None and self.latency_p99_secs < self.latency_secs:
            raise ValueError(f"latency_p99_secs {self.latency_p99_secs} is less than the median {self.latency_secs}")
        for kind in (*self.rates, *([self.run_fault] if self.run_fault else [])):
            check_kind(kind)
        if sum(self.rates.values()) > 1:
            raise ValueError(f"rates add up to {sum(self.rates.values())}, more than all calls")

    def changed(self, changes: Mapping[str, Any]) -> Settings:
        """These settings with `changes`, which may come from JSON.

        Raises:
            ValueError: A name or a value is unknown.
        """
        values = dict(changes)
        unknown = values.keys() - {field.name for field in dataclasses.fields(self)}
        if unknown:
            raise ValueError(f"unknown settings: {', '.join(sorted(unknown))}")
        for name in ("locations", "extra_models"):
            if name in values:
                values[name] = tuple(values[name])
        if "faults" in values:
            faults = values["faults"]
            values["faults"] = tuple(fault if isinstance(fault, Fault) else Fault(**fault) for fault in faults)
        return dataclasses.replace(self, **values)

    @property
    def mean_latency_secs(self) -> float:
        """What the latency comes to on average: a window of W calls can land W / mean a second."""
        return self.latency_secs * math.exp(self._sigma**2 / 2)

    @property
    def _sigma(self) -> float:
        if not self.latency_p99_secs or not self.latency_secs:
            return 0.0
        return math.log(self.latency_p99_secs / self.latency_secs) / _P99_SIGMAS

    def latency(self, rng: random.Random) -> float:
        """Seconds that the next answer takes."""
        sigma = self._sigma
        return self.latency_secs * math.exp(rng.gauss(0.0, sigma)) if sigma else self.latency_secs

    def at_random(self, rng: random.Random) -> str | None:
        """The fault kind that strikes the next call by `rates`, or None."""
        if not self.rates:
            return None
        dice = rng.random()
        for kind, share in self.rates.items():
            dice -= share
            if dice < 0:
                return kind
        return None


def is_noisy(uri: str, question: str, settings: Settings) -> bool:
    """Whether the stand-in answers `question` (a property of the schema) wrongly for `uri` on purpose.

    A share `settings.noise` of all pairs is, decided by a hash: an evaluation can count the same pairs by itself.
    """
    if settings.noise <= 0:
        return False
    digest = hashlib.blake2b(f"{settings.noise_seed}\n{uri}\n{question}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64 < settings.noise


class Quota:
    """A token bucket: `per_sec` units a second, of which `burst_secs` seconds' worth are kept when unused."""

    def __init__(self, per_sec: float, burst_secs: float, now: float) -> None:
        self._per_sec = per_sec
        self._size = max(per_sec * burst_secs, 1.0)
        self._left = self._size
        self._at = now

    def take(self, units: float, now: float) -> bool:
        """Takes `units` if there are as many, or any at all where the bucket is too small for them."""
        self._left = min(self._size, self._left + (now - self._at) * self._per_sec)
        self._at = now
        if self._left < min(units, self._size):
            return False
        self._left -= units
        return True
