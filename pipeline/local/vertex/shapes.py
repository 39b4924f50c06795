"""What an answer must look like: both kinds of response schema of a request, checked and brought to one form. Pure."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Final

from pipeline.local.vertex.refusals import Refused, invalid

_KEYWORDS: Final = frozenset(
    {
        "$id", "$defs", "$ref", "$anchor", "type", "format", "title", "description", "enum", "items", "prefixItems",
        "minItems", "maxItems", "minimum", "maximum", "anyOf", "oneOf", "properties", "additionalProperties",
        "required", "propertyOrdering",
    }
)  # fmt: skip
"""What `response_json_schema` may use, by the comment on that field in google.cloud.aiplatform_v1."""

_OPENAPI_TYPES: Final = ("", "string", "number", "integer", "boolean", "array", "object")
"""google.cloud.aiplatform_v1.Type by number."""

_MAX_DEPTH: Final = 16


@dataclasses.dataclass(frozen=True, slots=True)
class Shape:
    """One checked node of a schema; `properties` stand in the order in which they are answered."""

    type: str
    description: str = ""
    enum: tuple[Any, ...] = ()
    properties: tuple[tuple[str, Shape], ...] = ()
    required: frozenset[str] = frozenset()
    items: Shape | None = None
    minimum: float | None = None
    maximum: float | None = None
    min_items: int | None = None
    max_items: int | None = None
    nullable: bool = False


def from_json_schema(schema: Any) -> Shape:
    """The shape of a `response_json_schema`.

    Properties without `propertyOrdering` are answered in alphabetical order: a protobuf Struct keeps none.

    Raises:
        Refused: INVALID_ARGUMENT, with the path of the node at fault.
    """
    definitions = schema.get("$defs", {}) if isinstance(schema, Mapping) else {}
    return _json_node(schema, definitions, "schema", 0)


def _json_node(node: Any, definitions: Mapping[str, Any], path: str, depth: int) -> Shape:
    if not isinstance(node, Mapping):
        raise _bad(path, "must be an object")
    if depth > _MAX_DEPTH:
        raise _bad(path, f"is nested more than {_MAX_DEPTH} deep, or refers to itself")
    unknown = node.keys() - _KEYWORDS
    if unknown:
        raise _bad(path, f"has unsupported keywords: {', '.join(sorted(unknown))}")
    if "$ref" in node:
        name = str(node["$ref"]).removeprefix("#/$defs/")
        if name not in definitions:
            raise _bad(path, f"refers to {node['$ref']}, which is not defined")
        return _json_node(definitions[name], definitions, path, depth + 1)
    for keyword in ("anyOf", "oneOf"):
        if keyword in node:
            options = node[keyword]
            if not isinstance(options, Sequence) or not options:
                raise _bad(path, f"has an empty {keyword}")
            shapes = [_json_node(option, definitions, f"{path}.{keyword}", depth + 1) for option in options]
            return _first_of(shapes)
    kinds = node.get("type", "string" if "enum" in node else "object" if "properties" in node else None)
    kinds = [kinds] if isinstance(kinds, str) else list(kinds or ())
    nullable = "null" in kinds and len(kinds) > 1
    kinds = [kind for kind in kinds if kind != "null"] or ["null"] * bool(kinds)
    if len(kinds) != 1 or kinds[0] not in {*_OPENAPI_TYPES[1:], "null"}:
        raise _bad(path, f"needs one type of {', '.join(_OPENAPI_TYPES[1:])}, not {node.get('type')!r}")
    properties = node.get("properties", {})
    items = node.get("items")
    shape = Shape(
        type=kinds[0],
        description=_text(node, "description", path),
        enum=tuple(_list(node, "enum", path)),
        properties=tuple(
            (name, _json_node(child, definitions, f"{path}.properties[{name}]", depth + 1))
            for name, child in _ordered(properties, _list(node, "propertyOrdering", path), path)
        ),
        required=frozenset(_list(node, "required", path)),
        items=None if items is None else _json_node(items, definitions, f"{path}.items", depth + 1),
        minimum=_number(node, "minimum", path),
        maximum=_number(node, "maximum", path),
        min_items=_count(node, "minItems", path),
        max_items=_count(node, "maxItems", path),
        nullable=nullable,
    )
    return _checked(shape, path)


def from_openapi(schema: Any) -> Shape:
    """The shape of a `response_schema`, a google.cloud.aiplatform_v1.Schema message.

    Raises:
        Refused: INVALID_ARGUMENT, with the path of the node at fault.
    """
    return _openapi_node(schema, "response_schema", 0)


def _openapi_node(node: Any, path: str, depth: int) -> Shape:
    if depth > _MAX_DEPTH:
        raise _bad(path, f"is nested more than {_MAX_DEPTH} deep")
    if node.any_of:
        return _first_of([_openapi_node(option, f"{path}.any_of", depth + 1) for option in node.any_of])
    kind = _OPENAPI_TYPES[node.type_] if node.type_ < len(_OPENAPI_TYPES) else ""
    if not kind:
        raise _bad(path, "didn't specify the schema type field")
    shape = Shape(
        type=kind,
        description=node.description,
        enum=tuple(node.enum),
        properties=tuple(
            (name, _openapi_node(child, f"{path}.properties[{name}]", depth + 1))
            for name, child in _ordered(node.properties, node.property_ordering, path)
        ),
        required=frozenset(node.required),
        items=_openapi_node(node.items, f"{path}.items", depth + 1) if node.HasField("items") else None,
        minimum=node.minimum or None,
        maximum=node.maximum or None,
        min_items=node.min_items or None,
        max_items=node.max_items or None,
        nullable=node.nullable,
    )
    return _checked(shape, path)


def _first_of(shapes: Sequence[Shape]) -> Shape:
    """Of several allowed shapes the first that is not null."""
    real = [shape for shape in shapes if shape.type != "null"]
    return dataclasses.replace(real[0], nullable=len(real) < len(shapes)) if real else shapes[0]


def _ordered(properties: Mapping[str, Any], ordering: Sequence[str], path: str) -> list[tuple[str, Any]]:
    if not ordering:
        return sorted(properties.items())
    if sorted(ordering) != sorted(properties):
        raise _bad(path, f"has an ordering {list(ordering)} that does not name each of {sorted(properties)} once")
    return [(name, properties[name]) for name in ordering]


def _checked(shape: Shape, path: str) -> Shape:
    names = {name for name, _ in shape.properties}
    if shape.required - names:
        raise _bad(path, f"requires properties that it does not define: {', '.join(sorted(shape.required - names))}")
    if shape.type == "object" and not names:
        raise _bad(path, "of type object should have a non-empty properties field")
    if shape.type == "array" and shape.items is None:
        raise _bad(path, "of type array has no items")
    if shape.type != "object" and names:
        raise _bad(path, f"of type {shape.type} cannot have properties")
    if shape.enum and shape.type not in {"string", "integer", "number"}:
        raise _bad(path, f"of type {shape.type} cannot have an enum")
    if any((shape.type == "string") != isinstance(value, str) for value in shape.enum):
        raise _bad(path, f"of type {shape.type} has an enum of other values")
    if len(set(shape.enum)) < len(shape.enum) or "" in shape.enum:
        raise _bad(path, "has an enum with an empty or a doubled value")
    if shape.minimum is not None and shape.maximum is not None and shape.minimum > shape.maximum:
        raise _bad(path, f"has a minimum {shape.minimum:g} above its maximum {shape.maximum:g}")
    return shape


def _list(node: Mapping[str, Any], keyword: str, path: str) -> list[Any]:
    value = node.get(keyword, [])
    if not isinstance(value, list) or (keyword in node and keyword == "enum" and not value):
        raise _bad(path, f"has a {keyword} that is not a list of values")
    return value


def _text(node: Mapping[str, Any], keyword: str, path: str) -> str:
    value = node.get(keyword, "")
    if not isinstance(value, str):
        raise _bad(path, f"has a {keyword} that is not a string")
    return value


def _number(node: Mapping[str, Any], keyword: str, path: str) -> float | None:
    value = node.get(keyword)
    if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
        raise _bad(path, f"has a {keyword} that is not a number")
    return value


def _count(node: Mapping[str, Any], keyword: str, path: str) -> int | None:
    value = _number(node, keyword, path)
    return None if value is None else int(value)


def _bad(path: str, what: str) -> Refused:
    return invalid(f"The specified schema is not valid: {path} {what}.")
