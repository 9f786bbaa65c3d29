from __future__ import annotations

import numpy as np
import pytest

from forecasting import scores
from forecasting.chance_zeros import ChanceZeros
from forecasting.ensemble import Ensemble
from forecasting.panel import FloatArray
from forecasting.windows import WindowBatch
from tests.forecasting.builders import panel_of

LOOKBACK = 48


def sawtooth(rows: int = 2000, share: float = 0.2, seed: int = 0) -> FloatArray:
    """A rhythm of nine and a half steps, and in one reading of five nothing was found."""
    rng = np.random.default_rng(seed)
    values = 40 + 60 * (np.arange(rows) % 9.5) / 9.5 + rng.normal(scale=2.0, size=rows)
    values[rng.random(rows) < share] = 0.0
    return values


def windows_of(columns: int) -> WindowBatch:
    return WindowBatch.of(panel_of(np.stack([sawtooth()] * columns, axis=1)), np.arange(500, 505), LOOKBACK)


def found(values: FloatArray) -> float:
    return float(ChanceZeros.of([panel_of(values[:, None])]).share[0])


def test_zeros_that_nothing_foretells_are_found() -> None:
    assert found(sawtooth()) == pytest.approx(0.2, abs=0.03)
    with_gaps = sawtooth()
    with_gaps[::7] = np.nan
    assert found(with_gaps) == pytest.approx(0.2, abs=0.03)


def test_zeros_that_mean_something_are_not() -> None:
    rng = np.random.default_rng(1)
    day = np.sin(2 * np.pi * np.arange(2000) / 144)
    idle_at_night = np.where(day < -0.8, 0.0, 50 + 20 * day)
    few_when_quiet = rng.poisson(np.exp(2 * day)).astype(float)
    below_ten = np.roll(sawtooth(share=0.0), 1) + 0.0
    below_ten[np.roll(below_ten, 1) < 50] = 0.0  # it is the value before that says so
    negative = sawtooth() - 50.0 * (rng.random(2000) < 0.01)
    for values in (idle_at_night, few_when_quiet, below_ten, negative, sawtooth(share=0.0), sawtooth(rows=300)):
        assert found(values) == 0.0
    assert not ChanceZeros.of([panel_of(idle_at_night[:, None])])


def test_zeros_are_put_back_as_often_as_they_come_and_the_rest_keeps_its_distribution() -> None:
    panel = panel_of(sawtooth()[:, None])
    zeros = ChanceZeros.of([panel])
    windows = WindowBatch.of(panel, np.arange(500, 900), LOOKBACK)
    paths = 1 + np.random.default_rng(0).random((400, 200, 3, 1))
    back = zeros.put_back(paths.copy(), windows, [0], np.random.default_rng(1))
    none = back == 0.0
    share = none.mean(axis=1)[:, :, 0]
    assert np.abs(share - zeros.share[0]).max() < 0.05  # of a window, as often as it read zero counts too
    assert share.mean() == pytest.approx(zeros.share[0], abs=0.01)
    rest = np.where(none, np.nan, back)
    for level in (0.1, 0.5, 0.9):
        apart = np.nanquantile(rest, level, axis=1) - np.quantile(paths, level, axis=1)
        assert np.abs(apart).mean() < 0.006  # taken away at random they would be 0.01 off
    wide = ChanceZeros(np.array([0.0, 0.3, 0.2]))
    alone, both = (
        wide.put_back(np.ones((5, 50, 3, len(c))), windows_of(3), c, np.random.default_rng(2)) for c in ([1], [0, 1])
    )
    np.testing.assert_array_equal(alone[..., 0], both[..., 1])  # whatever else is asked for
    together = (none[:, :, 0] & none[:, :, 1]).mean()
    assert together == pytest.approx(zeros.share[0] ** 2, abs=0.01)  # steps are independent of each other


def test_an_indicator_that_has_stopped_is_not_taken_for_chance() -> None:
    values = sawtooth()
    values[1500:] = 0.0
    zeros = ChanceZeros.of([panel_of(values[:1400, None])])
    panel = panel_of(values[:, None])
    windows = WindowBatch.of(panel, [1400, 1520, 1600], LOOKBACK)
    paths = np.ones((3, 100, 1, 1))
    paths[2] = np.nan  # who is shown a window without any reading has no forecast
    share = (zeros.put_back(paths, windows, [0], np.random.default_rng(0)) == 0.0).mean(axis=(1, 2, 3))
    assert share[0] < 0.3
    assert share[1] > 0.9
    assert share[2] == 1.0
    values[1400:] = np.nan  # nothing was read at all, which is no zero
    windows = WindowBatch.of(panel_of(values[:, None]), [1430], LOOKBACK)
    assert (zeros.put_back(np.ones((1, 100, 1, 1)), windows, [0], np.random.default_rng(0)) == 0.0).mean() < 0.3


def test_the_ensemble_sees_a_rhythm_through_such_zeros(monkeypatch: pytest.MonkeyPatch) -> None:
    panel = panel_of(np.stack([sawtooth(seed=1), sawtooth(share=0.0, seed=2)], axis=1))
    ends = np.arange(1700, 1990)
    windows = WindowBatch.of(panel, ends, LOOKBACK)

    def crps() -> FloatArray:
        train, later = panel.rows(0, 1400), panel.rows(1400 - LOOKBACK, 1700)
        model = Ensemble().fit([train], lookback=LOOKBACK, horizon=1, validation=[later])
        model.update([panel.rows(1500, 1700)])
        paths = model.predict(windows, 1, samples=100, seed=1).paths
        return np.asarray(scores.crps(paths, panel.values[ends + 1][:, None])).mean(axis=(0, 1))

    seen_through = crps()
    monkeypatch.setattr(ChanceZeros, "of", classmethod(lambda cls, panels: cls(np.zeros(2))))
    as_they_are = crps()
    assert seen_through[0] < 0.94 * as_they_are[0]  # three quarters of it are chance
    assert seen_through[1] < 1.1 * as_they_are[1]
