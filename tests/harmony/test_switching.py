"""The price of changes in the choice of a count: the cheapest, the same live and replayed, and never more of them."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forecasting.specialists import LeadGrid
from harmony.decision.budget import ErrorBudget
from harmony.decision.past import bands
from harmony.decision.past.bands import banded, cut_at
from harmony.decision.past.own_past import OwnPast, TurnRow
from harmony.decision.past.piece import Prices
from harmony.decision.past.portfolio import RISKS, Portfolio, held, priced
from harmony.decision.switching import MOST, hull_risk, price_edges, standing, weight_of
from harmony.model.decision import Decision
from harmony.model.objective import Objective
from harmony.policies.harmony import HarmonyPolicy
from tests.harmony.builders import observation

LAWS = settings(max_examples=200, deadline=None)
STEP_S = 600.0
weights = st.floats(0.001, MOST)
seeds = st.integers(0, 10**6)


def a_table(rng: np.random.Generator, most: int = 60) -> tuple[np.ndarray, np.ndarray]:
    """Whole counts that rise (some of them equal) as the risks fall."""
    return np.sort(rng.integers(1, most, RISKS.size)).astype(float), RISKS


def edges_of(counts: np.ndarray, risks: np.ndarray, price: float, weight: float) -> tuple[float, float]:
    low, high = priced(counts[None], risks, np.array(price_edges(price, weight)))[0]
    return float(low), float(high)


# ---- one count -----------------------------------------------------------------------------------------------
@LAWS
@given(seeds, st.floats(0.5, 1e5), weights, st.integers(1, 80))
def test_what_is_nearest_between_the_edges_is_the_cheapest(seed: int, price: float, weight: float, stood: int) -> None:
    """Against every count of the table's reach: n + price x risk + weight x change, risks along the hull."""
    counts, risks = a_table(np.random.default_rng(seed))
    low, high = edges_of(counts, risks, price, weight)
    assert low <= float(priced(counts[None], risks, np.array([price]))[0, 0]) <= high
    every = np.arange(counts[0], counts[-1] + 1)
    hull = np.array([hull_risk(counts, risks, n) for n in every[:-1]] + [risks[-1]])
    total = every + price * hull + weight * np.abs(every - stood)
    got = min(max(stood, low), high)
    assert total[int(got - every[0])] == pytest.approx(total.min(), rel=1e-9)


def test_no_change_weighs_more_than_half_of_what_it_saves_in_half_an_hour() -> None:
    assert weight_of(5 / 60) == pytest.approx(5 / 30)
    assert weight_of(7.0) == MOST


@LAWS
@given(seeds, st.floats(0.5, 1e5), weights, st.integers(1, 80))
def test_a_table_cut_at_the_highest_demand_has_the_cut_edges(seed: int, price: float, weight: float, most: int) -> None:
    """So a decision is found again from the table that it told of."""
    counts, risks = a_table(np.random.default_rng(seed))
    edges = edges_of(counts, risks, price, weight)
    cut, stated = cut_at(float(most), counts, risks, *edges)
    assert np.all(np.diff(cut) >= 0.0)
    assert np.all(np.diff(stated) <= 0.0)
    for edge, at in zip(edges, price_edges(price, weight), strict=True):
        total = cut + at * stated
        assert total[np.searchsorted(cut, min(edge, most), side="right") - 1] == pytest.approx(total.min(), rel=1e-12)


# ---- a course of counts --------------------------------------------------------------------------------------
def some_edges(rng: np.random.Generator, rows: int = 60) -> tuple[np.ndarray, np.ndarray]:
    lower = np.maximum(1, np.abs(np.cumsum(rng.integers(-4, 5, (rows, 4)), axis=0))).astype(float)
    return lower, lower + rng.integers(0, 6, lower.shape)


@LAWS
@given(seeds, st.integers(1, 12))
def test_held_edges_are_held_counts(seed: int, hold: int) -> None:
    """Turn by turn: nearest to what was set between the edges, then the highest of the last counts."""
    rng = np.random.default_rng(seed)
    lower, upper = some_edges(rng)
    got = standing(held(lower, hold), held(upper, hold), lower[0])
    for column in range(lower.shape[1]):
        wanted = [lower[0, column]]
        for low, high in zip(lower[1:, column], upper[1:, column], strict=True):
            wanted.append(min(max(max(wanted[-hold:]), low), high))
        counts = [max(wanted[max(0, t - hold + 1) : t + 1]) for t in range(len(wanted))]
        assert got[:, column].tolist() == counts


