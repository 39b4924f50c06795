"""The rows of one run, settled in BigQuery before anything is spent: SQL that counts them, SQL that writes them down.

    input -> one row a key, the newest -> minus what is answered or has failed for good -> a limit -> worklist table

The builders are pure; `count`, `create` and `shards` run what they build. Nothing here holds rows in memory.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Iterator, Mapping, Sequence

from pipeline.bigquery import names
from pipeline.bigquery.assets import Asset, newest_assets
from pipeline.bigquery.client import Endpoint, short_retry
from pipeline.bigquery.inputs import KeptColumn, TableInfo, as_text
from pipeline.bigquery.names import TableName
from pipeline.bigquery.query import Job, Parameter, Query, run
from pipeline.errors import ConfigError
from pipeline.rows import IMAGES, Reason

# A job may write 4,000 partitions: https://cloud.google.com/bigquery/quotas#partitioned_tables
MAX_BUCKETS = 4000
ROWS_PER_BUCKET = 1000
# Keys by slices of their hashes, so that a limit of many millions is found without sorting them all in one place:
# 2^64 / 2^48, and the middle one twice as wide, as DIV rounds towards 0.
_SLICE = 2**48
EXPIRATION_DAYS = 30
# Newest first; those that the input has.
_ORDER = ("capture_time", "detection_time", "snapshot_id")
# https://cloud.google.com/storage/docs/buckets#naming; an object's name may hold anything but line breaks.
_URI = r"^gs://[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]/."
# https://cloud.google.com/vertex-ai/generative-ai/docs/multimodal/image-understanding
_IMAGE = r"\.(png|jpe?g|webp|heic|heif)$"
_ROW_PROBLEMS = (Reason.MISSING_KEY, Reason.MISSING_URI, Reason.MALFORMED_URI, Reason.UNSUPPORTED_IMAGE_TYPE)


class RetryFailed(enum.StrEnum):
    """Which rows that failed before, with the same fingerprint and no answer since, are asked again."""

    NONE = "none"
    RETRYABLE = "retryable"
    ALL = "all"

    @property
    def states(self) -> tuple[str, ...]:
        """The states of a key, as the SQL below names them, that go into the worklist."""
        return {
            RetryFailed.NONE: ("new",),
            RetryFailed.RETRYABLE: ("new", "failed_retryable"),
            RetryFailed.ALL: ("new", "failed_retryable", "failed_final"),
        }[self]


@dataclasses.dataclass(frozen=True, slots=True)
class Source:
    """What to read of the input; make it with `source`.

    `only` are the keys that count, None for all; with `asset` they are the assets.
    """

    info: TableInfo
    where: str | None
    key_expr: str
    uri_expr: str
    columns: tuple[KeptColumn, ...]
    order: tuple[str, ...]
    only: tuple[str, ...] | None = None
    asset: Asset | None = None

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the columns that the worklist has beside shard, key, gcs_uri and problem."""
        return (*(column.name for column in self.columns), *((IMAGES,) if self.asset else ()))

    @property
    def parameters(self) -> dict[str, Parameter]:
        """The parameters of every query that reads it."""
        return {} if self.only is None else {"only_keys": self.only}


@dataclasses.dataclass(frozen=True, slots=True)
class Done:
    """What was asked before: the tables, None where they do not exist yet, and the fingerprint that counts."""

    fingerprint: str
    answers: TableName | None = None
    failures: TableName | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Count:
    """How the input's rows stand, before a run.

    `keys` = `new` + `already_answered` + `failed_retryable` + `failed_final` + the sum of `unusable`.

    Args:
        rows: Rows that pass the filter.
        keys: Distinct keys of them; a row without a key counts as one of its own.
        new: Never asked and usable.
        already_answered: Answered with the same fingerprint.
        failed_retryable: Usable; the last failure may well end in an answer when asked again.
        failed_final: Usable, but asking again is not likely to help.
        unusable: Keys that cannot be asked, by `Reason`.
        to_ask: Calls to be paid under the retry policy, before any limit.
        to_file: Unusable keys that become failures in this run, without a call.
        images: Images of the keys to ask; of an input without assets there is one each, and this is 0.
    """

    rows: int
    keys: int
    new: int
    already_answered: int
    failed_retryable: int
    failed_final: int
    unusable: Mapping[str, int]
    to_ask: int
    to_file: int
    images: int = 0

    @property
    def images_per_key(self) -> float:
        """Images of a key to ask, on average."""
        return self.images / self.to_ask if self.images and self.to_ask else 1.0


