from __future__ import annotations

import numpy as np
import pytest

from forecasting.baselines.clock_ridge import ClockRidge
from forecasting.baselines.log_width import LogWidth, width_terms
from forecasting.baselines.ridge import Ridge
from forecasting.baselines.thinned import thinned
from forecasting.windows import WindowBatch
from tests.forecasting.builders import panel_of

LOOKBACK = 24


def test_coefficients_turn_with_the_clock() -> None:
    # In the first half of a day a step goes on, in the second it is taken back: in the mean of the day it says nothing.
    rng = np.random.default_rng(0)
    x, step = np.zeros(6000), 0.0
    for t in range(1, 6000):
        step = (0.8 if (t % 144) < 72 else -0.8) * step + rng.normal()
        x[t] = 0.97 * x[t - 1] + step
    panel = panel_of(x[:, None])
    ends = np.arange(5000, 5990)
    error = {}
    for model in (Ridge(), ClockRidge()):
        found = model.fit([panel.rows(0, 5000)], lookback=LOOKBACK, horizon=1)
        paths = found.predict(WindowBatch.of(panel, ends, LOOKBACK), 1, samples=50).paths[:, :, 0, 0]
        error[model.name] = float(((paths.mean(axis=1) - x[ends + 1]) ** 2).mean())
    assert error["clock_ridge"] < 1.35
    assert error["ridge"] > 1.5


def test_counts_are_wider_where_they_are_higher_and_as_wide_as_they_say() -> None:
    rng = np.random.default_rng(1)
    level = 260 + 240 * np.sin(2 * np.pi * np.arange(8000) / 700)  # no clock says so
    panel = panel_of(rng.poisson(level).astype(float)[:, None])
    model = ClockRidge().fit([panel.rows(0, 7000)], lookback=LOOKBACK, horizon=1)
    ends = np.arange(7000, 7990)
    paths = model.predict(WindowBatch.of(panel, ends, LOOKBACK), 1, samples=200).paths[:, :, 0, 0]
    low, high = np.quantile(paths, [0.1, 0.9], axis=1)
    truth, now = panel.values[ends + 1, 0], level[ends + 1]
    for some in (now > 400, now < 60):
        assert np.median((high - low)[some]) == pytest.approx(2 * 1.28 * np.median(now[some]) ** 0.5, rel=0.2)
        assert ((truth >= low) & (truth <= high))[some].mean() == pytest.approx(0.8, abs=0.1)


def test_a_jump_out_of_a_quiet_window_is_no_larger_in_a_busy_one() -> None:
    rng = np.random.default_rng(2)
    loud = np.arange(6000) % 1000 >= 500
    x = 100 + rng.normal(size=6000) * np.where(loud, 5.0, 0.01)
    x[(~loud) & (rng.random(6000) < 0.02)] += 8.0  # hundreds of the widths there
    panel = panel_of(x[:, None])
    model = ClockRidge(cap=None).fit([panel], lookback=LOOKBACK, horizon=1)
    paths = model.predict(WindowBatch.of(panel, [4900, 5900], LOOKBACK), 1, samples=1000).paths[:, :, 0, 0]
    assert np.abs(paths - 100).max() < 40
    assert paths.std(axis=1).min() > 2


def test_other_indicators_are_read() -> None:
    rng = np.random.default_rng(3)
    lead = rng.normal(size=2001).cumsum()
    panel = panel_of(np.stack([lead[:-1] + rng.normal(size=2000) * 0.1, lead[1:]], axis=1))  # b knows a's next value
    model = ClockRidge().fit([panel.rows(0, 1600)], lookback=LOOKBACK, horizon=1)
    ends = np.arange(1600, 1990)
    found = model.predict(WindowBatch.of(panel, ends, LOOKBACK), 1, samples=20).paths[:, :, 0, 0].mean(axis=1)
    assert np.abs(found - panel.values[ends + 1, 0]).mean() < 0.25  # a step is 0.8 in the mean


