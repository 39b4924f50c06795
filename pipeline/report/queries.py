"""The report's SQL. Pure: each function gives one query, whose result is small however many rows were answered.

All of them see the same rows: `paid`, every line that was written (one that was appended twice counts once), and
`newest`, one line a key, the newest answer, which is what people mean by the answer.
"""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.bigquery.query import Query
from pipeline.report.scope import Question, Scope

MAX_VALUES = 24  # most frequent values of a question that are shown
BINS = 24  # of a histogram with even steps
BINS_PER_DECADE = 8  # of one over powers of ten
MAX_SPOTS = 5000  # circles on the map: about 200 bytes each
EXACT_PLACES = 1500  # up to so many answers each stands where it is; more are joined in cells
MAX_TEXT = 600  # characters of a model's text in the table
EXAMPLES = 3  # of each reason of failure

MEASURES = ("latency_ms", "prompt_tokens", "output_tokens", "thoughts_tokens", "total_tokens", "cost_usd", "attempts")
_VALUE_KINDS = ("label", "labels", "boolean", "integer", "string")
_LISTS = ("labels",)


def totals(scope: Scope) -> Query:
    """One row: keys, lines, tokens, dollars and times."""
    return _query(
        scope,
        """SELECT
  COUNTIF(is_answer) AS answer_lines,
  COUNT(DISTINCT IF(is_answer, key, NULL)) AS answered,
  COUNTIF(NOT is_answer) AS failure_lines,
  COUNT(DISTINCT key) AS keys,
  COUNT(cost_usd) AS priced,
  SUM(cost_usd) AS cost_usd,
  SUM(IF(is_answer, NULL, cost_usd)) AS failures_usd,
  SUM(prompt_tokens) AS prompt_tokens,
  SUM(output_tokens) AS output_tokens,
  SUM(thoughts_tokens) AS thoughts_tokens,
  SUM(total_tokens) AS total_tokens,
  COUNTIF(is_answer AND attempts > 1) AS asked_again,
  MIN(`at`) AS first_at,
  MAX(`at`) AS last_at
FROM paid""",
    )


def places(scope: Scope) -> Query:
    """One row: answers with a place, and the bounds of these; the scope has places."""
    return _query(
        scope,
        f"""SELECT COUNT(*) AS located, MIN(latitude) AS south, MAX(latitude) AS north,
  MIN(longitude) AS west, MAX(longitude) AS east
FROM newest WHERE {_LOCATED}""",
    )


def labels(scope: Scope) -> Query:
    """A row a label: how many keys have it."""
    return _query(scope, "SELECT label, COUNT(*) AS answers FROM newest GROUP BY label ORDER BY answers DESC, label")


def values(scope: Scope, questions: Sequence[Question]) -> Query:
    """A row a question and value: how many keys have it; the most frequent ones, and how many others there are.

    A question with several labels has a row for each; `answers` of its nothing is how many keys have an empty list.
    """
    single = [each for each in questions if each.kind in _VALUE_KINDS and each.kind not in _LISTS]
    several = [each for each in questions if each.kind in _LISTS]
    parts = []
    if single:
        pairs = ", ".join(f"STRUCT('{each.name}' AS question, {_said(each)} AS value)" for each in single)
        parts.append(f"SELECT pair.question AS question, pair.value AS value FROM newest, UNNEST([{pairs}]) AS pair")
    for each in several:
        items = f"JSON_VALUE_ARRAY(answer, '$.{each.name}')"
        parts.append(f"SELECT '{each.name}' AS question, value FROM newest, UNNEST({items}) AS value")
        parts.append(
            f"SELECT '{each.name}' AS question, CAST(NULL AS STRING) AS value FROM newest "
            f"WHERE IFNULL(ARRAY_LENGTH({items}), 0) = 0"
        )
    union = "\n  UNION ALL ".join(parts)
    return _query(
        scope,
        f"""SELECT question, value, answers, others FROM (
  SELECT question, value, answers,
    COUNT(*) OVER (PARTITION BY question) AS others,
    ROW_NUMBER() OVER (PARTITION BY question ORDER BY answers DESC, value) AS place
  FROM (SELECT question, SUBSTR(value, 1, 200) AS value, COUNT(*) AS answers FROM (
  {union}
  ) GROUP BY question, value)
) WHERE place <= {MAX_VALUES} ORDER BY question, place""",
    )


def has_values(questions: Sequence[Question]) -> bool:
    """Whether `values` has anything to count."""
    return any(each.kind in _VALUE_KINDS for each in questions)


def numbers(questions: Sequence[Question]) -> list[tuple[str, str]]:
    """(name, expression) of the questions that are answered with a number, for `histogram`."""
    return [(each.name, _said(each)) for each in questions if each.kind == "number"]


