"""Every statement that we build, through Google's own analyser of GoogleSQL: names, types, reserved words, functions.

By hand, as it wants 60 MB of packages and half a minute: `pip install zetasql`, then
`PYTHONPATH=. python tests/bigquery/googlesql_check.py`. The emulator lets pass what BigQuery does not, e.g. a column `at`
without back-quotes. What the analyser does not know is BigQuery's own: quotas, OPTIONS, what may partition a table.
"""

from __future__ import annotations

import contextlib
import datetime
import re
import sys
from collections.abc import Iterator
from typing import Any

from zetasql.api import Analyzer, CatalogBuilder, TableBuilder, TypeFactory
from zetasql.types import (
    AnalyzerOptions,
    LanguageOptions,
    ResolvedNodeKind,
    TypeKind,
    ZetaSQLBuiltinFunctionOptions,
)

from pipeline.bigquery import books, read, views, worklist
from pipeline.bigquery.inputs import Field, TableInfo, answer_columns, kept_columns
from pipeline.bigquery.names import TableName
from pipeline.bigquery.query import Query
from pipeline.bigquery.worklist import Done, RetryFailed, Shard
from pipeline.evaluation import fetch
from pipeline.rows import FAILURE_COLUMNS, RUN_COLUMNS
from pipeline.task import Task

INPUT, ANSWERS, FAILURES, RUNS, WORKLIST = (
    TableName("demo-project", "ds", name) for name in ("input", "answers", "failures", "runs", "worklist")
)
NOW = datetime.datetime(2026, 5, 1, tzinfo=datetime.UTC)
SCALARS = ("STRING", "INT64", "FLOAT64", "BOOL", "DATE", "DATETIME", "TIME", "TIMESTAMP", "NUMERIC", "BYTES")
POINT = (Field("x", "FLOAT64"), Field("y", "FLOAT64"))
FIELDS = (
    *(Field(name, "STRING") for name in ("observation_id", "gcs_uri", "asset_id", "snapshot_id", "map_url")),
    *(Field(name, "TIMESTAMP") for name in ("capture_time", "detection_time")),
    Field("location", "STRUCT", fields=(Field("latitude", "FLOAT64"), Field("longitude", "FLOAT64"))),
    Field("bbox", "STRUCT", fields=(Field("lo", "STRUCT", fields=POINT),)),
    Field("tags", "STRING", repeated=True),
    Field("extra", "JSON"),
    Field("span", "INTERVAL"),
    *(Field(f"a_{kind.lower()}", kind) for kind in SCALARS),
)
INFO = TableInfo(INPUT.sql, FIELDS, "US")
RESERVED = """
    all and any array as asc assert_rows_modified at between by case cast collate contains create cross cube
    current default define desc distinct else end enum escape except exclude exists extract false fetch following
    for from full group grouping groups hash having if ignore in inner intersect interval into is join lateral
    left like limit lookup merge natural new no not null nulls of on or order outer over partition preceding proto
    qualify range recursive respect right rollup rows select set some struct tablesample then to treat true
    unbounded union unnest using when where window with within
"""  # https://cloud.google.com/bigquery/docs/reference/standard-sql/lexical#reserved_keywords
KEPT = [
    *kept_columns(INFO, None),
    *kept_columns(INFO, ["bbox", "bbox.lo.x", "tags", "extra", "span", *(f"a_{kind.lower()}" for kind in SCALARS)]),
]


def statements() -> Iterator[str]:
    for kind in SCALARS:
        given = worklist.source(INFO, key_column=f"a_{kind.lower()}", columns=KEPT, where="asset_id = 'x' -- a comment")
        yield worklist.count_query(given, Done("f1", ANSWERS, FAILURES)).sql
    given = worklist.source(INFO, columns=KEPT)
    for done in (Done("f1"), Done("f1", ANSWERS), Done("f1", None, FAILURES), Done("f1", ANSWERS, FAILURES)):
        yield worklist.count_query(given, done).sql
        for retry in RetryFailed:
            rows = worklist.rows_query(given, done, retry, 10, 4000)
            yield rows.sql
            yield worklist.create_query(WORKLIST, rows, 4000, {"run_id": "r1"}).sql
    assets = [column for column in KEPT if column.type != "JSON"]
    for given in (
        worklist.source(INFO, columns=assets, asset_column="asset_id", max_images=3, only=["a"]),
        worklist.source(INFO, columns=assets, asset_column="a_int64", max_images=3, where="TRUE"),
    ):
        for done in (Done("f1"), Done("f1", ANSWERS, FAILURES)):
            yield worklist.count_query(given, done).sql
            yield worklist.rows_query(given, done, RetryFailed.ALL, None, 10).sql
        yield worklist.input_query(given).sql
    yield worklist.input_query(worklist.source(INFO, columns=KEPT, only=["k"])).sql
    for task in map(Task.load, ("road_signs", "utility_poles", "maintenance_covers", "image_quality")):
        columns = [column.name for column in answer_columns(KEPT)]
        yield views.task_sql(ANSWERS, "f1", task.view_columns(), columns)
        yield views.task_sql(ANSWERS, "f1", task.view_columns(), columns, "asset_id")
    typed = reserved_words().view_columns()
    yield views.task_sql(ANSWERS, "f1", typed, columns)
    yield f"SELECT {', '.join(f'{expression} AS `{name}`' for name, _, expression in typed)} FROM {ANSWERS.sql}"
    yield views.latest_sql(ANSWERS)
    yield views.latest_sql(ANSWERS, "f1")
    yield views.failures_open_sql(ANSWERS, FAILURES)
    yield from run_by_functions()


