"""`ForecastModel`: the one interface of HARMONY's forecaster and of every baseline (fit, update, predict)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, Self, runtime_checkable

from forecasting.distribution import ForecastBatch
from forecasting.panel import Panel
from forecasting.windows import WindowBatch

__all__ = ["LOOKBACK", "ForecastModel", "Progress", "as_is", "rows_read"]

LOOKBACK = 144
"""Rows of history that a forecast reads where neither the model nor the caller says otherwise."""

# Called with (done, total, note); long work reports through it and knows nothing of terminals.
Progress = Callable[[int, int, str], None]


@runtime_checkable
class ForecastModel(Protocol):
    """What every forecaster can do. Implementations raise `DataError` for data that they cannot use.

    `name` is the method's name in tables; `version` changes whenever its forecasts would.
    """

    @property
    def name(self) -> str:
        """Name in tables and on the command line."""
        ...

    @property
    def version(self) -> str:
        """Changes whenever the forecasts would (weights digest, settings)."""
        ...

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
        """Learn from ``panels`` (each a service's past); ``validation`` panels choose settings and when to stop.

        A validation panel may begin with up to ``lookback`` rows of history that only serve as input.
        """
        ...

    def update(self, panels: Sequence[Panel], *, seed: int = 0) -> Self:
        """Learn a little more from newer rows, starting from what is known."""
        ...

    def predict(
        self,
        windows: WindowBatch,
        horizon: int,
        *,
        samples: int = 100,
        seed: int = 0,
        only: Sequence[str] | None = None,
    ) -> ForecastBatch:
        """Joint sample paths for every window; equal inputs and seed give equal paths.

        ``only`` names the indicators wanted (all are read, only these are sampled and returned, in that order):
        deciding needs demand alone, and sampling less is faster.
        """
        ...


def as_is(model: ForecastModel) -> Callable[..., ForecastBatch]:
    """`predict` where absent newest rows do not make a forecast wider: as loops ask, and who hides rows on purpose.

    While demand is absent a loop holds its count. A forecast that grew with the outage would raise all counts as soon
    as Prometheus is away, and not because anything was seen.
    """
    ask: Callable[..., ForecastBatch] = getattr(model, "predict_as_is", model.predict)
    return ask


def rows_read(model: object) -> int:
    """Rows of history to give the model: what it says itself (`lookback`, 0 before it was fitted), else `LOOKBACK`."""
    return int(getattr(model, "lookback", 0)) or LOOKBACK
