"""Node capacity ahead of demand: a CapacityBuffer sized from the forecast's upper quantile.

Cluster Autoscaler and Karpenter keep nodes ready for what a CapacityBuffer says, without pods; a new replica then
waits for its image and weights only, not for a machine.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from controller.kube.errors import NotFound
from controller.kube.fenced import Fenced
from controller.kube.resources import CAPACITY_BUFFERS
from controller.outputs.base import Acted, Means, Order, Output, Standing, owner_reference
from controller.resource.settings import ServiceKey, ServiceSettings
from forecasting.distribution import ForecastDistribution
from harmony.decision.risk import replicas_needed
from harmony.model.capacity import Capacity

__all__ = ["OUTPUT", "Buffer", "buffer_name", "buffer_replicas", "delete_buffer", "write_buffer"]

WRITE_AGAIN_S = 600.0  # a buffer that somebody deleted or edited is put right after so long


@dataclass(frozen=True, slots=True)
class _Written:
    """A service's CapacityBuffer as it was last written: its size and when (Unix time)."""

    replicas: int
    at_s: float


class Buffer(Output):
    """Sizes the CapacityBuffer of services that ask for one, while there is authority; lets go of it after that."""

    reads_forecast = True
    about = "CapacityBuffer: "

    def __init__(self, means: Means) -> None:
        self._kube = means.kube
        self._written: dict[ServiceKey, _Written] = {}

    def wants(self, standing: Standing) -> bool:
        """Asked for in the spec, in a mode with authority."""
        return standing.settings.buffer_quantile is not None and standing.mode.acts

    async def apply(self, order: Order, acted: Acted) -> Acted:
        """Write the size where it changed; a pause leaves it as it is, and absent data give no nodes back."""
        if order.is_idle or order.forecast is None:
            return acted
        wanted = buffer_replicas(order.settings, order.forecast, order.capacity, order.desired)
        known = self._written.get(order.key)
        stands = known is not None and known.replicas == wanted and abs(order.now_s - known.at_s) < WRITE_AGAIN_S
        if wanted is None or stands:
            return acted
        await write_buffer(self._kube, order.settings, wanted)
        self._written[order.key] = _Written(wanted, order.now_s)
        return acted

    async def release(self, order: Order) -> None:
        """Delete what was written, but not during a pause: its nodes cost money."""
        if order.key in self._written and not order.is_idle:
            await delete_buffer(self._kube, order.settings)
            self.forget(order.key)

    def forget(self, key: ServiceKey) -> None:
        """Who is gone took its buffer along."""
        self._written.pop(key, None)


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


async def write_buffer(kube: Fenced, settings: ServiceSettings, replicas: int) -> None:
    """Make the buffer, or change its size; it belongs to the GPUAutoscaler and goes with it. Raises `KubeError`."""
    name, namespace = buffer_name(settings), settings.key.namespace
    spec = {"replicas": replicas}
    try:
        await kube.patch(CAPACITY_BUFFERS, namespace, name, {"spec": spec})
    except NotFound:
        await kube.create(CAPACITY_BUFFERS, _buffer(settings, spec))


async def delete_buffer(kube: Fenced, settings: ServiceSettings) -> None:
    """Give the nodes back. Raises `KubeError`."""
    try:
        await kube.delete(CAPACITY_BUFFERS, settings.key.namespace, buffer_name(settings))
    except NotFound:
        return


def _buffer(settings: ServiceSettings, spec: dict[str, Any]) -> dict[str, Any]:
    key, target = settings.key, settings.target
    scalable = {"apiGroup": target.api_version.rpartition("/")[0], "kind": target.kind, "name": target.name}
    return {
        "apiVersion": CAPACITY_BUFFERS.api_version,
        "kind": CAPACITY_BUFFERS.kind,
        "metadata": {
            "name": buffer_name(settings),
            "namespace": key.namespace,
            "ownerReferences": [owner_reference(settings)],
        },
        "spec": {"scalableRef": scalable, **spec},
    }


OUTPUT = Buffer