def quantiles(scope: Scope) -> Query:
    """A row a measure of the newest answers: mean, quantiles, largest and sum."""
    return _query(
        scope,
        f"""SELECT measure, COUNT(x) AS answers, AVG(x) AS mean, MAX(x) AS largest, SUM(x) AS total,
  APPROX_QUANTILES(x, 100)[OFFSET(50)] AS p50,
  APPROX_QUANTILES(x, 100)[OFFSET(90)] AS p90,
  APPROX_QUANTILES(x, 100)[OFFSET(99)] AS p99
FROM ({_long([(name, name) for name in MEASURES])})
WHERE x IS NOT NULL GROUP BY measure""",
    )


def histogram(scope: Scope, measures: Sequence[tuple[str, str]]) -> Query:
    """A row a measure and bin, with even steps from `low` to `high`: how many answers lie in it.

    Args:
        scope: which rows.
        measures: (name, expression over an answer) pairs.
    """
    return _query(
        scope,
        f"""SELECT measure, low, high, place, COUNT(*) AS answers FROM (
  SELECT measure, low, high,
    IF(high = low, 0, LEAST({BINS - 1}, CAST(FLOOR({BINS} * (x - low) / (high - low)) AS INT64))) AS place
  FROM (
    SELECT measure, x, MIN(x) OVER (PARTITION BY measure) AS low, MAX(x) OVER (PARTITION BY measure) AS high
    FROM ({_long(measures)}) WHERE x IS NOT NULL
  )
) GROUP BY measure, low, high, place ORDER BY measure, place""",
    )


def latency(scope: Scope) -> Query:
    """A row a bin of the latency, even in powers of ten: bin N begins at 10 ** (N / BINS_PER_DECADE) ms."""
    return _query(
        scope,
        f"""SELECT CAST(FLOOR(LOG10(latency_ms) * {BINS_PER_DECADE}) AS INT64) AS place, COUNT(*) AS answers
FROM newest WHERE latency_ms > 0 GROUP BY place ORDER BY place""",
    )


def by_service(scope: Scope) -> Query:
    """A row a model version and tier that served: answers, tokens, dollars."""
    return _query(
        scope,
        """SELECT model_version, traffic_type, COUNT(*) AS answers, SUM(total_tokens) AS total_tokens,
  SUM(cost_usd) AS cost_usd
FROM paid WHERE is_answer GROUP BY model_version, traffic_type ORDER BY answers DESC, model_version LIMIT 20""",
    )


def throughput(scope: Scope, run_id: str, step_secs: int) -> Query:
    """A row a step of time of one run in which a row was written: `step` of so many seconds, answers and failures."""
    query = _query(
        scope,
        f"""SELECT CAST(FLOOR(UNIX_SECONDS(`at`) / {int(step_secs)}) AS INT64) AS step,
  COUNTIF(is_answer) AS answers, COUNTIF(NOT is_answer) AS failures
FROM paid WHERE run_id = @shown_run GROUP BY step ORDER BY step""",
    )
    return Query(query.sql, {**query.parameters, "shown_run": run_id})


def last_run_with_rows(scope: Scope) -> Query:
    """A row: the run that wrote last, and its first and last time."""
    return _query(
        scope,
        """SELECT run_id, MIN(`at`) AS first_at, MAX(`at`) AS last_at, COUNT(*) AS line_count
FROM paid GROUP BY run_id ORDER BY last_at DESC LIMIT 1""",
    )


def reasons(scope: Scope) -> Query:
    """A row a reason: keys that failed and have no answer, with what that cost, their earlier failures included."""
    return _query(
        scope,
        """SELECT reason, LOGICAL_OR(retryable) AS retryable, COUNT(*) AS failed, SUM(usd) AS cost_usd
FROM open_failures LEFT JOIN paid USING (key) GROUP BY reason ORDER BY failed DESC, reason""",
        failures=True,
    )


def examples(scope: Scope) -> Query:
    """A few of the keys of each reason, the same ones every time."""
    return _query(
        scope,
        f"""SELECT reason, key, SUBSTR(gcs_uri, 1, 500) AS gcs_uri, SUBSTR(detail, 1, 500) AS detail, attempts,
  SUBSTR(classification, 1, {MAX_TEXT}) AS classification, JSON_VALUE(`row`, '$.map_url') AS map_url
FROM open_failures WHERE TRUE
QUALIFY ROW_NUMBER() OVER (PARTITION BY reason ORDER BY FARM_FINGERPRINT(key)) <= {EXAMPLES}""",
        failures=True,
    )


