"""One forecast for all: batches by schema, and whoever breaks one stands alone with it."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.forecasting import CHUNK, HORIZONS, FleetForecaster, Wanted
from controller.prometheus.history import History
from controller.resource.settings import ServiceKey
from forecasting.distribution import ForecastBatch
from forecasting.panel import Indicator
from forecasting.windows import WindowBatch

NOW_S = 1_700_000_040.0
DEMAND = Indicator("rps", level=1)


class Fragile:
    """The median, unless a window holds a poisonous one; keeps the batches that it was given."""

    name, version = "fragile", "1"

    def __init__(self) -> None:
        self.batches: list[tuple[int, int]] = []

    def predict(self, windows: WindowBatch, horizon: int, **how: Any) -> ForecastBatch:
        self.batches.append((len(windows.values), horizon))
        if np.nanmax(windows.values) >= 1000.0:
            raise RuntimeError("poison")
        # one number per window stands for its forecast: batches are only taken apart here, never looked into
        return cast("ForecastBatch", [float(np.nanmedian(v)) for v in windows.values])


def wanted(name: str, level: float, horizon: int = 5, step_s: float = 60.0) -> Wanted:
    history = History([DEMAND], step_s, 30)
    times = NOW_S - step_s * np.arange(29.0, -1.0, -1.0)
    history.write(0, times, np.full(30, level))
    return Wanted(ServiceKey("GPUAutoscaler", "serving", name), history, horizon)


def forecaster(model: Any) -> FleetForecaster:
    return FleetForecaster(model, samples=20)


@settings(deadline=None, max_examples=25)
@given(st.lists(st.booleans(), min_size=1, max_size=40))
def test_exactly_the_broken_ones_go_without(broken: list[bool]) -> None:
    asked = [wanted(f"s{i}", 1000.0 if bad else 10.0 + i) for i, bad in enumerate(broken)]
    model = Fragile()
    found = forecaster(model).forecast(asked, NOW_S)
    bad = {w.key for w, b in zip(asked, broken, strict=True) if b}
    assert set(found.failed) == bad
    assert set(found.made) == {w.key for w in asked} - bad
    assert all(text == "RuntimeError: poison" for text in found.failed.values())
    for i, w in enumerate(asked):
        if w.key in found.made:
            assert found.made[w.key] == 10.0 + i, "each its own"
    most = 1 + 2 * len(bad) * (int(np.log2(len(asked))) + 1)
    assert len(model.batches) <= most, "halving, not one by one"


def test_services_of_one_schema_go_in_one_batch() -> None:
    model = Fragile()
    forecaster(model).forecast([wanted(f"s{i}", 10.0, horizon=h) for i, h in enumerate((1, 3, 6, 5))], NOW_S)
    assert model.batches == [(4, HORIZONS[0])]


def test_other_steps_and_horizons_are_other_batches() -> None:
    model = Fragile()
    asked = [wanted("a", 10.0), wanted("b", 10.0, step_s=30.0), wanted("c", 10.0, horizon=20), wanted("d", 10.0, 500)]
    found = forecaster(model).forecast(asked, NOW_S)
    assert sorted(model.batches) == [(1, 6), (1, 6), (1, 24), (1, 500)]
    assert len(found.made) == 4


def test_large_fleets_go_in_chunks() -> None:
    model = Fragile()
    one = wanted("x", 10.0)
    asked = [Wanted(ServiceKey("GPUAutoscaler", "serving", str(i)), one.history, 5) for i in range(CHUNK + 3)]
    found = forecaster(model).forecast(asked, NOW_S)
    assert model.batches == [(CHUNK, 6), (3, 6)]
    assert len(found.made) == CHUNK + 3


def test_equal_inputs_give_equal_forecasts() -> None:
    first, second = (forecaster(Fragile()).forecast([wanted("a", 10.0)], NOW_S) for _ in range(2))
    assert first.made == second.made
    assert len(first.made) == 1


def test_nothing_more_is_made_when_it_is_cancelled() -> None:
    model = Fragile()
    assert forecaster(model).forecast([wanted("a", 10.0)], NOW_S, cancelled=lambda: True).made == {}
    assert model.batches == []


def test_nobody_wants_anything() -> None:
    found = forecaster(Fragile()).forecast([], NOW_S)
    assert (found.made, found.failed) == ({}, {})


@pytest.mark.parametrize("error", [MemoryError(), KeyError("x"), ZeroDivisionError()])
def test_whatever_is_raised_is_a_missing_forecast(error: Exception) -> None:
    class Raises(Fragile):
        def predict(self, windows: WindowBatch, horizon: int, **how: Any) -> ForecastBatch:
            raise error

    asked = [wanted("a", 10.0), wanted("b", 10.0)]
    found = forecaster(Raises()).forecast(asked, NOW_S)
    assert set(found.failed) == {w.key for w in asked}
    assert all(text.startswith(type(error).__name__) for text in found.failed.values())
