"""Guards: stabilisation and rate limits in the shape of the HorizontalPodAutoscaler's `behavior`, as pure functions.

The arithmetic follows kubernetes/pkg/controller/podautoscaler/horizontal.go
(stabilizeRecommendationWithBehaviors, calculateScaleUpLimitWithScalingRules, ...ScaleDown...).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from harmony.model.memory import GuardMemory, Marks
from harmony.model.objective import Behavior, ScalingRules, Stages

__all__ = ["GuardMemory", "Guarded", "Marks", "apply_behavior", "held_until_s"]

UNLIMITED = 2**62


@dataclass(frozen=True, slots=True)
class Guarded:
    """The count that the guards allow, the guard that bound ("" for none) and what to remember."""

    replicas: int
    bound_by: str
    memory: GuardMemory


def apply_behavior(memory: GuardMemory, behavior: Behavior, now_s: float, current: int, desired: int) -> Guarded:
    """Stabilise ``desired`` over the windows, then limit its rate; never turns a scale-up into a scale-down.

    ``current`` is the current replicas. The returned memory includes this recommendation and its effect. Times may go
    backwards (see `GuardMemory.at`).
    """
    memory = memory.at(now_s)
    up, down = behavior.scale_up, behavior.scale_down
    highs = _remember(memory.highs, now_s, desired, down.stabilization_window_s, keep_high=True)
    lows = _remember(memory.lows, now_s, desired, up.stabilization_window_s, keep_high=False)
    most = highs[0][1] if highs else desired
    least = lows[0][1] if lows else desired
    stable = current
    if stable < least:
        stable = least
    if stable > most:
        stable = most
    bound = "" if stable == desired else "stabilization"
    limited = stable
    if stable > current:
        limited = min(stable, _up_limit(up, memory, now_s, current))
    elif stable < current:
        limited = max(stable, _down_limit(down, memory, now_s, current))
    if limited != stable:
        bound = "behavior"
    stage = None
    if behavior.stages is not None:
        stage, limited, bound = _staged(memory.stage, behavior.stages, now_s, current, desired, limited, bound)
    ups, downs = memory.ups, memory.downs
    if (ups or downs or limited != current) and (up.policies or down.policies):
        since = now_s - max(p.period_s for rules in (up, down) for p in rules.policies)
        ups = tuple(m for m in ups if m[0] > since)
        downs = tuple(m for m in downs if m[0] > since)
        if limited > current:
            ups = (*ups, (now_s, limited - current))
        elif limited < current:
            downs = (*downs, (now_s, current - limited))
    return Guarded(limited, bound, GuardMemory(highs, lows, ups, downs, stage))


def held_until_s(memory: GuardMemory, behavior: Behavior, now_s: float, desired: int, stable: int) -> float:
    """When the windows let go of ``stable``, where ``desired`` is asked for from now on; NaN where they hold nothing.

    ``memory`` is that of before ``desired``.
    """
    memory = memory.at(now_s)
    if stable > desired:
        at_s = [at for at, asked in memory.highs if asked >= stable]
        return at_s[-1] + behavior.scale_down.stabilization_window_s if at_s else math.nan
    at_s = [at for at, asked in memory.lows if asked <= stable < desired]
    return at_s[-1] + behavior.scale_up.stabilization_window_s if at_s else math.nan


def _staged(
    stage: tuple[float, int] | None,
    rule: Stages,
    now_s: float,
    current: int,
    desired: int,
    limited: int,
    bound: str,
) -> tuple[tuple[float, int] | None, int, str]:
    """The stage, the count and what bound, after the limit on the way down; ``desired`` is the raw recommendation."""
    if desired >= current:
        return None, limited, bound
    if limited >= current:
        return stage, limited, bound
    if stage is None or now_s - stage[0] >= rule.interval_s:
        stage = (now_s, current)
    fewest = stage[1] - max(1, math.floor(round(stage[1] * rule.percent / 100, 9)))
    allowed = min(current, max(limited, fewest))
    return stage, allowed, bound if allowed == limited else "stages"


def _remember(marks: Marks, now_s: float, value: int, window_s: float, *, keep_high: bool) -> Marks:
    """Add a recommendation, drop those that left the window and those that can no longer be its extreme.

    What stays is monotone, so the window's extreme is the first entry.
    """
    if window_s <= 0.0:
        return ()
    kept = list(marks)
    while kept and (kept[-1][1] <= value if keep_high else kept[-1][1] >= value):
        kept.pop()
    kept.append((now_s, value))
    cutoff = now_s - window_s
    while kept[0][0] <= cutoff:
        kept.pop(0)
    return tuple(kept)


def _changed(marks: Marks, now_s: float, period_s: float) -> int:
    """Replicas added (or removed) within the last ``period_s`` seconds."""
    return sum(n for at, n in marks if at > now_s - period_s)


def _up_limit(rules: ScalingRules, memory: GuardMemory, now_s: float, current: int) -> int:
    """Most replicas that the scale-up policies allow now."""
    if rules.select == "Disabled":
        return current
    if not rules.policies:
        return UNLIMITED
    limits = []
    for p in rules.policies:
        began = current - _changed(memory.ups, now_s, p.period_s) + _changed(memory.downs, now_s, p.period_s)
        # ceil as in the original; rounded first so that 10 * 1.1 is 11 and not 12
        grown = began + p.value if p.type == "Pods" else math.ceil(round(began * (1 + p.value / 100), 9))
        limits.append(grown)
    allowed = max(limits) if rules.select == "Max" else min(limits)
    return max(allowed, current)


def _down_limit(rules: ScalingRules, memory: GuardMemory, now_s: float, current: int) -> int:
    """Fewest replicas that the scale-down policies allow now."""
    if rules.select == "Disabled":
        return current
    if not rules.policies:
        return 0
    limits = []
    for p in rules.policies:
        began = current + _changed(memory.downs, now_s, p.period_s) - _changed(memory.ups, now_s, p.period_s)
        shrunk = began - p.value if p.type == "Pods" else math.floor(round(began * (1 - p.value / 100), 9))
        limits.append(shrunk)
    allowed = min(limits) if rules.select == "Max" else max(limits)
    return min(max(allowed, 0), current)
