"""Replaying the own past: scored as the simulator scores, never looking ahead, and choosing what it says it chooses."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forecasting.errors import UsageError
from forecasting.panel import Indicator, Panel
from forecasting.specialists import LeadGrid
from harmony.decision.budget import ErrorBudget
from harmony.decision.past.bands import cut_at
from harmony.decision.past.own_past import Keeping, OwnPast, TurnRow
from harmony.decision.past.portfolio import RISKS, Portfolio, held, least_risks, priced, ready_of, thumb_counts
from harmony.decision.past.selection import Tally, choose, verdict
from harmony.model.decision import Decision
from harmony.model.objective import Behavior, ScalingPolicy, ScalingRules, Stages
from harmony.model.observation import Observation
from harmony.policies.growing_rows import GrowingRows
from harmony.policies.reactive import ReactivePolicy
from simulator.pool import StartUp
from simulator.replaying import ReplaySettings, replay
from simulator.traces.trace import Trace

LAWS = settings(max_examples=200, deadline=None)
STEP_S = 600.0


def daily(n: int, seed: int = 0, noise: float = 0.1) -> np.ndarray:
    """Demand with a rhythm of a day of ten-minute steps."""
    at = np.arange(n)
    rng = np.random.default_rng(seed)
    return 2000.0 * np.exp(0.6 * np.sin(2 * np.pi * at / 144) + noise * rng.standard_normal(n))


def begun(portfolio: Portfolio, *, epsilon: float = 0.02, lead: int = 2) -> OwnPast:
    budget = ErrorBudget(epsilon, step_s=STEP_S)
    return OwnPast.start(portfolio, LeadGrid(STEP_S, lead), budget, cap=5 * epsilon, bounds=(1, 10_000))


def lived(past: OwnPast, demand: np.ndarray, start: int = 0) -> OwnPast:
    for i, d in enumerate(demand):
        past = past.seen((start + i) * STEP_S, TurnRow(float(d), 100.0))
    return past


RIDGE = Portfolio(experts=(("ridge",),), thumbs=("reactive", "percentile"))
THUMBS = Portfolio(experts=(), thumbs=("reactive",))


# ---- tables --------------------------------------------------------------------------------------------------
@LAWS
@given(st.integers(0, 10**6), st.integers(1, 30), st.integers(1, 6))
def test_held_and_ready_equal_plain_loops(seed: int, steps: int, lead: int) -> None:
    counts = np.random.default_rng(seed).integers(1, 50, (40, 3)).astype(float)
    assert np.array_equal(held(counts, steps), [counts[max(0, t - steps + 1) : t + 1].max(0) for t in range(40)])
    assert np.array_equal(ready_of(counts, lead), [counts[max(0, t - lead) : t + 1].min(0) for t in range(40)])


@LAWS
@given(st.integers(0, 10**6), st.floats(0.1, 1e5), st.floats(0.001, 1))
def test_the_priced_count_is_the_cheapest(seed: int, price: float, cap: float) -> None:
    rng = np.random.default_rng(seed)
    risks = least_risks(cap)
    counts = np.sort(rng.integers(1, 200, (5, risks.size)), axis=1).astype(float)
    got = priced(counts, risks, np.array([price]))[:, 0]
    assert got == pytest.approx([row[np.argmin(row + price * risks)] for row in counts])
    assert (risks <= cap * (1 + 1e-9)).all() or risks.size == 1
    more = priced(counts, risks, np.array([2 * price]))[:, 0]
    assert (more >= got).all()


@LAWS
@given(st.integers(0, 10**6), st.floats(0.5, 1e5), st.integers(1, 80))
def test_a_table_cut_at_the_highest_demand_has_the_cut_pick_as_its_cheapest(seed: int, price: float, most: int) -> None:
    rng = np.random.default_rng(seed)
    counts = np.sort(rng.integers(1, 60, RISKS.size)).astype(float)
    picked = float(priced(counts[None], RISKS, np.array([price]))[0, 0])
    cut, risks = cut_at(float(most), counts, RISKS, picked, picked)
    assert np.all(np.diff(cut) >= 0.0)
    assert np.all(np.diff(risks) <= 0.0)
    assert cut[-1] <= max(most, counts[-1])
    assert cut[np.argmin(cut + price * risks)] == min(picked, most)


def test_percentiles_of_half_a_day_and_a_day_are_tried_where_these_are_a_hundred_rows() -> None:
    load = daily(400) / 100.0
    portfolio = Portfolio()
    assert portfolio.thumb_holds(LeadGrid(3600.0, 1), "percentile 98") == ()
    assert portfolio.thumb_holds(LeadGrid(600.0, 1), "percentile 98") == (144,)
    assert portfolio.thumb_holds(LeadGrid(60.0, 5), "percentile 98") == (720, 1440)
    counts = thumb_counts("percentile 98", load, 144, np.array([1.0, 1.2]))
    for row in (143, 250, 399):
        level = np.quantile(load[row - 143 : row + 1], 0.98, method="inverted_cdf")
        assert counts[row].tolist() == [math.ceil(level), math.ceil(1.2 * level)]


def test_risks_fall_from_most_to_least() -> None:
    assert (np.diff(RISKS) < 0).all()


@LAWS
@given(st.lists(st.integers(1, 700), min_size=1, max_size=8), st.integers(0, 7))
def test_a_longer_series_leaves_the_old_one_as_it_was(sizes: list[int], branch: int) -> None:
    rng = np.random.default_rng(0)
    series, kept, copies = GrowingRows.empty(2), [], []
    for size in sizes:
        series = series.extended(rng.random((size, 2)))
        kept.append(series)
        copies.append(series.rows.copy())
    assert np.array_equal(series.newest(5).rows, copies[-1][-5:])
    old = kept[min(branch, len(kept) - 1)]
    other = old.extended(np.zeros((3, 2)))
    assert other.rows[-1].tolist() == [0.0, 0.0]
    assert all(np.array_equal(s.rows, c) for s, c in zip(kept, copies, strict=True))


# ---- choosing ------------------------------------------------------------------------------------------------


def some_tally(seed: int) -> Tally:
    rng = np.random.default_rng(seed)
    return Tally.of(rng.uniform(1, 100, 30), rng.integers(0, 30, 30) * 1.0, 500.0, 500.0)


tallies = st.integers(0, 10**6).map(some_tally)


@LAWS
@given(tallies, st.floats(0, 0.1), st.none() | st.integers(0, 29))
def test_the_cheapest_that_keeps_the_budget_or_the_safest(tally: Tally, allowed: float, current: int | None) -> None:
    none = np.zeros(30, dtype=bool)
    pick = choose(tally, allowed, current, none)
    keeping = tally.share <= allowed
    if not keeping.any():
        assert tally.share[pick] == tally.share.min()
    else:
        assert keeping[pick]
        assert tally.cost[pick] <= tally.cost[keeping].min() * 1.002
        assert pick == current or tally.cost[pick] == tally.cost[keeping].min()


@LAWS
@given(tallies, st.floats(0, 0.1), st.floats(0, 0.1))
def test_a_smaller_epsilon_never_costs_less(tally: Tally, a: float, b: float) -> None:
    none = np.zeros(30, dtype=bool)
    strict, loose = (choose(tally, e, None, none) for e in sorted((a, b)))
    if (tally.share <= min(a, b)).any():
        assert tally.cost[strict] >= tally.cost[loose]


@LAWS
@given(tallies, st.floats(0, 0.1), st.integers(0, 29))
def test_the_verdict_names_the_best_of_every_family(tally: Tally, allowed: float, chosen: int) -> None:
    """Of a family the cheapest that keeps the budget, else the one that breaks it least."""
    tried = THUMBS.settings(LeadGrid(STEP_S, 2), 0.1) + RIDGE.settings(LeadGrid(STEP_S, 2), 0.1)
    tried = tried[: 2 * 10] + tried[-10:]
    share = tally.share
    for row in verdict(tally, tried, allowed, chosen):
        own = [i for i, s in enumerate(tried) if s.family == row.setting.family]
        at = min(own, key=lambda i: (share[i] > allowed, max(0.0, share[i]) * (share[i] > allowed), tally.cost[i]))
        at = chosen if row.chosen else at
        assert row.setting == tried[at]
        assert (row.replicas, row.share) == (tally.cost[at] / tally.steps, share[at])
        assert row.keeps == (share[at] <= allowed)


def test_a_rule_of_thumb_must_be_clearly_cheaper() -> None:
    tally = Tally.of(np.array([100.0, 97.0, 90.0]), np.zeros(3), 10.0, 10.0)
    assert choose(tally, 0.01, None, np.array([False, True, False])) == 2
    assert choose(tally, 0.01, None, np.array([False, True, True])) == 2
    assert choose(replace_cost(tally, 2, 99.0), 0.01, None, np.array([False, True, True])) == 0


def replace_cost(tally: Tally, at: int, cost: float) -> Tally:
    costs = tally.cost.copy()
    costs[at] = cost
    return Tally.of(costs, tally.missed, tally.steps, tally.known)


# ---- the replayed past ---------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Thumbed(ReactivePolicy):
    """The reactive rule of a setting, under a user's limits (or none)."""

    limits: Behavior | None = None

    @property
    def behavior(self) -> Behavior | None:
        return self.limits

    def decide(self, observation: Observation) -> Decision:
        """The highest of the last counts, as many as the hold has steps."""
        decision = super(Thumbed, self).decide(observation)
        recent = (*(observation.memory or ()), decision.replicas)[-round(self.hold_s / STEP_S) :]
        return replace(decision, replicas=max(recent), memory=recent)


