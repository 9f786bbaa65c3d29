"""Label and field selectors -> predicates over objects."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from .errors import ApiError, bad_request

Predicate = Callable[[dict[str, Any]], bool]
_KEY = r"[A-Za-z0-9](?:[A-Za-z0-9._/-]*[A-Za-z0-9])?"
_SET = re.compile(rf"^({_KEY})\s+(in|notin)\s*\(([^()]*)\)$")
_EQUAL = re.compile(rf"^({_KEY})\s*(==|=|!=)\s*([A-Za-z0-9._-]*)$")
_EXISTS = re.compile(rf"^(!?)\s*({_KEY})$")


def _split(text: str) -> list[str]:
    """Parts between commas that are outside parentheses."""
    return [part.strip() for part in re.split(r",(?![^(]*\))", text)]


def _labels(obj: dict[str, Any]) -> dict[str, str]:
    return obj["metadata"].get("labels") or {}


def _term(text: str) -> Predicate:
    if found := _SET.match(text):
        key, operator, inside = found.groups()
        values = {value.strip() for value in inside.split(",")}
        if operator == "in":
            return lambda obj: _labels(obj).get(key) in values
        return lambda obj: _labels(obj).get(key) not in values
    if found := _EQUAL.match(text):
        key, operator, value = found.groups()
        if operator == "!=":
            return lambda obj: _labels(obj).get(key) != value
        return lambda obj: _labels(obj).get(key) == value
    if found := _EXISTS.match(text):
        absent, key = found.groups()
        return lambda obj: (key in _labels(obj)) != bool(absent)
    raise bad_request(f'unable to parse requirement: found "{text}", expected: key, key=value, key in (a,b)')


@lru_cache(maxsize=512)
def label_selector(text: str) -> Predicate | None:
    """The predicate of a label selector; None selects everything."""
    if not text.strip():
        return None
    terms = [_term(part) for part in _split(text)]
    return lambda obj: all(term(obj) for term in terms)


def lookup(obj: Any, path: str) -> Any:
    """The value at a dotted path, None where it is absent."""
    for part in path.split("."):
        if not isinstance(obj, dict) or part not in obj:
            return None
        obj = obj[part]
    return obj


def _field_text(obj: dict[str, Any], path: str) -> str:
    value = lookup(obj, path)
    if isinstance(value, bool):
        return "true" if value else "false"
    return "" if value is None else str(value)


def field_selector(text: str, selectable: frozenset[str]) -> Predicate | None:
    """The predicate of a field selector; None selects everything.

    Raises:
        ApiError: a field that this kind cannot be selected by.
    """
    terms: list[tuple[str, bool, str]] = []
    for part in filter(None, _split(text)):
        found = re.match(r"^([^=!]+)(==|=|!=)(.*)$", part)
        if found is None:
            raise bad_request(f"invalid selector: '{part}'; can't understand '{part}'")
        name, operator, value = found.groups()
        if name not in ("metadata.name", "metadata.namespace") and name not in selectable:
            raise ApiError(400, "BadRequest", f"field label not supported: {name}")
        terms.append((name, operator != "!=", value))
    if not terms:
        return None
    return lambda obj: all((_field_text(obj, name) == value) == equal for name, equal, value in terms)


def selector_text(selector: dict[str, Any]) -> str:
    """A metav1.LabelSelector as its text form (what status.selector of a Scale holds)."""
    parts = [f"{key}={value}" for key, value in sorted((selector.get("matchLabels") or {}).items())]
    for rule in selector.get("matchExpressions") or []:
        key, operator, values = rule["key"], rule["operator"], ",".join(sorted(rule.get("values") or []))
        text = {"In": f"{key} in ({values})", "NotIn": f"{key} notin ({values})", "Exists": key}
        parts.append(text.get(operator, f"!{key}"))
    return ",".join(parts)