@dataclasses.dataclass(frozen=True, slots=True)
class Worklist:
    """A worklist that is written down."""

    table: TableName
    rows: int


@dataclasses.dataclass(frozen=True, slots=True)
class Shard:
    """The rows of a worklist whose `shard` lies in `lo..hi`, both included."""

    lo: int
    hi: int
    rows: int


def source(
    info: TableInfo,
    *,
    key_column: str = "observation_id",
    uri_column: str = "gcs_uri",
    where: str | None = None,
    columns: Sequence[KeptColumn] = (),
    only: Sequence[str] | None = None,
    asset_column: str | None = None,
    max_images: int = 1,
) -> Source:
    """Returns what to read of an input: the key, the URI and the kept and prompt columns, each once.

    `only` restricts it to these keys, as an evaluation needs: they travel in every query, so some ten thousand at most. With
    an `asset_column`, the newest `max_images` images of an asset become one row.

    Raises:
        ConfigError: The input lacks a column, or it is no scalar.
    """
    key, uri = (_scalar(info, *given) for given in (("--key_column", key_column), ("--uri_column", uri_column)))
    distinct = {column.name.lower(): column for column in columns}
    order = tuple(name for name in _ORDER if (field := info.find(name)) and not field.repeated and not field.fields)
    asset = None if asset_column is None else Asset(_scalar(info, "--asset_column", asset_column), max_images)
    return Source(info, where, key, uri, tuple(distinct.values()), order, None if only is None else tuple(only), asset)


def _scalar(info: TableInfo, flag: str, path: str) -> str:
    field = info.find(path)
    if field is None:
        there = ", ".join(found.name for found in info.fields)
        raise ConfigError(f"{flag} {path}: the input has no such column; it has {there}")
    if field.repeated or field.type in ("STRUCT", "JSON", "GEOGRAPHY", "RANGE"):
        kind = f"ARRAY<{field.type}>" if field.repeated else field.type
        raise ConfigError(f"{flag} {path}: is {kind}; give a column of one plain value")
    return as_text(names.quoted(path, flag), field.type)


def count_query(given: Source, done: Done) -> Query:
    """Builds the query whose few rows `read_count` reads; it creates nothing."""
    images = ", SUM(wl_images) AS wl_images" if given.asset else ""
    return Query(
        f"{_classified(given, done)}\n"
        f"SELECT wl_state, problem, COUNT(*) AS wl_keys, SUM(wl_copies) AS wl_rows{images} FROM classified GROUP BY 1, 2",
        given.parameters,
    )


