"""One service: what it decides of what it sees, what it learns once, and what survives."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.observing.starts import Starts
from controller.resource.group import Annotation
from controller.resource.parsing import parse_autoscaler
from controller.service import Service
from harmony.model.authority import Mode
from harmony.model.decision import Reason
from tests.controller.lives import STEP_S, T0, feed_of, service, turn
from tests.controller.resource.builders import autoscaler

NAN = math.nan


def demand_of(of: Service) -> float:
    """What the last turn took for present demand."""
    assert of.record is not None
    return of.record.observation.demand


def test_what_is_needed_is_ordered() -> None:
    plan = turn(service(), T0, 200.0, 8)
    assert (plan.wanted, plan.desired, plan.held_by) == (8, 8, "")
    assert turn(service(), T0, 100.0, 8).desired == 4


def test_absent_demand_holds_and_zero_does_not() -> None:
    assert turn(service(), T0, NAN, 8).desired == 8
    assert turn(service(), T0, 0.0, 8).desired == 1


def test_old_demand_is_absent() -> None:
    of = service()
    turn(of, T0, 100.0, 4)
    assert turn(of, T0 + 149.0, NAN, 9, forecast=False).desired == 9
    assert not math.isnan(demand_of(of))
    turn(of, T0 + 160.0, NAN, 9, forecast=False)
    assert math.isnan(demand_of(of))


def test_zero_by_hand_stays_unless_the_user_pauses_at_a_number() -> None:
    plan = turn(service(), T0, 200.0, 0)
    assert (plan.desired, plan.held_by) == (0, "scaled to zero by hand")
    paused = service(annotations={Annotation.PAUSED_REPLICAS: "3"})
    assert turn(paused, T0, 200.0, 0).desired == 3


def test_zero_of_our_own_ends_when_a_schedule_asks_for_more() -> None:
    """Outside of its hours nothing runs; when they begin, the minimum that they ask for is no reason to stay at 0."""
    always = {"name": "always", "timezone": "UTC", "startTime": "00:00", "endTime": "24:00", "minReplicas": 3}
    of = service(minReplicas=0, schedules=[always])
    assert turn(of, T0, 0.0, 0).desired == 3


def test_a_target_that_must_not_shrink_may_grow() -> None:
    plan = turn(service(), T0, 25.0, 8, hold_down="its rollout is paused")
    assert (plan.wanted, plan.desired, plan.held_by) == (1, 8, "its rollout is paused")
    assert turn(service(), T0, 200.0, 4, hold_down="its rollout is paused").desired == 8


def test_regret_of_too_many_replicas_is_exact() -> None:
    of = service(mode="Recommend", cost={"gpusPerReplica": 8})
    for k in range(31):
        plan = turn(of, T0 + k * STEP_S, 100.0, 10)
        assert plan.desired == 10, "nothing is ordered"
    # from the second minute on the shadow has 4 replicas: 6 replicas of 8 GPUs are saved in each judged step
    assert of.regret.seconds == pytest.approx(31 * STEP_S)
    assert of.regret.gpu_hours_saved == pytest.approx(6 * 8 * 30 * STEP_S / 3600)
    assert of.regret.misses_caused_s == of.regret.misses_avoided_s == 0.0


def test_what_the_shadow_ordered_does_not_limit_the_first_real_order() -> None:
    slow = {"scaleUp": {"policies": [{"type": "Pods", "value": 4, "periodSeconds": 600}]}}
    of = service(mode="Recommend", behavior=slow)
    assert turn(of, T0, 125.0, 1).wanted == 5
    obj = autoscaler(mode="Full", behavior=slow)
    granted = parse_autoscaler(obj)
    of.adopt(granted, feed_of(granted))
    assert turn(of, T0 + 30, 125.0, 1).desired == 5


def test_settings_that_change_keep_what_still_means_the_same() -> None:
    of = service()
    for k in range(12):
        turn(of, T0 + k * STEP_S, 200.0, 4)
    level, steps = of.learned.feedback.level, of.trust.steps
    assert level < 0.01, "misses were learned from"
    for changes in ({"maxReplicas": 50}, {"mode": "UpOnly"}, {"objective": {"perReplica": 30}}):
        changed = parse_autoscaler(autoscaler(**changes))
        of.adopt(changed, feed_of(changed))
        assert (of.learned.feedback.level, of.trust.steps) == (level, steps)
    other = {"name": "requests", "query": "sum(other)", "kind": "Rate", "unit": "requests/s"}
    changed = parse_autoscaler(autoscaler(indicators=[other]))
    of.adopt(changed, feed_of(changed))
    assert of.trust.steps == 0
    assert of.scores.weight == 0
    assert math.isnan(of.history.newest(0)[1]), "readings of another quantity are gone"


def test_what_was_learned_survives_and_is_small() -> None:
    of = service(mode="Recommend")
    for k in range(40):
        turn(of, T0 + k * STEP_S, 200.0 + k % 7, 4, starts=Starts(4, 4, (90.0,), ("",)))
    text = json.dumps(of.to_json())
    assert len(text) < 6000
    again = service(json.loads(text), mode="Recommend")
    assert again.notes == ()
    assert again.finished_starts == 40
    assert again.learned.lead_time.median_s == pytest.approx(of.learned.lead_time.median_s, rel=1e-4)
    assert again.learned.feedback.level == pytest.approx(of.learned.feedback.level, rel=1e-4)
    assert again.trust.steps == pytest.approx(of.trust.steps, rel=1e-4)
    assert again.regret.gpu_hours_saved == pytest.approx(of.regret.gpu_hours_saved, rel=1e-4)
    assert again.scores.coverage == pytest.approx(of.scores.coverage, rel=1e-4)


def test_damage_is_told_and_the_rest_is_kept() -> None:
    of = service()
    for k in range(5):
        turn(of, T0 + k * STEP_S, 200.0, 8, starts=Starts(8, 8, (90.0,), ("",)))
    saved = of.to_json()
    saved["loop"]["trust"] = "high"
    again = service(saved)
    assert len(again.notes) == 1
    assert "trust" in again.notes[0]
    assert again.learned.lead_time.median_s == pytest.approx(of.learned.lead_time.median_s, rel=1e-4)


def test_too_many_misses_take_authority_back_but_not_upwards() -> None:
    of = service()
    for k in range(400):
        turn(of, T0 + k * STEP_S, 200.0, 1, ready=1)
        if of.mode is not Mode.FULL:
            break
    assert of.mode is Mode.UP_ONLY
    assert turn(of, T0 + 500 * STEP_S, 200.0, 1).desired > 1
    assert turn(of, T0 + 501 * STEP_S, 0.0, 9).desired == 9


def risked(of: Service) -> tuple[float, float, float]:
    return of.learned.feedback.level, of.trust.steps, of.trust.missed


@pytest.mark.parametrize(
    ("mode", "pause", "ordered"),
    [
        ("Full", {Annotation.PAUSED: "true"}, 1),
        ("Full", {Annotation.PAUSED_REPLICAS: "1"}, 1),
        ("Full", {Annotation.PAUSED_SCALE_OUT: "true"}, 1),
        ("Full", {}, 0),  # scaled to zero by hand
        ("Recommend", {Annotation.PAUSED: "true"}, 1),
    ],
)
def test_what_is_missed_while_a_person_holds_the_count_teaches_no_risk(mode: str, pause: dict, ordered: int) -> None:
    """HARMONY did not act: neither what it risks nor its authority may change for it."""
    of = service(mode=mode, annotations=pause)
    turn(of, T0, 200.0, ordered)
    before = risked(of)
    for k in range(1, 60):
        assert turn(of, T0 + k * STEP_S, 200.0, ordered).desired == ordered
    assert risked(of) == before
    assert of.mode is Mode(mode)


def test_risk_is_learned_again_one_start_after_a_pause() -> None:
    """What is missed while the first replicas after the pause start is still the pause's."""
    held = {Annotation.PAUSED: "true"}
    of = service(annotations=held, leadTime={"source": "Fixed", "seconds": 300})
    turn(of, T0, 200.0, 1)
    go_on = parse_autoscaler(autoscaler(mode="Full", leadTime={"source": "Fixed", "seconds": 300}))
    of.adopt(go_on, feed_of(go_on))
    before = risked(of)
    for k in range(1, 6):
        turn(of, T0 + k * STEP_S, 200.0, 8, ready=1)
        assert risked(of) == before
    for k in range(6, 12):
        turn(of, T0 + k * STEP_S, 200.0, 8, ready=1)
    assert risked(of) == before, "eight were ordered in good time: that seven do not start is no decision's mistake"
    for k in range(12, 18):
        turn(of, T0 + k * STEP_S, 200.0, 4, ready=1)
    assert of.trust.missed > 0


