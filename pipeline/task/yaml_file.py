"""Reads task files: YAML in, a `Task` out, or every mistake with its line and field."""

from __future__ import annotations

import importlib.resources
import os
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from pipeline.errors import ConfigError
from pipeline.task import yaml_tree
from pipeline.task.base import Question
from pipeline.task.parts import Example, Generation, MisfitError
from pipeline.task.questions import KINDS
from pipeline.task.task import Task

_BUILTIN = ("tasks",)
_SUFFIXES = (".yaml", ".yml")
_SAID = {
    "missing": "is missing",
    "less_than_equal": "must be at most {le:g}",
    "greater_than_equal": "must be at least {ge:g}",
    "string_type": "must be text: put it in quotes",
    "bool_type": "must be true or false",
    "dict_type": "must be a mapping (name: value)",
    "list_type": "must be a list",
    "tuple_type": "must be a list",
    "model_type": "must be a mapping (name: value)",
    "model_attributes_type": "must be a mapping (name: value)",
    "int_type": "must be a whole number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "union_tag_not_found": f"needs a type: one of {', '.join(KINDS)}",
    "union_tag_invalid": f"has an unknown type: it must be one of {', '.join(KINDS)}",
}


class TaskError(ConfigError):
    """A task file with mistakes; `problems` has a line for each, the message has the first."""

    def __init__(self, problems: Sequence[str], where: str) -> None:
        more = len(problems) - 1
        rest = f" (and {more} more: python -m pipeline tasks validate {where})" if more else ""
        super().__init__(problems[0] + rest)
        self.problems = tuple(problems)


def builtin_names() -> tuple[str, ...]:
    """The names of the tasks that come with the package, sorted."""
    folder = importlib.resources.files("pipeline").joinpath(*_BUILTIN)
    return tuple(sorted(each.name.removesuffix(".yaml") for each in folder.iterdir() if each.name.endswith(".yaml")))


def load(name_or_path: str) -> Task:
    """See `Task.load`."""
    return parse(source(name_or_path), name_or_path)


def source(name_or_path: str) -> str:
    """The YAML text of a built-in task or of a file, local or gs://.

    Raises:
        ConfigError: there is none, or it cannot be read.
    """
    if name_or_path.startswith("gs://"):
        return _read_gcs(name_or_path)
    if name_or_path.endswith(_SUFFIXES) or "/" in name_or_path or os.sep in name_or_path:
        try:
            return Path(name_or_path).read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
            raise ConfigError(f"task file {name_or_path}: {reason}") from error
    names = builtin_names()
    if name_or_path not in names:
        near = get_close_matches(name_or_path, names, n=1)
        hint = f"did you mean {near[0]}?" if near else f"built in are {', '.join(names)}"
        raise ConfigError(f"task {name_or_path!r} is not built in; {hint} (a file's name ends in .yaml)")
    return importlib.resources.files("pipeline").joinpath(*_BUILTIN, f"{name_or_path}.yaml").read_text("utf-8")


def _read_gcs(uri: str) -> str:
    # Imported here: the storage client costs most of a second, and only this case needs it.
    import google.auth.exceptions
    import google.cloud.storage
    from google.api_core.exceptions import GoogleAPIError
    from google.resumable_media import DataCorruption

    try:
        client = google.cloud.storage.Client()
        text: str = google.cloud.storage.Blob.from_uri(uri, client).download_as_text(encoding="utf-8", timeout=60)
    except google.auth.exceptions.GoogleAuthError as error:
        raise ConfigError(
            f"task file {uri}: no Google credentials ({error}); run: gcloud auth application-default login"
        ) from error
    except (GoogleAPIError, DataCorruption, OSError, ValueError) as error:
        raise ConfigError(f"task file {uri}: {' '.join(str(error).split())}") from error
    return text


def parse(text: str, where: str) -> Task:
    """A task of its YAML text.

    Args:
        text: the YAML.
        where: the file's name, for messages.

    Raises:
        TaskError: the text has mistakes.
    """
    try:
        root = yaml_tree.compose(text)
        if not isinstance(root, yaml.MappingNode):
            raise TaskError([f"{where}, line 1: must be a mapping with name, prompt and questions"], where)
        faults = [_line(where, *fault) for fault in yaml_tree.faults(root)]
        if faults:
            raise TaskError(faults, where)
        values = yaml_tree.values(root)
    except yaml_tree.NotYamlError as error:
        raise TaskError([f"{where}, line {error.line}: not YAML: {error}"], where) from error
    try:
        return Task.model_validate(values)
    except ValidationError as error:
        raise TaskError([_line(where, *_fault(each, root)) for each in error.errors()], where) from error


def _line(where: str, line: int, path: yaml_tree.Path, said: str) -> str:
    return f"{where}, line {line}: {yaml_tree.shown(path)} {said}"


def _fault(error: Mapping[str, Any], root: yaml.MappingNode) -> tuple[int, yaml_tree.Path, str]:
    """What pydantic says is wrong: line, path and words."""
    kind, more = error["type"], error.get("ctx", {})
    path: yaml_tree.Path = tuple(error["loc"])
    if path[:1] == ("questions",) and path[2:3] and path[2] in KINDS:
        path = (*path[:2], *path[3:])  # pydantic puts the kind of a question into the path
    inner = more.get("error")
    if isinstance(inner, MisfitError):
        path = inner.where
    line, path = yaml_tree.find(root, path, missing=kind == "missing")
    if kind == "extra_forbidden":
        said = _unknown_field(path, root)
    elif isinstance(inner, MisfitError):
        said = str(inner)
    elif kind.endswith("_type") and error["input"] is None:
        said = "is empty: give it a value, or leave the field out"
    elif kind in _SAID:
        said = _SAID[kind].format(**more)
    else:
        said = error["msg"][:1].lower() + error["msg"][1:]
    return line, path, said


def _unknown_field(path: yaml_tree.Path, root: yaml.MappingNode) -> str:
    model: type[BaseModel] = Task
    if path[0] == "generation":
        model = Generation
    elif path[0] == "examples":
        model = Example
    elif path[0] == "questions":
        model = KINDS.get(yaml_tree.scalar(root, (*path[:2], "type")), Question)
    names = list(model.model_fields)
    near = get_close_matches(str(path[-1]), names, n=1)
    hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(names)}"
    return f"is not a field here; {hint}"
