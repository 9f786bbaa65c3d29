"""One forecast for all: batches by schema, and whoever breaks one stands alone with it."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forecasting.distribution import ForecastBatch
from forecasting.fleet import CHUNK, HORIZONS, FleetForecaster, Wanted, forecast_rows
from forecasting.panel import Indicator, Panel
from forecasting.windows import RowSource, WindowBatch
from tests.forecasting.builders import wavy

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


def wanted(name: str, level: float, horizon: int = 5, step_s: float = 60.0) -> Wanted[str]:
    past = Panel(np.full((30, 1), level), (DEMAND,), NOW_S - step_s * 29, step_s)
    return Wanted(name, past, horizon)


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
    asked = [Wanted(str(i), one.source, 5) for i in range(CHUNK + 3)]
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


class Still(Fragile):
    """The newest reading of every indicator, all along; keeps what it was asked for."""

    lookback = 12

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[dict[str, Any]] = []

    def predict(self, windows: WindowBatch, horizon: int, **how: Any) -> ForecastBatch:
        self.asked.append({"lookback": windows.lookback, "seasonal": windows.seasonal is not None} | how)
        names = [i.name for i in windows.indicators]
        picks = [names.index(n) for n in how["only"] or names]
        last = windows.values[:, -1, picks]
        paths = np.broadcast_to(last[:, None, None], (len(last), how["samples"], horizon, len(picks)))
        indicators = tuple(windows.indicators[p] for p in picks)
        return ForecastBatch(paths, indicators, windows.end_s, windows.step_s, "still 1")


def test_each_service_from_its_own_last_row_on_and_as_many_rows_as_the_model_reads() -> None:
    model, past = Still(), wavy(40, 2)
    fleet = FleetForecaster(model, samples=3, seed=7)
    late_s = past.end_s + 0.4 * past.step_s
    found = fleet.forecast([Wanted("whole", past, 4), Wanted("part", past.rows(0, 20), 4)], late_s).made
    whole = found["whole"]
    assert (whole.origin_s, [i.name for i in whole.indicators]) == (past.end_s, ["a"])
    assert (whole.paths == past.values[-1, 0]).all()
    assert np.isnan(found["part"].paths).all(), "what ended earlier is absent now, and not the newest"
    assert model.asked == [{"lookback": 12, "seasonal": True, "samples": 3, "seed": 7, "only": ("a",)}]


def test_all_indicators_and_other_steps_of_the_horizon_where_asked() -> None:
    fleet = FleetForecaster(cast("Any", Still()), samples=2, horizons=(10, 20), demand_only=False)
    found = fleet.forecast([Wanted(h, wavy(40, 3), h) for h in (3, 10, 11, 21)], 0.0).made
    assert {h: (f.horizon, len(f.indicators)) for h, f in found.items()} == {
        3: (10, 3),
        10: (10, 3),
        11: (20, 3),
        21: (21, 3),
    }


def test_a_source_that_breaks_takes_nobody_along() -> None:
    class Broken:
        indicators, start_s, step_s, calendar = (DEMAND,), 0.0, 60.0, True

        def row_at(self, now_s: float) -> int:
            return 0

        def recent(self, rows: Any) -> Any:
            raise OSError("gone")

        earlier = recent

    broken: RowSource = Broken()
    found = forecaster(Fragile()).forecast([wanted("a", 10.0), Wanted("b", broken, 5)], NOW_S)
    assert list(found.made) == ["a"]
    assert found.failed == {"b": "OSError: gone"}


@given(st.lists(st.integers(0, 59), min_size=1, max_size=5), st.integers(1, 4))
def test_many_times_of_one_service_are_what_each_time_alone_would_be(ends: list[int], horizon: int) -> None:
    past = wavy(60, 2, absent=0.2)
    many = forecast_rows(cast("Any", Still()), past, ends, horizon, samples=2)
    for end, found in zip(ends, many, strict=True):
        known = past.rows(0, end + 1)  # nothing later exists
        alone = forecast_rows(cast("Any", Still()), known, [end], horizon, samples=2)[0]
        np.testing.assert_array_equal(found.paths, alone.paths)
        assert found.origin_s == alone.origin_s == past.times_s[end]


def test_of_one_service_what_breaks_is_raised() -> None:
    with pytest.raises(RuntimeError, match="poison"):
        forecast_rows(cast("Any", Fragile()), wanted("a", 1000.0).source, [29], 3)
    model = Still()
    forecast_rows(cast("Any", model), wavy(20, 2), [19], 3, lookback=5, only=["b"])
    assert (model.asked[0]["lookback"], model.asked[0]["only"]) == (5, ["b"])
