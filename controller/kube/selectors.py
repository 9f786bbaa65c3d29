"""Label selectors, as text (`app=chat,tier in (gold, silver),!canary`) and as LabelSelector objects."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

from forecasting.errors import UsageError

__all__ = ["Requirement", "Selector"]

Operator = Literal["In", "NotIn", "Exists", "DoesNotExist"]

_NAME = r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?"
_KEY = rf"(?:{_NAME}/)?{_NAME}"
_TERM = re.compile(
    rf"""\s*(?: !\s*(?P<absent>{_KEY})
      | (?P<key>{_KEY}) (?: \s*(?P<sign>==|=|!=)\s*(?P<value>(?:{_NAME})?)
                          | \s+(?P<set>in|notin)\s*\((?P<values>[^()]*)\) )? )\s*""",
    re.VERBOSE,
)
_VALUE = re.compile(rf"(?:{_NAME})?")
_OPERATORS = ("In", "NotIn", "Exists", "DoesNotExist")


@dataclass(frozen=True, slots=True)
class Requirement:
    """One condition on one label; an absent label satisfies NotIn, as the API server has it."""

    key: str
    operator: Operator
    values: frozenset[str] = frozenset()

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Whether an object with these labels satisfies it."""
        value = labels.get(self.key)
        if self.operator == "In":
            return value is not None and value in self.values
        if self.operator == "NotIn":
            return value is None or value not in self.values
        return (value is not None) == (self.operator == "Exists")


@dataclass(frozen=True, slots=True)
class Selector:
    """Conditions that must all hold; none at all selects everything."""

    requirements: tuple[Requirement, ...] = ()

    @classmethod
    def parse(cls, selector: str | Mapping[str, Any]) -> Selector:
        """Read a selector in either form; raises UsageError saying what is wrong with it.

        Source: labels.Parse and metav1.LabelSelector of k8s.io/apimachinery (without the `<` and `>` of node affinity).
        """
        return _parse_text(selector) if isinstance(selector, str) else _parse_object(selector)

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Whether an object with these labels is selected."""
        return all(requirement.matches(labels) for requirement in self.requirements)


@lru_cache(maxsize=4096)
def _parse_text(text: str) -> Selector:
    if not text.strip():
        return Selector()
    requirements: list[Requirement] = []
    at = 0
    while True:
        term = _TERM.match(text, at)
        if term is None or (term.end() < len(text) and text[term.end()] != ","):
            raise UsageError(
                f"label selector {text!r} cannot be read from {text[at : at + 40].strip()!r} on; "
                "accepted: key=value, key!=value, key in (a, b), key notin (a, b), key, !key, with commas between"
            )
        requirements.append(_requirement(term, text))
        if term.end() == len(text):
            return Selector(tuple(requirements))
        at = term.end() + 1


def _requirement(term: re.Match[str], text: str) -> Requirement:
    """The condition that one term of a text stands for."""
    if term["absent"]:
        return Requirement(term["absent"], "DoesNotExist")
    if term["sign"]:
        return Requirement(term["key"], "NotIn" if term["sign"] == "!=" else "In", frozenset({term["value"]}))
    if term["set"]:
        values = frozenset(value.strip() for value in term["values"].split(","))
        for value in values:
            if not _VALUE.fullmatch(value):
                raise UsageError(f"label selector {text!r}: {value!r} is not a possible label value")
        return Requirement(term["key"], "In" if term["set"] == "in" else "NotIn", values)
    return Requirement(term["key"], "Exists")


def _parse_object(selector: Mapping[str, Any]) -> Selector:
    """Read matchLabels and matchExpressions."""
    labels, expressions = selector.get("matchLabels") or {}, selector.get("matchExpressions") or ()
    if unknown := sorted(set(selector) - {"matchLabels", "matchExpressions"}):
        raise UsageError(f"a label selector has matchLabels and matchExpressions, not {', '.join(unknown)}")
    if not isinstance(labels, Mapping) or not isinstance(expressions, list | tuple):
        raise UsageError("in a label selector, matchLabels is an object and matchExpressions a list")
    requirements = [Requirement(str(key), "In", frozenset({str(value)})) for key, value in labels.items()]
    for expression in expressions:
        if not isinstance(expression, Mapping) or not expression.get("key"):
            raise UsageError("every one of matchExpressions needs a key, an operator and, for In and NotIn, values")
        operator, values = expression.get("operator"), expression.get("values") or ()
        if operator not in _OPERATORS:
            raise UsageError(f"operator {operator!r} of a label selector: known are {', '.join(_OPERATORS)}")
        if isinstance(values, str) or (operator in ("In", "NotIn")) != bool(values):
            raise UsageError(
                f"label selector: {operator} {'needs a list of' if operator[-2:] == 'In' else 'has no'} values"
            )
        requirements.append(Requirement(str(expression["key"]), operator, frozenset(str(v) for v in values)))
    return Selector(tuple(requirements))
