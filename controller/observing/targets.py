"""What is scaled: a target's counts and pods as they are."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from controller.kube.cache import Cache
from controller.kube.client import Kube
from controller.kube.errors import KubeError, NotFound
from controller.kube.fenced import Fenced
from controller.kube.resources import DEPLOYMENTS, LEADER_WORKER_SETS, NODES, PODS, STATEFUL_SETS, Resource
from controller.observing.starts import GPU_LABEL, PodStarts, Starts
from controller.resource.settings import TargetRef
from forecasting.errors import UsageError

__all__ = ["OWNERS", "TargetView", "Targets", "is_own", "resource_of", "selector_text"]

Json = dict[str, Any]
WATCHED = {  # kinds whose objects are watched; of all others `/scale` is read each tick
    ("apps", "Deployment"): DEPLOYMENTS,
    ("apps", "StatefulSet"): STATEFUL_SETS,
    ("leaderworkerset.x-k8s.io", "LeaderWorkerSet"): LEADER_WORKER_SETS,
}
OWNERS = frozenset({("apps", "Deployment"), ("apps", "StatefulSet"), ("argoproj.io", "Rollout")})
HASH_LABELS = {  # of kinds that own pods through ReplicaSets: a Rollout may have the name of a Deployment
    ("apps", "Deployment"): "pod-template-hash",
    ("argoproj.io", "Rollout"): "rollouts-pod-template-hash",
}
WORDS = 240  # characters of what a pod says about itself


@dataclass(frozen=True, slots=True)
class TargetView:
    """One look at a target.

    `problem` says why it cannot be scaled (empty: it can); `ordered` is `spec.replicas`; `starts` what its pods say;
    `version` the resourceVersion that a write refers to; `hold_down` why it must not be scaled down now.
    """

    problem: str = ""
    ordered: int = 0
    starts: Starts = field(default_factory=Starts)
    selector: str = ""
    version: str = ""
    hold_down: str = ""
    blocked: str = ""  # why pods are not even created (quota), in the API server's words
    group: int = 1  # pods that make one replica

    @property
    def ready(self) -> int:
        """Replicas that serve: whole groups of ready pods."""
        return self.starts.ready // self.group


@dataclass(frozen=True, slots=True)
class _Scale:
    """The parts of a workload or of its `/scale` that matter here."""

    ordered: int
    selector: Any
    version: str
    hold_down: str = ""
    blocked: str = ""
    uid: str = ""


class Targets:
    """Targets of all services, over shared watches of workloads, pods and (where allowed) nodes."""

    def __init__(self, kube: Kube, namespaces: Sequence[str] | None, *, read_nodes: bool = True) -> None:
        self._kube = kube
        self._namespaces = namespaces
        self._workloads: dict[Resource, Cache] = {}
        self.pods = Cache(kube, PODS, namespaces=namespaces, transform=_trim_pod)
        self._read_nodes = read_nodes
        self.nodes: Cache | None = None  # GPU types of nodes are a help, no must
        self._tasks: set[asyncio.Task[None]] = set()

    # ---- life -----------------------------------------------------------------------------------------------
    async def start(self) -> None:
        """Begin watching pods, and nodes where that is allowed; returns when all pods are known."""
        if not self._tasks:
            self._run(self.pods)
        await self.pods.synced()
        if self._read_nodes and self.nodes is None and await self._kube.allowed("watch", NODES):
            self.nodes = Cache(self._kube, NODES, namespaces=None, transform=_trim_node)
            self._run(self.nodes)

    async def stop(self) -> None:
        """End all watches."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def caches(self) -> list[Cache]:
        """The watches that decisions rest on.

        Of workloads those that were ever in step: a kind that is not installed, or may not be read, is the trouble of
        the objects that name it, and their status says so.
        """
        return [self.pods, *(cache for cache in self._workloads.values() if cache.is_synced)]

    def _run(self, cache: Cache) -> None:
        task = asyncio.create_task(cache.run())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # ---- reading --------------------------------------------------------------------------------------------
    async def look(self, namespace: str, target: TargetRef, starts: PodStarts, now_s: float) -> TargetView:
        """The target as it is; a target that is gone or cannot be scaled comes back with its `problem`."""
        where = f"{target.kind} {namespace}/{target.name}"
        try:
            scale = await self._scale(namespace, target)
        except NotFound:
            return TargetView(problem=f"{where} does not exist (or has no scale subresource)")
        except KubeError as error:
            return TargetView(problem=f"{where} cannot be read: {error}")
        if scale is None:
            return TargetView(problem=f"{where} does not exist")
        if not scale.selector:
            return TargetView(problem=f"{where} gives no pod selector in its scale status; its pods cannot be counted")
        try:
            pods = self.pods.select(namespace, scale.selector)
        except UsageError as error:
            return TargetView(problem=f"{where}: its pod selector cannot be read: {error}")
        own = [pod for pod in pods if is_own(pod, target, scale.uid)]
        return TargetView(
            ordered=scale.ordered,
            starts=starts.look(own, now_s, self._node_type),
            selector=scale.selector if isinstance(scale.selector, str) else selector_text(scale.selector),
            version=scale.version,
            hold_down=scale.hold_down,
            blocked=scale.blocked,
        )

    async def _scale(self, namespace: str, target: TargetRef) -> _Scale | None:
        group = target.api_version.rpartition("/")[0]
        resource = WATCHED.get((group, target.kind))
        if resource is None:
            other = await self._kube.discover(target.api_version, target.kind)
            return _of_scale(await self._kube.get(other, namespace, target.name, subresource="scale"))
        cache = self._workloads.get(resource)
        if cache is None:
            cache = self._workloads[resource] = Cache(
                self._kube, resource, namespaces=self._namespaces, transform=_trim_workload
            )
            self._run(cache)
        await cache.synced()
        found = cache.get(namespace, target.name)
        return None if found is None else _of_workload(found)

    def _node_type(self, node: str) -> str:
        if self.nodes is None or not node:
            return ""
        found = self.nodes.get("", node)
        return "" if found is None else str(found["metadata"].get("labels", {}).get(GPU_LABEL, ""))


