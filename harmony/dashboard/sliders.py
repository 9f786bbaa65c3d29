"""The what-if form's sliders: ranges around what is set."""

from __future__ import annotations

import math
from dataclasses import dataclass

from harmony.serving import Snapshot

__all__ = ["Slider", "sliders"]


@dataclass(frozen=True, slots=True)
class Slider:
    """One input: `name` is the what-if request's field, `now` the present setting, `form` how it is written."""

    name: str
    label: str
    min: float
    max: float
    step: float
    value: float
    now: float
    scale: str
    form: str


def sliders(snapshot: Snapshot) -> list[Slider]:
    """Objective, prices and the maximum of this service; no prices where they only count when a setting is chosen."""
    objective = snapshot.record.observation.objective
    price, miss = objective.price_per_gpu_hour, objective.miss_price_per_replica_hour
    epsilon, most = objective.epsilon, objective.max_replicas
    top = _round_up(max(10.0, 4 * price))
    miss_top = _round_up(max(100.0, 4 * miss))
    used = max(snapshot.ordered, snapshot.recommended, objective.min_replicas, 1)
    far = most if most <= 4 * used else 4 * used  # a bound of 100,000 would leave nothing to move
    log = math.log10(min(0.5, max(1e-4, epsilon)))
    every = [
        Slider("epsilon", "Objective: violation rate ≤", -4, -0.31, 0.01, round(log, 2), epsilon, "log", "percent"),
        Slider("price_per_gpu_hour", "Price of a GPU-hour", 0, top, top / 200, price, price, "linear", "money"),
        Slider("miss_price_per_replica_hour", "Price of an hour one replica short", 0, miss_top, miss_top / 200, miss,
               miss, "linear", "money"),
        Slider("max_replicas", "Most replicas", max(1, objective.min_replicas), max(1, far),
               1, min(most, far), most, "linear", "count"),
    ]  # fmt: skip
    chosen = bool(snapshot.record.decision.setting)
    return [slider for slider in every if not (chosen and slider.form == "money")]


def _round_up(value: float) -> float:
    """To one significant digit."""
    unit: float = 10.0 ** math.floor(math.log10(value))
    return math.ceil(value / unit) * unit
