"""`python -m pipeline doctor`: tries, once and in small, all that classify needs, by the same flags."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline import checkup, console, options
from pipeline.commands.classify import check
from pipeline.errors import ConfigError, PipelineError

_USAGE = """usage: python -m pipeline doctor --flag=value ...   (the flags of classify)

Tries credentials, BigQuery, the input, the output, reading, writing, the model and one image, and says in one line each
whether it works, or what to mend. It costs one query over the input's columns and about two calls to the model; the
tables that it makes beside the answers are deleted again. Exit code 0, or 2 when something does not work."""


_STYLES = {"ok": "", "-": "dim", "FAIL": "bold red"}


def main(argv: Sequence[str]) -> int:
    """Print a line for each check.

    Returns:
        0 when all works, else 2.
    """
    if "--help" in argv or "-h" in argv:
        print(_USAGE + "\n" + options.help_text())
        return 0
    given, rest = options.parse(argv)
    check(argv, given, rest)
    patient = checkup.Patient(given)
    failed: list[str] = []
    not_tried: list[str] = []
    try:
        for step in checkup.STEPS:
            lacking = [name for name in step.needs if name in (*failed, *not_tried)]
            if lacking:
                not_tried.append(step.name)
                _say("-", step.name, f"not tried: it needs {' and '.join(lacking)}")
                continue
            try:
                _say("ok", step.name, step.check(patient))
            except PipelineError as error:
                failed.append(step.name)
                _say("FAIL", step.name, str(error))
    finally:
        for table in patient.clean_up():
            console.note(
                f"warning: {table} could not be deleted; `bq rm -t {table.project}:{table.dataset}.{table.table}`"
            )
    if not failed:
        console.say("all works: classify can run with these flags")
        return 0
    console.say(f"{', '.join(failed)}: mend the first and run doctor again")
    return ConfigError.exit_code


def _say(state: str, name: str, text: str) -> None:
    console.say(f"{state:<5} {name:<14} {text}", style=_STYLES[state])
