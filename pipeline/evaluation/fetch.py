"""Labels and outcomes out of BigQuery, for the few thousand rows that are labelled."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from pipeline.bigquery import inputs
from pipeline.bigquery.client import Endpoint, explained
from pipeline.bigquery.names import TableName, quoted
from pipeline.bigquery.query import Job, Query, run
from pipeline.bigquery.worklist import Source, input_query
from pipeline.evaluation.judging import Outcome
from pipeline.evaluation.truth import MAX_LABELS, LabelRows
from pipeline.task import Invalid, Task


def labels(
    endpoint: Endpoint, table: TableName, key_column: str, questions: Collection[str], job: Job | None = None
) -> LabelRows:
    """The labels in a table, as they are.

    Args:
        endpoint: Where.
        table: The table or view.
        key_column: Its column with the row's key.
        questions: Columns to read where they are there.
        job: Labels and limit of the query's bill.

    Raises:
        ConfigError: It does not exist, may not be read, or lies elsewhere than the input.
    """
    fields = inputs.inspect(endpoint, table, "--labels_table").fields
    columns = tuple(field.name for field in fields)
    wanted = [name for name in columns if name.lower() in questions and name != key_column]
    keys = [inputs.as_text(quoted(field.name), field.type) for field in fields if field.name == key_column]
    if not keys or not wanted:
        return LabelRows(str(table), key_column, columns, [])  # whoever checks them says what is missing
    selected = [f"{keys[0]} AS {quoted(key_column)}", *map(quoted, wanted)]  # a key as the input's own: text
    sql = f"SELECT {', '.join(selected)} FROM {table.sql} LIMIT {MAX_LABELS + 1}"
    with explained("--labels_table", table):
        return LabelRows(str(table), key_column, columns, run(endpoint, Query(sql), job))


def keys_in_input(endpoint: Endpoint, source: Source, job: Job | None = None) -> dict[str, str]:
    """The keys that the input really has, with what people call the row: the key itself, or the asset."""
    query = input_query(source)
    sql = f"SELECT key, wl_id FROM (\n{query.sql}\n)"
    return {str(row["key"]): str(row["wl_id"]) for row in run(endpoint, Query(sql, query.parameters), job)}


def outcomes(
    endpoint: Endpoint,
    *,
    answers: TableName,
    failures: TableName,
    fingerprint: str,
    keys: Mapping[str, str],
    task: Task,
    job: Job | None = None,
) -> list[Outcome]:
    """What became of these rows under a fingerprint, sorted by key; rows that were never asked are not there.

    The newest answer counts, and wins over failures; what was paid for a row is the sum over all of them.

    Args:
        endpoint: Where.
        answers: The answers table.
        failures: The failures table.
        fingerprint: What was asked.
        keys: The rows' keys, with what the outcomes are to call them.
        task: Whose answers they are.
        job: Labels and limit of the query's bill.
    """
    sql = f"""WITH paid AS (
  SELECT DISTINCT key, gcs_uri, TRUE AS is_answer, TO_JSON_STRING(answer) AS answer, CAST(NULL AS STRING) AS reason,
    cost_usd, classified_at AS `at`, run_id
  FROM {answers.sql} WHERE fingerprint = @fingerprint AND key IN UNNEST(@only_keys)
  UNION ALL
  SELECT DISTINCT key, gcs_uri, FALSE AS is_answer, CAST(NULL AS STRING) AS answer, reason,
    cost_usd, failed_at AS `at`, run_id
  FROM {failures.sql} WHERE fingerprint = @fingerprint AND key IN UNNEST(@only_keys)
)
SELECT *, SUM(cost_usd) OVER (PARTITION BY key) AS dollars,
  SUM(IF(cost_usd IS NULL, 1, 0)) OVER (PARTITION BY key) AS unpriced
FROM paid WHERE TRUE
QUALIFY ROW_NUMBER() OVER (PARTITION BY key ORDER BY is_answer DESC, `at` DESC, run_id DESC) = 1
ORDER BY key"""
    lines = run(endpoint, Query(sql, {"fingerprint": fingerprint, "only_keys": tuple(sorted(keys))}), job)
    found = []
    for line in lines:
        values = None
        if line["is_answer"]:
            parsed = task.parse(line["answer"] or "")
            if isinstance(parsed, Invalid) or parsed.values is None:
                raise ValueError(f"the answer of {line['key']} does not fit its own fingerprint: {parsed}")
            values = parsed.values
        cost = None if line["unpriced"] else line["dollars"]
        found.append(Outcome(keys[line["key"]], line["gcs_uri"], values, line["reason"], cost))
    return found
