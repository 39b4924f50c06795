"""From a job's output lines to outcomes: each row by its own line, whatever the order, once. Pure but for the engine's lane."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator

from pipeline.asking import Ask, Question
from pipeline.batch import lines
from pipeline.batch.lines import Result
from pipeline.engine.call import Again, CallError, Fault, Landed, Step
from pipeline.rows import Answer, Failure, Observation

TRAFFIC_TYPE = "BATCH"


def priced_as_batch(question: Question) -> Question:
    """The same question at the batch rate; its fingerprint is the same, as a tier changes no answer."""
    return dataclasses.replace(question, settings=dataclasses.replace(question.settings, service_tier="batch"))


class Open:
    """The rows of a file that still want an outcome.

    Args:
        question: what was asked.
        rows: the rows; each key once.
    """

    def __init__(self, question: Question, rows: Iterable[Observation]) -> None:
        self._question = question
        self._rows = {row.key: row for row in rows}
        self._keys_by_asked: dict[str, list[str]] | None = None

    def __len__(self) -> int:
        return len(self._rows)

    def find(self, result: Result) -> Observation | None:
        """The row that a line is about; None when it has its outcome already, or was never asked here."""
        if result.key is not None:
            return self._rows.get(result.key)
        if self._keys_by_asked is None:
            self._keys_by_asked = self._by_asked()
        keys = self._keys_by_asked.get(result.asked, [])
        while keys and keys[-1] not in self._rows:
            keys.pop()
        return self._rows[keys[-1]] if keys else None

    def close(self, row: Observation) -> None:
        """The row has its outcome."""
        del self._rows[row.key]

    def _by_asked(self) -> dict[str, list[str]]:
        """Only where the service does not keep keys: every request is built once more."""
        found: dict[str, list[str]] = {}
        builder = self._question.builder
        for row in self._rows.values():
            found.setdefault(lines.what_is_asked(builder.message(builder.build([row]))), []).append(row.key)
        return found


@dataclasses.dataclass(slots=True)
class Tally:
    """What became of a job's lines: those used, doubled ones (or of rows that had an outcome), and unreadable ones."""

    used: int = 0
    doubled: int = 0
    unreadable: int = 0


def settled(
    question: Question, rows: Open, output: Iterable[Result | None], latency_ms: float, tally: Tally
) -> Iterator[tuple[Ask, Step]]:
    """Each row that a job has an answer or an error for, with what to make of it by the code of online calls.

    A row with several lines takes the first response, and an error only when no line has a response. Rows without a line
    are left open.

    Args:
        question: at the price of a batch.
        rows: the open rows of the job's file; those that are settled are closed.
        output: the job's lines, None for one that cannot be read.
        latency_ms: what the job took.
        tally: counts the lines.
    """
    errors: dict[str, tuple[Observation, CallError]] = {}
    for result in output:
        if result is None:
            tally.unreadable += 1
            continue
        row = rows.find(result)
        if row is None:
            tally.doubled += 1
        elif result.error is not None:
            errors[row.key] = (row, result.error)
        else:
            rows.close(row)
            tally.used += 1
            ask = _ask(question, row)
            yield ask, ask.answered(result.response, latency_ms, 0, 0)
    for row, error in errors.values():
        if rows.find(Result(row.key, "", None, error)) is not None:
            rows.close(row)
            tally.used += 1
            ask = _ask(question, row)
            yield ask, ask.failed(lines.fault(error), error, 0, 0)


def _ask(question: Question, row: Observation) -> Ask:
    """One call has been made already: the job's."""
    return Ask(question, (row,), attempts=1, calls=1)


def outcomes(step: Step) -> tuple[Answer | Failure, ...]:
    """The outcomes of a step, marked as a batch's."""
    if isinstance(step, Again):
        return ()
    return tuple(
        dataclasses.replace(each, traffic_type=TRAFFIC_TYPE) if isinstance(each, Answer) else each
        for each in step.outcomes
    )


def given_up(ask: Ask, reason: str) -> tuple[Answer | Failure, ...]:
    """The failure of a row whose answer would need a second call that may not be made; what the first one cost is kept."""
    step = ask.failed(Fault.UNAVAILABLE, CallError("CANCELLED", f"it was not asked a second time: {reason}"), 0, 0)
    return step.outcomes if isinstance(step, Landed) else ()
