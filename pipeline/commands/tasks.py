"""`python -m pipeline tasks`: list, show, check and write task files. Imports neither Beam nor a Google client."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from pipeline.errors import ConfigError
from pipeline.task import Task, TaskError, builtin_names, source

_NEW = """\
# What is asked of every image. Check it with: python -m pipeline tasks validate {path}
# Use it with:                                  python -m pipeline classify --task={path} ...
name: {name}            # lower case; stands beside every answer
version: 1               # for people; what is asked, not its version, decides whether rows are asked again
description: What this task finds out, in one line.

# model: gemini-3.5-flash-lite     # default; --model wins

# system_instruction: >-           # who the model is to be
#   You inspect street furniture for a city.

# A column of the input in braces is replaced by the row's value, such as {{asset_type}}. Literal braces are doubled.
prompt: |
  Look at the most prominent object in this street-level image and answer the questions about it.

# reasoning: true                  # the model explains itself first: often more accurate, always more tokens

# Each question becomes a typed column. The model answers them in this order; the first `label` is the row's label.
# Without questions the task is free text: the model's text is the answer.
questions:
  object_type:
    type: label                    # one of a list
    description: What the object is.
    labels:                        # a list, or label: what it means; quote yes, no, on and off
      pole: Anything that stands upright and carries cables or lamps
      sign: Traffic signs and street names
      other: Neither
  damaged:
    type: boolean
    description: Whether it is visibly damaged.
  lamps:
    type: integer                  # or number
    minimum: 0
    maximum: 20
    description: How many lamps it carries.
  text:
    type: string
    optional: true                 # null where the image does not tell; for boolean, integer, number and string
    description: Words on the object exactly as they are written.
  # problems:
  #   type: labels                 # any number of a list
  #   labels: [rust, graffiti, leaning]
  # positions:
  #   type: boxes                  # [ymin, xmin, ymax, xmax] on a scale of 0 to 1000
  #   labels: [pole, lamp]

# examples:                        # images with their right answers, shown to the model before each question
#   - image: gs://my-bucket/example.jpg
#     answer: {{object_type: pole, damaged: false, lamps: 1, text: null}}

generation:
  media_resolution: low            # low, medium, high, ultra_high: the image's tokens, and so most of the price
  max_output_tokens: 1024          # a bound; only tokens really given are paid
  # thinking_level: minimal        # Gemini 3: minimal, low, medium, high; Gemini 2.5: thinking_budget
  # temperature: 0                 # Gemini 2.5; newer models ignore it
  # response_schema: false         # for a tuned endpoint that is to be asked as it was tuned; answers are checked anyway

# planned_output_tokens: 60        # for `plan`; default: by the kinds of the questions
"""


def main(argv: Sequence[str]) -> int:
    """Run `tasks [list | show NAME | validate PATH | new PATH]`.

    Returns:
        0; 2 when a task file has mistakes.

    Raises:
        ConfigError: a task or file that is not there, or is there already.
    """
    parser = argparse.ArgumentParser(prog="python -m pipeline tasks", description="Task files: what is asked.")
    actions = parser.add_subparsers(dest="action", metavar="ACTION")
    actions.add_parser("list", help="the tasks that come with the package (the default)")
    for action, what, said in (
        ("show", "NAME_OR_PATH", "a task file, and what follows from it: columns, schema, view"),
        ("validate", "NAME_OR_PATH", "every mistake of a task file, with its line and field"),
        ("new", "PATH", "write a commented task file to start from"),
    ):
        actions.add_parser(action, help=said).add_argument("task", metavar=what)
    try:
        args = parser.parse_args(list(argv))
    except SystemExit as end:  # argparse has said why
        return int(end.code or 0)
    if args.action == "show":
        return _show(args.task)
    if args.action == "validate":
        return _validate(args.task)
    if args.action == "new":
        return _new(args.task)
    return _list()


def _list() -> int:
    names = builtin_names()
    width = max(map(len, names))
    for name in names:
        print(f"{name:<{width}}  {Task.load(name).description}")
    print("\npython -m pipeline tasks show NAME prints one; tasks new my_task.yaml starts your own")
    return 0


def _show(name: str) -> int:
    text = source(name)
    task = Task.load(name)
    print(text.rstrip())
    print(f"\n# columns of the input that the prompt names: {', '.join(task.columns) or 'none'}")
    if task.is_free_text:
        print("# free text: the answer is in the column classification")
        return 0
    print("# typed columns of the task's view, from the column answer:")
    for column, kind, expression in task.view_columns():
        print(f"#   {column} {kind} = {expression}")
    print(f"# response schema:\n#   {json.dumps(task.response_schema, ensure_ascii=False)}")
    return 0


def _validate(name: str) -> int:
    try:
        task = Task.load(name)
    except TaskError as error:
        for problem in error.problems:
            print(problem, file=sys.stderr)
        return error.exit_code
    questions = f"{len(task.questions)} questions" if task.questions else "free text"
    print(f"{name}: task {task.name} version {task.version} is valid: {questions}")
    return 0


def _new(text: str) -> int:
    path = Path(text)
    if path.suffix not in (".yaml", ".yml"):
        raise ConfigError(f"tasks new {text}: a task file's name ends in .yaml")
    name = "".join(letter if letter.isalnum() and letter.isascii() else "_" for letter in path.stem.lower())
    name = name if name[:1].isalpha() else f"task_{name}"
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(_NEW.format(path=path, name=name))
    except FileExistsError as error:
        raise ConfigError(f"tasks new {text}: the file is there already; it was left as it is") from error
    except OSError as error:
        raise ConfigError(f"tasks new {text}: {error.strerror}") from error
    print(f"wrote {path}; check it with: python -m pipeline tasks validate {path}")
    return 0
