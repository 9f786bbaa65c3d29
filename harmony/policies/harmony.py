"""The price rule with an error budget, its settings chosen by replaying the service's own past; and the stand-in."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from forecasting.panel import FloatArray
from forecasting.specialists import LeadGrid, has_trees
from harmony.decision.budget import ErrorBudget
from harmony.decision.censored import MEMORY, asked_for, saturated_steps
from harmony.decision.in_force import Wish, in_force
from harmony.decision.past.own_past import PAST_SHARE, WHOLE, Guess, Keeping, OwnPast, TurnRow
from harmony.decision.past.piece import Prices, violated_part
from harmony.decision.past.portfolio import THUMBS, Base, Portfolio, PortfolioSetting
from harmony.decision.past.selection import Verdict, because
from harmony.decision.past.tried import YET_TO_REPLAY, tried_of
from harmony.decision.price import CAP
from harmony.decision.risk import ROUND
from harmony.decision.rule import clip, decide, demand_paths, demand_quantiles, hold
from harmony.model.decision import Candidates, Decision, Reason
from harmony.model.objective import Behavior, Objective
from harmony.model.observation import Observation
from harmony.policies.base import Past, SettingValue

__all__ = ["SERVED", "HarmonyPolicy", "Kept", "Replayed"]

HIGH = 0.95  # what the width of a given forecast is read off at
LEAD_KEPT = 0.7  # a lead time that was learned anew counts when it is longer, or shorter than this part of the last
ABSENT = (math.nan,) * 4
# What is kept of each of thousands of services: 8.75 days of minutes, which a weekly rhythm takes to be seen.
SERVED = Keeping(12_600, 0.0, forecasts=360, short=True)
HELD = frozenset({Reason.FORECAST, Reason.REACTIVE_FLOOR})
QUEUE = "queue_length"  # indicator of requests that wait, where the world measures it
NO_FORECAST_MARGIN = 1.5  # on the lead's maximum, until there is enough past to choose from


class Replayed(NamedTuple):
    """What the policy remembers.

    Attributes:
        past: its replayed past.
        stated: the risk that it stated last.
        recalled: whether it was told of the time before its first turn.
        owed: whether lead time, measure or limits have changed since the past was replayed; it will be when there is
            time for it, and until then what was chosen before stands.
    """

    past: OwnPast
    stated: float = math.nan
    recalled: bool = False
    owed: bool = False


class Kept(NamedTuple):
    """What is left of the memory after a restart: the error budget by days, and the setting that was in force."""

    budget: object
    setting: PortfolioSetting | None


@dataclass(frozen=True, slots=True)
class HarmonyPolicy:
    """At every turn what the cheapest setting asks for that has kept the budget on the service's own past.

    Until there is enough past it decides by the fixed risk level (with a forecast) or by the highest demand of the
    last lead and a margin (without).

    Attributes:
        forecaster: what the given forecast comes from; empty for specialists alone.
        trees: whether LightGBM specialists take part; None for "where it is installed". Without them it saves as much
            (`benchmarks/savings.md`), and gives the same counts whatever is installed.
        thumbs: whether rules of thumb take part.
        rule: "price" or "quantile".
        window_s: the rolling window of the error budget, seconds.
        cap: most risk of one decision, as a multiple of epsilon.
        name: name in tables and on the command line.
        limits: the user's own rate limits and windows: applied to what was chosen, and to every setting that is tried.
        kept: how much of the past is kept.
        censored: whether readings of a saturated service are taken for lower bounds: where demand is measured as it is
            served, they say what is carried and not what is asked for.
    """

    forecaster: str = "base"
    trees: bool | None = False
    thumbs: bool = True
    rule: str = "price"
    window_s: float = 30 * 86_400.0
    cap: float = CAP
    name: str = "harmony"
    limits: Behavior | None = None
    kept: Keeping = WHOLE
    censored: bool = False

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
            thumbs=THUMBS if self.thumbs else (),
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

    def fitted(self, past: Past) -> HarmonyPolicy:
        """Itself: everything is learned from the past as it comes in."""
        return self

    def ladders(self, past: Past) -> Sequence[Sequence[HarmonyPolicy]]:
        """Nothing to tune: it tunes itself."""
        return [[self]]

    # ---- what it remembers ----------------------------------------------------------------------------------
    def wants_past(self, memory: Replayed | Kept | None) -> bool:
        """Until it was told of the time before its first turn."""
        return not (isinstance(memory, Replayed) and memory.recalled)

    def is_due(self, memory: Replayed | Kept | None) -> bool:
        """When new pieces of the past are to be replayed."""
        return isinstance(memory, Replayed) and (memory.owed or memory.past.is_due)

    def saved(self, memory: Replayed | Kept | None) -> dict[str, Any] | None:
        """The budget by days, about 1 kB, and the setting in force; the past itself is read again."""
        if isinstance(memory, Kept):
            setting, budget = memory.setting, memory.budget
        elif isinstance(memory, Replayed):
            setting, budget = memory.past.setting, memory.past.budget.to_json()
        else:
            return None
        told = {} if setting is None else {"setting": list(dataclasses.astuple(setting))}
        return {"budget": budget, **told}

    def restored(self, saved: object) -> Kept | None:
        """What `saved` gave; the budget's rows are read when the objective is known."""
        if not isinstance(saved, dict):
            return None
        return Kept(saved.get("budget"), _setting_of(saved.get("setting")))

    def verdict(self, memory: Replayed | Kept | None) -> tuple[Verdict, ...]:
        """Which setting is in force, and what the best of every other family would have cost and violated."""
        return memory.past.told if isinstance(memory, Replayed) else ()

    # ---- deciding -------------------------------------------------------------------------------------------
    def decide(self, observation: Observation) -> Decision:
        """Take in what was seen, then order what the setting in force says; equal observations, equal decisions."""
        paths = demand_paths(observation)
        if self.censored and isinstance(observation.memory, Replayed):
            observation = replace(observation, demand=_asked(observation, observation.memory.past))
        memory = self._seen(observation, paths)
        guess = memory.past.guess()
        longer = memory.owed and _grid(observation).lead_steps > memory.past.grid.lead_steps
        ahead = decide(observation) if longer and observation.forecast is not None and guess is not None else None
        by_level = ahead is not None and guess is not None and ahead.replicas > guess.replicas
        if ahead is not None and by_level:  # what was chosen looks less far than is needed now
            guess, decision, wanted = None, ahead, ahead.replicas
        elif guess is None:
            decision, wanted = self._without_setting(observation, memory.past)
        else:
            decision, wanted = self._ordered(observation, guess, memory.past), guess.wanted
        if paths is not None and not decision.quantiles:
            decision = replace(decision, quantiles=demand_quantiles(paths))
        past, setting = memory.past, None if by_level else memory.past.setting
        blind = setting is not None and guess is None  # nobody that was chosen has a forecast
        least, most = past.budget.band(past.grid.lead_steps + 1)
        held = decision.replicas if guess is None else guess.replicas
        until_s = past.held_until_s(held) if decision.bound_by == "hold" else math.nan
        return replace(
            decision,
            setting="" if setting is None else setting.label,
            price=setting.knob if setting is not None and setting.rule == "price" else math.nan,
            wanted=-1 if blind else wanted,
            held=-1 if blind else held,
            stood=-1 if guess is None else guess.stood,
            held_for_s=max(0.0, until_s - observation.now_s) if until_s == until_s else math.nan,
            budget_left=past.budget.left if math.isfinite(past.budget.left) else math.nan,
            burn_rate=past.budget.burn_rate(),
            budget_least=least,
            budget_most=most,
            tried=tried_of(past.told, past.allowed),
            why="; ".join(part for part in (because(past.told), YET_TO_REPLAY * memory.owed) if part),
            memory=memory._replace(past=past.with_wanted(wanted), stated=_as_modelled(decision)),
        )

    def remembering(self, observation: Observation, demand: FloatArray, forecast: FloatArray | None = None) -> Replayed:
        """The memory to begin a life with: ``demand`` (rows,) of the turns before ``observation``, NaN where absent.

        ``forecast`` (rows, 4) is what was forecast in them, as in `TurnRow`. So a service that
        has a history in Prometheus chooses from all of it at its first turn. The budget goes on, and so does the
        setting that was in force, unless another one is better.
        """
        memory = self._begun(observation)
        before, setting = memory.past, None
        if isinstance(observation.memory, Kept):
            setting = observation.memory.setting
        elif isinstance(observation.memory, Replayed):
            setting = observation.memory.past.setting
        fresh = self._started(observation).past
        fresh = replace(fresh, budget=before.budget if before.measure == fresh.measure else before.budget.anew())
        known = demand[-max(self.kept.rows, before.grid.steps(self.kept.seconds)) :]
        newest_s, capacity = observation.now_s - before.grid.step_s, observation.capacity.median
        past = fresh.backfilled(newest_s, known, capacity, forecast, piece=PAST_SHARE)
        return Replayed(past.preferring(setting), memory.stated, recalled=True)

    def _begun(self, observation: Observation) -> Replayed:
        """The memory before this turn, on the present grid."""
        memory = observation.memory
        if isinstance(memory, Kept):
            started = self._started(observation)
            return started._replace(past=replace(started.past, budget=started.past.budget.restored(memory.budget)))
        grid = _grid(observation)
        if not isinstance(memory, Replayed) or memory.past.grid.step_s != grid.step_s:
            return self._started(observation)
        return memory

    def _seen(self, observation: Observation, paths: FloatArray | None) -> Replayed:
        """The memory with this turn's row and the outcome of what was set before it."""
        objective, demand, now_s = observation.objective, observation.demand, observation.now_s
        if observation.past is not None and observation.past.size and self.wants_past(observation.memory):
            memory = self.remembering(observation, observation.past)
        else:
            memory = self._begun(observation)
        past, leads = memory.past, _grid(observation).lead_steps
        if LEAD_KEPT * past.grid.lead_steps <= leads <= past.grid.lead_steps:
            leads = past.grid.lead_steps
        agreed = (leads, objective.measure, self.limits)
        owed = agreed != (past.grid.lead_steps, past.measure, past.limits)
        if owed and observation.may_review:
            past, owed = past.under(*agreed), False
        bounds = (objective.min_replicas, objective.max_replicas)
        past = past.within(*bounds, _prices(objective, past.grid.step_s), observation.capacity.sigma)
        past = past.with_objective(objective.epsilon)
        capacity = observation.capacity.median
        missed = math.nan if past.measure == "requests" else observation.missed  # which is a share of time
        if missed != missed and demand == demand:
            missed = violated_part(past.measure, demand / capacity, observation.ready)
        if missed == missed and past.rows_until(now_s) > 0:
            past = past.with_outcome(now_s, missed, memory.stated)
        given = ABSENT
        if self.forecaster and paths is not None:
            given = _summary(paths)
        row = TurnRow(demand, capacity, given)
        return memory._replace(past=past.seen(now_s, row, review=observation.may_review), owed=owed)

    def _started(self, observation: Observation) -> Replayed:
        objective, grid = observation.objective, _grid(observation)
        past = OwnPast.start(
            self.portfolio,
            grid,
            ErrorBudget(objective.epsilon, self.window_s, grid.step_s),
            cap=self.cap * objective.epsilon,
            bounds=(objective.min_replicas, objective.max_replicas),
            kept=self.kept,
            measure=objective.measure,
            limits=self.limits,
        )
        return Replayed(past)

    def _without_setting(self, observation: Observation, past: OwnPast) -> tuple[Decision, int]:
        """Before there is enough past, or while nobody that was chosen has a forecast; and the count before holding."""
        if past.setting is not None:
            kept = hold(observation)
            return kept, kept.replicas
        if observation.forecast is not None or self.forecaster:
            decision = decide(observation)
            wanted = decision.replicas
            held = max((wanted, *past.recent)) if self.limits is None and decision.reason in HELD else wanted
            if held > wanted:
                decision = decision.with_replicas(held, Reason.STABILIZED, "hold")
            return decision, wanted
        if math.isnan(observation.demand):
            kept = hold(observation)
            return kept, kept.replicas
        objective = observation.objective
        need = NO_FORECAST_MARGIN * past.highest() / observation.capacity.median
        count = clip(math.ceil(need - ROUND), objective.min_replicas, objective.max_replicas)
        return Decision(count, observation.ordered, Reason.WARMING_UP, unconstrained=count), count

    def _ordered(self, observation: Observation, guess: Guess, past: OwnPast) -> Decision:
        """What the chosen setting's count becomes."""
        most = observation.objective.max_replicas
        kept = past.told[0].keeps if past.told else True  # does anything that was tried keep the budget
        unreachable = guess.least > most or (not kept and guess.replicas >= most)
        lost = bool(self.forecaster) and observation.forecast is None
        table = _candidates(guess, past, observation)
        return in_force(observation, Wish(guess.wanted, guess.replicas, table, unreachable, lost))


