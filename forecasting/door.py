"""`FromReadings`: what every forecaster's `predict` takes besides windows: panels and data frames, the same for all."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import overload

from forecasting.base import rows_read
from forecasting.distribution import ForecastBatch, ForecastDistribution
from forecasting.errors import DataError
from forecasting.frames import Frame, is_long, panel_of, panels_of
from forecasting.panel import Panel
from forecasting.windows import WindowBatch

__all__ = ["FromReadings"]

SAID = 5  # services left out whose reasons are said


class FromReadings(ABC):
    """A forecaster that forecasts windows in `_of_windows`, and so whatever windows can be made of."""

    @overload
    def predict(
        self,
        windows: WindowBatch,
        horizon: int,
        *,
        samples: int = 100,
        seed: int = 0,
        only: Sequence[str] | None = None,
    ) -> ForecastBatch: ...

    @overload
    def predict(
        self,
        windows: Panel,
        horizon: int,
        *,
        samples: int = 100,
        seed: int = 0,
        only: Sequence[str] | None = None,
    ) -> ForecastDistribution: ...

    @overload
    def predict(
        self,
        windows: Frame,
        horizon: int,
        *,
        samples: int = 100,
        seed: int = 0,
        only: Sequence[str] | None = None,
    ) -> ForecastDistribution | dict[str, ForecastDistribution]: ...

    def predict(
        self,
        windows: WindowBatch | Panel | Frame,
        horizon: int,
        *,
        samples: int = 100,
        seed: int = 0,
        only: Sequence[str] | None = None,
    ) -> ForecastBatch | ForecastDistribution | dict[str, ForecastDistribution]:
        """Joint sample paths (batch, samples, horizon, indicators) in the indicators' units.

        Instead of a batch of windows it takes what was read of a service, and forecasts from its last row on: a `Panel`
        or a wide pandas or polars frame gives one distribution, a long frame (``unique_id, ds, y``) one per service, by
        its ``unique_id``. `forecasting.frames` says how frames are read. A service of a long frame that cannot be
        forecast is left out, and a warning says why; the others go on.

        The same base noise serves every window, so a window's paths do not depend on what else is in the batch.
        ``only`` names the indicators wanted; equal inputs and seed give equal paths.

        Raises `DataError` or `UsageError` for an unknown name in ``only``, a frame that cannot be read, or before
        anything was learned.
        """
        if isinstance(windows, WindowBatch):
            return self._of_windows(windows, horizon, samples=samples, seed=seed, only=only)
        if isinstance(windows, Panel):
            panel = windows.counters_as_rates()
            if not len(panel):
                raise DataError(f"{panel.name}: no rows to forecast from")
            window = WindowBatch.of(panel, [len(panel) - 1], rows_read(self), horizon=horizon)
            return self._of_windows(window, horizon, samples=samples, seed=seed, only=only)[0]
        if not hasattr(windows, "columns"):
            raise DataError(
                f"a {type(windows).__name__} cannot be forecast from; expected a Panel, a pandas or polars frame, "
                "or a WindowBatch"
            )
        if not is_long(windows):
            return self.predict(panel_of(windows), horizon, samples=samples, seed=seed, only=only)
        found: dict[str, ForecastDistribution] = {}
        left_out: dict[str, DataError] = {}
        for service, panel in panels_of(windows, left_out=left_out).items():
            try:
                found[service] = self.predict(panel, horizon, samples=samples, seed=seed, only=only)
            except DataError as error:
                left_out[service] = error
        if left_out and not found:
            raise next(iter(left_out.values()))
        if left_out:
            first = "; ".join(f"{service}: {error}" for service, error in list(left_out.items())[:SAID])
            more = f"; and {len(left_out) - SAID} more" if len(left_out) > SAID else ""
            warnings.warn(f"services without a forecast: {first}{more}", stacklevel=2)
        return found

    @abstractmethod
    def _of_windows(
        self, windows: WindowBatch, horizon: int, *, samples: int, seed: int, only: Sequence[str] | None
    ) -> ForecastBatch:
        """Joint sample paths for every window; see `forecasting.base.ForecastModel.predict`."""