def test_an_update_moves_the_coefficients_and_slim_forecasts_alike() -> None:
    rng = np.random.default_rng(4)
    x = np.zeros(4000)
    for t in range(1, 4000):
        x[t] = (0.9 if t < 2000 else -0.9) * x[t - 1] + rng.normal()
    panel = panel_of(x[:, None])
    model = ClockRidge().fit([panel.rows(0, 2000)], lookback=LOOKBACK, horizon=1)
    windows = WindowBatch.of(panel, np.arange(3900, 3990), LOOKBACK)
    before = model.predict(windows, 1, samples=50).paths[:, :, 0, 0].mean(axis=1)
    for _ in range(3):
        model.update([panel.rows(2000, 3900)])
    after = model.predict(windows, 1, samples=50).paths[:, :, 0, 0].mean(axis=1)
    assert np.corrcoef(before, after)[0, 1] < 0
    slim = model.slim().predict(windows, 1, samples=50).paths[:, :, 0, 0].mean(axis=1)
    np.testing.assert_allclose(slim, after, atol=0.2)


def test_widths_are_those_that_misses_were_drawn_with() -> None:
    rng = np.random.default_rng(5)
    terms = rng.normal(size=(20_000, 3))
    true = np.exp(0.5 + terms @ np.array([[0.6, 0.0], [-0.3, 0.0], [0.0, 0.0]]))
    found = LogWidth(terms, rng.laplace(size=true.shape) * true).of(terms)
    slope = np.linalg.lstsq(np.c_[np.ones(len(terms)), terms], np.log(found), rcond=None)[0]
    np.testing.assert_allclose(slope[1:], [[0.6, 0.0], [-0.3, 0.0], [0.0, 0.0]], atol=0.1)
    assert np.isfinite(LogWidth(terms, np.zeros((len(terms), 2))).of(terms)).all()
    assert np.isfinite(width_terms(np.zeros((4, 1)), 1.0)).all()


def test_training_windows_are_thinned_evenly_up_to_the_newest() -> None:
    panel = panel_of(np.where(np.arange(100) % 7 == 0, np.nan, np.arange(100.0))[:, None])
    windows, targets = thinned([panel], 10, 3, 20)
    assert windows is not None
    assert targets is not None
    ends = np.round((windows.end_s - panel.start_s) / panel.step_s).astype(int)
    assert len(ends) <= 20
    assert set(np.diff(ends)) == {5}
    assert ends[-1] == 96
    assert not np.isnan(targets).any()
    np.testing.assert_array_equal(targets[-1, :, 0], [97.0, 97.0, 99.0])
    assert thinned([panel.rows(0, 12)], 10, 3, 20) == (None, None)


def test_an_indicator_that_has_left_all_that_was_learned_is_followed() -> None:
    rng = np.random.default_rng(0)
    memory = 1e4 + np.cumsum(rng.normal(size=1200)) * 3
    model = ClockRidge().fit([panel_of(memory[:, None])], lookback=48, horizon=2)
    fallen = panel_of(memory[:, None] - memory.min() + 10.0)  # restarted: far below, and moving as before
    paths = model.predict(WindowBatch.of(fallen, [400, 700], 48), 2, samples=100).paths
    now = fallen.values[[400, 700], 0]
    assert np.abs(np.median(paths[:, :, 0, 0], axis=1) - now).max() < 30.0


def test_few_windows_with_a_day_before_them_are_no_reason_to_read_the_day_before() -> None:
    """Of 320 rows of five minutes thirty windows have one: widths learned from these were off up to sixtyfold."""
    worst = []
    for seed in range(4):
        rng, t = np.random.default_rng(seed), np.arange(403)
        demand = 200 + 80 * np.sin(2 * np.pi * t / 288 + seed) + rng.normal(0, 5, 403)
        panel = panel_of(demand[:400, None], step_s=300.0)
        model = ClockRidge().fit([panel.rows(0, 320)], lookback=144, horizon=3)
        window = WindowBatch.of(panel, [399], 144, horizon=3)
        found = model.predict(window, 3, samples=200).paths[0, :, :, 0]
        spans = np.quantile(found, 0.95, axis=0) - np.quantile(found, 0.05, axis=0)
        worst += [spans.max(), 1 / spans.min()]
        assert np.abs(np.median(found, axis=0) - demand[400:]).max() < 40
    assert max(worst[::2]) < 60  # noise alone spans 16
    assert max(worst[1::2]) < 1 / 6
