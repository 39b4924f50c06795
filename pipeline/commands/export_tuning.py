"""`python -m pipeline export_tuning`: examples for supervised tuning on Vertex AI, from labels or from answers."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pipeline import console, files, options, planning, tuning
from pipeline.bigquery import inputs, views, worklist
from pipeline.bigquery.client import explained
from pipeline.bigquery.query import Query, run
from pipeline.commands.evaluate import read_labels
from pipeline.errors import ConfigError
from pipeline.evaluation import truth
from pipeline.options import TuningOptions
from pipeline.plan import Plan
from pipeline.rows import Observation

_USAGE = """usage: python -m pipeline export_tuning --output=FOLDER [--labels_table=P.D.T|--labels_csv=PATH] --flag=value ...

Writes train.jsonl and validation.jsonl in the format of Vertex AI's supervised tuning. With labels, they are what is
learnt; without, the answers that the table has by these flags, such as those of a dearer model. Asks nothing and makes
no tables. The endpoint that tuning ends in is named as --model=ENDPOINT_ID."""


def main(argv: Sequence[str]) -> int:
    """Write the two files and print how many examples of each label they hold.

    Returns:
        0.

    Raises:
        ConfigError: there is nothing to learn, or the service would refuse the files; nothing is written.
    """
    if "--help" in argv or "-h" in argv:
        print(_USAGE + "\n" + options.help_text(TuningOptions))
        return 0
    given, rest = options.parse(argv, TuningOptions)
    if rest:
        from pipeline import submit  # only Beam's own flags, or misspelt ones, are worth loading Beam for

        submit.beam_options(rest, given)
    if given.output is None:
        raise ConfigError("--output is missing: a folder for the two files, local or gs://BUCKET/FOLDER")
    if given.validation_share >= 1:
        raise ConfigError(f"--validation_share={given.validation_share:g}: expected less than 1")
    made = _made(given)
    distinct = tuning.distinct(made)
    found = tuning.split(_limited(distinct, given.limit), given.validation_share)
    faults = tuning.faults(found)
    if faults:
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        raise ConfigError(f"{faults[0]}{more}")
    uris = {name: files.beside(given.output, f"{name}.jsonl") for name in ("train", "validation")}
    for name, examples in (("train", found.train), ("validation", found.validation)):
        files.write_text(uris[name], "".join(each.text for each in examples), "--output")
    if len(distinct) < len(made):
        console.say(f"{len(made) - len(distinct):,} rows left out: their image is that of another row")
    rows = [(label or "(no label)", f"{train:,}", f"{check:,}") for label, train, check in found.strata()]
    console.table("Examples", ("label", "train", "validation"), rows, narrow=True)
    console.say()
    if len(found.train) < tuning.RECOMMENDED_EXAMPLES:
        console.note(f"warning: Vertex AI recommends {tuning.RECOMMENDED_EXAMPLES} examples or more to start with")
    if not found.validation:
        console.note("warning: nothing to validate with: leave validationDatasetUri out of the tuning job")
    for name, examples in (("train", found.train), ("validation", found.validation)):
        console.say(f"{uris[name]}: {len(examples):,} examples")
    return 0


def _made(given: TuningOptions) -> list[tuning.Example]:
    """An example for each row that is labelled or answered."""
    task = planning.task_of(given)
    labels = None
    if given.labels_table is not None or given.labels_csv is not None:
        if task.is_free_text:
            raise ConfigError(f"task {task.name} asks for free text: leave the labels out, its answers can be learnt")
        labels = truth.check(read_labels(given, [task]), task)
    plan = planning.make(given, None if labels is None else sorted(labels.rows))
    group = _group_column(given, plan)
    names = ([group] if group else []) + list(task.columns)
    source = dataclasses.replace(plan.source, columns=_distinct_columns(inputs.prompt_columns(plan.source.info, names)))
    maker = tuning.Maker(task, plan.settings)
    made = []
    if labels is None:
        for row, line in _rows(plan, _answered_query(plan, source), source):
            answer = line["classification"] if task.is_free_text else line["answer"]
            made.append(maker.example(row, answer or "", _group(row, group)))
        if not made:
            raise ConfigError(
                f"{plan.answers} has no answers to task {task.name} by {plan.settings.model} with these settings "
                f"(fingerprint {plan.fingerprint}); give --labels_table, or the flags of the run that answered"
            )
        return made
    partly = 0
    for row, line in _rows(plan, worklist.input_query(source), source):
        answer = maker.answer_of(labels.rows[line["wl_id"]])
        partly += answer is None
        if answer is not None:
            made.append(maker.example(row, answer, _group(row, group)))
    if not made:
        raise ConfigError(f"none of {len(labels.rows):,} labelled rows is in the input with a label for every question")
    if partly:
        console.say(f"{partly:,} rows left out: a question of task {task.name} has no label there")
    return made


def _group_column(given: TuningOptions, plan: Plan) -> str | None:
    wanted = given.group_column or given.asset_column
    if plan.source.info.find(wanted) is not None:
        return wanted
    if given.group_column is not None:
        raise ConfigError(f"--group_column={wanted}: the input has no such column")
    return None


def _distinct_columns(columns: Sequence[inputs.KeptColumn]) -> tuple[inputs.KeptColumn, ...]:
    return tuple({column.name.lower(): column for column in columns}.values())


def _group(row: Observation, column: str | None) -> str:
    """What a row stays together with: its asset, or its image, of which there is one."""
    value = row.columns.get(column) if column else None
    return f"{column} {value}" if value is not None else row.gcs_uri or row.key


def _answered_query(plan: Plan, source: worklist.Source) -> Query:
    """The input's rows that are answered, with the answer."""
    rows = worklist.input_query(source)
    if plan.done.answers is None:
        raise ConfigError(f"--output_table {plan.answers}: it does not exist; give --labels_table or --labels_csv")
    return Query(
        f"SELECT asked.*, answered.classification, TO_JSON_STRING(answered.answer) AS answer\nFROM (\n{rows.sql}\n) AS asked "
        f"JOIN (\n{views.latest_sql(plan.answers, plan.fingerprint)}\n) AS answered ON answered.key = asked.key",
        rows.parameters,
    )


def _rows(plan: Plan, query: Query, source: worklist.Source) -> Iterator[tuple[Observation, Mapping[str, Any]]]:
    """The usable rows of a query as observations, with all its columns beside."""
    with explained("--input_query" if plan.options.input_query else "--input_table", plan.source.info.sql):
        lines = run(plan.endpoint, query, plan.query_job())
    for line in lines:
        if line["problem"] is None:
            columns = {name: line[name] for name in source.outputs}
            yield Observation(line["key"], line["gcs_uri"], columns), line


def _limited(examples: Sequence[tuning.Example], limit: int | None) -> Sequence[tuning.Example]:
    """The first in the order of hashes, as in every other command."""
    if limit is None or limit >= len(examples):
        return examples
    return sorted(examples, key=lambda each: tuning.order(each.key))[:limit]