SLOWLY = Behavior(
    scale_up=ScalingRules(0.0, (ScalingPolicy("Pods", 2, 2 * STEP_S),)),
    scale_down=ScalingRules(4 * STEP_S, (ScalingPolicy("Percent", 10, 3 * STEP_S),)),
    stages=Stages(10, 5 * STEP_S),
)


@pytest.mark.parametrize(("limits", "tried"), [(None, (0, 4, 13, 20, 28)), (SLOWLY, (4, 20))])
def test_the_past_is_scored_as_the_simulator_scores_it(limits: Behavior | None, tried: tuple[int, ...]) -> None:
    """Every margin and hold of the reactive rule: ordered and violated steps as in a replay of it, limits and all."""
    demand = daily(1500, seed=3)
    past = lived(begun(THUMBS, lead=3).under(3, "time", limits), demand)
    panel = Panel(values=demand[:, None], indicators=(Indicator("demand"),), start_s=0.0, step_s=STEP_S)
    settings_ = ReplaySettings(replica_capacity=100.0, start_up=StartUp(3 * STEP_S))
    first, last = 200, past.reviewed
    memory = 6 * 86_400.0 / STEP_S
    for at in tried:
        setting = past.settings[at]
        policy = Thumbed(margin=setting.knob - 1.0, hold_s=setting.hold * STEP_S, name="x", limits=limits)
        run = replay(Trace(panel, "demand"), [policy], settings_).policies["x"]
        pieces = pieces_of(first, last)
        weights = [math.exp(-(last - b) / memory) for _, b in pieces]
        cost = sum(w * run.ordered[a:b].sum() for w, (a, b) in zip(weights, pieces, strict=True))
        missed = sum(w * run.violated[a:b].sum() for w, (a, b) in zip(weights, pieces, strict=True))
        unknown = 0.0 if limits is None else 3.0  # under limits the first rows follow from rows that nobody scored
        assert past.tally.cost[at] == pytest.approx(cost, rel=1e-9, abs=unknown)
        assert past.tally.missed[at] == pytest.approx(missed)


