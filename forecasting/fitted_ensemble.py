"""`FittedEnsemble`: the ensemble with a flow that was trained on the service itself."""

from __future__ import annotations

from collections.abc import Sequence

from forecasting.base import Progress
from forecasting.baselines.wide_forest import WideForest
from forecasting.ensemble import SPECIALISTS, Ensemble
from forecasting.forecaster import Forecaster
from forecasting.panel import Panel

__all__ = ["FittedEnsemble"]


class FittedEnsemble(Ensemble):
    """The ensemble with a flow trained on the series itself, from the bundled weights, and a forest that reads all.

    Learning takes about a minute for a few thousand rows of eleven indicators. `update` judges the flow by the newer
    rows but does not train it again. Raises `UsageError` when scikit-learn is not installed (extra ``trees``).
    """

    method = "ensemble_fitted"
    REVISION = 1
    specialists = (*SPECIALISTS, WideForest)
    judged = 2_000  # beside a minute of training all held-out windows cost little, and 300 leave weights to chance

    def __init__(self, *, recalibrate: bool = True, tails: bool = False) -> None:
        super().__init__(recalibrate=recalibrate, tails=tails)
        WideForest()  # says now that its library is missing, not after a minute of training

    def _fit_flow(
        self, panels: Sequence[Panel], validation: Sequence[Panel], seed: int, progress: Progress | None
    ) -> None:
        self._flow = Forecaster(start="base").fit(
            panels, lookback=self.lookback, horizon=self.horizon, validation=validation, seed=seed, progress=progress
        )
        self.history = self._flow.lookback
