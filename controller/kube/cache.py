"""`Cache`: what the API server holds of one kind, kept current by listing once and watching from there."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from controller.kube.client import JSON, Kube
from controller.kube.errors import Expired, KubeError, TooManyRequests, Unavailable
from controller.kube.index import Key, LabelIndex, labels_of
from controller.kube.resources import Resource
from controller.kube.selectors import Selector

__all__ = ["Cache"]

_log = logging.getLogger(__name__)
_FIRST_S, _LONGEST_S = 0.5, 30.0
_LASTED_S = 5.0
_RELIST_AFTER = 3


class _Part:
    """How following one namespace (None: the cluster) stands."""

    __slots__ = ("error", "failures", "heard_s", "namespace", "refused", "version")

    def __init__(self, namespace: str | None) -> None:
        self.namespace = namespace
        self.version = ""  # watch from here; empty: list first
        self.heard_s: float | None = None  # monotonic; None: never listed
        self.error: KubeError | None = None
        self.failures = 0  # rounds in a row that were over at once
        self.refused = 0  # watches in a row that failed from this version


class Cache:
    """All objects of one kind in some namespaces (None: in the cluster); `run` keeps them current.

    Every object has lost its managedFields and goes through `transform`, to keep what is needed of it (None: not kept;
    keep `metadata.labels` if it shall be selected by them). `on_change` is told of every change: namespace, name and
    object, None for one that is gone. In trouble the cache keeps what it has: ask `stale_s` how old that may be, and
    `last_error` why. Objects are the cache's own: do not change them.
    """

    def __init__(
        self,
        kube: Kube,
        resource: Resource,
        *,
        namespaces: Sequence[str] | None = None,
        selector: str = "",
        transform: Callable[[JSON], JSON | None] | None = None,
        on_change: Callable[[str, str, JSON | None], None] | None = None,
        monotonic: Callable[[], float] = time.monotonic,
        jitter: np.random.Generator | None = None,
    ) -> None:
        self.resource = resource
        self.rejected = 0
        self._kube = kube
        self._selector = selector
        self._transform = transform
        self._on_change = on_change
        self._monotonic = monotonic
        self._jitter = np.random.default_rng() if jitter is None else jitter
        whole = namespaces is None or not resource.namespaced
        self._parts = [_Part(None)] if whole else [_Part(namespace) for namespace in dict.fromkeys(namespaces or ())]
        self._objects: dict[Key, JSON] = {}
        self._index = LabelIndex()
        self._news = asyncio.Condition()

    # ---- reading

    def __len__(self) -> int:
        return len(self._objects)

    def get(self, namespace: str | None, name: str) -> JSON | None:
        """The object, or None if there is none."""
        return self._objects.get((namespace or "", name))

    def items(self) -> list[JSON]:
        """All objects."""
        return list(self._objects.values())

    def select(self, namespace: str | None, selector: str | Mapping[str, Any]) -> list[JSON]:
        """Objects of one namespace that a label selector (text or LabelSelector) means, by name.

        An empty selector means all of them. Raises UsageError if the selector cannot be read.
        """
        parsed = Selector.parse(selector)
        place = namespace or ""
        found = [self._objects[place, name] for name in sorted(self._index.candidates(place, parsed))]
        return [obj for obj in found if parsed.matches(labels_of(obj))]

    # ---- how current it is

    @property
    def is_synced(self) -> bool:
        """Whether everything was listed at least once."""
        return all(part.heard_s is not None for part in self._parts)

    @property
    def last_error(self) -> KubeError | None:
        """Why the cache cannot be kept current; None if it can."""
        return next((part.error for part in self._parts if part.error is not None), None)

    def stale_s(self, now_monotonic: float) -> float:
        """Seconds since the API server was last heard of, at most; a quiet watch is heard of about every minute.

        Infinite until everything was listed.
        """
        if not self.is_synced:
            return float("inf")
        return max((now_monotonic - part.heard_s for part in self._parts if part.heard_s is not None), default=0.0)

    async def synced(self) -> None:
        """Wait until everything was listed once; raises the KubeError of a list that failed instead."""
        async with self._news:
            await self._news.wait_for(lambda: self.is_synced or self.last_error is not None)
        if not self.is_synced and self.last_error is not None:
            raise self.last_error

    # ---- keeping current

    async def run(self) -> None:
        """List and watch until cancelled."""
        async with asyncio.TaskGroup() as group:
            for part in self._parts:
                group.create_task(self._follow(part))

    async def _follow(self, part: _Part) -> None:
        """List and watch one namespace for ever."""
        while True:
            began, asked_s = self._monotonic(), 0.0
            try:
                if not part.version:
                    await self._list(part)
                await self._watch(part)
            except Expired:
                part.version = ""
            except KubeError as error:
                asked_s = min(_LONGEST_S, _retry_after_s(error))
                await self._trouble(part, error)
            part.failures = 0 if self._monotonic() - began > _LASTED_S else part.failures + 1
            bound_s = min(_LONGEST_S, _FIRST_S * 2 ** min(part.failures, 10))
            await asyncio.sleep(asked_s + float(self._jitter.uniform(0.0, bound_s)))

    async def _trouble(self, part: _Part, error: KubeError) -> None:
        """Note why following failed; after some failures, list again.

        A version that the API server cannot watch from without saying 410 (it is from the time before a restored
        backup) would otherwise be asked for without end.
        """
        if part.error is None:
            _log.warning("%s are not current: %s", self.resource.plural, error)
        part.refused += 1
        if part.refused >= _RELIST_AFTER:
            part.version, part.refused = "", 0
        part.error = error
        async with self._news:
            self._news.notify_all()

    async def _heard(self, part: _Part) -> None:
        """Note that all is well."""
        part.heard_s = self._monotonic()
        if part.error is not None:
            _log.info("%s are current again", self.resource.plural)
            part.error = None
        async with self._news:
            self._news.notify_all()

    async def _list(self, part: _Part) -> None:
        """Take what is there, and drop what is not there any more."""
        listing = await self._kube.list(
            self.resource, part.namespace, selector=self._selector, transform=self._trimmed_pair
        )
        present: set[Key] = set()
        for pair in listing.items:
            present.add(pair["key"])
            self._put(pair["key"], pair["object"])
        for key in [key for key in self._objects if key not in present and part.namespace in (None, key[0])]:
            self._put(key, None)
        part.version = listing.resource_version
        await self._heard(part)

    async def _watch(self, part: _Part) -> None:
        """Take changes in until the watch ends."""
        events = self._kube.watch(self.resource, part.namespace, resource_version=part.version, selector=self._selector)
        async with contextlib.aclosing(events):
            async for kind, obj in events:
                part.refused = 0
                if kind in ("ADDED", "MODIFIED"):
                    self._take(obj)
                elif kind == "DELETED" and (key := _key(obj)) is not None:
                    self._put(key, None)
                part.version = str((obj.get("metadata") or {}).get("resourceVersion") or part.version)
                await self._heard(part)

    def _take(self, obj: JSON) -> None:
        """Keep the new form of an object."""
        pair = self._trimmed_pair(obj)
        if pair is not None:
            self._put(pair["key"], pair["object"])

    def _trimmed_pair(self, obj: JSON) -> JSON | None:
        """Key and what is kept of an object; None for one that nobody could have made sense of."""
        key = _key(obj)
        if key is None:
            self.rejected += 1
            return None
        obj["metadata"].pop("managedFields", None)
        try:
            kept = obj if self._transform is None else self._transform(obj)
        except (TypeError, ValueError, LookupError, AttributeError) as error:
            # One odd object must not stop the news of all others; what was known of it stays.
            self.rejected += 1
            _log.warning("%s %s/%s cannot be read and stays as it was: %r", self.resource.kind, *key, error)
            kept = self._objects.get(key)
        return {"key": key, "object": kept}

    def _put(self, key: Key, obj: JSON | None) -> None:
        """Make an object what is known under its key (None: nothing), and tell."""
        old = self._objects.pop(key, None)
        if old is None and obj is None:
            return
        if old is not None:
            self._index.remove(key, labels_of(old))
        if obj is not None:
            self._objects[key] = obj
            self._index.add(key, labels_of(obj))
        if self._on_change is not None and old != obj:
            self._on_change(*key, obj)


def _retry_after_s(error: KubeError) -> float:
    """Seconds of patience that the API server asks for; a watch that it refuses is not repeated by the client."""
    return (error.retry_after_s if isinstance(error, TooManyRequests | Unavailable) else None) or 0.0


def _key(obj: JSON) -> Key | None:
    """Namespace and name of an object; None if it has no name."""
    metadata = obj.get("metadata")
    if not isinstance(metadata, dict) or not metadata.get("name"):
        return None
    return str(metadata.get("namespace") or ""), str(metadata["name"])
