"""The images of one row as they are sent inline; or why they could not be read."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from pipeline.engine.call import CallError
from pipeline.gemini.request import Inline
from pipeline.rows import Answer, Failure, Observation, Reason

Outcome = Answer | Failure


@dataclasses.dataclass(frozen=True, slots=True)
class Problem:
    """Why an image cannot be sent.

    `error` is what the engine is told where the fault may be the run's, as when Cloud Storage denies an image: then its
    retries and its circuit breaker see to it. None is the image's own fault, and the row fails at once.
    """

    reason: Reason
    detail: str
    error: CallError | None = None


class ImageError(Exception):
    """An image that cannot be sent; `problem` says why."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.detail)
        self.problem = problem


class Picture:
    """What is sent for one row: its image, or those of its asset.

    Attributes:
        row: whose.
        inline: types and bytes; empty while they could not be read.
        problem: why not.
        digest: of all that makes the request for this row; empty where there is none.
        tell: told what became of the row, and None when the picture goes; the first counts.
        free: called when the picture goes: its bytes are free.
    """

    __slots__ = ("_problem_told", "digest", "free", "inline", "problem", "row", "tell")

    def __init__(
        self,
        row: Observation,
        inline: tuple[Inline, ...] = (),
        *,
        problem: Problem | None = None,
        digest: bytes = b"",
        free: Callable[[], None] | None = None,
    ) -> None:
        self.row = row
        self.inline = inline
        self.problem = problem
        self.digest = digest
        self.free = free
        self.tell: Callable[[Outcome | None], None] | None = None
        self._problem_told = False

    def first_problem(self) -> Problem | None:
        """The problem, the first time that it is asked for; after that None: it is to be read anew."""
        problem = None if self._problem_told else self.problem
        self._problem_told = True
        return problem

    def take(self, read: Picture) -> None:
        """It was read anew, with this result."""
        self.inline, self.problem = read.inline, read.problem
        self.free, read.free = read.free, None

    def landed(self, outcome: Outcome) -> None:
        """The row has an outcome."""
        if self.tell is not None:
            self.tell(outcome)

    def __del__(self) -> None:
        # Jobs are dropped in many places when a bundle fails or a run ends; this is the one that all of them come to.
        if self.tell is not None:
            self.tell(None)
        if self.free is not None:
            self.free()
