"""The rows of a bundle, on their way to the answers or the failures table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

from pipeline.asking import Question
from pipeline.bigquery.write import RowWriter
from pipeline.rows import Answer, Failure, Reason, Usage


class Sink:
    """One bundle's rows on their way to a table.

    Args:
        writer: the process's writer of the table.
        question: what was asked.
        landed: told each row, for progress and for the budget.
        remembered: keeps the first error of BigQuery, for the launcher to explain.
    """

    def __init__(
        self,
        writer: RowWriter,
        question: Question,
        *,
        landed: Callable[[Answer | Failure], None],
        remembered: Callable[[], AbstractContextManager[None]],
    ) -> None:
        self._bundle = writer.bundle()
        self._question = question
        self._landed = landed
        self._remembered = remembered

    def add(self, row: Answer | Failure) -> None:
        """Hand a row to the writer's thread; waits only when BigQuery is far behind.

        Raises:
            WriteError: rows of this bundle could not be written for good.
        """
        self._landed(row)
        with self._remembered():
            self._bundle.append(row.row())

    def wait(self) -> list[Failure]:
        """Wait until BigQuery has acknowledged the bundle's rows.

        Returns:
            A failure, with the model's text, for each row that BigQuery itself refuses.

        Raises:
            WriteError: rows of this bundle could not be written for good.
        """
        with self._remembered():
            refused = self._bundle.wait()
        return [_rejected(each.row, each.error, self._question) for each in refused]


def _rejected(row: Mapping[str, Any], error: str, question: Question) -> Failure:
    """The failure of a row that BigQuery refuses: plain text only, so that it is not refused again."""
    plain = str(row.get("classification") or "").encode("ascii", "backslashreplace").decode()
    tokens = {
        name: int(row.get(name) or 0) for name in ("prompt_tokens", "output_tokens", "thoughts_tokens", "total_tokens")
    }
    return Failure(
        key=str(row["key"]).encode("utf-8", "replace").decode()[:1000],
        gcs_uri=None,
        task=question.task.name,
        fingerprint=question.fingerprint,
        reason=Reason.ROW_REJECTED,
        detail=error.encode("ascii", "backslashreplace").decode()[:1000],
        attempts=int(row.get("attempts") or 0),
        calls=int(row.get("calls") or row.get("attempts") or 0),
        usage=Usage(**tokens, cost_usd=row.get("cost_usd")),
        model=question.settings.model,
        classification=plain[:100_000] or None,
        run_id=question.run_id,
        failed_at=question.clock(),
        columns={},
    )


def settle(answers: Sink, failures: Sink) -> None:
    """Waits for both tables; an answer that BigQuery refuses becomes a failure."""
    for refused in answers.wait():
        failures.add(refused)
    failures.wait()
