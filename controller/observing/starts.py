"""From pods to start-up times: which replicas became ready, which are still starting, which failed to start."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

__all__ = ["STARTING", "PodStarts", "Starts", "gpu_type_of", "parse_time"]

Json = dict[str, Any]
GPU_LABEL = "nvidia.com/gpu.product"
# A pod first seen when ready may have lost and regained readiness since; after so long that is the likelier story.
LONGEST_UNWATCHED_S = 3600.0
STARTING = "Starting"  # nothing is known to be wrong
SETTLED_S = 300.0  # service discovery and a first scrape are over
SAME_MOMENT_S = 5.0  # between a pod's start and the first note of its readiness, and between clocks in step
FAILED_WAITING = (
    "CrashLoopBackOff",
    "ImagePullBackOff",
    "ErrImagePull",
    "CreateContainerConfigError",
    "InvalidImageName",
)


def parse_time(text: str | None) -> float:
    """Seconds since the Unix epoch of a Kubernetes time; NaN for none."""
    if not text:
        return float("nan")
    return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()


def gpu_type_of(pod: Json, node_type: Callable[[str], str]) -> str:
    """The GPU product a pod runs on: its node's label, else what it asks for; empty when neither says."""
    spec = pod.get("spec") or {}
    on_node = node_type(spec.get("nodeName") or "")
    return on_node or str((spec.get("nodeSelector") or {}).get(GPU_LABEL, ""))


@dataclass(frozen=True, slots=True)
class Starts:
    """What the pods of one target say.

    Attributes:
        pods: how many exist and are not going away.
        ready: how many of them serve.
        took_s: starts that finished since the last look, seconds from creation to ready.
        took_on: the GPU type of each of them.
        failed_s: starts that were given up since the last look, seconds they had taken.
        pending_s: ages of the pods that still start, seconds.
        unready_s: of the pods that were ready once and are not now, how long they have been so, seconds: they neither
            start nor serve.
        stuck: the reason that most pods wait for, for people; empty for none.
        words: what the oldest of them says about it; empty where it says nothing.
        gpu_type: of the newest pod that names one.
        settled: how many pods have served for longer than monitoring takes to find one.
    """

    pods: int = 0
    ready: int = 0
    took_s: tuple[float, ...] = ()
    took_on: tuple[str, ...] = ()
    failed_s: tuple[float, ...] = ()
    pending_s: tuple[float, ...] = ()
    unready_s: tuple[float, ...] = ()
    stuck: str = ""
    words: str = ""
    gpu_type: str = ""
    settled: int = 0

    def overdue_s(self, limit_s: float) -> tuple[float, ...]:
        """How long pods have not served that should have by now: after ``limit_s`` seconds; longest first."""
        return tuple(sorted((a for a in (*self.pending_s, *self.unready_s) if a > limit_s), reverse=True))


class _Start(NamedTuple):
    """A pod that starts: when it was created, and when it was first seen (NaN: it was there before the first look)."""

    created_s: float
    seen_s: float