def _asked(observation: Observation, past: OwnPast) -> float:
    """Demand as it was asked for, where all that is ready is in use and requests wait."""
    demand = observation.demand
    carried = observation.ready * observation.capacity.median
    waiting = (observation.indicators or {}).get(QUEUE, math.nan)
    if demand != demand or not saturated_steps(np.array([demand]), np.array([carried]))[0] or waiting == 0.0:
        return demand
    return asked_for(demand, past.history.demand(max(0, len(past.history) - MEMORY)))


def _as_modelled(decision: Decision) -> float:
    """The risk of what was decided before it was rescaled; NaN where none was stated."""
    table = decision.candidates
    if table is None:
        return decision.violation_probability
    at = max(0, int(np.searchsorted(table.replicas, decision.replicas, side="right")) - 1)
    return float(table.violated_time[at])


def _grid(observation: Observation) -> LeadGrid:
    """The grid of rows: a turn apart, or a step where turns come sooner; and rows until what is set now is ready."""
    row_s = max(observation.interval_s, observation.step_s)
    lead_s = observation.lead_time.steps(observation.step_s) * observation.step_s
    return LeadGrid(row_s, max(1, math.ceil(round(lead_s / row_s, 9))))


def _prices(objective: Objective, row_s: float) -> Prices:
    """What switching and missing replicas cost, in replicas for one row."""
    hourly = objective.replica_price_per_hour
    if hourly <= 0.0:
        return Prices()
    return Prices(objective.switch_price / (hourly * row_s / 3600.0), objective.miss_price_per_replica_hour / hourly)


def _setting_of(saved: object) -> PortfolioSetting | None:
    """A setting as it was saved; None for anything else."""
    match saved:
        case [str(expert), str(target), str(rule), int() | float() as knob, int(hold), *more] if len(more) <= 1:
            return PortfolioSetting(expert, target, rule, float(knob), hold, more == [True])
    return None


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
    objective = observation.objective
    within = np.clip(guess.counts, objective.min_replicas, objective.max_replicas)
    counts, at = np.unique(within, return_index=True)
    last = np.append(at[1:], within.size) - 1  # of equal counts the least risk
    if within[-1] < guess.counts[-1]:  # what exceeds the maximum does not make it safer
        last[-1] = max(0, int(np.searchsorted(guess.counts, within[-1], side="right")) - 1)
    risk = guess.risks[last]
    stated = np.minimum(1.0, risk * past.budget.realised_over_stated)
    whole = counts.astype(np.int64)
    cost = objective.replica_price_per_hour * counts + objective.switch_price * np.abs(counts - observation.ordered)
    return Candidates(whole, stated, risk, risk, cost)
