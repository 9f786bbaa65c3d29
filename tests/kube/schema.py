"""Structural schemas: pruning, defaulting and validation, with the findings worded as by the API server."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator
from typing import Any

from .errors import Cause
from .rules import ABSENT, check_rules

Schema = dict[str, Any]
_PRESERVE = "x-kubernetes-preserve-unknown-fields"
_INT_OR_STRING = "x-kubernetes-int-or-string"
_DATE_TIME = re.compile(r"^\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)$")
_DURATION = re.compile(r"^-?(\d+(\.\d+)?(ns|us|µs|ms|s|m|h))+$")


def _children(schema: Schema, value: Any) -> Iterator[tuple[Schema, Any]]:
    if isinstance(value, dict):
        properties = schema.get("properties") or {}
        other = schema.get("additionalProperties")
        for key, inner in value.items():
            below = properties.get(key, other)
            if isinstance(below, dict):
                yield below, inner
    elif isinstance(value, list) and isinstance(schema.get("items"), dict):
        for inner in value:
            yield schema["items"], inner


def prune(schema: Schema, value: Any, path: str = "") -> list[str]:
    """Removes, in place, what the schema does not know; returns the paths of what was removed."""
    dropped: list[str] = []
    if isinstance(value, dict):
        properties = schema.get("properties") or {}
        if not schema.get(_PRESERVE) and not schema.get("additionalProperties"):
            known = (*properties, "apiVersion", "kind", "metadata") if _is_embedded(schema, path) else properties
            for key in [key for key in value if key not in known]:
                del value[key]
                dropped.append(f"{path}.{key}".lstrip("."))
        other = schema.get("additionalProperties")
        for key, inner in value.items():
            below = properties.get(key, other)
            if isinstance(below, dict) and not (not path and key == "metadata"):
                dropped += prune(below, inner, f"{path}.{key}")
    elif isinstance(value, list) and isinstance(schema.get("items"), dict):
        for index, inner in enumerate(value):
            dropped += prune(schema["items"], inner, f"{path}[{index}]")
    return dropped


def _is_embedded(schema: Schema, path: str) -> bool:
    return not path or bool(schema.get("x-kubernetes-embedded-resource"))


def fill_defaults(schema: Schema, value: Any) -> None:
    """Sets, in place, absent fields that have a default (and null ones that may not be null)."""
    if isinstance(value, dict):
        for key, below in (schema.get("properties") or {}).items():
            if "default" not in below:
                continue
            if key not in value or (value[key] is None and not below.get("nullable")):
                value[key] = copy.deepcopy(below["default"])
    for below, inner in _children(schema, value):
        fill_defaults(below, inner)


def _type_of(value: Any) -> str:
    for kind, name in ((bool, "boolean"), (int, "integer"), (float, "number"), (str, "string"), (list, "array")):
        if isinstance(value, kind):
            return name
    return "null" if value is None else "object"


def _fits(kind: str, value: Any) -> bool:
    actual = _type_of(value)
    if kind == "number":
        return actual in ("number", "integer")
    return actual == kind or (kind == "integer" and isinstance(value, float) and value.is_integer())


def _quoted(value: Any) -> str:
    return json.dumps(value) if isinstance(value, (str, bool)) else str(value)


def _invalid(path: str, value: Any, text: str) -> Cause:
    return Cause("FieldValueInvalid", path, f"Invalid value: {_quoted(value)}: {path} in body {text}")


def _wrong_type(path: str, value: Any, kind: str) -> Cause:
    actual = f'"{_type_of(value)}"'
    return Cause(
        "FieldValueTypeInvalid", path, f"Invalid value: {actual}: {path} in body must be of type {kind}: {actual}"
    )


def validate(schema: Schema, value: Any, old: Any = ABSENT, path: str = "") -> list[Cause]:
    """All findings; what has not changed since `old` is not judged again (ratcheting)."""
    if old is not ABSENT and (value is old or value == old):
        return []
    if value is None:
        return [] if schema.get("nullable") else [_wrong_type(path, value, schema.get("type", "object"))]
    kind = schema.get("type")
    if kind == "integer" and schema.get("format") and isinstance(value, float) and not value.is_integer():
        text = f'{path} in body must be of type {schema["format"]}: "float64"'
        return [Cause("FieldValueTypeInvalid", path, f'Invalid value: "float64": {text}')]
    if schema.get(_INT_OR_STRING):
        if _type_of(value) not in ("integer", "string"):
            return [_wrong_type(path, value, "integer,string")]
    elif kind and not _fits(kind, value):
        return [_wrong_type(path, value, kind)]
    causes = [*_check_value(schema, value, path), *_check_compound(schema, value, path)]
    return causes + _check_below(schema, value, old, path)


BLOCKING = (
    "FieldValueNotSupported",
    "FieldValueRequired",
    "FieldValueTooLong",
    "FieldValueTooMany",
    "FieldValueTypeInvalid",
)
UNCHECKED = (
    "Invalid value: null: some validation rules were not checked because the object was invalid; "
    "correct the existing errors to complete validation"
)


def findings(schema: Schema, value: Any, old: Any = ABSENT) -> list[Cause]:
    """What is wrong with a whole object: values first, and rules where no value stands in their way."""
    causes = validate(schema, value, old)
    if not _has_rules(schema):
        return causes
    if any(cause.reason in BLOCKING for cause in causes):
        return [*causes, Cause("FieldValueInvalid", "<nil>", UNCHECKED)]
    return causes + _broken(schema, value, old, "")


def _has_rules(schema: Schema) -> bool:
    inner = [*(schema.get("properties") or {}).values(), schema.get("items"), schema.get("additionalProperties")]
    return bool(schema.get("x-kubernetes-validations")) or any(_has_rules(s) for s in inner if isinstance(s, dict))


def _broken(schema: Schema, value: Any, old: Any, path: str) -> list[Cause]:
    """The rules that do not hold, from the inside out; what has not changed is not judged again."""
    if value is None or (old is not ABSENT and (value is old or value == old)):
        return []
    causes: list[Cause] = []
    for below, inner, before, where in _parts(schema, value, old, path):
        causes += _broken(below, inner, before, where)
    return causes or check_rules(schema, value, old, path or "<nil>")


def _parts(schema: Schema, value: Any, old: Any, path: str) -> Iterator[tuple[Schema, Any, Any, str]]:
    """What lies in a value: its schema, itself, what it was, and its path."""
    if isinstance(value, dict):
        properties = schema.get("properties") or {}
        other = schema.get("additionalProperties")
        before = old if isinstance(old, dict) else {}
        for key, inner in value.items():
            below = properties.get(key, other)
            if isinstance(below, dict) and not (not path and key == "metadata"):
                where = f"{path}.{key}".lstrip(".") if key in properties else f"{path}[{key}]"
                yield below, inner, before.get(key, ABSENT), where
    elif isinstance(value, list) and isinstance(schema.get("items"), dict):
        previous = _correlated(schema, value, old)
        for index, inner in enumerate(value):
            yield schema["items"], inner, previous[index], f"{path}[{index}]"


def _check_below(schema: Schema, value: Any, old: Any, path: str) -> list[Cause]:
    causes: list[Cause] = []
    if isinstance(value, dict):
        missing = [key for key in schema.get("required") or () if key not in value]
        causes += [Cause("FieldValueRequired", f"{path}.{key}".lstrip("."), "Required value") for key in missing]
    for below, inner, before, where in _parts(schema, value, old, path):
        causes += validate(below, inner, before, where)
    return causes


def _correlated(schema: Schema, value: list[Any], old: Any) -> list[Any]:
    """The earlier element of each element: by key in lists of type map, otherwise none."""
    keys = schema.get("x-kubernetes-list-map-keys")
    if schema.get("x-kubernetes-list-type") != "map" or not keys or not isinstance(old, list):
        return [ABSENT] * len(value)
    known = {tuple(map(entry.get, keys)): entry for entry in old}
    return [known.get(tuple(map(entry.get, keys)), ABSENT) if isinstance(entry, dict) else ABSENT for entry in value]


def _check_value(schema: Schema, value: Any, path: str) -> Iterator[Cause]:
    allowed = schema.get("enum")
    if allowed is not None and value not in allowed:
        text = ", ".join(_quoted(one) for one in allowed)
        yield Cause("FieldValueNotSupported", path, f"Unsupported value: {_quoted(value)}: supported values: {text}")
    if isinstance(value, str):
        yield from _check_string(schema, value, path)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield from _check_number(schema, value, path)
    elif isinstance(value, list):
        yield from _check_list(schema, value, path)
    elif isinstance(value, dict):
        if len(value) < schema.get("minProperties", 0):
            yield _invalid(path, "object", f"should have at least {schema['minProperties']} properties")
        most = schema.get("maxProperties")
        if most is not None and len(value) > most:
            yield Cause("FieldValueTooMany", path, f"Too many: {len(value)}: must have at most {most} items")


def _check_string(schema: Schema, value: str, path: str) -> Iterator[Cause]:
    if len(value) < schema.get("minLength", 0):
        yield _invalid(path, value, f"should be at least {schema['minLength']} chars long")
    longest = schema.get("maxLength")
    if longest is not None and len(value) > longest:
        yield Cause("FieldValueTooLong", path, f"Too long: may not be more than {longest} bytes")
    pattern = schema.get("pattern")
    if pattern is not None and re.search(pattern, value) is None:
        yield _invalid(path, value, f"should match '{pattern}'")
    form = {"date-time": _DATE_TIME, "duration": _DURATION}.get(schema.get("format", ""))
    if form is not None and form.match(value) is None:
        kind = schema["format"]
        yield Cause(
            "FieldValueTypeInvalid", path, f'Invalid value: "{value}": {path} in body must be of type {kind}: "{value}"'
        )


def _check_number(schema: Schema, value: float, path: str) -> Iterator[Cause]:
    low, high, step = schema.get("minimum"), schema.get("maximum"), schema.get("multipleOf")
    if isinstance(value, int):  # compared as whole numbers, so a fraction of a limit is cut off
        low, high = (bound if bound is None else int(bound) for bound in (low, high))
    if low is not None and (value < low or (schema.get("exclusiveMinimum") and value == low)):
        kind = "greater than" if schema.get("exclusiveMinimum") else "greater than or equal to"
        yield _invalid(path, value, f"should be {kind} {low}")
    if high is not None and (value > high or (schema.get("exclusiveMaximum") and value == high)):
        kind = "less than" if schema.get("exclusiveMaximum") else "less than or equal to"
        yield _invalid(path, value, f"should be {kind} {high}")
    if step and value % step:
        yield _invalid(path, value, f"should be a multiple of {step}")
    bits = {"int32": 31, "int64": 63}.get(schema.get("format", ""))
    if bits and not -(2**bits) <= value < 2**bits:
        yield _invalid(path, value, f"must be of type {schema['format']}")


def _check_list(schema: Schema, value: list[Any], path: str) -> Iterator[Cause]:
    if len(value) < schema.get("minItems", 0):
        yield _invalid(path, len(value), f"should have at least {schema['minItems']} items")
    most = schema.get("maxItems")
    if most is not None and len(value) > most:
        yield Cause("FieldValueTooMany", path, f"Too many: {len(value)}: must have at most {most} items")
    kind, keys = schema.get("x-kubernetes-list-type"), schema.get("x-kubernetes-list-map-keys") or ()
    if kind not in ("map", "set"):
        return
    seen: set[str] = set()
    for index, entry in enumerate(value):
        identity: Any = {key: entry.get(key) for key in keys} if isinstance(entry, dict) and keys else entry
        text = json.dumps(identity, sort_keys=True)
        if text in seen:
            yield Cause("FieldValueDuplicate", f"{path}[{index}]", f"Duplicate value: {text}")
        seen.add(text)


def _check_compound(schema: Schema, value: Any, path: str) -> Iterator[Cause]:
    """allOf, anyOf, oneOf, not: value validation only, as structural schemas allow."""
    for part in schema.get("allOf") or ():
        yield from validate(part, value, path=path)
    for word, text in (
        ("anyOf", "must validate at least one schema (anyOf)"),
        ("oneOf", "must validate one and only one schema (oneOf)"),
    ):
        parts = schema.get(word)
        if not parts:
            continue
        fitting = sum(not validate(part, value, path=path) for part in parts)
        if fitting == 0 or (word == "oneOf" and fitting > 1):
            yield Cause("FieldValueInvalid", path, f"Invalid value: {path} in body {text}")
    if schema.get("not") and not validate(schema["not"], value, path=path):
        yield Cause("FieldValueInvalid", path, f"Invalid value: {path} in body must not validate the schema (not)")
