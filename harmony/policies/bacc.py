"""After BACC (arXiv 2606.20575): conformal calibration of a forecast, and a PI controller on the pace of the budget.

The paper wraps any forecaster; here that is an autoregression fitted on line by recursive least squares, of the demand
one lead time ahead, on what is known now and on the same time a day before.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from forecasting.panel import FloatArray
from harmony.decision.risk import MOST_REPLICAS, ROUND
from harmony.model.decision import Decision, Reason
from harmony.model.objective import Behavior
from harmony.model.observation import Observation
from harmony.policies.base import Past, SettingValue, Unforecast
from harmony.policies.growing_rows import GrowingRows

__all__ = ["BaccPolicy", "LeastSquares", "paced_risk"]

DAY_S = 86_400.0
LAGS = (0, 1, 2)
SCORES = 2000  # newest residuals that the quantile is read off
FORGET = 0.9998
PERIOD_S = 7 * DAY_S
MOST_RISK = 0.5


class LeastSquares(NamedTuple):
    """Recursive least squares: coefficients (n,) and the inverse of the weighted moments (n, n)."""

    weights: FloatArray
    inverse: FloatArray

    @classmethod
    def start(cls, weights: FloatArray) -> LeastSquares:
        """With a prior around ``weights``."""
        return cls(weights, np.eye(weights.size) * 0.1)

    def seen(self, x: FloatArray, y: float, forget: float = FORGET) -> LeastSquares:
        """With one more example."""
        px = self.inverse @ x
        gain = px / (forget + x @ px)
        return LeastSquares(self.weights + gain * (y - self.weights @ x), (self.inverse - np.outer(gain, px)) / forget)


def paced_risk(
    epsilon: float, spent: float, elapsed: float, integral: float, proportional: float, integral_gain: float
) -> float:
    """The risk to aim at: epsilon, less when the budget is spent faster than time passes, more when slower.

    ``spent`` share of the period's budget, ``elapsed`` share of the period, ``integral`` of their difference so far.
    """
    ahead = spent - elapsed
    return epsilon * math.exp(-min(max(proportional * ahead + integral_gain * integral, -3.0), 3.0))


class _Memory(NamedTuple):
    demand: GrowingRows
    model: LeastSquares
    scores: GrowingRows  # residuals over level, of the time one lead ahead
    level: float  # conformal risk that is used
    bounds: tuple[float, ...]  # of the last lead's decisions, oldest first: what demand was to stay below
    began_s: float
    violated_s: float
    integral: float


@dataclass(frozen=True, slots=True)
class BaccPolicy(Unforecast):
    """BACC: a point forecast with an adaptive conformal margin, its risk steered by the pace of the violation budget.

    `step` of the conformal risk per reading, times epsilon; `proportional` and `integral` gains on (share of the budget
    spent - share of the period passed); `period_s` of the budget; `hold_s` of a scale-down, negative for one lead time.
    """

    step: float = 0.05
    proportional: float = 2.0
    integral: float = 0.5
    period_s: float = PERIOD_S
    hold_s: float = -1.0
    scale: float = 1.0
    name: str = "bacc"

    @property
    def behavior(self) -> Behavior | None:
        """The hold as a scale-down stabilisation window."""
        return Behavior.hold(self.hold_s) if self.hold_s > 0 else None

    @property
    def settings(self) -> dict[str, SettingValue]:
        """Gains, period and hold."""
        return {
            "step": self.step,
            "proportional": self.proportional,
            "integral": self.integral,
            "hold_s": self.hold_s,
            "scale": self.scale,
        }

    def decide(self, observation: Observation) -> Decision:
        """Learn from what came, then cover the forecast with the conformal margin."""
        demand, ordered = observation.demand, observation.ordered
        per_replica, epsilon = observation.capacity.median, observation.objective.epsilon * self.scale
        k = max(1, math.ceil(round(observation.lead_time.median_s / observation.interval_s, 9)))
        day = max(k, round(DAY_S / observation.interval_s))
        memory = self._learned(observation, k, day, epsilon)
        if math.isnan(demand):
            return Decision(ordered, ordered, Reason.ABSENT_DATA, bound_by="absent demand", memory=memory)
        rows = memory.demand.rows[:, 0]
        level = _level(rows, rows.size - 1)
        forecast = float(memory.model.weights @ _features(rows, rows.size - 1, k, day, level)) * level
        scores = memory.scores.rows[-SCORES:, 0]
        margin = 0.5 * demand
        if scores.size >= 30:
            rank = min(scores.size - 1, math.ceil((1.0 - memory.level) * (scores.size + 1)) - 1)
            margin = float(np.partition(scores, rank)[rank]) * level
        bound = max(demand, forecast + margin)
        memory = memory._replace(bounds=(*memory.bounds, bound)[-k:])
        count = math.ceil(min(bound / per_replica, MOST_REPLICAS) - ROUND)
        return Decision(max(1, count), ordered, Reason.FORECAST, memory=memory)

    def _learned(self, observation: Observation, k: int, day: int, epsilon: float) -> _Memory:
        """The memory with the newest reading: residual, conformal risk, budget."""
        now_s, demand, interval_s = observation.now_s, observation.demand, observation.interval_s
        memory: _Memory | None = observation.memory
        if memory is None:
            weights = np.zeros(len(LAGS) + 2)
            weights[0] = 1.0
            memory = _Memory(
                GrowingRows.empty(1), LeastSquares.start(weights), GrowingRows.empty(1), epsilon, (), now_s, 0.0, 0.0
            )
        rows = memory.demand.rows[:, 0]
        if math.isnan(demand):  # the grid goes on with the last value, so that lags stay where they are
            last = rows[-1:] if rows.size else np.zeros(1)
            return memory._replace(demand=memory.demand.extended(last[:, None]), bounds=memory.bounds[1:])
        memory = memory._replace(demand=memory.demand.extended(np.array([[demand]])))
        rows = memory.demand.rows[:, 0]
        at = rows.size - 1 - k
        if at >= 0:
            level = _level(rows, at)
            x = _features(rows, at, k, day, level)
            missed = demand / level - float(memory.model.weights @ x)
            memory = memory._replace(
                model=memory.model.seen(x, demand / level), scores=memory.scores.extended(np.array([[missed]]))
            )
        if now_s - memory.began_s >= self.period_s:
            memory = memory._replace(began_s=now_s, violated_s=0.0, integral=0.0)
        violated_s = memory.violated_s
        if demand / observation.capacity.median - observation.ready > ROUND:
            violated_s += interval_s
        spent = violated_s / max(epsilon * self.period_s, interval_s)
        elapsed = (now_s - memory.began_s) / self.period_s
        total = memory.integral + (spent - elapsed) * interval_s / self.period_s
        aim = paced_risk(epsilon, spent, elapsed, total, self.proportional, self.integral)
        risk = memory.level
        if len(memory.bounds) == k:  # what was said one lead ago of now
            missed_bound = demand > memory.bounds[0] * (1 + ROUND)
            risk += self.step * epsilon * (aim - missed_bound)
        risk = min(max(risk, 1.0 / SCORES), MOST_RISK)
        return memory._replace(violated_s=violated_s, integral=total, level=risk)

    def fitted(self, past: Past) -> BaccPolicy:
        """A hold of one lead time, unless another was given."""
        return self if self.hold_s >= 0 else replace(self, hold_s=past.lead_s)

    def ladders(self, past: Past) -> Sequence[Sequence[BaccPolicy]]:
        """One ladder per hold (one lead time, one hour): objectives from 20 times epsilon to a twentieth of it."""
        scales = (20.0, 10.0, 7.0, 5.0, 3.5, 2.5, 1.8, 1.4, 1.0, 0.7, 0.5, 0.35, 0.2, 0.1, 0.05)
        holds = sorted({past.lead_s, max(past.lead_s, 3600.0)})
        return [[replace(self, hold_s=h, scale=s) for s in scales] for h in holds]


def _level(rows: FloatArray, at: int) -> float:
    """What demand is measured against: the mean of the last 15 readings, with a little so that it is never zero."""
    recent = rows[max(0, at - 14) : at + 1]
    return float(recent.mean()) + 0.05 * float(rows[: at + 1][-2000:].mean()) + 1e-9


def _features(rows: FloatArray, at: int, k: int, day: int, level: float) -> FloatArray:
    """(lags + 2,) recent demand, that of a day before the time foretold, and a constant, all over the level."""
    before = at + k - day
    seasonal = rows[before] if 0 <= before <= at else rows[at]
    return np.array([*(rows[max(0, at - lag)] / level for lag in LAGS), seasonal / level, 1.0])
