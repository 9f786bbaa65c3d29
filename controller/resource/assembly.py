"""From a checked spec to the types of the control loop."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from controller.prometheus.coverage import Reporting
from controller.prometheus.freshness import selectors
from controller.resource.errors import SpecError
from controller.resource.group import KIND
from controller.resource.outputs import ACTUATIONS
from controller.resource.presets import PRESETS, Preset
from controller.resource.presets.base import default_apart, default_matchers, given_apart, own_reporting
from controller.resource.settings import IndicatorQuery, ServiceKey, ServiceSettings, TargetRef
from controller.resource.spec import AutoscalerSpec, ScalingRulesSpec, ScheduleSpec
from forecasting.errors import InputError, suggest
from forecasting.panel import Indicator, Kind
from harmony.model.authority import Mode, Pause
from harmony.model.capacity import Capacity
from harmony.model.lead_time import LeadTime
from harmony.model.objective import (
    HPA_DOWN,
    HPA_UP,
    Behavior,
    Fallback,
    IndicatorBound,
    Objective,
    ScalingPolicy,
    ScalingRules,
    Stages,
)
from harmony.model.schedule import Schedule

__all__ = ["assemble"]

KINDS: dict[str, Kind] = {"Gauge": "gauge", "Counter": "counter", "Rate": "rate"}
MEASURES: dict[str, Literal["time", "window", "requests"]] = {
    "Time": "time",
    "Window": "window",
    "Requests": "requests",
}
DAYS = {day: number for number, day in enumerate(("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"))}

NO_WAKER = (
    "minReplicas 0 is held at 1: {demand} is read from the pods themselves, so that nothing could wake the service "
    "from 0; read demand where requests arrive (a gateway or router; presets "
    + ", ".join(name for name, preset in PRESETS.items() if preset.shared)
    + "), or let KEDA wake it (actuation External)"
)
# What the servers themselves export: gone with the last pod.
POD_METRICS = {
    text.partition("{")[0].removesuffix("_bucket")
    for preset in PRESETS.values()
    if preset.reporting
    for template in preset.templates
    for text in selectors(template.fill(""))
}

# Factors that one standard deviation of the first guess of a capacity stands for: what a person gave, what a preset
# brings for servers of all sizes, and nothing known but the unit.
GIVEN_SPREAD, PRESET_SPREAD, UNKNOWN_SPREAD = 2.0, 3.0, 10.0


def assemble(spec: AutoscalerSpec, key: ServiceKey, uid: str, generation: int, pause: Pause) -> ServiceSettings:
    """Everything that ``spec`` says, with presets and defaults filled in; `SpecError` where it cannot be meant."""
    where = f"{key.namespace}/{key.name}"
    preset = None if spec.preset is None else PRESETS[spec.preset]
    queries = _queries(spec, preset, where, key.namespace)
    cost, lead = spec.cost, spec.lead_time
    objective = _objective(spec, queries, where)
    warnings: tuple[str, ...] = ()
    if sleeps_for_good(spec, key, objective, preset, queries[0]):
        objective, warnings = _awake(objective), (NO_WAKER.format(demand=queries[0].indicator.name),)
    return ServiceSettings(
        key=key,
        uid=uid,
        generation=generation,
        target=TargetRef(spec.scale_target_ref.api_version, spec.scale_target_ref.kind, spec.scale_target_ref.name),
        mode=Mode(spec.mode),
        pause=replace(pause, paused=True) if spec.paused else pause,
        actuation=spec.actuation,
        queries=queries,
        prometheus_url="" if spec.prometheus is None else spec.prometheus.url,
        objective=objective,
        capacity=_capacity(spec, preset, queries[0].indicator.name),
        lead_time=LeadTime.known(lead.seconds) if lead.source == "Fixed" else LeadTime.measured(lead.seconds),
        gpu_type=cost.gpu_type,
        currency=cost.currency,
        step_s=float(spec.step_seconds),
        buffer_quantile=spec.capacity_buffer.quantile if spec.capacity_buffer.enabled else None,
        warnings=warnings,
    )


def sleeps_for_good(
    spec: AutoscalerSpec, key: ServiceKey, objective: Objective, preset: Preset | None, demand: IndicatorQuery
) -> bool:
    """Whether at 0 replicas nothing could show any demand: it is read from the pods, and nobody else wakes the target.

    An annotated ScaledObject is woken by KEDA's own triggers, and so is what an actuation leaves to others.
    """
    least = (objective.min_replicas, *(s.min_replicas for s in objective.schedules if s.min_replicas is not None))
    if min(least) > 0 or key.kind != KIND or not ACTUATIONS[spec.actuation].writes_count:
        return False
    if preset is not None and demand.indicator.name not in {own.name for own in spec.indicators or ()}:
        return bool(preset.reporting)
    names = {text.partition("{")[0].strip() for text in selectors(demand.promql)}
    return bool(names) and names <= POD_METRICS


def _awake(objective: Objective) -> Objective:
    """The same with 1 as the least there may be."""
    schedules = tuple(
        s if s.min_replicas is None else replace(s, min_replicas=max(1, s.min_replicas)) for s in objective.schedules
    )
    return replace(objective, min_replicas=max(1, objective.min_replicas), schedules=schedules)


def _queries(spec: AutoscalerSpec, preset: Preset | None, where: str, namespace: str) -> tuple[IndicatorQuery, ...]:
    """Own indicators, then the preset's that are not among them; the demand is put first."""
    found: dict[str, IndicatorQuery] = {}
    counted: Reporting | None = None
    target = spec.scale_target_ref
    for own in spec.indicators or ():
        if own.name in found:
            raise SpecError(where, "spec.indicators", f"{own.name!r} stands twice; names must be unique")
        found[own.name] = IndicatorQuery(Indicator(own.name, own.unit, own.level, KINDS[own.kind]), own.query)
    if preset is not None:
        matchers = spec.preset_matchers
        if matchers is None and preset.shared:
            why = f"preset {preset.name} reads what many services stand behind; say which, such as {preset.shared}"
            raise SpecError(where, "spec.presetMatchers", why)
        if matchers is None:
            matchers = default_matchers(preset, namespace, target.kind, target.name)
            apart = default_apart(preset, namespace, target.kind, target.name)
        else:
            apart = given_apart(matchers)
        counted = preset.counted(matchers, apart)
        for template in preset.templates:
            query = IndicatorQuery(template.indicator, template.fill(matchers), template.kin(apart))
            found.setdefault(template.indicator.name, query)
    demand = _demand(spec, found, where)
    bound = spec.objective.bound
    if bound is not None and bound.indicator not in found:
        offer = suggest(bound.indicator, found)
        raise SpecError(where, "spec.objective.bound.indicator", f"{bound.indicator!r} is not an indicator; {offer}")
    first = found.pop(demand)
    if demand in {own.name for own in spec.indicators or ()}:
        counted = own_reporting(first.promql, namespace, target.kind, target.name)
    return (replace(first, reporting=counted), *found.values())


