"""Rules across fields, each once: as CEL for the API server, as Python for parsing, with one message for both.

The API server checks them when the object is written; parsing checks them again, because an object may be older than
the rule and an annotated HorizontalPodAutoscaler never met it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from controller.resource.outputs import ACTUATIONS
from controller.resource.spec import AutoscalerSpec, IndicatorSpec, ObjectiveSpec

__all__ = ["RULES", "SpecRule", "broken_rules"]


@dataclass(frozen=True, slots=True)
class SpecRule:
    """One rule.

    `at` is the path of the object it belongs to, below ``spec`` (``""`` for the spec itself, ``"schedules[]"`` for
    every schedule); `holds` gets that object as its model. A rule without `holds` compares with the object's former
    state (``oldSelf``), which only the API server knows.
    """

    at: str
    cel: str
    message: str
    holds: Callable[[Any], bool] | None


def _names(spec: AutoscalerSpec) -> set[str]:
    return {i.name for i in spec.indicators or ()}


def _has_demand(spec: AutoscalerSpec) -> bool:
    def may_be_demand(indicator: IndicatorSpec) -> bool:
        return spec.objective.demand is not None or indicator.level == 1

    return spec.preset is not None or any(may_be_demand(i) for i in spec.indicators or ())


def _has_capacity(objective: ObjectiveSpec) -> bool:
    return objective.per_replica is not None or objective.bound is not None


_WRITING = tuple(name for name, way in ACTUATIONS.items() if way.writes_count)
_TOLD = tuple(name for name in ACTUATIONS if name not in _WRITING)

RULES: tuple[SpecRule, ...] = (
    SpecRule(
        "scaleTargetRef", "self == oldSelf", "cannot be changed; make a new GPUAutoscaler for another target", None
    ),
    SpecRule(
        "",
        "self.maxReplicas >= self.minReplicas",
        "maxReplicas is less than minReplicas; give maxReplicas >= minReplicas",
        lambda s: s.max_replicas >= s.min_replicas,
    ),
    SpecRule(
        "",
        "has(self.preset) || (has(self.indicators) && "
        "self.indicators.exists(i, i.level == 1 || has(self.objective.demand)))",
        "nothing to count replicas for; give a preset, or an indicator of level 1",
        _has_demand,
    ),
    SpecRule(
        "",
        "has(self.preset) || !has(self.objective.demand) || "
        "(has(self.indicators) && self.indicators.exists(i, i.name == self.objective.demand))",
        "objective.demand is not the name of an indicator",
        lambda s: s.preset is not None or s.objective.demand is None or s.objective.demand in _names(s),
    ),
    SpecRule(
        "",
        "has(self.preset) || !has(self.objective.bound) || "
        "(has(self.indicators) && self.indicators.exists(i, i.name == self.objective.bound.indicator))",
        "objective.bound.indicator is not the name of an indicator",
        lambda s: s.preset is not None or s.objective.bound is None or s.objective.bound.indicator in _names(s),
    ),
    SpecRule(
        "",
        "!has(self.presetMatchers) || has(self.preset)",
        "presetMatchers has no effect without a preset; give a preset or leave it out",
        lambda s: s.preset_matchers is None or s.preset is not None,
    ),
    SpecRule(
        "",
        "self.mode != 'Floor' || " + " && ".join(f"self.actuation != '{name}'" for name in _TOLD),
        f"mode Floor writes a minimum, which actuation {' or '.join(_TOLD)} does not keep; give mode Full or UpOnly "
        f"with {' or '.join(_TOLD)}, or Floor with actuation {' or '.join(_WRITING)}",
        lambda s: s.mode != "Floor" or s.actuation not in _TOLD,
    ),
    SpecRule(
        "",
        "!has(self.schedules) || self.schedules.all(s, "
        "(!has(s.minReplicas) || s.minReplicas <= self.maxReplicas) && "
        "(!has(s.maxReplicas) || s.maxReplicas >= self.minReplicas))",
        "a schedule leaves minReplicas..maxReplicas of the spec; schedules only narrow them",
        lambda s: all(
            (t.min_replicas is None or t.min_replicas <= s.max_replicas)
            and (t.max_replicas is None or t.max_replicas >= s.min_replicas)
            for t in s.schedules or ()
        ),
    ),
    SpecRule(
        "objective",
        "has(self.perReplica) || has(self.bound)",
        "no objective; give perReplica (what one ready replica carries) or bound (a service level), or both",
        _has_capacity,
    ),
    SpecRule(
        "fallback",
        "self.behavior != 'currentReplicasIfHigher' || has(self.replicas)",
        "currentReplicasIfHigher needs replicas, the count to go up to",
        lambda f: f.behavior != "currentReplicasIfHigher" or f.replicas is not None,
    ),
    SpecRule(
        "schedules[]",
        "has(self.minReplicas) || has(self.maxReplicas)",
        "a schedule needs minReplicas, maxReplicas or both",
        lambda s: s.min_replicas is not None or s.max_replicas is not None,
    ),
    SpecRule(
        "schedules[]",
        "!has(self.minReplicas) || !has(self.maxReplicas) || self.minReplicas <= self.maxReplicas",
        "maxReplicas of the schedule is less than its minReplicas",
        lambda s: s.min_replicas is None or s.max_replicas is None or s.min_replicas <= s.max_replicas,
    ),
)


def _subjects(spec: AutoscalerSpec, at: str) -> Iterator[tuple[str, Any]]:
    """Every object that a rule at path ``at`` speaks of, with its path."""
    if at == "":
        yield "", spec
    elif at == "schedules[]":
        yield from ((f"schedules[{i}]", s) for i, s in enumerate(spec.schedules or ()))
    else:
        part = getattr(spec, at)
        if part is not None:
            yield at, part


def broken_rules(spec: AutoscalerSpec) -> list[tuple[str, str]]:
    """Path below ``spec`` (empty for itself) and message of every rule that ``spec`` breaks."""
    return [
        (path, rule.message)
        for rule in RULES
        if rule.holds is not None
        for path, subject in _subjects(spec, rule.at)
        if not rule.holds(subject)
    ]
