"""`TurnRows`: what the turns of a service saw, row by row: demand, capacity of a replica, and the forecast given."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from forecasting.panel import FloatArray
from harmony.decision.past.blocks import Blocks

__all__ = ["FORECASTS", "TurnRows"]

FORECASTS = 4  # numbers of the forecast of a row


@dataclass(frozen=True, eq=False, slots=True)
class TurnRows:
    """Rows of one service, oldest first; a value like `Blocks`.

    `_demand` holds the last known demand of each row, its sign set where the row itself had none; `_capacity` and
    `_forecast` (NaN where absent) what they say. `_before` is the highest demand of rows that are kept no more,
    `_highest` that of all.
    """

    _demand: Blocks
    _capacity: Blocks
    _forecast: Blocks
    _before: float = 0.0
    _highest: float = 0.0

    @classmethod
    def empty(cls) -> TurnRows:
        """No rows yet."""
        one = Blocks.empty(1, np.float32, 1024)
        return cls(one, one, Blocks.empty(FORECASTS, np.float32, 128))

    def __len__(self) -> int:
        """Number of rows."""
        return self._demand.size

    def extended(self, demand: FloatArray, capacity: FloatArray, forecast: FloatArray) -> TurnRows:
        """With more rows: ``demand`` (n,) >= 0 and ``forecast`` (n, 4), NaN where absent, ``capacity`` (n,)."""
        if not demand.size:
            return self
        known = ~np.isnan(demand)
        last = np.maximum.accumulate(np.where(known, np.arange(demand.size), -1))
        newest = float(self.filled(len(self) - 1)[0]) if len(self) else 0.0
        filled = np.where(last >= 0, np.abs(demand[last]), newest).astype(np.float32)
        return TurnRows(
            self._demand.extended(np.where(known, filled, -filled)[:, None]),
            self._capacity.extended(capacity[:, None]),
            self._forecast.extended(forecast),
            self._before,
            max(self._highest, float(filled.max())),
        )

    def newest(self, rows: int) -> TurnRows:
        """The last ``rows`` of them."""
        before = max(self._before, float(self.filled(0, len(self) - rows).max(initial=0.0)))
        demand, capacity, forecast = (x.newest(rows) for x in (self._demand, self._capacity, self._forecast))
        return TurnRows(demand, capacity, forecast, before, self._highest)

    def without_forecasts_before(self, row: int) -> TurnRows:
        """The same, forecasts of rows before ``row`` gone for the most part."""
        left = self._forecast.blank_before(row)
        return self if left is self._forecast else replace(self, _forecast=left)

    # ---- (rows,) of the rows start..stop-1 -------------------------------------------------------------------
    def demand(self, start: int = 0, stop: int | None = None) -> FloatArray:
        """Demand as it was seen, NaN where absent."""
        found = self._demand.column(0, start, stop)
        return np.where(np.signbit(found), np.nan, found)

    def filled(self, start: int = 0, stop: int | None = None) -> FloatArray:
        """Demand, the last known one where it is absent."""
        return np.abs(self._demand.column(0, start, stop))

    def peak(self, start: int, stop: int) -> FloatArray:
        """The highest demand of all rows up to each."""
        if start == len(self) - 1 and stop == len(self):
            return np.array([self._highest])
        before = max(self._before, float(self.filled(0, start).max(initial=0.0)))
        return np.maximum.accumulate(np.maximum(self.filled(start, stop), before))

    def capacity(self, start: int = 0, stop: int | None = None) -> FloatArray:
        """What a replica carried, as it was believed then."""
        return self._capacity.column(0, start, stop)

    def forecast(self, at: int, start: int = 0, stop: int | None = None) -> FloatArray:
        """The forecast's number ``at``, NaN where absent."""
        return self._forecast.column(at, start, stop)

    @property
    def rows(self) -> FloatArray:
        """(rows, 6) all of it: demand and the four numbers of the forecast NaN where absent, capacity between them."""
        return np.column_stack([self.demand(), self.capacity(), self._forecast.rows])
