"""What is asked of every image: prompt, questions, examples, generation settings, and all that follows from them."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Collection, Mapping, Sequence
from difflib import get_close_matches
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictStr, field_validator, model_validator
from pydantic_core import PydanticCustomError

from pipeline.errors import ConfigError
from pipeline.rows import ANSWER_COLUMNS
from pipeline.task.answers import PACK_KEY, PACK_TEXT, Invalid, Packed, Parsed, Reader
from pipeline.task.labels import Label
from pipeline.task.parts import MAX_OUTPUT_TOKENS, Example, Generation, MisfitError
from pipeline.task.questions import AnyQuestion
from pipeline.task.template import Template, TemplateError
from pipeline.task.values import Text

REASONING = "reasoning"
CHARS_PER_TOKEN = 4  # Gemini documentation, "Understand and count tokens": a token is about 4 characters of English
FREE_TEXT_TOKENS = 300  # planned output of a free-text task that does not say; a guess, `plan --sample` measures

_NAME = re.compile(r"[a-z][a-z0-9_]{0,62}")
_NAME_SAID = "must be lower-case letters, digits and underscores, a letter first, at most 63, such as road_signs"
_ANSWER_COLUMNS = frozenset(column.name for column in ANSWER_COLUMNS)
_REASON = "Before the other answers: in one or two sentences, what in the image decides them."


class Task(BaseModel):
    """One question, or several, to ask of every image.

    A task without questions is a free-text task: the model's text is the answer. Immutable and picklable.

    Attributes:
        name: lower-case identifier; stands beside every answer.
        version: for people; it changes no fingerprint, what is asked does.
        questions: by name, in the order in which the model answers them; a name becomes a column of the task's view.
        reasoning: True, or what to write: the model explains itself first, in a property `reasoning`.
        planned_output_tokens: for plan and pace; default: by the kinds of the questions.

    Example:
        task = Task.load("road_signs")
        answer = task.parse('{"sign_type": "Stop", ...}')
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: StrictStr
    version: int = Field(default=1, ge=1, strict=True)
    description: StrictStr = ""
    model: StrictStr | None = None
    system_instruction: StrictStr = ""
    prompt: StrictStr
    reasoning: StrictBool | StrictStr = False
    questions: dict[str, AnyQuestion] = Field(default_factory=dict)
    examples: tuple[Example, ...] = ()
    generation: Generation = Generation()
    planned_output_tokens: int | None = Field(default=None, ge=1, le=MAX_OUTPUT_TOKENS, strict=True)

    @classmethod
    def load(cls, name_or_path: str) -> Task:
        """A built-in task by its name, or a task file by its path, local or gs://.

        Raises:
            ConfigError: no such task or file, or a file with mistakes: each with its line and field.
        """
        from pipeline.task.yaml_file import load

        return load(name_or_path)

    def with_prompt(self, text: str) -> Task:
        """This task with another prompt text (`--prompt`).

        Raises:
            ConfigError: the text is empty, or has a brace that is neither doubled nor around a column.
        """
        text = text.strip()
        try:
            if not text:
                raise TemplateError("the prompt is empty")
            Template(text)
        except TemplateError as error:
            raise ConfigError(f"--prompt: {error}") from error
        return Task(**{**{field: getattr(self, field) for field in type(self).model_fields}, "prompt": text})

    @property
    def columns(self) -> tuple[str, ...]:
        """The input columns that the prompt names, once each."""
        return self._template.columns

    @property
    def is_free_text(self) -> bool:
        return not self.questions

    def check_columns(self, available: Collection[str]) -> None:
        """Compare the prompt with the input's columns, before the run.

        Raises:
            ConfigError: the prompt names a column that the input does not have.
        """
        for name in self.columns:
            if name not in available:
                near = get_close_matches(name, list(available), n=1)
                hint = f"did you mean {{{near[0]}}}?" if near else f"it has {', '.join(sorted(available))}"
                raise ConfigError(
                    f"task {self.name}: the prompt names {{{name}}}, which is not a column of the input; {hint} "
                    "(a literal brace is doubled)"
                )

    def prompt_for(self, columns: Mapping[str, Any]) -> str:
        """The prompt of one row."""
        return self._template.render(columns)

    def pack_prompt(self, keys: Sequence[str]) -> str:
        """The prompt of several images, to stand after them."""
        text = PACK_TEXT if self.is_free_text else ", ".join(self.response_schema["propertyOrdering"])  # type: ignore[index]
        return (
            f"{self._template.generic()}\n\nDo this for each of the {len(keys)} images above by itself, as if it were "
            f"the only one. Answer with a JSON array of {len(keys)} objects, one for each of {', '.join(keys)}, with "
            f"the image's name as {PACK_KEY}, and with {text}."
        )

    def pack_facts(self, columns: Mapping[str, Any]) -> str:
        """What stands beside one image of several: the values of the columns that the prompt names, or nothing."""
        return self._template.facts(columns)

    @functools.cached_property
    def response_schema(self) -> dict[str, Any] | None:
        """JSON schema of an answer, for `response_json_schema`; None for a free-text task.

        `propertyOrdering` is what keeps the order: the schema travels as a map, whose order is lost.
        """
        if self.is_free_text:
            return None
        properties: dict[str, Any] = {}
        if self.reasoning:
            text = self.reasoning if isinstance(self.reasoning, str) else _REASON
            properties[REASONING] = {"type": "string", "description": text}
        properties |= {name: question.answer_schema() for name, question in self.questions.items()}
        return _object(properties)

    def pack_schema(self, keys: Sequence[str]) -> dict[str, Any]:
        """JSON schema of an answer to several images: an array with one object for each key."""
        own = self.response_schema["properties"] if self.response_schema else {PACK_TEXT: {"type": "string"}}
        item = _object({PACK_KEY: {"type": "string", "enum": list(keys)}, **own})
        return {"type": "array", "items": item, "minItems": len(keys), "maxItems": len(keys)}

    def parse(self, text: str) -> Parsed | Invalid:
        """What the model's text says, checked against the questions."""
        return self._reader.read(text)

    def parse_pack(self, text: str, keys: Sequence[str]) -> dict[str, Packed] | Invalid:
        """What the model's text says of each of several images; see `Reader.read_pack`."""
        return self._reader.read_pack(text, keys)

    def correction(self, why: str) -> str:
        """What is added to the prompt when an answer was invalid: what was wrong and what is allowed."""
        lines = [f"Your last answer to this could not be used: {why}."]
        if not self.is_free_text:
            lines.append("Answer again with one JSON object and nothing else, where")
            lines += [f"- {name} is {question.allowed()}" for name, question in self.questions.items()]
        return "\n".join(lines)

    def view_columns(self) -> list[tuple[str, str, str]]:
        """Typed columns of the task's view: (name, BigQuery type, GoogleSQL expression over the JSON column answer)."""
        reasoning = [(REASONING, *Text(type="string").column(REASONING))] if self.reasoning and self.questions else []
        return reasoning + [(name, *question.column(name)) for name, question in self.questions.items()]

    def planned_answer_tokens(self) -> int:
        """Output tokens that an answer is planned with, thinking not included."""
        if self.planned_output_tokens:
            return self.planned_output_tokens
        if self.is_free_text:
            return FREE_TEXT_TOKENS
        names = sum(len(name) + 6 for name in self.questions) // CHARS_PER_TOKEN
        return (60 if self.reasoning else 0) + names + sum(each.planned_tokens() for each in self.questions.values())

    @functools.cached_property
    def _template(self) -> Template:
        return Template(self.prompt)

    @functools.cached_property
    def _reader(self) -> Reader:
        readers = {REASONING: Text(type="string").reader()} if self.reasoning and self.questions else {}
        readers |= {name: question.reader() for name, question in self.questions.items()}
        label = next((name for name, question in self.questions.items() if isinstance(question, Label)), None)
        optional = {name for name, question in self.questions.items() if getattr(question, "optional", False)}
        return Reader(readers, label, frozenset(optional | {REASONING}))

    def __getstate__(self) -> dict[Any, Any]:
        # What is derived (schema, template, reader) is rebuilt where the task is unpickled.
        state = super().__getstate__()
        fields = type(self).model_fields
        return {**state, "__dict__": {name: value for name, value in state["__dict__"].items() if name in fields}}

    @field_validator("name")
    @classmethod
    def _is_name(cls, value: str) -> str:
        if not _NAME.fullmatch(value):
            raise PydanticCustomError("name", _NAME_SAID)
        return value

    @field_validator("prompt", "system_instruction", "description")
    @classmethod
    def _strip(cls, value: str) -> str:
        return value.strip()

    @model_validator(mode="after")
    def _fit(self) -> Self:
        try:
            if not self.prompt:
                raise MisfitError(("prompt",), "is empty")
            Template(self.prompt)
        except TemplateError as error:
            raise MisfitError(("prompt",), str(error)) from error
        for name in self.questions:
            self._check_name(name)
        if self.generation.thinking_level is not None and self.generation.thinking_budget is not None:
            raise MisfitError(("generation", "thinking_budget"), "excludes thinking_level: Vertex AI takes one of them")
        for place, example in enumerate(self.examples):
            self._check_example(place, example)
        return self

    def _check_name(self, name: str) -> None:
        where = ("questions", name)
        if not _NAME.fullmatch(name):
            raise MisfitError(where, f"{_NAME_SAID}: it becomes a column's name")
        if name in _ANSWER_COLUMNS:
            raise MisfitError(where, f"is a column of every answers table: call it {self.name}_{name}")
        if name == PACK_KEY or (name == REASONING and self.reasoning):
            raise MisfitError(where, f"is a name that answers use themselves: call it {self.name}_{name}")

    def _check_example(self, place: int, example: Example) -> None:
        where = ("examples", place)
        for name in self.columns:
            if name not in example.columns:
                raise MisfitError(where, f"needs columns with {name}, which the prompt names")
        if isinstance(example.answer, str) != self.is_free_text:
            kind = "text" if self.is_free_text else "a mapping with an answer to each question"
            raise MisfitError((*where, "answer"), f"must be {kind}")
        if isinstance(example.answer, dict):
            extra = [name for name in example.answer if name not in self.questions and name != REASONING]
            if extra:
                raise MisfitError((*where, "answer", extra[0]), "is not a question of this task")
            if self.reasoning and REASONING not in example.answer:
                raise MisfitError((*where, "answer"), f"needs {REASONING}, since this task asks for it")
            parsed = self._reader.read(json.dumps(example.answer, default=str))
            if isinstance(parsed, Invalid):
                raise MisfitError((*where, "answer"), f"does not answer this task: {parsed.why}")

    def example_answer(self, example: Example) -> str:
        """The answer of an example, as the model would give it."""
        if isinstance(example.answer, str):
            return example.answer.strip()
        parsed = self._reader.read(json.dumps(example.answer, default=str))
        assert isinstance(parsed, Parsed), "checked when the task was made"  # noqa: S101
        return parsed.answer_json or ""


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "propertyOrdering": list(properties),
    }
