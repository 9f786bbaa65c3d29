"""The HPA policy: the replica calculator's cases, and skipped quiet syncs that change nothing."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harmony.decision.guards import GuardMemory, apply_behavior
from harmony.model.decision import Reason
from harmony.model.objective import Behavior, ScalingRules
from harmony.policies.hpa import HpaPolicy, desired_replicas
from tests.harmony.builders import observation


@pytest.mark.parametrize(
    ("load", "ordered", "ready", "expected", "why"),
    [
        (840.0, 10, 10, 10, "5 % above target: within tolerance"),
        (1000.0, 10, 10, 13, "25 % above: ceil(1.25 * 10)"),
        (400.0, 10, 10, 5, "half the target"),
        (1000.0, 14, 10, 14, "starting pods count as idle: 1000/14/80 is below 1, so nothing"),
        (2000.0, 14, 10, 25, "starting pods do not suffice"),
        (400.0, 14, 10, 5, "on the way down, starting pods do not count"),
        (400.0, 5, 0, 5, "no ready pod reports a metric"),
    ],
)
def test_replica_calculator(load: float, ordered: int, ready: int, expected: int, why: str) -> None:
    assert desired_replicas(load, 80.0, ordered, ready, 0.1) == expected, why


def every_sync(policy: HpaPolicy, demands: list[float], interval: float) -> list[int]:
    """The same algorithm without skipping any sync."""
    memory, ordered, seen = GuardMemory(), 10, []
    for i, demand in enumerate(demands):
        for s in range(math.ceil(interval / policy.sync_s)):
            desired = max(1, desired_replicas(demand, policy.target * 100, ordered, ordered, policy.tolerance))
            guarded = apply_behavior(memory, policy.behavior_, i * interval + s * policy.sync_s, ordered, desired)
            memory, ordered = guarded.memory, guarded.replicas
        seen.append(ordered)
    return seen


@given(
    st.lists(st.floats(0, 6000), min_size=1, max_size=30),
    st.sampled_from([15.0, 60.0, 300.0, 600.0]),
    st.sampled_from([0.0, 45.0, 300.0, 650.0]),
    st.sampled_from([0.0, 60.0]),
)
def test_skipping_quiet_syncs_changes_nothing(demands: list[float], interval: float, down: float, up: float) -> None:
    default = Behavior()
    behavior = Behavior(ScalingRules(up, default.scale_up.policies), ScalingRules(down, default.scale_down.policies))
    policy = HpaPolicy(behavior_=behavior)
    memory, ordered, seen = None, 10, []
    for i, demand in enumerate(demands):
        decision = policy.decide(
            observation(
                now_s=i * interval, interval_s=interval, demand=demand, ordered=ordered, ready=ordered, memory=memory
            )
        )
        memory, ordered = decision.memory, decision.replicas
        seen.append(ordered)
    assert seen == every_sync(policy, demands, interval)


def test_a_failed_metric_means_no_scaling() -> None:
    decision = HpaPolicy().decide(observation(demand=float("nan"), ordered=7))
    assert (decision.replicas, decision.reason) == (7, Reason.ABSENT_DATA)


def test_scale_down_waits_five_minutes_by_default() -> None:
    policy, memory, ordered, seen = HpaPolicy(), None, 20, []
    for minute in range(8):
        demand = 1600.0 if minute == 0 else 400.0
        decision = policy.decide(
            observation(now_s=minute * 60.0, demand=demand, ordered=ordered, ready=ordered, memory=memory)
        )
        memory, ordered = decision.memory, decision.replicas
        seen.append(ordered)
    assert seen[:5] == [20] * 5
    assert seen[6:] == [5, 5]


def test_settings_say_what_was_tuned() -> None:
    policy = replace(HpaPolicy(), target=0.6)
    assert policy.settings == {"target": 0.6, "tolerance": 0.1, "scale_down_window_s": 300.0}
