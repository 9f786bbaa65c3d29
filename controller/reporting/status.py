"""The status of an object: what a person reads, made of what the turn found; written only when its meaning changes."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

from controller.observing.starts import STARTING
from controller.outputs.base import ABSENT, Acted
from controller.process.clock import rfc3339
from controller.prometheus.states import FeedReason
from controller.reporting.conditions import Condition, followed, merged
from controller.resource.group import Annotation
from controller.resource.status import SHOWN_CANDIDATES, STATUS
from controller.service import Service
from harmony.loop.managed import ZERO_BY_HAND
from harmony.model.decision import Candidates, Decision, Reason
from harmony.model.record import Record
from harmony.serving.words import Said, duration, in_words

__all__ = [
    "IDLE_CONDITIONS",
    "LEARNED_EVERY_S",
    "LEARNED_PER_S",
    "annotations_of",
    "conditions_of",
    "differs",
    "held_by",
    "is_idle",
    "rejected_status",
    "status_of",
]

Json = dict[str, Any]
LEARNED_EVERY_S = 300.0  # what was learned is written with any other change, and else this often
LEARNED_PER_S = 2.0  # but of so many services a second at most
RISK_FACTOR = 4.0  # a stated risk that differs less from the one that was written is no news
NOT_YET = "nothing has been decided yet"
LIMITS = {
    Reason.MIN_REPLICAS: "TooFewReplicas",
    Reason.MAX_REPLICAS: "TooManyReplicas",
    Reason.UNREACHABLE: "TooManyReplicas",
    Reason.RATE_LIMITED: "BehaviorLimit",
    Reason.STABILIZED: "Stabilized",
}


def conditions_of(service: Service, acted: Acted) -> list[Condition]:
    """All conditions of a service after a turn."""
    facts = [
        _ready(service),
        _able(service, acted),
        _active(service),
        _limited(service),
        _available(service),
        _calibrated(service),
        _fallback(service),
        _paused(service),
        _conflict(service),
    ]
    return list(followed(facts).values())


def _ready(service: Service) -> Condition:
    """As far as nothing else says otherwise."""
    if service.error:
        return Condition("Ready", "False", "Error", service.error)
    if service.warnings:
        return Condition("Ready", "True", "WorkingWithWarnings", "; ".join(service.warnings))
    return Condition("Ready", "True", "Working", "target, metrics and decisions are in order")


def _able(service: Service, acted: Acted) -> Condition:
    view = service.view
    if view.problem:
        return Condition("AbleToScale", "False", "FailedGetScale", view.problem)
    if acted.error:
        return Condition("AbleToScale", "False", "FailedUpdateScale", acted.error)
    if view.blocked:
        return Condition("AbleToScale", "False", "PodsNotCreated", view.blocked)
    starts = view.starts
    if view.ready < view.ordered:
        limit_s = service.learned.lead_time.stuck_after_s
        if overdue := starts.overdue_s(limit_s):
            return Condition("AbleToScale", "False", "PodsNotReady", _overdue(service, overdue, limit_s))
        if starts.stuck and starts.stuck != STARTING:
            message = f"{_pods(len(starts.pending_s) + len(starts.unready_s))} not ready: {_said_by(service)}"
            return Condition("AbleToScale", "True", "PodsNotReady", message)
    if acted.changed:
        return Condition("AbleToScale", "True", "SucceededRescale", "the last change of the count was accepted")
    return Condition("AbleToScale", "True", "ReadyForNewScale", "the target can be scaled")


def _overdue(service: Service, overdue_s: tuple[float, ...], limit_s: float) -> str:
    """How many pods should serve by now and do not, and what they say about it."""
    usual = f"99 % of starts end within {duration(limit_s)}"
    return f"{_pods(len(overdue_s))} not ready after {duration(overdue_s[0])} ({usual}): {_said_by(service)}"


def _pods(count: int) -> str:
    return "1 pod is" if count == 1 else f"{count} pods are"


def _said_by(service: Service) -> str:
    """Why most pods that do not serve do not, in their own words."""
    starts = service.view.starts
    parts = ("" if starts.stuck == STARTING else starts.stuck, starts.words)
    return ": ".join(part for part in parts if part) or "they give no reason"


def _conflict(service: Service) -> Condition:
    mode = service.settings.mode
    contested = bool(service.rival) and service.settings.writes_count
    if contested and not mode.acts:
        message = f"{service.rival} scales the target, and may stay as long as the mode is {mode}, which writes nothing"
        return Condition("TargetConflict", "False", "NotWriting", message)
    if contested and mode.moves_count:
        message = f"{service.rival} scales the same target; one of the two must go (or use mode Floor)"
        return Condition("TargetConflict", "True", "OwnedByAnother", message)
    return Condition("TargetConflict", "False", "SingleWriter", "nobody else scales the target")


def _active(service: Service) -> Condition:
    pause = service.settings.pause
    if pause.paused or pause.replicas is not None:
        return Condition("ScalingActive", "False", "ScalingDisabled", "paused by annotation or spec")
    if service.plan is not None and service.plan.held_by == ZERO_BY_HAND:
        message = "the target was scaled to 0 by hand; scale it to 1 or more to go on"
        return Condition("ScalingActive", "False", "ScalingDisabled", message)
    if service.view.problem:
        return Condition("ScalingActive", "False", "FailedGetScale", service.view.problem)
    if service.record is None:
        return Condition("ScalingActive", "Unknown", "NotDecidedYet", NOT_YET)
    if service.record.decision.reason in ABSENT:
        demand = service.record.observation.demand
        what, reason = ("demand", "MetricsAbsent") if math.isnan(demand) else ("the forecast", "ForecastAbsent")
        message = f"{what} is absent: the count is not lowered"
        if not service.learned.served:
            message += "; no pod has been ready yet, so no fallback acts"
        return Condition("ScalingActive", "False", reason, message)
    if service.mode != service.settings.mode:
        message = (
            f"mode {service.settings.mode} was granted, {service.mode} is in force: realised risk exceeds the objective"
        )
        return Condition("ScalingActive", "True", "AuthorityReduced", message)
    return Condition("ScalingActive", "True", "ValidMetricFound", f"mode {service.mode}")


def _available(service: Service) -> Condition:
    state = service.feed_state
    if state is None:
        return Condition("MetricsAvailable", "Unknown", "NotReadYet", "no indicator has been read yet")
    if state.demand.reason is FeedReason.FRESH:
        return Condition("MetricsAvailable", "True", "MetricsFound", state.message or "all indicators are read")
    if state.demand.reason is FeedReason.SETTLING:
        return Condition("MetricsAvailable", "True", "MetricsFound", state.message)
    if state.incomplete:
        return Condition("MetricsAvailable", "False", f"Metrics{FeedReason.INCOMPLETE}", state.message)
    if state.available:
        message = f"{state.demand.name}: {state.demand.message}; its last reading is still young enough"
        return Condition("MetricsAvailable", "True", "MetricsFound", message)
    return Condition("MetricsAvailable", "False", f"Metrics{state.demand.reason}", state.message)


def _limited(service: Service) -> Condition:
    if service.record is None:
        return Condition("ScalingLimited", "Unknown", "NotDecidedYet", NOT_YET)
    decision = service.record.decision
    reason = LIMITS.get(decision.reason)
    if reason is not None:
        wanted = decision.unconstrained
        message = f"{decision.reason}: {decision.replicas} instead of {wanted} replicas ({decision.bound_by})"
        return Condition("ScalingLimited", "True", reason, message)
    return Condition("ScalingLimited", "False", "DesiredWithinRange", "no bound or rate limit holds it back")


def _calibrated(service: Service) -> Condition:
    calibrated = service.scores.is_calibrated
    if service.forecast_error:
        return Condition("ForecastCalibrated", "Unknown", "ForecastFailed", service.forecast_error)
    if calibrated is None:
        return Condition("ForecastCalibrated", "Unknown", "TooFewScored", "not enough forecasts have come to pass yet")
    # whole tenths, so that the message changes when the meaning does
    share = math.floor(service.scores.coverage[0.8] * 10) * 10
    message = f"the 80 % interval has held {share} to {share + 10} % of recent demand"
    return Condition.of("ForecastCalibrated", calibrated, "CoverageChecked", message)


def _fallback(service: Service) -> Condition:
    if service.record is not None and service.record.decision.reason is Reason.FALLBACK:
        return Condition("Fallback", "True", "DataAbsent", "the fallback decides until demand is known again")
    return Condition("Fallback", "False", "DataPresent", "decisions are made without the fallback")


def _paused(service: Service) -> Condition:
    pause = service.settings.pause
    if not pause.is_active:
        return Condition("Paused", "False", "NotPaused", "nothing is paused")
    what = [
        _at_number(service),
        "paused" if pause.paused else "",
        "scale-in paused" if pause.scale_in else "",
        "scale-out paused" if pause.scale_out else "",
    ]
    return Condition("Paused", "True", "PausedByUser", ", ".join(w for w in what if w))


def _at_number(service: Service) -> str:
    """What a pause at a number does: only modes that move the count put it there."""
    replicas, mode = service.settings.pause.replicas, service.mode
    if replicas is None:
        return ""
    if mode.moves_count:
        return f"at {replicas} replicas"
    return f"paused (paused-replicas {replicas} has no effect on the count in mode {mode}, which never moves it)"


# ---- the whole ----------------------------------------------------------------------------------------------
def status_of(service: Service, acted: Acted, old: Json, now_s: float) -> Json:
    """The status to be written, in the shape of the custom resource."""
    settings, view = service.settings, service.view
    out: Json = {
        "observedGeneration": settings.generation,
        "mode": str(settings.mode),
        "effectiveMode": str(service.mode),
        "selector": view.selector,
        "writer": service.rival or f"{settings.key.kind} {settings.key.namespace}/{settings.key.name}",
    }
    if not view.problem:
        out |= {"currentReplicas": view.ordered, "readyReplicas": view.ready, "desiredReplicas": acted.desired}
    if acted.floor is not None:
        out["floorReplicas"] = acted.floor
    if acted.changed and acted.applied != view.ordered:
        out["lastScaleTime"] = rfc3339(now_s)
    elif old.get("lastScaleTime"):
        out["lastScaleTime"] = old["lastScaleTime"]
    out |= _figures(service, acted.desired)
    if service.record is not None:
        decision = service.record.decision
        out["recommendedReplicas"] = decision.replicas
        out["lastScaleDecision"] = _decision(service, service.record, acted, now_s)
    out["conditions"] = merged(old.get("conditions") or [], conditions_of(service, acted), settings.generation, now_s)
    return out


def _risk_at(decision: Decision, desired: int) -> float:
    """Stated risk of the count that stands, which may be another than the recommended one; NaN where none is stated."""
    if desired == decision.replicas:
        return decision.violation_probability
    counts = None if decision.candidates is None else decision.candidates.replicas
    if counts is None or desired < counts[0]:
        return math.nan
    return decision.with_replicas(desired, decision.reason, decision.bound_by).violation_probability


def _figures(service: Service, desired: int) -> Json:
    """What is known of risk, lead time, capacity and the shadow."""
    learned, out = service.learned, Json()
    if service.record is not None:
        lead = service.record.observation.lead_time  # what was decided with, starts that still run included
        out |= _present({"violationProbability": _short(_risk_at(service.record.decision, desired), 2)})
    else:
        lead = learned.lead_time
    out["leadTime"] = {
        "gpuType": service.gpu_type,
        "p50Seconds": round(lead.median_s),
        "p90Seconds": round(lead.quantile_s(0.9)),
        "starts": service.finished_starts,
        "pending": len(service.view.starts.pending_s),
        "failed": service.failed_starts,
    }
    low, high = learned.capacity.interval(0.9)
    out["capacity"] = {
        "perReplica": _short(learned.capacity.median, 3),
        "low": _short(low, 3),
        "high": _short(high, 3),
    }
    trust, real = service.trust, service.violations.real_rate
    judged = None if trust.agreement is None else trust.agreement.judgement
    out["risk"] = _present(
        {
            "promised": service.settings.objective.epsilon,
            "stated": None if trust.stated is None else _short(trust.stated, 2),
            "realized": None if trust.realized is None else _short(trust.realized, 2),
            "steps": round(trust.steps),
            "real": None if real is None else _short(real, 2),
            "judgement": None if judged is None else str(judged),
        }
    )
    if service.regret.seconds > 0:
        out["shadow"] = _shadow(service)
    return out


def _shadow(service: Service) -> Json:
    """What following the recommendations would have brought so far."""
    regret = service.regret
    bound = regret.lower_bound()
    return _present(
        {
            "since": rfc3339(service.shadow_since_s) if math.isfinite(service.shadow_since_s) else None,
            "gpuHoursSaved": _short(regret.gpu_hours_saved, 4),
            "gpuHoursSavedPerHourAtLeast": None if bound is None else _short(bound, 3),
            "missesAvoidedSeconds": round(regret.misses_avoided_s),
            "missesCausedSeconds": round(regret.misses_caused_s),
            "seconds": round(regret.seconds),
        }
    )


def _decision(service: Service, record: Record, acted: Acted, now_s: float) -> Json:
    """The last decision with its alternatives (the shape of KEP-6107, and what it risked)."""
    decision = record.decision
    before = service.view.ordered
    to = acted.desired
    bound_by = held_by(service, acted) or decision.bound_by  # whatever bound last
    shown = replace(decision, candidates=_shown(decision))
    out: Json = {
        "time": rfc3339(now_s),
        "fromReplicas": before,
        "toReplicas": to,
        "direction": "Up" if to > before else "Down" if to < before else "None",
        "message": in_words(_said(service, record, acted)),
        **STATUS.values(shown),
        "boundBy": bound_by,
    }
    if not decision.paths:
        out.pop("paths")
    return out


def held_by(service: Service, acted: Acted) -> str:
    """What kept the count that stands from the recommended one: by plan, or when it was to be written; else empty."""
    plan = service.plan
    if plan is None:
        return ""
    if plan.held_by or acted.desired == plan.desired:
        return plan.held_by
    if service.rival:
        return "another writer"
    return "not accepted" if acted.error else ""  # a dry run tells what it would have done


def _said(service: Service, record: Record, acted: Acted) -> Said:
    """A service's turn as it is put into words."""
    settings, demand = service.settings, service.settings.queries[0].indicator
    return Said(
        record=record,
        demand_name=demand.name,
        unit=demand.unit,
        currency=settings.currency,
        mode=str(service.mode),
        ordered=service.view.ordered,
        desired=acted.desired,
        held_by=held_by(service, acted),
    )


