"""The services of the demo: what is asked of them, what they run on, and how much authority was granted."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from harmony.metrics import ServiceName
from harmony.model.authority import Mode, Pause
from harmony.model.objective import Behavior, Fallback, Objective, ScalingRules
from simulator.pool import StartUp
from simulator.traces.profiles import PROFILES, GeneratorOptions

__all__ = ["DemoSpec", "demo_specs"]

MINUTE_S = 60.0


@dataclass(frozen=True, slots=True)
class DemoKey:
    """Labels of a service's metrics."""

    namespace: str
    name: str
    kind: str = "Demo"


@dataclass(frozen=True, slots=True)
class DemoSpec:
    """One service of the demo.

    Attributes:
        namespace, name: as in a cluster.
        mode: granted authority; with Recommend and Floor a HorizontalPodAutoscaler keeps the count.
        demand: shape of its demand, requests/s.
        seed: of its random streams.
        per_replica: requests/s that one ready replica carries.
        objective: what is allowed, prices, bounds and limits.
        start_up: how long starts really take; `guess_s` is what is believed before the first one was seen.
        gpu_type: what a replica runs on.
        pause: what the user has stopped.
        hpa_target: utilisation that the HorizontalPodAutoscaler beside it aims at; 0 for none beside it.
        lost_every_s, lost_s: readings are lost for about ``lost_s`` about every ``lost_every_s``; 0 for never.
        refused: share of scale-ups that the cluster refuses (a quota).
        trimmed_every_h: hours after which a person gives back what UpOnly never does; 0 for never.
        roll: minutes by which the demand is shifted, `scale` what it is multiplied with (copies of a service).
    """

    namespace: str
    name: str
    mode: Mode
    demand: GeneratorOptions
    seed: int
    per_replica: float
    objective: Objective
    start_up: StartUp
    guess_s: float
    gpu_type: str
    pause: Pause = field(default_factory=Pause)
    hpa_target: float = 0.7
    lost_every_s: float = 0.0
    lost_s: float = 0.0
    refused: float = 0.0
    trimmed_every_h: int = 0
    roll: int = 0
    scale: float = 1.0

    @property
    def service(self) -> str:
        """namespace/name."""
        return f"{self.namespace}/{self.name}"

    @property
    def key(self) -> ServiceName:
        """Labels of its metrics."""
        return DemoKey(self.namespace, self.name)


def _objective(epsilon: float, price: float, most: int, gpus: int = 1, fallback: Fallback | None = None) -> Objective:
    """An objective on the share of time, with a scale-down that waits five minutes."""
    limits = Behavior(scale_up=ScalingRules(), scale_down=ScalingRules(5 * MINUTE_S))
    return Objective(
        epsilon=epsilon,
        demand="requests",
        price_per_gpu_hour=price,
        gpus_per_replica=gpus,
        min_replicas=1,
        max_replicas=most,
        behavior=limits,
        fallback=fallback,
    )


_CHAT = PROFILES["chat"]
_CALM = replace(_CHAT, outages_per_week=0.0, missing_share=0.0005, growth_per_week=0.0)
_KINDS = (
    DemoSpec(  # busy by day; the cluster refuses a scale-up now and then
        namespace="serving",
        name="chat",
        mode=Mode.FULL,
        demand=replace(_CALM, mean=14.0),
        seed=1,
        per_replica=1.5,
        objective=_objective(0.01, 2.9, 90),
        start_up=StartUp(4.0 * MINUTE_S, 1.2),
        guess_s=6 * MINUTE_S,
        gpu_type="H100-80GB",
        refused=0.06,
    ),
    DemoSpec(  # bursts at any hour; a person trims now and then what UpOnly keeps
        namespace="serving",
        name="code",
        mode=Mode.UP_ONLY,
        demand=replace(PROFILES["code"], fast_cv=0.4, burst_height_median=2.0, burst_cap=6.0, outages_per_week=0.0),
        seed=2,
        per_replica=0.8,
        objective=_objective(0.02, 1.6, 48),
        start_up=StartUp(3.0 * MINUTE_S, 1.3),
        guess_s=5 * MINUTE_S,
        gpu_type="A100-40GB",
        trimmed_every_h=4,
    ),
    DemoSpec(  # busy at night, still run by a HorizontalPodAutoscaler
        namespace="batch",
        name="summaries",
        mode=Mode.RECOMMEND,
        demand=replace(_CALM, mean=22.0, day_half_range=0.9, peak_hour=2.0, weekday_over_weekend=1.1, slow_cv=0.15),
        seed=3,
        per_replica=2.0,
        objective=_objective(0.05, 1.6, 48, gpus=2),
        start_up=StartUp(5.0 * MINUTE_S, 1.2),
        guess_s=5 * MINUTE_S,
        gpu_type="A100-80GB",
        hpa_target=0.6,
    ),
    DemoSpec(  # its readings are lost now and then; HARMONY keeps the minimum of a HorizontalPodAutoscaler
        namespace="search",
        name="rerank",
        mode=Mode.FLOOR,
        demand=replace(PROFILES["web"], service="llm", mean=30.0, outages_per_week=0.0, fast_cv=0.15),
        seed=4,
        per_replica=4.0,
        objective=_objective(0.01, 0.9, 40, fallback=Fallback(4, 16)),
        start_up=StartUp(2.0 * MINUTE_S, 1.15),
        guess_s=4 * MINUTE_S,
        gpu_type="L40S",
        hpa_target=0.8,
        lost_every_s=100 * MINUTE_S,
        lost_s=9 * MINUTE_S,
    ),
    DemoSpec(  # nearly idle
        namespace="research",
        name="playground",
        mode=Mode.FULL,
        demand=replace(_CALM, mean=0.12, on_share=0.3, on_mean_s=40 * MINUTE_S, bursts_per_day=4.0),
        seed=5,
        per_replica=0.5,
        objective=_objective(0.05, 0.6, 4),
        start_up=StartUp(1.5 * MINUTE_S, 1.1),
        guess_s=3 * MINUTE_S,
        gpu_type="L4",
    ),
)


def demo_specs(services: int, seed: int) -> tuple[DemoSpec, ...]:
    """The first ``services`` of the demo: five kinds, then copies of them that are shifted and scaled.

    Five of each kind have demand of their own; further ones are those again at other hours and sizes.
    """
    rng = np.random.default_rng([seed, 0x44454D4F])
    specs = []
    for number in range(services):
        kind, copy = _KINDS[number % len(_KINDS)], number // len(_KINDS)
        spec = replace(kind, seed=kind.seed + 100 * (copy % 5) + 10_000 * seed)
        if copy:
            scale = float(rng.uniform(0.4, 2.0))
            roll = int(rng.integers(-90, 90)) if copy >= 5 else 0
            spec = replace(spec, name=f"{kind.name}-{copy + 1}", scale=scale, roll=roll)
        specs.append(spec)
    return tuple(specs)
