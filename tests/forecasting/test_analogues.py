from __future__ import annotations

import numpy as np

from forecasting import scores
from forecasting.baselines.analogues import SLIM_ROWS, Analogues
from forecasting.baselines.ridge import Ridge
from forecasting.windows import WindowBatch
from tests.forecasting.builders import panel_of

LOOKBACK = 12


def test_what_followed_the_same_shape_follows_again_at_any_level() -> None:
    rng = np.random.default_rng(0)
    shape = np.array([0.0, 0.0, 5.0, 9.0, 4.0, 0.0, -6.0, 0.0])
    level = np.repeat(rng.uniform(50, 150, size=500), 8)
    panel = panel_of((level + np.tile(shape, 500) + rng.normal(scale=0.05, size=4000))[:, None])
    model = Analogues().fit([panel.rows(0, 3600)], lookback=6, horizon=2)
    ends = np.arange(3600, 3990)
    ends = ends[(ends % 8 == 5)]  # what comes is of the same level still
    found = model.predict(WindowBatch.of(panel, ends, 6), 2, samples=40).paths[..., 0]
    truth = panel.values[ends[:, None] + [1, 2], 0]
    assert np.abs(np.median(found, axis=1) - truth).mean() < 1.0  # the changes are 6 each


def test_where_two_things_may_follow_both_do_as_often() -> None:
    # From the middle it goes up or down, one time in four down: no line says so, and no bell.
    rng = np.random.default_rng(1)
    x = np.zeros(6000)
    x[1::2] = np.where(rng.random(3000) < 0.25, -1.0, 1.0)
    panel = panel_of((10 + x)[:, None])
    ends = np.arange(5000, 5900, 2)
    windows = WindowBatch.of(panel, ends, LOOKBACK)
    truth = panel.values[ends[:, None] + [1]]
    model, line = (m.fit([panel.rows(0, 5000)], lookback=LOOKBACK, horizon=1) for m in (Analogues(), Ridge()))
    paths = model.predict(windows, 1, samples=100).paths
    near = np.minimum(np.abs(paths - 9), np.abs(paths - 11))
    assert near.max() < 0.3
    assert abs((paths < 10).mean() - 0.25) < 0.05
    ridge = line.predict(windows, 1, samples=100).paths
    assert scores.crps(paths, truth).mean() < scores.crps(ridge, truth).mean()


def test_the_hour_tells_windows_apart() -> None:
    rng = np.random.default_rng(2)
    hour = (np.arange(6000) % 144) / 144
    panel = panel_of((100 + rng.normal(size=6000) * np.where(hour < 0.5, 0.2, 5.0))[:, None])
    model = Analogues().fit([panel.rows(0, 5500)], lookback=LOOKBACK, horizon=1)
    ends = 5616 + np.array([30, 110])
    quiet, loud = model.predict(WindowBatch.of(panel, ends, LOOKBACK), 1, samples=200).paths.std(axis=1)[:, 0, 0]
    assert loud > 5 * quiet


def test_newer_windows_are_added_and_slim_keeps_few() -> None:
    rng = np.random.default_rng(3)
    first = panel_of((100 + rng.normal(size=3000))[:, None])
    other = panel_of((100 + np.tile([0.0, 10.0, 20.0, 10.0], 750) + rng.normal(scale=0.1, size=3000))[:, None])
    model = Analogues().fit([first], lookback=LOOKBACK, horizon=1)
    windows = WindowBatch.of(other, [2500, 2501, 2502, 2503], LOOKBACK)
    truth = other.values[[2501, 2502, 2503, 2504], 0]

    def missed() -> float:
        paths = model.predict(windows, 1, samples=100).paths[:, :, 0, 0]
        return float(np.abs(np.median(paths, axis=1) - truth).mean())

    before = missed()
    model.update([other])
    after = missed()
    assert after < 0.3 * before
    past = model._past[0]
    assert past is not None
    assert len(past.points) == 2 * (3000 - LOOKBACK)
    model.slim()
    past = model._past[0]
    assert past is not None
    assert len(past.points) == SLIM_ROWS
    assert missed() < 0.5 * before
