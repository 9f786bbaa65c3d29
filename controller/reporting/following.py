"""What a controller that does not lead can say: the leader's figures, read back from the objects' statuses."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from controller.keda.board import Board, Posting
from controller.resource.group import KIND
from controller.resource.settings import ServiceKey

__all__ = ["post_from_statuses"]

Json = dict[str, Any]


def post_from_statuses(autoscalers: Iterable[Json], board: Board, now_s: float) -> None:
    """Post the leader's figures as current; call it only while the leader is known to be alive.

    A service whose scaling is not active (absent data, paused) is posted without a figure, so that whoever asks gets
    an error and not an old number.
    """
    for obj in autoscalers:
        status, meta = obj.get("status") or {}, obj["metadata"]
        conditions = {c.get("type"): c for c in status.get("conditions") or ()}
        active = conditions.get("ScalingActive", {}).get("status") == "True"
        desired = status.get("desiredReplicas")
        known = active and isinstance(desired, int) and desired >= 0
        posting = Posting(
            desired_replicas=desired if known else None,
            reason=str((status.get("lastScaleDecision") or {}).get("reason", "NotDecidedYet")),
            at_s=now_s,
            mode=str(status.get("effectiveMode", "")),
            max_replicas=(obj.get("spec") or {}).get("maxReplicas"),
        )
        board.post(ServiceKey(KIND, meta.get("namespace", ""), meta["name"]), posting)
