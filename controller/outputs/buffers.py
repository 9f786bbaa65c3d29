"""Node capacity ahead of demand: a CapacityBuffer sized from the forecast's upper quantile.

Cluster Autoscaler and Karpenter keep nodes ready for what a CapacityBuffer says, without pods; a new replica then
waits for its image and weights only, not for a machine.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from controller.kube.client import Kube
from controller.kube.errors import NotFound
from controller.kube.resources import CAPACITY_BUFFERS
from controller.resource.group import API_VERSION
from controller.resource.settings import ServiceSettings
from forecasting.distribution import ForecastDistribution
from harmony.decision.risk import replicas_needed
from harmony.model.capacity import Capacity

__all__ = ["WRITE_AGAIN_S", "Buffer", "buffer_name", "buffer_replicas", "delete_buffer", "write_buffer"]

WRITE_AGAIN_S = 600.0  # a buffer that somebody deleted or edited is put right after so long


@dataclass(frozen=True, slots=True)
class Buffer:
    """A service's CapacityBuffer as it was last written: its size and when (Unix time)."""

    replicas: int
    at_s: float


def buffer_name(settings: ServiceSettings) -> str:
    """Name of a service's CapacityBuffer."""
    return f"{settings.key.name}-harmony"


def buffer_replicas(
    settings: ServiceSettings, forecast: ForecastDistribution, capacity: Capacity, desired: int
) -> int | None:
    """Replicas that nodes should be ready for besides ``desired``: the upper quantile of each path's peak need.

    None when the forecast has nothing to say about demand (absent is never a reason to give nodes back).
    """
    assert settings.buffer_quantile is not None
    peaks = forecast.max_over(settings.objective.demand)
    if np.isnan(peaks).any():
        return None
    need = float(np.quantile(replicas_needed(peaks, capacity.median), settings.buffer_quantile, method="higher"))
    return max(0, min(math.ceil(need), settings.objective.max_replicas) - desired)


async def write_buffer(kube: Kube, settings: ServiceSettings, replicas: int) -> None:
    """Make the buffer, or change its size; it belongs to the GPUAutoscaler and goes with it. Raises `KubeError`."""
    name, namespace = buffer_name(settings), settings.key.namespace
    spec = {"replicas": replicas}
    try:
        await kube.patch(CAPACITY_BUFFERS, namespace, name, {"spec": spec})
    except NotFound:
        await kube.create(CAPACITY_BUFFERS, _buffer(settings, spec))


async def delete_buffer(kube: Kube, settings: ServiceSettings) -> None:
    """Give the nodes back. Raises `KubeError`."""
    try:
        await kube.delete(CAPACITY_BUFFERS, settings.key.namespace, buffer_name(settings))
    except NotFound:
        return


def _buffer(settings: ServiceSettings, spec: dict[str, Any]) -> dict[str, Any]:
    key, target = settings.key, settings.target
    owner = {"apiVersion": API_VERSION, "kind": key.kind, "name": key.name, "uid": settings.uid, "controller": True}
    scalable = {"apiGroup": target.api_version.rpartition("/")[0], "kind": target.kind, "name": target.name}
    return {
        "apiVersion": CAPACITY_BUFFERS.api_version,
        "kind": CAPACITY_BUFFERS.kind,
        "metadata": {"name": buffer_name(settings), "namespace": key.namespace, "ownerReferences": [owner]},
        "spec": {"scalableRef": scalable, **spec},
    }
