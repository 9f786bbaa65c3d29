"""`Forecasters`: a replay's forecast sources by name, each model fitted on nothing later than it may know."""

from __future__ import annotations

from collections.abc import Callable

from forecasting.base import LOOKBACK, ForecastModel, rows_read
from forecasting.panel import FloatArray, Panel
from harmony.loop.managed import WARM_UP_ROWS
from harmony.loop.ports import ForecastSource
from simulator.forecasts import BatchedForecasts, Learning, TrueFuture

__all__ = ["Forecasters"]


class Forecasters:
    """Makes and shares forecast sources of one panel.

    ``truth`` (steps,) is the demand that foresight sees. While tuning, models know the first half of the learning
    part; the scored run's know all of it. ``refresh_s`` > 0: models learn on line in periods of so many seconds
    instead, from the first row on and as they would in a cluster (`forecasting.refreshing`).
    """

    def __init__(
        self,
        panel: Panel,
        truth: FloatArray,
        scored_from: int,
        lookback: int | None,
        samples: int,
        seed: int,
        *,
        refresh_s: float = 0.0,
    ) -> None:
        self._panel = panel
        self._truth = truth
        self._scored_from = scored_from
        self._lookback = lookback
        self._samples = samples
        self._seed = seed
        self._refresh_s = refresh_s
        self._learning: dict[tuple[str, int], Learning] = {}
        self._sources: dict[tuple[str, int, int, bool], ForecastSource] = {}
        self._models: dict[tuple[str, int, bool], ForecastModel] = {}

    def source(
        self,
        name: str,
        horizon: int,
        every: int,
        *,
        tuning: bool,
        on_batch: Callable[[int, int], None] | None = None,
    ) -> ForecastSource:
        """The source for forecaster ``name`` ("truth" for the true future), shared by all runs that ask alike."""
        if name == "truth":
            panel = self._panel
            return TrueFuture(self._truth, panel.indicators[0], panel.start_s, panel.step_s, horizon)
        on_line = self._refresh_s > 0
        learning = self._learns(name, horizon) if on_line else None
        model = self._shared(name) if on_line else self._model(name, horizon, tuning=tuning)
        key = (name, horizon, every, tuning and not (on_line or _pretrained(name)))
        if key not in self._sources:
            self._sources[key] = BatchedForecasts(
                self._panel,
                model,
                lookback=self._lookback or rows_read(model),
                horizon=horizon,
                samples=self._samples,
                seed=self._seed,
                every=every,
                first=WARM_UP_ROWS,
                on_batch=on_batch,
                online=learning,
            )
        return self._sources[key]

    def _shared(self, name: str) -> ForecastModel:
        """What forecasts until something better was learned on line: the bundled model, or the saved one named."""
        return self._model(name if _pretrained(name) else "base", 0, tuning=False)

    def _learns(self, name: str, horizon: int) -> Learning:
        """The service as it learns on line, shared by all runs that look equally far ahead."""
        key = name, horizon
        if key not in self._learning:
            shared = self._shared(name)
            method = name if not _pretrained(name) else ""
            self._learning[key] = Learning(self._panel, shared, method, self._refresh_s, horizon)
        return self._learning[key]

    def _model(self, name: str, horizon: int, *, tuning: bool) -> ForecastModel:
        key = (name, 0, False) if _pretrained(name) else (name, horizon, tuning)
        if key not in self._models:
            self._models[key] = self._load(name, horizon, tuning=tuning)
        return self._models[key]

    def _load(self, name: str, horizon: int, *, tuning: bool) -> ForecastModel:
        """The pretrained model, or a method fitted on the past (its last fifth chooses the settings)."""
        if _pretrained(name):
            from forecasting.forecaster import Forecaster

            return Forecaster.load(name)
        from forecasting.methods import create_method

        known = self._scored_from // 2 if tuning else self._scored_from
        cut = known * 4 // 5
        past = self._panel.rows(0, cut)
        lookback = self._lookback or LOOKBACK
        check = self._panel.rows(max(0, cut - lookback), known)
        return create_method(name).fit([past], lookback=lookback, horizon=horizon, validation=[check], seed=self._seed)


def _pretrained(name: str) -> bool:
    """True for the bundled model and for a folder or file with a saved one."""
    return name == "base" or "/" in name or name.endswith(".safetensors")
