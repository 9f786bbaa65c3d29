from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forecasting.distribution import ForecastBatch, ForecastDistribution
from forecasting.errors import DataError
from forecasting.panel import Indicator

NAMES = (Indicator("load"), Indicator("cpu", level=2))


def forecast(seed: int = 0, samples: int = 50, horizon: int = 4) -> ForecastDistribution:
    paths = np.random.default_rng(seed).normal(size=(samples, horizon, 2))
    return ForecastDistribution(paths, NAMES, origin_s=100.0, step_s=10.0, model="m 1")


@given(st.integers(0, 10_000), st.lists(st.floats(0, 1), min_size=1, max_size=6))
def test_quantiles_rise_with_their_level(seed: int, levels: list[float]) -> None:
    values = forecast(seed).quantile(sorted(levels))
    assert values.shape == (len(levels), 4, 2)
    assert (np.diff(values, axis=0) >= 0).all()


@given(st.integers(0, 10_000), st.floats(-3, 3))
def test_the_chance_of_exceeding_falls_with_the_threshold(seed: int, threshold: float) -> None:
    f = forecast(seed)
    low, high = f.prob_above("load", threshold), f.prob_above("load", threshold + 0.5)
    assert (low >= high).all()
    np.testing.assert_allclose(low, [(f.of("load")[:, h] > threshold).mean() for h in range(4)])


def test_the_maximum_is_taken_along_each_path() -> None:
    # Two paths that peak at different steps: each peaks at 1, though no single step exceeds 0.5 on both.
    paths = np.array([[[1.0], [0.0]], [[0.0], [1.0]]])
    f = ForecastDistribution(paths, NAMES[:1], 0.0, 1.0)
    assert f.max_over("load").tolist() == [1.0, 1.0]
    assert f.prob_above("load", 0.5).tolist() == [0.5, 0.5]
    assert f.max_over("load", (2, 2)).tolist() == [0.0, 1.0]
    for window in ((0, 1), (1, 3), (2, 1)):
        with pytest.raises(DataError, match="not inside steps"):
            f.max_over("load", window)


def test_an_absent_indicator_has_no_probabilities() -> None:
    paths = np.ones((3, 2, 2))
    paths[:, :, 1] = np.nan
    f = ForecastDistribution(paths, NAMES, 0.0, 1.0)
    assert np.isnan(f.prob_above("cpu", 0.0)).all()
    assert np.isnan(f.quantile(0.5)[:, 1]).all()
    assert f.prob_above("load", 0.0).tolist() == [1.0, 1.0]


def test_reading_by_name_and_time() -> None:
    f = forecast()
    assert f.times_s.tolist() == [110.0, 120.0, 130.0, 140.0]
    assert (f.samples, f.horizon, f.names) == (50, 4, ("load", "cpu"))
    np.testing.assert_array_equal(f.marginal("cpu").paths[..., 0], f.of("cpu"))
    np.testing.assert_allclose(f.mean(), f.paths.mean(axis=0))
    with pytest.raises(DataError, match="did you mean 'load'"):
        f.of("laod")


def test_mistakes_are_refused() -> None:
    f = forecast()
    for q in (1.5, -0.1, [0.5, 2.0], []):
        with pytest.raises(DataError, match=r"must lie in 0\.\.1"):
            f.quantile(q)
    for shape in ((0, 4, 2), (5, 4, 1), (5, 4)):
        with pytest.raises(DataError, match="sample paths have shape"):
            ForecastDistribution(np.zeros(shape), NAMES, 0.0, 1.0)


def test_density_only_where_the_model_has_one() -> None:
    with pytest.raises(DataError, match="m 1 has sample paths but no density"):
        forecast().log_prob(np.zeros((4, 2)))
    paths = np.zeros((2, 3, 4, 2))
    batch = ForecastBatch(paths, NAMES, np.array([1.0, 2.0]), 10.0, "m", log_prob_of=lambda i: lambda values: -float(i))
    assert [f.log_prob(np.zeros((4, 2))) for f in batch] == [0.0, -1.0]
    assert [f.origin_s for f in batch] == [1.0, 2.0]
    assert len(batch) == 2
    with pytest.raises(DataError, match="outcome has shape"):
        batch[0].log_prob(np.zeros((4, 1)))