def _demand(spec: AutoscalerSpec, found: dict[str, IndicatorQuery], where: str) -> str:
    """The indicator that replicas are counted for: the one named, else the first of level 1."""
    named = spec.objective.demand
    if named is None:
        return next(name for name, q in found.items() if q.indicator.level == 1)  # a rule has made sure of one
    if named not in found:
        raise SpecError(where, "spec.objective.demand", f"{named!r} is not an indicator; {suggest(named, found)}")
    return named


def _objective(spec: AutoscalerSpec, queries: tuple[IndicatorQuery, ...], where: str) -> Objective:
    wanted, cost, fallback = spec.objective, spec.cost, spec.fallback
    return Objective(
        epsilon=wanted.epsilon,
        demand=queries[0].indicator.name,
        measure=MEASURES[wanted.measure],
        price_per_gpu_hour=cost.price_per_gpu_hour,
        gpus_per_replica=cost.gpus_per_replica,
        miss_price_per_replica_hour=cost.miss_price_per_replica_hour,
        switch_price=cost.switch_price,
        min_replicas=spec.min_replicas,
        max_replicas=spec.max_replicas,
        behavior=_behavior(spec),
        schedules=_schedules(spec, where),
        fallback=None
        if fallback is None
        else Fallback(fallback.failure_threshold, fallback.replicas or 0, fallback.behavior),
        bound=None if wanted.bound is None else IndicatorBound(wanted.bound.indicator, wanted.bound.at_most),
    )


def _behavior(spec: AutoscalerSpec) -> Behavior:
    """HPA's defaults, but for the patience on the way down: at least one lead time."""
    up = None if spec.behavior is None else spec.behavior.scale_up
    down = None if spec.behavior is None else spec.behavior.scale_down
    patient = replace(HPA_DOWN, stabilization_window_s=max(HPA_DOWN.stabilization_window_s, spec.lead_time.seconds))
    stages = None
    if spec.scale_down is not None:
        stages = Stages(spec.scale_down.stage_percent, float(spec.scale_down.stage_seconds))
    return Behavior(_rules(up, HPA_UP), _rules(down, patient), stages)


def _rules(given: ScalingRulesSpec | None, default: ScalingRules) -> ScalingRules:
    if given is None:
        return default
    window, policies = given.stabilization_window_seconds, given.policies
    return ScalingRules(
        default.stabilization_window_s if window is None else float(window),
        default.policies
        if policies is None
        else tuple(ScalingPolicy(p.type, p.value, float(p.period_seconds)) for p in policies),
        given.select_policy,
    )


def _schedules(spec: AutoscalerSpec, where: str) -> tuple[Schedule, ...]:
    out: dict[str, Schedule] = {}
    for i, given in enumerate(spec.schedules or ()):
        if given.name in out:
            raise SpecError(where, "spec.schedules", f"{given.name!r} stands twice; names must be unique")
        try:
            out[given.name] = _schedule(given)
        except InputError as error:
            raise SpecError(where, f"spec.schedules[{i}]", str(error)) from None
    return tuple(out.values())


def _schedule(given: ScheduleSpec) -> Schedule:
    days = DAYS if given.days_of_week is None else given.days_of_week
    return Schedule(
        name=given.name,
        timezone=given.timezone,
        days=frozenset(DAYS[day] for day in days),
        start_min=_minutes(given.start_time),
        end_min=_minutes(given.end_time),
        min_replicas=given.min_replicas,
        max_replicas=given.max_replicas,
    )


def _minutes(time_of_day: str) -> int:
    hours, minutes = time_of_day.split(":")
    return int(hours) * 60 + int(minutes)


def _capacity(spec: AutoscalerSpec, preset: Preset | None, demand: str) -> Capacity:
    """The capacity rule as it stands, or what learning the capacity starts from."""
    per_replica = spec.objective.per_replica
    if spec.objective.bound is None and per_replica is not None:
        return Capacity.known(per_replica)
    if per_replica is not None:
        return Capacity.prior(per_replica, GIVEN_SPREAD)
    if preset is not None and demand == preset.demand:
        return Capacity.prior(preset.per_replica, PRESET_SPREAD)
    return Capacity.prior(1.0, UNKNOWN_SPREAD)