def pieces_of(first: int, last: int) -> list[tuple[int, int]]:
    """The pieces in which a past of ten-minute steps is reviewed."""
    out, at = [], first
    while at < last:
        stop = at + min(max(8, round(0.01 * at)), 36)
        out.append((at, stop))
        at = stop
    return out


def test_a_past_is_a_value() -> None:
    """Going on from one past in two ways gives what two separate lives would have given."""
    demand = daily(800)
    other = daily(800, seed=9)
    stem = lived(begun(RIDGE), demand[:500])
    left = lived(stem, demand[500:], 500)
    right = lived(stem, other[500:], 500)
    assert np.array_equal(left.tally.cost, lived(begun(RIDGE), demand).tally.cost)
    assert np.array_equal(right.history.rows[:500], stem.history.rows, equal_nan=True)
    assert not np.array_equal(left.tally.cost, right.tally.cost)


def test_what_it_guesses_is_what_the_tally_counts() -> None:
    """The setting in force wants, turn by turn, what the next review books for it."""
    demand = daily(1200, seed=5)
    past = lived(begun(RIDGE), demand[:900])
    wanted: list[int] = []
    compared = 0
    for i, d in enumerate(demand[900:], 900):
        setting = past.setting
        past = past.seen(i * STEP_S, TurnRow(float(d), 100.0))
        reviewed = past.reviewed == i + 1
        if reviewed and wanted and setting is not None and setting.rule == "price":
            target = "point" if setting.target == "point" else "max"
            column = past.learned.carry[("ridge",), target, "price"].array[:, past.portfolio.prices.index(setting.knob)]
            if setting.ceiling:  # what goes on is not cut yet
                most = [math.ceil(demand[max(0, j - 1007) : j + 1].max() / 100.0) for j in range(i + 1)]
                column = np.minimum(column, most[-len(column) :])
            n = min(len(wanted), len(column) - 1)
            assert column[-1 - n : -1].tolist() == wanted[-n:]
            compared += n
        guess = past.guess()
        assert guess is not None
        past = past.with_wanted(guess.wanted)
        wanted = [] if reviewed else [*wanted, guess.wanted]
    assert compared > 50