def rows_query(given: Source, done: Done, retry: RetryFailed, limit: int | None, buckets: int) -> Query:
    """Builds the SELECT of the worklist's rows: shard, key, gcs_uri, problem, then the kept and prompt columns.

    A limit counts rows that can be asked, and takes the keys of the smallest hashes: a random sample, and the same one every
    time; with them go the unusable rows up to the last of these hashes. An ORDER BY with a LIMIT would sort in one place and
    run out of memory where the limit is of millions: so whole slices of hashes are taken, each is sorted by itself.
    """
    states = ", ".join(f"'{state}'" for state in retry.states)
    columns = "".join(f", `{name}`" for name in given.outputs)
    # The highest bit is masked, as ABS of the smallest INT64 overflows.
    shard = f"MOD(wl_hash & 0x7FFFFFFFFFFFFFFF, {int(buckets)})"
    limited = "wanted"
    if limit is not None:
        limited = f"""(
  SELECT wanted.*, wl_all, wl_before + SUM(wl_usable) OVER (PARTITION BY wanted.wl_slice ORDER BY wl_hash, key) AS wl_place
  FROM wanted JOIN (
    SELECT wl_slice, SUM(SUM(wl_usable)) OVER (ORDER BY wl_slice) - SUM(wl_usable) AS wl_before,
      SUM(SUM(wl_usable)) OVER () AS wl_all
    FROM wanted GROUP BY wl_slice
  ) AS slices ON slices.wl_slice = wanted.wl_slice
  WHERE wl_before < {int(limit)} OR wl_all <= {int(limit)}
) WHERE wl_place <= {int(limit)} - IF(wl_usable = 1 OR wl_all <= {int(limit)}, 0, 1)"""
    return Query(
        f"""{_classified(given, done)}, hashed AS (
  SELECT *, FARM_FINGERPRINT(key) AS wl_hash FROM classified WHERE wl_state IN ({states})
), wanted AS (
  SELECT *, DIV(wl_hash, {_SLICE}) AS wl_slice, IF(problem IS NULL, 1, 0) AS wl_usable FROM hashed
)
SELECT {shard} AS shard, key, gcs_uri, problem{columns}\nFROM {limited}""",
        given.parameters,
    )


def input_query(given: Source) -> Query:
    """Builds the SELECT of the input's rows as they stand: key, wl_id, gcs_uri, problem and columns, one row a key.

    `wl_id` is what people call the row: its key, or the asset.
    """
    columns = "".join(f", `{name}`" for name in given.outputs)
    known = "wl_asset" if given.asset else "key"
    sql = f"{_classified(given, Done('none'))}\nSELECT key, {known} AS wl_id, gcs_uri, problem{columns} FROM classified"
    return Query(sql, given.parameters)


def create_query(table: TableName, rows: Query, buckets: int, labels: Mapping[str, str]) -> Query:
    """Builds the CREATE TABLE AS SELECT of a worklist, partitioned by shard, gone after 30 days."""
    pairs = ", ".join(f"('{names.token(key)}', '{names.label_value(value)}')" for key, value in labels.items())
    labelled = f"labels = [{pairs}], " if pairs else ""
    return Query(
        f"CREATE TABLE {table.sql}\n"
        f"PARTITION BY RANGE_BUCKET(shard, GENERATE_ARRAY(0, {int(buckets)}, 1))\n"
        f"OPTIONS (expiration_timestamp = TIMESTAMP_ADD(CURRENT_TIMESTAMP(), INTERVAL {EXPIRATION_DAYS} DAY), "
        f"{labelled}description = 'The rows of one run; expires by itself.')\n"
        f"AS\n{rows.sql}",
        rows.parameters,
    )


