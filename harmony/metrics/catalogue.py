"""The table of all metrics: name, type, labels, what it means; nothing is exported that is not in it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["CATALOGUE", "COVERAGES", "LIMITERS", "QUANTILES", "SERVICE_LABELS", "STAGES", "Definition", "limiter"]

SERVICE_LABELS = ("namespace", "name", "kind")
QUANTILES = ("0.05", "0.5", "0.95", "0.99")
LEAD_QUANTILES = ("0.5", "0.9")
BOUNDS = ("low", "median", "high")
COVERAGES = ("0.5", "0.8", "0.9", "0.95", "0.98")
EFFECTS = ("avoided", "caused")
DIRECTIONS = ("Up", "Down", "None")
STAGES = ("read", "forecast", "decide", "act", "status")
START_BUCKETS_S = (10.0, 20.0, 30.0, 45.0, 60.0, 90.0, 120.0, 180.0, 300.0, 450.0, 600.0, 900.0, 1200.0, 1800.0)
TICK_BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)

# What can bind a decision, as label values; a limit that is not listed counts as "other", so that a new spelling can
# never grow the number of series.
LIMITERS = (
    "epsilon",
    "reactive_floor",
    "min_replicas",
    "max_replicas",
    "stabilization",
    "behavior",
    "stages",
    "fallback",
    "absent_demand",
    "absent_data",
    "absent_forecast",
    "mode",
    "paused",
    "paused_replicas",
    "paused_scale_in",
    "paused_scale_out",
    "rollout_paused",
    "zero_by_hand",
    "warming_up",
    "incomplete",
    "other",
)

_SAID = {
    "its_rollout_is_paused": "rollout_paused",
    "scaled_to_zero_by_hand": "zero_by_hand",
    "its_metrics_are_incomplete": "incomplete",
}


@dataclass(frozen=True, slots=True)
class Definition:
    """One metric.

    Attributes:
        name: full name, with unit and suffix as exported.
        type: Prometheus type ("info" is exported as a gauge that is always 1).
        help: one sentence for people.
        labels: label names besides namespace, name and kind of the service.
        per_service: whether the series also carry namespace, name and kind.
        values: closed set of the first label, where there is one.
        buckets: upper bounds of a histogram's buckets.
    """

    name: str
    type: Literal["gauge", "counter", "histogram", "info"]
    help: str
    labels: tuple[str, ...] = ()
    per_service: bool = True
    values: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


def limiter(bound_by: str) -> str:
    """The label value for what bound a decision or held a plan, as it is said to people."""
    name = bound_by.strip().lower().replace(" ", "_").replace("-", "_")
    name = _SAID.get(name, "mode" if name.startswith("mode_") else name)
    return name if name in LIMITERS else "other"


def _gauge(name: str, text: str, label: str = "", values: tuple[str, ...] = ()) -> Definition:
    return Definition(name, "gauge", text, (label,) if label else (), values=values)


def _counter(name: str, text: str, *labels: str, values: tuple[str, ...] = ()) -> Definition:
    return Definition(name, "counter", text, labels, values=values)


def _process(type_: Literal["gauge", "counter", "histogram", "info"], name: str, text: str, *labels: str) -> Definition:
    return Definition(name, type_, text, labels, per_service=False)


SERVICE_GAUGES = (
    _gauge("harmony_current_replicas", "Replicas that the scale target asked for when it was last read."),
    _gauge("harmony_ready_replicas", "Replicas that serve."),
    _gauge("harmony_recommended_replicas", "Replicas that HARMONY would set if it had full authority."),
    _gauge(
        "harmony_desired_replicas", "Replicas that HARMONY sets, or asks another autoscaler for, within its authority."
    ),
    _gauge("harmony_floor_replicas", "Lower bound that HARMONY holds for another autoscaler (mode Floor)."),
    _gauge("harmony_max_replicas", "Upper bound of the service; nothing overrides it."),
    _gauge("harmony_violation_probability", "Stated probability of a violation at the recommended replicas, 0 to 1."),
    _gauge("harmony_promised_violation_probability", "Violation rate that the objective allows (epsilon), 0 to 1."),
    _gauge(
        "harmony_realized_violation_ratio",
        "Violated share of the steps that decisions answer for, lately; the shadow's while there is no authority.",
    ),
    _gauge("harmony_stated_violation_ratio", "Mean probability that decisions stated for these steps."),
    _gauge(
        "harmony_stated_risk_agrees",
        "1 while stated and realised risk agree, 0 while they differ beyond chance, absent before enough was judged.",
    ),
    _gauge(
        "harmony_error_budget_left_ratio",
        "Share of the error budget of 30 days that is not spent; negative when overspent, absent where none is kept.",
    ),
    _gauge(
        "harmony_error_budget_burn_rate",
        "Violated share of the present clock hour over epsilon: 1 spends the error budget just in time.",
    ),
    _gauge(
        "harmony_error_budget_price",
        "Replica-hours that are spent to prevent one violated hour; absent while no price decides.",
    ),
    _gauge("harmony_demand", "Newest demand in its own unit; absent while there is none."),
    _gauge("harmony_forecast_demand", "Forecast demand one lead time ahead, in demand's unit.", "quantile", QUANTILES),
    _gauge(
        "harmony_capacity_per_replica",
        "Demand that one ready replica carries: median and the 5 % (low) and 95 % (high) points.",
        "bound",
        BOUNDS,
    ),
    _gauge(
        "harmony_lead_time_seconds",
        "Time from asking for the next replica to its being ready.",
        "quantile",
        LEAD_QUANTILES,
    ),
    _gauge(
        "harmony_expected_cost_per_hour",
        "What was weighed: expected money per hour for idle and missing replicas and switching, as recommended.",
    ),
    _gauge("harmony_bill_per_hour", "Money per hour for the current replicas of the real target, used or not."),
    _gauge("harmony_idle_cost_per_hour", "The part of the bill for replicas that present demand does not need."),
    _gauge("harmony_fallback_active", "1 while the fallback decides because data is missing, else 0."),
    _gauge("harmony_metrics_age_seconds", "Age of the newest complete reading of demand."),
    _gauge(
        "harmony_metrics_incomplete",
        "1 while the newest answer does not cover all of the demand, so that it lowers no count, else 0.",
    ),
    _gauge("harmony_shadow_gpu_hours_saved", "GPU-hours that following HARMONY would have saved (running total)."),
    _gauge(
        "harmony_shadow_miss_seconds",
        "Violated seconds that following HARMONY would have avoided or caused (running total).",
        "effect",
        EFFECTS,
    ),
    _gauge(
        "harmony_forecast_coverage_ratio",
        "Share of demand readings inside the forecast's central interval; near the interval when calibrated.",
        "interval",
        COVERAGES,
    ),
    _gauge("harmony_forecast_crps", "Mean continuous ranked probability score of the forecast, in demand's unit."),
)
MODE = Definition("harmony_mode", "gauge", "1 for the granted mode and the mode in effect.", ("mode", "effective"))
DECISIONS = _counter(
    "harmony_decisions_total", "Decisions by direction and reason.", "direction", "reason", values=DIRECTIONS
)
LIMITED = _counter("harmony_decisions_limited_total", "Decisions that a limit bound.", "limiter", values=LIMITERS)
SCALE_ERRORS = _counter(
    "harmony_scale_errors_total", "Changes of the replica count that the target refused or that failed."
)
STEPS = _counter(
    "harmony_judged_steps_total",
    "Steps with known demand that decisions answer for; the shadow's steps while there is no authority.",
)
MISSED = _counter(
    "harmony_missed_steps_total", "Of these, the steps that were violated; by the shadow without authority."
)
REAL_STEPS = _counter("harmony_real_steps_total", "Steps with known demand, whoever set the replicas.")
REAL_VIOLATED = _counter("harmony_real_violated_steps_total", "Of these, the steps that the real replicas violated.")
SHADOW_STEPS = _counter("harmony_shadow_steps_total", "Steps with known demand while there was a shadow.")
SHADOW_VIOLATED = _counter(
    "harmony_shadow_violated_steps_total", "Of these, the steps that the shadow would have violated."
)
SERVICE_COUNTERS = (
    DECISIONS,
    LIMITED,
    SCALE_ERRORS,
    STEPS,
    MISSED,
    REAL_STEPS,
    REAL_VIOLATED,
    SHADOW_STEPS,
    SHADOW_VIOLATED,
)
STARTS = Definition(
    "harmony_replica_start_seconds",
    "histogram",
    "Time from asking for a replica to its being ready.",
    buckets=START_BUCKETS_S,
)

MANAGED = Definition(
    "harmony_managed_services", "gauge", "Services under control by granted mode.", ("mode",), per_service=False
)
TICK_DURATION = Definition(
    "harmony_tick_duration_seconds",
    "histogram",
    "Time that a stage of a tick took, all services together.",
    ("stage",),
    per_service=False,
    values=STAGES,
    buckets=TICK_BUCKETS_S,
)
TICKS = _process("counter", "harmony_ticks_total", "Finished ticks of the control loop.")
OVERRUNS = _process("counter", "harmony_tick_overruns_total", "Ticks that took longer than the interval.")
LAST_TICK = _process("gauge", "harmony_last_tick_timestamp_seconds", "When the last tick finished (Unix time).")
KUBE_REQUESTS = _process(
    "counter", "harmony_kube_requests_total", "Requests to the API server.", "verb", "resource", "code_class"
)
ERRORS = _process("counter", "harmony_errors_total", "Errors by component and type.", "component", "type")
REFRESHES = _process(
    "counter",
    "harmony_forecaster_refreshes_total",
    "Refreshes of services' forecasters by what came of them, such as Replaced, Kept or Late.",
    "outcome",
)
REFRESH_SECONDS = _process(
    "counter", "harmony_forecaster_refresh_seconds_total", "Seconds of a core that these refreshes took."
)
LEADER = _process("gauge", "harmony_leader", "1 while this process holds the lease and acts, else 0.")
KEDA_REQUESTS = _process(
    "counter", "harmony_keda_requests_total", "Answered calls of the KEDA external scaler.", "method", "code"
)
BUILD = _process("info", "harmony_build_info", "Version of this build.", "version")
CONFIG = _process("info", "harmony_config_info", "Settings of this process that dashboards join on.")

CATALOGUE: tuple[Definition, ...] = (
    *SERVICE_GAUGES,
    MODE,
    *SERVICE_COUNTERS,
    STARTS,
    MANAGED,
    TICK_DURATION,
    TICKS,
    OVERRUNS,
    LAST_TICK,
    KUBE_REQUESTS,
    ERRORS,
    REFRESHES,
    REFRESH_SECONDS,
    LEADER,
    KEDA_REQUESTS,
    BUILD,
    CONFIG,
)
