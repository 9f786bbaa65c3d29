"""CPU time of deciding for 1,000 services, 500 paths x 12 steps x 64 counts each: `python benchmarks/decide_speed.py`.

What a tick spends on two cores is half of it where services are split between them; here all is on one.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from forecasting.distribution import ForecastDistribution
from forecasting.panel import Indicator
from harmony.decision.price import PriceRule, decide_by_price
from harmony.decision.rule import decide
from harmony.model.capacity import Capacity
from harmony.model.decision import Decision
from harmony.model.lead_time import LeadTime
from harmony.model.objective import Objective
from harmony.model.observation import Observation
from harmony.policies.harmony import HarmonyPolicy

SERVICES, PATHS, STEPS, COUNTS = 1_000, 500, 12, 64
STEP_S = 60.0
PAST = 2_000


def main() -> None:
    """Print CPU seconds of each rule."""
    rng = np.random.default_rng(0)
    level = 25.0 * np.exp(0.25 * rng.standard_normal((SERVICES, 1, 1)))
    drawn = level * np.exp(0.05 * rng.standard_normal((SERVICES, PATHS, STEPS)).cumsum(axis=2))
    seen = [_observation(paths, float(paths[:, 0].mean())) for paths in drawn]
    policy = HarmonyPolicy()
    at = np.arange(PAST)
    past = 25.0 * np.exp(0.4 * np.sin(at / 200.0) + 0.1 * rng.standard_normal(PAST))
    given = past[:, None] * np.array([1.0, 1.2, 1.1, 1.3])
    memory = policy.remembering(seen[0], past, given)
    print(f"setting in force: {memory.past.setting.label if memory.past.setting else 'none'}")
    rules: dict[str, Callable[[Observation], Decision]] = {
        "fixed level (`decide`)": decide,
        "price on sample paths (`decide_by_price`)": lambda o: decide_by_price(o, PriceRule(100.0)),
        "the policy `harmony`, a setting in force": lambda o: policy.decide(_with(o, memory)),
    }
    for name, rule in rules.items():
        rule(seen[0])
        began = time.process_time()
        for observation in seen:
            rule(observation)
        print(f"{name}: {time.process_time() - began:.2f} s CPU for {SERVICES:,} services")


def _observation(paths: np.ndarray, demand: float) -> Observation:
    forecast = ForecastDistribution(paths[:, :, None], (Indicator("demand"),), 0.0, STEP_S, "benchmark")
    return Observation(
        now_s=PAST * STEP_S,
        step_s=STEP_S,
        interval_s=STEP_S,
        demand=demand,
        ordered=30,
        ready=30,
        objective=Objective(min_replicas=1, max_replicas=COUNTS),
        capacity=Capacity.known(1.0),
        lead_time=LeadTime.known(STEPS * STEP_S),
        forecast=forecast,
    )


def _with(observation: Observation, memory: object) -> Observation:

    return replace(observation, memory=memory)


if __name__ == "__main__":
    main()
