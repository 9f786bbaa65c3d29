"""Plain values of a snapshot for API, dashboard and client; absent numbers are null, times are UTC."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np

from forecasting.distribution import ForecastDistribution
from harmony.decision.rule import lead_window
from harmony.model.decision import Candidates, Decision, Tried
from harmony.schema.surface import Spelling, Surface, number, numbers
from harmony.serving.snapshot import Snapshot
from harmony.serving.words import sentence

__all__ = [
    "LEVELS",
    "TOLD",
    "decision_json",
    "forecast_json",
    "history_json",
    "number",
    "numbers",
    "summary_json",
    "utc",
]

Json = dict[str, Any]
# How a decision is told by API and command line: as the model has it, forecasts to six digits.
TOLD = Surface(
    {
        Candidates: Spelling("Candidate", "One replica count that was weighed."),
        Tried: Spelling(
            "TriedSetting",
            "The best setting of one family on the service's own past; the first one is in force.",
            digits={"replicas": 6, "violated": 6},
        ),
        Decision: Spelling(digits={"quantiles": 6}),
    }
)
LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95, 0.99)


def utc(seconds: float) -> str | None:
    """RFC 3339 in UTC to the second, such as ``2026-03-01T12:00:00Z``; None for a time that is not known."""
    if not math.isfinite(seconds):
        return None
    # Not strftime, whose years before 1000 have fewer than four digits.
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds").removesuffix("+00:00") + "Z"


def summary_json(snapshot: Snapshot) -> Json:
    """One row of a fleet table. Made once per snapshot: do not change it."""
    if "summary" not in snapshot.cache:
        snapshot.cache["summary"] = _summary(snapshot)
    out: Json = snapshot.cache["summary"]
    return out


def _summary(snapshot: Snapshot) -> Json:
    seen, decision = snapshot.record.observation, snapshot.record.decision
    return {
        "service": snapshot.service,
        "kind": snapshot.kind,
        "target": snapshot.target,
        "gpu_type": snapshot.gpu_type,
        "mode": snapshot.mode,
        "effective_mode": snapshot.effective_mode,
        "ordered": snapshot.ordered,
        "ready": snapshot.ready,
        "recommended": decision.replicas,
        "desired": snapshot.desired,
        "held_by": snapshot.held_by,
        "demand": number(seen.demand),
        "unit": snapshot.unit,
        "violation_probability": number(decision.violation_probability),
        "paths": decision.paths,
        "epsilon": seen.objective.epsilon,
        "reason": str(decision.reason),
        "realized": number(snapshot.realized),
        "stated": number(snapshot.stated),
        "stated_judgement": _judgement(snapshot),
        "real": _counts(snapshot, "real"),
        "shadow": _counts(snapshot, "shadow"),
        "bill_per_hour": number(snapshot.bill_per_hour),
        "idle_per_hour": number(snapshot.idle_per_hour),
        "currency": snapshot.currency,
        "gpu_hours_saved": number(snapshot.gpu_hours_saved),
        "misses": {"avoided_s": number(snapshot.misses_avoided_s), "caused_s": number(snapshot.misses_caused_s)},
        "coverage_80": number(snapshot.coverage.get(0.8)),
        "at": utc(snapshot.at_s),
    }


def _judgement(snapshot: Snapshot) -> str | None:
    judged = None if snapshot.agreement is None else snapshot.agreement.judgement
    return None if judged is None else str(judged)


def _counts(snapshot: Snapshot, whose: str) -> Json | None:
    """Violated steps of the real replicas or of the shadow's since counting began; None where none were judged."""
    counts = snapshot.violations
    if counts is None:
        return None
    steps, violated = (
        (counts.real_steps, counts.real_violated) if whose == "real" else (counts.shadow_steps, counts.shadow_violated)
    )
    return {"steps": steps, "violated": violated, "rate": violated / steps} if steps else None


def decision_json(snapshot: Snapshot) -> Json:
    """The decision with every alternative, what it was made of and a sentence. Made once: do not change it."""
    if "decision" not in snapshot.cache:
        snapshot.cache["decision"] = _decision(snapshot)
    out: Json = snapshot.cache["decision"]
    return out


