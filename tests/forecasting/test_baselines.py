from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from importlib.util import find_spec

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forecasting.base import ForecastModel
from forecasting.baselines.analogues import Analogues
from forecasting.baselines.boosted_quantiles import BoostedQuantiles
from forecasting.baselines.clock_ridge import ClockRidge
from forecasting.baselines.common import (
    POOL_ROWS,
    draw_rows,
    fill_forward,
    join_pools,
    last_seen,
    local_spread,
    spread_floor,
    tidy_pool,
    training_chunks,
)
from forecasting.baselines.last_value import LastValue
from forecasting.baselines.linear import Moments, solve
from forecasting.baselines.patch_transformer import PatchTransformer
from forecasting.baselines.quantile_forest import QuantileForest
from forecasting.baselines.ridge import Ridge
from forecasting.baselines.seasonal_naive import SeasonalNaive
from forecasting.baselines.seasonal_shape import SeasonalShape
from forecasting.baselines.wide_forest import WideForest
from forecasting.baselines.window_quantiles import WindowQuantiles
from forecasting.ensemble import Ensemble
from forecasting.errors import DataError, UsageError
from forecasting.methods import create_method
from forecasting.panel import FloatArray, Panel
from forecasting.windows import WindowBatch
from tests.counting import calls
from tests.forecasting.builders import panel_of, wavy

LOOKBACK, HORIZON = 24, 4


def small_trees() -> BoostedQuantiles:
    return BoostedQuantiles(trees=5)


def small_forest() -> QuantileForest:
    return QuantileForest(trees=20)


def small_wide_forest() -> WideForest:
    return WideForest(trees=20)


Factory = Callable[[], ForecastModel]
METHODS: dict[str, Factory] = {
    "last_value": LastValue,
    "last_value_scaled": lambda: LastValue(scaled=True),
    "seasonal_naive": SeasonalNaive,
    "window_quantiles": WindowQuantiles,
    "ridge": Ridge,
    "clock_ridge": ClockRidge,
    "seasonal_shape": SeasonalShape,
    "analogues": Analogues,
    "boosted_quantiles": small_trees,
    "quantile_forest": small_forest,
    "wide_forest": small_wide_forest,
    "ensemble": Ensemble,
}
# By the package of the extra `evaluate` that each needs: under the laws wherever it is installed.
EXTRA = {"auto_ets": "statsforecast", "auto_arima": "statsforecast", "flair": "flaircast", "fracast": "fracast"}
METHODS |= {
    name: functools.partial(create_method, name) for name, package in EXTRA.items() if find_spec(package) is not None
}
if find_spec("neuralforecast") is not None:
    METHODS["patch_transformer"] = functools.partial(PatchTransformer, steps=30)
each_method = pytest.mark.parametrize("make", METHODS.values(), ids=METHODS.keys())


def fitted(make: Factory, panel: Panel) -> ForecastModel:
    """Fitted on the first four fifths of the panel; kept for the tests that ask for the same again."""
    key = (make, panel.digest())
    if key not in _FITTED:
        cut = len(panel) * 4 // 5
        late = panel.rows(cut - LOOKBACK, len(panel))
        _FITTED[key] = make().fit([panel.rows(0, cut)], lookback=LOOKBACK, horizon=HORIZON, validation=[late], seed=3)
    return _FITTED[key]


_FITTED: dict[tuple[Factory, str], ForecastModel] = {}


def windows_of(panel: Panel, count: int = 6, *, seasonal: bool = False, lookback: int = LOOKBACK) -> WindowBatch:
    ends = np.arange(len(panel) - HORIZON - count, len(panel) - HORIZON)
    return WindowBatch.of(panel, ends, lookback, horizon=HORIZON if seasonal else 0)


@pytest.mark.parametrize("name", EXTRA)
def test_methods_of_the_extra_are_under_the_laws_where_it_is_installed(name: str) -> None:
    if name not in METHODS:
        with pytest.raises(UsageError, match=r"pip install 'harmony-autoscaler\[evaluate\]'"):
            create_method(name)
        pytest.skip(f"{name}: {EXTRA[name]} is not installed (extra evaluate)")
    assert create_method(name).name == name


