"""Writing back to the cluster: statuses, annotations and events; only what changed, and never in a service's way."""

from __future__ import annotations

import asyncio
import json
import logging
import zlib
from collections import deque
from collections.abc import Callable
from typing import Any

from controller.fleet.fleet import WRITTEN, Fleet, Rejected
from controller.kube.client import Kube
from controller.kube.errors import KubeError, NotFound
from controller.kube.events import Events
from controller.kube.resources import AUTOSCALERS, HPAS, SCALED_OBJECTS
from controller.outputs.base import Acted
from controller.reporting.status import (
    IDLE_CONDITIONS,
    LEARNED_EVERY_S,
    LEARNED_PER_S,
    annotations_of,
    differs,
    is_idle,
    rejected_status,
    status_of,
)
from controller.resource.group import KIND, Annotation
from controller.resource.reasons import EventReason
from controller.resource.saving import packed
from controller.resource.settings import ServiceKey
from controller.resource.status import without_figures
from controller.service import Service

__all__ = ["Reporter"]

Json = dict[str, Any]
MOST_UNTOLD = 8
SAVED_AT_ONCE = 32
log = logging.getLogger(__name__)


class Reporter:
    """Remembers what was last written about each object and writes the difference."""

    def __init__(
        self, kube: Kube, fleet: Fleet, events: Events, may_act: Callable[[], bool], *, dry_run: bool = False
    ) -> None:
        self._kube = kube
        self._fleet = fleet
        self._events = events
        self._may_act = may_act
        self._dry_run = dry_run
        self._written: dict[ServiceKey, Json] = {}
        self._learned_at: dict[ServiceKey, float] = {}  # when what was learned was last written, or seen to be the same
        self._learned: dict[ServiceKey, int] = {}  # what of it was written
        self._untold: dict[ServiceKey, deque[tuple[EventReason, str]]] = {}
        self._refused: dict[ServiceKey, str] = {}  # what was last told to be wrong with an object
        self.current: dict[ServiceKey, Json] = {}  # in a dry run: what would stand in each status

    def forget(self, key: ServiceKey) -> None:
        """An object is gone."""
        for known in (self._written, self._learned_at, self._learned, self._untold, self._refused, self.current):
            known.pop(key, None)

    def _old(self, key: ServiceKey) -> Json:
        """The status as it was last written: by us, or by a controller before us."""
        known = self._written.get(key)
        if known is None:
            obj = self._fleet.objects.get(key, {})
            known = self._written[key] = dict(obj.get("status") or {}) if key.kind == KIND else {}
            for name in ("memory", "learned"):
                known.pop(name, None)
        return known

    def _show(self, key: ServiceKey, status: Json) -> None:
        """In a dry run, keep and log what would have been written where its meaning changed.

        Otherwise it would be the largest thing kept of a service.
        """
        if not self._dry_run:
            return
        if differs(self.current.get(key, {}), status):
            log.info("%s", _in_short(status), extra={"service": str(key)})
        self.current[key] = status

    # ---- status ---------------------------------------------------------------------------------------------
    async def report(self, service: Service, acted: Acted, now_s: float) -> None:
        """Write a service's status if its meaning changed, and tell people what happened. Raises `KubeError`."""
        key = service.settings.key
        old = self._old(key)
        status = status_of(service, acted, old, now_s)
        rejected = self._fleet.rejected.get(key)
        if rejected is None:
            self._refused.pop(key, None)
        else:
            status = _refused(status, old, rejected, now_s)
        self._show(key, status)
        if self._dry_run or not self._may_act():
            return
        news = rejected is not None and self._refuse(key, rejected, old)
        self._tell(service, acted, old, status)
        news = news or differs(old, status)
        learned_due = not service.is_idle and self._is_due(key, now_s)
        if not (news or learned_due):
            return
        learned = service.to_json()
        mark = hash(json.dumps(learned))
        if not news and self._learned.get(key) == mark:
            self._learned_at[key] = now_s
            return
        try:
            if key.kind == KIND:
                await self._write_status(key, old, status | self._memory(key, learned))
            else:
                notes = annotations_of(status, learned if learned_due or key not in self._learned else None)
                await self._annotate(key, notes if rejected is None else notes | _refusal_note(rejected))
        except NotFound:
            return  # deleted a moment ago; the watch will say so
        self._written[key] = without_figures(status)
        self._learned_at[key], self._learned[key] = now_s, mark

    def _is_due(self, key: ServiceKey, now_s: float) -> bool:
        """Whether what was learned is to be written though nothing else has changed.

        Everybody has moments of their own, however they began: a fleet must not write together. The more there are,
        the rarer they are, so that a fleet's writes a second stay what they are.
        """
        every_s = max(LEARNED_EVERY_S, len(self._fleet.services) / LEARNED_PER_S)
        own_s = zlib.crc32(str(key).encode()) % every_s
        last_s = self._learned_at.setdefault(key, now_s)
        return bool((now_s - own_s) // every_s > (last_s - own_s) // every_s)

    async def reject(self, key: ServiceKey, rejected: Rejected, now_s: float) -> None:
        """Say on the object itself why it is not served as it is written. Raises `KubeError`.

        Where the last good settings are still served, `report` writes the status, with this in it.
        """
        old, served = self._old(key), key in self._fleet.services
        status = _refused(old, old, rejected, now_s)
        if not served:
            self._show(key, status)
        if self._dry_run or not self._may_act():
            return
        news = self._refuse(key, rejected, old)
        if served or not (news or differs(old, status)):
            return
        try:
            if key.kind == KIND:
                await self._write_status(key, old, status)
            else:
                await self._annotate(key, _refusal_note(rejected))
        except NotFound:
            return
        self._written[key] = status

    def _refuse(self, key: ServiceKey, rejected: Rejected, old: Json) -> bool:
        """Tell what is wrong with an object, unless it was told: by us, or by a controller before us."""
        stood = next((c.get("message") for c in old.get("conditions") or () if c.get("reason") == "InvalidSpec"), None)
        news = self._refused.get(key, stood) != rejected.why
        self._refused[key] = rejected.why
        if news:
            self._event(key, EventReason.INVALID_SPEC, rejected.why)
        return news

    async def _write_status(self, key: ServiceKey, old: Json, status: Json) -> None:
        gone = {name: None for name in old if name not in status}
        await self._kube.patch(
            AUTOSCALERS, key.namespace, key.name, {"status": {**gone, **status}}, subresource="status"
        )

    def _memory(self, key: ServiceKey, learned: Json) -> Json:
        """What was learned, as it is written; what an earlier version wrote goes once this has been seen to stay."""
        stood = self._fleet.objects.get(key, {}).get("status") or {}
        gone = {"learned": None} if "learned" in stood and "memory" in stood else {}
        return {"memory": packed(learned), **gone}

    async def _annotate(self, key: ServiceKey, notes: dict[str, str]) -> None:
        resource = SCALED_OBJECTS if key.kind == "ScaledObject" else HPAS
        await self._kube.patch(resource, key.namespace, key.name, {"metadata": {"annotations": notes}})

    async def clear(self, key: ServiceKey) -> None:
        """Take our annotations off an object that has opted out. Raises `KubeError`."""
        if self._dry_run or not self._may_act():
            return
        resource = SCALED_OBJECTS if key.kind == "ScaledObject" else HPAS
        notes = dict.fromkeys(WRITTEN)  # null takes away
        try:
            await self._kube.patch(resource, key.namespace, key.name, {"metadata": {"annotations": notes}})
        except NotFound:
            return
        self.forget(key)
        log.info("opted out: annotations taken off", extra={"service": str(key)})

    async def save_all(self) -> int:
        """Write what was learned of every service, before this process ends; returns how many writes failed."""
        kept = [
            (key, service)
            for key, service in self._fleet.services.items()
            if key.kind == KIND and not self._dry_run and key in self._written
        ]
        at_once = asyncio.Semaphore(SAVED_AT_ONCE)

        async def save(key: ServiceKey, service: Service) -> bool:
            async with at_once:
                if not self._may_act():
                    return True
                try:
                    body = {"status": self._memory(key, service.to_json())}
                    await self._kube.patch(AUTOSCALERS, key.namespace, key.name, body, subresource="status")
                except KubeError:
                    return False
                return True

        return (await asyncio.gather(*(save(*one) for one in kept))).count(False)

    # ---- events ---------------------------------------------------------------------------------------------
    def _tell(self, service: Service, acted: Acted, old: Json, new: Json) -> None:
        """What was done, and every condition that turned; one event a tick, the others wait for the next ones."""
        key = service.settings.key
        news = self._untold.setdefault(key, deque(maxlen=MOST_UNTOLD))
        if acted.event is not None:
            news.append(acted.event)
        before = {c.get("type"): c for c in old.get("conditions") or ()}
        quiet = IDLE_CONDITIONS if is_idle(old) and is_idle(new) else ()
        for condition in new["conditions"]:
            if condition["type"] in quiet:
                continue
            was, reason = before.get(condition["type"]), _turn(condition)
            if reason is not None and (reason in WORTH_AT_FIRST if was is None else reason is not _turn(was)):
                news.append((reason, condition["message"]))
        if old.get("effectiveMode") and old["effectiveMode"] != new["effectiveMode"] and old.get("mode") == new["mode"]:
            lost = service.mode.rank < service.settings.mode.rank
            reason = EventReason.AUTHORITY_REDUCED if lost else EventReason.AUTHORITY_RESTORED
            news.append((reason, f"mode {old['effectiveMode']} -> {new['effectiveMode']}"))
        if notes := service.take_notes():
            news.append((EventReason.NOT_RESTORED, "; ".join(notes)))
        if news:
            self._event(key, *news.popleft())

    def _event(self, key: ServiceKey, reason: EventReason, note: str) -> None:
        obj = self._fleet.objects.get(key)
        if obj is None:
            return
        kind = "Normal" if reason in GOOD else "Warning"
        self._events.record(obj, kind, str(reason), note[:1000])


def _in_short(status: Json) -> str:
    """The decision in words, or why there is none; what is wrong goes before."""
    ready: Json = next((c for c in status.get("conditions") or () if c["type"] == "Ready"), {})
    wrong = f"{ready['reason']}: {ready['message']}" if ready.get("status") == "False" else ""
    decision = (status.get("lastScaleDecision") or {}).get("message", "")
    return "; ".join(part for part in (wrong, decision) if part) or "no decision yet"


def _refused(status: Json, old: Json, rejected: Rejected, now_s: float) -> Json:
    """A status that says why its object is not served as it is written, since when ``old`` has said so."""
    conditions = [c for c in old.get("conditions") or () if c.get("type") == "Ready"]
    conditions += [c for c in status.get("conditions") or () if c.get("type") != "Ready"]
    generation = int(rejected.obj["metadata"].get("generation") or 0)
    return rejected_status({**status, "conditions": conditions}, rejected.why, generation, now_s)


def _refusal_note(rejected: Rejected) -> dict[str, str]:
    """What stands on an annotated object that is not served as it is written."""
    return {Annotation.STATUS: json.dumps({"ready": "False", "reason": "InvalidSpec", "message": rejected.why})}


def _turn(condition: Json) -> EventReason | None:
    """What is told when a condition comes to stand like this; None where it is told otherwise, or no news."""
    kind = str(condition.get("type"))
    if kind == "AbleToScale":
        able = condition.get("status") == "True"
        return None if able else UNABLE.get(str(condition.get("reason")))
    return TURNS.get((kind, str(condition.get("status"))))


UNABLE = {
    "FailedGetScale": EventReason.TARGET_MISSING,
    "PodsNotCreated": EventReason.RESCALE_FAILED,
    "PodsNotReady": EventReason.PODS_NOT_READY,
}
TURNS = {
    ("TargetConflict", "True"): EventReason.TARGET_CONFLICT,
    ("MetricsAvailable", "False"): EventReason.METRICS_UNAVAILABLE,
    ("MetricsAvailable", "True"): EventReason.METRICS_AVAILABLE,
    ("Fallback", "True"): EventReason.FALLBACK_ON,
    ("Fallback", "False"): EventReason.FALLBACK_OFF,
    ("Paused", "True"): EventReason.PAUSED,
    ("Paused", "False"): EventReason.UNPAUSED,
    ("ForecastCalibrated", "False"): EventReason.FORECAST_UNAVAILABLE,
}
WORTH_AT_FIRST = frozenset(
    {
        EventReason.TARGET_CONFLICT,
        EventReason.TARGET_MISSING,
        EventReason.RESCALE_FAILED,
        EventReason.PODS_NOT_READY,
        EventReason.METRICS_UNAVAILABLE,
        EventReason.FALLBACK_ON,
        EventReason.PAUSED,
    }
)
GOOD = frozenset(
    {
        EventReason.RESCALED,
        EventReason.FLOOR_SET,
        EventReason.FLOOR_RESTORED,
        EventReason.METRICS_AVAILABLE,
        EventReason.FALLBACK_OFF,
        EventReason.PAUSED,
        EventReason.UNPAUSED,
        EventReason.AUTHORITY_RESTORED,
    }
)
