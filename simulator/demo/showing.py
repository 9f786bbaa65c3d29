"""A demo service's turn for people and machines: the snapshot, and the metrics that a controller would export."""

from __future__ import annotations

import math

from harmony.metrics import Metrics
from harmony.model.decision import Reason
from harmony.serving import Snapshot
from harmony.serving.snapshot import HISTORY_ROWS, judged
from simulator.demo.demand import STEP_S, Readings
from simulator.demo.service import DemoService

__all__ = ["measure", "snapshot_of"]

ABSENT = (Reason.ABSENT_DATA, Reason.FALLBACK)


def measure(service: DemoService, metrics: Metrics) -> None:
    """Export one service's figures after a turn, as the controller's tick does."""
    key, record, acted, spec = service.spec.key, service.record, service.acted, service.spec
    assert record is not None
    realized = service.trust.realized
    metrics.observe_decision(
        key,
        record,
        recommended=record.decision.replicas,
        desired=acted.desired,
        floor=acted.floor,
        held_by=acted.held_by,
        realized=math.nan if realized is None else realized,
    )
    metrics.observe_replicas(key, service.pool.ordered, service.pool.ready, spec.objective.max_replicas)
    metrics.observe_mode(key, str(spec.mode), str(service.mode))
    metrics.observe_fallback(key, record.decision.reason in ABSENT)
    metrics.observe_metrics_age(key, service.age_rows * STEP_S)
    metrics.observe_incomplete(key, False)  # the simulated readings are whole or absent
    for took_s in service.take_started():
        metrics.observe_start(key, took_s)
    if acted.refused:
        metrics.observe_scale_error(key)
    if service.regret.seconds > 0:
        regret = service.regret
        metrics.observe_shadow(key, regret.gpu_hours_saved, regret.misses_avoided_s, regret.misses_caused_s)
    metrics.observe_agreement(key, service.trust.agreement)
    metrics.observe_bill(key, service.pool.ordered, record.observation)
    metrics.observe_scores(key, service.scores.coverage, service.scores.crps)


def snapshot_of(service: DemoService, readings: Readings) -> Snapshot:
    """One service after its turn."""
    spec, record, acted = service.spec, service.record, service.acted
    assert record is not None
    times, demand = readings.recent(service.number, service.row, HISTORY_ROWS)
    return Snapshot(
        service=spec.service,
        kind="Demo",
        target=f"Deployment {spec.name}",
        mode=str(spec.mode),
        unit=readings.indicators[0].unit,
        demand_name=readings.indicators[0].name,
        gpu_type=spec.gpu_type,
        currency="USD",
        record=record,
        guards_before=record.before.guards,
        ordered=service.pool.ordered,
        ready=service.pool.ready,
        desired=acted.desired,
        held_by=acted.held_by,
        history_s=times,
        history=demand,
        conditions=_conditions(service),
        **judged(service.managed),
    )


def _conditions(service: DemoService) -> tuple[dict[str, str], ...]:
    """The conditions that matter in a simulated cluster, in the controller's words."""
    record, spec, mode = service.record, service.spec, service.mode
    assert record is not None
    # A reading is absent whatever was decided: a forecast of before may ask for just what is held.
    absent = math.isnan(record.observation.demand) or record.decision.reason in ABSENT
    calibrated = service.scores.is_calibrated
    share = service.scores.coverage[0.8]
    said = "not enough forecasts have come to pass yet"
    if calibrated is not None:
        said = f"the 80 % interval has held {100 * share:.0f} % of recent demand"
    active = f"mode {mode}" if mode == spec.mode else f"mode {spec.mode} was granted; {mode} is in force"
    able = not service.acted.refused
    return (
        _condition("Ready", not absent and able, "Working" if able and not absent else "Waiting", ""),
        _condition("AbleToScale", able, "ReadyForNewScale" if able else "FailedUpdateScale", _refusal(able)),
        _condition("ScalingActive", not absent, "MetricsAbsent" if absent else "ValidMetricFound", active),
        _condition("MetricsAvailable", not absent, "MetricsLost" if absent else "MetricsFound", ""),
        _condition("ForecastCalibrated", calibrated, "CoverageChecked" if calibrated else "TooFewScored", said),
        _condition(
            "Fallback", record.decision.reason is Reason.FALLBACK, "DataAbsent" if absent else "DataPresent", ""
        ),
    )


def _refusal(able: bool) -> str:
    return "the target can be scaled" if able else "the change was refused: the GPU quota of the namespace is used up"


def _condition(kind: str, status: bool | None, reason: str, message: str) -> dict[str, str]:
    """One condition in the shape of metav1.Condition."""
    return {
        "type": kind,
        "status": "Unknown" if status is None else str(status),
        "reason": reason,
        "message": message,
    }