def spots(scope: Scope, said: str, cell_degrees: tuple[float, float], each: int) -> Query:
    """A row a cell of the map and label: how many answers, and where they lie on average.

    A label's largest cells come, so that a rare label is not crowded out; `total` is how many answers it has in all.

    Args:
        scope: which rows; it has places.
        said: expression of the label.
        cell_degrees: height and width of a cell.
        each: cells of one label at most.
    """
    north, east = cell_degrees
    return _query(
        scope,
        f"""SELECT said, latitude, longitude, answers, total FROM (
  SELECT said, AVG(latitude) AS latitude, AVG(longitude) AS longitude, COUNT(*) AS answers,
    SUM(COUNT(*)) OVER (PARTITION BY said) AS total,
    ROW_NUMBER() OVER (PARTITION BY said ORDER BY COUNT(*) DESC, wy, wx) AS place
  FROM (
    SELECT {said} AS said, latitude, longitude, CAST(FLOOR(latitude / {north!r}) AS INT64) AS wy,
      CAST(FLOOR(longitude / {east!r}) AS INT64) AS wx
    FROM newest WHERE {_LOCATED}
  ) GROUP BY said, wy, wx
) WHERE place <= {int(each)} ORDER BY total DESC, said, answers DESC, latitude, longitude LIMIT {MAX_SPOTS}""",
    )


def said(scope: Scope, question: str | None) -> str:
    """The expression of what an answer said: the label, or the answer to a question."""
    if question is None:
        return "label"
    return _said(next(each for each in scope.questions if each.name == question))


def sample(scope: Scope, rows: int) -> Query:
    """Rows for the table: of each label as many as there is room for, a random but stable choice."""
    columns = "".join(f", {name}" for name in ("map_url", "asset_type") if name in scope.columns)
    return _query(
        scope,
        f"""SELECT key, gcs_uri, label, TO_JSON_STRING(answer) AS answer, SUBSTR(classification, 1, {MAX_TEXT}) AS text,
  total_tokens, cost_usd, latency_ms, attempts, run_id, classified_at{columns}
FROM newest
ORDER BY ROW_NUMBER() OVER (PARTITION BY label ORDER BY FARM_FINGERPRINT(key), key), FARM_FINGERPRINT(key), key
LIMIT {int(rows)}""",
    )


_LOCATED = "latitude BETWEEN -90 AND 90 AND longitude BETWEEN -180 AND 180"


def _said(question: Question) -> str:
    return f"JSON_VALUE(answer, '$.{question.name}')"


def _long(measures: Sequence[tuple[str, str]]) -> str:
    """A row a newest answer and measure."""
    pairs = ", ".join(f"STRUCT('{name}' AS measure, SAFE_CAST({expr} AS FLOAT64) AS x)" for name, expr in measures)
    return f"SELECT pair.measure AS measure, pair.x AS x FROM newest, UNNEST([{pairs}]) AS pair"


def _query(scope: Scope, select: str, *, failures: bool = False) -> Query:
    """A query over `paid` and `newest`, or over `open_failures` and what these keys cost (`paid`)."""
    mine = "fingerprint = @fingerprint" + ("" if scope.run_id is None else " AND run_id = @run_id")
    answered = f"FROM {scope.answers.sql} WHERE {mine} AND classified_at >= @since"
    failed = f"FROM {scope.failures.sql} WHERE {mine} AND failed_at >= @since"
    if failures:
        common = f"""WITH open_failures AS (
  SELECT * {failed} AND key NOT IN (SELECT key {answered})
  QUALIFY ROW_NUMBER() OVER (PARTITION BY key ORDER BY failed_at DESC, run_id DESC) = 1
), paid AS (
  SELECT key, SUM(cost_usd) AS usd FROM (SELECT DISTINCT key, failed_at, run_id, cost_usd {failed}) GROUP BY key
)"""
        return Query(f"{common}\n{select}", scope.parameters)
    common = f"""WITH paid AS (
  SELECT DISTINCT key, classified_at AS `at`, TRUE AS is_answer, run_id, model_version, traffic_type, attempts,
    prompt_tokens, output_tokens, thoughts_tokens, total_tokens, cost_usd {answered}
  UNION ALL
  SELECT DISTINCT key, failed_at AS `at`, FALSE AS is_answer, run_id, model AS model_version,
    CAST(NULL AS STRING) AS traffic_type, attempts,
    prompt_tokens, output_tokens, thoughts_tokens, total_tokens, cost_usd {failed}
), newest AS (
  SELECT * {answered}
  QUALIFY ROW_NUMBER() OVER (PARTITION BY key ORDER BY classified_at DESC, run_id DESC) = 1
)"""
    return Query(f"{common}\n{select}", scope.parameters)
