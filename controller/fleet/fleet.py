"""`Fleet`: which services there are: GPUAutoscalers, and autoscalers of others that opted in by annotation."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from controller.kube.cache import Cache
from controller.kube.client import Kube
from controller.kube.errors import UnknownKind
from controller.kube.resources import AUTOSCALERS, HPAS, SCALED_OBJECTS, Resource
from controller.kube.selectors import Selector
from controller.observing.ownership import (
    Claim,
    TargetId,
    claims_of,
    is_kedas,
    rival_of,
    spec_of,
    target_id,
)
from controller.outputs.base import Neighbours
from controller.prometheus.feed import Feed
from controller.resource.annotations import read_pause
from controller.resource.group import HPA_KIND, KIND, SCALED_OBJECT_KIND, Annotation
from controller.resource.parsing import SpecError, parse_annotated, parse_autoscaler
from controller.resource.saving import unpacked
from controller.resource.settings import ServiceKey, ServiceSettings
from controller.resource.status import without_figures
from controller.service import Service
from forecasting.errors import HarmonyError
from harmony.loop.ports import RecordSink
from harmony.model.authority import Pause

__all__ = ["WRITTEN", "Fleet", "Rejected"]

log = logging.getLogger(__name__)
Json = dict[str, Any]
Claims = Mapping[TargetId, tuple[Claim, ...]]
NOT_YET = "9999"  # creation time of an object that is only tried out: all that exist are older


@dataclass(frozen=True, slots=True)
class Rejected:
    """An object that cannot be served as it is written, and why."""

    obj: Json
    why: str


class Fleet:
    """The services of this controller, kept equal to the objects in the cluster.

    ``make_feed`` gives the reader of a service's indicators; ``given`` are GPUAutoscalers to serve as if they were in
    the cluster (to try one out). All autoscalers are watched, whatever their labels, because
    one writer per target is a promise across shards; only those that ``selector`` matches are served.
    """

    def __init__(
        self,
        kube: Kube,
        namespaces: Sequence[str] | None,
        selector: str,
        make_feed: Callable[[ServiceSettings], Feed],
        *,
        interval_s: float,
        journal: Callable[[str], RecordSink] | None = None,
        given: Sequence[Json] = (),
    ) -> None:
        self._kube = kube
        self._namespaces = namespaces
        self._selector = Selector.parse(selector)
        self._make_feed = make_feed
        self._interval_s = interval_s
        self._journal = journal
        self._given = tuple(given)
        self._caches: dict[Resource, Cache] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._seen: dict[ServiceKey, tuple[object, ...]] = {}
        self.services: dict[ServiceKey, Service] = {}
        self.rejected: dict[ServiceKey, Rejected] = {}
        self.objects: dict[ServiceKey, Json] = {}
        self.claims: Claims = {}
        self.opted_out: dict[ServiceKey, Json] = {}  # objects that still carry what was written on them while managed
        self._theirs: dict[ServiceKey, Json] = {}

    # ---- watches --------------------------------------------------------------------------------------------
    async def start(self) -> None:
        """Begin watching; returns when all that exists is known. Kinds that are not installed are looked for later."""
        await self.find_kinds()
        await asyncio.gather(*(cache.synced() for cache in self.caches))

    async def find_kinds(self) -> None:
        """Watch the kinds that are installed by now (custom ones may come later). Raises `KubeError`."""
        self._watch(HPAS)
        for resource in (AUTOSCALERS, SCALED_OBJECTS):
            if resource not in self._caches and await self._is_installed(resource):
                self._watch(resource)

    async def _is_installed(self, resource: Resource) -> bool:
        try:
            found = await self._kube.discover(resource.api_version, resource.kind)
        except UnknownKind:
            return False
        return found.plural == resource.plural

    def _watch(self, resource: Resource) -> None:
        if resource in self._caches:
            return
        transform = _trimmed if resource is AUTOSCALERS else None
        cache = self._caches[resource] = Cache(self._kube, resource, namespaces=self._namespaces, transform=transform)
        task = asyncio.create_task(cache.run())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def stop(self) -> None:
        """End all watches."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def caches(self) -> list[Cache]:
        """The watches that decisions rest on."""
        return list(self._caches.values())

    @property
    def has_crd(self) -> bool:
        """Whether GPUAutoscalers are installed."""
        return AUTOSCALERS in self._caches

    def autoscalers(self) -> Iterable[Json]:
        """All GPUAutoscalers, ours to serve or not."""
        return self._items(AUTOSCALERS)

    def hpas(self) -> Iterable[Json]:
        """All HorizontalPodAutoscalers."""
        return self._items(HPAS)

    def _items(self, resource: Resource) -> Iterable[Json]:
        cache = self._caches.get(resource)
        found: Iterable[Json] = () if cache is None else cache.items()
        if resource is not AUTOSCALERS or not self._given:
            return found
        named = {(g["metadata"]["namespace"], g["metadata"]["name"]) for g in self._given}
        others = [o for o in found if (o["metadata"].get("namespace"), o["metadata"]["name"]) not in named]
        return [*others, *self._given]

    # ---- keeping up -----------------------------------------------------------------------------------------
    def sync(self) -> list[ServiceKey]:
        """Take over what changed in the cluster; returns the services that are gone or stand for a new object.

        Nothing that stands in one object can keep the others from being served.
        """
        before = {key: service.settings.uid for key, service in self.services.items()}
        present = self._present()
        for key, obj in present.items():
            self._take(key, obj)
        for key in [k for k in (*self.services, *self.rejected, *self._seen) if k not in present]:
            self.services.pop(key, None)
            self.rejected.pop(key, None)
            self._seen.pop(key, None)
        self.objects = present
        self.claims = claims_of((SCALED_OBJECT_KIND, self._items(SCALED_OBJECTS)), (HPA_KIND, self._items(HPAS)))
        autoscalers = self._autoscaler_claims()
        for key, service in self.services.items():
            target = target_id(key.namespace, service.settings.target)
            rival = rival_of(key, target, self.claims, autoscalers)
            service.meet("" if rival is None else str(rival))
        return [key for key, uid in before.items() if self._uid_of(key) != uid]

    def _present(self) -> dict[ServiceKey, Json]:
        """The objects that are ours to serve; those that another selector's controller serves are put aside."""
        present: dict[ServiceKey, Json] = {}
        self._theirs, self.opted_out = {}, {}
        for kind, resource in ((KIND, AUTOSCALERS), (HPA_KIND, HPAS), (SCALED_OBJECT_KIND, SCALED_OBJECTS)):
            for obj in self._items(resource):
                meta = obj["metadata"]
                notes = meta.get("annotations") or {}
                if kind != KIND and Annotation.MANAGED not in notes and WRITTEN.isdisjoint(notes):
                    continue
                if meta.get("deletionTimestamp") or (kind == HPA_KIND and is_kedas(obj)):
                    continue
                ours = self._selector.matches(meta.get("labels") or {})
                if kind != KIND and notes.get(Annotation.MANAGED, "false") == "false":
                    if ours and not WRITTEN.isdisjoint(notes):
                        self.opted_out[ServiceKey(kind, meta.get("namespace", ""), meta["name"])] = obj
                    if Annotation.MANAGED not in notes:
                        continue
                found = present if ours else self._theirs
                found[ServiceKey(kind, meta.get("namespace", ""), meta["name"])] = obj
        return present

    def _autoscaler_claims(self) -> Claims:
        """GPUAutoscalers by what they scale: those that we serve, and all that others may serve.

        Whether another controller can make sense of an object is not known here: as written, it counts.
        """
        found: dict[TargetId, list[Claim]] = {}
        for key, service in self.services.items():
            if key.kind == KIND:
                claim = Claim(KIND, key.namespace, key.name, self.since(key))
                found.setdefault(target_id(key.namespace, service.settings.target), []).append(claim)
        foreign = (obj for key, obj in self._theirs.items() if key.kind == KIND)
        for target, claims in claims_of((KIND, foreign)).items():
            found.setdefault(target, []).extend(claims)
        return {target: tuple(claims) for target, claims in found.items()}

    def _uid_of(self, key: ServiceKey) -> str | None:
        service = self.services.get(key)
        return None if service is None else service.settings.uid

    def _take(self, key: ServiceKey, obj: Json) -> None:
        """Serve an object that is new or has changed, or say in `rejected` why it cannot be served.

        What ran before goes on with its last good settings, unless it was another object of the same name.
        """
        mark = _mark(obj)
        if self._seen.get(key) == mark:
            return
        known = self.services.get(key)
        if known is not None and known.settings.uid != (obj["metadata"].get("uid") or ""):
            del self.services[key]
        try:
            self._serve(key, obj)
        except SpecError as error:
            self._seen[key] = mark  # it says the same until it is changed
            self.rejected[key] = Rejected(obj, str(error))
        except HarmonyError as error:
            # What is missing may come without the object being changed (a file, say): tried again on every tick.
            self._seen.pop(key, None)
            self.rejected[key] = Rejected(obj, f"{key.namespace}/{key.name}: {error}")
        except Exception as error:  # one object's bug must not take the others along
            if key not in self.rejected:
                log.exception("cannot be served", extra={"service": str(key)})
            self._seen.pop(key, None)
            why = f"{key.namespace}/{key.name}: cannot be served: {type(error).__name__}: {error}"
            self.rejected[key] = Rejected(obj, why)
        else:
            self._seen[key] = mark
            self.rejected.pop(key, None)
        if key in self.rejected:
            self._stop_anyway(key, obj)

    def _stop_anyway(self, key: ServiceKey, obj: Json) -> None:
        """A pause works whatever else is wrong with its object, and one that cannot be read holds the count."""
        service = self.services.get(key)
        if service is None:
            return
        try:
            pause = read_pause(obj["metadata"].get("annotations") or {}, f"{key.namespace}/{key.name}")
        except SpecError:
            pause = Pause(paused=True)
        if spec_of(obj).get("paused") is True:
            pause = replace(pause, paused=True)
        if pause.is_active and pause != service.settings.pause:
            service.adopt(replace(service.settings, pause=pause), service.feed)

    def _serve(self, key: ServiceKey, obj: Json) -> None:
        """Make the service what the object says."""
        settings = parse_autoscaler(obj) if key.kind == KIND else parse_annotated(obj)
        known = self.services.get(key)
        if settings is None:
            self.services.pop(key, None)
        elif known is None:
            saved = saved_of(key, obj)
            feed = self._make_feed(settings)
            journal = None if self._journal is None else self._journal(str(key))
            self.services[key] = Service(settings, feed, interval_s=self._interval_s, saved=saved, journal=journal)
        elif known.settings != settings:
            known.adopt(settings, self._make_feed(settings))

    def owner_of(self, service: Service) -> Json | None:
        """The HPA or ScaledObject whose minimum a service in mode Floor keeps: itself, or who scales its target."""
        key = service.settings.key
        if key.kind != KIND:
            return self.objects.get(key)
        target = target_id(key.namespace, service.settings.target)
        for claim in self.claims.get(target, ()):
            resource = SCALED_OBJECTS if claim.kind == SCALED_OBJECT_KIND else HPAS
            cache = self._caches.get(resource)
            found = None if cache is None else cache.get(claim.namespace, claim.name)
            if found is not None:
                return found
        return None

    def since(self, key: ServiceKey) -> str:
        """When the object of a service was made (RFC 3339)."""
        return self.objects[key]["metadata"].get("creationTimestamp") or NOT_YET

    def neighbours(self) -> Neighbours:
        """What others have in the cluster, for outputs to mind."""
        hpas = (obj for obj in self._items(HPAS) if not is_kedas(obj))
        return Neighbours((*hpas, *self._items(SCALED_OBJECTS)), self._theirs)


