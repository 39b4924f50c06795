"""`python -m pipeline demo`: the same `classify` as everywhere, on drawn sample pictures, with embedded services."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from pipeline import console
from pipeline.bigquery.client import Endpoint
from pipeline.bigquery.query import Query, run
from pipeline.errors import ConfigError

_REPORT = "demo_report.html"
_USAGE = f"""usage: python -m pipeline demo   (no flags)

Draws street scenes, starts a BigQuery emulator and a stand-in of Vertex AI on this machine, asks about the pictures by the
same classify as everywhere, and writes {_REPORT}. Needs no Google Cloud, and ends within a minute."""
_PROJECT = "demo-project"
_PICTURES = 300
_ANSWERS = f"{_PROJECT}.demo.answers"
_TEN = f"""SELECT key, label, JSON_VALUE(answer, '$.condition') AS condition,
  IFNULL(JSON_VALUE(answer, '$.legible_text'), '') AS text, FORMAT('%.4f', cost_usd * 1000) AS `$ per 1,000`
FROM `{_PROJECT}`.`demo`.`answers_latest` ORDER BY FARM_FINGERPRINT(key) LIMIT 10"""


def main(argv: Sequence[str]) -> int:
    """Draw, start the services, classify, show ten answers, write the report.

    Returns:
        The exit code of classify; its failures are part of the show and do not change it.
    """
    if "--help" in argv or "-h" in argv:
        print(_USAGE)
        return 0
    if argv:
        raise ConfigError("demo takes no flags")
    from pipeline.commands import classify, report

    try:
        from pipeline.local import samples
        from pipeline.local.bigquery import BigQueryEmulator
        from pipeline.local.vertex import VertexStandIn
    except ModuleNotFoundError as error:
        raise ConfigError(f"demo runs in a checkout of the source, by `make demo` ({error})") from error

    with tempfile.TemporaryDirectory(prefix="gemini-image-demo-") as folder, console.err.status("starting") as status:
        root = Path(folder)
        status.update(f"drawing {_PICTURES} pictures")
        pictures = samples.draw_samples(root, _PICTURES)
        bad = samples.bad_rows(root, pictures)
        status.update("starting a BigQuery emulator and a stand-in of Vertex AI on this machine")
        with BigQueryEmulator() as bigquery, VertexStandIn(root, latency_secs=0.3, latency_p99_secs=2.0) as vertex:
            endpoint = Endpoint(_PROJECT, "US", bigquery.rest, bigquery.storage)
            with endpoint.client() as client:
                client.create_dataset("demo", exists_ok=True)
                table = samples.fill_tables(client, pictures, extra_rows=bad)
            status.stop()
            flags = [
                f"--project={_PROJECT}",
                f"--input_table={table}",
                f"--output_table={_ANSWERS}",
                "--task=road_signs",
                "--where=asset_type = 'ASSET_CLASS_ROAD_SIGN'",
                "--max_failure_ratio=1",
            ]
            console.note("python -m pipeline classify \\\n  " + " \\\n  ".join(map(_quoted, flags)) + "\n")
            local = [
                f"--bigquery_endpoint={bigquery.rest}",
                f"--bigquery_storage_endpoint={bigquery.storage}",
                f"--vertex_endpoint={vertex.endpoint}",
            ]
            code = classify.main([*flags, *local])
            rows = run(endpoint, Query(_TEN))
            console.table("Ten answers", list(rows[0]), [list(row.values()) for row in rows])
            console.say("python -m pipeline report ...")
            report.main([f"--project={_PROJECT}", f"--output_table={_ANSWERS}", f"--out={_REPORT}", *local[:2]])
    console.note(
        f"\nOpen {_REPORT} in a browser.\n"
        "The answers come from the pictures' pixels, by a stand-in: this shows the pipeline, not Gemini's accuracy.\n"
        "On your own project:\n"
        "  . .venv/bin/activate && gcloud auth application-default login\n"
        "  python -m pipeline plan --project=P --input_table=P.D.T --output_table=P.D.answers --limit=10\n"
        "  python -m pipeline classify ...the same flags..."
    )
    return code


def _quoted(flag: str) -> str:
    return f'"{flag}"' if " " in flag else flag
