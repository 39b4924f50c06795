"""The tree of nodes that a YAML text is, before it becomes values: where a field stands, and what no task may hold. Pure.

A task file may come from anybody. What is let through here becomes plain values (texts, finite numbers, dates, lists,
mappings of texts) of bounded size and depth, which UTF-8, JSON and BigQuery can all hold.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import yaml

from pipeline.task.base import show, unstorable

Path = tuple[str | int, ...]

MAX_DEPTH = 40
MAX_NODES = 100_000
"""Values of a file with its aliases written out; the largest real tasks have a few hundred."""

_TAG = "tag:yaml.org,2002:"
_SCALARS = frozenset(_TAG + name for name in ("str", "int", "float", "bool", "null", "timestamp"))
_PLAIN = _SCALARS | {_TAG + "seq", _TAG + "map"}
_KEYS = frozenset({_TAG + "str", _TAG + "merge"})  # merge: <<, which takes over the fields of another mapping
_IN_TEXT = ("mapping values are not allowed", "<block end>", "cannot start any token", "entries are not allowed")
_INT64 = range(-(2**63), 2**63)


class NotYamlError(ValueError):
    """A text that is not YAML, or more of it than a task can be; `line` counts from 1."""

    def __init__(self, line: int, message: str) -> None:
        super().__init__(message)
        self.line = line


def compose(text: str) -> yaml.Node | None:
    """The root node of a text; None of an empty one.

    Raises:
        NotYamlError: it is not YAML, its aliases go in circles, or it is too deep or too large.
    """
    try:
        root: yaml.Node | None = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        raise _explained(error) from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise NotYamlError(line, f"the character U+{error.character:04X} is not allowed; take it out") from error
    except RecursionError as error:
        raise NotYamlError(1, f"it is nested more than {MAX_DEPTH} deep") from error
    if root is not None:
        _measure(root, (), {})
    return root


def values(root: yaml.Node) -> object:
    """The values that a tree without `faults` stands for.

    Raises:
        NotYamlError: a merge (`<<`) of what is no mapping.
    """
    try:
        return yaml.SafeLoader("").construct_document(root)
    except yaml.MarkedYAMLError as error:
        raise _explained(error) from error


def _explained(error: yaml.MarkedYAMLError) -> NotYamlError:
    """YAML's own words, with the line that has to be mended, and how."""
    context, problem = error.context or "", error.problem or ""
    opened = "flow" in context or "quoted" in context  # a bracket or a quote that is not closed: there it was opened
    mark = (error.context_mark if opened else error.problem_mark) or error.problem_mark or error.context_mark
    said = f"{context} {problem}" if opened else problem
    if "'\\t'" in problem:
        said += "; indent with spaces, not with tabs"
    elif "<block mapping start>" in problem:
        said += "; indent it like the lines beside it"
    elif any(words in problem for words in _IN_TEXT):
        said += "; a text with a colon, or that starts with a sign, goes in quotes or on lines of its own below |"
    return NotYamlError(mark.line + 1 if mark else 1, said.strip())


def _measure(node: yaml.Node, within: tuple[int, ...], known: dict[int, tuple[int, int]]) -> tuple[int, int]:
    """Nodes and depth of a node with its aliases written out; each node is looked at once."""
    if id(node) in within:
        raise NotYamlError(node.start_mark.line + 1, "an alias stands within what it stands for; write it out")
    if id(node) in known:
        return known[id(node)]
    nodes = depth = 1
    for child in _children(node) if len(within) < MAX_DEPTH else ():
        more, below = _measure(child, (*within, id(node)), known)
        nodes, depth = nodes + more, max(depth, below + 1)
    if max(depth, len(within) + 1) > MAX_DEPTH:
        raise NotYamlError(node.start_mark.line + 1, f"it is nested more than {MAX_DEPTH} deep")
    if nodes > MAX_NODES:
        raise NotYamlError(node.start_mark.line + 1, f"it has more than {MAX_NODES:,} values, aliases written out")
    known[id(node)] = nodes, depth
    return nodes, depth


def _children(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [each for pair in node.value for each in pair]
    return list(node.value) if isinstance(node, yaml.SequenceNode) else []


def faults(node: yaml.Node, path: Path = ()) -> Iterator[tuple[int, Path, str]]:
    """What no task may hold, wherever it stands: (line, path, what is wrong)."""
    line = node.start_mark.line + 1
    if node.tag not in _PLAIN:
        yield line, path, f"has the tag {node.tag.replace(_TAG, '!!')}, which no task needs: leave it out"
    elif isinstance(node, yaml.SequenceNode):
        for place, child in enumerate(node.value):
            yield from faults(child, (*path, place))
    elif isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, child in node.value:
            name = key.value
            if key.tag not in _KEYS or unstorable(name):
                what = f"has the key {show(name)}" if isinstance(name, str) else "has a list or a mapping as a key"
                yield key.start_mark.line + 1, path, f"{what}, which YAML does not read as text: put it in quotes"
            elif name in seen:
                yield key.start_mark.line + 1, (*path, name), "stands there twice"
            else:
                seen.add(name)
                yield from faults(child, (*path, name))
    elif said := _fault(node):
        yield line, path, said


def _fault(node: yaml.Node) -> str | None:
    """What is wrong with a single value."""
    found = unstorable(node.value)
    if found:
        return f"has the character U+{ord(found):04X}, which cannot be stored; take it out"
    try:
        value = yaml.constructor.SafeConstructor().construct_object(node)
    except ValueError as error:  # 2026-13-45, or a number of 5,000 digits
        why = str(error).partition(":")[0]
        return f"has {show(node.value)}, which cannot be read ({why}): put it in quotes if it is text"
    if isinstance(value, int) and value not in _INT64:
        return f"has {show(node.value)}, more than a whole number of 64 bits can be"
    if isinstance(value, float) and not math.isfinite(value):
        return f"has {show(node.value)}, which is no finite number; leave a bound out for none"
    return None


def find(root: yaml.Node, path: Path, *, missing: bool = False) -> tuple[int, Path]:
    """Line of a field, and its path without what is not in the file.

    Args:
        root: the whole file.
        path: where the field is, or should be.
        missing: that the last step is not in the file, but belongs to the path.
    """
    node, line, found = root, root.start_mark.line + 1, list[str | int]()
    for place, step in enumerate(path):
        if isinstance(node, yaml.MappingNode):
            pair = next(((key, child) for key, child in node.value if key.value == str(step)), None)
            if pair is not None:
                line, node = pair[0].start_mark.line + 1, pair[1]
                found.append(step)
                continue
        elif isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
            node = node.value[step]
            line = node.start_mark.line + 1
            found.append(step)
            continue
        if missing and place == len(path) - 1:
            found.append(step)
    return line, tuple(found)


def scalar(root: yaml.Node, path: Path) -> str:
    """The text of a field; nothing where there is none."""
    node: yaml.Node | None = root
    for step in path:
        pairs = node.value if isinstance(node, yaml.MappingNode) else []
        node = next((child for key, child in pairs if key.value == step), None)
    return str(node.value) if isinstance(node, yaml.ScalarNode) else ""


def shown(path: Path) -> str:
    """A path as people write it: `examples[0].answer`."""
    text = ""
    for step in path:
        name = step if isinstance(step, int) or step.isprintable() else repr(step)
        text += f"[{name}]" if isinstance(name, int) else f".{name}" if text else name
    return text or "the file"
