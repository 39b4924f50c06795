"""Tasks: what is asked of every image. Pure: no Beam, no Google client (but for reading a task file from gs://)."""

from pipeline.task.answers import Invalid, Packed, Parsed
from pipeline.task.identity import Settings, differences, fingerprint, identity
from pipeline.task.parts import mime_type
from pipeline.task.task import Task
from pipeline.task.yaml_file import TaskError, builtin_names, parse, source

__all__ = [
    "Invalid",
    "Packed",
    "Parsed",
    "Settings",
    "Task",
    "TaskError",
    "builtin_names",
    "differences",
    "fingerprint",
    "identity",
    "mime_type",
    "parse",
    "source",
]
