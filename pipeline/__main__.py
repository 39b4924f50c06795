"""`python -m pipeline COMMAND`: finds the command's module, and turns errors into one line and an exit code."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

from pipeline import stdio
from pipeline.errors import PipelineError

COMMANDS = {
    "classify": "ask the question about every row of the input and write the answers",
    "plan": "what classify would ask, cost and take; asks nothing",
    "audit": "the books of a run: every row answered, failed or not asked",
    "evaluate": "how right the answers are, on rows whose true answers are known; compare two ways of asking",
    "export_tuning": "examples for supervised tuning on Vertex AI, from labels or answers",
    "report": "what was answered, on one HTML page that opens offline",
    "doctor": "whether classify would work here: credentials, roles, tables, one image, one call",
    "tasks": "list, show, check or write task files",
    "subscribe": "subscribe to the Street View Insights listing",
    "demo": "classify drawn sample pictures with the embedded services; needs no Google Cloud",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        The exit code: 0 done, 2 wrong options or environment, others as `pipeline.errors` says.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help", "help"):
        print(_usage())  # noqa: T201 - this is a command's output
        return 0 if words else 2
    name, rest = words[0], words[1:]
    if name not in COMMANDS:
        print(f"error: {name!r} is not a command; one of: {', '.join(COMMANDS)}", file=sys.stderr)  # noqa: T201
        return 2
    try:
        module = importlib.import_module(f"pipeline.commands.{name}")  # seconds, in which an interrupt may come, too
        return int(module.main(rest))
    except PipelineError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted; the same command goes on where it stopped", file=sys.stderr)  # noqa: T201
        return 130


def _usage() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {text}" for name, text in COMMANDS.items()]
    return "usage: python -m pipeline COMMAND [--flag=value ...]\n\n" + "\n".join(lines)


if __name__ == "__main__":
    stdio.harden()
    sys.exit(main())