def _classified(given: Source, done: Done) -> str:
    """The WITH clause whose `classified` has one row a key, with its `problem` and its `wl_state`."""
    columns = [f"`{column.name}`" for column in given.columns]
    orders = [f"wl_order_{number}" for number, _ in enumerate(given.order)]
    selected = [f"{given.key_expr} AS wl_key", f"{given.uri_expr} AS gcs_uri"]
    selected += [f"{column.expr} AS `{column.name}`" for column in given.columns]
    selected += [f"`{column}` AS {alias}" for column, alias in zip(given.order, orders, strict=True)]
    assets, no_asset, of = "", "", ""
    if given.asset:
        selected.append(f"{given.asset.expr} AS wl_of")
        assets = newest_assets(given.asset, columns, orders)
        no_asset = f"WHEN wl_of IS NULL OR TRIM(wl_of) = '' THEN '{Reason.MISSING_KEY}'\n      "
        of = "wl_of, "
    newest = [f"{column} DESC" for column in (*orders, "gcs_uri", *columns)]
    conditions = [f"(\n{given.where}\n  )"] if given.where else []
    known = given.asset.expr if given.asset else given.key_expr
    conditions += [f"{known} IN UNNEST(@only_keys)"] if given.only is not None else []
    filtered = f"\n  WHERE {' AND '.join(conditions)}" if conditions else ""
    return f"""WITH input AS (
  SELECT {", ".join(selected)}
  FROM {given.info.sql}{filtered}
), checked AS (
  SELECT {of}{", ".join(["gcs_uri", *columns, *orders])},
    CASE
      {no_asset}WHEN wl_key IS NULL OR TRIM(wl_key) = '' THEN '{Reason.MISSING_KEY}'
      WHEN gcs_uri IS NULL OR TRIM(gcs_uri) = '' THEN '{Reason.MISSING_URI}'
      WHEN NOT REGEXP_CONTAINS(gcs_uri, r'{_URI}') THEN '{Reason.MALFORMED_URI}'
      WHEN NOT REGEXP_CONTAINS(LOWER(gcs_uri), r'{_IMAGE}') THEN '{Reason.UNSUPPORTED_IMAGE_TYPE}'
    END AS problem,
    IF(
      wl_key IS NULL OR TRIM(wl_key) = '',
      CONCAT('null:', TO_HEX(SHA256(TO_JSON_STRING(STRUCT({", ".join(["gcs_uri", *orders])}))))),
      wl_key
    ) AS key
  FROM input
), {"images" if given.asset else "newest"} AS (
  SELECT *, COUNT(*) OVER (PARTITION BY key) AS wl_copies
  FROM checked
  WHERE TRUE
  QUALIFY ROW_NUMBER() OVER (PARTITION BY key ORDER BY {", ".join(newest)}) = 1
), {assets}{_asked_before(done)}"""


def _asked_before(done: Done) -> str:
    """The rest of the WITH clause: what is known of each key under this fingerprint."""
    mine = f"fingerprint = '{names.token(done.fingerprint)}'"
    problems = ", ".join(f"'{reason}'" for reason in _ROW_PROBLEMS)
    parts, joins, cases = [], [], []
    if done.answers is not None:
        parts.append(f"answered AS (\n  SELECT DISTINCT key FROM {done.answers.sql} WHERE {mine}\n)")
        joins.append("LEFT JOIN answered ON answered.key = newest.key")
        cases.append("WHEN answered.key IS NOT NULL THEN 'answered'")
    if done.failures is not None:
        parts.append(
            "failed AS (\n"
            "  SELECT key, ANY_VALUE(reason HAVING MAX failed_at) AS reason,\n"
            "    ANY_VALUE(retryable HAVING MAX failed_at) AS retryable\n"
            f"  FROM {done.failures.sql} WHERE {mine} GROUP BY key\n)"
        )
        joins.append("LEFT JOIN failed ON failed.key = newest.key")
        # A row that was unusable when it failed, and has been mended in the input since, is new.
        mended = f"newest.problem IS NULL AND failed.reason IN ({problems})"
        cases.append(f"WHEN failed.retryable AND NOT ({mended}) THEN 'failed_retryable'")
        cases.append(f"WHEN failed.key IS NOT NULL AND NOT ({mended}) THEN 'failed_final'")
    state = f"CASE {' '.join(cases)} ELSE 'new' END" if cases else "'new'"
    parts.append(f"classified AS (\n  SELECT newest.*, {state} AS wl_state\n  FROM newest {' '.join(joins)}\n)")
    return ", ".join(parts)


def count(endpoint: Endpoint, given: Source, done: Done, retry: RetryFailed, job: Job | None = None) -> Count:
    """Runs the counting query and returns how the input stands; creates nothing."""
    return read_count(run(endpoint, count_query(given, done), job), retry)


