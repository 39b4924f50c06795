"""`python -m pipeline report --output_table=... --out=report.html`: what was answered, on one page that opens offline."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from pipeline import console, files, options, planning
from pipeline.bigquery import tables
from pipeline.bigquery.client import Endpoint
from pipeline.errors import ConfigError
from pipeline.options import Options, flag
from pipeline.report import evaluation, gather, page, scope

_REPORT = "Report"
_USAGE = """usage: python -m pipeline report --project=P --output_table=P.D.T --out=report.html [--run_id=R] [--evaluation=PATH]

Writes one HTML file that opens without a network: books, answers, map, failures, money and time, a table to search. It is
about the question that was asked last, in all its runs; --run_id shows one run, --fingerprint another question.
BigQuery adds everything up, so the file stays small whatever the table's size."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReportOptions(Options):
    """The flags of `report`: where the tables are, and its own."""

    run_id: str | None = options.named_run("Run to report, instead of all runs of the question that was asked last.")
    out: str = flag("report.html", "File to write, local or gs://.", _REPORT)
    fingerprint: str | None = flag(
        None,
        "Version of the question to report, instead of the one asked last.",
        _REPORT,
        regex=r"^[a-z0-9_-]{1,64}$",
        form="a fingerprint as plan shows it, such as ad3f0b9fb93c5786",
    )
    evaluation: str | None = flag(None, "File that `evaluate --json` wrote, for accuracy and confusion.", _REPORT)
    rows: int = flag(1000, "Answers in the table, a random but stable choice of all labels.", _REPORT, minimum=1)
    map_by: str | None = flag(None, "Question that colours the map. Default: the label.", _REPORT)


_SHOWN = (
    *("project", "output_table", "failures_table", "runs_table", "run_id"),
    *("bigquery_endpoint", "bigquery_storage_endpoint"),
    *("out", "fingerprint", "evaluation", "rows", "map_by"),
)


def main(argv: Sequence[str]) -> int:
    """Write the report.

    Returns:
        0.

    Raises:
        ConfigError: a flag is wrong, or the tables have no run.
    """
    if "--help" in argv or "-h" in argv:
        print(f"{_USAGE}\n{options.help_text(ReportOptions, _SHOWN)}")
        return 0
    given, rest = options.parse(argv, ReportOptions)
    if rest:
        raise options.unknown_flag(rest[0], [field.name for field, _ in options.flags(ReportOptions)])
    if given.run_id and given.fingerprint:
        raise ConfigError("--run_id and --fingerprint exclude each other: a run has its fingerprint")
    page.check_installed()
    measured = evaluation.read(given.evaluation) if given.evaluation else []
    names = planning.table_names(given)
    endpoint = Endpoint(planning.project_of(given), None, given.bigquery_endpoint, given.bigquery_storage_endpoint)
    location = tables.check_dataset(endpoint, names[0], None)
    endpoint = dataclasses.replace(endpoint, location=location)
    found = scope.find(endpoint, names, run_id=given.run_id, fingerprint=given.fingerprint)
    shown = gather.gather(found, rows=given.rows, map_by=given.map_by)
    text = page.render(shown, measured)
    files.write_text(given.out, text, "--out")
    console.say(f"{given.out}: {shown.answered:,} answers of {found.task}, {len(text.encode()) / 1e6:,.1f} MB")
    return 0
