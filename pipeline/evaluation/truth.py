"""True answers, as people wrote them into a table or a CSV file, checked against the task's questions. Pure."""

from __future__ import annotations

import collections
import csv
import dataclasses
import decimal
import hashlib
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pipeline.errors import ConfigError
from pipeline.task import Task
from pipeline.task.answers import read_json
from pipeline.task.base import Question, Read, WrongValueError
from pipeline.task.labels import Boxes, LabelSet
from pipeline.task.values import Text

MAX_LABELS = 50_000
"""Labelled keys at most: they travel as one query parameter, and BigQuery takes a query of 10 MB with its parameters."""

_UNLABELLED = object()


@dataclasses.dataclass(frozen=True, slots=True)
class LabelRows:
    """Labels as they were found, not yet checked.

    Attributes:
        name: the table or file, for messages.
        key_column: column with the row's key.
        columns: all columns.
        rows: a mapping from column to value each; cells of a CSV file are text, an empty one is null.
    """

    name: str
    key_column: str
    columns: tuple[str, ...]
    rows: Sequence[Mapping[str, Any]]
    from_csv: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class Truth:
    """The true answers.

    Attributes:
        questions: the questions that have labels, in the task's order.
        rows: key to question to true value, None where null is the right answer; a question that is not labelled
            in a row is not there.
        ignored: columns that are no questions.
    """

    questions: tuple[str, ...]
    rows: Mapping[str, Mapping[str, Any]]
    ignored: tuple[str, ...] = ()

    def limited(self, count: int | None) -> Truth:
        """At most so many rows: those whose keys have the smallest hashes, the same ones every time."""
        if count is None or count >= len(self.rows):
            return self
        keys = sorted(self.rows, key=lambda key: hashlib.sha256(key.encode()).digest())[:count]
        return dataclasses.replace(self, rows={key: self.rows[key] for key in keys})

    def only(self, questions: Iterable[str]) -> Truth:
        """The labels of these questions alone; rows that have none of them are left out."""
        kept = [name for name in self.questions if name in set(questions)]
        rows = {key: {name: row[name] for name in kept if name in row} for key, row in self.rows.items()}
        return Truth(tuple(kept), {key: row for key, row in rows.items() if row}, self.ignored)


def read_csv(text: str, name: str, key_column: str) -> LabelRows:
    """The rows of a CSV file with a header line; spaces around names and keys are left out.

    Raises:
        ConfigError: no header, one with a name twice, no key column, or a line with more or fewer cells than the header.
    """
    reader = csv.reader(io.StringIO(text.removeprefix("\ufeff"), newline=""), strict=True)
    rows: list[Mapping[str, Any]] = []
    try:
        columns = tuple(" ".join(cell.split()) for cell in next(reader, []))
        _check_columns(name, columns, key_column)
        for cells in reader:
            if not cells:  # an empty line
                continue
            if len(cells) != len(columns):
                raise ConfigError(
                    f"{name}, line {reader.line_num}: {len(cells)} cells, but the header has {len(columns)}; a text with "
                    "commas goes in double quotes"
                )
            row = {column: cell if cell.strip() else None for column, cell in zip(columns, cells, strict=True)}
            rows.append(row | {key_column: (row[key_column] or "").strip()})
    except csv.Error as error:
        raise ConfigError(f"{name}, line {reader.line_num}: not CSV: {error}") from error
    return LabelRows(name, key_column, columns, rows, from_csv=True)


def check(found: LabelRows, task: Task) -> Truth:
    """The labels as the task's own values.

    Null means "null is right" for an optional question, and "not labelled" for another; an empty cell of a CSV file
    under a question of type string means an empty text.

    Raises:
        ConfigError: no column is a question, a value is not an answer to its question, a row has no key, or a key is
            labelled twice, differently. The message names the row.
    """
    _check_columns(found.name, found.columns, found.key_column)
    if task.is_free_text:
        raise ConfigError(f"task {task.name} asks for free text, which has no right answer to compare with")
    columns = {column.lower(): column for column in found.columns if column != found.key_column}  # BigQuery has no case
    questions = {name: question for name, question in task.questions.items() if name in columns}
    if not questions:
        raise ConfigError(
            f"{found.name}: no column has the name of a question of task {task.name}; its questions are "
            f"{', '.join(task.questions)}, the columns are {', '.join(found.columns)}"
        )
    readers = {name: _reader(question, found.from_csv) for name, question in questions.items()}
    rows: dict[str, dict[str, Any]] = {}
    for place, row in enumerate(found.rows, start=1):
        key = row[found.key_column]
        if key is None or not str(key).strip():
            raise ConfigError(f"{found.name}, row {place}: {found.key_column} is empty; each label needs the row's key")
        key = str(key)
        shown = key if key.isprintable() else repr(key)
        values: dict[str, Any] = {}
        for name, read in readers.items():
            try:
                value = read(row.get(columns[name]))
            except WrongValueError as wrong:
                raise ConfigError(f"{found.name}, row {place} ({found.key_column} {shown}): {name}: {wrong}") from wrong
            if value is not _UNLABELLED:
                values[name] = value
        if key in rows and rows[key] != values:
            raise ConfigError(f"{found.name}, row {place}: {shown} is labelled twice, differently")
        if values:
            rows[key] = values
    _check_count(found.name, len(rows))
    labelled = {name for values in rows.values() for name in values}
    ignored = tuple(column for name, column in columns.items() if name not in questions)
    return Truth(tuple(name for name in questions if name in labelled), rows, ignored)


def _check_columns(name: str, columns: Sequence[str], key_column: str) -> None:
    if key_column not in columns:
        raise ConfigError(
            f"--label_key_column={key_column}: {name} has no such column; it has {', '.join(columns) or 'none'}"
        )
    twice = [column for column, count in collections.Counter(map(str.lower, columns)).items() if count > 1]
    if twice:
        raise ConfigError(f"{name}: its header has {twice[0]} twice")


def _check_count(name: str, count: int) -> None:
    if count == 0:
        raise ConfigError(f"{name}: it has no labels")
    if count > MAX_LABELS:
        raise ConfigError(f"{name}: {count:,} labelled rows are more than {MAX_LABELS:,}; label a sample")


def _reader(question: Question, from_csv: bool) -> Read:
    """A function from a cell to the true value, or to `_UNLABELLED`."""
    read = question.reader()
    optional = getattr(question, "optional", False)

    def value(cell: Any) -> Any:
        if cell is None:
            empty = "" if from_csv and isinstance(question, Text) else _UNLABELLED
            return None if optional else empty
        if isinstance(cell, decimal.Decimal):
            cell = int(cell) if cell == cell.to_integral_value() else float(cell)
        if isinstance(question, LabelSet | Boxes) and isinstance(cell, str):
            cell = _list(cell, question)
        return read(cell)

    return value


def _list(cell: str, question: Question) -> Any:
    """A list that was written as text: JSON, or labels with commas or semicolons between them."""
    if cell.lstrip().startswith("["):
        try:
            return read_json(cell)
        except WrongValueError as error:
            raise WrongValueError("it is not a JSON list") from error
    if isinstance(question, Boxes):
        raise WrongValueError("it is not a JSON list")
    return [part for part in (word.strip() for word in cell.replace(";", ",").split(",")) if part]
