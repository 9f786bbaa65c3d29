"""Forecasts of what was read: one service at many times (`forecast_rows`), or many services at one (`FleetForecaster`).

The cluster, the demo, a replay and the API all forecast through here: rows become windows in `WindowBatch.of`, and
one `predict` makes the forecasts of a whole batch.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt

from forecasting.base import ForecastModel, as_is, rows_read
from forecasting.distribution import ForecastBatch, ForecastDistribution
from forecasting.panel import Indicator
from forecasting.recalibrated import Recalibrated
from forecasting.windows import RowSource, WindowBatch

__all__ = [
    "CHUNK",
    "HORIZONS",
    "FleetForecaster",
    "Forecasts",
    "Wanted",
    "forecast_rows",
    "nobody",
    "rounded",
]

CHUNK = 256  # services in one batch: what one failure or a cancellation costs, and the memory of its sample paths
HORIZONS = (6, 12, 24, 48, 96, 192, 384)  # horizons are rounded up to these, so that few batches serve all services
SAMPLES = 200

K = TypeVar("K", bound=Hashable)


def forecast_rows(
    model: ForecastModel,
    source: RowSource,
    rows: Sequence[int] | npt.NDArray[np.integer],
    horizon: int,
    *,
    samples: int = SAMPLES,
    seed: int = 0,
    lookback: int | None = None,
    only: Sequence[str] | None = None,
    held: bool = False,
) -> ForecastBatch:
    """Joint forecasts of one service from each of ``rows`` on, each made of the rows up to it and none later.

    ``lookback``: rows of history given to the model, by default what it reads; ``only`` as in `ForecastModel.predict`;
    ``held``: for a loop (`forecasting.base.as_is`). Whatever the model raises is raised.
    """
    read = rows_read(model) if lookback is None else lookback
    windows = WindowBatch.of(source, rows, read, horizon=horizon)
    ask = as_is(model) if held else model.predict
    return ask(windows, horizon, samples=samples, seed=seed, only=only)


@dataclass(frozen=True, slots=True)
class Wanted(Generic[K]):
    """A service, by whatever names it, that wants a forecast ``horizon`` steps ahead of what was read of it."""

    key: K
    source: RowSource
    horizon: int


@dataclass(frozen=True, slots=True)
class Forecasts(Generic[K]):
    """What came of one tick: forecasts by service, and why others have none.

    `left_out` says why a service's own model was not used, where the shared one had to stand in.
    """

    made: dict[K, ForecastDistribution] = field(default_factory=dict)
    failed: dict[K, str] = field(default_factory=dict)
    left_out: dict[K, str] = field(default_factory=dict)


def rounded(horizon: int, horizons: Sequence[int] = HORIZONS) -> int:
    """Steps that are forecast where so many are wanted."""
    return next((h for h in horizons if h >= horizon), horizon)


def nobody(key: object, now_s: float) -> None:
    """No service has a model of its own."""


def _moves(model: ForecastModel, shared: ForecastModel) -> bool:
    """Whether a model is the shared one moved, so that it can be forecast with all others."""
    return isinstance(model, Recalibrated) and model.model is shared


class FleetForecaster:
    """Batches services by schema, step and horizon, and keeps one service's trouble from the others.

    ``horizons``: what a horizon is rounded up to (a longer one stays as it is); ``demand_only``: return paths of the
    demand alone, which is all that deciding needs (the other indicators are read all the same); ``own``: the model that
    a service has for itself at a time, None for the shared one (`forecasting.online.Online.model`).
    """

    def __init__(
        self,
        model: ForecastModel,
        *,
        samples: int = SAMPLES,
        seed: int = 0,
        horizons: Sequence[int] = HORIZONS,
        demand_only: bool = True,
        own: Callable[[Any, float], ForecastModel | None] = nobody,
    ) -> None:
        self.model = model
        self._own = own
        self._samples = samples
        self._seed = seed
        self._horizons = tuple(horizons)
        self._demand_only = demand_only

    def forecast(self, wanted: Sequence[Wanted[K]], now_s: float, cancelled: Callable[[], bool] = bool) -> Forecasts[K]:
        """Joint sample paths for every service from its last complete row on; deterministic in rows, time and seed.

        ``cancelled`` is asked between batches; what was not made by then is left out.
        """
        own = {w.key: model for w in wanted if (model := self._own(w.key, now_s)) is not None}
        out: Forecasts[K] = Forecasts()
        for w in wanted:
            model = own.get(w.key)
            if model is not None and not _moves(model, self.model):
                if cancelled():
                    return out
                self._alone(w, model, now_s, out)
        groups: dict[tuple[int, tuple[Indicator, ...], float, bool], list[Wanted[K]]] = {}
        for w in wanted:
            if w.key in out.made:
                continue
            source = w.source
            key = rounded(w.horizon, self._horizons), source.indicators, source.step_s, source.calendar
            groups.setdefault(key, []).append(w)
        for (horizon, *_), members in groups.items():
            for lo in range(0, len(members), CHUNK):
                if cancelled():
                    return out
                self._forecast(members[lo : lo + CHUNK], now_s, horizon, out)
        for name, model in own.items():
            if name in out.made and isinstance(model, Recalibrated) and _moves(model, self.model):
                try:
                    out.made[name] = model.applied_to(out.made[name])
                except Exception as error:  # noqa: BLE001  (the shared model's stands; nobody else's is lost)
                    out.left_out[name] = f"{model.name}: {type(error).__name__}: {error}"
        return out

    def _alone(self, wanted: Wanted[K], model: ForecastModel, now_s: float, out: Forecasts[K]) -> None:
        """By a model of its own; where that breaks or has no number, the shared one stands in, and it is said."""
        try:
            made = self._predict(model, [wanted.source], now_s, rounded(wanted.horizon, self._horizons))[0]
        except Exception as error:  # noqa: BLE001  (as below)
            out.left_out[wanted.key] = f"{model.name}: {type(error).__name__}: {error}"
            return
        if np.isnan(made.paths).any():
            out.left_out[wanted.key] = f"{model.name}: no number"
            return
        out.made[wanted.key] = made

    def _forecast(self, members: Sequence[Wanted[K]], now_s: float, horizon: int, out: Forecasts[K]) -> None:
        """One batch; where it fails, halves of it, until whoever breaks it stands alone."""
        try:
            batch = self._predict(self.model, [m.source for m in members], now_s, horizon)
        except Exception as error:  # noqa: BLE001  (whatever a model raises, the loop goes on without its forecast)
            if len(members) == 1:
                out.failed[members[0].key] = f"{type(error).__name__}: {error}"
                return
            half = len(members) // 2
            self._forecast(members[:half], now_s, horizon, out)
            self._forecast(members[half:], now_s, horizon, out)
            return
        for member, forecast in zip(members, batch, strict=True):
            out.made[member.key] = forecast

    def _predict(self, model: ForecastModel, sources: Sequence[RowSource], now_s: float, horizon: int) -> ForecastBatch:
        lookback = rows_read(model)
        windows = WindowBatch.concat([WindowBatch.of(s, [s.row_at(now_s)], lookback, horizon=horizon) for s in sources])
        only = (sources[0].indicators[0].name,) if self._demand_only else None
        return as_is(model)(windows, horizon, samples=self._samples, seed=self._seed, only=only)