@dataclass(slots=True)
class PodStarts:
    """Remembers which pods of one target have been counted, so that each start teaches once.

    A start lasts from the creation of a pod to the first time that it is ready; a pod that was ready once does not
    start again. Where that was not watched, the pod's own times tell: Kubernetes notes when readiness last turned, and
    of a pod that was never ready that is when it began to run.

    Pods that were ready before the first look teach too if they are young enough: their times stand in the pod, and
    a controller that restarts must not forget a morning's starts, nor count them twice (`since_s`). Of those whose
    containers were restarted nobody knows whether that was before they served or after.

    Readiness is noted by the clock of the node. Where that is ahead, a start that was watched is timed by the looks
    themselves, and one that was not teaches nothing.
    """

    since_s: float = float("-inf")  # starts that finished before this moment have been counted
    _counted: set[str] = field(default_factory=set)
    _starting: dict[str, _Start] = field(default_factory=dict)
    _ahead: dict[str, float] = field(default_factory=dict)  # first look at pods that say they will be ready only later
    _has_looked: bool = False

    def look(self, pods: Iterable[Json], now_s: float, node_type: Callable[[str], str] = lambda _: "") -> Starts:
        """Read the pods of the target as they are at ``now_s``."""
        took: list[tuple[float, str]] = []
        failed: list[float] = []
        pending: list[float] = []
        waits: dict[str, list[tuple[float, str]]] = {}  # reason: since when, and in what words
        present: set[str] = set()
        unready: list[float] = []
        alive = ready = settled = 0
        newest, gpu_type = float("-inf"), ""
        self.since_s = min(self.since_s, now_s)  # from a machine whose clock was ahead: no start would ever count
        latest = self.since_s
        for pod in pods:
            meta, status = pod["metadata"], pod.get("status") or {}
            uid = meta.get("uid", meta["name"])
            created = parse_time(meta.get("creationTimestamp"))
            present.add(uid)
            if meta.get("deletionTimestamp") or status.get("phase") in ("Succeeded", "Failed"):
                self._give_up(uid, now_s, failed if status.get("phase") == "Failed" else [])
                continue
            alive += 1
            kind = gpu_type_of(pod, node_type)
            if kind and created > newest:
                newest, gpu_type = created, kind
            became = _became_ready(status)
            if became is None and (uid in self._counted or (uid not in self._starting and _was_ready(pod, now_s))):
                self._counted.add(uid)
                since_s = _turned(status, created)
                unready.append(max(0.0, now_s - since_s))
            elif became is None:
                since_s = created
                pending.append(max(0.0, now_s - created))
                self._starting.setdefault(uid, _Start(created, now_s if self._has_looked else float("nan")))
            if became is None:
                self._ahead.pop(uid, None)
                why, words = _waits_for(status)
                waits.setdefault(why, []).append((since_s, words))
                continue
            ready += 1
            is_ahead = became > now_s + SAME_MOMENT_S
            if is_ahead:
                self._ahead.setdefault(uid, now_s)
            settled += now_s - self._ahead.get(uid, became) >= SETTLED_S
            watched = self._starting.pop(uid, None)
            if uid not in self._counted:
                self._counted.add(uid)
                if is_ahead:
                    took_s = now_s - watched.seen_s if watched is not None else float("nan")
                else:
                    took_s = self._took_s(created, became, watched is not None, status)
                if took_s > 0:  # times are whole seconds; False for NaN
                    took.append((took_s, kind))
                    latest = max(latest, min(became, now_s))
        for uid in [u for u in self._starting if u not in present]:
            self._give_up(uid, now_s, [])  # deleted before it was ready: cancelled, which says nothing about starting
        self._counted &= present
        self._ahead = {uid: at_s for uid, at_s in self._ahead.items() if uid in present}
        self.since_s, self._has_looked = latest, True
        stuck = max(waits, key=lambda r: (r != STARTING, len(waits[r]))) if waits else ""
        return Starts(
            pods=alive,
            ready=ready,
            took_s=tuple(seconds for seconds, _ in took),
            took_on=tuple(kind for _, kind in took),
            failed_s=tuple(failed),
            pending_s=tuple(sorted(pending)),
            unready_s=tuple(sorted(unready)),
            stuck=stuck,
            words=min(waits[stuck])[1] if stuck else "",
            gpu_type=gpu_type,
            settled=settled,
        )

    def _took_s(self, created: float, became: float, watched: bool, status: Json) -> float:
        """Seconds from creation to ready; NaN for a start that was not watched and is not believed, or counted before.

        Of two that became ready in one second, the second is still news if it was watched.
        """
        took_s = became - created
        if not watched and (became <= self.since_s or took_s >= LONGEST_UNWATCHED_S or _restarts(status)):
            return float("nan")
        return took_s

    def _give_up(self, uid: str, now_s: float, failed: list[float]) -> None:
        began = self._starting.pop(uid, None)
        if began is not None:
            failed.append(max(1.0, now_s - began.created_s))


def _restarts(status: Json) -> int:
    """How often containers of the pod were started again."""
    return sum(int(c.get("restartCount") or 0) for c in status.get("containerStatuses") or ())


def _was_ready(pod: Json, now_s: float) -> bool:
    """Whether a pod that is not ready was so before: its readiness has turned since it began to run.

    Where neither time is known, one that has run for longer than any start that is believed.
    """
    status = pod.get("status") or {}
    began = parse_time(status.get("startTime"))
    turned = next((parse_time(c.get("lastTransitionTime")) for c in _conditions(status, "Ready")), float("nan"))
    if turned == turned and began == began:
        return turned - began > SAME_MOMENT_S
    created = parse_time(pod["metadata"].get("creationTimestamp"))
    return status.get("phase") == "Running" and now_s - created > LONGEST_UNWATCHED_S


def _conditions(status: Json, kind: str) -> Iterable[Json]:
    return (c for c in status.get("conditions") or () if c.get("type") == kind)


def _became_ready(status: Json) -> float | None:
    """When the pod became ready; None while it is not."""
    for condition in _conditions(status, "Ready"):
        if condition.get("status") == "True":
            return parse_time(condition.get("lastTransitionTime"))
    return None


def _turned(status: Json, created: float) -> float:
    """Since when a pod has not been ready that was so before; its creation where it does not say."""
    turned = next((parse_time(c.get("lastTransitionTime")) for c in _conditions(status, "Ready")), float("nan"))
    return turned if turned == turned else created


def _waits_for(status: Json) -> tuple[str, str]:
    """Why a pod does not serve, in Kubernetes' own words: a reason, and what it says about it."""
    containers = [*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())]
    for container in containers:
        waiting = (container.get("state") or {}).get("waiting") or {}
        if waiting.get("reason") in FAILED_WAITING:
            return str(waiting["reason"]), str(waiting.get("message") or "")
    for container in containers:
        ended = (container.get("lastState") or {}).get("terminated") or {}
        if ended:
            often = f"restarted {container.get('restartCount', 1)} times"
            return str(ended.get("reason") or "Error"), f"{often}, last exit code {ended.get('exitCode', 'unknown')}"
    for condition in _conditions(status, "PodScheduled"):
        if condition.get("status") == "False":
            return str(condition.get("reason") or "Unschedulable"), str(condition.get("message") or "")
    said = next(iter(_conditions(status, "Ready")), {})
    return STARTING, ": ".join(str(said[k]) for k in ("reason", "message") if said.get(k))
