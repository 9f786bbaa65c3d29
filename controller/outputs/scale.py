"""The target's `/scale`: one writer, and no lost update."""

from __future__ import annotations

from dataclasses import replace

from controller.kube.errors import Conflict
from controller.kube.fenced import Fenced
from controller.observing.targets import TargetView, resource_of
from controller.outputs.base import Acted, Means, Order, Output, ReplicasMovedError, Standing
from controller.resource.reasons import EventReason
from controller.resource.settings import TargetRef

__all__ = ["OUTPUT", "Scale", "write_scale"]

WRITE_ATTEMPTS = 3


class Scale(Output):
    """Writes the count that is desired, where it is ours to move and nobody else moves it."""

    def __init__(self, means: Means) -> None:
        self._kube = means.kube

    def wants(self, standing: Standing) -> bool:
        """Actuation Scale, in a mode that moves the count."""
        return standing.settings.actuation == "Scale" and standing.mode.moves_count

    async def apply(self, order: Order, acted: Acted) -> Acted:
        """Set the count, unless it stands already or has another writer."""
        settings, view = order.settings, order.view
        if order.desired == view.ordered:
            return acted
        if order.rival:
            return acted.failed(f"{order.rival} scales {settings.target.name} too; not written")
        done = await write_scale(self._kube, order.key.namespace, settings.target, order.desired, view)
        return replace(acted, applied=done, changed=True, event=(EventReason.RESCALED, _why(order)))


async def write_scale(kube: Fenced, namespace: str, target: TargetRef, replicas: int, seen: TargetView) -> int:
    """Set ``replicas`` if the count is still what was seen; returns the count that was accepted.

    A conflict because something else of the object changed is retried on the fresh version; a changed count is
    not overwritten. Raises `ReplicasMovedError`, `LeadershipLostError`, or `KubeError` when the API server refuses or
    cannot be reached.
    """
    resource = await resource_of(kube, target)
    version = seen.version
    for attempt in range(WRITE_ATTEMPTS):
        body = {
            "apiVersion": "autoscaling/v1",
            "kind": "Scale",
            "metadata": {"name": target.name, "namespace": namespace, "resourceVersion": version},
            "spec": {"replicas": replicas},
        }
        try:
            done = await kube.replace(resource, body, subresource="scale")
            return int((done.get("spec") or {}).get("replicas", 0))
        except Conflict:
            if attempt + 1 == WRITE_ATTEMPTS:
                raise
        fresh = await kube.get(resource, namespace, target.name, subresource="scale")
        ordered = int((fresh.get("spec") or {}).get("replicas") or 0)
        if ordered != seen.ordered:
            raise ReplicasMovedError(f"{target.kind} {namespace}/{target.name}", seen.ordered, ordered)
        version = fresh["metadata"].get("resourceVersion", "")
    raise AssertionError("unreachable")


def _why(order: Order) -> str:
    """One sentence for an event."""
    decision = order.decision
    text = f"{order.view.ordered} -> {order.desired} replicas, reason {decision.reason}"
    risk = decision.violation_probability
    if risk == risk:
        text += f", stated risk {risk:.2g} (objective {order.settings.objective.epsilon:g})"
    return text + (f", held by {order.held_by}" if order.held_by else "")


OUTPUT = Scale
