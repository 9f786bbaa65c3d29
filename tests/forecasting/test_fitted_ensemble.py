from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from forecasting.baselines.quantile_forest import QuantileForest
from forecasting.baselines.wide_forest import WideForest
from forecasting.fitted_ensemble import FittedEnsemble
from forecasting.forecaster import Forecaster
from forecasting.panel import Panel
from forecasting.windows import WindowBatch
from tests.forecasting.builders import panel_of, wavy

pytest.importorskip("sklearn")
LOOKBACK = 24


def test_the_forest_that_reads_all_indicators_learns_from_another_ones_change() -> None:
    rng = np.random.default_rng(0)
    leads = rng.normal(size=3000)
    follows = 100 + np.convolve(leads, [0.0, 5.0], mode="full")[:3000] + rng.normal(scale=0.5, size=3000)
    panel = panel_of(np.stack([follows, leads], axis=1))
    ends = np.arange(2500, 2990)
    error = []
    for model in (QuantileForest(trees=30), WideForest(trees=30)):
        model.fit([panel.rows(0, 2500)], lookback=LOOKBACK, horizon=1)
        paths = model.predict(WindowBatch.of(panel, ends, LOOKBACK), 1, samples=60).paths[:, :, 0, 0]
        error.append(float(np.abs(np.median(paths, axis=1) - panel.values[ends + 1, 0]).mean()))
    assert error[1] < 0.5 * error[0]


def test_the_flow_learns_what_is_known_with_chance_zeros_hidden_and_the_judged_rows_are_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told: list[tuple[Sequence[Panel], Sequence[Panel]]] = []

    def fit(self: Forecaster, panels: Sequence[Panel], *, validation: Sequence[Panel] = (), **_: object) -> Forecaster:
        told.append((panels, validation))
        return Forecaster.base()

    monkeypatch.setattr(Forecaster, "fit", fit)
    values = wavy(900).values.copy()
    values[np.random.default_rng(0).random(900) < 0.2, 1] = 0.0
    panel = panel_of(values)
    model = FittedEnsemble().fit([panel], lookback=LOOKBACK, horizon=2)
    (learned, validation) = told[0]
    assert len(learned[0]) == round(0.85 * 900)
    assert not validation
    assert np.isnan(learned[0].values[:, 1]).mean() == pytest.approx(0.2, abs=0.04)
    assert "wide_forest" in model.weights
    assert model.left_out == {}
    paths = model.predict(WindowBatch.of(panel, [700], LOOKBACK), 2, samples=50).paths
    assert (paths[0, :, :, 1] == 0.0).mean() == pytest.approx(0.2, abs=0.06)
    judged = panel.rows(600, 900)
    FittedEnsemble().fit([panel.rows(0, 640)], lookback=LOOKBACK, horizon=2, validation=[judged])
    assert len(told[1][0][0]) == 640
    assert len(told[1][1]) == 1