def _decision(snapshot: Snapshot) -> Json:
    record = snapshot.record
    seen, objective = record.observation, record.observation.objective
    low, high = seen.capacity.interval(0.9)
    return {
        "service": snapshot.service,
        "at": utc(seen.now_s),
        **TOLD.values(record.decision),
        "desired": snapshot.desired,
        "held_by": snapshot.held_by,
        "sentence": sentence(snapshot),
        "epsilon": objective.epsilon,
        "risk_level": number(seen.risk_level),
        "measure": objective.measure,
        "currency": snapshot.currency,
        "demand": number(seen.demand),
        "unit": snapshot.unit,
        "ordered": snapshot.ordered if snapshot.has_shadow else seen.ordered,
        "ready": snapshot.ready if snapshot.has_shadow else seen.ready,
        "shadow_ordered": seen.ordered if snapshot.has_shadow else None,
        "shadow_ready": seen.ready if snapshot.has_shadow else None,
        "min_replicas": objective.min_replicas,
        "max_replicas": objective.max_replicas,
        "capacity": {"median": number(seen.capacity.median), "low": number(low), "high": number(high)},
        "lead_time": {"p50_s": number(seen.lead_time.median_s), "p90_s": number(seen.lead_time.quantile_s(0.9))},
        "window_s": lead_window(seen) * seen.step_s,
        "bill_per_hour": number(snapshot.bill_per_hour),
        "idle_per_hour": number(snapshot.idle_per_hour),
        "outcome": {
            "steps": record.outcome.steps,
            "violated": record.outcome.violated,
            "real_steps": record.outcome.real_steps,
            "real_violated": record.outcome.real_violated,
        },
    }


def forecast_json(snapshot: Snapshot, paths: int = 0, indicators: Sequence[str] = ()) -> Json | None:
    """Quantiles per step of the demand (or of the named ``indicators``), and up to ``paths`` sample paths of each.

    None when this turn had no forecast; `DataError` for an indicator that was not forecast. "indicators" maps a name
    to its level, unit, "quantiles" ({"0.05": [...], ...}), "experts" and "paths" (paths, steps).
    """
    forecast = snapshot.record.observation.forecast
    if forecast is None:
        return None
    names = tuple(indicators) or (_demand(snapshot, forecast),)
    key = ("forecast", paths, names)
    if key not in snapshot.cache:
        if paths:  # large, and rarely asked for twice
            return _forecast(snapshot, forecast, paths, names)
        snapshot.cache[key] = _forecast(snapshot, forecast, 0, names)
    out: Json = snapshot.cache[key]
    return out


def _demand(snapshot: Snapshot, forecast: ForecastDistribution) -> str:
    """The name of the demand in the forecast."""
    name = snapshot.record.observation.objective.demand or snapshot.demand_name
    return name if name in forecast.names else forecast.names[0]


def _forecast(snapshot: Snapshot, forecast: ForecastDistribution, paths: int, names: Sequence[str]) -> Json:
    seen = snapshot.record.observation
    return {
        "service": snapshot.service,
        "origin": utc(forecast.origin_s),
        "step_s": forecast.step_s,
        "horizon": forecast.horizon,
        "lead_steps": min(lead_window(seen), forecast.horizon),
        "times": [utc(t) for t in forecast.times_s.tolist()],
        "model": forecast.model,
        "samples": forecast.samples,
        "demand": _demand(snapshot, forecast),
        "capacity_per_replica": number(seen.capacity.median),
        "available": list(forecast.names),
        "indicators": {name: _indicator(forecast, name, paths) for name in names},
    }


def _indicator(forecast: ForecastDistribution, name: str, paths: int) -> Json:
    about = forecast.indicators[forecast.position(name)]
    values = forecast.of(name)
    levels = np.quantile(values, LEVELS, axis=0)
    out: Json = {
        "level": about.level,
        "unit": about.unit,
        "quantiles": {f"{q:g}": numbers(row) for q, row in zip(LEVELS, levels, strict=True)},
    }
    if forecast.experts:
        out["experts"] = forecast.leading_experts(name)
    if paths:
        out["paths"] = [numbers(row) for row in values[: min(paths, forecast.samples)]]
    return out


def history_json(snapshot: Snapshot) -> Json:
    """Recent demand, oldest first."""
    return {
        "service": snapshot.service,
        "indicator": snapshot.demand_name,
        "unit": snapshot.unit,
        "times": [utc(t) for t in snapshot.history_s.tolist()],
        "values": numbers(snapshot.history),
    }
