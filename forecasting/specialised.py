"""`Specialised`: a method that has learned one service's demand, for windows of all of its indicators."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Self

import numpy as np

from forecasting.base import ForecastModel, as_is, rows_read
from forecasting.distribution import ForecastBatch
from forecasting.errors import DataError, UsageError
from forecasting.panel import Panel
from forecasting.reshape import columns
from forecasting.windows import WindowBatch

__all__ = ["Specialised"]


class Specialised:
    """A fitted method of one indicator; of wider windows it reads and forecasts that indicator alone.

    Args:
        model: what was fitted.
        demand: the indicator's name.
        span_s: how long a time it learned from; longer seasons than that it is not shown, as it never saw one.
    """

    def __init__(self, model: ForecastModel, demand: str, span_s: float) -> None:
        self.model = model
        self.demand = demand
        self._span_s = span_s

    @property
    def name(self) -> str:
        """The method's."""
        return self.model.name

    @property
    def version(self) -> str:
        """The method's."""
        return self.model.version

    @property
    def lookback(self) -> int:
        """Rows of history that it makes use of."""
        return max(rows_read(self.model), int(getattr(self.model, "history", 0)))

    def fit(self, panels: Sequence[Panel], **_: object) -> Self:
        """Raises `UsageError`: what it holds is fitted."""
        raise UsageError("a specialised model holds one that is fitted: fit that, and wrap it")

    def update(self, panels: Sequence[Panel], *, seed: int = 0) -> Self:
        """The method's `update`, with the demand alone."""
        self.model.update([p.select([self.demand]) for p in panels], seed=seed)
        return self

    def predict(
        self,
        windows: WindowBatch,
        horizon: int,
        *,
        samples: int = 100,
        seed: int = 0,
        only: Sequence[str] | None = None,
    ) -> ForecastBatch:
        """Joint sample paths of the demand; raises `DataError` where it is absent or another indicator is asked for."""
        return self.model.predict(self._own(windows, only), horizon, samples=samples, seed=seed)

    def predict_as_is(
        self,
        windows: WindowBatch,
        horizon: int,
        *,
        samples: int = 100,
        seed: int = 0,
        only: Sequence[str] | None = None,
    ) -> ForecastBatch:
        """`predict` that takes absent newest rows for rows like any others, as loops do."""
        return as_is(self.model)(self._own(windows, only), horizon, samples=samples, seed=seed)

    def _own(self, windows: WindowBatch, only: Sequence[str] | None) -> WindowBatch:
        """The demand's part of windows, without seasons that it has never learned."""
        names = [i.name for i in windows.indicators]
        if self.demand not in names or any(n != self.demand for n in (names if only is None else only)):
            raise DataError(f"{self.name} has learned {self.demand!r} alone; ask for only=[{self.demand!r}]")
        own = columns(windows, [names.index(self.demand)])
        if own.seasonal is not None:
            unknown = np.array([season_s > self._span_s for season_s in own.seasons_s])[None, :, None, None]
            own = dataclasses.replace(own, seasonal=np.where(unknown, np.nan, own.seasonal))
        return own
