"""Writes `metadata.json`, the Flex Template's page, from the flags in `pipeline/options.py`: `make template-metadata`.

The service checks parameters against it before it starts a launcher, so that a misspelt flag or a table name of the
wrong form is refused within a second. Its fields are google.cloud.dataflow_v1beta3.TemplateMetadata's.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

from pipeline.options import FlagSpec, flag_types, flags

# The launcher sets these itself; a template must not declare them.
# https://cloud.google.com/dataflow/docs/guides/templates/configuring-flex-templates#pipeline-options
_SET_BY_THE_LAUNCHER = frozenset({"runner", "project", "job_name", "template_location", "region"})
# Refused on Dataflow: batch jobs are the model's own service's, and seen to by a process that waits for them.
_BATCH = frozenset({"mode", "deadline_hours", "batch_folder", "batch_requests", "batch_jobs"})
RESERVED = _SET_BY_THE_LAUNCHER | _BATCH

_SPELT = {
    "uri": "URI",
    "id": "ID",
    "usd": "(USD)",
    "secs": "(seconds)",
    "mtok": "million tokens",
    "vertex": "Vertex AI",
    "bigquery": "BigQuery",
    "num": "number of",
}

FILE = Path(__file__).with_name("metadata.json")

NAME = "Gemini image classification"
DESCRIPTION = (
    "Asks Gemini one question about every image in a BigQuery table, pays for each answer once, and leaves every row "
    "answered or accounted for. Running it again asks only what is new."
)


def parameters() -> list[dict[str, Any]]:
    """One ParameterMetadata for each flag that a user may give to a template, in the order of declaration."""
    kinds = flag_types()
    return [_parameter(field, spec, kinds[field.name]) for field, spec in flags() if field.name not in RESERVED]


def render() -> str:
    """The text of `metadata.json`."""
    content = {"name": NAME, "description": DESCRIPTION, "parameters": parameters()}
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def _parameter(field: dataclasses.Field[Any], spec: FlagSpec, kind: type) -> dict[str, Any]:
    declared: dict[str, Any] = {
        "name": field.name,
        "label": spec.label or _label(field.name),
        "helpText": spec.help,
        "groupName": spec.group,
        "isOptional": not spec.required,
        "paramType": _type(field.name, spec, kind),
    }
    regex = spec.regex or _number_regex(kind, spec.minimum)
    if declared["paramType"] == "GCS_WRITE_FOLDER":
        regex = "^gs://.+$"
    if regex:
        declared["regexes"] = [regex]
    if spec.choices:
        declared["enumOptions"] = [
            {"value": choice, "label": choice.replace("_", " ").capitalize()} for choice in spec.choices
        ]
    if kind is bool:
        declared["defaultValue"] = str(field.default).lower()
    elif field.default is not None:
        declared["defaultValue"] = str(field.default)
    return declared


def _label(name: str) -> str:
    """`max_cost_usd` to `Max cost (USD)`: words of the flag's name, spelt as people do."""
    words = [_SPELT.get(word, word) for word in name.split("_")]
    text = " ".join(words)
    return text[0].upper() + text[1:]


def _type(name: str, spec: FlagSpec, kind: type) -> str:
    """The console's input picker. Not BIGQUERY_TABLE: that one writes PROJECT:DATASET.TABLE."""
    if spec.choices:
        return "ENUM"
    if kind is bool:
        return "BOOLEAN"
    if kind in (int, float):
        return "NUMBER"
    return "GCS_WRITE_FOLDER" if name == "temp_location" else "TEXT"


def _number_regex(kind: type, minimum: float | None) -> str | None:
    """POSIX extended expression of a number that the flag reads; the least value is checked by sign alone."""
    if kind is int:
        if minimum is not None and minimum >= 1:
            return "^0*[1-9][0-9]*$"
        return "^[0-9]+$" if minimum is not None and minimum >= 0 else "^-?[0-9]+$"
    return r"^([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?$" if kind is float else None


if __name__ == "__main__":
    FILE.write_text(render(), "utf-8")
    sys.stdout.write(f"wrote {FILE.name}: {len(parameters())} parameters\n")
