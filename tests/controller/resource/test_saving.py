"""Small helpers of what is saved: a mark of what is measured, and numbers that can be trusted."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.resource.parsing import parse_autoscaler
from controller.resource.saving import demand_mark, packed, unpacked
from harmony.loop.saved import number_or
from tests.controller.lives import STEP_S, T0, service, turn
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


@given(st.dictionaries(st.text(max_size=8), st.none() | st.floats(allow_nan=False) | st.text(max_size=20), max_size=6))
def test_what_is_packed_comes_back(learned: dict[str, object]) -> None:
    assert unpacked(packed(learned)) == learned


@given(st.text(max_size=40) | st.none() | st.integers() | st.binary(max_size=30).map(lambda b: "1:" + b.hex()))
def test_whatever_stands_there_does_no_harm(text: object) -> None:
    assert unpacked(text) == text


def test_what_would_grow_without_end_is_left_packed() -> None:
    bomb = packed({"x": " " * (4 << 20)})
    assert len(bomb) < 20_000
    assert unpacked(bomb) == bomb


def test_it_is_one_short_line() -> None:
    of = service()
    for k in range(60):
        turn(of, T0 + k * STEP_S, 200.0 + k, 9)
    text = packed(of.to_json())
    assert "\n" not in text
    assert len(text) < 0.8 * len(json.dumps(of.to_json()))
