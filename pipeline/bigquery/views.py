"""The views that people query: one row a key. Made anew at every run, as a view keeps the columns it was made with."""

from __future__ import annotations

import re
from collections.abc import Sequence

from pipeline.bigquery import names
from pipeline.bigquery.client import Endpoint, explained, short_retry
from pipeline.bigquery.names import TableName
from pipeline.errors import ConfigError

_LATEST, _CURRENT, _OPEN = "_latest", "_current", "_failures_open"
_TAKEN = frozenset(name.removeprefix("_") for name in (_LATEST, _CURRENT, _OPEN, "_failures", "_runs"))
_LABEL = "fingerprint"
_IN_SQL = re.compile(r"WHERE fingerprint = '([A-Za-z0-9_-]+)'")


def latest_sql(answers: TableName, fingerprint: str | None = None, by: str = "key") -> str:
    """One row a (key, fingerprint), the newest answer; of one fingerprint only where it is given.

    `by` is the column of which there is one row each: an asset has a new key when it has new views.
    """
    mine = "TRUE" if fingerprint is None else f"fingerprint = '{names.token(fingerprint)}'"
    return (
        f"SELECT * FROM {answers.sql} WHERE {mine}\n"
        f"QUALIFY ROW_NUMBER() OVER (PARTITION BY {names.quoted(by)}, fingerprint "
        "ORDER BY classified_at DESC, run_id DESC) = 1"
    )


def failures_open_sql(answers: TableName, failures: TableName) -> str:
    """One row a (key, fingerprint) that has failures and no answer, the newest failure."""
    return (
        f"SELECT * FROM {failures.sql} AS failed\n"
        f"WHERE NOT EXISTS (SELECT 1 FROM {answers.sql} AS answered\n"
        "  WHERE answered.key = failed.key AND answered.fingerprint = failed.fingerprint)\n"
        "QUALIFY ROW_NUMBER() OVER (PARTITION BY key, fingerprint ORDER BY failed_at DESC, run_id DESC) = 1"
    )


def task_sql(
    answers: TableName,
    fingerprint: str,
    typed: Sequence[tuple[str, str, str]],
    columns: Sequence[str],
    by: str = "key",
) -> str:
    """One row a key, the newest answer of a fingerprint, with a typed column for each question.

    Args:
        answers: The answers table.
        fingerprint: Whose answers.
        typed: (name, BigQuery type, GoogleSQL expression over the JSON column `answer`) of each question.
        columns: The answers table's columns; one that has the name of a question gives way to it.
        by: The column of which there is one row each.
    """
    asked = {name.lower() for name, _, _ in typed}
    first = [names.quoted(name) for name in ("key", "gcs_uri")]
    rest = [names.quoted(name) for name in columns if name.lower() not in asked | {"key", "gcs_uri", "answer"}]
    questions = [f"{expression} AS {names.quoted(name)}" for name, _, expression in typed]
    newest = latest_sql(answers, fingerprint, by)
    return f"SELECT {', '.join([*first, *questions, *rest])}\nFROM (\n{newest}\n)"


def ensure_views(
    endpoint: Endpoint,
    answers: TableName,
    failures: TableName,
    fingerprint: str,
    *,
    promote: bool = False,
    by: str = "key",
) -> str:
    """Makes or renews `<answers>_latest`, `<answers>_current` and `<answers>_failures_open`.

    Args:
        endpoint: Where.
        answers: The answers table; the views lie beside it.
        failures: The failures table.
        fingerprint: The fingerprint of this run.
        promote: Makes it the one in production; otherwise it only becomes that when there is none yet.
        by: The column of which `<answers>_current` has one row each; of an asset, its own.

    Returns:
        The fingerprint in production, which `<answers>_current` shows.

    Raises:
        ConfigError: Something else has the name of a view, or it may not be made.
    """
    current = fingerprint if promote else current_fingerprint(endpoint, answers) or fingerprint
    ensure_plain_views(endpoint, answers, failures)
    if current == fingerprint:
        _ensure(
            endpoint,
            answers.beside(_CURRENT),
            latest_sql(answers, current, by),
            f"One row a {by}: the newest answer of the fingerprint in production; `classify --promote` changes it.",
            current,
        )
    return current


