"""The kinds of object the controller reads and writes, and where the API server keeps them."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import quote

from controller.kube.errors import Invalid
from controller.resource import group

__all__ = [
    "ACCESS_REVIEWS",
    "AUTOSCALERS",
    "CAPACITY_BUFFERS",
    "CRDS",
    "DEPLOYMENTS",
    "EVENTS",
    "HPAS",
    "LEADER_WORKER_SETS",
    "LEASES",
    "NODES",
    "PODS",
    "SCALED_OBJECTS",
    "STATEFUL_SETS",
    "Resource",
]


@dataclass(frozen=True, slots=True)
class Resource:
    """One kind of object as one version of the API serves it; `group` is empty for the core API."""

    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool = True

    @property
    def api_version(self) -> str:
        """What an object of this kind says in `apiVersion`."""
        return f"{self.group}/{self.version}" if self.group else self.version

    def path(self, namespace: str | None = None, name: str | None = None, subresource: str = "") -> str:
        """URL path of the collection (no `name`; no `namespace` = of all namespaces), object or subresource.

        Raises Invalid if a segment is one that no object can have, so that a name out of somebody's manifest can
        never lead to another place than that object's.
        """
        root = f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"
        segments = [root]
        if self.namespaced and namespace:
            segments += ["namespaces", self._segment("namespace", namespace)]
        elif self.namespaced and name is not None:
            raise Invalid(f"{self.plural} {name}", "a namespaced object needs its namespace")
        segments.append(self.plural)
        if name is not None:
            segments.append(self._segment("name", name))
            if subresource:
                segments.append(subresource)
        return "/".join(segments)

    def _segment(self, what: str, value: str) -> str:
        """Check and quote one segment; the API server's own rule for names in paths."""
        if value in ("", ".", "..") or "/" in value or "%" in value:
            raise Invalid(
                f"{self.plural} {value!r}", f"not a possible {what}: must not be empty, '.', '..' or have / %"
            )
        return quote(value, safe="")


ACCESS_REVIEWS = Resource("authorization.k8s.io", "v1", "selfsubjectaccessreviews", "SelfSubjectAccessReview", False)
AUTOSCALERS = Resource(group.GROUP, group.VERSION, group.PLURAL, group.KIND)
CAPACITY_BUFFERS = Resource("autoscaling.x-k8s.io", "v1beta1", "capacitybuffers", "CapacityBuffer")
CRDS = Resource("apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition", False)
DEPLOYMENTS = Resource("apps", "v1", "deployments", "Deployment")
EVENTS = Resource("events.k8s.io", "v1", "events", "Event")
HPAS = Resource("autoscaling", "v2", "horizontalpodautoscalers", "HorizontalPodAutoscaler")
LEADER_WORKER_SETS = Resource("leaderworkerset.x-k8s.io", "v1", "leaderworkersets", "LeaderWorkerSet")
LEASES = Resource("coordination.k8s.io", "v1", "leases", "Lease")
NODES = Resource("", "v1", "nodes", "Node", False)
PODS = Resource("", "v1", "pods", "Pod")
SCALED_OBJECTS = Resource("keda.sh", "v1alpha1", "scaledobjects", "ScaledObject")
STATEFUL_SETS = Resource("apps", "v1", "statefulsets", "StatefulSet")
TOKEN_REVIEWS = Resource("authentication.k8s.io", "v1", "tokenreviews", "TokenReview", False)
