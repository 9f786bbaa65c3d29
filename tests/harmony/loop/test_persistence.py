"""What was learned survives a restart; what is damaged does not take the rest with it."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harmony.decision.feedback import RiskFeedback
from harmony.decision.guards import GuardMemory, apply_behavior
from harmony.decision.trust import Trust
from harmony.loop.persistence import learned_from_json, learned_to_json
from harmony.loop.ports import Replicas
from harmony.loop.shadow import Regret
from harmony.loop.state import Learned
from harmony.model.capacity import Capacity
from harmony.model.lead_time import LeadTime
from harmony.model.objective import Behavior, ScalingPolicy, ScalingRules, Stages
from harmony.model.observation import Outcome

NOW = 1_790_000_000.0
LIMITS = Behavior(
    ScalingRules(60.0, (ScalingPolicy("Pods", 4, 60.0),)),
    ScalingRules(1800.0, (ScalingPolicy("Percent", 50, 600.0),)),
    Stages(25, 300.0),
)


def fresh() -> Learned:
    return Learned(
        Capacity.prior(100.0), LeadTime.measured(300.0), RiskFeedback.start(0.01), trust=Trust.start(0.01, 5)
    )


def experienced(seed: int = 0, turns: int = 300) -> Learned:
    """Some hours of life."""
    rng = np.random.default_rng(seed)
    learned = fresh()
    guards, current, trust = learned.guards, 20, learned.trust
    assert trust is not None
    for i in range(turns):
        outcome = Outcome(1, int(rng.random() < 0.02))
        learned.capacity = learned.capacity.observe_held(float(rng.uniform(40, 160)), bool(rng.random() < 0.5))
        learned.feedback = learned.feedback.learn(outcome)
        trust = trust.state(0.005).learn(outcome)
        guarded = apply_behavior(guards, LIMITS, NOW + 60.0 * i, current, int(rng.integers(2, 40)))
        guards, current = guarded.memory, guarded.replicas
    for took in rng.uniform(200, 500, 20):
        learned.lead_time = learned.lead_time.observe(float(took))
    return replace(
        learned, guards=guards, trust=trust, absent_turns=2, forecast_seen=True, learned_s=NOW + 60.0 * turns
    )


def through_text(data: Any) -> Any:
    return json.loads(json.dumps(data, allow_nan=False))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(0, 120))
def test_round_trip(seed: int, turns: int) -> None:
    before = experienced(seed, turns)
    written = learned_to_json(before)
    after, notes = learned_from_json(through_text(written), fresh())
    assert notes == ()
    assert after.capacity.median == pytest.approx(before.capacity.median, rel=1e-5)
    np.testing.assert_allclose(after.capacity.interval(), before.capacity.interval(), rtol=0.02)
    assert after.lead_time.quantile_s(0.9) == pytest.approx(before.lead_time.quantile_s(0.9), rel=1e-4)
    assert after.lead_time.memory == LeadTime.MEMORY
    assert after.feedback.level == pytest.approx(before.feedback.level, rel=1e-5)
    assert after.trust is not None
    assert before.trust is not None
    assert after.trust.step == before.trust.step
    assert after.trust.excess_probability == pytest.approx(before.trust.excess_probability, abs=1e-4)
    assert after.trust.stated == pytest.approx(before.trust.stated or 0.0, rel=1e-4) or before.trust.stated is None
    assert after.guards.stage == before.guards.stage
    assert (after.absent_turns, after.forecast_seen, after.learned_s) == (2, True, before.learned_s)
    assert learned_to_json(after) == written or before.capacity.weights  # a grid is renormalised


def test_it_is_small() -> None:
    assert len(json.dumps(learned_to_json(experienced()), separators=(",", ":"))) < 1500
    falling = tuple((NOW + i, 40 - i) for i in range(40))
    rising = tuple((NOW + i, i) for i in range(40))
    worst = replace(experienced(), guards=GuardMemory(falling, rising, rising, rising))
    assert len(json.dumps(learned_to_json(worst), separators=(",", ":"))) < 2500


def test_what_is_known_by_the_settings_is_neither_written_nor_overwritten() -> None:
    known = Learned(Capacity.known(25.0), LeadTime.known(60.0), RiskFeedback.start(0.01))
    assert not {"capacity", "leadTime", "trust"} & set(learned_to_json(known))
    restored, notes = learned_from_json(learned_to_json(experienced()), known)
    assert (restored.capacity, restored.lead_time, restored.trust) == (known.capacity, known.lead_time, None)
    assert notes == ()


def test_changed_settings_win() -> None:
    data = learned_to_json(experienced())
    defaults = replace(
        fresh(), capacity=Capacity.prior(50.0), feedback=RiskFeedback.start(0.05), trust=Trust.start(0.05)
    )
    restored, notes = learned_from_json(data, defaults)
    assert restored.capacity == defaults.capacity
    assert restored.trust == defaults.trust
    ratio = data["feedback"]["level"] / data["feedback"]["epsilon"]
    assert restored.feedback.level == pytest.approx(0.05 * ratio, rel=1e-4)
    assert [n.split(":")[0] for n in notes] == ["learned.capacity", "learned.trust"]


@pytest.mark.parametrize("part", ["capacity", "leadTime", "feedback", "trust", "guards", "absentTurns", "learnedS"])
@pytest.mark.parametrize("damage", [None, [], "x", {"mu": "1"}, -1, 1e308, True, [[1]]])
def test_a_damaged_part_leaves_the_others(part: str, damage: object) -> None:
    data = learned_to_json(experienced())
    whole, _ = learned_from_json(data, fresh())
    restored, notes = learned_from_json(data | {part: damage}, fresh())
    if part == "guards" and damage == {"mu": "1"}:
        assert (restored.guards, notes) == (GuardMemory(), ())  # no marks at all, and an unknown key
        return
    if notes == ():  # some of these are lawful values of some parts
        assert part == "learnedS"
        assert damage == -1
        return
    assert len(notes) == 1
    assert notes[0].startswith(f"learned.{part}: expected")
    names = {"leadTime": "lead_time", "absentTurns": "absent_turns", "learnedS": "learned_s"}
    for other in ("capacity", "lead_time", "feedback", "trust", "guards", "absent_turns", "learned_s"):
        source = fresh() if other == names.get(part, part) else whole
        assert getattr(restored, other) == getattr(source, other)


@pytest.mark.parametrize("data", [[], "x", 3, {"version": 2}, {"version": True}, {"feedback": {}}, {"version": [1]}])
def test_what_is_not_ours_starts_anew_and_says_so(data: object) -> None:
    restored, notes = learned_from_json(data, fresh())
    assert restored == fresh()
    assert len(notes) == 1


@pytest.mark.parametrize("data", [None, {}])
def test_nothing_stored_is_nothing_to_mention(data: object) -> None:
    assert learned_from_json(data, fresh()) == (fresh(), ())


anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([10**400, -(10**4000), 0, 1])
    | st.floats(allow_nan=True, allow_infinity=True)
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=8,
)
keys = st.sampled_from(
    ["capacity", "leadTime", "feedback", "trust", "guards", "absentTurns", "forecastSeen", "learnedS"]
)
paths = st.sampled_from(
    [("capacity", k) for k in ("median", "sigma", "prior", "logWeights")]
    + [("leadTime", k) for k in ("mu", "kappa", "alpha", "beta")]
    + [("feedback", k) for k in ("epsilon", "level")]
    + [("trust", k) for k in ("epsilon", "evidence", "missed", "steps", "violated", "step", "block_steps")]
    + [("guards", k) for k in ("highs", "lows", "ups", "downs", "stage")]
)
WRITTEN = learned_to_json(experienced())


@pytest.mark.slow
@settings(max_examples=300)
@given(anything, st.dictionaries(keys, anything, max_size=4), st.dictionaries(paths, anything, max_size=3))
def test_no_json_raises_and_what_comes_back_works(
    data: Any, parts: dict[str, Any], inner: dict[tuple[str, str], Any]
) -> None:
    damaged = WRITTEN | parts
    for (part, key), value in inner.items():
        if isinstance(damaged.get(part), dict):
            damaged = damaged | {part: damaged[part] | {key: value}}
    for attempt in (data, damaged):
        restored, notes = learned_from_json(attempt, fresh())
        assert all(isinstance(n, str) and len(n) < 200 for n in notes)
        assert 0 < restored.feedback.level <= 0.5
        assert restored.lead_time.observe(100.0).with_pending([1e5]).steps(60.0) >= 1
        assert np.all(restored.capacity.observe_held(80.0, held=False).draws(5) > 0)
        guarded = apply_behavior(restored.guards, LIMITS, NOW, 10, 5)
        assert guarded.replicas >= 0
        assert restored.trust is not None
        assert restored.trust.learn(Outcome(1, 1)).step in (0, 1, 2)
        learned_to_json(restored)


def test_thinned_marks_hold_no_shorter() -> None:
    highs = tuple((NOW + 10.0 * i, 60 - i) for i in range(50))
    kept = learned_from_json(learned_to_json(replace(fresh(), guards=GuardMemory(highs=highs))), fresh()).learned
    for now in range(0, 3000, 7):
        hold = Behavior.hold(1800.0)
        full = apply_behavior(GuardMemory(highs=highs), hold, NOW + 500 + now, 60, 1)
        thin = apply_behavior(kept.guards, hold, NOW + 500 + now, 60, 1)
        assert thin.replicas >= full.replicas


@given(st.lists(st.tuples(st.floats(1.0, 5000.0), st.integers(0, 9), st.integers(0, 9)), max_size=60), anything)
def test_regret_goes_on_after_a_restart(turns: list[tuple[float, int, int]], noise: Any) -> None:
    regret = Regret()
    for dt, actual, shadow in turns:
        regret = regret.add(dt, 300.0, 100.0, Replicas(actual, actual), Replicas(shadow, shadow))
    stored = through_text(regret.to_json())
    restored = Regret.from_json(stored)
    assert restored.to_json() == stored
    one, two = regret.lower_bound(), restored.lower_bound()
    assert (one is None) == (two is None)
    assert one is None or two == pytest.approx(one, rel=1e-3, abs=1e-3)
    assert Regret.from_json(noise) == Regret()
    damaged = Regret.from_json(stored | {"seconds": noise})
    if isinstance(noise, bool) or not isinstance(noise, int | float):
        assert damaged == Regret()
    assert damaged.seconds >= 0