def ensure_plain_views(endpoint: Endpoint, answers: TableName, failures: TableName) -> None:
    """Makes or renews the views that show every fingerprint: `<answers>_latest` and `<answers>_failures_open`."""
    _ensure(
        endpoint,
        answers.beside(_LATEST),
        latest_sql(answers),
        "One row a key and fingerprint: the newest answer.",
    )
    _ensure(
        endpoint,
        answers.beside(_OPEN),
        failures_open_sql(answers, failures),
        "One row a key and fingerprint that has failed and has no answer.",
    )


def ensure_task_view(
    endpoint: Endpoint,
    answers: TableName,
    task: str,
    *,
    fingerprint: str,
    typed: Sequence[tuple[str, str, str]],
    columns: Sequence[str],
    promote: bool = False,
    by: str = "key",
) -> TableName:
    """Makes or renews `<answers>_<task>`: one row a key, with a typed column for each question of the task.

    Like `<answers>_current` it shows one fingerprint, the task's first, until another is promoted: an experiment with
    other questions neither changes its rows nor its columns.

    Args:
        endpoint: Where.
        answers: The answers table; the view lies beside it.
        task: Name of the task.
        fingerprint: The fingerprint of this run.
        typed: See `task_sql`.
        columns: The answers table's columns.
        promote: Makes it the one that the view shows.
        by: The column of which there is one row each; of an asset, its own.

    Raises:
        ConfigError: Something else has the name of the view, or it may not be made.
    """
    if task in _TAKEN:
        raise ConfigError(
            f"--task: a task called {task} would take the name of {answers.beside(f'_{task}')}; rename it"
        )
    view = answers.beside(f"_{task}")
    shown = None if promote else _shown_fingerprint(endpoint, view)
    if shown in (None, fingerprint):
        _ensure(
            endpoint,
            view,
            task_sql(answers, fingerprint, typed, columns, by),
            f"One row a {by}: the newest answer to the task {task}, a column for each question.",
            fingerprint,
        )
    return view


def current_fingerprint(endpoint: Endpoint, answers: TableName) -> str | None:
    """Returns the fingerprint in production, from the text of `<answers>_current`; None before the first run."""
    return _shown_fingerprint(endpoint, answers.beside(_CURRENT))


def _shown_fingerprint(endpoint: Endpoint, view: TableName) -> str | None:
    """The one fingerprint that a view shows; None where there is no such view."""
    from google.api_core.exceptions import NotFound

    with explained("--output_table", view), endpoint.client() as client:
        try:
            found = client.get_table(str(view), retry=short_retry())
        except NotFound:
            return None
    written = _IN_SQL.search(found.view_query or "")
    label: str | None = found.labels.get(_LABEL)  # the emulator does not give a view's text back
    return written.group(1) if written else label


def _ensure(endpoint: Endpoint, view: TableName, sql: str, description: str, fingerprint: str | None = None) -> None:
    from google.api_core.exceptions import Conflict
    from google.cloud import bigquery

    made = bigquery.Table(str(view))
    made.view_query = sql
    made.description = description
    made.labels = {} if fingerprint is None else {_LABEL: names.label_value(fingerprint)}
    with explained("--output_table", view), endpoint.client() as client:
        try:
            client.create_table(made)
        except Conflict:
            if client.get_table(str(view), retry=short_retry()).table_type != "VIEW":
                raise ConfigError(
                    f"--output_table: {view} is not a view, but a view of that name is needed; rename one of them"
                ) from None
            client.update_table(made, ["view_query", "description", "labels"])
