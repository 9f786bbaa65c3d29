"""From typed models to a structural OpenAPI v3 schema as the API server demands it of a CustomResourceDefinition.

Structural means: every node has a type (or takes anything), nothing is referenced, nothing is one of several; see
"Specifying a structural schema" in the Kubernetes documentation of custom resources.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, cast

from pydantic import BaseModel

from controller.resource.rules import SpecRule

__all__ = ["structural_schema"]

Json = dict[str, Any]

# Keywords that mean nothing to the API server, or are forbidden beside properties.
DROPPED = frozenset({"title", "additionalProperties", "examples"})
BOUNDS = {"exclusiveMinimum": "minimum", "exclusiveMaximum": "maximum"}


def structural_schema(model: type[BaseModel], rules: Iterable[SpecRule] = ()) -> Json:
    """Schema of ``model`` with every reference resolved and ``rules`` attached where they belong."""
    schema = model.model_json_schema(by_alias=True)
    out = _node(schema, schema.get("$defs", {}))
    for rule in rules:
        _at(out, rule.at).setdefault("x-kubernetes-validations", []).append({"rule": rule.cel, "message": rule.message})
    return out


def _node(given: Mapping[str, Any], definitions: Mapping[str, Json]) -> Json:
    """One node without references, alternatives and keywords the API server does not know."""
    node = _resolved(given, definitions)
    out: Json = {}
    for key, value in node.items():
        if key in DROPPED or key == "$defs" or (key == "default" and value is None):
            continue
        if key == "properties":
            out[key] = {name: _node(child, definitions) for name, child in value.items()}
        elif key == "items":
            out[key] = _node(value, definitions)
        elif key in BOUNDS:  # OpenAPI 3.0: the limit in one keyword, whether it is excluded in another
            out[BOUNDS[key]], out[key] = value, True
        elif key == "const":
            out["enum"] = [value]
        else:
            out[key] = value
    if node.get("type") == "object" and "properties" not in node:
        out["x-kubernetes-preserve-unknown-fields"] = True
    if node.get("type") == "number":
        _fractional_bounds(out)
    if node.get("type") == "integer":
        out["format"] = "int64" if node.get("maximum", 2**31) >= 2**31 else "int32"
    return out


def _fractional_bounds(out: Json) -> None:
    """Bounds between two whole numbers as rules: the API server cuts them to whole ones when the value is whole.

    With ``maximum: 0.5`` it says of 1 that it should be at most 0, and with ``minimum: 0.5`` it takes 0.
    """
    for name, sign, words in (("minimum", ">=", "at least"), ("maximum", "<=", "at most")):
        bound = out.get(name)
        if bound is None or float(bound).is_integer():
            continue
        excluded = out.pop(f"exclusive{name.capitalize()}", False)
        del out[name]
        limit = f"{'less than' if name == 'maximum' else 'more than'} {bound:g}" if excluded else f"{words} {bound:g}"
        message = f"should be {limit}: it is a share of 1, not percent; 1 % is 0.01"
        rule = {"rule": f"self {sign.rstrip('=') if excluded else sign} {bound!r}", "message": message}
        out.setdefault("x-kubernetes-validations", []).append(rule)


def _resolved(given: Mapping[str, Any], definitions: Mapping[str, Json]) -> Json:
    """The node with its reference and its ``X or null`` replaced by X; what stands beside them wins."""
    node = dict(given)
    while "$ref" in node or "anyOf" in node:
        if "$ref" in node:
            inner: Mapping[str, Any] = definitions[node.pop("$ref").rsplit("/", 1)[1]]
        else:
            kept = [option for option in node.pop("anyOf") if option.get("type") != "null"]
            if len(kept) != 1:
                raise TypeError(f"a field with {len(kept)} types has no structural schema: {given}")
            inner = kept[0]
        node = {**inner, **node}
    return node


def _at(schema: Json, path: str) -> Json:
    """The node at a path such as ``objective`` or ``schedules[]``."""
    node = schema
    for part in path.split(".") if path else ():
        node = cast(Json, node["properties"][part.removesuffix("[]")])
        if part.endswith("[]"):
            node = cast(Json, node["items"])
    return node
