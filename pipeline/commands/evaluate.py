"""`python -m pipeline evaluate`: how right the answers are, on rows whose true answers are known."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Sequence
from typing import Any

from pipeline import console, files, launch, options, planning
from pipeline.bigquery.client import Endpoint
from pipeline.bigquery.names import TableName
from pipeline.commands import classify
from pipeline.errors import ConfigError
from pipeline.evaluation import comparison, fetch, figures, gate, judging, report, text, truth
from pipeline.evaluation.comparison import Side
from pipeline.options import EvaluateOptions, Options
from pipeline.plan import Plan
from pipeline.running import run_to_end, terminable
from pipeline.task import Task

_COMPARED = re.compile(r",(?=[a-z_]+=)")

_USAGE = """usage: python -m pipeline evaluate --labels_table=P.D.T|--labels_csv=PATH --flag=value ...

Asks the labelled rows that have no answer yet, by the flags of classify and into the same tables, so that each is paid
for once; then compares all of them with their labels. The views <output_table>_current and <output_table>_<task> stay as
they are. --limit takes so many of the labelled rows. It always runs on this machine."""


def main(argv: Sequence[str]) -> int:
    """Ask what is not answered of the labelled rows, and print how right the answers are.

    Returns:
        0; 2 when --min_accuracy or --min_recall is given and not shown to be met.
    """
    if "--help" in argv or "-h" in argv:
        print(_USAGE + "\n" + options.help_text(EvaluateOptions))
        return 0
    given, beams = options.parse(argv, EvaluateOptions)
    figures.check_installed()
    other = _other(argv, given)
    asked = [given] if other is None else [given, other]
    tasks = [planning.task_of(each) for each in asked]
    truths = [each.limited(given.limit) for each in _truths(given, tasks)]
    wanted = gate.demands(given.min_accuracy, given.min_recall, tasks[0], truths[0])
    names = ("A", "B") if other is not None else ("the answers",)
    with terminable():
        sides = [measure(*each, beams) for each in zip(names, asked, truths, strict=True)]
    content: dict[str, Any] = {"evaluations": [side.report.as_json() for side in sides]}
    for side in sides:
        _print(side)
    if other is not None:
        compared = comparison.compare(*sides)
        console.table(*text.comparison_table(compared), narrow=True)
        content["comparison"] = compared.as_json()
        ways = [_as_asked(*pair, side) for pair, side in zip(((given, other), (other, given)), sides, strict=True)]
        console.say(f"\nA is {ways[0]}, B is {ways[1]}")
        for line in comparison.sentences(compared):
            console.say(line)
    if given.json is not None:
        files.write_text(given.json, json.dumps(content, indent=2, ensure_ascii=False) + "\n", "--json")
    refuse(wanted, sides[0].report)
    return 0


def demanded(given: Options) -> bool:
    """Whether `classify` must evaluate before it asks everything.

    Raises:
        ConfigError: a demand without labels, or labels without a demand.
    """
    wanted = bool(given.min_accuracy or given.min_recall)
    labels = given.labels_table is not None or given.labels_csv is not None
    if wanted and not labels:
        raise ConfigError("--min_accuracy and --min_recall need --labels_table=P.D.T or --labels_csv=PATH")
    if labels and not wanted:
        raise ConfigError("labels do nothing here without --min_accuracy or --min_recall; `evaluate` shows the figures")
    return wanted


def check(given: Options, task: Task, beams: Sequence[str]) -> None:
    """Evaluate for `classify`, and refuse the full run if the answers are not shown to be right enough.

    Args:
        given: the flags of classify; all labelled rows are asked, whatever --limit says.
        task: what is asked.
        beams: flags that are Beam's own.

    Raises:
        ConfigError: which demand is not met, with its figure and bound.
    """
    figures.check_installed()
    (labels,) = _truths(given, [task])
    wanted = gate.demands(given.min_accuracy, given.min_recall, task, labels)
    name = None if given.run_id is None else f"{given.run_id[:55]}_evaluate"
    # Without --limit, which is of the full run: many labelled rows want a budget, as many rows do anywhere.
    side = measure("the answers", dataclasses.replace(given, limit=None, run_id=name), labels, beams)
    if not given.quiet:
        _print(side)
    refuse(wanted, side.report)


def refuse(wanted: Sequence[gate.Demand], found: report.Report) -> None:
    """Raises ConfigError where a demand is not met."""
    lines = gate.shortfalls(wanted, found)
    if lines:
        raise ConfigError(f"not right enough on {found.rows:,} labelled rows: {'; '.join(lines)}")


def _truths(given: Options, tasks: Sequence[Task]) -> list[truth.Truth]:
    """The true answers to each task, of the same labels; what of them is not compared is said.

    Raises:
        ConfigError: as `read_labels` and `truth.check`, or there is nothing that has a score.
    """
    found = read_labels(given, tasks)
    truths = [truth.check(found, task) for task in tasks]
    for task, labels in zip(tasks, truths, strict=True):
        if not judging.scored(task, labels):
            raise ConfigError(
                f"{found.name}: it labels nothing but {', '.join(labels.questions)}, and boxes have no score"
            )
    ignored = [column for column in truths[0].ignored if all(column in each.ignored for each in truths)]
    if ignored and not given.quiet:
        names = " or ".join(dict.fromkeys(task.name for task in tasks))
        console.note(f"columns of {found.name} that are no question of {names}: {', '.join(ignored)}")
    return truths


def read_labels(given: Options, tasks: Sequence[Task]) -> truth.LabelRows:
    """The labels of these tasks' questions, from where the flags say.

    Raises:
        ConfigError: no labels are given or two, or they cannot be read.
    """
    if (given.labels_table is None) == (given.labels_csv is None):
        raise ConfigError("give exactly one of --labels_table and --labels_csv: the true answers to compare with")
    key_column = key_column_of(given)
    if given.labels_csv is not None:
        return truth.read_csv(files.read_text(given.labels_csv, "--labels_csv"), given.labels_csv, key_column)
    endpoint = Endpoint(planning.project_of(given), None, given.bigquery_endpoint, given.bigquery_storage_endpoint)
    table = TableName.parse(given.labels_table or "", "--labels_table")
    return fetch.labels(endpoint, table, key_column, {name for task in tasks for name in task.questions})


def key_column_of(given: Options) -> str:
    """The column of the labels that says which row they are of."""
    return given.label_key_column or _row_column(given)


def _row_column(given: Options) -> str:
    return given.asset_column if given.unit == "asset" else given.key_column


def measure(name: str, given: Options, labels: truth.Truth, beams: Sequence[str]) -> Side:
    """Ask the labelled rows that have no answer, and make the report of all of them.

    Args:
        name: what the report calls this way of asking.
        given: the flags.
        labels: the true answers.
        beams: flags that are Beam's own.
    """
    local = dataclasses.replace(given, runner="DirectRunner", mode="online", promote=False, accept_new_fingerprint=True)
    plan = planning.make(local, sorted(labels.rows))
    there = fetch.keys_in_input(plan.endpoint, plan.source, plan.query_job())
    if not there:
        filtered = ", and does --where leave them in" if given.where else ""
        raise ConfigError(
            f"none of the {len(labels.rows):,} labelled keys is in the input, such as {next(iter(labels.rows))}: is "
            f"{key_column_of(given)} the same as the input's {_row_column(given)}{filtered}?"
        )
    if plan.rows or plan.count.to_file:
        _ask(plan, beams)
    found = fetch.outcomes(
        plan.endpoint,
        answers=plan.answers,
        failures=plan.failures,
        fingerprint=plan.fingerprint,
        keys=there,
        task=plan.task,
        job=plan.query_job(),
    )
    made = report.make(
        report.Asked(name, plan.task, plan.fingerprint, plan.settings.model),
        labels,
        found,
        not_in_input=len(labels.rows) - len(there),
        not_asked=len(there) - len(found),
    )
    return Side(made, plan.task, labels, found)


def _ask(plan: Plan, beams: Sequence[str]) -> None:
    from pipeline import submit, worker  # with Beam: only when there is something to ask

    beam_options = submit.beam_options(beams, plan.options)
    classify.show(plan)
    planning.check_spending(plan)
    run = launch.prepare(plan, submit.processes(beam_options, plan.options), production=False)
    try:
        run_to_end(run, beam_options)
    finally:
        worker.close_all()


def _other(argv: Sequence[str], given: EvaluateOptions) -> EvaluateOptions | None:
    """The second way of asking, or None."""
    if given.compare is None:
        return None
    words = [f"--{word}" for word in _COMPARED.split(given.compare)]
    allowed = [field.name for field, spec in options.flags() if spec.group == options.QUESTION]
    for word in words:
        name = word.removeprefix("--").partition("=")[0]
        if name not in allowed or "=" not in word:
            raise ConfigError(f"--compare={given.compare}: expected NAME=VALUE with a name of {', '.join(allowed)}")
    other, _ = options.parse([*argv, *words], EvaluateOptions)
    if given.run_id is not None:
        other = dataclasses.replace(other, run_id=f"{given.run_id[:62]}_b")
    if not _differing(given, other):
        raise ConfigError(f"--compare={given.compare}: that is how the first one is asked too; name what differs")
    return other


def _differing(given: Options, other: Options) -> list[str]:
    names = [field.name for field, spec in options.flags() if spec.group == options.QUESTION]
    return [name for name in names if getattr(given, name) != getattr(other, name)]


def _as_asked(given: Options, other: Options, side: Side) -> str:
    """`task=road_signs, model=gemini-3.5-flash`: what sets one way of asking apart from the other."""
    values = {name: getattr(given, name) for name in _differing(given, other)}
    if values.get("model", "") is None:
        values["model"] = side.report.model
    return ", ".join(f"{name}={'the default' if value is None else value}" for name, value in values.items())


def _print(side: Side) -> None:
    for table in text.tables(side.report, console.out.width):
        console.table(*table, narrow=True)
    console.say()
    for line in (*text.disagreements(side.report), *text.notes(side.report)):
        console.say(line)
