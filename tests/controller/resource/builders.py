"""Objects as the API server gives them, small but valid, for tests to change."""

from __future__ import annotations

import copy
from typing import Any

from controller.resource.group import API_VERSION, HPA_KIND, KIND, SCALED_OBJECT_KIND, Annotation

Json = dict[str, Any]
REQUESTS: Json = {
    "name": "requests",
    "query": "sum(rate(http_requests_total[1m]))",
    "kind": "Rate",
    "unit": "requests/s",
}


def spec(**changes: object) -> Json:
    """The smallest valid spec, with fields replaced; a field set to ``...`` is removed."""
    out: Json = {
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "chat"},
        "maxReplicas": 20,
        "indicators": [dict(REQUESTS)],
        "objective": {"perReplica": 25},
    }
    out |= changes
    return copy.deepcopy({k: v for k, v in out.items() if v is not ...})


def autoscaler(given: object = None, annotations: dict[str, str] | None = None, **changes: object) -> Json:
    """A GPUAutoscaler serving/chat with that spec, or the smallest one with changes."""
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": {
            "name": "chat",
            "namespace": "serving",
            "uid": "0b1d",
            "generation": 3,
            "annotations": annotations or {},
        },
        "spec": spec(**changes) if given is None else given,
    }


def annotated(kind: str, annotations: dict[str, str] | None = None, **fields: object) -> Json:
    """An opted-in HorizontalPodAutoscaler or ScaledObject serving/chat; annotations are added to the needed ones."""
    needed = {
        Annotation.MANAGED: "true",
        Annotation.DEMAND_QUERY: "sum(rate(http_requests_total[1m]))",
        Annotation.PER_REPLICA: "25",
    }
    own: Json = {"scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "chat"}}
    if kind == HPA_KIND:
        own |= {"maxReplicas": 10}
    elif kind == SCALED_OBJECT_KIND:
        own |= {"triggers": [{"type": "cpu"}]}
    return {
        "apiVersion": {HPA_KIND: "autoscaling/v2", SCALED_OBJECT_KIND: "keda.sh/v1alpha1"}.get(kind, "v1"),
        "kind": kind,
        "metadata": {
            "name": "chat",
            "namespace": "serving",
            "annotations": {k: v for k, v in (needed | (annotations or {})).items() if v is not ...},
        },
        "spec": {k: v for k, v in (own | fields).items() if v is not ...},
    }