@LAWS
@given(seeds, weights, weights, st.integers(1, 12))
def test_a_higher_price_of_changes_never_moves_more_replicas(seed: int, a: float, b: float, hold: int) -> None:
    """Of any service, at the same price of violations: fewer, and never fewer than the lower edge asks for."""
    rng = np.random.default_rng(seed)
    level = np.exp(np.cumsum(0.2 * rng.standard_normal(80)))
    counts = np.ceil(10.0 * level[:, None] * np.exp(rng.exponential(0.3, RISKS.size).cumsum() / 8))
    prices = np.array([3.0, 50.0, 2000.0])
    moved = []
    for weight in (0.0, *sorted((a, b))):
        lower, upper = (held(priced(counts, RISKS, p), hold) for p in price_edges(prices, weight))
        course = standing(lower, upper, np.full(3, 20.0))
        assert (lower <= course).all()
        assert (course <= upper).all()
        moved.append(np.abs(np.diff(course, axis=0, prepend=20.0)).sum(axis=0))
    assert (moved[1] <= moved[0]).all()
    assert (moved[2] <= moved[1]).all()


@LAWS
@given(seeds, st.integers(1, 59), st.sampled_from([(1,), (3, 7)]), st.integers(1, 4))
def test_a_past_in_pieces_is_followed_as_at_once(seed: int, cut: int, holds: tuple[int, ...], lead: int) -> None:
    """With a ceiling and without: what goes on from a piece is all that the next one needs."""
    rng = np.random.default_rng(seed)
    lower, upper = some_edges(rng)
    most = np.maximum.accumulate(rng.integers(1, 12, len(lower))).astype(float)
    asked = {"holds": holds, "ceilings": (False, True), "bounds": (2, 9), "lead_steps": lead}
    none = lower[:0]
    whole = banded([(none, lower), (none, upper)], most, was=None, **asked)[0]
    first, lows, on = banded([(none, lower[:cut]), (none, upper[:cut])], most[:cut], was=None, **asked)
    edges = [(lows.array, lower[cut:]), (on.upper.array, upper[cut:])]
    then = banded(edges, most[max(0, cut - len(lows.array)) :], was=on.set.array, **asked)[0]
    for at_once, before, after in zip(whole, first, then, strict=True):
        assert at_once.min() >= 2
        assert at_once.max() <= 9
        again = np.concatenate([before, after[len(on.set.array) :]])
        np.testing.assert_array_equal(again, at_once)
        np.testing.assert_array_equal(after[: len(on.set.array)], at_once[max(0, cut - lead) : cut])


# ---- replayed and live ---------------------------------------------------------------------------------------
def daily(n: int, seed: int) -> np.ndarray:
    at = np.arange(n)
    return 2000.0 * np.exp(0.6 * np.sin(2 * np.pi * at / 144) + 0.1 * np.random.default_rng(seed).standard_normal(n))


def begun(portfolio: Portfolio, switch: float, lead: int = 2) -> OwnPast:
    past = OwnPast.start(portfolio, LeadGrid(STEP_S, lead), ErrorBudget(0.02, step_s=STEP_S), cap=0.1)
    return past.within(1, 60, Prices(switch))