def _shown(decision: Decision) -> Candidates | None:
    """A few candidates around the choice."""
    candidates = decision.candidates
    if candidates is None:
        return None
    at = int((candidates.replicas < decision.replicas).sum())
    first = max(0, min(at - SHOWN_CANDIDATES // 2, len(candidates) - SHOWN_CANDIDATES))
    return candidates[first : first + SHOWN_CANDIDATES]


def rejected_status(old: Json, why: str, generation: int, now_s: float) -> Json:
    """The status of an object that cannot be served as it is written: the rest stays as it was."""
    conditions = [c for c in old.get("conditions") or () if c.get("type") != "Ready"]
    ready = merged(old.get("conditions") or [], [Condition("Ready", "False", "InvalidSpec", why)], generation, now_s)
    return {**old, "observedGeneration": generation, "conditions": [*ready, *conditions]}


# ---- writing less -------------------------------------------------------------------------------------------
_MEANING = (
    "observedGeneration",
    "mode",
    "effectiveMode",
    "currentReplicas",
    "readyReplicas",
    "recommendedReplicas",
    "desiredReplicas",
    "floorReplicas",
    "writer",
    "selector",
)


# What is decided while nobody acts on it: no news as long as that lasts.
_IDLE_FIGURES = ("recommendedReplicas",)
IDLE_CONDITIONS = ("ScalingLimited", "ForecastCalibrated", "Fallback")


def differs(old: Json, new: Json) -> bool:
    """Whether a person would read something else: figures that only drift are no reason to write.

    Nor are decisions on an object that is paused: they are written with the next thing that is news.
    """
    idle = is_idle(old) and is_idle(new)
    if any(old.get(name) != new.get(name) for name in _MEANING if not (idle and name in _IDLE_FIGURES)):
        return True
    if _meaning(old.get("conditions"), idle) != _meaning(new.get("conditions"), idle):
        return True
    if idle:
        return False
    last, next_ = old.get("lastScaleDecision") or {}, new.get("lastScaleDecision") or {}
    if (last.get("reason"), last.get("boundBy")) != (next_.get("reason"), next_.get("boundBy")):
        return True
    return _risk_moved(old, new)


def is_idle(status: Json) -> bool:
    """Whether it says that its user has stopped it."""
    return any(c.get("reason") == "ScalingDisabled" for c in status.get("conditions") or ())


def _risk_moved(old: Json, new: Json) -> bool:
    """Whether the stated risk is another than the one that was written: by a factor, near the objective or above."""
    before, now = old.get("violationProbability"), new.get("violationProbability")
    if before is None or now is None:
        return (before is None) != (now is None)
    least = max(1e-4, float((new.get("risk") or {}).get("promised") or 0.0) / RISK_FACTOR)
    return abs(math.log(max(now, least) / max(before, least))) >= math.log(RISK_FACTOR) - 1e-9


def _meaning(conditions: Any, idle: bool) -> list[tuple[Any, ...]]:  # noqa: ANN401  (JSON from the API server)
    return sorted(
        (c.get("type"), c.get("status"), c.get("reason"))
        for c in conditions or ()
        if not (idle and c.get("type") in IDLE_CONDITIONS)
    )


def annotations_of(status: Json, learned: Json | None) -> dict[str, str]:
    """What is written back on an HPA or ScaledObject that opted in by annotation."""
    ready = next(c for c in status["conditions"] if c["type"] == "Ready")
    decision = status.get("lastScaleDecision") or {}
    short = {
        "mode": status["effectiveMode"],
        "ready": ready["status"],
        "reason": decision.get("reason", ready["reason"]),
        "message": decision.get("message", ready["message"]),
    }
    out = {Annotation.STATUS: json.dumps(short)}
    if "recommendedReplicas" in status:
        out[Annotation.RECOMMENDED_REPLICAS] = str(status["recommendedReplicas"])
    if learned is not None:
        out[Annotation.LEARNED] = json.dumps(learned, separators=(",", ":"))
    return out


def _short(x: float, digits: int) -> float | None:
    """A number with few digits, so that noise is not written; None for what is absent."""
    return float(f"{x:.{digits}g}") if math.isfinite(x) else None


def _present(values: Json) -> Json:
    """Without what is absent."""
    return {k: v for k, v in values.items() if v is not None}