async def resource_of(kube: Kube | Fenced, target: TargetRef) -> Resource:
    """Where objects of the target's kind live. Raises `KubeError`."""
    group = target.api_version.rpartition("/")[0]
    return WATCHED.get((group, target.kind)) or await kube.discover(target.api_version, target.kind)


def _of_scale(scale: Json) -> _Scale:
    """From a Scale object."""
    return _Scale(
        ordered=int((scale.get("spec") or {}).get("replicas") or 0),
        selector=(scale.get("status") or {}).get("selector") or "",
        version=scale["metadata"].get("resourceVersion", ""),
        uid=scale["metadata"].get("uid", ""),
    )


def _of_workload(obj: Json) -> _Scale:
    """From a watched workload (trimmed)."""
    spec, status = obj.get("spec") or {}, obj.get("status") or {}
    blocked = next((c.get("message", "") for c in status.get("conditions", ()) if c["type"] == "ReplicaFailure"), "")
    replicas = spec.get("replicas")
    return _Scale(
        ordered=1 if replicas is None else int(replicas),
        selector=status.get("hpaPodSelector") or spec.get("selector") or "",
        version=obj["metadata"].get("resourceVersion", ""),
        hold_down="its rollout is paused" if spec.get("paused") else "",
        blocked=blocked,
        uid=obj["metadata"].get("uid", ""),
    )


def is_own(pod: Json, target: TargetRef, uid: str) -> bool:
    """Whether a pod that the target's selector matches belongs to it: labels of two targets may overlap.

    A Deployment (or Argo Rollout) owns pods through ReplicaSets, which it names by its own name and a hash that the
    pods carry as a label. Of other kinds nothing is known about how they own pods: the selector decides.
    """
    kind = (target.api_version.rpartition("/")[0], target.kind)
    if kind not in OWNERS:
        return True
    for owner in pod["metadata"].get("ownerReferences") or ():
        if owner.get("uid") == uid and uid:
            return True
        if owner.get("kind") == "ReplicaSet" and kind in HASH_LABELS:
            own_hash = (pod["metadata"].get("labels") or {}).get(HASH_LABELS[kind])
            return bool(own_hash) and owner.get("name") == f"{target.name}-{own_hash}"
    return False


