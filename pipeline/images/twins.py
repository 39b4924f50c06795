"""Rows whose requests are the same, byte for byte: the first is asked, and the others share what becomes of it. Pure."""

from __future__ import annotations

import dataclasses
import threading
from collections import OrderedDict
from collections.abc import Callable

from pipeline.asking import Question
from pipeline.asking.picture import Outcome
from pipeline.rows import Answer, Failure, Observation, Usage

REMEMBERED = 10_000
"""Outcomes that a process remembers, those used last; about 2 KB each."""
_LONGEST_TEXT = 4_000  # characters of an answer that is remembered, so that memory is bounded: 50 MB at the very most

Told = Callable[[Outcome | None], None]


class Lead:
    """The row that is asked for all its twins; `settle` is its picture's `tell`."""

    __slots__ = ("_digest", "_twins", "followers")

    def __init__(self, twins: Twins, digest: bytes) -> None:
        self.followers: list[Told] = []
        self._twins = twins
        self._digest = digest

    def settle(self, outcome: Outcome | None) -> None:
        """What became of it, or None: nothing. The first word counts."""
        self._twins.settle(self._digest, self, outcome)


class Twins:
    """What is known of the requests of a process, by their digests; thread-safe.

    Args:
        lock: the pool's own. A picture may be collected, and so be told of here and there, wherever either is held.
        remembered: how many outcomes.
    """

    def __init__(self, lock: threading.Condition, remembered: int = REMEMBERED) -> None:
        self._lock = lock
        self._remembered = remembered
        self._known: OrderedDict[bytes, Outcome] = OrderedDict()
        self._asked: dict[bytes, Lead] = {}

    def meet(self, digest: bytes, told: Told) -> Outcome | Lead | None:
        """A row with this request has come.

        Returns:
            What became of a twin; or a `Lead`: this row is to be asked; or None: a twin is being asked, and `told` will be
            called, from any thread, with its outcome, or with None when that says nothing of this row.
        """
        with self._lock:
            known = self._known.get(digest)
            if known is not None:
                self._known.move_to_end(digest)
                return known
            lead = self._asked.get(digest)
            if lead is None:
                lead = self._asked[digest] = Lead(self, digest)
                return lead
            lead.followers.append(told)
            return None

    def settle(self, digest: bytes, lead: Lead, outcome: Outcome | None) -> None:
        """The lead has landed, or is gone. An error that may pass says nothing of its twins: they are asked themselves."""
        shared = outcome if outcome is not None and _says_all(outcome) else None
        with self._lock:
            if self._asked.get(digest) is not lead:
                return
            del self._asked[digest]
            if shared is not None and len(_text(shared)) <= _LONGEST_TEXT:
                self._known[digest] = shared
                while len(self._known) > self._remembered:
                    self._known.popitem(last=False)
            followers, lead.followers = lead.followers, []
        for told in followers:
            told(shared)


def share(outcome: Outcome, row: Observation, question: Question) -> Outcome:
    """The outcome of a twin as the row's own: it cost nothing, and says whose it was.

    A row that is its own twin, in a bundle that is run again, gets its outcome as it was: it was paid once, and the books
    count it once.
    """
    if outcome.key == row.key:
        return outcome
    usage = Usage(cost_usd=None if outcome.usage.cost_usd is None else 0.0)
    if isinstance(outcome, Failure):
        detail = f"the same image as {outcome.key}: {outcome.detail}"
        return question.failure(
            row, outcome.reason, detail, attempts=0, calls=0, usage=usage, text=outcome.classification
        )
    return dataclasses.replace(
        outcome,
        key=row.key,
        gcs_uri=row.gcs_uri or "",
        columns=question.kept(row),
        usage=usage,
        latency_ms=None,
        attempts=0,
        classified_at=question.clock(),
        shared_with=outcome.key,
    )


def _says_all(outcome: Outcome) -> bool:
    """Whether it holds for every row with the same request."""
    return isinstance(outcome, Answer) or not outcome.reason.retryable


def _text(outcome: Outcome) -> str:
    return outcome.classification or ""
