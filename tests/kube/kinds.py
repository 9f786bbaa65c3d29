"""The kinds the server knows: the built-in ones, and those that definitions add."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class ScalePaths:
    """Where an object keeps what /scale shows, as dotted paths without the leading dot."""

    replicas: str = "spec.replicas"
    status_replicas: str = "status.replicas"
    selector: str = "spec.selector"


@dataclass(frozen=True, slots=True, eq=False)
class Kind:
    """One served version of one resource."""

    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool = True
    has_status: bool = False  # status is written through /status only
    scale: ScalePaths | None = None
    generation: bool = False  # metadata.generation counts changes of the wish
    needs_version: bool = False  # PUT without resourceVersion is refused
    short_names: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    custom: bool = False
    table: str = ""  # storage shared by the versions of a resource
    schema: dict[str, Any] | None = None
    selectable: frozenset[str] = frozenset()  # field selectors beyond metadata.name and metadata.namespace
    verbs: tuple[str, ...] = ("create", "delete", "deletecollection", "get", "list", "patch", "update", "watch")

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def storage(self) -> str:
        return self.table or f"{self.group}/{self.plural}"

    @property
    def subresources(self) -> tuple[str, ...]:
        return (*(("status",) if self.has_status else ()), *(("scale",) if self.scale else ()))


_SCALED: dict[str, Any] = {"has_status": True, "scale": ScalePaths(), "generation": True}
_POD_FIELDS = frozenset({"spec.nodeName", "status.phase", "spec.restartPolicy", "spec.serviceAccountName"})
_CORE_EVENT_FIELDS = frozenset(
    {f"involvedObject.{part}" for part in ("kind", "name", "namespace", "uid", "fieldPath")} | {"reason", "type"}
)
_EVENT_FIELDS = frozenset({f"regarding.{part}" for part in ("kind", "name", "namespace", "uid")} | {"reason", "type"})
_RBAC = "rbac.authorization.k8s.io"
_CRD = "apiextensions.k8s.io"

BUILTIN: tuple[Kind, ...] = (
    Kind(
        "",
        "v1",
        "namespaces",
        "Namespace",
        namespaced=False,
        has_status=True,
        short_names=("ns",),
        selectable=frozenset({"status.phase"}),
    ),
    Kind("", "v1", "pods", "Pod", has_status=True, short_names=("po",), categories=("all",), selectable=_POD_FIELDS),
    Kind("", "v1", "nodes", "Node", namespaced=False, has_status=True, short_names=("no",)),
    Kind("", "v1", "events", "Event", short_names=("ev",), table="events", selectable=_CORE_EVENT_FIELDS),
    Kind("", "v1", "services", "Service", has_status=True, short_names=("svc",), categories=("all",)),
    Kind("", "v1", "configmaps", "ConfigMap", short_names=("cm",)),
    Kind("", "v1", "secrets", "Secret"),
    Kind("", "v1", "serviceaccounts", "ServiceAccount", short_names=("sa",)),
    Kind("", "v1", "resourcequotas", "ResourceQuota", has_status=True, short_names=("quota",)),
    Kind("apps", "v1", "deployments", "Deployment", short_names=("deploy",), categories=("all",), **_SCALED),
    Kind("apps", "v1", "statefulsets", "StatefulSet", short_names=("sts",), categories=("all",), **_SCALED),
    Kind("apps", "v1", "replicasets", "ReplicaSet", short_names=("rs",), categories=("all",), **_SCALED),
    Kind(
        "autoscaling",
        "v2",
        "horizontalpodautoscalers",
        "HorizontalPodAutoscaler",
        has_status=True,
        short_names=("hpa",),
        categories=("all",),
    ),
    Kind("coordination.k8s.io", "v1", "leases", "Lease", needs_version=True),
    Kind("events.k8s.io", "v1", "events", "Event", short_names=("ev",), table="events", selectable=_EVENT_FIELDS),
    Kind(
        "policy",
        "v1",
        "poddisruptionbudgets",
        "PodDisruptionBudget",
        has_status=True,
        generation=True,
        needs_version=True,
        short_names=("pdb",),
    ),
    Kind(_RBAC, "v1", "roles", "Role"),
    Kind(_RBAC, "v1", "rolebindings", "RoleBinding"),
    Kind(_RBAC, "v1", "clusterroles", "ClusterRole", namespaced=False),
    Kind(_RBAC, "v1", "clusterrolebindings", "ClusterRoleBinding", namespaced=False),
    Kind("networking.k8s.io", "v1", "networkpolicies", "NetworkPolicy", generation=True, short_names=("netpol",)),
    Kind("networking.k8s.io", "v1", "ingresses", "Ingress", has_status=True, generation=True, short_names=("ing",)),
    Kind(
        _CRD,
        "v1",
        "customresourcedefinitions",
        "CustomResourceDefinition",
        namespaced=False,
        has_status=True,
        generation=True,
        needs_version=True,
        short_names=("crd", "crds"),
    ),
    Kind(
        "authorization.k8s.io",
        "v1",
        "selfsubjectaccessreviews",
        "SelfSubjectAccessReview",
        namespaced=False,
        verbs=("create",),
    ),
    Kind("", "v1", "persistentvolumeclaims", "PersistentVolumeClaim", has_status=True, short_names=("pvc",)),
    Kind("authentication.k8s.io", "v1", "tokenreviews", "TokenReview", namespaced=False, verbs=("create",)),
)


@dataclass(slots=True)
class Registry:
    """All kinds by (group, version, plural)."""

    kinds: dict[tuple[str, str, str], Kind] = field(default_factory=dict)
    serves_late: int = 0  # requests that a new custom kind is not there for yet
    waiting: dict[tuple[str, str], int] = field(default_factory=dict)  # how many are left, by (group, plural)

    @classmethod
    def builtin(cls) -> Registry:
        registry = cls()
        for kind in BUILTIN:
            registry.add(kind)
        return registry

    def add(self, kind: Kind) -> None:
        self.kinds[(kind.group, kind.version, kind.plural)] = kind

    def drop(self, group: str, plural: str) -> None:
        for key in [key for key in self.kinds if key[0] == group and key[2] == plural]:
            del self.kinds[key]

    def begin(self, group: str, plural: str) -> None:
        """A definition was made: its kinds are served in a moment."""
        self.waiting[group, plural] = self.serves_late

    def is_late(self, kind: Kind) -> bool:
        """Whether a request comes too early for a kind; each is counted."""
        left = self.waiting.get((kind.group, kind.plural), 0)
        if left:
            self.waiting[kind.group, kind.plural] = left - 1
        return left > 0

    def find(self, group: str, version: str, plural: str) -> Kind | None:
        return self.kinds.get((group, version, plural))

    def of_group(self, group: str) -> Iterator[Kind]:
        return (kind for kind in self.kinds.values() if kind.group == group)

    def groups(self) -> dict[str, list[str]]:
        """Each named group with its versions, in the order of registration."""
        found: dict[str, list[str]] = {}
        for kind in self.kinds.values():
            versions = found.setdefault(kind.group, [])
            if kind.version not in versions:
                versions.append(kind.version)
        return found

    def versions_of(self, kinds: Iterable[Kind]) -> list[str]:
        return list(dict.fromkeys(kind.version for kind in kinds))