def _trim_workload(obj: Json) -> Json:
    """Only what is read here, because there may be thousands."""
    meta, spec, status = obj["metadata"], obj.get("spec") or {}, obj.get("status") or {}
    failures = [
        c for c in status.get("conditions") or () if c.get("type") == "ReplicaFailure" and c.get("status") == "True"
    ]
    return {
        "metadata": {k: meta[k] for k in ("name", "namespace", "resourceVersion", "uid") if k in meta},
        "spec": {k: spec[k] for k in ("replicas", "selector", "paused") if k in spec},
        "status": {"conditions": failures, "hpaPodSelector": status.get("hpaPodSelector", "")},
    }


def _trim_pod(pod: Json) -> Json:
    """Only what start-up times need."""
    meta, spec, status = pod["metadata"], pod.get("spec") or {}, pod.get("status") or {}
    kept = ("name", "namespace", "uid", "labels", "creationTimestamp", "deletionTimestamp")
    owners = [
        {k: owner.get(k) for k in ("kind", "name", "uid")}
        for owner in meta.get("ownerReferences") or ()
        if owner.get("controller")
    ]
    ready = any(c.get("type") == "Ready" and c.get("status") == "True" for c in status.get("conditions") or ())
    kept_of_condition = ("type", "status", "reason", "lastTransitionTime") + (() if ready else ("message",))
    return {
        "metadata": {k: meta[k] for k in kept if k in meta} | ({"ownerReferences": owners} if owners else {}),
        "spec": {k: spec[k] for k in ("nodeName", "nodeSelector") if k in spec},
        "status": {
            "phase": status.get("phase", ""),
            "conditions": [
                {k: _in_short(c[k]) for k in kept_of_condition if k in c}
                for c in status.get("conditions") or ()
                if c.get("type") == "Ready" or (c.get("type"), c.get("status")) == ("PodScheduled", "False")
            ],
            **({"startTime": status["startTime"]} if "startTime" in status else {}),
            **(_restarted(status) if ready else _waiting(status)),
        },
    }


def _restarted(status: Json) -> Json:
    """How often the containers of a pod that is ready were restarted, where they were."""
    said = [{"restartCount": c["restartCount"]} for c in status.get("containerStatuses") or () if c.get("restartCount")]
    return {"containerStatuses": said} if said else {}


def _waiting(status: Json) -> Json:
    """What the containers of a pod that is not ready wait for, or how they ended."""
    out: Json = {}
    for field_name in ("initContainerStatuses", "containerStatuses"):
        said = []
        for container in status.get(field_name) or ():
            waiting = (container.get("state") or {}).get("waiting") or {}
            ended = (container.get("lastState") or {}).get("terminated") or {}
            if waiting or ended:
                said.append(
                    {
                        "state": {"waiting": {k: _in_short(waiting[k]) for k in ("reason", "message") if k in waiting}},
                        "lastState": {"terminated": {k: ended[k] for k in ("reason", "exitCode") if k in ended}},
                        "restartCount": container.get("restartCount", 0),
                    }
                )
        if said:
            out[field_name] = said
    return out


def _in_short(text: Any) -> Any:  # noqa: ANN401  (a field of a pod)
    """A sentence, cut where it is long: there may be thousands."""
    return text if not isinstance(text, str) or len(text) <= WORDS else text[: WORDS - 3] + "..."


def _trim_node(node: Json) -> Json:
    """The name and the GPU's type."""
    labels = node["metadata"].get("labels") or {}
    return {
        "metadata": {
            "name": node["metadata"]["name"],
            "resourceVersion": node["metadata"].get("resourceVersion", ""),
            "labels": {GPU_LABEL: labels[GPU_LABEL]} if GPU_LABEL in labels else {},
        }
    }


def selector_text(selector: Json) -> str:
    """A LabelSelector in the one-line form that `kubectl -l` takes."""
    parts = [f"{k}={v}" for k, v in sorted((selector.get("matchLabels") or {}).items())]
    for e in selector.get("matchExpressions") or ():
        values = f" ({','.join(e.get('values') or ())})"
        text = {"In": f"{e['key']} in{values}", "NotIn": f"{e['key']} notin{values}", "Exists": e["key"]}
        parts.append(text.get(e["operator"], f"!{e['key']}"))
    return ",".join(parts)
