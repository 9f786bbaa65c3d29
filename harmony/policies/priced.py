"""The price rule with an error budget, its settings chosen by replaying the service's own past; and the stand-in."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from forecasting.panel import FloatArray
from forecasting.specialists import LeadGrid, has_trees
from harmony.decision.budget import ErrorBudget
from harmony.decision.own_past import Guess, OwnPast, TurnRow
from harmony.decision.portfolio import Base, Portfolio
from harmony.decision.price import CAP
from harmony.decision.risk import ROUND
from harmony.decision.rule import clip, decide, demand_paths, demand_quantiles, hold, reactive_floor
from harmony.model.decision import Candidates, Decision, Reason
from harmony.model.objective import Behavior
from harmony.model.observation import Observation
from harmony.policies.base import Past, SettingValue

__all__ = ["PricedPolicy", "Replayed"]

HIGH = 0.95  # what the width of a given forecast is read off at
LEAD_KEPT = 0.7  # a lead time that was learned anew counts when it is longer, or shorter than this part of the last
ABSENT = (math.nan,) * 4
NO_FORECAST_MARGIN = 1.5  # on the lead's maximum, until there is enough past to choose from


class Replayed(NamedTuple):
    """What the policy remembers: its replayed past, what it stated last, and the highest demand of the last lead."""

    past: OwnPast
    stated: float
    recent: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class PricedPolicy:
    """At every turn what the cheapest setting asks for that has kept the budget on the service's own past.

    Until there is enough past it decides by the fixed risk level (with a forecast) or by the highest demand of the
    last lead and a margin (without).

    Attributes:
        forecaster: what the given forecast comes from; empty for specialists alone.
        trees: whether LightGBM specialists take part; None for "where it is installed".
        thumbs: whether rules of thumb take part.
        rule: "price" or "quantile".
        window_s: the rolling window of the error budget, seconds.
        cap: most risk of one decision, as a multiple of epsilon.
        name: name in tables and on the command line.
        limits: the user's own rate limits and windows, applied to what was chosen.
    """

    forecaster: str = "base"
    trees: bool | None = None
    thumbs: bool = True
    rule: str = "price"
    window_s: float = 30 * 86_400.0
    cap: float = CAP
    name: str = "harmony-price"
    limits: Behavior | None = None

    @property
    def behavior(self) -> Behavior | None:
        """The user's limits; holds are part of the settings that are tried."""
        return self.limits

    @property
    def risk_scale(self) -> float:
        """Begins with the model's own probabilities."""
        return 1.0

    @property
    def portfolio(self) -> Portfolio:
        """What is tried."""
        own: tuple[Base, ...] = ("ridge", "boosted") if self.with_trees else ("ridge",)
        experts: list[tuple[Base, ...]] = [own]
        if self.forecaster:
            experts += [("forecast",), (*own, "forecast")]
        elif self.with_trees:
            experts += [("ridge",), ("boosted",)]
        return Portfolio(
            experts=tuple(experts),
            rules=("quantile",) if self.rule == "quantile" else ("price",),
            thumbs=("reactive", "percentile") if self.thumbs else (),
        )

    @property
    def with_trees(self) -> bool:
        """True where LightGBM specialists take part."""
        return has_trees() if self.trees is None else self.trees

    @property
    def settings(self) -> dict[str, SettingValue]:
        """What reports show."""
        given: dict[str, SettingValue] = {"forecaster": self.forecaster} if self.forecaster else {}
        return given | {
            "experts": ", ".join("+".join(e) for e in self.portfolio.experts),
            "rule": self.rule,
            "budget_days": self.window_s / 86_400.0,
            "cap": self.cap,
        }

    def fitted(self, past: Past) -> PricedPolicy:
        """Itself: everything is learned from the past as it comes in."""
        return self

    def ladders(self, past: Past) -> Sequence[Sequence[PricedPolicy]]:
        """Nothing to tune: it tunes itself."""
        return [[self]]

    # ---- deciding -------------------------------------------------------------------------------------------
    def decide(self, observation: Observation) -> Decision:
        """Take in what was seen, then order what the setting in force says; equal observations, equal decisions."""
        paths = demand_paths(observation)
        memory = self._seen(observation, paths)
        guess = memory.past.guess()
        if guess is None:
            decision = self._without_setting(observation, memory)
            wanted = decision.replicas
        else:
            decision = self._ordered(observation, guess, memory.past)
            wanted = guess.wanted
        if paths is not None and not decision.quantiles:
            decision = replace(decision, quantiles=demand_quantiles(paths))
        stated = _as_modelled(decision)
        return replace(decision, memory=memory._replace(past=memory.past.with_wanted(wanted), stated=stated))

    def remembering(self, observation: Observation, demand: FloatArray, forecast: FloatArray | None = None) -> Replayed:
        """The memory to begin a life with: ``demand`` (rows,) of the turns before ``observation``, NaN where absent.

        ``forecast`` (rows, 4) is what was forecast in them, as in `harmony.decision.own_past.TurnRow`. So a service
        that has a history in Prometheus chooses from all of it at its first turn.
        """
        memory = self._started(observation, LeadGrid(observation.interval_s, _turns(observation)))
        before_s = observation.now_s - observation.interval_s
        past = memory.past.backfilled(before_s, demand, observation.capacity.median, forecast)
        return memory._replace(past=past)

    def _seen(self, observation: Observation, paths: FloatArray | None) -> Replayed:
        """The memory with this turn's row and the outcome of what was set before it."""
        memory: Replayed | None = observation.memory
        objective, demand = observation.objective, observation.demand
        grid = LeadGrid(observation.interval_s, _turns(observation))
        if memory is None or memory.past.grid.step_s != grid.step_s:
            memory = self._started(observation, grid)
        elif not LEAD_KEPT * memory.past.grid.lead_steps <= grid.lead_steps <= memory.past.grid.lead_steps:
            memory = memory._replace(past=memory.past.leading(grid.lead_steps))
        past = memory.past.within(objective.min_replicas, objective.max_replicas).with_objective(objective.epsilon)
        recent = memory.recent
        capacity = observation.capacity.median
        if demand == demand:
            missed = demand / capacity - observation.ready > ROUND
            past = past.with_outcome(observation.now_s, bool(missed), memory.stated)
            recent = (*recent, demand)[-(past.grid.lead_steps + 1) :]
        given = ABSENT
        if self.forecaster and paths is not None:
            given = _summary(paths)
        return Replayed(past.seen(observation.now_s, TurnRow(demand, capacity, given)), memory.stated, recent)

    def _started(self, observation: Observation, grid: LeadGrid) -> Replayed:
        objective = observation.objective
        past = OwnPast.start(
            self.portfolio,
            grid,
            ErrorBudget(objective.epsilon, self.window_s, grid.step_s),
            cap=self.cap * objective.epsilon,
            bounds=(objective.min_replicas, objective.max_replicas),
        )
        return Replayed(past, math.nan, ())

    def _without_setting(self, observation: Observation, memory: Replayed) -> Decision:
        """Before there is enough past, or while the chosen expert has no forecast."""
        if memory.past.setting is not None:
            return hold(observation)
        if observation.forecast is not None:
            return decide(observation)
        if math.isnan(observation.demand):
            return hold(observation)
        objective = observation.objective
        need = NO_FORECAST_MARGIN * max(memory.recent) / observation.capacity.median
        count = clip(math.ceil(need - ROUND), objective.min_replicas, objective.max_replicas)
        return Decision(count, observation.ordered, Reason.WARMING_UP, unconstrained=count)

    def _ordered(self, observation: Observation, guess: Guess, past: OwnPast) -> Decision:
        """The chosen setting's count, never below present demand, nor lower for absent data."""
        objective = observation.objective
        count, reason, bound = guess.replicas, Reason.FORECAST, ""
        if guess.replicas > guess.wanted:
            reason, bound = Reason.STABILIZED, "hold"
        count = clip(count, objective.min_replicas, objective.max_replicas)
        floor = reactive_floor(observation)
        if count <= floor and guess.wanted == count:
            count, reason, bound = floor, Reason.REACTIVE_FLOOR, "reactive floor"
        lost = math.isnan(observation.demand) or (bool(self.forecaster) and observation.forecast is None)
        if lost and count < observation.ordered <= objective.max_replicas:
            count, reason, bound = observation.ordered, Reason.ABSENT_DATA, "absent data"
        candidates = _candidates(guess, past, observation)
        decision = Decision(
            count, observation.ordered, reason, candidates=candidates, unconstrained=count, bound_by=bound,
            model="" if observation.forecast is None else observation.forecast.model,
        )  # fmt: skip
        return decision.with_replicas(count, reason, bound) if candidates is not None else decision


