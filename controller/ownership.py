"""One writer per target: who else would move its replica count, as a pure function of the objects in the cluster."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from controller.resource.settings import ServiceKey, TargetRef

__all__ = ["Claim", "claims_of", "rival_of"]

Json = dict[str, Any]
TargetId = tuple[str, str, str, str]  # namespace, API group, kind, name: versions of one API are the same target


@dataclass(frozen=True, slots=True)
class Claim:
    """Somebody who means to move a target; ``since`` (creation time, RFC 3339) decides between equals."""

    kind: str
    namespace: str
    name: str
    since: str = ""

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}"


def target_id(namespace: str, target: TargetRef) -> TargetId:
    """What makes two references the same target."""
    return (namespace, target.api_version.rpartition("/")[0], target.kind, target.name)


def claims_of(hpas: Iterable[Json], scaled_objects: Iterable[Json]) -> Mapping[TargetId, tuple[Claim, ...]]:
    """Every HorizontalPodAutoscaler and ScaledObject by what it scales.

    The autoscaler that KEDA makes for a ScaledObject (``keda-hpa-...``, owned by it) is the same writer and is left
    out in favour of the ScaledObject.
    """
    found: dict[TargetId, list[Claim]] = {}
    for kind, objects in (("ScaledObject", scaled_objects), ("HorizontalPodAutoscaler", hpas)):
        for obj in objects:
            meta, spec = obj.get("metadata", {}), obj.get("spec") or {}
            if any(owner.get("kind") == "ScaledObject" for owner in meta.get("ownerReferences") or ()):
                continue
            ref = spec.get("scaleTargetRef") or {}
            target = TargetRef(ref.get("apiVersion", "apps/v1"), ref.get("kind", "Deployment"), ref.get("name", ""))
            claim = Claim(kind, meta.get("namespace", ""), meta.get("name", ""), meta.get("creationTimestamp", ""))
            found.setdefault(target_id(claim.namespace, target), []).append(claim)
    return {target: tuple(claims) for target, claims in found.items()}


def rival_of(
    key: ServiceKey,
    target: TargetId,
    claims: Mapping[TargetId, tuple[Claim, ...]],
    autoscalers: Mapping[TargetId, tuple[Claim, ...]],
) -> Claim | None:
    """Who keeps this service from writing its target: another kind of scaler, or an older object of our own kind."""
    for claim in claims.get(target, ()):
        if (claim.kind, claim.namespace, claim.name) != (key.kind, key.namespace, key.name):
            return claim
    ours = sorted(autoscalers.get(target, ()), key=lambda c: (c.since, c.name))
    first = ours[0] if ours else None
    if first is not None and (first.namespace, first.name) != (key.namespace, key.name):
        return first
    return None