@pytest.mark.parametrize("name", ["patch_transformer", "flair", "fracast"])
def test_where_its_library_is_missing_a_method_names_its_extra(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("neuralforecast", "flaircast", "fracast"):
        monkeypatch.setitem(sys.modules, module, None)
    extra = "deep" if name == "patch_transformer" else "evaluate"
    with pytest.raises(UsageError, match=rf"^{name} needs .* pip install 'harmony-autoscaler\[{extra}\]'$"):
        create_method(name)


# ---- laws of every method ---------------------------------------------------------------------------------------
@each_method
@pytest.mark.parametrize("absent", [0.0, 0.1])
@pytest.mark.parametrize("seasonal", [False, True])
def test_paths_have_the_promised_shape_and_no_holes(make: Factory, absent: float, seasonal: bool) -> None:
    panel = wavy(absent=absent)
    windows = windows_of(panel, seasonal=seasonal)
    found = fitted(make, panel).predict(windows, HORIZON, samples=11, seed=1)
    assert found.paths.shape == (6, 11, HORIZON, 3)
    assert np.isfinite(found.paths).all()
    assert found.indicators == panel.indicators
    np.testing.assert_array_equal(found.origin_s, windows.end_s)
    assert found.step_s == panel.step_s


@each_method
def test_it_is_a_forecast_model_with_name_and_version(make: Factory) -> None:
    model = make()
    assert isinstance(model, ForecastModel)
    assert METHODS.keys() >= {model.name}
    blank = model.version
    panel = wavy()
    versions = {blank, *(fitted(make, p).version for p in (panel, panel.replace(values=panel.values + 1)))}
    assert len(versions) == 3
    again = wavy(120)
    assert len({make().fit([again], lookback=LOOKBACK, horizon=1).version for _ in range(2)}) == 1


@each_method
def test_equal_inputs_and_seed_give_equal_paths_whatever_else_is_in_the_batch(make: Factory) -> None:
    panel = wavy(absent=0.05)
    windows = windows_of(panel, seasonal=True)
    whole = fitted(make, panel).predict(windows, HORIZON, samples=7, seed=5).paths
    again = fitted(make, panel)
    parts = [again.predict(chunk, HORIZON, samples=7, seed=5).paths for chunk in windows.chunks(2)]
    # Matrix products of other sizes may round the last digit differently.
    np.testing.assert_allclose(np.concatenate(parts), whole, rtol=1e-9)
    assert not np.allclose(again.predict(windows, HORIZON, samples=7, seed=6).paths, whole)


@each_method
def test_only_picks_from_the_same_joint_paths(make: Factory) -> None:
    panel = wavy()
    windows = windows_of(panel)
    model = fitted(make, panel)
    whole = model.predict(windows, HORIZON, samples=9, seed=2)
    some = model.predict(windows, HORIZON, samples=9, seed=2, only=["c", "a"])
    assert [i.name for i in some.indicators] == ["c", "a"]
    np.testing.assert_allclose(some.paths, whole.paths[..., [2, 0]])
    with pytest.raises(DataError, match="no indicator 'z'"):
        model.predict(windows, HORIZON, only=["z"])


@each_method
def test_fewer_steps_than_fitted_are_the_first_ones(make: Factory) -> None:
    panel = wavy()
    windows = windows_of(panel)
    model = fitted(make, panel)
    whole, short = (model.predict(windows, h, samples=400, seed=2).paths for h in (HORIZON, 1))
    np.testing.assert_allclose(np.quantile(short, 0.5, axis=1), np.quantile(whole, 0.5, axis=1)[:, :1], rtol=0.1)
    for wrong in (0, HORIZON + 1):
        with pytest.raises(UsageError, match=r"horizons 1\.\.4"):
            model.predict(windows, wrong)
    with pytest.raises(UsageError, match="samples 0"):
        model.predict(windows, 1, samples=0)


@each_method
def test_an_indicator_absent_all_through_a_window_is_absent_in_the_forecast(make: Factory) -> None:
    panel = wavy()
    model = fitted(make, panel)
    windows = windows_of(panel)
    gone = windows.values.copy()
    gone[2, :, 1] = np.nan
    found = model.predict(WindowBatch(gone, windows.indicators, windows.end_s, windows.step_s), HORIZON, samples=5)
    expected = np.zeros(found.paths.shape, dtype=bool)
    expected[2, ..., 1] = True
    np.testing.assert_array_equal(np.isnan(found.paths), expected)


@each_method
def test_an_indicator_never_seen_is_never_forecast_and_harms_no_other(make: Factory) -> None:
    panel = wavy()
    values = panel.values.copy()
    values[:, 1] = np.nan
    blind = panel.replace(values=values)
    found = fitted(make, blind).predict(windows_of(blind), HORIZON, samples=5).paths
    assert np.isnan(found[..., 1]).all()
    assert np.isfinite(found[..., [0, 2]]).all()


@each_method
def test_a_constant_is_forecast_as_that_constant(make: Factory) -> None:
    panel = wavy()
    values = panel.values.copy()
    values[:, 2] = 68_719_476_736.0
    still = panel.replace(values=values)
    found = fitted(make, still).predict(windows_of(still, seasonal=True), HORIZON, samples=5).paths
    assert (found[..., 2] == 68_719_476_736.0).all()


@each_method
def test_what_was_never_negative_is_never_forecast_negative(make: Factory) -> None:
    values = np.random.default_rng(0).exponential(size=(400, 2)) * (np.arange(400)[:, None] % 3 == 0)
    panel = panel_of(values)
    found = fitted(make, panel).predict(windows_of(panel), HORIZON, samples=200).paths
    assert found.min() == 0.0
    below = panel_of(values - 5.0)
    assert fitted(make, below).predict(windows_of(below), HORIZON, samples=200).paths.min() < -4.0


@each_method
def test_another_unit_gives_the_same_forecast_in_that_unit(make: Factory) -> None:
    panel = wavy()
    grams, tonnes = (p.replace(values=p.values * s) for p, s in ((panel, 1.0), (panel, 2.0**-20)))
    a = fitted(make, grams).predict(windows_of(grams), HORIZON, samples=9).paths
    b = fitted(make, tonnes).predict(windows_of(tonnes), HORIZON, samples=9).paths
    np.testing.assert_allclose(b * 2.0**20, a, rtol=1e-6)


@each_method
def test_newer_rows_change_the_version_and_keep_the_forecast_sane(make: Factory) -> None:
    panel = wavy(900)
    model = make().fit([panel.rows(0, 500)], lookback=LOOKBACK, horizon=HORIZON, seed=3)
    before = model.version
    model.update([panel.rows(500 - LOOKBACK, 900)], seed=4)
    assert model.version != before
    found = model.predict(windows_of(panel), HORIZON, samples=50).paths
    assert np.isfinite(found).all()
    truth = panel.values[np.arange(890, 896)[:, None] + np.arange(1, HORIZON + 1)]
    assert (np.abs(np.median(found, axis=1) - truth) < 60 * (1 + np.arange(3))).all()


@each_method
def test_mistakes_are_named(make: Factory) -> None:
    panel, model = wavy(), make()
    with pytest.raises(UsageError, match="call fit first"):
        model.predict(windows_of(panel), 1)
    with pytest.raises(DataError, match="no panels"):
        model.fit([], lookback=3, horizon=1)
    with pytest.raises(UsageError, match="at least 1 step"):
        model.fit([panel], lookback=0, horizon=1)
    with pytest.raises(DataError, match="20 rows are too few for a lookback of 24"):
        model.fit([panel.rows(0, 20)], lookback=LOOKBACK, horizon=HORIZON)
    with pytest.raises(DataError, match="differ from those learned from"):
        model.fit([panel, wavy(columns=2)], lookback=LOOKBACK, horizon=HORIZON)
    model = fitted(make, panel)
    with pytest.raises(DataError, match="the windows hold a, b"):
        model.predict(windows_of(wavy(columns=2)), 1)
    with pytest.raises(DataError, match=r"windows have 1 s"):
        model.predict(windows_of(panel.replace(step_s=1.0)), 1)
    with pytest.raises(DataError, match="needs windows of 24 rows, got 10"):
        model.predict(windows_of(panel, lookback=10), 1)
    with pytest.raises(DataError, match="reads the seasons"):
        model.predict(WindowBatch.of(panel, [300], LOOKBACK, horizon=1), 2)


@each_method
def test_longer_windows_are_read_from_their_end_unless_the_method_reads_more(make: Factory) -> None:
    panel = wavy()
    model = fitted(make, panel)
    right, long, longer = (
        model.predict(windows_of(panel, lookback=n), HORIZON, samples=5).paths for n in (LOOKBACK, 60, 5_000)
    )
    if getattr(model, "history", 0) == 0:
        np.testing.assert_allclose(long, right)
        np.testing.assert_allclose(longer, right)
    else:
        assert not np.allclose(long, right)


@each_method
@pytest.mark.parametrize("lookback", [1, 2, 200])
def test_the_shortest_and_a_long_lookback_work(make: Factory, lookback: int) -> None:
    panel = wavy(700, 1, absent=0.02)
    model = make().fit([panel.rows(0, 500)], lookback=lookback, horizon=2)
    windows = WindowBatch.of(panel, np.arange(600, 640), lookback, horizon=2)
    seen = ~np.isnan(windows.values).all(axis=(1, 2))
    found = model.predict(windows, 2, samples=20).paths[seen]
    assert np.isfinite(found).all()
    assert 30 < found.mean() < 70


# ---- what each method is ----------------------------------------------------------------------------------------
def test_last_value_is_the_last_reading_plus_whole_residual_vectors() -> None:
    panel = panel_of(np.cumsum(np.random.default_rng(0).normal(size=(300, 2)), axis=0))
    model = LastValue().fit([panel], lookback=5, horizon=3)
    windows = WindowBatch.of(panel, [100, 200], 5)
    noise = model.predict(windows, 3, samples=40).paths - windows.values[:, -1][:, None, None]
    rows = np.arange(4, 297)
    pool = panel.values[rows[:, None] + [1, 2, 3]] - panel.values[rows][:, None]
    for path in noise[0]:
        assert np.isclose(pool, path).all(axis=(1, 2)).any()
    np.testing.assert_allclose(noise[0], noise[1], atol=1e-12)


def test_scaled_residuals_make_quiet_windows_narrow_and_busy_ones_wide() -> None:
    rng = np.random.default_rng(0)
    loudness = np.repeat([0.5, 5.0], 300)
    panel = panel_of((100 + rng.normal(size=600) * loudness)[:, None])
    windows = WindowBatch.of(panel, [250, 550], LOOKBACK)
    plain, scaled = (
        LastValue(scaled=s)
        .fit([panel], lookback=LOOKBACK, horizon=1)
        .predict(windows, 1, samples=500)
        .paths.std(axis=1)
        for s in (False, True)
    )
    assert plain[1] == pytest.approx(plain[0])
    assert scaled[1] / scaled[0] == pytest.approx(10, rel=0.5)


def test_window_quantiles_have_the_window_as_marginal_and_its_stretches_as_paths() -> None:
    panel = wavy(columns=2)
    model = WindowQuantiles().fit([panel], lookback=6, horizon=HORIZON)
    windows = WindowBatch.of(panel, [80], 6)
    paths = model.predict(windows, HORIZON, samples=60).paths[0]
    for step in range(HORIZON):
        values, counts = np.unique(paths[:, step, 0], return_counts=True)
        np.testing.assert_array_equal(values, np.sort(windows.values[0, :, 0]))
        assert (counts == 10).all()
    ring = np.concatenate([windows.values[0]] * 2)
    for path in paths:
        assert any((path == ring[s : s + HORIZON]).all() for s in range(6))


def test_seasonal_naive_repeats_the_season_it_knows() -> None:
    day = np.random.default_rng(0).normal(100, 10, size=(144, 2))
    panel = panel_of(np.tile(day, (10, 1)))
    model = SeasonalNaive().fit([panel.rows(0, 900)], lookback=LOOKBACK, horizon=HORIZON)
    ends = np.array([1000, 1200])
    found = model.predict(WindowBatch.of(panel, ends, LOOKBACK, horizon=HORIZON), HORIZON, samples=3).paths
    truth = panel.values[ends[:, None] + np.arange(1, HORIZON + 1)]
    np.testing.assert_allclose(found, np.broadcast_to(truth[:, None], found.shape))


def test_without_seasons_the_best_lag_inside_the_lookback_stands_in() -> None:
    rng = np.random.default_rng(0)
    rows = np.arange(600)
    panel = panel_of(np.stack([rows % 7, rows % 5], axis=1) * 10.0 + rng.normal(scale=0.01, size=(600, 2)))
    model = SeasonalNaive().fit([panel.rows(0, 500)], lookback=12, horizon=10)
    found = model.predict(WindowBatch.of(panel, [550], 12), 10, samples=5).paths[0]
    np.testing.assert_allclose(found, np.broadcast_to(panel.values[551:561], found.shape), atol=0.1)


def test_ridge_finds_a_linear_law_at_every_step() -> None:
    # Steps that keep 0.8 of the step before: the best forecast h ahead adds (0.8 + ... + 0.8^h) times the last step.
    rng = np.random.default_rng(0)
    steps = np.zeros(6000)
    for t in range(1, 6000):
        steps[t] = 0.8 * steps[t - 1] + rng.normal(scale=0.1)
    x = np.cumsum(steps)
    panel = panel_of(x[:, None])
    model = Ridge().fit([panel.rows(0, 4000)], lookback=10, horizon=3, validation=[panel.rows(3990, 5000)])
    ends = np.arange(5100, 5900)
    found = model.predict(WindowBatch.of(panel, ends, 10), 3, samples=400).paths[..., 0]
    gain = np.cumsum(0.8 ** np.arange(1, 4))
    best = x[ends, None] + steps[ends, None] * gain
    np.testing.assert_allclose(found.mean(axis=1), best, atol=0.12)
    # The spread grows with the step as the law says; windows are about equally rough, so scaling changes little.
    sd = 0.1 * np.sqrt(np.cumsum(np.cumsum(0.8 ** np.arange(3)) ** 2))
    np.testing.assert_allclose(found.std(axis=1).mean(axis=0), sd, rtol=0.25)


def test_ridge_reads_the_season_when_it_may() -> None:
    rng = np.random.default_rng(0)
    day = rng.normal(100, 10, size=(144, 1))
    panel = panel_of(np.tile(day, (14, 1)) + rng.normal(scale=0.3, size=(2016, 1)))
    model = Ridge().fit([panel.rows(0, 1500)], lookback=LOOKBACK, horizon=2, validation=[panel.rows(1476, 1700)])
    ends = np.arange(1700, 2000)
    truth = panel.values[ends[:, None] + [1, 2], 0]
    error = {}
    for seasonal in (False, True):
        windows = WindowBatch.of(panel, ends, LOOKBACK, horizon=2 if seasonal else 0)
        error[seasonal] = np.abs(model.predict(windows, 2, samples=50).paths[..., 0].mean(axis=1) - truth).mean()
    assert error[True] < 0.5
    assert error[False] > 3


def test_the_cap_holds_demand_below_twice_the_highest_seen() -> None:
    growing = panel_of(np.exp(np.arange(300.0)[:, None] / 20).repeat(2, axis=1))
    windows = WindowBatch.of(growing, [299], LOOKBACK)
    capped, free = (Ridge(cap=c).fit([growing], lookback=LOOKBACK, horizon=40) for c in (1.05, None))
    high = growing.values.max()
    assert capped.predict(windows, 40, samples=100).paths[..., 0].max() == pytest.approx(1.05 * high)
    assert capped.predict(windows, 40, samples=100).paths[..., 1].max() > 1.5 * high  # not a demand
    assert free.predict(windows, 40, samples=100).paths[..., 0].max() > 1.5 * high


def test_ridge_computes_the_windows_of_a_replay_together() -> None:
    panel = panel_of(np.abs(np.cumsum(np.random.default_rng(0).normal(size=12_000)))[:, None])
    model = Ridge().fit([panel.rows(0, 2_500)], lookback=144, horizon=10)

    def replay(count: int) -> None:
        windows = WindowBatch.of(panel, np.arange(2_900, 2_900 + count), 144, horizon=10)
        assert model.predict(windows, 10, samples=200).paths.shape == (count, 200, 10, 1)

    replay(9)
    assert calls(lambda: replay(9_000)) <= 1.5 * calls(lambda: replay(90))


def test_boosted_quantiles_widen_where_the_noise_does() -> None:
    rng = np.random.default_rng(0)
    hour = (np.arange(3000) % 144) / 144
    panel = panel_of((100 + rng.normal(size=3000) * np.where(hour < 0.5, 0.2, 5.0))[:, None])
    model = BoostedQuantiles(trees=40).fit([panel], lookback=LOOKBACK, horizon=1)
    ends = 144 * 10 + np.array([30, 60, 100, 130])
    spread = np.ptp(
        np.quantile(model.predict(WindowBatch.of(panel, ends, LOOKBACK), 1, samples=200).paths, [0.1, 0.9], axis=1),
        axis=0,
    )
    assert spread[2:].min() > 4 * spread[:2].max()


def test_a_forests_paths_are_what_followed_windows_like_it() -> None:
    # After a low reading comes 1, 2, after a high one 9, 8, with little noise: no path mixes the two.
    rng = np.random.default_rng(0)
    high = rng.random(700) < 0.5
    rows = np.stack([np.where(high, 20.0, 10.0), np.where(high, 19.0, 11.0), np.where(high, 18.0, 12.0)], axis=1)
    panel = panel_of((rows.ravel() + rng.normal(scale=0.01, size=2100))[:, None])
    model = QuantileForest(trees=50).fit([panel], lookback=3, horizon=2, seed=1)
    ends = 3 * np.arange(300, 400)
    paths = model.predict(WindowBatch.of(panel, ends, 3), 2, samples=100).paths[..., 0]
    expected = np.where(high[300:400], 19.0, 11.0), np.where(high[300:400], 18.0, 12.0)
    for step in range(2):
        near = np.abs(paths[:, :, step] - expected[step][:, None]) < 0.5
        assert near.mean() > 0.9
    together = np.abs(np.diff(paths, axis=2)[..., 0]) < 2.0
    assert together.mean() > 0.95


@pytest.mark.parametrize("make", [LastValue, Ridge, WindowQuantiles, small_trees])
def test_steps_and_indicators_of_a_path_belong_together(make: Factory) -> None:
    rng = np.random.default_rng(0)
    walk = 1000 + np.cumsum(rng.normal(size=1500))
    panel = panel_of(np.stack([walk, 2 * walk + rng.normal(scale=0.1, size=1500)], axis=1))
    model = make().fit([panel], lookback=LOOKBACK, horizon=6)
    paths = model.predict(WindowBatch.of(panel, [1000], LOOKBACK), 6, samples=500).paths[0]
    assert np.corrcoef(paths[:, 5, 0], paths[:, 5, 1])[0, 1] > 0.9
    assert np.corrcoef(paths[:, 4, 0], paths[:, 5, 0])[0, 1] > 0.7


@pytest.mark.parametrize(
    ("module", "name", "extra"),
    [
        ("lightgbm", "boosted_quantiles", "trees"),
        ("sklearn.ensemble", "quantile_forest", "trees"),
        ("statsforecast.models", "auto_ets", "evaluate"),
        ("statsforecast.models", "auto_arima", "evaluate"),
        ("flaircast", "flair", "evaluate"),
        ("fracast", "fracast", "evaluate"),
    ],
)
def test_a_missing_extra_is_named(module: str, name: str, extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UsageError, match=rf"{name} needs .*: pip install 'harmony-autoscaler\[{extra}\]'"):
        create_method(name)


# ---- the parts --------------------------------------------------------------------------------------------------
tables = st.integers(0, 10_000).map(
    lambda seed: np.where(
        np.random.default_rng(seed).random((3, 7, 2)) < 0.5,
        np.nan,
        np.random.default_rng(seed + 1).normal(size=(3, 7, 2)),
    )
)


def naive_fill(column: FloatArray) -> FloatArray:
    seen = column[~np.isnan(column)]
    out, last = column.copy(), seen[0] if len(seen) else np.nan
    for i, value in enumerate(column):
        last = last if np.isnan(value) else value
        out[i] = last
    return out


@given(tables)
def test_filling_repeats_the_last_reading(values: FloatArray) -> None:
    filled = fill_forward(values)
    for b in range(3):
        for k in range(2):
            np.testing.assert_array_equal(filled[b, :, k], naive_fill(values[b, :, k]))
            assert last_seen(values)[b, k] == filled[b, -1, k] or np.isnan(filled[b]).all(axis=0)[k]
            seen = values[b, :, k][~np.isnan(values[b, :, k])]
            assert local_spread(values)[b, k] == pytest.approx(seen.std() if len(seen) else 0.0)


def test_the_floor_is_a_share_of_the_usual_spread_and_1_for_a_constant() -> None:
    floor = spread_floor(np.array([[3.0, 0.0], [4.0, 0.0]]), 0.1)
    np.testing.assert_allclose(floor, [0.1 * np.sqrt(12.5), 1.0])


@given(st.integers(1, 50), st.integers(1, 200), st.integers(0, 1000))
def test_draws_spread_evenly_over_the_pool(rows: int, samples: int, seed: int) -> None:
    drawn = draw_rows(rows, samples, np.random.default_rng(seed))
    assert drawn.shape == (samples,)
    counts = np.bincount(drawn, minlength=rows)
    assert len(counts) == rows
    assert np.abs(counts - samples / rows).max() <= 2


def test_pools_are_whole_bounded_and_never_empty() -> None:
    pool = np.array([[1.0, np.nan], [np.nan, np.nan], [2.0, 20.0], [np.nan, 30.0]])
    np.testing.assert_array_equal(tidy_pool(pool), [[1.0, 20.0], [2.0, 20.0], [2.0, 30.0]])
    assert np.isnan(tidy_pool(np.empty((0, 3)))).all()
    long = np.arange(3.0 * POOL_ROWS)[:, None]
    thin = tidy_pool(long)
    assert len(thin) == POOL_ROWS
    assert thin[-1] == long[-1]
    joined = join_pools(thin, long[:5] - 100)
    assert len(joined) == POOL_ROWS
    np.testing.assert_array_equal(joined[-5:], long[:5] - 100)
    np.testing.assert_array_equal(join_pools(np.full((1, 1), np.nan), long[:5]), long[:5])


@given(st.lists(st.integers(1, 40), min_size=1, max_size=4), st.integers(1, 8), st.integers(1, 4), st.integers(1, 9))
def test_training_windows_are_all_there_once_and_in_order(
    rows: list[int], lookback: int, horizon: int, size: int
) -> None:
    panels = [panel_of(100.0 * i + np.arange(n)[:, None]) for i, n in enumerate(rows)]
    chunks = list(training_chunks(panels, lookback, horizon, size=size))
    found = [row for c in chunks for row in np.concatenate([c.windows.values, c.targets], axis=1)[:, :, 0].tolist()]
    span = lookback + horizon
    assert found == [[100.0 * i + s + j for j in range(span)] for i, n in enumerate(rows) for s in range(n - span + 1)]
    assert [c.first for c in chunks] == np.cumsum([0, *(len(c.windows) for c in chunks)])[:-1].tolist()
    assert all(c.total == len(found) for c in chunks)


@given(st.integers(0, 10_000), st.booleans())
@settings(max_examples=30)
def test_solving_from_moments_is_solving_from_the_rows(seed: int, holes: bool) -> None:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(60, 4)) * [1, 10, 100, 0] + [0, 5, -3, 7]
    y = rng.normal(size=(60, 3)) + x[:, :1]
    if holes:
        y[rng.random(y.shape) < 0.2] = np.nan
    design = np.concatenate([np.ones((60, 1)), x], axis=1)
    penalties = np.array([1e-3, 0.5])
    halves = Moments.of(design[:25], y[:25]) + Moments.of(design[25:], y[25:])
    found = solve(halves, penalties)
    assert found.shape == (2, 5, 3)
    np.testing.assert_allclose(solve(halves, penalties[1:])[0], found[1], rtol=1e-8, atol=1e-10)
    for i, penalty in enumerate(penalties):
        for j in range(3):
            seen = ~np.isnan(y[:, j])
            part, target = x[seen][:, :3], y[seen, j]
            z = (part - part.mean(0)) / part.std(0)
            w = np.linalg.solve(
                z.T @ z / len(z) + penalty * np.eye(3), z.T @ (target - target.mean()) / len(z)
            ) / part.std(0)
            expected = [target.mean() - part.mean(0) @ w, *w, 0.0]
            np.testing.assert_allclose(found[i, :, j], expected, rtol=1e-6, atol=1e-9)
    left = halves - Moments.of(design[:25], y[:25])
    np.testing.assert_allclose(left.cross, Moments.of(design[25:], y[25:]).cross, atol=1e-9)


def test_targets_without_rows_get_no_coefficients() -> None:
    assert (solve(Moments.zero(4, 2), np.array([0.1])) == 0).all()