def saved_of(key: ServiceKey, obj: Json) -> object:
    """What a controller before us had learned about an object; None when there is nothing (readable)."""
    if key.kind == KIND:
        status = obj.get("status") or {}
        if "memory" in status:
            return unpacked(status["memory"])
        saved = status.get("learned")  # as earlier versions wrote it
        return json.loads(saved) if isinstance(saved, str) else saved
    text = (obj["metadata"].get("annotations") or {}).get(Annotation.LEARNED)
    try:
        return json.loads(text) if text else None
    except ValueError:
        return None


def _trimmed(obj: Json) -> Json:
    """An autoscaler as it is kept: of its own status what is read again, what was learned as text (far smaller)."""
    status = obj.get("status")
    if isinstance(status, dict):
        obj["status"] = kept = without_figures(status)
        if "learned" in kept:
            kept["learned"] = json.dumps(kept["learned"], separators=(",", ":"))
    return obj


def _mark(obj: Json) -> tuple[object, ...]:
    """What must be equal for an object to mean the same: cheaper than parsing it again."""
    meta = obj["metadata"]
    notes = meta.get("annotations") or {}
    own = tuple(sorted((k, v) for k, v in notes.items() if k.startswith(Annotation.PAUSED) or k in _READ))
    if obj.get("kind") == KIND and "generation" in meta:
        return (meta.get("uid"), meta["generation"], own)
    return (meta.get("uid"), json.dumps(obj.get("spec"), sort_keys=True), own)


WRITTEN = frozenset({Annotation.STATUS, Annotation.RECOMMENDED_REPLICAS, Annotation.LEARNED})
"""What is written on an object that opted in; its own minimum is given back by whoever moved it."""
_READ = frozenset(
    {
        Annotation.MANAGED,
        Annotation.MODE,
        Annotation.DEMAND_QUERY,
        Annotation.PER_REPLICA,
        Annotation.PRESET,
        Annotation.PRESET_MATCHERS,
        Annotation.EPSILON,
        Annotation.LEAD_TIME,
        Annotation.GPUS_PER_REPLICA,
        Annotation.PRICE_PER_GPU_HOUR,
        Annotation.PROMETHEUS_URL,
        Annotation.ORIGINAL_MIN_REPLICAS,
    }
)
