"""The statuses that kubelets and workload controllers write."""

from __future__ import annotations

from typing import Any

Json = dict[str, Any]


def is_ready(pod: Json) -> bool:
    conditions = (pod.get("status") or {}).get("conditions") or ()
    return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)


def _condition(kind: str, status: bool, now: str, reason: str = "", message: str = "") -> Json:
    made: Json = {"type": kind, "status": str(status), "lastTransitionTime": now}
    return made | ({"reason": reason} if reason else {}) | ({"message": message} if message else {})


def ready_status(pod: Json, now: str, ready: bool) -> Json:
    """The status of a running pod; a condition that does not change keeps its time."""
    before = {one["type"]: one for one in (pod.get("status") or {}).get("conditions") or ()}
    fresh = [_condition(kind, True, now) for kind in ("PodScheduled", "Initialized")]
    fresh += [
        _condition(kind, ready, now, "" if ready else "ContainersNotReady") for kind in ("ContainersReady", "Ready")
    ]
    kept = [before[one["type"]] if before.get(one["type"], {}).get("status") == one["status"] else one for one in fresh]
    state = {"running": {"startedAt": now}}
    return {
        "phase": "Running",
        "startTime": (pod.get("status") or {}).get("startTime", now),
        "conditions": kept,
        "containerStatuses": [
            {
                "name": one["name"],
                "image": one.get("image", ""),
                "imageID": "",
                "ready": ready,
                "started": ready,
                "restartCount": 0,
                "state": state,
            }
            for one in pod["spec"]["containers"]
        ],
    }


def unschedulable_status(pod: Json, now: str) -> Json:
    text = "0/1 nodes are available: 1 Insufficient nvidia.com/gpu."
    return {"phase": "Pending", "conditions": [_condition("PodScheduled", False, now, "Unschedulable", text)]}


def workload_status(kind: str, workload: Json, pods: list[Json], refused: str, now: str) -> Json | None:
    """The merge patch of a workload's status, None if it says so already. Zero counts are left out, as in Go."""
    old = workload.get("status") or {}
    total, ready = len(pods), sum(map(is_ready, pods))
    wanted = workload["spec"].get("replicas", 1)
    counts = {"replicas": total, "readyReplicas": ready, "availableReplicas": ready, "updatedReplicas": total}
    if kind == "Deployment":
        counts["unavailableReplicas"] = max(wanted - ready, 0)
    status: Json = {name: count or None for name, count in counts.items()}
    status["observedGeneration"] = workload["metadata"].get("generation", 1)
    if kind == "StatefulSet":
        status["replicas"] = total  # not omitempty there
    else:
        status["conditions"] = _conditions(old, ready >= wanted, refused, now)
    return None if all(old.get(name) == value for name, value in status.items()) else status


def _conditions(old: Json, available: bool, refused: str, now: str) -> list[Json]:
    reason = "MinimumReplicasAvailable" if available else "MinimumReplicasUnavailable"
    fresh = [
        _condition(
            "Available",
            available,
            now,
            reason,
            "Deployment has minimum availability." if available else "Deployment does not have minimum availability.",
        )
    ]
    fresh.append(_condition("Progressing", True, now, "NewReplicaSetAvailable" if available else "ReplicaSetUpdated"))
    if refused:
        fresh.append(_condition("ReplicaFailure", True, now, "FailedCreate", refused))
    before = {one["type"]: one for one in old.get("conditions") or ()}
    same = ("status", "reason", "message")
    return [
        was if (was := before.get(one["type"])) and all(was.get(name) == one.get(name) for name in same) else one
        for one in fresh
    ]
