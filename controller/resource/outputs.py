"""Every output by name: the module it lives in, and what a user writes to choose it.

Modules are named, not imported: the custom resource is made of this list and needs nothing that talks to a cluster.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["ACTUATIONS", "OUTPUTS", "Listed"]


@dataclass(frozen=True, slots=True)
class Listed:
    """One output.

    Attributes:
        home: the module whose `OUTPUT` is its class.
        says: what it does, one clause for people; it begins with the value of ``actuation`` where there is one.
        actuation: the value of ``spec.actuation`` that chooses it; empty where the mode or a field of its own does, or
            where every service has it.
        writes_count: whether it writes the target's replica count, so that nobody else may.
    """

    home: str
    says: str
    actuation: str = ""
    writes_count: bool = False


# In this order they act on a decision; the first actuation is the default.
OUTPUTS: dict[str, Listed] = {
    "keda": Listed("controller.outputs.keda", "tells every service's figure to KEDA when its external scaler asks"),
    "floor": Listed(
        "controller.outputs.floor", "in mode Floor keeps the minimum of the HPA or ScaledObject on the target"
    ),
    "scale": Listed(
        "controller.outputs.scale", "Scale (default) writes the target's /scale", "Scale", writes_count=True
    ),
    "buffer": Listed("controller.outputs.buffer", "where capacityBuffer is enabled has nodes ready ahead of pods"),
    "gauge": Listed(
        "controller.outputs.gauge",
        "External leaves writing to an HPA or ScaledObject that reads our figure",
        "External",
    ),
}

ACTUATIONS: dict[str, Listed] = {listed.actuation: listed for listed in OUTPUTS.values() if listed.actuation}
