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
        actuation: the value of ``spec.actuation`` that chooses it; empty where the mode or a field of its own does, or
            where every service has it.
        says: what that value does, one clause for the field's description.
        writes_count: whether it writes the target's replica count, so that nobody else may.
    """

    home: str
    actuation: str = ""
    says: str = ""
    writes_count: bool = False


# In this order they act on a decision; the first actuation is the default.
OUTPUTS: dict[str, Listed] = {
    "keda": Listed("controller.outputs.keda"),
    "floor": Listed("controller.outputs.floor"),
    "scale": Listed(
        "controller.outputs.scale", "Scale", "Scale (default) writes the target's /scale", writes_count=True
    ),
    "buffer": Listed("controller.outputs.buffer"),
    "gauge": Listed(
        "controller.outputs.gauge",
        "External",
        "External leaves writing to an HPA or ScaledObject that reads our figure",
    ),
}

ACTUATIONS: dict[str, Listed] = {listed.actuation: listed for listed in OUTPUTS.values() if listed.actuation}