def test_under_a_ceiling_no_count_is_above_what_the_highest_demand_of_the_week_needs() -> None:
    """Bursts that always reach the same height: the forecast of one goes far beyond it, what is set does not."""
    rng = np.random.default_rng(3)
    demand = np.where(rng.random(600) < 0.03, 9000.0, 100.0 * np.exp(0.1 * rng.standard_normal(600)))
    past = lived(begun(RIDGE), demand)
    plain = next(i for i, s in enumerate(past.settings) if s.rule == "price" and s.knob > 1e5 and not s.ceiling)
    twin = past.settings.index(replace(past.settings[plain], ceiling=True))
    free, bound = (replace(past, chosen=at, recent=()).guess() for at in (plain, twin))
    assert free is not None
    assert bound is not None
    assert bound.wanted == 90 < free.wanted
    assert bound.counts[-1] == 90
    assert past.tally.cost[twin] < past.tally.cost[plain]


def test_the_verdict_shows_the_chosen_first_and_the_others_beside_it() -> None:
    past = lived(begun(RIDGE), daily(1000))
    rows = past.told
    assert rows[0].chosen
    assert rows[0].setting == past.setting
    assert {r.setting.family for r in rows} == {"price on ridge", "reactive", "percentile"}
    assert all(not r.chosen for r in rows[1:])
    assert all(r.replicas > 0 and 0 <= r.share <= 1 for r in rows)
    assert verdict(Tally.empty(len(past.settings)), past.settings, 0.01, 0) == ()


def test_a_past_that_is_filled_in_at_once_is_the_past_lived_turn_by_turn() -> None:
    demand = daily(1100, seed=2)
    demand[300:320] = np.nan
    given_ = np.stack([demand, 1.2 * demand, 1.1 * demand, 1.4 * demand], axis=1)
    past = begun(Portfolio())
    turn_by_turn = past
    for i, (d, f) in enumerate(zip(demand, given_, strict=True)):
        turn_by_turn = turn_by_turn.seen(i * STEP_S, TurnRow(float(d), 100.0, tuple(f)))
    at_once = past.backfilled(1099 * STEP_S, demand, 100.0, given_)
    assert np.array_equal(at_once.history.rows, turn_by_turn.history.rows, equal_nan=True)
    assert np.array_equal(at_once.tally.cost, turn_by_turn.tally.cost)
    assert (at_once.chosen, at_once.next_review) == (turn_by_turn.chosen, turn_by_turn.next_review)


