"""Guards against a plain reimplementation of the HorizontalPodAutoscaler's rules, and laws."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from harmony.decision.guards import GuardMemory, apply_behavior
from harmony.model.objective import Behavior, ScalingPolicy, ScalingRules

rules = st.builds(
    ScalingRules,
    stabilization_window_s=st.sampled_from([0.0, 15.0, 60.0, 300.0]),
    policies=st.lists(
        st.builds(
            ScalingPolicy,
            type=st.sampled_from(["Pods", "Percent"]),
            value=st.sampled_from([1, 4, 10, 50, 100]),
            period_s=st.sampled_from([15.0, 60.0]),
        ),
        max_size=2,
    ).map(tuple),
    select=st.sampled_from(["Max", "Min", "Disabled"]),
)
behaviors = st.builds(Behavior, scale_up=rules, scale_down=rules)
wishes = st.lists(st.integers(0, 60), min_size=1, max_size=40)


class NaiveGuards:
    """Keeps everything and recomputes it each time, in the words of the API reference."""

    def __init__(self, behavior: Behavior) -> None:
        self.behavior = behavior
        self.asked: list[tuple[float, int]] = []
        self.changes: list[tuple[float, int]] = []

    def __call__(self, now: float, current: int, desired: int) -> int:
        up, down = self.behavior.scale_up, self.behavior.scale_down
        self.asked.append((now, desired))
        most = max([desired, *(r for t, r in self.asked if t > now - down.stabilization_window_s)])
        least = min([desired, *(r for t, r in self.asked if t > now - up.stabilization_window_s)])
        count = min(max(current, least), most)
        if count > current:
            count = min(count, self._limit(up, now, current, +1))
        elif count < current:
            count = max(count, self._limit(down, now, current, -1))
        if count != current:
            self.changes.append((now, count - current))
        return count

    def _limit(self, rule: ScalingRules, now: float, current: int, sign: int) -> int:
        if rule.select == "Disabled":
            return current
        if not rule.policies:
            return 10**9 if sign > 0 else 0
        limits = []
        for p in rule.policies:
            before = current - sum(c for t, c in self.changes if t > now - p.period_s)
            if p.type == "Pods":
                limits.append(before + sign * p.value)
            elif sign > 0:
                limits.append(math.ceil(round(before * (1 + p.value / 100), 9)))
            else:
                limits.append(math.floor(round(before * (1 - p.value / 100), 9)))
        widest = max if (sign > 0) == (rule.select == "Max") else min
        return max(widest(limits), current) if sign > 0 else min(max(widest(limits), 0), current)


@given(behaviors, wishes)
def test_equals_the_plain_reimplementation(behavior: Behavior, desired: list[int]) -> None:
    naive, memory, current = NaiveGuards(behavior), GuardMemory(), 10
    for i, wish in enumerate(desired):
        guarded = apply_behavior(memory, behavior, i * 15.0, current, wish)
        assert guarded.replicas == naive(i * 15.0, current, wish)
        memory, current = guarded.memory, guarded.replicas


@given(behaviors, wishes)
def test_never_moves_against_the_wish(behavior: Behavior, desired: list[int]) -> None:
    memory, current = GuardMemory(), 10
    asked: list[int] = []
    for i, wish in enumerate(desired):
        asked.append(wish)
        guarded = apply_behavior(memory, behavior, i * 15.0, current, wish)
        assert min(current, *asked) <= guarded.replicas <= max(current, *asked)
        memory, current = guarded.memory, guarded.replicas


def test_hold_waits_for_the_window_and_scales_up_at_once() -> None:
    behavior, memory, current, seen = Behavior.hold(120.0), GuardMemory(), 5, []
    for i, wish in enumerate([5, 9, 3, 3, 3, 3]):
        guarded = apply_behavior(memory, behavior, i * 60.0, current, wish)
        memory, current = guarded.memory, guarded.replicas
        seen.append((guarded.replicas, guarded.bound_by))
    assert seen == [(5, ""), (9, ""), (9, "stabilization"), (3, ""), (3, ""), (3, "")]


def test_default_behavior_doubles_or_adds_four_in_15_seconds() -> None:
    memory, current, seen = GuardMemory(), 1, []
    for i in range(5):
        guarded = apply_behavior(memory, Behavior(), i * 15.0, current, 100)
        memory, current = guarded.memory, guarded.replicas
        seen.append(current)
    assert seen == [5, 10, 20, 40, 80]


def test_memory_stays_small_under_steady_wishes() -> None:
    behavior, memory = Behavior.hold(10_800.0), GuardMemory()
    for i in range(2000):
        memory = apply_behavior(memory, behavior, i * 15.0, 10, 10 - i % 3).memory
    assert len(memory.highs) <= 4
