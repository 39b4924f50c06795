"""Every flag of the pipeline, declared once: the parser, the README's table and the template's metadata come from here.

No Beam import: light commands (`plan`, `audit`, `doctor`) read the same flags without paying for it.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import functools
import math
import re
import types
import typing
from collections.abc import Sequence
from typing import Any, NoReturn

from pipeline.errors import ConfigError


@dataclasses.dataclass(frozen=True, slots=True)
class FlagSpec:
    """What is known of a flag beside its name, type and default.

    Attributes:
        help: one sentence, for `--help`, the README and the template's page.
        group: heading under which it stands.
        label: short name on the template's page; derived from the flag's name when empty.
        choices: the allowed values, or empty.
        regex: POSIX extended expression that a non-empty value matches, or None.
        form: what `regex` stands for, in words and by an example.
        minimum: least allowed number, or None.
        maximum: largest allowed number, or None.
        required: `classify` cannot do without it.
        beam: the flag is Beam's own: it is read here and passed on.
    """

    help: str
    group: str
    label: str = ""
    choices: tuple[str, ...] = ()
    regex: str | None = None
    form: str = ""
    minimum: float | None = None
    maximum: float | None = None
    required: bool = False
    beam: bool = False


def flag(default: Any, help: str, group: str, **more: Any) -> Any:  # noqa: A002 - argparse's own word
    """A dataclass field that is a command line flag."""
    return dataclasses.field(default=default, metadata={"spec": FlagSpec(help, group, **more)})


_TABLE = {"regex": r"^[^`[:space:]]+\.[^.`[:space:]]+\.[^.`[:space:]]+$", "form": "PROJECT.DATASET.TABLE"}
_NAME = {"regex": r"^[A-Za-z_][A-Za-z0-9_]*$", "form": "the name of a column, such as observation_id"}
_RUNNERS = ("DirectRunner", "DataflowRunner", "PrismRunner")

INPUT = "Input"
OUTPUT = "Output"
QUESTION = "Question"
PACE = "Pace and limits"
MONEY = "Money"
ACCURACY = "Accuracy"
SERVICE = "Services"
RUN = "Run"


def named_run(help: str) -> Any:  # noqa: A002 - argparse's own word
    """The flag `--run_id` of a command, to which it means this."""
    form = "up to 64 of a-z, 0-9 and _, such as poles_2026_11"
    return flag(None, help, RUN, regex=r"^[a-z0-9_]{1,64}$", form=form)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """The flags of `classify` and `plan`, checked one by one; what needs several or a service is checked in `launch`."""

    input_table: str | None = flag(None, "Table of image URIs, PROJECT.DATASET.TABLE.", INPUT, **_TABLE)
    input_query: str | None = flag(None, "SQL whose result is the input, instead of a table.", INPUT)
    where: str | None = flag(None, "SQL condition on the input's columns.", INPUT)
    limit: int | None = flag(
        None, "Ask at most this many rows, a random but stable choice. Unusable rows do not count.", INPUT, minimum=1
    )
    key_column: str = flag("observation_id", "Column that identifies a row.", INPUT, **_NAME)
    uri_column: str = flag("gcs_uri", "Column with the gs:// URI of the image.", INPUT, **_NAME)
    unit: str = flag(
        "image",
        "What one question is about: an image, or an asset, whose images are asked in one call and get one answer.",
        INPUT,
        choices=("image", "asset"),
    )
    asset_column: str = flag("asset_id", "Column that identifies an asset, for --unit=asset.", INPUT, **_NAME)
    max_images_per_asset: int = flag(
        10, "Images of an asset that are asked at most, the newest, for --unit=asset.", INPUT, minimum=1
    )
    keep_columns: tuple[str, ...] | None = flag(
        None,
        "Input columns stored beside each answer, comma-separated. Default, where present: asset_id, asset_type, "
        "snapshot_id, capture_time, map_url, latitude, longitude.",
        INPUT,
    )
    retry_failed: str = flag(
        "retryable",
        "Which rows that failed before are asked again.",
        INPUT,
        choices=("none", "retryable", "all"),
    )

    output_table: str | None = flag(None, "Table of answers, PROJECT.DATASET.TABLE.", OUTPUT, **_TABLE, required=True)
    failures_table: str | None = flag(None, "Table of failures. Default: <output_table>_failures.", OUTPUT, **_TABLE)
    runs_table: str | None = flag(None, "Table of runs. Default: <output_table>_runs.", OUTPUT, **_TABLE)
    promote: bool = flag(False, "Make this run's fingerprint the one that <output_table>_current shows.", OUTPUT)

    task: str = flag("describe", "Name of a built-in task, or path of a YAML file (local or gs://).", QUESTION)
    prompt: str | None = flag(None, "Text that replaces the task's prompt.", QUESTION)
    model: str | None = flag(
        None, "Model id, tuned endpoint id or full resource name. Default: gemini-3.5-flash-lite.", QUESTION
    )
    media_resolution: str | None = flag(
        None,
        "Image detail, which sets the image's tokens and so its price. Default: low, or what the task says.",
        QUESTION,
        choices=("low", "medium", "high", "ultra_high"),
    )
    max_output_tokens: int | None = flag(
        None, "Limit of an answer's tokens. Default: what the task says.", QUESTION, minimum=1
    )
    temperature: float | None = flag(
        None, "Sampling temperature, 0 to 2; newer models ignore it.", QUESTION, minimum=0, maximum=2
    )
    thinking_budget: int | None = flag(
        None, "Thinking tokens of a Gemini 2.5 model; 0 turns thinking off.", QUESTION, minimum=-1
    )
    thinking_level: str | None = flag(
        None,
        "Thinking of a Gemini 3 model. Default: the least that the model allows.",
        QUESTION,
        choices=("minimal", "low", "medium", "high"),
    )
    images_per_request: int = flag(
        1, "Images asked in one call; more saves prompt tokens but may cost accuracy.", QUESTION, minimum=1
    )

    image_source: str = flag(
        "uri",
        "Who reads the images: Vertex AI by their URI, or the worker, which sends their bytes inline.",
        QUESTION,
        choices=("uri", "inline"),
    )
    crop_to_bbox: bool = flag(
        False, "Send only what lies in the row's box, for --image_source=inline; a row without a box fails.", QUESTION
    )
    bbox_column: str = flag(
        "bbox",
        "Column with the box, STRUCT<lo STRUCT<x, y>, hi STRUCT<x, y>> in pixels of the stored image.",
        QUESTION,
        regex=r"^[A-Za-z_][A-Za-z0-9_.]*$",
        form="the name of a column or of a field in one, such as bbox or camera.bbox",
    )
    crop_margin: float | None = flag(
        None,
        "What is sent beyond the box on each side, as a share of the box's longer side. Default: 0.1.",
        QUESTION,
        minimum=0,
    )
    max_image_pixels: int | None = flag(
        None,
        "Larger images are made smaller, for --image_source=inline; 0 for never. Default: as many pixels as "
        "--media_resolution can use.",
        QUESTION,
        minimum=0,
    )

    max_in_flight: int = flag(
        512,
        "Calls in flight of one worker process, at most 10,000.",
        PACE,
        minimum=1,
        maximum=10_000,  # measured up to 4,000; each hundred is one more connection
    )
    requests_per_minute: float | None = flag(
        None, "Cap of the whole job; each process gets its share.", PACE, minimum=0.001
    )
    tokens_per_minute: float | None = flag(None, "Cap of the whole job; each process gets its share.", PACE, minimum=1)
    request_timeout_secs: float | None = flag(
        None, "Time that one call may take. Default: 120, or 1800 for the flex tier.", PACE, minimum=1, maximum=3600
    )
    max_attempts: int = flag(
        5, "Attempts that a row has; a rejection for quota costs none.", PACE, minimum=1, maximum=100
    )
    service_tier: str = flag(
        "standard",
        "Shared capacity to use: flex costs half and may take minutes, priority costs more.",
        PACE,
        choices=("standard", "flex", "priority"),
    )
    mode: str = flag(
        "online",
        "How to ask: online, in batch jobs (half the price, a day or more), or auto: online what is small or urgent.",
        PACE,
        choices=("online", "batch", "auto"),
    )
    deadline_hours: float | None = flag(
        None,
        "When the answers are wanted, in hours from the start of the run, for --mode=auto.",
        PACE,
        minimum=0,
        maximum=8760,  # a year: later is never, and no date
    )
    batch_folder: str | None = flag(
        None,
        "Folder for requests and results of batch jobs, gs://BUCKET/FOLDER. Default: what --temp_location says.",
        PACE,
    )
    batch_requests: int = flag(100_000, "Rows of one batch job, at most 200,000.", PACE, minimum=1)
    batch_jobs: int = flag(8, "Batch jobs at once.", PACE, minimum=1)

    max_cost_usd: float | None = flag(
        None, "Budget of this fingerprint in dollars, across resumed runs.", MONEY, minimum=0
    )
    price_usd_per_mtok: str | None = flag(
        None,
        "Price of a million input and output tokens, IN,OUT, for a model that the price table does not know.",
        MONEY,
        regex=r"^[0-9]*\.?[0-9]+,[0-9]*\.?[0-9]+$",
        form="IN,OUT in dollars, such as 0.30,2.50",
    )
    accept_new_fingerprint: bool = flag(
        False, "Buy answers again although the table has some to another version of this question.", MONEY
    )
    maximum_bytes_billed: int | None = flag(
        None,
        "Limit of the bytes that one BigQuery query may bill, 10,485,760 or more.",
        MONEY,
        minimum=10_485_760,  # BigQuery bills no query for less, and refuses a lower limit
    )
    max_failure_ratio: float = flag(
        0.01, "Share of failed rows above which the exit code is 3.", MONEY, minimum=0, maximum=1
    )
    allow_concurrent_runs: bool = flag(
        False, "Start although another run of the same question seems to be alive; rows may be paid twice.", MONEY
    )

    labels_table: str | None = flag(
        None,
        "Table of true answers: a column with the row's key, and one for each question that is labelled.",
        ACCURACY,
        **_TABLE,
    )
    labels_csv: str | None = flag(None, "CSV file of true answers, local or gs://, instead of a table.", ACCURACY)
    label_key_column: str | None = flag(
        None,
        "Column of the labels with the row's key. Default: what --key_column says, or --asset_column for --unit=asset.",
        ACCURACY,
        **_NAME,
    )
    min_accuracy: tuple[str, ...] | None = flag(
        None,
        "Ask the labelled rows first, and the others only if the accuracy is shown to be at least this (lower bound of "
        "its 95 % interval): 0.9 for every labelled question, or QUESTION:0.9, comma-separated.",
        ACCURACY,
    )
    min_recall: tuple[str, ...] | None = flag(
        None, "Likewise for the recall of a label: QUESTION=LABEL:0.8, comma-separated.", ACCURACY
    )

    project: str | None = flag(None, "Google Cloud project that is billed.", SERVICE, beam=True)
    vertex_location: str | None = flag(
        None, "Location of the model. Default: the input's own (us or eu), never global unless said.", SERVICE
    )
    vertex_endpoint: str | None = flag(
        None, "HOST:PORT of Vertex AI. Plaintext and anonymous for a loopback address, else TLS.", SERVICE
    )
    bigquery_endpoint: str | None = flag(None, "URL of the BigQuery REST API.", SERVICE)
    bigquery_storage_endpoint: str | None = flag(None, "HOST:PORT of the BigQuery Storage API.", SERVICE)

    runner: str = flag("DirectRunner", "Beam runner: DirectRunner, DataflowRunner or PrismRunner.", RUN, beam=True)
    region: str | None = flag(None, "Dataflow region.", RUN, beam=True)
    temp_location: str | None = flag(None, "gs:// folder for Dataflow's temporary files.", RUN, beam=True)
    max_num_workers: int | None = flag(None, "Most workers of the Dataflow job.", RUN, beam=True, minimum=1)
    run_id: str | None = named_run("Name of the run. Default: the time and a few random letters.")
    quiet: bool = flag(False, "Print nothing but the summary.", RUN)

    def __post_init__(self) -> None:
        for field, spec in flags(type(self)):
            _check(field.name, getattr(self, field.name), spec)
        object.__setattr__(self, "runner", _runner(self.runner))

    @property
    def on_dataflow(self) -> bool:
        """Whether the job outlives its launcher."""
        return self.runner == "DataflowRunner"


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluateOptions(Options):
    """The flags of `evaluate`: those of `classify`, and its own."""

    compare: str | None = flag(
        None,
        "A second way of asking, as flags that differ: model=NAME, task=NAME_OR_PATH, images_per_request=8 or another "
        "flag about the question, comma-separated.",
        ACCURACY,
    )
    json: str | None = flag(None, "File for the figures as JSON, local or gs://.", ACCURACY)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TuningOptions(Options):
    """The flags of `export_tuning`: those of `classify`, and its own."""

    output: str | None = flag(
        None, "Folder for train.jsonl and validation.jsonl, local or gs://BUCKET/FOLDER.", ACCURACY, required=True
    )
    validation_share: float = flag(
        0.1, "Share of the examples that go to validation.jsonl, below 1.", ACCURACY, minimum=0
    )
    group_column: str | None = flag(
        None,
        "Column whose rows stay together in one of the two files, such as views of one asset. Default: what "
        "--asset_column says, where present.",
        ACCURACY,
        **_NAME,
    )


_Kind = typing.TypeVar("_Kind", bound=Options)


def flags(kind: type[Options] = Options) -> tuple[tuple[dataclasses.Field[Any], FlagSpec], ...]:
    """All flags of a command in the order of declaration: (field, spec) pairs."""
    return tuple((field, field.metadata["spec"]) for field in dataclasses.fields(kind))


def flag_types(kind: type[Options] = Options) -> dict[str, type]:
    """Name of each flag to its plain type: str, int, float, bool, or tuple for a comma-separated list."""
    hints = typing.get_type_hints(kind)
    return {field.name: _plain(hints[field.name]) for field, _ in flags(kind)}


@typing.overload
def parse(argv: Sequence[str]) -> tuple[Options, list[str]]: ...


@typing.overload
def parse(argv: Sequence[str], kind: type[_Kind]) -> tuple[_Kind, list[str]]: ...


def parse(argv: Sequence[str], kind: type[Options] = Options) -> tuple[Options, list[str]]:
    """Flags to the options of a command; what is left over is for Beam's own parser.

    An empty value (`--limit=`) means the default: a template passes empty parameters that way.

    Raises:
        ConfigError: a value of the wrong form, with the flag, the value and the expected form.
    """
    parser = _Parser(prog="python -m pipeline", add_help=False, allow_abbrev=False)
    add_arguments(parser, kind)
    for word in argv:
        if word.endswith("=--"):  # argparse would take the value for its own end-of-flags mark
            raise ConfigError(f"{word}: -- is no value")
    known, rest = parser.parse_known_args(list(argv))
    for before, word in zip(["", *rest], rest, strict=False):
        if word.startswith("--") or (before.startswith("--") and "=" not in before):
            continue
        if word.startswith("-"):
            raise ConfigError(f"{word}: write it with two dashes, -{word}")
        raise ConfigError(f"{word!r} is not a flag: flags are written --name=value")
    return kind(**{name: value for name, value in vars(known).items() if value is not None}), rest


def add_arguments(
    parser: argparse.ArgumentParser, kind_of_options: type[Options] = Options, *, without_beams_own: bool = False
) -> None:
    """Add every flag to an argparse parser; the defaults stay with the options."""
    kinds = flag_types(kind_of_options)
    for field, spec in flags(kind_of_options):
        if spec.beam and without_beams_own:
            continue
        kind = kinds[field.name]
        read = functools.partial(_read, field.name, kind)
        if kind is bool:
            parser.add_argument(f"--{field.name}", type=read, nargs="?", const=True, default=None, help=spec.help)
        else:
            parser.add_argument(f"--{field.name}", type=read, default=None, help=spec.help)


def unknown_flag(word: str, more_names: Sequence[str] = ()) -> ConfigError:
    """The error for a flag that nobody knows, with the nearest known one."""
    name = word.lstrip("-").split("=", 1)[0]
    names = [field.name for field, _ in flags()] + list(more_names)
    near = difflib.get_close_matches(name, names)
    near.sort(
        key=lambda each: sorted(each) != sorted(name)
    )  # letters in another order come first: modle is model, not mode
    hint = f"did you mean --{near[0]}?" if near else "the same command with --help shows those that are"
    return ConfigError(f"--{name} is not a flag of this pipeline; {hint}")


def help_text(kind: type[Options] = Options, only: Sequence[str] = ()) -> str:
    """The flags by group, for `--help`; of a command that reads few of them, only these."""
    lines: list[str] = []
    group = ""
    for field, spec in flags(kind):
        if only and field.name not in only:
            continue
        if spec.group != group:
            group = spec.group
            lines.append(f"\n{group}:")
        default = "" if field.default in (None, False) else f" (default {field.default})"
        choices = f" One of {', '.join(spec.choices)}." if spec.choices else ""
        lines.append(f"  --{field.name:<26} {spec.help}{choices}{default}")
    return "\n".join(lines)


class _Parser(argparse.ArgumentParser):
    """argparse with our errors: one line, no usage text."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(message)