def _as_modelled(decision: Decision) -> float:
    """The risk of what was decided before it was rescaled; NaN where none was stated."""
    table = decision.candidates
    if table is None:
        return decision.violation_probability
    at = max(0, int(np.searchsorted(table.replicas, decision.replicas, side="right")) - 1)
    return float(table.violated_time[at])


def _turns(observation: Observation) -> int:
    """Turns until what is set now is ready, at least one."""
    lead_s = observation.lead_time.steps(observation.step_s) * observation.step_s
    return max(1, math.ceil(round(lead_s / observation.interval_s, 9)))


def _summary(paths: FloatArray) -> tuple[float, float, float, float]:
    """Median and high quantile of (samples, steps) paths: at the end of the lead, and of the maximum over it."""
    last, most = paths[:, -1], paths.max(axis=1)
    out = []
    for values in (last, most):
        ordered = np.sort(values)
        n = ordered.size
        out += [float(ordered[(n - 1) // 2] + ordered[n // 2]) / 2, float(ordered[min(n - 1, int(HIGH * n))])]
    return out[0], out[1], out[2], out[3]


def _candidates(guess: Guess, past: OwnPast, observation: Observation) -> Candidates | None:
    """Every count of the chosen expert's table with its risk; what was stated is rescaled by what it realised."""
    if math.isnan(guess.risks[0]):
        return None
    counts, at = np.unique(guess.counts, return_index=True)
    last = np.append(at[1:], guess.counts.size) - 1  # of equal counts the least risk
    risk = guess.risks[last]
    objective = observation.objective
    stated = np.minimum(1.0, risk * past.budget.realised_over_stated)
    whole = counts.astype(np.int64)
    cost = objective.replica_price_per_hour * counts + objective.switch_price * np.abs(counts - observation.ordered)
    return Candidates(whole, stated, risk, risk, cost)
