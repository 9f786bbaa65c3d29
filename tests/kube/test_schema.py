"""Schemas and rules of custom kinds: laws for all values, and CEL as the API server reads it."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from . import objects
from .rules import ABSENT, check_rules
from .schema import fill_defaults, prune, validate

WIDGET = objects.widget_crd()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
EVERYTHING: dict[str, Any] = {
    "type": "object",
    "properties": {
        "d": {"type": "number"},
        "i": {"type": "integer"},
        "s": {"type": "string"},
        "t": {"type": "string", "format": "date-time"},
        "parts": {"type": "array", "items": {"type": "object", "properties": {"name": {"type": "string"}}}},
        "m": {"type": "object", "additionalProperties": {"type": "integer"}},
        "namespace": {"type": "string"},
        "q": {"x-kubernetes-int-or-string": True},
    },
}
VALUE: dict[str, Any] = {
    "d": 3,
    "i": 5,
    "s": "30s",
    "t": "2026-01-01T00:00:00Z",
    "parts": [{"name": "a"}, {"name": "b"}],
    "m": {"k": 1},
    "namespace": "n",
    "q": "25%",
}

scalars = st.none() | st.booleans() | st.integers(-3, 2000) | st.floats(0, 1) | st.text("ab", max_size=3)
names = st.sampled_from([*WIDGET["properties"], "name", "step", "unknown"])
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names, inner, max_size=4))
specs = st.dictionaries(names, values, max_size=6)


@settings(deadline=None, max_examples=60)
@given(specs)
def test_what_is_normal_stays_as_it_is(spec: Any) -> None:
    prune(WIDGET, spec, "spec")
    fill_defaults(WIDGET, spec)
    once = copy.deepcopy(spec)
    assert prune(WIDGET, spec, "spec") == []
    fill_defaults(WIDGET, spec)
    assert spec == once


@settings(deadline=None, max_examples=60)
@given(specs)
def test_what_has_not_changed_is_not_judged_again(spec: Any) -> None:
    assert validate(WIDGET, spec, copy.deepcopy(spec), "spec") == []


@settings(deadline=None, max_examples=60)
@given(specs)
def test_every_finding_names_its_place(spec: Any) -> None:
    for cause in validate(WIDGET, spec, ABSENT, "spec"):
        assert cause.field.startswith("spec")
        assert cause.reason.startswith("FieldValue")
        assert cause.message


@pytest.mark.parametrize(
    "rule",
    [
        "self.d > 2.5",
        "self.d > 2 && self.i <= 5.0 && 0 < self.d",  # numbers are compared across types
        "self.d == 3 && self.i != 5.5",
        "duration(self.s) >= duration('5s')",
        "self.t > timestamp('2025-01-01T00:00:00Z')",
        "self.parts.all(p, has(p.name)) && self.parts.exists(p, p.name == 'a')",
        "self.parts.all(p, self.parts.exists_one(q, q.name == p.name))",
        "self.parts.map(p, p.name) == ['a', 'b'] && size(self.parts) == 2",
        "self.m['k'] == 1 && 'k' in self.m && self.m.all(k, self.m[k] > 0)",
        "self.__namespace__ == 'n'",
        "type(self.q) == string",
        "!has(self.absent) || self.absent == 1",
        "(has(self.i) ? 1 : 0) + (has(self.absent) ? 1 : 0) == 1",
        "self.s.matches('^[0-9]+s$') && self.s in ['30s', '1m'] && self.s.startsWith('3')",
        "isURL('http://prometheus:9090') && !isURL('prometheus')",
    ],
)
def test_rules_that_hold(rule: str) -> None:
    schema = EVERYTHING | {"x-kubernetes-validations": [{"rule": rule}]}
    assert check_rules(schema, VALUE, ABSENT, "spec") == []
    opposite = EVERYTHING | {"x-kubernetes-validations": [{"rule": f"!({rule})", "message": "no"}]}
    (cause,) = check_rules(opposite, VALUE, ABSENT, "spec")
    assert cause.message == 'Invalid value: "object": no'


def test_a_rule_that_cannot_be_evaluated_is_a_finding() -> None:
    schema = EVERYTHING | {"x-kubernetes-validations": [{"rule": "self.absent > 1"}]}
    (cause,) = check_rules(schema, VALUE, ABSENT, "spec")
    assert "rule evaluation error" in cause.message


def test_a_message_can_be_computed() -> None:
    rule = {"rule": "self.i > 9", "messageExpression": "'i is ' + string(self.i)", "fieldPath": ".i"}
    (cause,) = check_rules(EVERYTHING | {"x-kubernetes-validations": [rule]}, VALUE, ABSENT, "spec")
    assert (cause.field, cause.message) == ("spec.i", 'Invalid value: "object": i is 5')


def test_a_verdict_is_not_carried_from_one_schema_to_another() -> None:
    rule = {"x-kubernetes-validations": [{"rule": "type(self.x) == double"}]}
    number = {"type": "object", "properties": {"x": {"type": "number"}}} | rule
    integer = {"type": "object", "properties": {"x": {"type": "integer"}}} | rule
    assert check_rules(number, {"x": 1}, ABSENT, "spec") == []
    assert len(check_rules(integer, {"x": 1}, ABSENT, "spec")) == 1
