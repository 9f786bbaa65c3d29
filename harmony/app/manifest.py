"""The GPUAutoscaler that a backtest recommends: what was read and replayed, as the controller takes it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from controller.resource.group import API_VERSION, KIND
from controller.resource.settings import IndicatorQuery, ServiceSettings
from simulator.replaying import ReplaySettings

__all__ = ["PLACEHOLDER", "manifest", "written"]

PLACEHOLDER = "your-deployment"
HEADROOM = 1.5  # over the most that was ordered in the history, where no maximum was given
UNLIMITED = ReplaySettings().objective.max_replicas


def manifest(
    chosen: Mapping[str, float | int | str],
    most_ordered: int,
    queries: Sequence[IndicatorQuery],
    settings: ReplaySettings,
    capacity: float,
    epsilon: float,
    *,
    spec: ServiceSettings | None,
    prometheus_url: str,
    step_s: float,
) -> dict[str, Any]:
    """The object for HARMONY's own policy with the settings ``chosen``: queries, capacity, lead time, objective, hold.

    It begins in mode Recommend: nothing is scaled before somebody has looked. Without ``spec`` the target's name is a
    placeholder.
    """
    objective = settings.objective
    most = objective.max_replicas
    if most >= UNLIMITED:
        most = max(1, math.ceil(HEADROOM * most_ordered))
    target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": PLACEHOLDER}
    metadata: dict[str, Any] = {"name": PLACEHOLDER}
    if spec is not None:
        target = {"apiVersion": spec.target.api_version, "kind": spec.target.kind, "name": spec.target.name}
        metadata = {"name": spec.key.name, "namespace": spec.key.namespace}
    indicators = [
        {
            "name": q.indicator.name,
            "query": q.promql,
            "level": int(q.indicator.level),
            "kind": q.indicator.kind.capitalize(),
        }
        | ({"unit": q.indicator.unit} if q.indicator.unit else {})
        for q in queries
    ]
    body: dict[str, Any] = {
        "scaleTargetRef": target,
        "mode": "Recommend",
        "minReplicas": objective.min_replicas,
        "maxReplicas": most,
        "prometheus": {"url": prometheus_url},
        "indicators": indicators,
        "objective": {
            "demand": queries[0].indicator.name,
            "perReplica": float(f"{capacity:.6g}"),
            "epsilon": epsilon,
        },
        "leadTime": {"source": "Measured", "seconds": settings.start_up.median_s},
        "stepSeconds": int(step_s),
    }
    cost = {}
    if objective.price_per_gpu_hour != 1.0:
        cost["pricePerGPUHour"] = objective.price_per_gpu_hour
    if objective.gpus_per_replica != 1:
        cost["gpusPerReplica"] = objective.gpus_per_replica
    if cost:
        body["cost"] = cost
    hold = chosen.get("hold_s")
    if isinstance(hold, (int, float)) and hold > settings.start_up.median_s:
        body["behavior"] = {"scaleDown": {"stabilizationWindowSeconds": int(hold)}}
    return {"apiVersion": API_VERSION, "kind": KIND, "metadata": metadata, "spec": body}


def written(found: dict[str, Any]) -> str:
    """The object as YAML, in the order in which people read it."""
    return yaml.safe_dump(found, sort_keys=False, allow_unicode=True, width=110)
