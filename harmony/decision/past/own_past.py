"""`OwnPast`: a service's own history, replayed under every setting of a portfolio as the rate-level world does it.

Demand does not depend on the replicas that were set, so every setting can be scored on all of it without touching
the cluster: ready replicas are the minimum of what it would have set over the lead, and a step is violated where
demand exceeds what they carry. Forecasts of the past are those that were (or would have been) made then, never later
ones.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import NamedTuple, cast

import numpy as np
import numpy.typing as npt
from scipy.special import ndtri

from forecasting.panel import FloatArray
from forecasting.specialists import TARGETS, Features, LeadGrid, Predict, Target, fit_specialists, targets_of
from harmony.decision.budget import RARE, ErrorBudget
from harmony.decision.past.bands import Banded, banded, cut_at
from harmony.decision.past.blocks import Blocks
from harmony.decision.past.evidence import Ladder, drawn_together, ladders_of, memory_misses
from harmony.decision.past.limited import Limited, limited
from harmony.decision.past.packed import Packed, shortest
from harmony.decision.past.piece import NO_PRICES, Measure, Piece, Prices
from harmony.decision.past.portfolio import (
    RISKS,
    Base,
    Portfolio,
    PortfolioSetting,
    RuleName,
    Thumb,
    held,
    least_risks,
    priced,
    replicas,
    settings_of,
    thumb_counts,
)
from harmony.decision.past.selection import MEMORY_S, Families, Tally, Verdict, choose, families_of, verdict
from harmony.decision.past.turn_rows import FORECASTS, TurnRows
from harmony.decision.switching import price_edges, weight_of
from harmony.decision.tails import quantiles
from harmony.model.objective import Behavior

__all__ = ["PAST_SHARE", "WHOLE", "Guess", "Keeping", "OwnPast", "TurnRow"]

FIRST_FIT = 200  # rows before specialists are fitted at all
REFIT_GROWTH = 1.4  # ... and fitted again whenever there are so many times as many
LEAST_SCORES = 50
REVIEW_SHARE = 0.01  # settings are chosen again on every new piece of this share of the past
REVIEW_ROWS = 8  # ... of so many rows at least
REVIEW_S = 6 * 3600.0  # ... and of so long at most
SPARE = 1.25  # so many times the rows that are to be kept there may be before the oldest days go
EARLY = 0.25  # of a step: how much sooner than a whole step after the newest row a turn still begins the next one
PAST_SHARE = REFIT_GROWTH - 1.0  # a past that comes at once is replayed in pieces of this share: one a fit
GAP_ROWS = 10_000  # rows that are filled in as absent when turns did not come
BLIND_MARGIN = 1.5  # what stands in for an expert that has no forecast: the lead's maximum times this
REACH = 2.0  # no forecast above this multiple of the highest demand so far
CEILING_DAYS = 2  # so many days must be known before the highest demand of a week bounds anything
LOG_REACH = 5.0  # ... or further than exp(this) from the level
WARM_KNOWN = 1.0  # violations that the budget must allow in what was replayed before it is trusted
SCORE_BLOCK = 512
SHORT_MOST = 6e4  # what a short number holds

Expert = tuple[Base, ...]


class Keeping(NamedTuple):
    """How much of a past is kept.

    Attributes:
        rows, seconds: the newest rows are kept at least, and so long.
        forecasts: newest rows whose given forecast is kept for a replay under another lead; None for all. What is not
            replayed yet is kept in any case.
        scores: newest residuals that the distribution of a forecast is made of.
        short: whether these are kept to three digits.
    """

    rows: int = 30_240
    seconds: float = 14 * 86_400.0
    forecasts: int | None = None
    scores: int = 6000
    short: bool = False


WHOLE = Keeping()


class TurnRow(NamedTuple):
    """What one turn saw.

    `demand` is NaN if absent; `forecast` is the median and the 95 % quantile of the demand one lead later, and of the
    maximum until then (NaN without a forecast).
    """

    demand: float
    capacity: float
    forecast: tuple[float, float, float, float] = (math.nan,) * 4


class Guess(NamedTuple):
    """What a setting says now: the count before holding, the held one, and its table: ascending counts, risks.

    `least` is the count at the most risk that one decision may take; `stood` the one from which changes were weighed,
    -1 where they were not.
    """

    wanted: int
    replicas: int
    counts: FloatArray
    risks: FloatArray
    least: int = 0
    stood: int = -1


@dataclass(frozen=True, eq=False, slots=True)
class _Learned:
    """What was learned at the last review.

    `features` give level and offset; `fits` are the specialists'. Of every expert and target, `scores` (n, 1) are the
    newest standardised residuals, of decisions in rows before `scored`, and `tables` (risks,) their quantiles; of each
    of their rules, `carry` has the newest counts before holding, packed (where changes have a price the lower edges,
    and `banded` the rest); `limited` is what the user's limits remember of every setting, None without any.
    """

    scored: int = 0

    features: Features | None = None
    fits: Mapping[tuple[Base, Target], Predict] = field(default_factory=dict)
    tables: Mapping[tuple[Expert, Target], FloatArray] = field(default_factory=dict)
    scores: Mapping[tuple[Expert, Target], Blocks] = field(default_factory=dict)
    carry: Mapping[tuple[Expert, Target, RuleName], Packed] = field(default_factory=dict)
    banded: Mapping[tuple[Expert, Target], Banded] = field(default_factory=dict)
    limited: Limited | None = None


@dataclass(frozen=True, eq=False, slots=True)
class OwnPast:
    """History, what was learned from it, the tally of every setting, and the setting in force.

    Immutable: `seen` gives the past with one more row. Reviews happen inside `seen`, on fixed rows, so that equal
    histories give equal choices however they came in.

    Attributes:
        portfolio, grid: what is tried, and the grid of turns.
        budget: violated steps of the service itself.
        reviewed: rows that are in the tally.
        chosen: number of the setting in force; None before there is enough past.
        allowed: the violated share that the last choice aimed at.
        changes: how often another setting was chosen.
        recent: counts before holding of the newest rows, the last of them of row `counted` - 1.
        clock: which row of a week the first row is.
        kept: how much of it is kept.
        told: which setting is in force, and what the best of every other family would have cost and violated.
        measure: what is counted as violated; `prices` what else costs.
        capacity_sigma: spread of the logarithm of what one replica carries; 0 where it is known.
        limits: the user's rate limits and windows, under which settings are scored as they would have been applied.
    """

    portfolio: Portfolio
    grid: LeadGrid
    budget: ErrorBudget
    cap: float
    least: int
    most: int
    settings: tuple[PortfolioSetting, ...]
    history: TurnRows
    tally: Tally
    newest_s: float = math.nan
    learned: _Learned = field(default_factory=_Learned)
    reviewed: int = 0
    fitted_rows: int = 0
    next_review: int = FIRST_FIT
    chosen: int | None = None
    allowed: float = 0.0
    changes: int = 0
    recent: tuple[int, ...] = ()
    counted: int = 0
    clock: int = 0
    kept: Keeping = WHOLE
    told: tuple[Verdict, ...] = ()
    measure: Measure = "time"
    prices: Prices = NO_PRICES
    capacity_sigma: float = 0.0
    limits: Behavior | None = None

    @classmethod
    def start(
        cls,
        portfolio: Portfolio,
        grid: LeadGrid,
        budget: ErrorBudget,
        *,
        cap: float,
        bounds: tuple[int, int] = (1, 100_000),
        kept: Keeping = WHOLE,
        measure: Measure = "time",
        limits: Behavior | None = None,
    ) -> OwnPast:
        """Nothing seen yet. ``cap`` is the most risk of one decision, ``bounds`` the replicas that settings keep to."""
        settings = settings_of(portfolio, grid, cap)
        return cls(
            portfolio=portfolio,
            grid=grid,
            budget=budget,
            cap=cap,
            least=max(1, bounds[0]),
            most=bounds[1],
            settings=settings,
            history=TurnRows.empty(),
            tally=Tally.empty(len(settings)),
            allowed=budget.epsilon,
            kept=kept,
            measure=measure,
            limits=limits,
        )

    def anew(self, lead_steps: int) -> OwnPast:
        """Nothing seen yet, under the same terms but for the lead time."""
        return self.start(
            self.portfolio,
            replace(self.grid, lead_steps=lead_steps),
            self.budget,
            cap=self.cap,
            bounds=(self.least, self.most),
            kept=self.kept,
            measure=self.measure,
            limits=self.limits,
        ).within(self.least, self.most, self.prices, self.capacity_sigma)

    # ---- seeing ---------------------------------------------------------------------------------------------
    def rows_until(self, now_s: float) -> int:
        """Rows that a turn at ``now_s`` adds: none while the newest one lasts, several where turns did not come."""
        if self.newest_s != self.newest_s:
            return 1
        steps = math.floor((now_s - self.newest_s) / self.grid.step_s + EARLY)
        return min(max(steps, 0), GAP_ROWS)

    @property
    def is_due(self) -> bool:
        """Whether the next row brings a review: new rows are scored under every setting, and one is chosen again."""
        return len(self.history) + 1 >= self.next_review

    def seen(self, now_s: float, row: TurnRow, *, review: bool = True) -> OwnPast:
        """With what the turn at ``now_s`` saw; turns that did not come before it are absent rows.

        A turn that comes while the newest row lasts adds none. Without ``review`` a review that is due is put off.
        """
        count = self.rows_until(now_s)
        if count == 0:
            return self
        demand = np.full(count, math.nan)
        demand[-1] = max(0.0, row.demand) if row.demand == row.demand else math.nan
        forecast = np.full((count, FORECASTS), math.nan)
        forecast[-1] = row.forecast
        history = self.history.extended(demand, np.full(count, row.capacity), forecast)
        on_grid = now_s if self.newest_s != self.newest_s else self.newest_s + count * self.grid.step_s
        newest_s = on_grid if abs(now_s - on_grid) < self.grid.step_s else now_s
        past = replace(self, history=history, newest_s=newest_s)
        return past._reviewed() if review and len(past.history) >= past.next_review else past

    def backfilled(
        self,
        now_s: float,
        demand: FloatArray,
        capacity: float | FloatArray,
        forecast: FloatArray | None = None,
        *,
        piece: float = 0.0,
    ) -> OwnPast:
        """With the rows before the first turn, the newest at ``now_s``: the same as `seen` row by row, sooner.

        ``piece``: reviews come after so large a share of the past at least, which is sooner still.

        ``demand`` (rows,) NaN where absent; ``forecast`` (rows, 4) as in `TurnRow`, None for none. What the service
        itself violated in that time is not known, so its budget stays as it is.
        """
        rows = demand.size
        demand = np.where(np.isnan(demand), math.nan, np.maximum(demand, 0.0))
        capacity = np.broadcast_to(np.asarray(capacity, dtype=np.float64), rows)
        if forecast is None:
            forecast = np.broadcast_to(math.nan, (rows, FORECASTS))
        past, at = self, 0
        while at < rows:
            until = max(past.next_review - len(past.history), round(piece * len(past.history)), 1)
            stop = min(rows, at + until)
            history = past.history.extended(demand[at:stop], capacity[at:stop], forecast[at:stop])
            past = replace(past, history=history, newest_s=now_s)
            past = past._reviewed() if len(past.history) >= past.next_review else past
            at = stop
        return past

    def with_outcome(self, now_s: float, violated: float, stated: float) -> OwnPast:
        """With which part of a known step up to ``now_s`` was violated, and the risk stated for it (NaN: none)."""
        stated = stated if stated == stated else violated  # where nothing was stated nothing is judged
        return replace(self, budget=self.budget.learn(now_s, 1.0, violated, stated))

    def within(self, least: int, most: int, prices: Prices = NO_PRICES, capacity_sigma: float = 0.0) -> OwnPast:
        """With the bounds and prices that are in force from now on, and what is not known of a replica's capacity."""
        least = max(1, least)
        if (least, most, prices, capacity_sigma) == (self.least, self.most, self.prices, self.capacity_sigma):
            return self
        return replace(self, least=least, most=most, prices=prices, capacity_sigma=capacity_sigma)

    def under(self, lead_steps: int, measure: Measure, limits: Behavior | None) -> OwnPast:
        """With another lead time, measure or limits of the user's: all of the history is replayed again under them.

        What was forecast in it stays as it was, for the lead of its time. Under another measure the budget begins anew.
        """
        if (lead_steps, measure, limits) == (self.grid.lead_steps, self.measure, self.limits):
            return self
        budget = self.budget if measure == self.measure else self.budget.anew()
        rows = self.history.rows
        fresh = replace(self, budget=budget, measure=measure, limits=limits).anew(lead_steps)
        again = fresh.backfilled(self.newest_s, rows[:, 0], rows[:, 1], rows[:, 2:], piece=PAST_SHARE)
        return again.preferring(self.setting)

    def preferring(self, setting: PortfolioSetting | None) -> OwnPast:
        """With ``setting``, which was in force before, kept unless another one is better."""
        if setting is None or self.chosen is None or setting not in self.settings:
            return self
        return replace(self, chosen=self.settings.index(setting))._chosen()

    def with_objective(self, epsilon: float) -> OwnPast:
        """With another objective from now on: history, tally and budget stay, and the setting is chosen again at once.

        The cap of a single decision stays where it was.
        """
        if epsilon == self.budget.epsilon:
            return self
        past = replace(self, budget=replace(self.budget, epsilon=epsilon))
        return past if past.chosen is None else past._chosen()

    def with_wanted(self, wanted: int) -> OwnPast:
        """With the newest count, before holding, of the setting in force."""
        longest = self.grid.lead_steps + 1 if self.chosen is None else self.settings[self.chosen].hold
        recent = self.recent
        if self.counted == len(self.history) and recent:  # a further turn in the newest row
            return replace(self, recent=(*recent[:-1], max(recent[-1], wanted)))
        return replace(self, recent=(*recent, wanted)[-longest:], counted=len(self.history))

    def held_until_s(self, count: int) -> float:
        """When the hold lets go of ``count``, seconds; NaN where nothing so high was asked for before this turn."""
        reach = self.grid.lead_steps + 1 if self.setting is None else self.setting.hold - 1
        before = 0 if self.counted == len(self.history) else 1  # turns from the newest count to this one
        for turns, asked in enumerate(reversed(self.recent[-reach:] if reach > 0 else ())):
            if asked >= count:
                return self.newest_s + (reach + 1 - before - turns) * self.grid.step_s
        return math.nan

    def highest(self) -> float:
        """The highest demand of the last lead."""
        return float(self.history.filled(max(0, len(self.history) - 1 - self.grid.lead_steps)).max())

    @property
    def setting(self) -> PortfolioSetting | None:
        """The setting in force; None before there is enough past."""
        return None if self.chosen is None else self.settings[self.chosen]

    # ---- deciding -------------------------------------------------------------------------------------------
    def guess(self) -> Guess | None:
        """What the setting in force says for the newest row; None without one, or where its forecasts are absent.

        Where only the given forecast is absent, a specialist of the portfolio stands in for it.
        """
        setting, now = self.setting, len(self.history) - 1
        if setting is None:
            return None
        if setting.rule == "margin":
            return self._thumb(setting, now)
        expert, target = _expert(setting), _target(setting)
        counts = self._counts_now(expert, target, now)
        if counts is None and (other := self.portfolio.stand_in(expert)) is not None:
            counts = self._counts_now(other, target, now)
        if counts is None:
            return None
        risks = least_risks(self.cap)
        allowed = counts[:, -risks.size :]
        knobs, stood = np.array([setting.knob]), -1
        if setting.rule == "price" and self._weight > 0.0 and self.recent:
            knobs, stood = np.append(*price_edges(knobs, self._weight)), max(self.recent[-setting.hold :])
        edges = _by_rule(setting.rule, allowed, risks, knobs)[0]
        table, stated = counts[0], RISKS
        if setting.ceiling:
            highest = self._ceiling(now, now + 1)[0]
            table, stated = cut_at(highest, table, stated, edges[0], edges[-1])
            edges = np.minimum(edges, highest)
        picked = edges[0] if stood < 0 else min(max(stood, edges[0]), edges[-1])
        wanted = self._bounded(max(int(picked), int(self._floor(now, now + 1)[0])))
        before = self.recent[-(setting.hold - 1) :] if setting.hold > 1 else ()
        return Guess(wanted, max((wanted, *before)), table, stated, int(min(allowed[0, 0], table[-1])), stood)

    def _counts_now(self, expert: Expert, target: Target, now: int) -> FloatArray | None:
        """(1, risks) replicas of an expert at every risk for the newest row; None where it has no forecast."""
        bases = self._located_bases(now, now + 1, (expert, target))
        counts = self._counts(expert, target, bases, now, now + 1)
        return None if counts is None or math.isnan(counts[0, 0]) else counts

    def _thumb(self, setting: PortfolioSetting, now: int) -> Guess:
        """What a rule of thumb says."""
        since = max(0, now + 1 - max(4, setting.hold))
        thumb = cast(Thumb, setting.expert)
        load = self.history.filled(since, now + 1) / self.history.capacity(since, now + 1)
        wanted = self._bounded(int(thumb_counts(thumb, load, setting.hold, np.array([setting.knob]))[-1, 0]))
        for expert in self.portfolio.experts:  # it states no risk: the first that can says what its counts risk
            counts = self._counts_now(expert, "max", now)
            if counts is not None:
                return Guess(wanted, wanted, counts[0], RISKS)
        return Guess(wanted, wanted, np.array([float(wanted)]), np.array([math.nan]))

    def _bounded(self, count: int) -> int:
        return min(max(count, self.least), self.most)

    @property
    def _weight(self) -> float:
        """What a change of one replica weighs in the choice of a single count."""
        return weight_of(self.prices.switch * self.grid.step_s / 3600.0)

    # ---- reviewing ------------------------------------------------------------------------------------------
    def _reviewed(self) -> OwnPast:
        """Tally the rows since the last review, learn from them, choose again."""
        stop = len(self.history)
        past = self if self.fitted_rows else replace(self, reviewed=stop)
        if past.fitted_rows:
            bases = past._located_bases(max(0, past.reviewed - self.grid.lead_steps), stop)
            past = past._tallied(stop, bases)._with_tables(stop, bases)
        if stop >= past.fitted_rows * REFIT_GROWTH:
            past = past._refitted(stop)
        piece = min(max(REVIEW_ROWS, round(REVIEW_SHARE * stop)), max(1, round(REVIEW_S / self.grid.step_s)))
        past = replace(past, next_review=stop + piece)
        past = past._chosen() if past.tally.counted * self.budget.epsilon >= WARM_KNOWN else past
        return past._without_old_forecasts()._trimmed()

    def _tallied(self, stop: int, bases: _Located) -> OwnPast:
        """With the rows ``reviewed .. stop-1`` replayed under every setting."""
        start, k = self.reviewed, self.grid.lead_steps
        load = self.history.demand(start, stop) / self.history.capacity(start, stop)
        piece = Piece(load, k, self.least, self.most, self.measure, self.prices)
        carry, bands, allowed = dict(self.learned.carry), dict(self.learned.banded), least_risks(self.cap).size
        done: dict[tuple[Expert, Target], list[FloatArray]] = {}
        for expert in self.portfolio.experts:
            for target in TARGETS:
                counts = self._counts(expert, target, bases, start, stop, allowed)
                other = self.portfolio.stand_in(expert)
                if counts is None and other is not None and (other, target) in done:
                    done[expert, target] = done[other, target]
                    carry |= {(expert, target, r): carry[other, target, r] for r in self.portfolio.rules}
                    bands |= {(expert, target): bands[other, target]} if (other, target) in bands else {}
                    continue
                if other is not None:
                    counts = _filled(counts, self._counts(other, target, bases, start, stop, allowed))
                done[expert, target], carried, band = self._held(piece, expert, target, counts)
                carry |= {(expert, target, rule): rows for rule, rows in carried.items()}
                bands |= {} if band is None else {(expert, target): band}
        columns = [block for expert in self.portfolio.experts for target in TARGETS for block in done[expert, target]]
        margins = np.asarray(self.portfolio.margins)
        for thumb in self.portfolio.thumbs:
            for hold in self.portfolio.thumb_holds(self.grid, thumb):
                back = min(start, max(4, hold) - 1 + k)
                past_load = self.history.filled(start - back, stop) / self.history.capacity(start - back, stop)
                columns.append(thumb_counts(thumb, past_load, hold, margins)[-(stop - start + k) :])
        epsilon = self.budget.epsilon
        memory = max(MEMORY_S / self.grid.step_s, memory_misses(epsilon) / max(epsilon, 1e-6))
        columns, after = self._under_limits(columns, stop - start)
        scores = {id(block): piece.score(block) for block in columns}  # some stand in for others
        cost, missed = (np.concatenate(parts) for parts in zip(*(scores[id(b)] for b in columns), strict=True))
        tally = self.tally.plus(cost, missed, stop - start, piece.weight, int(piece.known.sum()), memory)
        learned = replace(self.learned, carry=carry, banded=bands, limited=after)
        return replace(self, tally=tally, reviewed=stop, learned=learned)

    def _under_limits(self, columns: list[FloatArray], rows: int) -> tuple[list[FloatArray], Limited | None]:
        """What would have been set of the counts in ``columns``, whose last ``rows`` are new; and what goes on."""
        if self.limits is None:
            return columns, None
        before, bounds = self.learned.limited, (self.least, self.most)
        wanted = np.concatenate([block[len(block) - rows :] for block in columns], axis=1, dtype=np.float32)
        counts, after = limited(wanted, self.limits, self.grid.step_s, bounds, before, self.grid.lead_steps)
        if before is not None:
            counts = np.concatenate([before.set.array[-self.grid.lead_steps :], counts])
        return [counts], after

    def _held(
        self, piece: Piece, expert: Expert, target: Target, counts: FloatArray | None
    ) -> tuple[list[FloatArray], dict[RuleName, Packed], Banded | None]:
        """Counts of every rule and hold of one expert and target on a piece; and those that go on into the next."""
        start, rows, k = self.reviewed, piece.load.size, self.grid.lead_steps
        floor = self._floor(start, start + rows)
        holds = self.portfolio.holds(self.grid, target)
        out: list[FloatArray] = []
        carried: dict[RuleName, Packed] = {}
        band: Banded | None = None
        for rule in self.portfolio.rules:
            knobs = np.asarray(self.portfolio.knobs(rule, self.cap))
            if rule == "price" and self._weight > 0.0:
                blocks, carried[rule], band = self._banded(piece, expert, target, counts)
                out += blocks
                continue
            wanted = self._or_blind(counts, least_risks(self.cap), rule, knobs, start, start + rows)
            kept = self.learned.carry.get((expert, target, rule))
            before = np.empty((0, len(knobs)), dtype=np.uint8) if kept is None else kept.array
            whole = np.concatenate([before, np.maximum(wanted, floor[:, None]).astype(np.float32)])
            carried[rule] = Packed.of(shortest(whole[-(max(holds) - 1 + k) :]))
            for ceiling in self.portfolio.ceilings:
                cut = whole
                if ceiling:
                    ceilings = self._ceiling(start - len(before), start + rows).astype(np.float32)
                    cut = np.minimum(whole, ceilings[:, None])
                out += [held(cut, hold)[-(rows + k) :] for hold in holds]
        return out, carried, band

    def _banded(
        self, piece: Piece, expert: Expert, target: Target, counts: FloatArray | None
    ) -> tuple[list[FloatArray], Packed, Banded]:
        """`_held` of the price rule where changes have a price: counts that stand between two held edges."""
        start, stop = self.reviewed, self.reviewed + piece.load.size
        prices = np.asarray(self.portfolio.prices)
        floor = self._floor(start, stop)[:, None]
        kept, before = self.learned.carry.get((expert, target, "price")), self.learned.banded.get((expert, target))
        lows = np.empty((0, prices.size), dtype=np.uint8) if kept is None else kept.array
        highs = lows if before is None else before.upper.array
        wanted = (
            np.maximum(self._or_blind(counts, least_risks(self.cap), "price", knobs, start, stop), floor)
            for knobs in price_edges(prices, self._weight)
        )
        return banded(
            list(zip((lows, highs), wanted, strict=True)),
            self._ceiling(start - max(len(lows), len(highs)), stop),
            self.portfolio.holds(self.grid, target),
            self.portfolio.ceilings,
            (self.least, self.most),
            None if before is None else before.set.array,
            self.grid.lead_steps,
        )

    def _or_blind(
        self, counts: FloatArray | None, risks: FloatArray, rule: RuleName, knobs: FloatArray, start: int, stop: int
    ) -> FloatArray:
        """(rows, knobs) counts of a rule; where the expert has no forecast, the lead's maximum with a margin."""
        back = min(start, self.grid.lead_steps)
        highest = held(self.history.filled(start - back, stop), self.grid.lead_steps + 1)[back:]
        blind = replicas(BLIND_MARGIN * highest / self.history.capacity(start, stop))[:, None]
        if counts is None:
            return np.repeat(blind, len(knobs), axis=1)
        absent = np.isnan(counts[:, :1])
        return np.where(absent, blind, _by_rule(rule, np.where(absent, 1.0, counts), risks, knobs))

    def _refitted(self, stop: int) -> OwnPast:
        """With specialists fitted on all rows so far; rows that the first ones learned from have no residuals."""
        demand = self.history.filled()
        features = Features.for_past(demand, self.grid, self.clock)
        methods = [base for base in self.portfolio.bases if base != "forecast"]
        fits: dict[tuple[Base, Target], Predict] = {}
        fits.update(fit_specialists(methods, demand, self.grid, features).items())
        learned = replace(self.learned, fits=fits, features=features)
        if not self.fitted_rows:
            keys = [(e, t) for e in self.portfolio.experts for t in TARGETS]
            scored = max(0, stop - self.grid.lead_steps)
            empty = Blocks.empty(1, np.float16 if self.kept.short else np.float32, SCORE_BLOCK)
            learned = replace(learned, scored=scored, scores=dict.fromkeys(keys, empty))
        return replace(self, fitted_rows=stop, learned=learned)

    def _with_tables(self, stop: int, bases: _Located) -> OwnPast:
        """With standardised residuals of the forecasts whose lead has passed by now, and their quantiles."""
        begin, end = self.learned.scored, max(self.learned.scored, stop - self.grid.lead_steps)
        scores, tables = dict(self.learned.scores), {}
        demand = self.history.filled()
        level = bases.level[begin - bases.start : end - bases.start]
        for (expert, target), series in self.learned.scores.items():
            location, scale = bases.mean(expert, target, begin, end)
            carried = targets_of(demand, self.grid, target, begin, end)
            fresh = (np.log((carried + bases.offset) / level) - location) / scale
            fresh = fresh[~np.isnan(fresh), None]
            fresh = np.clip(fresh, -SHORT_MOST, SHORT_MOST) if self.kept.short else fresh
            scores[expert, target] = series.extended(fresh).newest(self.kept.scores)
            known = np.sort(scores[expert, target].column(0))
            if known.size >= LEAST_SCORES:
                tables[expert, target] = quantiles(known, 1.0 - RISKS)
        return replace(self, learned=replace(self.learned, scored=end, scores=scores, tables=tables))

    def _without_old_forecasts(self) -> OwnPast:
        """Without forecasts that are older than is kept, and replayed."""
        if self.kept.forecasts is None:
            return self
        needed = min(self.reviewed - self.grid.lead_steps, self.learned.scored, len(self.history) - self.kept.forecasts)
        history = self.history.without_forecasts_before(needed)
        return self if history is self.history else replace(self, history=history)

    def _trimmed(self) -> OwnPast:
        """Without the oldest days, once there is a quarter more than is kept."""
        kept = max(self.kept.rows, self.grid.steps(self.kept.seconds))
        gone = (len(self.history) - kept) // self.grid.day * self.grid.day
        if len(self.history) < SPARE * kept or gone <= 0:
            return self
        features = self.learned.features
        clock = (self.clock + gone) % (7 * self.grid.day)
        return replace(
            self,
            history=self.history.newest(len(self.history) - gone),
            reviewed=self.reviewed - gone,
            fitted_rows=max(1, self.fitted_rows - gone),
            next_review=self.next_review - gone,
            clock=clock,
            learned=replace(
                self.learned,
                scored=self.learned.scored - gone,
                features=None if features is None else replace(features, clock=clock),
            ),
        )

    def _chosen(self) -> OwnPast:
        """With the setting chosen that is cheapest at the budget's pace, and the best of every family told."""
        thumbs, families, ladders = _kinds(self.portfolio, self.grid, self.cap)
        allowed, tally = self.budget.pace, self.tally
        share = None
        if self.budget.epsilon <= RARE and tally.counted:
            share = drawn_together(tally.missed, ladders, tally.known / tally.counted) / max(tally.known, 1e-12)
        best = choose(tally, allowed, self.chosen, thumbs, share)
        told = verdict(tally, self.settings, allowed, best, families, share)
        if best == self.chosen:
            return replace(self, allowed=allowed, told=told)
        changes = self.changes + (self.chosen is not None)
        changed = replace(self, chosen=best, allowed=allowed, changes=changes, told=told)
        return replace(changed, recent=changed._recent())

    def _recent(self) -> tuple[int, ...]:
        """What the setting in force wanted in the rows before the newest, as far as its hold reaches."""
        setting = self.setting
        if setting is None or setting.rule == "margin" or setting.hold <= 1:
            return ()
        rule = _rule(setting)
        key = (_expert(setting), _target(setting), rule)
        ladder = self.portfolio.knobs(rule, self.cap)
        column = self.learned.carry[key].array[:-1, ladder.index(setting.knob)][-(setting.hold - 1) :]
        if setting.ceiling:
            last = self.reviewed - 1
            column = np.minimum(column, self._ceiling(last - len(column), last))
        return tuple(self._bounded(int(c)) for c in column)

    # ---- forecasts ------------------------------------------------------------------------------------------
    def _located_bases(self, start: int, stop: int, only: tuple[Expert, Target] | None = None) -> _Located:
        """Locations and scales of all bases (``only`` those of one expert and target) in these rows."""
        features = self.learned.features
        assert features is not None  # called after the first fit
        demand = self.history.filled(0, stop)
        level = features.level(demand, start, stop)
        parts: dict[tuple[Base, Target], tuple[FloatArray, FloatArray]] = {}
        bases, targets = (self.portfolio.bases, TARGETS) if only is None else (only[0], (only[1],))
        designs: Mapping[Target, FloatArray] = {}
        if any(base != "forecast" for base in bases):  # one for all specialists: they were fitted on one past
            designs = features.designs(demand, targets, start, stop)[0]
        for target in targets:
            for base in bases:
                if base == "forecast":
                    parts[base, target] = self._given(features.offset, target, level, start, stop)
                    continue
                location, scale = self.learned.fits[base, target](designs[target])
                parts[base, target] = (location, np.log(scale))
        return _Located(start, level, features.offset, parts)

    def _counts(
        self, expert: Expert, target: Target, bases: _Located, start: int, stop: int, least: int = RISKS.size
    ) -> FloatArray | None:
        """(rows, ``least``) replicas of an expert at the least risks, NaN rows without its forecast; None if none."""
        table = self.learned.tables.get((expert, target))
        if table is None:
            return None
        table = table[-least:]
        location, scale = bases.mean(expert, target, start, stop)
        level = bases.level[start - bases.start : stop - bases.start]
        away = location[:, None] + self._widened(table * scale[:, None])
        rate = level[:, None] * np.exp(np.clip(away, -LOG_REACH, LOG_REACH)) - bases.offset
        most = REACH * self.history.peak(start, stop) + bases.offset
        load = np.minimum(rate, most[:, None]) / self.history.capacity(start, stop)[:, None]
        return np.where(np.isnan(load), math.nan, replicas(load))

    def _widened(self, spread: FloatArray) -> FloatArray:
        """``spread`` (rows, risks) of log demand, and what is not known of a replica's capacity beside it."""
        if self.capacity_sigma <= 0.0:
            return spread
        more = np.maximum(ndtri(1.0 - RISKS[-spread.shape[1] :]), 0.0) * self.capacity_sigma
        return np.asarray(spread + np.hypot(spread, more) - np.abs(spread))

    def _given(
        self, offset: float, target: Target, level: FloatArray, start: int, stop: int
    ) -> tuple[FloatArray, FloatArray]:
        """Location and log scale of the forecast that was given in these rows."""
        at = 2 * TARGETS.index(target)
        median, high = self.history.forecast(at, start, stop), self.history.forecast(at + 1, start, stop)
        location = np.log((median + offset) / level)
        width = np.log((high + offset) / level) - location
        return location, np.log(np.maximum(width, 0.01))

    def _ceiling(self, start: int, stop: int) -> FloatArray:
        """(rows,) what the highest demand of the week up to each row needs; infinite in the first days."""
        week = 7 * self.grid.day
        back = min(start, week - 1)
        demand = self.history.filled(start - back, stop)
        highest = demand.max(keepdims=True) if stop == start + 1 else held(demand, week)[back:]
        early = np.arange(start, stop) < CEILING_DAYS * self.grid.day
        return np.where(early, math.inf, replicas(highest / self.history.capacity(start, stop)))

    def _floor(self, start: int, stop: int) -> FloatArray:
        """(rows,) what present demand needs."""
        return replicas(self.history.filled(start, stop) / self.history.capacity(start, stop))