def test_the_replay_sets_what_is_set_live_turn_by_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every price and hold, with the ceiling and without: the same counts from the first time that they agree on."""
    demand = daily(1000, seed=5)
    portfolio = Portfolio(experts=(("ridge",),), thumbs=())
    past = begun(portfolio, switch=1.2).backfilled(849 * STEP_S, demand[:850], 100.0)
    assert past.setting is not None
    waiting = 850 - past.reviewed  # rows that are scored with what comes
    tried = [(at, s) for at, s in enumerate(past.settings) if at % 5 == 0]
    recent: list[tuple[int, ...]] = [(20,)] * len(tried)
    counts: list[list[int]] = [[] for _ in tried]
    replayed: list[np.ndarray] = []
    monkeypatch.setattr(bands, "standing", lambda *a: replayed.append(standing(*a)) or replayed[-1])
    for i, d in enumerate(demand[850:], 850):
        past = past.seen(i * STEP_S, TurnRow(float(d), 100.0), review=i == 999)
        for j, (at, setting) in enumerate(tried if i < 999 else ()):
            guess = replace(past, chosen=at, recent=recent[j]).guess()
            assert guess is not None
            assert guess.stood == max(recent[j])
            assert guess.wanted >= math.ceil(d / 100.0)
            recent[j] = (*recent[j], guess.wanted)[-setting.hold :]
            counts[j].append(guess.replicas)
    columns = np.concatenate(replayed, axis=1)
    compared = 0
    for j, (at, setting) in enumerate(tried):
        live, again = np.array(counts[j]), columns[waiting:-1, at]
        agreed = np.flatnonzero(live[setting.hold :] == again[setting.hold :])
        assert agreed.size, setting
        first = setting.hold + int(agreed[0])
        assert live[first:].tolist() == again[first:].tolist(), setting
        compared += live.size - first
    assert compared > 0.8 * sum(len(c) for c in counts)


def test_a_past_is_the_same_at_once_and_turn_by_turn_and_settings_are_scored_with_their_changes() -> None:
    demand = daily(700, seed=2)
    past = begun(Portfolio(), switch=1.2)
    at_once, turn_by_turn = past.backfilled(699 * STEP_S, demand, 100.0), past
    for i, d in enumerate(demand):
        turn_by_turn = turn_by_turn.seen(i * STEP_S, TurnRow(float(d), 100.0))
    assert np.array_equal(at_once.tally.cost, turn_by_turn.tally.cost)
    assert np.array_equal(at_once.tally.missed, turn_by_turn.tally.missed)
    free = begun(Portfolio(), switch=0.0).backfilled(699 * STEP_S, demand, 100.0)
    assert not free.learned.banded
    assert len(at_once.learned.banded) == 6  # of the experts that have no forecast too: a specialist stands in
    by_thumb = np.array([s.rule == "margin" for s in free.settings])
    assert np.array_equal(free.tally.missed[by_thumb], at_once.tally.missed[by_thumb])
    assert not np.array_equal(free.tally.missed[~by_thumb], at_once.tally.missed[~by_thumb])


# ---- the policy ----------------------------------------------------------------------------------------------
OWN = HarmonyPolicy(forecaster="", trees=False)


def lived(demand: np.ndarray, price: float) -> list[Decision]:
    memory, ordered, out = None, 20, []
    objective = Objective(epsilon=0.05, max_replicas=1000, switch_price=price)
    for i, d in enumerate(demand):
        seen = observation(
            now_s=i * 60.0, demand=float(d), ordered=ordered, ready=ordered, memory=memory, objective=objective
        )  # fmt: skip
        out.append(OWN.decide(seen))
        memory, ordered = out[-1].memory, out[-1].replicas
    return out


def test_absent_data_never_lower_and_present_demand_is_always_carried() -> None:
    demand = daily(600, seed=1)
    gone = np.random.default_rng(0).random(600) < 0.1
    decisions = lived(np.where(gone, np.nan, demand), price=0.2)
    weighed = 0
    for d, decision, lost in zip(demand, decisions, gone, strict=True):
        weighed += decision.stood >= 0
        if lost:
            assert decision.replicas >= decision.current
        else:
            assert decision.replicas >= math.ceil(d / 100.0 - 1e-9)
        if decision.stood >= 0 and decision.candidates is not None:  # within the cap of one decision
            table = decision.candidates
            at = int(np.searchsorted(table.replicas, decision.replicas, side="right")) - 1
            assert table.violated_time[at] <= OWN.cap * 0.05 * (1 + 1e-9)
    assert weighed > 200


def test_where_changes_cost_there_are_fewer_of_them() -> None:
    """Of three services, of which each chooses its own settings."""

    def moved(price: float, seed: int) -> int:
        counts = np.array([d.replicas for d in lived(daily(700, seed), price)])[300:]
        return int(np.abs(np.diff(counts)).sum())

    assert sum(moved(0.25, s) for s in range(3)) < sum(moved(0.0, s) for s in range(3))
    assert all(d.stood == -1 for d in lived(daily(250, 0), 0.0))
