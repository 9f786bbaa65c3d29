"""Limits on a whole past at once, against the guards turn by turn."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from harmony.decision.guards import apply_behavior
from harmony.decision.past.limited import Limited, limited
from harmony.model.memory import GuardMemory
from harmony.model.objective import Behavior, ScalingPolicy, ScalingRules, Stages

ROW_S = 60.0
policies = st.builds(
    ScalingPolicy,
    st.sampled_from(["Pods", "Percent"]),
    st.integers(1, 100) | st.just(100),
    st.sampled_from([15.0, 60.0, 90.0, 180.0, 600.0]),
)
rules = st.builds(
    ScalingRules,
    st.sampled_from([0.0, 60.0, 100.0, 300.0]),
    st.lists(policies, max_size=2).map(tuple),
    st.sampled_from(["Max", "Max", "Min", "Disabled"]),
)
stages = st.none() | st.builds(Stages, st.integers(1, 100), st.sampled_from([60.0, 150.0, 600.0]))


@settings(max_examples=250, deadline=None)
@given(
    st.builds(Behavior, rules, rules, stages),
    st.integers(0, 10**6),
    st.lists(st.integers(0, 30), max_size=3),
    st.sampled_from([0.1, 1.0]),
    st.sampled_from([np.float32, np.float64]),
)
def test_every_row_is_what_the_guards_set_in_its_turn(
    behavior: Behavior, seed: int, cuts: list[int], busy: float, kind: type[np.floating]
) -> None:
    """However the past is cut into pieces, for any windows, policies, selections and stages, within the bounds."""
    rng = np.random.default_rng(seed)
    moves = np.where(rng.random((30, 2)) < busy, rng.integers(-9, 10, (30, 2)), 0)
    wanted = np.maximum(1, np.abs(np.cumsum(moves, axis=0))).astype(kind)
    bounds = (2, 25)
    got, before = [], None
    edges = [0, *sorted(cuts), 30]
    for start, stop in pairwise(edges):
        if stop > start:
            rows, before = limited(wanted[start:stop], behavior, ROW_S, bounds, before, keep=3)
            got.append(rows)
    assert isinstance(before, Limited)
    assert len(before.set.array) >= 3
    assert np.array_equal(np.concatenate(got), [*zip(*(by_turns(c, behavior, bounds) for c in wanted.T), strict=True)])


def test_a_tenth_of_a_hundred_is_ten() -> None:
    """100 x 1.1 is a little over 110 in floating point, and no replica more is allowed for that."""
    up = ScalingRules(0.0, (ScalingPolicy("Percent", 10, 60.0),), "Max")
    behavior = Behavior(up, ScalingRules(0.0, (), "Max"), None)
    wanted = np.array([[100.0], [100.0], [300.0]])
    rows, _ = limited(wanted, behavior, ROW_S, (2, 400), None, keep=3)
    assert rows[:, 0].tolist() == by_turns(wanted[:, 0], behavior, (2, 400)) == [100, 100, 110]


def test_what_a_rate_kept_low_is_not_made_up_by_the_window_on_the_way_down() -> None:
    """18 of 30 stand when a piece begins that wants 4: the window holds what stands, not what was wanted."""
    up = ScalingRules(0.0, (ScalingPolicy("Pods", 13, 60.0),), "Max")
    behavior = Behavior(up, ScalingRules(300.0, (), "Max"), None)
    wanted = np.array([[5.0], [30.0], [4.0], [4.0]])
    first, before = limited(wanted[:2], behavior, ROW_S, (2, 25), None, keep=3)
    then, _ = limited(wanted[2:], behavior, ROW_S, (2, 25), before, keep=3)
    got = [*first[:, 0].tolist(), *then[:, 0].tolist()]
    assert got == by_turns(wanted[:, 0], behavior, (2, 25)) == [5, 18, 18, 18]


def by_turns(wanted: np.ndarray, behavior: Behavior, bounds: tuple[int, int]) -> list[int]:
    memory, current, out = GuardMemory(), int(np.clip(wanted[0], *bounds)), []
    for i, count in enumerate(wanted.astype(int).tolist()):
        guarded = apply_behavior(memory, behavior, i * ROW_S, current, count)
        applied = int(np.clip(guarded.replicas, *bounds))
        memory = guarded.memory
        if applied != guarded.replicas:
            memory = memory.corrected(i * ROW_S, current, applied)
        current = applied
        out.append(current)
    return out