class _Located(NamedTuple):
    """Where the bases' forecasts lie in rows from `start` on: `parts` (location, log scale) of each, both (rows,)."""

    start: int
    level: FloatArray
    offset: float
    parts: Mapping[tuple[Base, Target], tuple[FloatArray, FloatArray]]

    def mean(self, expert: Expert, target: Target, start: int, stop: int) -> tuple[FloatArray, FloatArray]:
        """Mean location and geometric mean scale of an expert's bases in rows ``start..stop-1``."""
        inside = slice(start - self.start, stop - self.start)
        parts = [self.parts[base, target] for base in expert]
        location = np.mean([p[0][inside] for p in parts], axis=0)
        return location, np.exp(np.mean([p[1][inside] for p in parts], axis=0))


@lru_cache(maxsize=64)
def _kinds(
    portfolio: Portfolio, grid: LeadGrid, cap: float
) -> tuple[npt.NDArray[np.bool_], Families, tuple[Ladder, ...]]:
    """(settings,) which are rules of thumb, the families, and the ladders; kept by what settings follow from."""
    settings = settings_of(portfolio, grid, cap)
    return np.array([s.rule == "margin" for s in settings]), families_of(settings), ladders_of(settings)


def _by_rule(rule: str, counts: FloatArray, risks: FloatArray, knobs: FloatArray) -> FloatArray:
    """(rows, knobs) of ``counts`` (rows, risks) what each knob of a rule picks."""
    if rule == "price":
        return priced(counts, risks, knobs)
    return np.asarray(counts[:, np.searchsorted(-risks, -knobs * (1 + 1e-9))])


def _filled(counts: FloatArray | None, others: FloatArray | None) -> FloatArray | None:
    """``counts`` (rows, risks), those of another expert where they are absent."""
    if counts is None or others is None:
        return others if counts is None else counts
    return np.where(np.isnan(counts), others, counts)


def _expert(setting: PortfolioSetting) -> Expert:
    return cast(Expert, tuple(setting.expert.split("+")))


def _target(setting: PortfolioSetting) -> Target:
    return "point" if setting.target == "point" else "max"


def _rule(setting: PortfolioSetting) -> RuleName:
    return "price" if setting.rule == "price" else "quantile"
