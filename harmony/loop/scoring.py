"""Is the forecast right? Each service's forecasts are kept until their time has come and then compared with demand."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from forecasting.distribution import ForecastDistribution
from forecasting.panel import FloatArray
from harmony.loop.saved import number_or

__all__ = ["INTERVALS", "ForecastScores"]

INTERVALS = (0.5, 0.8, 0.9, 0.95)
KEPT = 65  # order statistics kept of each forecast: enough for intervals and CRPS at a sixth of the memory
LEVELS = np.linspace(0.0, 1.0, KEPT)
FORGET = 0.999  # per scored step: about a thousand steps count
ENOUGH = 60.0  # scored steps before coverage is judged
ACCEPTED_80 = (0.55, 0.985)  # coverage of the 80 % interval outside of this is called miscalibrated


@dataclass(frozen=True, eq=False, slots=True)
class ForecastScores:
    """Coverage and CRPS of one service's forecasts, one lead time ahead, with exponential forgetting.

    A value: `keep` and `settle` give the scores after it.

    Attributes:
        weight: steps that were scored, older ones counting less.
        covered: of these, the steps inside each of `INTERVALS`.
        crps_sum, demand_sum: sums over these steps, in the demand's unit.
        waiting: forecasts whose time has not come: (time, order statistics).
    """

    weight: float = 0.0
    covered: tuple[float, ...] = (0.0,) * len(INTERVALS)
    crps_sum: float = 0.0
    demand_sum: float = 0.0
    waiting: tuple[tuple[float, FloatArray], ...] = ()

    def keep(self, forecast: ForecastDistribution, demand: str, lead_steps: int) -> ForecastScores:
        """Remember what is forecast for one lead time ahead; once per step."""
        lead_steps = min(lead_steps, forecast.horizon)
        at = forecast.origin_s + lead_steps * forecast.step_s
        if self.waiting and self.waiting[-1][0] >= at:
            return self
        paths = forecast.of(demand)[:, lead_steps - 1]
        if np.isnan(paths).any():
            return self
        ordered = np.interp(LEVELS * (paths.size - 1), np.arange(paths.size), np.sort(paths))
        return self._with_waiting((*self.waiting, (at, ordered.astype(np.float32))))

    def settle(self, time_s: float, demand: float, step_s: float) -> ForecastScores:
        """Compare with the demand of one step; an absent step scores nothing."""
        waiting = self.waiting
        while waiting and waiting[0][0] < time_s - step_s / 2:
            waiting = waiting[1:]
        if not waiting or abs(waiting[0][0] - time_s) > step_s / 2:
            return self if waiting is self.waiting else self._with_waiting(waiting)
        _, x = waiting[0]
        waiting = waiting[1:]
        if math.isnan(demand):
            return self._with_waiting(waiting)
        covered = []
        for share, before in zip(INTERVALS, self.covered, strict=True):
            low, high = np.interp([(1 - share) / 2, (1 + share) / 2], LEVELS, x)
            covered.append(before * FORGET + float(low <= demand <= high))
        n = x.size
        spread = float(np.sum((2 * np.arange(1, n + 1) - n - 1) * x)) / (n * n)
        crps = float(np.abs(x - demand).mean()) - spread
        return ForecastScores(
            weight=self.weight * FORGET + 1.0,
            covered=tuple(covered),
            crps_sum=self.crps_sum * FORGET + crps,
            demand_sum=self.demand_sum * FORGET + demand,
            waiting=waiting,
        )

    def _with_waiting(self, waiting: tuple[tuple[float, FloatArray], ...]) -> ForecastScores:
        return ForecastScores(self.weight, self.covered, self.crps_sum, self.demand_sum, waiting)

    @property
    def coverage(self) -> dict[float, float]:
        """Share of steps inside each central interval; NaN before anything was scored."""
        return {q: c / self.weight if self.weight else math.nan for q, c in zip(INTERVALS, self.covered, strict=True)}

    @property
    def crps(self) -> float:
        """Mean continuous ranked probability score in the demand's unit; NaN before anything was scored."""
        return self.crps_sum / self.weight if self.weight else math.nan

    @property
    def is_calibrated(self) -> bool | None:
        """Whether the 80 % interval covers about that share; None while too little was scored."""
        if self.weight < ENOUGH:
            return None
        low, high = ACCEPTED_80
        return low <= self.coverage[0.8] <= high

    def to_json(self) -> dict[str, Any]:
        """What must survive a restart (forecasts that wait for their time are made anew)."""
        if not self.weight:
            return {}
        numbers = [self.weight, *self.covered, self.crps_sum, self.demand_sum]
        return {"n": [float(f"{x:.6g}") for x in numbers]}

    @classmethod
    def from_json(cls, data: object) -> ForecastScores:
        """From what `to_json` gave; anything else starts anew."""
        numbers = data.get("n") if isinstance(data, dict) else None
        if not isinstance(numbers, list) or len(numbers) != len(INTERVALS) + 3:
            return cls()
        weight, *covered, crps, demand = (number_or(x, math.nan) for x in numbers)
        if not weight >= 0 or any(math.isnan(x) for x in (*covered, crps, demand)):
            return cls()
        return cls(weight, tuple(covered), crps, demand)