def read_count(lines: Sequence[Mapping[str, object]], retry: RetryFailed) -> Count:
    """Turns the rows of `count_query` into a `Count`."""
    usable = dict.fromkeys(("new", "answered", "failed_retryable", "failed_final"), 0)
    unusable: dict[str, int] = {}
    rows = keys = to_ask = to_file = images = 0
    for line in lines:
        state, problem, found = str(line["wl_state"]), line["problem"], int(str(line["wl_keys"]))
        rows += int(str(line["wl_rows"]))
        keys += found
        taken = found if state in retry.states else 0
        if problem is None or state == "answered":
            usable[state] += found
            to_ask += taken
            images += int(str(line.get("wl_images") or 0)) if taken else 0
        else:
            unusable[str(problem)] = unusable.get(str(problem), 0) + found
            to_file += taken
    return Count(
        rows=rows,
        keys=keys,
        new=usable["new"],
        already_answered=usable["answered"],
        failed_retryable=usable["failed_retryable"],
        failed_final=usable["failed_final"],
        unusable=unusable,
        to_ask=to_ask,
        to_file=to_file,
        images=images,
    )


def bucket_count(rows: int) -> int:
    """How many values `shard` takes: enough to make even shards of a few thousand rows, at most 4,000.

    Each is a partition, which costs BigQuery time: no more of them than that.
    """
    return max(1, min(MAX_BUCKETS, rows // ROWS_PER_BUCKET))


def create(
    endpoint: Endpoint,
    table: TableName,
    given: Source,
    done: Done,
    *,
    retry: RetryFailed,
    limit: int | None,
    buckets: int | None = None,
    labels: Mapping[str, str] | None = None,
    job: Job | None = None,
) -> Worklist:
    """Writes a worklist table and returns it with its number of rows.

    Args:
        endpoint: Where.
        table: The new table.
        given: What to read of the input.
        done: What was asked before.
        retry: Which failed rows to ask again.
        limit: At most so many rows to ask; None for all.
        buckets: Values of `shard`, from `bucket_count`; None takes it from the limit, or 4,000.
        labels: Labels of the table, such as the run's id.
        job: Labels and limit of the query's bill.
    """
    if buckets is None:
        buckets = MAX_BUCKETS if limit is None else bucket_count(limit)
    rows = rows_query(given, done, retry, limit, buckets)
    run(endpoint, create_query(table, rows, buckets, labels or {}), job)
    with endpoint.client() as client:
        return Worklist(table, int(client.get_table(str(table), retry=short_retry()).num_rows or 0))


def shards(endpoint: Endpoint, table: TableName, rows_per_shard: int, job: Job | None = None) -> list[Shard]:
    """Returns the shards of a worklist: contiguous ranges of about so many rows, that together hold every row once."""
    return list(grouped(sizes(endpoint, Query(f"SELECT shard FROM {table.sql}"), job), rows_per_shard))


def sizes(endpoint: Endpoint, rows: Query, job: Job | None = None) -> list[tuple[int, int]]:
    """Returns how many of some rows of a worklist have each value of `shard`: (shard, rows) pairs, sorted."""
    # One line with a string: result pages of thousands of rows are slow on the emulator.
    sql = (
        "SELECT STRING_AGG(CONCAT(CAST(shard AS STRING), ':', CAST(wl_rows AS STRING)), ',' ORDER BY shard) AS sizes\n"
        f"FROM (SELECT shard, COUNT(*) AS wl_rows FROM ({rows.sql}) GROUP BY shard)"
    )
    found = run(endpoint, Query(sql, rows.parameters), job)[0]["sizes"] or ""
    pairs = (pair.split(":") for pair in found.split(",") if pair)
    return [(int(shard), int(count)) for shard, count in pairs]


def grouped(sizes: Sequence[tuple[int, int]], rows_per_shard: int) -> Iterator[Shard]:
    """Joins neighbouring (shard, rows) pairs until one more would lead farther away from `rows_per_shard`."""
    lo = hi = rows = 0
    for shard, more in sizes:
        if rows and abs(rows + more - rows_per_shard) > abs(rows - rows_per_shard):
            yield Shard(lo, hi, rows)
            rows = 0
        if not rows:
            lo = shard
        hi, rows = shard, rows + more
    if rows:
        yield Shard(lo, hi, rows)
