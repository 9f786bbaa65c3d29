"""ResourceQuota, for the two things that GPU services run out of: pods and GPUs."""

from __future__ import annotations

from .errors import ApiError
from .storage import Json, Storage

GPU = "nvidia.com/gpu"


def _used_by(pod: Json, what: str) -> int:
    if what in ("pods", "count/pods"):
        return 1
    asked = (container.get("resources") or {} for container in pod["spec"]["containers"])
    return sum(int((one.get("requests") or one.get("limits") or {}).get(GPU, 0)) for one in asked)


def check_quota(storage: Storage, namespace: str, pod: Json) -> None:
    """Refuses a pod for which a quota of its namespace has no room.

    Raises:
        ApiError: 403, worded as the real server does.
    """
    running: list[Json] | None = None
    for (space, name), item in storage.table("/resourcequotas").items.items():
        if space != namespace:
            continue
        if running is None:
            running = [one.obj for (where, _), one in storage.table("/pods").items.items() if where == namespace]
        hard = item.obj.get("spec", {}).get("hard") or {}
        for what in ("pods", "count/pods", f"requests.{GPU}"):
            wanted = _used_by(pod, what)
            used = sum(_used_by(one, what) for one in running)
            if what in hard and wanted and used + wanted > int(hard[what]):
                amounts = f"requested: {what}={wanted}, used: {what}={used}, limited: {what}={hard[what]}"
                text = f'pods "{pod["metadata"]["name"]}" is forbidden: exceeded quota: {name}, {amounts}'
                raise ApiError(403, "Forbidden", text, {"name": pod["metadata"]["name"], "kind": "pods"})
