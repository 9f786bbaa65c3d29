"""`ReplayResult`: what a replay found, policy by policy, in plain arrays and numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from forecasting.panel import BoolArray, FloatArray, IntArray
from harmony.decision.agreement import Agreement, agreement
from harmony.decision.budget import chance_band
from harmony.model.decision import Tried
from harmony.schema.surface import PLAIN

__all__ = ["Fan", "PolicyRun", "ReplayResult"]


@dataclass(frozen=True, eq=False, slots=True)
class Fan:
    """A forecast fan for plotting: what was forecast one lead time before each step.

    `steps` (n,) row numbers of the trace; `quantiles` level -> (n,) demand at those rows as forecast beforehand.
    """

    steps: IntArray
    quantiles: dict[float, FloatArray]


@dataclass(frozen=True, eq=False, slots=True)
class PolicyRun:
    """One policy's run over the whole trace; figures count the scored part only.

    Attributes:
        name, settings: which policy, with which (possibly tuned) settings.
        ordered, ready: (steps,) replicas asked for, and serving.
        violated: (steps,) True where known demand exceeded what the ready replicas carried.
        gpu_hours: desired replicas (starting and ready) x GPUs each x hours.
        cost: money for them.
        violation_rate: violated steps over steps with known demand.
        violated_seconds: their duration.
        scale_events: changes of the desired count.
        stated_risk: mean stated violation probability; None for a policy that states none.
        objective_met: False if at some step no permitted replica count could meet the objective.
        unreachable_steps: how many such steps.
        reasons: decisions per reason.
        seconds: time the replay of this policy took.
        fan: forecast fan, None without forecasts.
        requests: latency figures of the request-level world, empty for a rate-level one.
        tried: what a policy that replays its own past found there at last; None for others.
    """

    name: str
    settings: dict[str, float | int | str]
    ordered: IntArray
    ready: IntArray
    violated: BoolArray
    gpu_hours: float
    cost: float
    violation_rate: float
    violated_seconds: float
    scale_events: int
    stated_risk: float | None
    objective_met: bool
    unreachable_steps: int
    reasons: dict[str, int]
    seconds: float
    fan: Fan | None = None
    requests: dict[str, float] = field(default_factory=dict)
    tried: Tried | None = None

    def to_json(self) -> dict[str, Any]:
        """The figures (no arrays)."""
        names = (
            "settings", "gpu_hours", "cost", "violation_rate", "violated_seconds", "scale_events", "stated_risk",
            "objective_met", "unreachable_steps", "reasons", "seconds",
        )  # fmt: skip
        out = {n: getattr(self, n) for n in names}
        if self.tried is not None:
            out["tried"] = {"allowed": self.tried.allowed, "families": PLAIN.rows(self.tried)}
        return out | ({"requests": self.requests} if self.requests else {})


@dataclass(frozen=True, eq=False, slots=True)
class ReplayResult:
    """A whole replay: the trace's demand, the world's settings and every policy's run.

    `demand` (steps,) in `unit`; rows from `scored_from` on are scored.
    """

    trace: str
    trace_digest: str
    demand_name: str
    unit: str
    demand: FloatArray
    start_s: float
    step_s: float
    calendar: bool
    scored_from: int
    replica_capacity: float
    lead_time_s: float
    epsilon: float
    seed: int
    tuned: bool
    world: str
    policies: dict[str, PolicyRun]
    notes: tuple[str, ...] = ()

    def chance_band(self) -> tuple[FloatArray, FloatArray]:
        """(scored steps,) fewest and most violated steps so far, of 95 % of the policies that keep epsilon exactly."""
        known = np.cumsum(np.isfinite(self.demand[self.scored_from :])).astype(np.float64)
        together = max(1, math.ceil(round(self.lead_time_s / self.step_s, 9))) + 1  # a lead time, as decisions have it
        return chance_band(known, self.epsilon, together)

    def agreement(self, run: PolicyRun) -> Agreement | None:
        """Stated beside realised risk of the scored part; None for a policy that states none."""
        known = float(np.isfinite(self.demand[self.scored_from :]).sum())
        block = max(1, math.ceil(round(self.lead_time_s / self.step_s, 9)))
        return agreement(run.stated_risk, float(run.violated[self.scored_from :].sum()), known, block)

    def judgement(self, run: PolicyRun) -> str | None:
        """Whether its stated and realised risk agree (a `Judgement`); None where that cannot be said."""
        found = self.agreement(run)
        return None if found is None or found.judgement is None else str(found.judgement)

    def error_budget(self, run: PolicyRun) -> dict[str, Any]:
        """What the scored part allows to be violated, what was, and the band in which chance alone would leave it."""
        few, many = self.chance_band()
        spent = np.cumsum(run.violated[self.scored_from :])
        inside = (few <= spent) & (spent <= many)
        return {
            "allowed_steps": self.epsilon * float(np.isfinite(self.demand[self.scored_from :]).sum()),
            "spent_steps": int(spent[-1]),
            "band_steps": [float(few[-1]), float(many[-1])],
            "within_band": bool(inside[-1]),
            "time_within_band": float(inside.mean()),
        }

    def to_json(self) -> dict[str, Any]:
        """The promised `replay.json`; only the keys named "seconds" differ between two runs of one replay."""
        return {
            "trace": self.trace,
            "trace_digest": self.trace_digest,
            "demand": self.demand_name,
            "unit": self.unit,
            "steps": int(self.demand.size),
            "scored_steps": int(self.demand.size - self.scored_from),
            "step_seconds": self.step_s,
            "replica_capacity": self.replica_capacity,
            "lead_time_seconds": self.lead_time_s,
            "epsilon": self.epsilon,
            "seed": self.seed,
            "tuned": self.tuned,
            "world": self.world,
            "notes": list(self.notes),
            "policies": {
                name: run.to_json() | {"stated_judgement": self.judgement(run), "error_budget": self.error_budget(run)}
                for name, run in self.policies.items()
            },
        }