def reserved_words() -> Task:
    """A task with a question of every kind, called by GoogleSQL's reserved words, and one of the longest name."""
    kinds = (
        {"type": "label", "labels": ["a"]},
        {"type": "labels", "labels": ["a"]},
        {"type": "boolean"},
        {"type": "integer"},
        {"type": "number"},
        {"type": "string"},
        {"type": "boxes"},
    )
    names = [*RESERVED.split(), "q" * 63, "asset_id", "latitude"]  # the last two: kept columns, which give way
    questions = {name: kinds[place % len(kinds)] for place, name in enumerate(names)}
    return Task.model_validate({"name": "words", "prompt": "p", "questions": questions})


def run_by_functions() -> list[str]:
    """What the functions that run their own SQL would run; one made-up row lets them go on to their next query."""
    caught: list[str] = []

    def catch(_endpoint: Any, query: Query, _job: Any = None) -> list[dict[str, Any]]:
        caught.append(query.sql)
        names = (
            "asked",
            "answered",
            "failed",
            "not_asked",
            "stray",
            "total_tokens",
            "cost_usd",
            "paid",
            "priced",
            "usd",
        )
        texts = {"sizes": "1:2", "reason": "blocked", "key": "k", "fingerprint": "f1", "settings": None, "wl_id": "k"}
        return [{**dict.fromkeys(names, 1), **texts, "answers": 1, "last_at": NOW, "newest": NOW, "bought": True}]

    for module in (books, read, worklist, fetch):
        module.run = catch  # type: ignore[attr-defined]
    nowhere: Any = None
    ours = {"answers": ANSWERS, "failures": FAILURES}
    books.audit(nowhere, worklist=WORKLIST, **ours, run_id="r1", since=NOW)
    for since in (None, NOW):
        books.spent(nowhere, **ours, fingerprint="f1", since=since, until=since)
    books.other_fingerprints(nowhere, answers=ANSWERS, runs=RUNS, task="t", fingerprint="f1")
    books.run_lines(nowhere, RUNS, "r1")
    for fingerprint in (None, "f1"):
        books.last_run(nowhere, RUNS, fingerprint)
    books.open_runs(nowhere, RUNS, "f1")
    books.halted(nowhere, RUNS, "r1")
    books.last_sign_of_life(nowhere, ANSWERS, FAILURES, run_id="r1", since=NOW)
    inspect, fetch.inputs.inspect = fetch.inputs.inspect, lambda *_: INFO
    for kind in SCALARS:
        fetch.labels(nowhere, INPUT, f"a_{kind.lower()}", {"asset_id", "tags"})
    fetch.inputs.inspect = inspect
    fetch.keys_in_input(nowhere, worklist.source(INFO, only=["k"]))
    with contextlib.suppress(KeyError):  # the made-up row is no outcome
        fetch.outcomes(nowhere, **ours, fingerprint="f1", keys={"k": "k"}, task=Task.load("road_signs"))
    worklist.shards(nowhere, WORKLIST, 10)
    read.keys_written(nowhere, WORKLIST, Shard(1, 2, 3), **ours, run_id="r1", since=NOW)
    return caught


def type_of(field: Field) -> Any:
    if field.fields:
        made = TypeFactory.create_struct_type([(inner.name, type_of(inner)) for inner in field.fields])
    else:
        kind = field.type.replace("FLOAT64", "DOUBLE")
        made = TypeFactory.create_simple_type(getattr(TypeKind, f"TYPE_{kind}"))
    return TypeFactory.create_array_type(made) if field.repeated else made


def analyser() -> Analyzer:
    language = LanguageOptions.maximum_features()
    language.reserved_keywords = ["QUALIFY"]
    statement_kinds = [
        name for name in dir(ResolvedNodeKind) if name.startswith("RESOLVED_") and name.endswith("_STMT")
    ]
    language.supported_statement_kinds = [getattr(ResolvedNodeKind, name) for name in statement_kinds]
    worklist_fields = [Field("shard", "INT64"), *(Field(name, "STRING") for name in ("key", "gcs_uri", "problem"))]
    worklist_fields += [Field(column.name, column.type.replace("JSON", "STRING")) for column in KEPT]
    catalog = CatalogBuilder("catalog")
    for name, fields in (
        (INPUT, FIELDS),
        (WORKLIST, worklist_fields),
        (ANSWERS, [Field(column.name, column.type) for column in answer_columns(KEPT)]),
        (FAILURES, [Field(column.name, column.type) for column in FAILURE_COLUMNS]),
        (RUNS, [Field(column.name, column.type) for column in RUN_COLUMNS]),
    ):
        table = TableBuilder(name.table)
        for field in fields:
            table.add_column(field.name, type_of(field))
        catalog.add_table(table.build())
    functions = ZetaSQLBuiltinFunctionOptions(language_options=language)
    options = AnalyzerOptions(language_options=language, allow_undeclared_parameters=True)
    return Analyzer(options, catalog.with_builtin_functions(functions).build())


def main() -> int:
    check, refused, checked = analyser(), 0, 0
    for sql in statements():
        checked += 1
        try:
            check.analyze_statement(re.sub(r"`demo-project`\.`ds`\.`(\w+)`", r"\1", sql))
        except Exception as error:  # noqa: BLE001  whatever it says, the statement is to be shown
            refused += 1
            print(f"{error}\n{sql}\n")
    print(f"{checked} statements, {refused} refused")
    return 1 if refused else 0


if __name__ == "__main__":
    sys.exit(main())