def _plain(hint: Any) -> type:
    """`int | None` to int, `tuple[str, ...] | None` to tuple."""
    if isinstance(hint, types.UnionType):
        hint = next(arg for arg in typing.get_args(hint) if arg is not type(None))
    return typing.cast(type, typing.get_origin(hint) or hint)


def _read(name: str, kind: type, text: str) -> Any:
    """One flag's text as its type; None for an empty text."""
    text = text.strip() if kind is not str else text
    if text == "":
        return None
    if kind is bool:
        if text.lower() not in ("true", "false"):
            raise ConfigError(f"--{name}={text}: expected true or false")
        return text.lower() == "true"
    if kind is tuple:
        return tuple(part.strip() for part in text.split(",") if part.strip())
    try:
        value = kind(text)
    except ValueError:
        value = math.nan
    if kind in (int, float) and not -(2**63) <= value < (2**63 if kind is int else math.inf):  # what BigQuery can store
        raise ConfigError(f"--{name}={text}: expected {'a whole number' if kind is int else 'a number'}")
    return value


def _plain_number(value: float) -> str:
    return f"{int(value):,}" if value == int(value) else f"{value:g}"


def _check(name: str, value: Any, spec: FlagSpec) -> None:
    if value is None:
        return
    if spec.choices and value not in spec.choices:
        raise ConfigError(f"--{name}={value}: expected one of {', '.join(spec.choices)}")
    if spec.minimum is not None and not value >= spec.minimum:
        raise ConfigError(f"--{name}={value}: expected at least {_plain_number(spec.minimum)}")
    if spec.maximum is not None and value > spec.maximum:
        raise ConfigError(f"--{name}={value}: expected at most {_plain_number(spec.maximum)}")
    if spec.regex and not re.search(spec.regex.replace("[:space:]", r"\s"), value):
        raise ConfigError(f"--{name}={value}: expected {spec.form}")


def _runner(name: str) -> str:
    """A runner as Beam spells it, whose own parser takes `dataflow` for DataflowRunner; or the path of a class.

    Raises:
        ConfigError: neither of the three runners nor a path.
    """
    for known in _RUNNERS:
        if name.lower() in (known.lower(), known.lower().removesuffix("runner")):
            return known
    if "." not in name:
        raise ConfigError(f"--runner={name}: expected one of {', '.join(_RUNNERS)}")
    return name


def markdown(kind: type[Options] = Options) -> str:
    """The flags as the README's table, of another command only its own; a test holds text and flags equal."""
    lines = ["| flag | default | meaning |", "|---|---|---|"]
    shared = {field.name for field, _ in flags()} if kind is not Options else set()
    for field, spec in flags(kind):
        if field.name in shared:
            continue
        default = "" if field.default is None or isinstance(field.default, bool) else f"`{field.default}`"
        text = spec.help + (f" One of {', '.join(f'`{choice}`' for choice in spec.choices)}." if spec.choices else "")
        lines.append(f"| `--{field.name}` | {default} | {text.replace('|', '/')} |")
    return "\n".join(lines)
