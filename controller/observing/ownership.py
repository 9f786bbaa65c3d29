"""One writer per target: who else would move its replica count, as a pure function of the objects in the cluster."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from controller.resource.group import SCALED_OBJECT_KIND
from controller.resource.settings import ServiceKey, TargetRef

__all__ = ["Claim", "TargetId", "claims_of", "first_of", "is_kedas", "rival_of", "spec_of", "target_id", "target_of"]

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


def is_kedas(obj: Json) -> bool:
    """Whether a HorizontalPodAutoscaler is the one that KEDA makes for a ScaledObject: the same writer, twice there.

    KEDA copies labels and annotations of the ScaledObject to it, ours among them, and undoes whatever is changed of it.
    """
    owners = obj.get("metadata", {}).get("ownerReferences") or ()
    return any(owner.get("kind") == SCALED_OBJECT_KIND for owner in owners)


def spec_of(obj: Json) -> Json:
    """The spec of an object, whatever stands there: objects of others need not be as their schema would have them."""
    return _object(obj.get("spec"))


def _object(value: object) -> Json:
    return value if isinstance(value, dict) else {}


def target_of(obj: Json) -> TargetId:
    """What an autoscaler of any kind says that it scales."""
    ref = _object(spec_of(obj).get("scaleTargetRef"))
    version, kind, name = (ref.get(field) for field in ("apiVersion", "kind", "name"))
    target = TargetRef(str(version or "apps/v1"), str(kind or "Deployment"), str(name or ""))
    return target_id(obj.get("metadata", {}).get("namespace", ""), target)


def claims_of(*kinds: tuple[str, Iterable[Json]]) -> Mapping[TargetId, tuple[Claim, ...]]:
    """All autoscalers of these kinds by what they scale: in the order of the kinds, the oldest of a kind first.

    The autoscaler that KEDA makes for a ScaledObject is left out in favour of the ScaledObject.
    """
    found: dict[TargetId, list[Claim]] = {}
    for kind, objects in kinds:
        of_kind: dict[TargetId, list[Claim]] = {}
        for obj in objects:
            if is_kedas(obj):
                continue
            meta = obj.get("metadata", {})
            claim = Claim(kind, meta.get("namespace", ""), meta.get("name", ""), meta.get("creationTimestamp") or "")
            of_kind.setdefault(target_of(obj), []).append(claim)
        for target, claims in of_kind.items():
            found.setdefault(target, []).extend(sorted(claims, key=_age))
    return {target: tuple(claims) for target, claims in found.items()}


def first_of(claims: Iterable[Claim]) -> Claim | None:
    """The one of equals that all others yield to: the oldest."""
    return min(claims, key=_age, default=None)


def _age(claim: Claim) -> tuple[str, str]:
    return (claim.since, claim.name)


def rival_of(
    key: ServiceKey,
    target: TargetId,
    claims: Mapping[TargetId, tuple[Claim, ...]],
    autoscalers: Mapping[TargetId, tuple[Claim, ...]],
) -> Claim | None:
    """Who keeps this service from writing its target: another kind of scaler, or an older object of our own kind.

    ``claims`` are scalers of other kinds; ``autoscalers`` are GPUAutoscalers, whoever serves them.
    """
    for claim in claims.get(target, ()):
        if (claim.kind, claim.namespace, claim.name) != (key.kind, key.namespace, key.name):
            return claim
    first = first_of(autoscalers.get(target, ()))
    if first is not None and (first.kind, first.namespace, first.name) != (key.kind, key.namespace, key.name):
        return first
    return None
