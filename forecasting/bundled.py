"""`BundledForecaster`: the bundled model behind the interface of methods that are fitted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

from forecasting.base import Progress
from forecasting.distribution import ForecastBatch
from forecasting.door import FromReadings
from forecasting.forecaster import Forecaster
from forecasting.panel import Panel
from forecasting.windows import WindowBatch

__all__ = ["BundledForecaster"]


class BundledForecaster(FromReadings):
    """The bundled model as it comes: it learns nothing of the series that it forecasts."""

    name = "harmony_base"

    def __init__(self) -> None:
        self._model = Forecaster.base()

    @property
    def version(self) -> str:
        """That of the bundled model."""
        return self._model.version

    @property
    def lookback(self) -> int:
        """Rows of history that it reads at most."""
        return self._model.lookback

    def fit(
        self,
        panels: Sequence[Panel],
        *,
        lookback: int,
        horizon: int,
        validation: Sequence[Panel] = (),
        seed: int = 0,
        progress: Progress | None = None,
    ) -> Self:
        """Nothing is learned; panels, lookback and horizon are what they are for others."""
        return self

    def update(self, panels: Sequence[Panel], *, seed: int = 0) -> Self:
        """Nothing is learned."""
        return self

    def _of_windows(
        self, windows: WindowBatch, horizon: int, *, samples: int, seed: int, only: Sequence[str] | None
    ) -> ForecastBatch:
        return self._model.predict(windows, horizon, samples=samples, seed=seed, only=only)
