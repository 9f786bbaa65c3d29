"""Guards against a plain reimplementation of the HorizontalPodAutoscaler's rules, and laws."""

from __future__ import annotations

import math
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from harmony.decision.guards import GuardMemory, apply_behavior, held_until_s
from harmony.model.objective import Behavior, ScalingPolicy, ScalingRules, Stages

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


@given(behaviors, wishes, st.integers(0, 60))
def test_windows_let_go_when_they_say(behavior: Behavior, before: list[int], wish: int) -> None:
    """With the same wish from then on, the count stands until the moment named, and moves at it."""
    plain = Behavior(
        replace(behavior.scale_up, policies=(), select="Max"), replace(behavior.scale_down, policies=(), select="Max")
    )
    memory, current = GuardMemory(), 10
    for i, asked in enumerate(before):
        guarded = apply_behavior(memory, plain, i * 15.0, current, asked)
        memory, current = guarded.memory, guarded.replicas
    now_s = len(before) * 15.0
    guarded = apply_behavior(memory, plain, now_s, current, wish)
    if guarded.bound_by != "stabilization":
        return
    until_s = held_until_s(memory, plain, now_s, wish, guarded.replicas)
    assert until_s > now_s
    for moment_s, stands in ((until_s - 0.001, True), (until_s, False)):
        later = apply_behavior(guarded.memory, plain, moment_s, guarded.replicas, wish).replicas
        assert (later == guarded.replicas) == stands


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


# ---- staged scale-down ---------------------------------------------------------------------------------------
def staged(percent: int = 25, interval_s: float = 300.0, window_s: float = 0.0) -> Behavior:
    return Behavior(ScalingRules(), ScalingRules(window_s), Stages(percent, interval_s))


def live(behavior: Behavior, asked: list[tuple[float, int]], current: int) -> list[tuple[int, str]]:
    memory, seen = GuardMemory(), []
    for now, desired in asked:
        guarded = apply_behavior(memory, behavior, now, current, desired)
        memory, current = guarded.memory, guarded.replicas
        seen.append((current, guarded.bound_by))
    return seen


def test_a_stage_removes_its_share_and_the_next_waits() -> None:
    asked = [(60.0 * i, 2) for i in range(12)]
    counts = [c for c, _ in live(staged(), asked, 20)]
    assert counts == [15, 15, 15, 15, 15, 12, 12, 12, 12, 12, 9, 9]


def test_a_stage_may_always_remove_one() -> None:
    assert [c for c, _ in live(staged(percent=10), [(300.0 * i, 0) for i in range(4)], 3)] == [2, 1, 0, 0]


def test_a_wish_for_as_many_ends_the_staging_at_once() -> None:
    """The stage of second 0 would have blocked second 120; after the wish for 15 a new one begins with 15."""
    seen = live(staged(), [(0.0, 2), (60.0, 15), (120.0, 2)], 20)
    assert seen == [(15, "stages"), (15, ""), (12, "stages")]
    assert live(staged(), [(0.0, 2), (60.0, 18), (61.0, 2)], 20)[1:] == [(18, ""), (14, "stages")]


@given(st.integers(1, 100), st.sampled_from([30.0, 60.0, 300.0]), wishes, st.integers(0, 60))
def test_stages_only_slow_the_way_down(percent: int, interval_s: float, desired: list[int], current: int) -> None:
    memory, began, stage_from = GuardMemory(), -1e9, current
    for i, wish in enumerate(desired):
        now = i * 15.0
        guarded = apply_behavior(memory, staged(percent, interval_s), now, current, wish)
        assert min(current, wish) <= guarded.replicas <= max(current, wish)
        if wish >= current:
            assert guarded.replicas == wish
            began = -1e9
        else:
            if now - began >= interval_s:
                began, stage_from = now, current
            assert stage_from - guarded.replicas <= max(1, stage_from * percent / 100)
        memory, current = guarded.memory, guarded.replicas


# ---- clocks that are set -------------------------------------------------------------------------------------
@given(behaviors, wishes, wishes, st.sampled_from([-3600.0, 3600.0]))
def test_a_clock_set_by_an_hour_holds_no_longer_than_one_window(
    behavior: Behavior, before: list[int], after: list[int], jump_s: float
) -> None:
    memory, current = GuardMemory(), 10
    for i, wish in enumerate(before):
        guarded = apply_behavior(memory, behavior, 10_000.0 + i * 15.0, current, wish)
        memory, current = guarded.memory, guarded.replicas
    began = 10_000.0 + len(before) * 15.0 + jump_s
    for i, wish in enumerate(after):
        now = began + i * 15.0
        guarded = apply_behavior(memory, behavior, now, current, wish)
        memory, current = guarded.memory, guarded.replicas
        marks = (*memory.highs, *memory.lows, *memory.ups, *memory.downs)
        assert all(at <= now for at, _ in marks)
        assert list(memory.highs) == sorted(memory.highs, key=lambda m: (m[0], -m[1]))
    steady = apply_behavior(memory, Behavior.hold(300.0), began + len(after) * 15.0 + 300.0, current, 0)
    assert steady.replicas == 0


def test_a_clock_set_back_neither_drops_nor_stretches_a_hold() -> None:
    memory = apply_behavior(GuardMemory(), Behavior.hold(300.0), 10_000.0, 5, 9).memory
    seen = []
    for now in (6_400.0, 6_699.0, 6_700.0):
        guarded = apply_behavior(memory, Behavior.hold(300.0), now, 9, 3)
        memory = guarded.memory
        seen.append(guarded.replicas)
    assert seen == [9, 9, 3]


def test_a_clock_set_back_does_not_stretch_a_stage() -> None:
    memory = apply_behavior(GuardMemory(), staged(), 10_000.0, 20, 2).memory
    assert apply_behavior(memory, staged(), 6_400.0, 15, 2).replicas == 15
    memory = apply_behavior(memory, staged(), 6_400.0, 15, 2).memory
    assert apply_behavior(memory, staged(), 6_700.0, 15, 2).replicas == 12


def test_what_was_not_applied_is_not_remembered_as_a_change() -> None:
    limits = Behavior(ScalingRules(), ScalingRules(0.0, (ScalingPolicy("Percent", 50, 600.0),)), Stages(50, 600.0))
    guarded = apply_behavior(GuardMemory(), limits, 0.0, 20, 2)
    assert guarded.replicas == 10
    kept = guarded.memory.corrected(0.0, 20, 20)
    assert (kept.downs, kept.stage) == ((), None)
    assert guarded.memory.corrected(0.0, 20, 15).downs == ((0.0, 5),)
    assert apply_behavior(kept, limits, 60.0, 20, 2).replicas == 10
