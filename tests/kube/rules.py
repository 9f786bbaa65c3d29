"""`x-kubernetes-validations`: CEL rules, evaluated by cel-python over values typed by the schema."""

from __future__ import annotations

import json
import re
from functools import lru_cache
from typing import Any

import celpy
from celpy import celtypes
from celpy.adapter import json_to_cel
from celpy.evaluation import CELEvalError, base_functions

from .errors import Cause


class _Absent:
    """The value that was not there (null is a value)."""


ABSENT: Any = _Absent()
_RESERVED = frozenset(
    [
        "true",
        "false",
        "null",
        "in",
        "as",
        "break",
        "const",
        "continue",
        "else",
        "for",
        "function",
        "if",
        "import",
        "let",
        "loop",
        "package",
        "namespace",
        "return",
        "var",
        "void",
        "while",
    ]
)
_ESCAPES = (("__", "__underscores__"), (".", "__dot__"), ("-", "__dash__"), ("/", "__slash__"))


def _is_url(text: Any) -> celtypes.BoolType:
    return celtypes.BoolType(re.match(r"^[a-zA-Z][a-zA-Z0-9+.-]*://[^/\s]+", str(text)) is not None)


def _sum(values: Any) -> Any:
    total = values[0] if values else celtypes.IntType(0)
    for value in values[1:]:
        total = total + value
    return total


_FUNCTIONS: dict[str, Any] = {
    "isURL": _is_url,
    "sum": _sum,
    "min": lambda values: min(values),
    "max": lambda values: max(values),
    "isSorted": lambda values: celtypes.BoolType(list(values) == sorted(values)),
    "indexOf": lambda values, one: celtypes.IntType(
        values.find(one) if isinstance(values, str) else (list(values).index(one) if one in values else -1)
    ),
    "lowerAscii": lambda text: celtypes.StringType(text.lower()),
    "upperAscii": lambda text: celtypes.StringType(text.upper()),
    "trim": lambda text: celtypes.StringType(text.strip()),
    "find": lambda text, pattern: celtypes.StringType(found[0] if (found := re.search(pattern, text)) else ""),
    "split": lambda text, by: celtypes.ListType([celtypes.StringType(part) for part in text.split(by)]),
    "join": lambda parts, by="": celtypes.StringType(by.join(parts)),
}


def _alike(left: Any, right: Any) -> tuple[Any, Any]:
    """Numbers of different types as doubles: the API server compares across types, cel-python does not."""
    if isinstance(left, celtypes.DoubleType) != isinstance(right, celtypes.DoubleType):
        numbers = (celtypes.IntType, celtypes.UintType, celtypes.DoubleType)
        if isinstance(left, numbers) and isinstance(right, numbers):
            return celtypes.DoubleType(left), celtypes.DoubleType(right)
    return left, right


def _across_types(compare: Any) -> Any:
    return lambda left, right: compare(*_alike(left, right))


_FUNCTIONS |= {name: _across_types(base_functions[name]) for name in ("_<_", "_<=_", "_>_", "_>=_", "_==_", "_!=_")}
_ENVIRONMENT = celpy.Environment()


@lru_cache(maxsize=1024)
def compiled(rule: str) -> celpy.Runner:
    """The program of a rule; celpy.CELParseError if it does not parse."""
    return _ENVIRONMENT.program(_ENVIRONMENT.compile(rule), functions=_FUNCTIONS)


def _escaped(name: str) -> str:
    if name in _RESERVED:
        return f"__{name}__"
    for plain, escape in _ESCAPES:
        name = name.replace(plain, escape)
    return name


def to_cel(value: Any, schema: dict[str, Any]) -> Any:
    """A JSON value with the CEL type that its schema declares (a whole number in a `number` field is a double)."""
    kind = schema.get("type")
    if isinstance(value, dict):
        properties = schema.get("properties") or {}
        other = schema.get("additionalProperties")
        rest = other if isinstance(other, dict) else {}
        return celtypes.MapType(
            {
                celtypes.StringType(_escaped(key) if key in properties else key): to_cel(
                    inner, properties.get(key, rest)
                )
                for key, inner in value.items()
            }
        )
    if isinstance(value, list):
        items = schema.get("items") or {}
        return celtypes.ListType([to_cel(inner, items) for inner in value])
    if kind == "number" and not isinstance(value, bool) and isinstance(value, (int, float)):
        return celtypes.DoubleType(value)
    if kind == "integer" and isinstance(value, float):
        return celtypes.IntType(int(value))
    if kind == "string" and isinstance(value, str):
        match schema.get("format"):
            case "date-time":
                return celtypes.TimestampType(value)
            case "duration":
                return celtypes.DurationType(value)
    return json_to_cel(value)


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return '"object"'
    return '"array"' if isinstance(value, list) else (f'"{value}"' if isinstance(value, str) else str(value))


def _slice(rule: str, value: Any) -> Any:
    """The properties of `value` that a rule can see: all, unless it names each one that it uses."""
    if not isinstance(value, dict):
        return value
    names: set[str] = set()
    for name, call in re.findall(r"\b(?:self|oldSelf)\b(?:\.(\w+)(\(?))?", rule):
        if not name or call or "__" in name:
            return value
        names.add(name)
    return {name: value[name] for name in names if name in value}


# The schema is kept beside the verdict so that its id stays its own.
_seen: dict[tuple[str, int, str], tuple[dict[str, Any], str]] = {}
_SEEN_AT_MOST = 20_000


def _verdict(rule: dict[str, Any], schema: dict[str, Any], value: Any, old: Any) -> str:
    """What a rule has against a value, "" if nothing. Evaluating takes about a millisecond, so it is remembered."""
    text = rule["rule"] + rule.get("messageExpression", "")
    inputs = [_slice(text, value)] if old is ABSENT else [_slice(text, value), _slice(text, old)]
    text += rule.get("message", "")
    key = (text, id(schema), json.dumps(inputs))
    if key not in _seen:
        if len(_seen) >= _SEEN_AT_MOST:
            _seen.clear()
        names = {name: to_cel(one, schema) for name, one in zip(("self", "oldSelf"), inputs, strict=False)}
        _seen[key] = (schema, _evaluate(rule, names))
    return _seen[key][1]


def _evaluate(rule: dict[str, Any], names: dict[str, Any]) -> str:
    try:
        if compiled(rule["rule"]).evaluate(names):
            return ""
        if expression := rule.get("messageExpression"):
            return str(compiled(expression).evaluate(names))
    except CELEvalError as failure:
        return f"rule evaluation error: {failure.args[0]}: {rule['rule']}"
    return str(rule.get("message") or f"failed rule: {rule['rule']}").strip()


def check_rules(schema: dict[str, Any], value: Any, old: Any, path: str) -> list[Cause]:
    """What the rules of one schema node find; transition rules (those naming oldSelf) only where there was a value."""
    causes: list[Cause] = []
    for rule in schema.get("x-kubernetes-validations") or ():
        transition = re.search(r"\boldSelf\b", rule["rule"]) is not None
        if transition and old is ABSENT:
            continue
        message = _verdict(rule, schema, value, old if transition else ABSENT)
        if message:
            reason, field = rule.get("reason", "FieldValueInvalid"), path + rule.get("fieldPath", "")
            causes.append(Cause(reason, field, f"Invalid value: {_shown(value)}: {message}"))
    return causes