def test_what_another_writer_misses_is_not_ours() -> None:
    of = service()
    of.meet("HorizontalPodAutoscaler serving/chat")
    turn(of, T0, 200.0, 1)
    before = risked(of)
    for k in range(1, 60):
        turn(of, T0 + k * STEP_S, 200.0, 1)
    assert risked(of) == before


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.just(10**400) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)
PARTS = [
    "demand",
    "loop",
    "scores",
    "regret",
    "starts",
    "failed",
    "starts_since",
    "shadow",
    "shadow_since",
    "gpu",
    "leads",
]


@settings(deadline=None, max_examples=60)
@given(st.dictionaries(st.sampled_from(PARTS), JSON, max_size=len(PARTS)), st.booleans())
def test_anything_may_stand_in_the_status(parts: dict, same_demand: bool) -> None:
    if same_demand:
        parts["demand"] = service().to_json()["demand"]
    for mode in ("Full", "Recommend"):
        of = service(parts, mode=mode)
        assert turn(of, T0, NAN, 5).desired == 5
        json.dumps(of.to_json())


demands = st.just(NAN) | st.floats(0, 600)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(demands, st.booleans(), st.integers(0, 90)), min_size=1, max_size=25), st.integers(1, 20))
def test_absence_never_lowers_the_count_and_every_step_is_learned_once(
    script: list[tuple[float, bool, int]], ordered: int
) -> None:
    of, now = service(), T0
    steps = 0.0
    for demand, forecast, seconds in script:
        now += seconds
        plan = turn(of, now, demand, ordered, forecast=forecast)
        known = not math.isnan(demand_of(of))
        assert plan.desired >= ordered or known, "absent demand lowered the count"
        assert 1 <= plan.desired <= 20
        assert of.record is not None
        if known and of.record.decision.reason is not Reason.RATE_LIMITED:
            assert plan.desired * 25.0 >= min(demand_of(of), 20 * 25.0) - 1e-6, "below present demand"
        ordered = plan.desired
        assert of.trust.steps <= (now - T0) / STEP_S + 2
        assert of.trust.steps >= steps * 0.9
        steps = of.trust.steps