def test_a_long_life_keeps_its_newest_days_and_goes_on() -> None:
    """Rows are let go in whole days; the setting in force and the tally stay as they were."""
    demand = daily(1700, seed=4)
    whole = begun(RIDGE).backfilled(1699 * STEP_S, demand, 100.0)
    short = replace(begun(RIDGE), kept=Keeping(500, 0.0)).backfilled(1699 * STEP_S, demand, 100.0)
    assert len(whole.history) == 1700
    assert 500 <= len(short.history) < 500 + 2 * 144
    assert np.array_equal(short.history.rows, whole.history.rows[-len(short.history) :], equal_nan=True)
    assert (short.clock - (1700 - len(short.history))) % (7 * 144) == 0  # the time of day and week stays right
    assert short.tally.steps == pytest.approx(whole.tally.steps, rel=0.05)
    assert short.setting is not None
    guess = short.guess()
    assert guess is not None
    assert math.ceil(demand[-1] / 100.0) <= guess.replicas <= math.ceil(2 * demand.max() / 100.0) + 1
    onward = lived(short, daily(1800, seed=4)[1700:], 1700)
    assert len(onward.history) - onward.reviewed < 50
    assert onward.tally.steps > 0


def test_turns_within_a_row_add_none_and_the_grid_stays() -> None:
    """Four turns a row, a tenth late or early: as many rows as there are steps."""
    past, rng = begun(THUMBS), np.random.default_rng(0)
    for i in range(400):
        now_s = (i / 4) * STEP_S + (rng.uniform(-0.02, 0.02) * STEP_S if i else 0.0)
        past = past.seen(now_s, TurnRow(float(i), 100.0)).with_wanted(i)
    assert len(past.history) == 100
    assert not np.isnan(past.history.rows[:, 0]).any()
    assert past.newest_s == 99 * STEP_S
    assert past.recent[-1] == 399  # the highest count of the newest row


def test_a_review_that_is_put_off_is_made_up_for() -> None:
    past = begun(RIDGE)
    for i, d in enumerate(daily(700, seed=2)):
        assert not past.is_due or i >= 199
        past = past.seen(i * STEP_S, TurnRow(float(d), 100.0), review=i % 50 == 49)
    assert past.reviewed == 700
    assert past.setting is not None


def test_where_the_given_forecast_is_absent_a_specialist_stands_in() -> None:
    """After a restart forecasts of the past are not known: what needs them is scored as the specialist would be."""
    both = Portfolio(experts=(("ridge",), ("forecast",)), thumbs=())
    past = begun(both).backfilled(999 * STEP_S, daily(1000, seed=3), 100.0)
    of = np.array([s.expert == "forecast" for s in past.settings])
    assert np.array_equal(past.tally.cost[of], past.tally.cost[~of])
    blind = replace(past, chosen=int(np.flatnonzero(of)[past.chosen or 0]))
    assert past.guess() is not None
    assert blind.guess().replicas == past.guess().replicas  # type: ignore[union-attr]


def test_missed_turns_are_absent_rows() -> None:
    past = lived(begun(THUMBS), daily(10)).seen(14 * STEP_S, TurnRow(5.0, 100.0))
    assert len(past.history) == 15
    assert np.isnan(past.history.rows[10:14, 0]).all()


@pytest.mark.slow
@settings(max_examples=12, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([0.001, 0.01, 0.1]), st.integers(1, 5))
def test_any_demand_gives_numbers(seed: int, epsilon: float, lead: int) -> None:
    """Gaps, zeros, jumps of four orders of magnitude, forecasts that come and go."""
    rng = np.random.default_rng(seed)
    demand = rng.pareto(1.0, 400) * 10.0 ** rng.uniform(-2, 4, 400)
    demand[rng.random(400) < 0.2] = 0.0
    demand[rng.random(400) < 0.1] = np.nan
    past = begun(Portfolio(), epsilon=epsilon, lead=lead)
    for i, d in enumerate(demand):
        given_ = (d, 2 * d, d, 3 * d) if rng.random() < 0.8 else (math.nan,) * 4
        past = past.seen(i * STEP_S, TurnRow(float(d), 100.0, given_))
        guess = past.guess()
        if guess is not None:
            assert 1 <= guess.replicas <= 10_000
            past = past.with_wanted(guess.wanted)
    assert np.isfinite(past.tally.cost).all()
    assert ((past.tally.share >= 0) & (past.tally.share <= 1)).all()


def test_an_empty_portfolio_is_refused() -> None:
    with pytest.raises(UsageError):
        Portfolio(experts=(), thumbs=())
    with pytest.raises(UsageError):
        Portfolio(prices=(2.0, 1.0))
