"""Small helpers of what is saved: a mark of what is measured, and numbers that can be trusted."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.resource.parsing import parse_autoscaler
from controller.resource.saving import demand_mark
from harmony.loop.saved import number_or
from tests.controller.resource.builders import REQUESTS, autoscaler


def mark(**spec: object) -> str:
    return demand_mark(parse_autoscaler(autoscaler(**spec)))


def test_the_mark_is_of_what_is_measured_and_of_nothing_else() -> None:
    assert mark() == mark(maxReplicas=99, mode="Full", stepSeconds=30)
    assert mark() != mark(indicators=[REQUESTS | {"query": "sum(other)"}])
    assert mark() != mark(indicators=[REQUESTS | {"unit": "tokens/s"}])
    assert mark() != mark(indicators=[REQUESTS | {"kind": "Gauge"}])


@pytest.mark.parametrize("value", [None, True, "1", [1], math.nan, math.inf, {}])
def test_what_is_no_number(value: object) -> None:
    assert number_or(value, 7.0) == 7.0


@given(st.floats(-1e300, 1e300) | st.integers(-(2**60), 2**60))
def test_numbers(value: float) -> None:
    assert number_or(value, math.nan) == float(value)


def test_a_number_that_no_float_holds_is_none() -> None:
    assert number_or(10**400, 7.0) == 7.0
